"""Token stability: which share of codes changes when the sound hardly does."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
import soundfile

from eval.codecs.base import Codec, TokenCodec
from eval.metrics.base import MISSING, Column
from eval.protocol import SAMPLE_RATE, resample
from mimotok.io.clips.clip import Clip

SECONDS = 10  # of each clip at most: seven encodings of it are what the metric costs
GAIN_DB = -6.0  # softer, since louder would pass full scale
SNR_DB = 20.0
MP3_RATE = 64_000  # bit/s, constant
# libsndfile's level, from 0 to 1, at which LAME codes with that rate at the protocol's sample rate
MP3_LEVEL = 0.6


class Change(NamedTuple):
    """A change of the sound: its key, and what it is called in tables and in the report."""

    name: str
    title: str
    method: str


CHANGES = (
    Change("sample", "1 sample", "a shift by one sample"),
    Change("half_frame", "half a frame", "a shift by half a token frame"),
    Change("frame", "1 frame", "a shift by a whole token frame, compared one frame later"),
    Change("gain", f"{GAIN_DB:g} dB", f"a gain of {GAIN_DB:g} dB"),
    Change("noise", f"noise {SNR_DB:g} dB", f"white noise at {SNR_DB:g} dB SNR, seed 0"),
    Change("mp3", f"MP3 {MP3_RATE // 1000}k", f"MP3 at {MP3_RATE // 1000} kbit/s"),
)


class TokenStability:
    """Shares of codes that change under a shift, a gain, noise and MP3, over all codebooks and frames."""

    columns: tuple[Column, ...] = tuple(
        Column(
            f"changed_{change.name}",
            f"changed codes, {change.title}",
            f"share of codes, over all codebooks and frames, that change under {change.method}; first {SECONDS} s of a "
            "clip",
            higher_is_better=False,
        )
        for change in CHANGES
    )

    def __init__(self) -> None:
        """Prepare the metric."""
        self.identity: dict[str, Any] = {
            "kind": "stability",
            "version": 1,
            "seconds": SECONDS,
            # it brings the MP3 encoder
            "libsndfile": soundfile.__libsndfile_version__,
        }

    def measure_tokens(self, codec: Codec, original: np.ndarray, clip: Clip) -> dict[str, float]:  # noqa: ARG002
        """Measure one clip, as `TokenMetric.measure_tokens`. A clip of less than two token frames has no figures."""
        if not isinstance(codec, TokenCodec):
            raise ValueError(f"{codec.label}: has no tokens that can be read")
        frame = round(codec.frame_size)
        original = original[: SECONDS * SAMPLE_RATE]
        wav = resample(original, SAMPLE_RATE, codec.sample_rate)
        count = len(wav) - frame
        if count < frame:
            return {column.name: MISSING for column in self.columns}
        # the samples before and behind a shifted stretch are the recording's own: silence there would be another change
        base = wav[frame:]
        codes = codec.tokens(base)
        squeezed = resample(through_mp3(original), SAMPLE_RATE, codec.sample_rate)[frame : frame + count]
        changed = {
            "sample": codec.tokens(wav[frame - 1 : -1]),
            "half_frame": codec.tokens(wav[frame - frame // 2 :][:count]),
            "frame": codec.tokens(wav[:count])[:, 1:],
            "gain": codec.tokens(base * np.float32(10 ** (GAIN_DB / 20))),
            "noise": codec.tokens(with_noise(base, SNR_DB)),
            "mp3": codec.tokens(squeezed),
        }
        return {f"changed_{name}": share_changed(codes, other) for name, other in changed.items()}


def share_changed(codes: np.ndarray, others: np.ndarray) -> float:
    """Return the share of codes [n_q, F] that differ, over the frames that both have; NaN where there is none."""
    frames = min(codes.shape[1], others.shape[1])
    return float((codes[:, :frames] != others[:, :frames]).mean()) if frames else MISSING


def with_noise(wav: np.ndarray, snr_db: float) -> np.ndarray:
    """Add white noise to wav [T] at a ratio of its whole energy; the same noise every time."""
    noise = np.random.default_rng(0).standard_normal(len(wav)).astype(np.float32)
    return wav + noise * np.float32(np.sqrt(np.mean(wav**2)) / 10 ** (snr_db / 20))


def through_mp3(wav: np.ndarray) -> np.ndarray:
    """Code wav [T] at the protocol's rate as MP3 of a constant bitrate and decode it, without a delay."""
    return _decoded(mp3_bytes(wav))[: len(wav)]


def mp3_bytes(wav: np.ndarray) -> bytes:
    """Code wav [T] at the protocol's rate as MP3."""
    file = io.BytesIO()
    options: dict[str, Any] = {"bitrate_mode": "CONSTANT", "compression_level": MP3_LEVEL}
    soundfile.write(file, wav, SAMPLE_RATE, "MPEG_LAYER_III", format="MP3", **options)
    return file.getvalue()


def _decoded(data: bytes) -> np.ndarray:
    wav, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    return wav

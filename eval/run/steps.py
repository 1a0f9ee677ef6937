"""The steps of a run that workers do: each takes one recording, and leaves files and JSON."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval import protocol
from eval.codecs.base import Codec, CodecSpec, FrameCodec, Frames, TokenCodec
from eval.codecs.registry import make_codec
from eval.metrics.base import AnyMetric, MetricSpec
from eval.metrics.registry import make_metric
from eval.run.alignment import align, find_delay
from eval.run.store import load_wav, save_wav
from mimotok.corpus.recordings import load_recording
from mimotok.io.clips.clip import Clip

Figures = dict[str, Any]


class Original(NamedTuple):
    """A clip to be stored at `path`."""

    clip: Clip
    path: Path


class Coding(NamedTuple):
    """An original's file to be coded, and the file of the result."""

    spec: CodecSpec
    device: str
    original: Path
    result: Path


class Measuring(NamedTuple):
    """A result's file to be measured against its original's."""

    spec: MetricSpec
    device: str
    clip: Clip
    original: Path
    result: Path


class Perturbing(NamedTuple):
    """A codec whose tokens of an original are to be measured."""

    spec: MetricSpec
    codec: CodecSpec
    device: str
    clip: Clip
    original: Path


class Framing(NamedTuple):
    """A recording to be encoded into frames, without decoding."""

    spec: CodecSpec
    device: str
    clip: Clip


def prepare_original(item: Original) -> tuple[str, float]:
    """Store a clip as the protocol demands. Returns its hash and seconds. Raises ValueError for silence."""
    wav = _load_levelled(item.clip)
    return save_wav(item.path, wav), len(wav) / protocol.SAMPLE_RATE


def reconstruct(item: Coding) -> Figures:
    """Code one original and store the aligned result. Returns bits, time, delay and codes, as JSON."""
    codec = open_codec(item.spec, item.device)
    original = load_wav(item.original)
    result = codec.encode_decode(protocol.resample(original, protocol.SAMPLE_RATE, codec.sample_rate))
    wav = protocol.resample(np.asarray(result.wav, np.float32), codec.sample_rate, protocol.SAMPLE_RATE)
    if not len(wav) or not np.isfinite(wav).all():
        raise ValueError(f"the codec returned {len(wav)} samples, or some that are not finite")
    delay = find_delay(original, wav, round(protocol.MAX_DELAY * protocol.SAMPLE_RATE))
    sha256 = save_wav(item.result, align(original, wav, delay))
    return {
        "sha256": sha256,
        "delay": delay / protocol.SAMPLE_RATE,
        "length_error": (len(wav) - len(original)) / protocol.SAMPLE_RATE,
        "stream_bits": result.stream_bits,
        "file_bits": result.file_bits,
        "encode_seconds": result.encode_seconds,
        "decode_seconds": result.decode_seconds,
        "codes": None if result.codes is None else result.codes.tolist(),
    }


def measure(item: Measuring) -> Figures:
    """Measure one reconstruction with one metric. Returns its figures, None for NaN."""
    metric: Any = open_metric(item.spec, item.device)
    figures = metric.measure(load_wav(item.original), load_wav(item.result), item.clip)
    return null_for_nan({name: float(value) for name, value in figures.items()})


def measure_tokens(item: Perturbing) -> Figures:
    """Measure the tokens of one original with one metric. Returns its figures, None for NaN."""
    metric: Any = open_metric(item.spec, item.device)
    codec = open_codec(item.codec, item.device)
    return null_for_nan(metric.measure_tokens(codec, load_wav(item.original), item.clip))


def encode_frames(item: Framing) -> Frames:
    """Encode one recording at the protocol's level. Raises ValueError for silence."""
    codec: Any = open_codec(item.spec, item.device)
    frames: Frames = codec.frames(protocol.resample(_load_levelled(item.clip), protocol.SAMPLE_RATE, codec.sample_rate))
    return frames


def null_for_nan(figures: dict[str, float]) -> Figures:
    """Make figures fit for JSON: None for NaN."""
    return {name: None if np.isnan(value) else value for name, value in figures.items()}


# one at a time: tasks come codec by codec and metric by metric, and models are large
@lru_cache(maxsize=1)
def open_codec(spec: CodecSpec, device: str) -> Codec:
    """Make the codec of a spec and warm it up, or return it if it was the last one. Raises as `make_codec`."""
    codec = make_codec(spec, device)
    noise = 0.1 * np.random.default_rng(0).standard_normal(codec.sample_rate).astype(np.float32)
    # the first call also pays for what is set up once, which does not belong to the codec's speed
    codec.encode_decode(noise)
    return codec


@lru_cache(maxsize=1)
def open_metric(spec: MetricSpec, device: str) -> AnyMetric:
    """Make the metric of a spec, or return it if it was the last one. Raises as `make_metric`."""
    return make_metric(spec, device)


def has_frames(codec: Codec) -> bool:
    """Return whether a codec's frames can be read without decoding."""
    return isinstance(codec, FrameCodec)


def has_tokens(codec: Codec) -> bool:
    """Return whether a codec's tokens can be read without decoding."""
    # in this order: the second looks at frame_size, which a codec without codebooks cannot find out
    return bool(codec.codebook_sizes) and isinstance(codec, TokenCodec)


def _load_levelled(clip: Clip) -> np.ndarray:
    """Read a recording as float32 [T] at the protocol's rate and peak. Raises ValueError for silence."""
    wav = load_recording(clip, protocol.SAMPLE_RATE)
    peak = float(np.abs(wav).max())
    if peak < protocol.SILENCE:
        raise ValueError(f"silent, its peak is {peak:.1g} of full scale: there is nothing to measure")
    return wav * np.float32(protocol.PEAK / peak)

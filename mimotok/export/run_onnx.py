"""Runs a model that `mimotok export` wrote. Needs numpy and onnxruntime, and nothing else: a copy lies in the export.

from run_onnx import OnnxTokenizer

tokenizer = OnnxTokenizer("exported")
codes, _ = tokenizer.encode(wav)  # float32 [B, T] at tokenizer.sample_rate -> int64 [B, n_q, F]
wav, _ = tokenizer.decode(codes, length=wav.shape[1])
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

ENCODER_NAME = "encoder.onnx"
DECODER_NAME = "decoder.onnx"
FACTS_NAME = "mimotok.json"
MAX_PEAK = 16.0  # what `Tokenizer.encode` takes
MOST = 1 << 20  # of any number among the facts


class OnnxTokenizer:
    """wav to codes and back by onnxruntime on the CPU.

    threads: of onnxruntime, as many as it likes where None. Raises ValueError for bad input, in one line.
    """

    def __init__(self, folder: str | Path, *, threads: int | None = None) -> None:
        folder = Path(folder)
        facts = read_facts(folder)
        self.sample_rate: int = facts["sample_rate"]
        self.frame_size: int = facts["frame_size"]
        self.codebook_sizes: list[int] = facts["codebook_sizes"]
        self._n_fft: int = facts["n_fft"]
        self._hop_length: int = facts["hop_length"]
        self._most = {"encoder": facts["max_encoder_frames"], "decoder": facts["max_decoder_frames"]}
        self._encoder, self._decoder = (open_session(folder / name, threads) for name in (ENCODER_NAME, DECODER_NAME))

    @property
    def n_q(self) -> int:
        """Codebooks that `encode` gives, and the most that `decode` takes."""
        return len(self.codebook_sizes)

    def encode(self, wav: np.ndarray, lengths: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """wav: float [B, T] in [-1, 1], lengths: [B] samples. Returns codes int64 [B, n_q, F] and their lengths [B]."""
        wav = checked_wav(wav)
        self._require_short("encoder", wav.shape[1] // self.frame_size + 1)
        valid = _checked_lengths(lengths, wav.shape[0], wav.shape[1])
        codes, frames = self._encoder.run(None, {"wav": wav, "lengths": valid})
        return codes, frames

    def decode(
        self, codes: np.ndarray, lengths: np.ndarray | None = None, *, length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """codes: int [B, n, F], lengths: [B] frames, length: samples to keep. Returns wav float32 [B, T] and lengths.

        n: the first codebooks, up to all `n_q`. wav past an item's length is 0.
        """
        padded = checked_codes(codes, self.codebook_sizes)
        self._require_short("decoder", codes.shape[2])
        if length is not None and not 0 < length <= codes.shape[2] * self.frame_size:
            raise ValueError(
                f"length={length} samples: {codes.shape[2]} frames give 1 to {codes.shape[2] * self.frame_size}"
            )
        frames = _checked_lengths(lengths, codes.shape[0], codes.shape[2])
        magnitude, phase = self._decoder.run(None, {"codes": padded, "lengths": frames})
        samples = frames * self.frame_size
        wav = inverse_stft(magnitude, phase, samples // self._hop_length, self._n_fft, self._hop_length)[:, :length]
        samples = np.minimum(samples, wav.shape[1])
        return wav * (np.arange(wav.shape[1]) < samples[:, None]), samples

    def _require_short(self, graph: str, frames: int) -> None:
        most = self._most[graph]
        if most is not None and frames > most:
            raise ValueError(
                f"{frames * self.frame_size / self.sample_rate:.1f} s, but this {graph}'s attention is unlimited: "
                f"give less than {most * self.frame_size / self.sample_rate:g} s at once"
            )


def checked_wav(wav: np.ndarray) -> np.ndarray:
    """Return wav [B, T] as float32. Raises ValueError for another shape or type, NaN, infinity and high peaks."""
    if wav.ndim != 2 or 0 in wav.shape or not np.issubdtype(wav.dtype, np.floating):
        raise ValueError(f"wav is {wav.dtype} {list(wav.shape)}: give floating point [batch, samples]")
    if not np.isfinite(wav).all():
        raise ValueError("wav holds NaN or infinite samples: clean it first")
    if np.abs(wav).max() > MAX_PEAK:
        raise ValueError(f"wav has a peak of {np.abs(wav).max():g}: sound lies in [-1, 1]; divide integers first")
    return wav.astype(np.float32)


def checked_codes(codes: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Return codes [B, n, F] of the first n codebooks of these sizes as int64 [B, all codebooks, F].

    Those of codebooks that are not in use are -1, which the graphs leave out. Raises ValueError for bad codes.
    """
    if codes.ndim != 3 or codes.shape[1] > len(sizes) or 0 in codes.shape or codes.dtype.kind not in "iu":
        raise ValueError(
            f"codes are {codes.dtype} {list(codes.shape)}: give integers [batch, 1 to {len(sizes)} codebooks, frames]"
        )
    limits = np.array(sizes[: codes.shape[1]])[:, None]
    if (codes < 0).any() or (codes >= limits).any():
        item, book, frame = np.argwhere((codes < 0) | (codes >= limits))[0]
        raise ValueError(
            f"codes[{item}, {book}, {frame}]={codes[item, book, frame]}, but codebook {book} has {sizes[book]} entries"
        )
    absent = ((0, 0), (0, len(sizes) - codes.shape[1]), (0, 0))
    return np.pad(codes.astype(np.int64), absent, constant_values=-1)


def read_facts(folder: Path) -> dict[str, Any]:
    """Read what an export says of its model. Raises ValueError where it is none."""
    path = folder / FACTS_NAME
    if path.exists() and not path.is_file():
        # a pipe would be waited for
        raise ValueError(f"{folder}: not an export of mimotok ({FACTS_NAME} is not a regular file)")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        counts = {name: facts[name] for name in ("sample_rate", "frame_size", "n_fft", "hop_length")}
        limits = {name: facts[name] for name in ("max_encoder_frames", "max_decoder_frames")}
        look_ahead = {name: facts.get(name) for name in ("encoder_look_ahead", "decoder_look_ahead")}
        sizes = list(facts["codebook_sizes"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: not an export of mimotok ({FACTS_NAME}: {error})") from None
    given = {name: value for name, value in {**limits, **look_ahead}.items() if value is not None}
    least = dict.fromkeys(look_ahead, 0)
    for name, value in {**counts, **given, **{f"codebook_sizes[{i}]": size for i, size in enumerate(sizes)}}.items():
        if not isinstance(value, int) or isinstance(value, bool) or not least.get(name, 1) <= value <= MOST:
            raise ValueError(f"{path}: {name} is no whole number from {least.get(name, 1)} to {MOST}")
    if not sizes or counts["hop_length"] > counts["n_fft"]:
        raise ValueError(f"{path}: no codebooks, or a hop_length above n_fft")
    return facts


def open_session(path: Path, threads: int | None) -> Any:
    """Load a graph. threads: of onnxruntime, as many as it likes where None. Raises ValueError where it is none."""
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("running ONNX graphs needs: pip install onnxruntime") from None
    if not path.is_file():
        raise ValueError(f"{path}: no such file, which an export of mimotok has")
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a type of onnxruntime's for every way in which a graph can be none
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a graph that onnxruntime runs ({reason:.200})") from None


def inverse_stft(
    magnitude: np.ndarray, phase: np.ndarray, lengths: np.ndarray, n_fft: int, hop_length: int
) -> np.ndarray:
    """magnitude, phase: [B, T, n_fft // 2 + 1], lengths: [B] valid frames. Returns wav float32 [B, T * hop_length].

    Overlap-add of Hann-windowed frames, cropped by (n_fft - hop) / 2 at the front and divided by the summed squared
    window; frames past an item's length take no part.
    """
    batch, size, _ = magnitude.shape
    # float32 throughout: in numpy's own double precision an hour of sound would need twice the memory
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)
    valid = (np.arange(size) < lengths[:, None])[..., None]
    frames = np.fft.irfft(magnitude * np.exp(np.complex64(1j) * phase), n_fft).astype(np.float32) * window * valid
    weights = window**2 * valid
    parts = -(-n_fft // hop_length)
    sound, envelope = np.zeros((2, batch, (size + parts) * hop_length), np.float32)
    for part in range(parts):
        block = slice(part * hop_length, min((part + 1) * hop_length, n_fft))
        for total, summand in ((sound, frames), (envelope, weights)):
            shifted = total[:, part * hop_length :][:, : size * hop_length].reshape(batch, size, hop_length)
            shifted[..., : block.stop - block.start] += summand[..., block]
    crop = slice((n_fft - hop_length) // 2, (n_fft - hop_length) // 2 + size * hop_length)
    return sound[:, crop] / np.maximum(envelope[:, crop], 1e-11)


def _checked_lengths(lengths: np.ndarray | None, batch: int, size: int) -> np.ndarray:
    if lengths is None:
        return np.full(batch, size, dtype=np.int64)
    if lengths.dtype.kind not in "iu" or lengths.shape != (batch,) or lengths.min() < 1 or lengths.max() > size:
        raise ValueError(f"lengths={lengths.tolist()}: give a whole number for each of {batch} clips, in 1 to {size}")
    return lengths.astype(np.int64)

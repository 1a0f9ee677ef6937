"""The steps of a run that workers do: each takes one recording, and leaves files and JSON."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval import protocol
from eval.alignment import align, find_delay
from eval.codecs import Codec, CodecSpec, make_codec
from eval.metrics import Metric, MetricSpec, make_metric
from eval.store import load_wav, save_wav
from eval.testlists import Clip
from mimotok.io.audio import load_audio

Figures = dict[str, Any]


class Original(NamedTuple):
    """A clip to be stored at `path`."""

    clip: Clip
    path: Path


class Coding(NamedTuple):
    """An original's file to be coded, and where the result goes."""

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


def prepare_original(item: Original) -> tuple[str, float]:
    """Stores a clip as the protocol has it; returns its hash and seconds. Raises ValueError for silence."""
    wav = load_audio(item.clip.audio, protocol.SAMPLE_RATE)[0].numpy()
    peak = float(np.abs(wav).max())
    if peak < protocol.SILENCE:
        raise ValueError("silent: nothing to measure")
    return save_wav(item.path, wav * (protocol.PEAK / peak)), len(wav) / protocol.SAMPLE_RATE


def reconstruct(item: Coding) -> Figures:
    """Codes one original and stores the aligned result; returns what it took, as JSON."""
    codec = open_codec(item.spec, item.device)
    original = load_wav(item.original)
    result = codec.encode_decode(protocol.resample(original, protocol.SAMPLE_RATE, codec.sample_rate))
    wav = protocol.resample(np.asarray(result.wav, np.float32), codec.sample_rate, protocol.SAMPLE_RATE)
    if not len(wav) or not np.isfinite(wav).all():
        raise ValueError(f"{len(wav)} samples came back, or some that are not finite")
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
    """One metric's figures of one reconstruction, None for NaN."""
    metric = open_metric(item.spec, item.device)
    figures = metric.measure(load_wav(item.original), load_wav(item.result), item.clip)
    return {name: None if np.isnan(value) else float(value) for name, value in figures.items()}


# one at a time: tasks come codec by codec and metric by metric, and models are large
@lru_cache(maxsize=1)
def open_codec(spec: CodecSpec, device: str) -> Codec:
    """The codec of a spec, warmed up; the last one is kept. Raises as `make_codec`."""
    codec = make_codec(spec, device)
    # the first call also pays for what is set up once, and would be counted as the codec's speed
    codec.encode_decode(0.1 * np.random.default_rng(0).standard_normal(codec.sample_rate).astype(np.float32))
    return codec


@lru_cache(maxsize=1)
def open_metric(spec: MetricSpec, device: str) -> Metric:
    """The metric of a spec; the last one is kept. Raises as `make_metric`."""
    return make_metric(spec, device)

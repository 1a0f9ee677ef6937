"""What tokens mean: how well a small model of fixed size and budget learns to read text from a codec's frozen codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from eval import protocol
from eval.cache import Cache
from eval.codecs import CodecSpec, TokenCodec
from eval.probe_model import Budget, ProbeResult, Progress, Tokens, train_probe
from eval.report import table
from eval.steps import open_codec
from eval.summary import finite
from eval.tasks import Failed, run_tasks
from eval.testlists import Clip
from mimotok.io.audio import load_audio
from mimotok.text import normalize_text


def run_probe(
    spec: CodecSpec,
    train: Sequence[Clip],
    test: Sequence[Clip],
    *,
    budget: Budget,
    out: Path,
    workers: int = 1,
    device: str = "cpu",
    tell: Callable[[str], None],
    progress: Progress,
) -> ProbeResult:
    """Trains a probe on the codec's codes of `train` and measures it on `test`, of which only human texts count.

    out: folder where codes are cached. tell: takes each problem as one line. Raises ValueError for a codec without
    codes, and where no recording is left on either side.
    """
    codec = open_codec(spec, device)
    if not codec.codebook_sizes:
        raise ValueError(f"{spec.label}: has no codes to read from")
    out.mkdir(parents=True, exist_ok=True)
    cache = Cache(out / "cache.jsonl")
    sides = []
    for name, clips in (("train", train), ("test", [clip for clip in test if not clip.machine_text])):
        tokens = _tokens(codec.identity, spec, clips, cache, workers, device, tell, progress)
        if not tokens:
            raise ValueError(f"{spec.label}: no recording with text for the {name} side")
        sides.append(tokens)
    return train_probe(codec, sides[0], sides[1], budget=budget, device=device, progress=progress)


class _Tokenizing(NamedTuple):
    spec: CodecSpec
    device: str
    audio: Path


def _tokens(
    identity: dict[str, Any],
    spec: CodecSpec,
    clips: Sequence[Clip],
    cache: Cache,
    workers: int,
    device: str,
    tell: Callable[[str], None],
    progress: Progress,
) -> list[Tokens]:
    said = [clip for clip in clips if clip.text and normalize_text(clip.text)]
    questions = {
        clip.audio: ["tokens", protocol.VERSION, identity, str(clip.audio), _stamp(clip.audio)] for clip in said
    }
    todo = [_Tokenizing(spec, device, clip.audio) for clip in said if cache.get(questions[clip.audio]) is None]
    with progress(f"{spec.label}: codes", len(todo)) as advance:
        for item, result in run_tasks(tokenize, todo, workers):
            if isinstance(result, Failed):
                tell(f"{item.audio}: {result.reason}")
            else:
                cache.put(questions[item.audio], result)
            advance()
    known = [(clip, cache.get(questions[clip.audio])) for clip in said]
    return [Tokens(torch.tensor(codes), normalize_text(clip.text or "")) for clip, codes in known if codes is not None]


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def tokenize(item: _Tokenizing) -> list[list[int]]:
    """The codes [n_q, F] of one recording, at the protocol's level."""
    codec = cast(TokenCodec, open_codec(item.spec, item.device))
    wav = load_audio(item.audio, codec.sample_rate)[0].numpy()
    peak = float(np.abs(wav).max())
    if peak < protocol.SILENCE:
        raise ValueError("silent: nothing to read")
    return codec.encode(wav * (protocol.PEAK / peak)).tolist()


def probe_row(spec: CodecSpec, result: ProbeResult, budget: Budget) -> dict[str, Any]:
    """A result as JSON."""
    summaries = {name: finite(getattr(result, name)) for name in ("cer", "wer")}
    return {"codec": spec.label, **result._asdict(), **summaries, "budget": budget.__dict__}


def probe_table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of what `probe_row` gave."""

    def rate(summary: dict[str, Any]) -> str:
        mean, low, high = ("–" if summary[name] is None else f"{summary[name]:.3f}" for name in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    header = ["codec", "CER ↓", "WER ↓", "held-out clips", "training minutes", "steps", "seed"]
    cells = [
        [
            row["codec"],
            rate(row["cer"]),
            rate(row["wer"]),
            str(row["clips"]),
            f"{row['train_seconds'] / 60:.1f}",
            str(row["budget"]["steps"]),
            str(row["budget"]["seed"]),
        ]
        for row in rows
    ]
    return table(header, cells)

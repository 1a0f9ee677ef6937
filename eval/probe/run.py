"""What tokens mean: how well a small model of fixed size and budget learns to read text from a codec's frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from eval.codecs.base import CodecSpec
from eval.probe.model import Budget, ProbeResult, Reading, train_probe
from eval.report.tables import Table, markdown, with_interval
from eval.run.feedback import Notify, Progress
from eval.run.frames import encode_clips
from eval.run.steps import has_frames, null_for_nan, open_codec
from mimotok.io.clips.clip import Clip
from mimotok.text import normalize_text


def run_probe(
    spec: CodecSpec,
    train: Sequence[Clip],
    test: Sequence[Clip],
    *,
    budget: Budget,
    workers: int = 1,
    device: str = "cpu",
    notify: Notify,
    progress: Progress,
) -> ProbeResult:
    """Train a reader on a codec's quantized vectors of `train` and measure it on `test`.

    Args:
        spec: the codec.
        train: recordings to learn from; those without text are left out.
        test: recordings to read; those without text are left out.
        budget: size, training and seed of the reader.
        workers: processes that encode.
        device: where models run.
        notify: receives one line for each recording that cannot be encoded.
        progress: shows progress.

    Returns:
        Error rates.

    Raises:
        ValueError: the codec has no frames that can be read, or no recording is left on one side.
    """
    if not has_frames(open_codec(spec, device)):
        raise ValueError(f"{spec.label}: has no tokens that can be read")
    sides = {}
    frame_rate = 0.0
    for side, clips in (("train", train), ("test", test)):
        texts = {clip.id: normalize_text(clip.text or "") for clip in clips}
        spoken = [clip for clip in clips if texts[clip.id]]
        frames = encode_clips(spec, spoken, workers=workers, device=device, notify=notify, progress=progress)
        if not frames:
            raise ValueError(f"{spec.label}: no recording with text for the {side} side")
        frame_rate = next(iter(frames.values())).rate
        # in the list's order: that of the workers changes from run to run
        sides[side] = [
            Reading(torch.from_numpy(frames[clip.id].vectors), texts[clip.id]) for clip in spoken if clip.id in frames
        ]
    return train_probe(sides["train"], sides["test"], frame_rate, budget=budget, device=device, progress=progress)


def probe_row(spec: CodecSpec, result: ProbeResult, budget: Budget) -> dict[str, Any]:
    """Turn a result into JSON."""
    summaries = {name: null_for_nan(getattr(result, name)._asdict()) for name in ("cer", "wer")}
    return {"codec": spec.label, **result._asdict(), **summaries, "budget": budget.__dict__}


def probe_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write the rows of `probe_row` as a Markdown table."""
    header = ["codec", "CER ↓", "WER ↓", "held-out clips", "training minutes", "steps", "seed"]
    cells = [
        [
            row["codec"],
            with_interval(row["cer"], 3),
            with_interval(row["wer"], 3),
            str(row["clips"]),
            f"{row['train_seconds'] / 60:.1f}",
            str(row["budget"]["steps"]),
            str(row["budget"]["seed"]),
        ]
        for row in rows
    ]
    return markdown(Table(header, cells))

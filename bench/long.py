"""How much memory and time do hours of audio in one file take?

python -m bench.long --hours 10 --clips data/test

The file is made of a folder's clips, over and over, in a temporary folder: 173 MB an hour, and as much again for the
decoded one. One thread unless --threads says otherwise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import torch
from jsonargparse import CLI

from bench.clocks import clocked
from bench.memory import peak_rss
from bench.tables import Table
from mimotok.io.audio import AUDIO_SUFFIXES, AudioWriter, load_audio
from mimotok.tokenizer import Tokenizer
from mimotok.transcode import decode_file, encode_file


def make_recording(path: Path, clips: Path, sample_rate: int, seconds: float) -> None:
    """Write `clips`, a folder's sound files, one after another, `seconds` in all."""
    found = sorted(clip for clip in clips.rglob("*") if clip.suffix.lower() in AUDIO_SUFFIXES)
    if not found:
        raise ValueError(f"{clips}: no sound files in this folder")
    left = int(seconds * sample_rate)
    with AudioWriter(path, sample_rate) as writer:
        for clip in cycle(found):
            wav = load_audio(clip, sample_rate)[:, :left]
            writer.write(wav)
            left -= wav.shape[1]
            if left == 0:
                return


def timed(name: str, seconds: float, work: Callable[[], object]) -> tuple[str, str, str, str]:
    """Run `work`. Returns a row of its speed and of the peak of memory so far."""
    spent, _ = clocked(work)
    return name, f"{seconds / spent.wall:.1f}", f"{seconds / spent.cpu:.1f}", f"{peak_rss() / 1e9:.2f}"


def main(clips: Path, hours: float = 10.0, model: str | None = None, threads: int = 1) -> None:
    """Make the file, encode it, and decode it.

    Args:
        clips: folder of sound files.
        hours: length of the recording.
        model: folder or hub id; the embedded checkpoint if left out.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    tokenizer = Tokenizer.from_pretrained(model)
    title = f"{hours:g} h, {threads} thread(s), torch {torch.__version__}; {peak_rss() / 1e9:.2f} GB before the work"
    table = Table(title, ["work", "x real time by the clock", "by CPU time", "peak resident in GB"])
    seconds = hours * 3600
    with tempfile.TemporaryDirectory() as name:
        wav, codes, decoded = (Path(name) / file for file in ("in.wav", "codes.npz", "out.wav"))
        make_recording(wav, clips, tokenizer.sample_rate, seconds)
        table.add(*timed("encode", seconds, lambda: encode_file(tokenizer, wav, codes)))
        wav.unlink()
        table.add(*timed("decode", seconds, lambda: decode_file(tokenizer, codes, decoded)))
    print(table)


if __name__ == "__main__":
    CLI(main, as_positional=False)

"""Does a device give the CPU's codes and sound?

python -m bench.parity data/dev --device cuda

Clips are encoded on the CPU in float32 and on the device in each precision. The CPU's codes are decoded on both. It
prints the share of codes that differ, by codebook, and the largest difference of the sound beside its largest sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import CLI

from bench.tables import Table, book_columns
from mimotok.io.audio import AUDIO_SUFFIXES, load_audio
from mimotok.tokenizer import Tokenizer, checked_device

DTYPES = (torch.float32, torch.bfloat16)


def differences(exact: Tokenizer, other: Tokenizer, clips: Sequence[Path]) -> tuple[list[float], float]:
    """Compare a model with another one that has the same weights.

    Returns:
        The share of codes that differ, by codebook, and the largest difference of the sound beside its largest sample.
    """
    device = next(other.parameters()).device
    differing = []
    sound = []
    for clip in clips:
        wav = load_audio(clip, exact.sample_rate)
        codes = exact.encode(wav)
        differing.append((other.encode(wav.to(device)).cpu() != codes).flatten(0, 1).float())
        decoded = exact.decode(codes)
        sound.append(
            ((other.decode(codes.to(device)).cpu().float() - decoded).abs().max() / decoded.abs().max()).item()
        )
    return torch.cat(differing, 1).mean(1).tolist(), max(sound)


@torch.no_grad()
def main(folder: Path, clips: int = 20, model: str | None = None, device: str = "cuda") -> None:
    """Prints what the device changes.

    Args:
        folder: of clips, of which every so many-th is taken.
        clips: how many.
        model: folder or hub id; the embedded checkpoint if left out.
        device: as torch names it.
    """
    place = checked_device(device)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not found:
        raise ValueError(f"{folder}: no audio files; name a folder of clips")
    exact = Tokenizer.from_pretrained(model)
    title = f"Codes and sound that differ from the CPU's in float32, on {device}"
    table = Table(title, ["dtype", *book_columns(exact.config.checked_n_q(None)), "sound"])
    for dtype in DTYPES:
        other = Tokenizer.from_pretrained(model, device=place, dtype=dtype)
        books, sound = differences(exact, other, found[:: max(1, len(found) // clips)][:clips])
        table.add(str(dtype).removeprefix("torch."), *(f"{share:.2%}" for share in books), f"{sound:.1e}")
    print(table)


if __name__ == "__main__":
    CLI(main, as_positional=True)

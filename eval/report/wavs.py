"""Recordings for the programs of others: originals and reconstructions as wav files of equal names."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import soundfile

from eval.protocol import SAMPLE_RATE
from eval.run.runner import Run
from eval.run.store import ORIGINAL, audio_path, load_wav, slug
from mimotok.io.files import atomic_path, is_temporary, make_folder


class ExportedWavs(NamedTuple):
    """The folder of originals, that of each codec, the number of recordings in each, and of those left out."""

    originals: Path
    codecs: dict[str, Path]
    recordings: int
    left_out: int


def check_export_folder(folder: Path) -> None:
    """Check before hours of work that a folder can be written into. Raises ValueError where it is a file."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; give --export-wavs a folder")


def export_message(exported: ExportedWavs) -> str:
    """Say in a line what was written."""
    folders = ", ".join(str(path) for path in (exported.originals, *exported.codecs.values()))
    missing = f"; {exported.left_out} that some codec failed on are left out" if exported.left_out else ""
    return f"{exported.recordings} recordings of equal names in {folders}{missing}"


def export_wavs(run: Run, folder: Path) -> ExportedWavs:
    """Write the recordings of a run as 16-bit wav: `original/NAME.wav`, and `CODEC/NAME.wav` for each codec.

    They hold the same samples as the report's FLAC files. All folders have the same names, as scorers demand that pair
    files by name: a recording that some codec failed on is in none of them.

    Args:
        run: what was measured.
        folder: where the folders go. Files of the same names are replaced.

    Returns:
        What was written.

    Raises:
        ValueError: no recording went through all codecs, or a folder holds other recordings already.
    """
    shared = [clip for clip in run.clips if all(clip in codec.coding for codec in run.codecs)]
    if not shared:
        raise ValueError("no recording went through all codecs, so there is nothing to export; name fewer codecs")
    names = {clip: f"{slug(clip)}.wav" for clip in shared}
    folders = {label: folder / slug(label) for label in (ORIGINAL, *(codec.spec.label for codec in run.codecs))}
    for path in folders.values():
        held = {file.name for file in path.iterdir() if not is_temporary(file)} if path.is_dir() else set()
        strange = sorted(held - set(names.values()))
        if strange:
            raise ValueError(f"{path}: holds other files already, such as {strange[0]}; give another --export-wavs")
    for label, path in folders.items():
        make_folder(path)
        for clip, name in names.items():
            wav = load_wav(audio_path(run.settings.out, label, clip))
            with atomic_path(path / name) as temporary:
                soundfile.write(temporary, wav, SAMPLE_RATE, "PCM_16", format="WAV")
    originals = folders.pop(ORIGINAL)
    return ExportedWavs(originals, folders, len(shared), len(run.clips) - len(shared))

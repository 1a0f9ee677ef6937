"""Encode sound files into codes files and decode them, in bounded memory, one or whole folders of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mimotok.io.codes.suffixes import CODES_SUFFIXES, MIMO_SUFFIX
from mimotok.io.files import StrPath, require_writable, writing
from mimotok.io.folders import search

if TYPE_CHECKING:
    from torch import Tensor

    from mimotok.io.codes_file import CodesFile
    from mimotok.tokenizer import Tokenizer

# called at times with the seconds of sound done so far and the seconds in all, None where unknown
Progress = Callable[[float, float | None], None]


class Job(NamedTuple):
    """A file to write, and the file that it is written from."""

    source: Path
    target: Path


def encode_file(
    tokenizer: Tokenizer,
    source: StrPath,
    target: StrPath,
    *,
    n_q: int | None = None,
    overwrite: bool = False,
    create_folders: bool = False,
    entropy: bool = False,
    progress: Progress | None = None,
) -> CodesFile:
    """Encode a sound file into a codes file.

    Memory does not grow with the sound, only with its codes. Nothing is written where an error is raised.

    Args:
        tokenizer: the model.
        source: sound file.
        target: codes file to write; .npz or .mimo.
        n_q: codebooks to use; the model's default where None.
        overwrite: whether an existing file may be replaced.
        create_folders: whether to create the target's folder.
        entropy: whether the model of codes beside the weights makes a .mimo file smaller still.
        progress: called with the seconds done and the seconds in all, None where unknown.

    Returns:
        The contents of the codes file: codes uint16 [n_q, F].

    Raises:
        ValueError: for bad input, and for output that cannot be written.

    Example:
        >>> tokenizer = Tokenizer.from_pretrained()
        >>> encode_file(tokenizer, "speech.wav", "speech.npz")  # doctest: +SKIP
    """
    import numpy as np

    from mimotok.code_models import code_model_of
    from mimotok.io.audio import declared_seconds, read_blocks
    from mimotok.io.codes_file import CodesFile, save_codes
    from mimotok.streaming.blocks import encode_blocks

    suffixes = (MIMO_SUFFIX,) if entropy else CODES_SUFFIXES
    require_target(target, suffixes, overwrite=overwrite, create_folders=create_folders)
    code_model = code_model_of(tokenizer) if entropy else None
    rate = tokenizer.sample_rate
    total = None if progress is None else declared_seconds(source)
    wav = _Counted(read_blocks(source, rate), rate, total, progress)
    parts = [part[0].cpu().numpy().astype(np.uint16) for part in encode_blocks(tokenizer, wav, n_q=n_q)]
    codes = np.concatenate(parts, axis=1)
    identity = tokenizer.identity
    codes_file = CodesFile(
        codes=codes,
        num_samples=wav.num_samples,
        sample_rate=tokenizer.sample_rate,
        frame_rate=tokenizer.frame_rate,
        codebook_sizes=tokenizer.codebook_sizes[: len(codes)],
        model_name=identity.name,
        model_sha256=identity.sha256,
    )
    _make_folder(target, create_folders)
    save_codes(target, codes_file, overwrite=overwrite, code_model=code_model)
    return codes_file


def decode_file(
    tokenizer: Tokenizer,
    source: StrPath,
    target: StrPath,
    *,
    force: bool = False,
    overwrite: bool = False,
    create_folders: bool = False,
    progress: Progress | None = None,
) -> CodesFile:
    """Decode a codes file into a sound file.

    The sound has exactly the recording's number of samples, at the model's rate. Nothing is written where an error is
    raised.

    Args:
        tokenizer: the model.
        source: codes file, .npz or .mimo.
        target: sound file to write; its suffix chooses the format.
        force: whether to decode codes of other weights, where they fit.
        overwrite: whether an existing file may be replaced.
        create_folders: whether to create the target's folder.
        progress: called with the seconds done and the seconds in all.

    Returns:
        The contents of the codes file. A .mimo file that was cut short is decoded up to its last whole frame, and
        its `missing_frames` counts the others.

    Raises:
        ValueError: as `encode_file`, and for codes of other weights.

    Example:
        >>> tokenizer = Tokenizer.from_pretrained()
        >>> decode_file(tokenizer, "speech.npz", "speech.wav")  # doctest: +SKIP
    """
    import torch

    from mimotok.code_models import get_model_of
    from mimotok.io.audio import WRITABLE, AudioWriter
    from mimotok.io.codes_file import load_codes
    from mimotok.streaming.blocks import decode_blocks

    require_target(target, WRITABLE, overwrite=overwrite, create_folders=create_folders)
    codes_file = load_codes(source, get_model_of(tokenizer))
    try:
        require_fitting(tokenizer, codes_file, force=force)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    codes = torch.from_numpy(codes_file.codes.astype("int64"))[None]
    rate = tokenizer.sample_rate
    length = codes_file.num_samples
    wav = _Counted(decode_blocks(tokenizer, codes, length=length), rate, length / rate, progress)
    _make_folder(target, create_folders)
    with AudioWriter(target, rate, overwrite=overwrite) as writer:
        for block in wav:
            writer.write(block)
    return codes_file


def require_target(
    target: StrPath, suffixes: Collection[str], *, overwrite: bool = False, create_folders: bool = False
) -> None:
    """Check an output's name and place before the work for it. Raises ValueError where it cannot be written."""
    suffix = Path(target).suffix
    if suffix.lower() not in suffixes:
        raise ValueError(f"{target}: output ends in {suffix!r}, expected {' or '.join(suffixes)}")
    require_writable(target, overwrite=overwrite, create_folders=create_folders)


def require_fitting(tokenizer: Tokenizer, codes_file: CodesFile, *, force: bool = False) -> None:
    """Check that a model decodes these codes: they are of its weights, or, with `force`, its shapes admit them.

    Raises ValueError naming both models.
    """
    name = f"model {tokenizer.name!r}"
    sizes = codes_file.codebook_sizes
    if sizes != tokenizer.codebook_sizes[: codes_file.n_q]:
        raise ValueError(f"codebook sizes {list(sizes)} do not fit {name}: {list(tokenizer.codebook_sizes)}")
    for field in ("sample_rate", "frame_rate"):
        theirs = getattr(codes_file, field)
        ours = getattr(tokenizer, field)
        if theirs != ours:
            raise ValueError(f"{field} {theirs:g} Hz does not fit {name} with {ours:g} Hz")
    if force:
        return
    identity = tokenizer.identity
    if not codes_file.is_of(identity.sha256):
        other = f"{codes_file.model_name!r} (sha256 {codes_file.model_sha256[:12]})"
        raise ValueError(
            f"made by model {other}, not by model {identity.name!r} (sha256 {identity.sha256[:12]}); "
            "give the former (--model), or decode all the same (--force)"
        )


class _Counted:
    """Blocks of wav [1, t], with a report of how much sound has passed. total: seconds in all, if known."""

    def __init__(
        self, blocks: Iterable[Tensor], sample_rate: int, total: float | None, progress: Progress | None
    ) -> None:
        self.blocks = blocks
        self.sample_rate = sample_rate
        self.total = total
        self.progress = progress
        self.num_samples = 0

    def __iter__(self) -> Iterator[Tensor]:
        for wav in self.blocks:
            self.num_samples += wav.shape[1]
            yield wav
            if self.progress is not None:
                self.progress(self.num_samples / self.sample_rate, self.total)


def _make_folder(target: StrPath, create_folders: bool) -> None:
    if create_folders:
        with writing(target):
            Path(target).parent.mkdir(parents=True, exist_ok=True)


def plan_jobs(
    sources: Iterable[Path],
    out_dir: Path,
    suffixes: Collection[str],
    new_suffix: str,
    *,
    notify: Callable[[str], None] = lambda _: None,
) -> list[Job]:
    """Choose the output in `out_dir` of each file, with `new_suffix` in place of its suffix.

    Folders are searched recursively for `suffixes`, and their layout is kept; a file is used whatever its suffix.
    notify: receives a line on each folder that holds something else. Raises ValueError where a folder holds no such
    file, and where two files would become one.
    """
    jobs: dict[Path, Path] = {}
    for source in sources:
        folder = source
        if source.is_dir():
            found = files_below(source, suffixes, notify=notify)
        else:
            folder = source.parent
            found = [Path(source.name)]
        for relative in found:
            target = out_dir / relative.with_suffix(new_suffix)
            path = folder / relative
            if target in jobs:
                raise ValueError(f"{jobs[target]} and {path} would both become {target}: run the command for each")
            jobs[target] = path
    return [Job(path, target) for target, path in jobs.items()]


def files_below(
    folder: Path, suffixes: Collection[str], *, notify: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """List the files below `folder` with one of `suffixes`, as relative paths in order; notify hears of other files."""
    found = search(folder, suffixes)
    left_out = found.left_out()
    if not found.files:
        held = f"; it holds {left_out}" if left_out else ""
        raise ValueError(f"{folder}: no files ending in {' '.join(sorted(suffixes))} in this folder{held}")
    if left_out:
        notify(f"{folder}: not read: {left_out}")
    return found.files

"""What every command of the command line shares: options, errors told in one line, progress, the model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mimotok.io.terminal import USER_ERROR, one_line

if TYPE_CHECKING:
    from mimotok.tokenizer import Tokenizer

# torch takes over a second to import: whatever needs it is imported where it is used

DTYPES = ("float32", "bfloat16")
INTERRUPTED = 130

Model = Annotated[str | None, typer.Option(help="Folder or hub id; the embedded checkpoint if left out.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub id.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[str, typer.Option(help=f"Of the weights: {' or '.join(DTYPES)}.")]


def make_tokenizer(model: str | None, revision: str | None, device: str, dtype: str) -> Tokenizer:
    """The model that the options name. Raises ValueError where they name none."""
    import torch

    from mimotok.tokenizer import Tokenizer

    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype}: give {' or '.join(DTYPES)}")
    return Tokenizer.from_pretrained(model, revision=revision, device=device, dtype=getattr(torch, dtype))


@contextmanager
def file_progress(num_files: int) -> Iterator[Callable[[int, Path, float, float | None], None]]:
    """Yields what shows file number, file, seconds of sound done and in all, and time left on stderr, if a terminal."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from datetime import timedelta

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    # a name is no markup: brackets in it mean nothing
    text = TextColumn("{task.description}", markup=False)
    with Progress(text, BarColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        current = 0

        def report(i: int, path: Path, seconds: float, total: float | None) -> None:
            nonlocal current
            if i != current:
                current = i
                bar.reset(task, total=None)
            done = timedelta(seconds=int(seconds))
            told = f"{i + 1}/{num_files} {one_line(path.name)}: {done} of sound"
            bar.update(task, completed=seconds, total=total, description=told)

        yield report


@contextmanager
def errors_told() -> Iterator[None]:
    """A user's error becomes one line and exit code 2; Ctrl-C one line and 130."""
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError) as error:
        tell(error)
        raise typer.Exit(USER_ERROR) from None
    except KeyboardInterrupt:
        tell("interrupted")
        raise typer.Exit(INTERRUPTED) from None


def tell(error: object) -> None:
    """Print one line on stderr."""
    # print, since rich moves its status aside only for what goes through sys.stderr
    print(f"mimotok: {one_line(error)}", file=sys.stderr)

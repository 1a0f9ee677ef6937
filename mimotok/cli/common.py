"""What all commands share: options, one-line errors, progress, and loading the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mimotok.io.terminal.progress import ProgressBar
from mimotok.io.terminal.streams import errors_in_one_line, one_line, warn

if TYPE_CHECKING:
    from mimotok.tokenizer import Tokenizer

# torch takes over a second to import: whatever needs it is imported where it is used

DTYPES = ("float32", "bfloat16")
PROGRAM = "mimotok"

Model = Annotated[str | None, typer.Option(help="Folder or hub id; the embedded checkpoint if left out.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub id.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[str, typer.Option(help=f"Of the weights: {' or '.join(DTYPES)}.")]


def make_tokenizer(model: str | None, revision: str | None, device: str, dtype: str) -> Tokenizer:
    """Load the model that the options name. Raises ValueError where they name none."""
    import torch

    from mimotok.tokenizer import Tokenizer

    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype}: give {' or '.join(DTYPES)}")
    return Tokenizer.from_pretrained(model, revision=revision, device=device, dtype=getattr(torch, dtype))


@contextmanager
def file_progress(num_files: int) -> Iterator[Callable[[int, Path, float, float | None], None]]:
    """Show the progress through `num_files` files on a terminal's standard error.

    Yields:
        A function report(i, path, seconds, total): file number i, from 0, with `seconds` of its `total` seconds of
        sound done; total is None where it is unknown.
    """
    current = 0
    with ProgressBar(transient=True) as bar:

        def report(i: int, path: Path, seconds: float, total: float | None) -> None:
            nonlocal current
            if i != current:
                current = i
                bar.restart()
            done = timedelta(seconds=int(seconds))
            description = f"{i + 1}/{num_files} {one_line(path.name)}: {done} of sound"
            bar.update(seconds, total=total, description=description)

        yield report


def one_line_errors() -> AbstractContextManager[None]:
    """Turn a user's error in the body of the `with` into one line and exit code 2."""
    return errors_in_one_line(PROGRAM)


def report_error(error: object) -> None:
    """Print one line on standard error."""
    warn(PROGRAM, error)

"""The command `mimotok tokenize`, which encodes whole corpora, and checks the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from mimotok.cli.common import Device, Dtype, Model, Revision, make_tokenizer, one_line_errors, report_error
from mimotok.io.terminal.progress import ProgressBar
from mimotok.io.terminal.streams import USER_ERROR, say

if TYPE_CHECKING:
    from mimotok.corpus.run import Progress

# parameters that mean something beside --verify
VERIFY_TAKES = ("paths", "verify", "model", "revision", "device", "dtype")

Paths = Annotated[list[str] | None, typer.Argument(metavar="INPUT OUT", help="Or OUT alone, with --verify.")]


def tokenize(
    context: typer.Context,
    paths: Paths = None,
    workers: Annotated[int, typer.Option(help="Decoding processes, 0 for none; with --ray, of each actor.")] = 2,
    n_q: Annotated[int | None, typer.Option("--n-q", help="Codebooks to use; the model's default if left out.")] = None,
    format: Annotated[str, typer.Option(help="Of the shards: parquet, webdataset or shar.")] = "parquet",
    root: Annotated[str, typer.Option(help="Folder or URL of a manifest's relative paths.")] = ".",
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Paths of a manifest may leave its root and its folder.")
    ] = False,
    model: Model = None,
    revision: Revision = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch_seconds: Annotated[float, typer.Option(help="Padded sound in a batch; more for a GPU.")] = 60.0,
    shard_hours: Annotated[float, typer.Option(help="Sound in a shard, at least.")] = 4.0,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster to use; local for this machine.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check OUT, and encode a sample of it again.")] = False,
) -> None:
    """Encode a corpus into shards of tokens; a second call continues where the first one ended.

    INPUT is a folder or URL of sound files or WebDataset tars, a JSONL manifest, or a Lhotse CutSet.
    """
    with one_line_errors():
        if len(paths or []) != (1 if verify else 2):
            raise ValueError("give INPUT and OUT, or OUT alone with --verify")
        if verify:
            _refuse_beside_verify(context)
            _verify(paths[0], model, revision, device, dtype)  # type: ignore[index]
            return
        from mimotok.corpus.formats import checked_format
        from mimotok.corpus.run import tokenize_corpus

        checked_format(format)  # an error is reported before a model is loaded
        tokenizer = make_tokenizer(model, revision, device, dtype)
        source, out = paths  # type: ignore[misc]
        with _progress() as progress:
            done = tokenize_corpus(
                source,
                out,
                tokenizer,
                root=root,
                n_q=n_q,
                format=format,
                workers=workers,
                batch_seconds=batch_seconds,
                shard_hours=shard_hours,
                ray=ray,
                progress=progress,
                allow_outside=allow_outside,
                notify=report_error,
            )
        hours = f"{done.seconds / 3600:.2f} hours"
        say(f"{done.clips} clips, {hours}, {done.frames} frames in {done.shards} shards; {done.failed} failed")
        if done.failed and not done.clips:
            raise ValueError(f"{out}: no clip could be read; failed.jsonl says why, without it they are tried again")


def _refuse_beside_verify(context: typer.Context) -> None:
    """Raise ValueError for an option that --verify could only pass over."""
    for option in context.command.params:
        # by name: newer versions of typer have a copy of click's enumeration
        given = context.get_parameter_source(option.name or "")
        if given is not None and given.name == "COMMANDLINE" and option.name not in VERIFY_TAKES:
            raise ValueError(f"{option.opts[0]}: is of encoding, and --verify encodes as the folder says; leave it out")


def _verify(out: str, model: str | None, revision: str | None, device: str, dtype: str) -> None:
    from mimotok.corpus.ledger import read_settings
    from mimotok.corpus.verify import verify_corpus

    read_settings(out)  # an error is reported before a model is loaded
    found = verify_corpus(out, make_tokenizer(model, revision, device, dtype))
    for problem in found.problems:
        report_error(problem)
    absent = f", the sound of {found.absent} more cannot be read" if found.absent else ""
    say(f"{found.clips} clips in {found.shards} shards; {found.encoded} encoded again{absent}")
    if found.problems:
        raise typer.Exit(USER_ERROR)


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """Show the clips and hours done, hours of sound an hour, and the time left, on a terminal's standard error.

    Yields:
        A function that shows a `Progress`.
    """
    start = time.monotonic()
    with ProgressBar() as bar:

        def show(now: Progress) -> None:
            rate = now.seconds / max(1e-3, time.monotonic() - start)
            description = f"{now.clips} clips, {now.seconds / 3600:.2f} h, {rate:.0f} h/h"
            bar.update(now.seconds, total=now.all_seconds, description=description)

        yield show

"""The command line: each command is a thin shell over one public function."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, NoReturn

import typer

from mimotok import __version__
from mimotok.cli.common import (
    Device,
    Dtype,
    Model,
    Revision,
    file_progress,
    make_tokenizer,
    one_line_errors,
    report_error,
)
from mimotok.cli.export import export
from mimotok.cli.page import page
from mimotok.cli.tokenize import tokenize
from mimotok.io.terminal.streams import USER_ERROR, binary_output, run_command, say

if TYPE_CHECKING:
    from mimotok.io.codes_file import CodesFile
    from mimotok.tokenizer import Tokenizer
    from mimotok.transcode import Job

# torch takes over a second to import: whatever needs it is imported where it is used

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Paths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILES", help="IN OUT, or any number of IN with --out-dir.", show_default=False),
]
Stream = Annotated[bool, typer.Option("--stream", help="From standard input to standard output, as it comes.")]
Out = Annotated[Path | None, typer.Option("--out-dir", help="Write here, under the inputs' names.")]
Raw = Annotated[
    bool, typer.Option("--raw", help="With --stream: 16-bit mono samples at the model's rate, without a header.")
]
Entropy = Annotated[
    bool, typer.Option("--entropy", help="Of .mimo: fewer bits, by the model of codes beside the weights.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="With --out-dir: keep existing files and make only the others.")
]


@app.command(epilog="Example: mimotok encode speech.wav speech.npz --n-q 8")
def encode(
    paths: Paths = None,
    n_q: Annotated[int | None, typer.Option("--n-q", help="Codebooks to use; the model's default if left out.")] = None,
    model: Model = None,
    revision: Revision = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out_dir: Out = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    stream: Stream = False,
    raw: Raw = False,
    entropy: Entropy = False,
) -> None:
    """Encode sound files into codes files (.npz or .mimo). With --out-dir, several, or folders of them.

    A folder's codes become .npz, or .mimo with --entropy.
    """
    with one_line_errors():
        if stream:
            from mimotok.streaming.pipes import encode_pipe

            _refuse_files(paths, out_dir, overwrite, skip_existing)
            _run_stream(partial(encode_pipe, n_q=n_q, raw=raw, entropy=entropy), model, revision, device, dtype)
            return
        if raw:
            raise ValueError("--raw is for --stream; give files a header, by sox or ffmpeg")
        from mimotok.code_models import code_model_of
        from mimotok.io.audio import AUDIO_SUFFIXES
        from mimotok.io.codes.suffixes import CODES_SUFFIXES, MIMO_SUFFIX
        from mimotok.transcode import encode_file

        written = (MIMO_SUFFIX,) if entropy else CODES_SUFFIXES
        jobs = _jobs(paths or [], out_dir, AUDIO_SUFFIXES, written, overwrite, skip_existing)
        if not jobs:
            return
        tokenizer = make_tokenizer(model, revision, device, dtype)
        if entropy:
            code_model_of(tokenizer)  # an error is reported once
        n_q = tokenizer.config.checked_n_q(n_q)  # an error is reported once, not for every file
        create = out_dir is not None
        keep = partial(encode_file, tokenizer, n_q=n_q, overwrite=overwrite, create_folders=create, entropy=entropy)
        _transcode(jobs, keep)


@app.command(epilog="Example: mimotok decode speech.npz speech.wav")
def decode(
    paths: Paths = None,
    model: Model = None,
    revision: Revision = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out_dir: Out = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    force: Annotated[bool, typer.Option("--force", help="Decode codes that other weights made.")] = False,
    stream: Stream = False,
) -> None:
    """Decode codes files into sound files (.wav; .flac and others by the name). With --out-dir, several."""
    with one_line_errors():
        if stream:
            from mimotok.streaming.pipes import decode_pipe

            _refuse_files(paths, out_dir, overwrite, skip_existing)
            _run_stream(partial(decode_pipe, force=force), model, revision, device, dtype)
            return
        from mimotok.io.audio import WRITABLE
        from mimotok.io.codes.suffixes import CODES_SUFFIXES
        from mimotok.transcode import decode_file

        jobs = _jobs(paths or [], out_dir, CODES_SUFFIXES, list(WRITABLE), overwrite, skip_existing)
        if not jobs:
            return
        tokenizer = make_tokenizer(model, revision, device, dtype)
        create = out_dir is not None
        _transcode(jobs, partial(decode_file, tokenizer, force=force, overwrite=overwrite, create_folders=create))


@app.command(epilog="Example: mimotok info speech.npz")
def info(
    source: Annotated[str | None, typer.Argument(metavar="[FILE|MODEL]", show_default=False)] = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts of the tokens as JSON.")] = False,
) -> None:
    """Show what a codes file or a model (folder, hub id, the embedded one if left out) holds."""
    with one_line_errors():
        from mimotok.info import read_facts, read_info

        if as_json:
            say(json.dumps(read_facts(source, revision=revision), indent=1))
            return
        for heading, value in read_info(source, revision=revision).items():
            say(f"{heading:<12}{value}")


app.command(epilog="Example: mimotok export --format onnx exported/")(export)
app.command(epilog="Example: mimotok page --open")(page)
app.command(epilog="Example: mimotok tokenize manifest.jsonl tokens/ --root audio")(tokenize)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"mimotok {__version__}")
        raise typer.Exit


@app.callback(no_args_is_help=True, epilog="Example: mimotok encode --help")
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Speech and sound to discrete codes and back, at 1.55 kbit/s."""


def _jobs(
    paths: list[Path],
    out_dir: Path | None,
    read: Collection[str],
    written: Sequence[str],
    overwrite: bool,
    skip_existing: bool,
) -> list[Job]:
    """Choose the output of each file.

    Args:
        paths: arguments of the command.
        out_dir: folder of the outputs, if any.
        read: suffixes to search folders for.
        written: suffixes of outputs; the first is that of files in `out_dir`.
        overwrite: whether existing files may be replaced.
        skip_existing: whether files with an existing output are left out, which a line on standard error counts.

    Raises:
        ValueError: before any work, where an output cannot be written.
    """
    from mimotok.io.files import open_regular
    from mimotok.transcode import Job, plan_jobs, require_target

    if skip_existing and (overwrite or out_dir is None):
        other = "--overwrite" if overwrite else "a single output"
        raise ValueError(f"--skip-existing is for --out-dir and not for {other}; leave one of them out")
    if out_dir is not None:
        jobs = plan_jobs(paths, out_dir, read, written[0], notify=report_error)
    elif len(paths) != 2:
        raise ValueError("give one input and one output, or any number of inputs and --out-dir")
    elif paths[0].is_dir():
        raise ValueError(f"{paths[0]}: is a folder, which needs --out-dir")
    else:
        open_regular(paths[0]).close()  # an error is reported before a model is loaded
        jobs = [Job(*paths)]
    if skip_existing:
        left = [job for job in jobs if not job.target.exists()]
        if len(left) < len(jobs):
            report_error(f"{len(jobs) - len(left)} of {len(jobs)} outputs exist already and are kept")
        jobs = left
    for job in jobs:
        require_target(job.target, written, overwrite=overwrite, create_folders=out_dir is not None)
    return jobs


def _refuse_files(paths: list[Path] | None, out_dir: Path | None, overwrite: bool, skip_existing: bool) -> None:
    """Raise ValueError for what --stream could only pass over."""
    given = {"--out-dir": out_dir is not None, "--overwrite": overwrite, "--skip-existing": skip_existing}
    named = [str(path) for path in paths or []] + [option for option, is_given in given.items() if is_given]
    if named:
        raise ValueError(f"{named[0]}: --stream reads standard input and writes standard output, and takes no files")


def _run_stream(
    work: Callable[[Tokenizer, BinaryIO, BinaryIO], None],
    model: str | None,
    revision: str | None,
    device: str,
    dtype: str,
) -> None:
    if sys.stdin.isatty():
        raise ValueError("--stream: standard input is a terminal; send sound or codes through a pipe")
    try:
        work(make_tokenizer(model, revision, device, dtype), sys.stdin.buffer, binary_output())
    except BrokenPipeError:
        # the reader has gone: that ends a stream, and is no error
        return


def _transcode(jobs: list[Job], fn: Callable[..., CodesFile]) -> None:
    """Apply `fn` to every file, and report those that fail. Exits with 2 if any did."""
    failed = False
    with file_progress(len(jobs)) as report:
        for i, job in enumerate(jobs):
            try:
                report(i, job.source, 0.0, None)
                held = fn(job.source, job.target, progress=partial(report, i, job.source))
                if held.missing_frames:
                    whole = held.codes.shape[1] + held.missing_frames
                    report_error(f"{job.source}: cut short; {held.codes.shape[1]} of its {whole} frames were decoded")
            except (ValueError, OSError, MemoryError) as error:
                report_error(error)
                failed = True
            except ImportError as error:
                # a package that only this file needs, which does not say so itself
                report_error(f"{job.source}: {error}")
                failed = True
    if failed:
        raise typer.Exit(USER_ERROR)


def main() -> NoReturn:
    """Run the command `mimotok`."""
    run_command(app)


if __name__ == "__main__":
    main()

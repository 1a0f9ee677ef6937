"""`python -m eval`: measure codecs, compare two measurements, and read text from tokens."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mimotok.io.terminal.progress import ProgressBar
from mimotok.io.terminal.streams import errors_in_one_line, excerpt, run_command, say, warn

LISTS = ("--codec", "--n-q", "--metric")
PROGRAM = "eval"
FAILURES = 1  # exit code

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Codecs = Annotated[
    list[str],
    typer.Option(
        "--codec",
        help="default, a folder or hub id, hf:ID, opus:KBPS, codec2:MODE, speex:QUALITY, copy, vocoder, features:NAME, "
        "or package.module:Class.",
    ),
]
NumCodebooks = Annotated[list[int] | None, typer.Option("--n-q", help="Codebooks to use of our models.")]
Root = Annotated[Path | None, typer.Option(help="Folder of a manifest's relative paths; its own if left out.")]
AllowOutside = Annotated[
    bool, typer.Option("--allow-outside", help="Recordings may lie elsewhere than below the root or the list's folder.")
]
Device = Annotated[str, typer.Option(help="Where models run: cpu, cuda, ...")]


@app.command(epilog="Example: python -m eval --codec default opus:6 copy --manifest test.jsonl --n-q 4 8 --out report/")
def run(
    manifest: Annotated[Path, typer.Option(help="JSONL manifest, folder of audio or corpus, or a meta.lst.")],
    out: Annotated[Path, typer.Option(help="Folder of the report.")],
    codec: Codecs,
    n_q: NumCodebooks = None,
    root: Root = None,
    split: Annotated[str, typer.Option(help="Rows of a manifest to measure.")] = "test",
    every: Annotated[int, typer.Option(help="Measure every Nth recording.")] = 1,
    min_seconds: Annotated[float, typer.Option(help="Leave shorter recordings out.")] = 0.0,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Of signal, visqol, pitch, sim, asr, mos, distilmos, stability, code_lm, phones (needs --labels). If "
            "left out, all but the slow ones: visqol, stability, code_lm."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Phone labels by `python -m train align`, of clips of any split, for the metric phones."),
    ] = None,
    sim: Annotated[str, typer.Option(help="Speaker model: resemblyzer, wavlm:FILE, or an x-vector model.")] = "auto",
    asr: Annotated[
        str,
        typer.Option(help="Recogniser: whisper-base (auto), whisper-tiny.en, a faster-whisper or transformers model."),
    ] = "auto",
    mos: Annotated[str, typer.Option(help="Predictor of the metric mos: dnsmos or distillmos.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    allow_outside: AllowOutside = False,
    export_wavs: Annotated[
        Path | None,
        typer.Option(help="Folder for originals and reconstructions as wav files of equal names, for other scorers."),
    ] = None,
) -> None:
    """Measure codecs on recordings and write a report.

    A run that was stopped goes on from there. The exit code is 1 when some codec or recording failed.
    """
    from eval.codecs.registry import expand_specs
    from eval.metrics.base import AUTO, MetricSpec
    from eval.metrics.registry import checked_kinds
    from eval.report.files import write_report_files
    from eval.report.summary import results_of
    from eval.report.wavs import check_export_folder, export_message
    from eval.report.wavs import export_wavs as write_wavs
    from eval.run.runner import Settings, evaluate
    from eval.testlists import read_labelled_clips, read_test_list, thin

    with _errors():
        kinds = checked_kinds(metric, labels)
        if export_wavs is not None:
            check_export_folder(export_wavs)
        models = {"sim": sim, "asr": asr, "mos": mos}
        clips = read_test_list(manifest, root=root, split=split, allow_outside=allow_outside)
        settings = Settings(
            clips=tuple(thin(clips, every=every, min_seconds=min_seconds, notify=notify)),
            codecs=tuple(expand_specs(codec, n_q or [])),
            metrics=tuple(MetricSpec(kind, models.get(kind, AUTO), optional=not metric) for kind in kinds),
            out=out,
            workers=workers,
            device=device,
            seed=seed,
            labelled=tuple(read_labelled_clips(labels, manifest, root=root, allow_outside=allow_outside))
            if labels
            else (),
            isolated=True,
        )
        done = evaluate(settings, notify=notify, progress=_progress)
        say(write_report_files(out, results_of(done, _command())))
        if export_wavs is not None:
            notify(export_message(write_wavs(done, export_wavs)))
    if done.failures:
        raise typer.Exit(FAILURES)


@app.command(epilog="Example: python -m eval compare old/results.json new/results.json")
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="results.json to compare with.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="results.json of what is new.")],
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Print paired differences B - A with 95 % intervals. The exit code is 1 when B is worse beyond an interval."""
    from eval.report.compare import compare as compare_results
    from eval.report.compare import comparison_table
    from eval.report.schema import load_results

    with _errors():
        differences = compare_results(load_results(a), load_results(b), seed=seed)
    say(comparison_table(differences))
    if any(difference.worse for difference in differences):
        raise typer.Exit(FAILURES)


@app.command(epilog="Example: python -m eval probe --codec default --n-q 1 8 --manifest manifest.jsonl --out probe/")
def probe(
    manifest: Annotated[Path, typer.Option(help="JSONL manifest whose rows have `split` and `text`.")],
    out: Annotated[Path, typer.Option(help="Folder for probe.json.")],
    codec: Codecs,
    n_q: NumCodebooks = None,
    root: Root = None,
    train_split: Annotated[str, typer.Option(help="Rows to learn from.")] = "train",
    split: Annotated[str, typer.Option(help="Rows to be read.")] = "test",
    source: Annotated[str, typer.Option(help="Read only rows whose source contains this, such as librispeech.")] = "",
    machine_text: Annotated[
        bool, typer.Option("--machine-text", help="Also read rows whose text a recogniser wrote.")
    ] = False,
    steps: Annotated[int, typer.Option(help="The budget: steps of training.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Of initialisation, order and bootstrap.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that encode.", min=1)] = 1,
    device: Device = "cpu",
    allow_outside: AllowOutside = False,
) -> None:
    """Train a small text reader on a codec's frozen tokens; report CER and WER on held-out recordings."""
    from eval.codecs.registry import expand_specs
    from eval.probe.model import Budget
    from eval.probe.run import probe_row, probe_table, run_probe
    from eval.report.schema import save_results
    from eval.testlists import read_test_list, usable
    from mimotok.io.files import make_folder

    rows = []
    with _errors():
        budget = Budget(steps=steps, seed=seed)
        train = read_test_list(manifest, root=root, split=train_split, allow_outside=allow_outside)
        test = [
            clip
            for clip in read_test_list(manifest, root=root, split=split, allow_outside=allow_outside)
            if source in clip.source and (machine_text or not clip.machine_text)
        ]
        both = {clip.id for clip in train} & {clip.id for clip in test}
        if both:
            raise ValueError(
                f"{manifest}: {excerpt(min(both))} is to learn from and to be read, as are {len(both)} in all: give "
                "rows a split, and name two of them"
            )
        for line in usable(train).problems + usable(test).problems:
            notify(line)
        train = usable(train).clips
        test = usable(test).clips
        specs = expand_specs(codec, n_q or [])
        make_folder(out)
        for spec in specs:
            result = run_probe(
                spec, train, test, budget=budget, workers=workers, device=device, notify=notify, progress=_progress
            )
            rows.append(probe_row(spec, result, budget))
            # after each, so that a later failure does not lose it
            save_results(out / "probe.json", {"command": _command(), "rows": rows})
        say(probe_table(rows))


@app.command(epilog="Example: python -m eval tables report/results.json README.md")
def tables(
    results: Annotated[Path, typer.Argument(help="results.json to take figures from.")],
    documents: Annotated[list[Path], typer.Argument(help="Markdown files to write them into.")],
    only: Annotated[str | None, typer.Option(help="Write only the tables of this name: main, short ...")] = None,
) -> None:
    """Write a report's tables into documents, between <!-- eval: main --> and <!-- /eval -->."""
    from eval.report.schema import load_results
    from eval.report.tables import fill_tables

    with _errors():
        figures = load_results(results)
        for document in documents:
            say(f"{document}: {fill_tables(document, figures, only=only)} tables")


@app.callback(no_args_is_help=True)
def _options() -> None:
    """Evaluation of speech codecs under one protocol."""


def notify(line: str) -> None:
    """Print one line on stderr."""
    warn(PROGRAM, line)


def _command() -> str:
    return "python -m eval " + shlex.join(sys.argv[1:])


def _errors() -> AbstractContextManager[None]:
    return errors_in_one_line(PROGRAM, interrupted="interrupted; the same command goes on from here")


@contextmanager
def _progress(what: str, count: int) -> Iterator[Callable[[], None]]:
    """Yield a function that advances a bar on stderr, where that is a terminal."""
    with ProgressBar(what, count, count=True) as bar:
        yield bar.advance


def expand_lists(words: list[str]) -> list[str]:
    """Repeat an option for each of its values: click takes `--n-q 2 --n-q 4`, and people type `--n-q 2 4`."""
    expanded: list[str] = []
    option: str | None = None
    fresh = False
    for word in words:
        if word.startswith("-") and not word.lstrip("-").isdigit():
            option = word if word in LISTS else None
            fresh = option is not None
            expanded.append(word)
            continue
        if option is not None and not fresh:
            expanded.append(option)
        expanded.append(word)
        fresh = False
    return expanded


def main(words: list[str] | None = None) -> None:
    """Run the command line; without the name of a command it measures."""
    words = expand_lists(sys.argv[1:] if words is None else words)
    if words and words[0].startswith("--") and words[0] != "--help":
        words = ["run", *words]
    app(words)


if __name__ == "__main__":
    run_command(main)

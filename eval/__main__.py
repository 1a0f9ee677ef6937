"""`python -m eval`: measure codecs, compare two measurements, and probe what tokens mean."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mimotok.io.terminal import one_line, run_command, say

LISTS = ("--codec", "--n-q", "--metric")
FAILURES, USER_ERROR, INTERRUPTED = 1, 2, 130

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Root = Annotated[Path | None, typer.Option(help="Folder of a manifest's relative paths; its own if left out.")]


@app.command(epilog="Example: python -m eval --codec default opus:6 copy --manifest test.jsonl --n-q 4 8 --out report/")
def run(
    manifest: Annotated[Path, typer.Option(help="JSONL manifest, folder of audio or corpus, or a meta.lst.")],
    out: Annotated[Path, typer.Option(help="Folder of the report.")],
    codec: Annotated[
        list[str],
        typer.Option(help="default, a folder or hub id, hf:ID, opus:KBPS, codec2:MODE, speex:QUALITY, copy, vocoder."),
    ],
    n_q: Annotated[list[int] | None, typer.Option("--n-q", help="Codebooks to use of our models.")] = None,
    root: Root = None,
    split: Annotated[str, typer.Option(help="Rows of a manifest to measure.")] = "test",
    every: Annotated[int, typer.Option(help="Measure every Nth recording.")] = 1,
    min_seconds: Annotated[float, typer.Option(help="Leave shorter recordings out.")] = 0.0,
    metric: Annotated[list[str] | None, typer.Option(help="Of signal, sim, asr, mos; all if left out.")] = None,
    sim: Annotated[str, typer.Option(help="Speaker model: resemblyzer, wavlm:FILE, or an x-vector model.")] = "auto",
    asr: Annotated[
        str, typer.Option(help="Recogniser: a faster-whisper or transformers model, folder or id.")
    ] = "auto",
    mos: Annotated[str, typer.Option(help="Predictor: dnsmos or distillmos.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="Where models run: cpu, cuda, ...")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Measure codecs on recordings and write a report.

    A run that was stopped goes on where it was. The exit code is 1 when some codec or recording failed.
    """
    from eval.codecs import expand_specs
    from eval.files import write_report_files
    from eval.metrics import MetricSpec
    from eval.runner import Settings, evaluate
    from eval.summary import results_of
    from eval.testlists import read_test_list, thin

    with _errors_told():
        models = {"signal": "", "sim": sim, "asr": asr, "mos": mos}
        wrong = set(metric or ()) - set(models)
        if wrong:
            raise ValueError(f"metric {', '.join(sorted(wrong))}: there are {', '.join(models)}")
        settings = Settings(
            clips=tuple(
                thin(read_test_list(manifest, root=root, split=split), every=every, min_seconds=min_seconds, tell=tell)
            ),
            codecs=tuple(expand_specs(codec, n_q or [])),
            metrics=tuple(MetricSpec(kind, models[kind]) for kind in metric or models),
            out=out,
            workers=workers,
            device=device,
            seed=seed,
        )
        done = evaluate(settings, tell=tell, progress=_progress)
        say(write_report_files(out, results_of(done, "python -m eval " + shlex.join(sys.argv[1:]))))
    if done.failures:
        raise typer.Exit(FAILURES)


@app.command(epilog="Example: python -m eval compare old/results.json new/results.json")
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="results.json to compare with.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="results.json of what is new.")],
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Paired differences B - A with 95 % intervals. The exit code is 1 when B is worse beyond an interval."""
    from eval.compare import compare as differences_of
    from eval.compare import comparison_table
    from eval.report import load_results

    with _errors_told():
        differences = differences_of(load_results(a), load_results(b), seed=seed)
    say(comparison_table(differences))
    if any(difference.worse for difference in differences):
        raise typer.Exit(FAILURES)


@app.command(epilog="Example: python -m eval probe --codec default --n-q 1 8 --manifest manifest.jsonl --out probe/")
def probe(
    manifest: Annotated[Path, typer.Option(help="JSONL manifest whose rows say `split`, with texts.")],
    out: Annotated[Path, typer.Option(help="Folder for probe.json, and codes that are kept for the next time.")],
    codec: Annotated[list[str], typer.Option(help="default, a folder or hub id, or hf:ID.")],
    n_q: Annotated[list[int] | None, typer.Option("--n-q", help="Codebooks to use of our models.")] = None,
    root: Root = None,
    train_split: Annotated[str, typer.Option(help="Rows to learn from.")] = "train",
    split: Annotated[str, typer.Option(help="Rows to be read.")] = "test",
    steps: Annotated[int, typer.Option(help="The budget: steps of training.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Of initialisation, order and bootstrap.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that encode.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="Where models run: cpu, cuda, ...")] = "cpu",
) -> None:
    """Train a small text reader on a codec's frozen codes; report CER and WER on held-out recordings."""
    from eval.codecs import expand_specs
    from eval.probe import probe_row, probe_table, run_probe
    from eval.probe_model import Budget
    from eval.report import save_results
    from eval.testlists import read_test_list

    rows = []
    with _errors_told():
        budget = Budget(steps=steps, seed=seed)
        train, test = (read_test_list(manifest, root=root, split=name) for name in (train_split, split))
        for spec in expand_specs(codec, n_q or []):
            result = run_probe(
                spec, train, test, budget=budget, out=out, workers=workers, device=device, tell=tell, progress=_progress
            )
            rows.append(probe_row(spec, result, budget))
            # after each, so that a later failure does not lose it
            save_results(out / "probe.json", {"command": "python -m eval " + shlex.join(sys.argv[1:]), "rows": rows})
        say(probe_table(rows))


@app.command(epilog="Example: python -m eval tables report/results.json README.md")
def tables(
    results: Annotated[Path, typer.Argument(help="results.json to take figures from.")],
    documents: Annotated[list[Path], typer.Argument(help="Markdown files to write them into.")],
) -> None:
    """Write a report's tables into documents, between <!-- eval: main --> and <!-- /eval -->."""
    from eval.files import fill_tables
    from eval.report import load_results

    with _errors_told():
        figures = load_results(results)
        for document in documents:
            say(f"{document}: {fill_tables(document, figures)} tables")


@app.callback(no_args_is_help=True)
def _options() -> None:
    """Evaluation of speech codecs under one protocol."""


def tell(line: str) -> None:
    """One line on stderr."""
    print(f"eval: {one_line(line)}", file=sys.stderr)


@contextmanager
def _errors_told() -> Iterator[None]:
    """A user's error becomes one line and exit code 2; Ctrl-C one line and 130."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        tell(one_line(error))
        raise typer.Exit(USER_ERROR) from None
    except KeyboardInterrupt:
        tell("interrupted; the same command goes on from here")
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _progress(what: str, count: int) -> Iterator[Callable[[], None]]:
    """Yields what advances a bar on stderr, where that is a terminal."""
    if not count or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=count)
        yield lambda: bar.advance(task)


def expand_lists(words: list[str]) -> list[str]:
    """`--n-q 2 4 8` as `--n-q 2 --n-q 4 --n-q 8`, which is how click takes lists."""
    expanded: list[str] = []
    option: str | None = None
    fresh = False
    for word in words:
        if word.startswith("-") and not word.lstrip("-").isdigit():
            option, fresh = (word, True) if word in LISTS else (None, False)
            expanded.append(word)
            continue
        if option is not None and not fresh:
            expanded.append(option)
        expanded.append(word)
        fresh = False
    return expanded


def main(words: list[str] | None = None) -> None:
    """The entry point; measuring is what happens where no command is named."""
    words = expand_lists(sys.argv[1:] if words is None else words)
    if words and words[0].startswith("--") and words[0] != "--help":
        words = ["run", *words]
    app(words)


if __name__ == "__main__":
    run_command(main)

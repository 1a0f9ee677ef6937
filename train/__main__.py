"""`python -m train`: Lightning's subcommands (fit, validate) and tools: align, average, clean, export and others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mimotok.io.terminal.streams import errors_in_one_line, run_command, say

TOOLS = (
    "align",
    "average",
    "clean",
    "code-model",
    "export",
    "prepare",
    "prune",
    "runs",
    "transcribe",
    "transfer",
    "weigh",
)
# Lightning's, which read their own arguments; they stand here for the list of commands.
LIGHTNING = {"allow_extra_args": True, "ignore_unknown_options": True}
AllowOutside = Annotated[
    bool, typer.Option("--allow-outside", help="Paths of the manifest may leave its root and its folder.")
]
app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(context_settings=LIGHTNING, add_help_option=False)
def fit() -> None:
    """Train, or go on with a run; --help lists the settings.

    Example: python -m train fit --config train/configs/recipe/1_joint.yaml --name mine --data.manifest manifest.jsonl
    """
    _lightning()


@app.command(context_settings=LIGHTNING, add_help_option=False)
def validate() -> None:
    """Measure a checkpoint on the data that is held out.

    Example: python -m train validate --config runs/mine/resolved.yaml --ckpt_path runs/mine/checkpoints/last.ckpt
    """
    _lightning()


def _lightning() -> None:
    from train.run.cli import run_lightning

    run_lightning()


@app.command()
def runs(root: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs")) -> None:
    """List runs with step, hours heard and best figures.

    Example: python -m train runs
    """
    from train.tools.runs import list_runs

    say(list_runs(root))


@app.command()
def export(
    checkpoint: Annotated[Path | None, typer.Option(help="A .ckpt file of a run.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write, e.g. checkpoints/mine.")] = None,
    name: Annotated[str | None, typer.Option(help="Of a run: its last checkpoint, written to runs/NAME/model.")] = None,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
    discriminators: Annotated[
        bool,
        typer.Option("--discriminators", help="Also those of an adversarial stage, for another run to begin with."),
    ] = False,
    readers: Annotated[
        bool, typer.Option("--readers", help="Also what read the first codebook in a joint stage, for its next part.")
    ] = False,
) -> None:
    """Write config, safetensors and a model card from a training checkpoint.

    Example: python -m train export --checkpoint runs/joint/checkpoints/last.ckpt --out checkpoints/mine
    """
    from train.tools.export import export as write

    run = Path("runs", name or "")
    checkpoint = checkpoint or (run / "checkpoints" / "last.ckpt" if name else None)
    out = out or (run / "model" if name else None)
    if checkpoint is None or out is None:
        raise ValueError("give --name, or both --checkpoint and --out")
    write(checkpoint, out, dtype=dtype, discriminators=discriminators, readers=readers)


@app.command()
def average(
    first: Annotated[str, typer.Argument(help="Folder of an exported model, e.g. of the joint stage.")],
    second: Annotated[str, typer.Argument(help="Another of the same encoder, as of the adversarial stage.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    share: Annotated[float, typer.Option(help="Of the second.")] = 0.5,
    new_codes: Annotated[bool, typer.Option("--new-codes", help="Encoders too; codes of neither then fit.")] = False,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
) -> None:
    """Write the mean of two models' weights.

    Example: python -m train average checkpoints/more checkpoints/adversarial --out checkpoints/mine
    """
    from train.tools.average import average as write

    write(first, second, out, share=share, new_codes=new_codes, dtype=dtype)


@app.command()
def transfer(
    tuned: Annotated[str, typer.Argument(help="Folder of the model that the adversarial stage gave.")],
    before: Annotated[str, typer.Argument(help="Of the model that it began with.")],
    after: Annotated[str, typer.Argument(help="Of the one that this became by more of the joint stage.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
) -> None:
    """Add to a model what tuning changed in an earlier state of it.

    Example: python -m train transfer checkpoints/mine checkpoints/joint checkpoints/joint-2 --out checkpoints/mine-2
    """
    from train.tools.transfer import transfer as write

    write(tuned, before, after, out, dtype=dtype)


@app.command()
def prune(
    source: Annotated[str, typer.Argument(help="Folder of an exported model.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    manifest: Annotated[str, typer.Option(help="JSONL manifest or Lhotse CutSet of speech.")],
    root: Annotated[str, typer.Option(help="Folder of relative audio paths.")] = ".",
    encoder: Annotated[int | None, typer.Option(help="Feed-forward units of an encoder layer.")] = None,
    decoder: Annotated[int | None, typer.Option(help="Of a decoder layer.")] = None,
    vocoder: Annotated[int | None, typer.Option(help="Of a vocoder layer.")] = None,
    seconds: Annotated[float, typer.Option(help="Speech to hear, of the training part.")] = 300.0,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
    allow_outside: AllowOutside = False,
) -> None:
    """Write a faster model with narrower feed-forward layers, from which training goes on.

    Example: python -m train prune checkpoints/more --out narrow --manifest manifest.jsonl --root data --vocoder 512
    """
    from train.tools.prune import prune as write

    widths = {"encoder_ffn_dim": encoder, "decoder_ffn_dim": decoder, "vocoder_intermediate_dim": vocoder}
    write(
        source,
        out,
        manifest,
        root=root,
        widths=widths,
        seconds=seconds,
        dtype=dtype,
        allow_outside=allow_outside,
    )


@app.command()
def weigh(
    source: Annotated[str, typer.Argument(help="Folder of an exported model.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    manifest: Annotated[list[str], typer.Option(help="Folder, manifest or CutSet; may be given several times.")],
    root: Annotated[str, typer.Option(help="Folder of relative audio paths.")] = ".",
    minutes: Annotated[float, typer.Option(help="Speech to measure the decoder's sensitivity on.")] = 10.0,
    hours: Annotated[float, typer.Option(help="Speech to refit the codebooks on.")] = 2.0,
    strength: Annotated[float, typer.Option(help="Power of the sensitivity, above 0, up to 1.")] = 0.6,
    speech_share: Annotated[float, typer.Option(help="Share of what Whisper hears of an error, 0 to 1.")] = 0.25,
    rounds: Annotated[int, typer.Option(help="Of searching and refitting.", min=0)] = 8,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
    allow_outside: AllowOutside = False,
) -> None:
    """Write a model whose codes are searched by what is heard of an error; the first codebook stays.

    Example: python -m train weigh runs/joint --out weighted --manifest manifest.jsonl --root data
    """
    from train.tools.weigh import weigh_search

    say(
        weigh_search(
            source,
            out,
            manifest,
            root=root,
            minutes=minutes,
            hours=hours,
            strength=strength,
            speech_share=speech_share,
            rounds=rounds,
            dtype=dtype,
            allow_outside=allow_outside,
        )
    )


@app.command()
def prepare(
    manifest: Annotated[list[str], typer.Option(help="Folder, manifest or CutSet; may be given several times.")],
    out: Annotated[str, typer.Option(help="Folder of the decoded clips: the data module's cache_dir.")],
    root: Annotated[str, typer.Option(help="Folder of relative audio paths.")] = ".",
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    sample_rate: Annotated[int, typer.Option(help="Hz, of the model that is to be trained.", min=1)] = 24000,
    allow_outside: AllowOutside = False,
) -> None:
    """Decode a corpus once, so that training only reads samples; fit does it by itself where it has not been done.

    Example: python -m train prepare --manifest manifest.jsonl --root data --out data/cache --workers 2
    """
    from train.data.cache import prepare as decode

    say(decode(manifest, root, out, sample_rate=sample_rate, workers=workers, allow_outside=allow_outside))


@app.command()
def clean(
    manifest: Annotated[list[str], typer.Option(help="Folder, manifest or CutSet; may be given several times.")],
    out: Annotated[Path, typer.Option(help="Folder to write; a second call goes on with it.")],
    root: Annotated[str, typer.Option(help="Folder of relative audio paths.")] = ".",
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    voice_threshold: Annotated[float, typer.Option(help="Probability from which sound counts as speech.")] = 0.5,
    pause: Annotated[float, typer.Option(help="Seconds of silence from which a recording may be cut.")] = 0.3,
    longest_pause: Annotated[float, typer.Option(help="Seconds of silence that a segment may hold.")] = 1.0,
    min_seconds: Annotated[float, typer.Option(help="Shortest segment.")] = 1.0,
    max_seconds: Annotated[float, typer.Option(help="Longest segment.")] = 15.0,
    padding: Annotated[float, typer.Option(help="Seconds of silence to keep at each end.")] = 0.1,
    speakers: Annotated[str, typer.Option(help="resemblyzer, none, or auto: where it is installed.")] = "auto",
    same_speaker: Annotated[float, typer.Option(help="Cosine from which two voices are one speaker.")] = 0.7,
    min_snr: Annotated[float, typer.Option(help="dB; noisier segments are left out.")] = 15.0,
    max_clipping: Annotated[float, typer.Option(help="Share of clipped samples.")] = 0.001,
    min_bandwidth: Annotated[float, typer.Option(help="Hz; narrower segments are left out.")] = 7000.0,
    min_consistency: Annotated[float, typer.Option(help="Lowest cosine of a segment's voice with itself.")] = 0.6,
    duplicate: Annotated[float, typer.Option(help="Cosine of spectrograms from which a segment is a copy.")] = 0.9,
    allow_outside: AllowOutside = False,
) -> None:
    """Find the speech in found audio that is fit to train on; needs pip install 'mimotok[clean]'.

    The recordings are only read. Segments are cut at pauses, measured, and listed in OUT/manifest.jsonl.

    Example: python -m train clean --manifest recordings --root recordings --out clean
    """
    from train.clean.run import clean as write
    from train.clean.settings import Hearing, Limits

    hearing = Hearing(voice_threshold, pause, longest_pause, min_seconds, max_seconds, padding, same_speaker, speakers)
    limits = Limits(min_snr, max_clipping, min_bandwidth, min_consistency, duplicate)
    say(write(manifest, root, out, hearing=hearing, limits=limits, workers=workers, allow_outside=allow_outside))


@app.command()
def align(
    manifest: Annotated[list[str], typer.Option(help="Folder, manifest or CutSet; may be given several times.")],
    out: Annotated[Path, typer.Option(help="File of phone labels to write; a second call goes on with it.")],
    root: Annotated[str, typer.Option(help="Folder of relative audio paths.")] = ".",
    allow_outside: AllowOutside = False,
) -> None:
    """Find the phones of every English clip that has a text; needs pip install 'mimotok[align]'.

    Example: python -m train align --manifest manifest.jsonl --root data --out labels.jsonl
    """
    from train.tools.align import align as write

    say(write(manifest, root, out, allow_outside=allow_outside))


@app.command("code-model")
def code_model(
    manifest: Annotated[str, typer.Option(help="Manifest of speech, with the splits train, dev and test.")],
    root: Annotated[str, typer.Option(help="Folder of relative audio paths.")] = ".",
    model: Annotated[str | None, typer.Option(help="Folder or hub id of the tokenizer; the embedded one.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; beside the tokenizer's weights if left out.")] = None,
    codes: Annotated[Path | None, typer.Option(help=".npz that keeps the codes for another call.")] = None,
    hours: Annotated[float, typer.Option(help="Training speech to encode.")] = 2.0,
    minutes: Annotated[float, typer.Option(help="CPU time of the training.")] = 6.0,
    steps: Annotated[int | None, typer.Option(help="Of the training, in place of --minutes.", min=1)] = None,
    hidden: Annotated[int, typer.Option(help="Units of the GRU.")] = 192,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    allow_outside: AllowOutside = False,
) -> None:
    """Train the small model of codes that `mimotok encode --entropy` needs; needs pip install 'mimotok[entropy]'.

    Example: python -m train code-model --manifest manifest.jsonl --root data --model checkpoints/mine
    """
    from train.tools.code_model import train_code_model

    say(
        train_code_model(
            manifest,
            root=root,
            model=model,
            out=out,
            codes=codes,
            hours=hours,
            minutes=minutes,
            steps=steps,
            hidden=hidden,
            seed=seed,
            allow_outside=allow_outside,
        )
    )


@app.command()
def transcribe(
    path: Annotated[Path, typer.Argument(help="A codes file (.npz) or an audio file.")],
    checkpoint: Annotated[Path, typer.Option(help="Folder that `export` wrote from a joint run.")],
) -> None:
    """Print the text that the joint stage's text decoder reads in the tokens.

    Example: python -m train transcribe out.npz --checkpoint checkpoints/joint
    """
    from train.tools.transcribe import transcribe as read

    say(read(checkpoint, path))


def main() -> None:
    """Run a tool or Lightning, as the first word says. Bad input and a full disk end in one line and exit code 2."""
    with errors_in_one_line("error"), _remedies():
        if len(sys.argv) > 1 and sys.argv[1] not in (*TOOLS, "--help"):
            _lightning()
        else:
            app()


@contextmanager
def _remedies() -> Iterator[None]:
    """Add to an error what a user can do about it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    except ImportError as error:
        if "pip install" in str(error):
            raise
        raise ImportError(f"{error}: training needs: pip install '.[train]'") from error


if __name__ == "__main__":
    run_command(main)

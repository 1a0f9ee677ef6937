"""What do the skip and the losses for meaning give? Four runs of one seed and budget, and one table.

python -m scripts.ablation --manifest manifest.jsonl --root data --labels labels.jsonl

Arms: {skip, no skip} x {losses for meaning, none} (train/configs/ablation). Each is trained, exported, and measured by
`python -m eval`: sound, voice, pitch, and how well a linear classifier tells phones from its tokens. The same command
goes on where it was stopped.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from mimotok.io.files import make_folder
from mimotok.io.terminal.streams import errors_in_one_line
from train.data.manifest import manifest_row, read_manifest

CONFIGS = Path("train/configs/ablation")
FIGURES = {
    "phone_accuracy": "phone probe ↑",
    "pnmi": "PNMI of codebook 1 ↑",
    "sim": "SIM (Resemblyzer) ↑",
    "f0_correlation": "F0 correlation ↑",
    "pesq_wb": "PESQ-WB ↑",
    "stoi": "STOI ↑",
}


class Arm(NamedTuple):
    """One of the four runs."""

    skip: bool
    meaning: bool

    @property
    def name(self) -> str:
        """Name of its folder."""
        shape = "skip" if self.skip else "no_skip"
        losses = "meaning" if self.meaning else "sound"
        return f"{shape}-{losses}"

    @property
    def configs(self) -> list[Path]:
        """Configs of its training, in order."""
        added = [("no_skip", not self.skip), ("meaning", self.meaning)]
        return [CONFIGS / "base.yaml", *(CONFIGS / f"{name}.yaml" for name, wanted in added if wanted)]


class Speech(NamedTuple):
    """What all arms hear."""

    manifest: Path
    root: Path
    labels: Path


ARMS = [Arm(skip, meaning) for skip in (True, False) for meaning in (True, False)]


def python(*words: object) -> None:
    """Run `python -m ...`. Raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True)


def train(arm: Arm, runs: Path, speech: Speech, steps: int, seed: int) -> Path:
    """Return the folder of the exported arm, which is trained first where it is missing."""
    budget = f"{steps}-steps-seed-{seed}"
    run = runs / budget / arm.name
    exported = runs / budget / "models" / arm.name
    if (exported / "model.safetensors").exists():
        return exported
    settings: dict[str, object] = {
        "seed_everything": seed,
        "data.manifest": speech.manifest,
        "data.root": speech.root,
        "trainer.max_steps": steps,
        "trainer.val_check_interval": steps,
        "trainer.default_root_dir": run,
    }
    if arm.meaning:
        settings["data.alignments"] = speech.labels
    configs = [word for path in arm.configs for word in ("--config", path)]
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    # a finished run is refused by `fit`; it may have been stopped before its export
    finished = run / "finished"
    if not finished.exists():
        python("train", "fit", *configs, *words)
        finished.touch()
    python("train", "export", "--checkpoint", run / "checkpoints" / "last.ckpt", "--out", exported)
    return exported


def write_held_out(speech: Speech, folder: Path) -> Path:
    """Write a manifest of the clips that no arm is trained on: phones of others would favour those that knew them."""
    make_folder(folder)
    path = folder / "held_out.jsonl"
    clips = [clip for clip in read_manifest(str(speech.manifest), str(speech.root)) if clip.split != "train"]
    if not clips:
        raise ValueError(f"{speech.manifest}: no clip of a split other than train, to measure on")
    path.write_text("".join(json.dumps(manifest_row(clip) | {"split": clip.split}) + "\n" for clip in clips))
    return path


def rows(results: dict[str, Any]) -> list[list[str]]:
    """Return a line of the table for each arm, in order."""
    measured = {Path(codec["label"]).name: codec["summary"] for codec in results["codecs"]}

    def cell(summary: dict[str, Any]) -> str:
        mean, low, high = (f"{summary[name]:.3f}" for name in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    def row(arm: Arm) -> list[str]:
        shape = "skip" if arm.skip else "no skip"
        losses = "for sound and meaning" if arm.meaning else "for sound"
        return [shape, losses, *(cell(measured[arm.name][name]) for name in FIGURES)]

    return [row(arm) for arm in ARMS]


def report(out: Path, budget: str, command: str) -> str:
    """Write report.md from what eval wrote, and return it."""
    results = json.loads((out / "results.json").read_text())
    header = ["encoder", "losses", *FIGURES.values()]
    lines = [header, ["---"] * len(header), *rows(results)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = f"""# Skip and losses for meaning: an ablation

    {command}

{budget} Intervals are 95 % bootstrap intervals over recordings; they do not cover the seed.

{table}
"""
    (out / "report.md").write_text(text)
    return text


def main(
    manifest: Annotated[Path, typer.Option(help="JSONL manifest with splits and texts.")],
    root: Annotated[Path, typer.Option(help="Folder of relative audio paths.")],
    labels: Annotated[Path, typer.Option(help="Phone labels by `python -m train align`.")],
    out: Annotated[Path, typer.Option(help="Folder of the table.")] = Path("reports/ablation"),
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/ablation"),
    steps: Annotated[int, typer.Option(help="Optimiser steps of each arm, of 20 s of audio.")] = 600,
    every: Annotated[int, typer.Option(help="Measure every Nth recording of the dev split.")] = 2,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    measured: Annotated[
        Path | None, typer.Option(help="Manifest to measure on; what is not trained on of the other if left out.")
    ] = None,
    measured_labels: Annotated[Path | None, typer.Option(help="Labels to measure with; those of training.")] = None,
) -> None:
    """Train and measure the four arms; write and print the table."""
    speech = Speech(manifest, root, labels)
    measured = measured or write_held_out(speech, runs)
    models = [train(arm, runs, speech, steps, seed) for arm in ARMS]
    words = ["--codec", *models, "--manifest", measured, "--root", root, "--split", "dev", "--every", every]
    figures = ["--metric", "signal", "sim", "pitch", "phones", "--labels", measured_labels or labels]
    python("eval", *words, *figures, "--out", out)
    budget = (
        f"Per arm: {steps} steps of 20 s of audio ({steps * 20 / 3600:.1f} hours heard), seed {seed}. Measured on "
        f"one of {every} recordings of the dev split with 8 codebooks, 1550 bit/s; phones on all labelled clips "
        "that were not trained on."
    )
    print(report(out, budget, "python -m scripts.ablation " + shlex.join(sys.argv[1:])))


if __name__ == "__main__":
    try:
        with errors_in_one_line("ablation"):
            typer.run(main)
    except subprocess.CalledProcessError as error:
        sys.exit(f"ablation: {shlex.join(error.cmd[1:])} ended with exit code {error.returncode}")

"""Do the skip and the text loss do what the paper says? Four runs of one seed and budget, and one table.

python -m scripts.ablation --manifest manifest.jsonl --root data

Arms: {skip, no skip} x {text, no text} (train/configs/ablation). Each is trained, exported, measured by
`python -m eval`, and read by the probe of `python -m eval probe`, a small text reader trained from scratch on its
frozen codes. The same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

CONFIGS = Path("train/configs/ablation")
ARMS = ("skip_text", "skip_no_text", "no_skip_text", "no_skip_no_text")
SIGNAL = {"pesq_wb": "PESQ-WB ↑", "stoi": "STOI ↑", "sim": "SIM (Resemblyzer) ↑"}
READ = {"cer": "probe CER ↓", "wer": "probe WER ↓"}


def python(*words: object) -> None:
    """Run `python -m ...`. Raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True)


def train(arm: str, runs: Path, manifest: Path, root: Path, steps: int, seed: int) -> Path:
    """Return the folder of the exported arm, which is trained first where it is missing."""
    budget = f"{steps}-steps-seed-{seed}"
    run = runs / budget / arm
    exported = runs / budget / "models" / arm
    if (exported / "model.safetensors").exists():
        return exported
    settings: dict[str, object] = {
        "seed_everything": seed,
        "data.manifest": manifest,
        "data.root": root,
        "trainer.max_steps": steps,
        "trainer.val_check_interval": steps,
        "trainer.default_root_dir": run,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    # a finished run is refused by `fit`; it may have been stopped before its export
    finished = run / "finished"
    if not finished.exists():
        python("train", "fit", "--config", CONFIGS / "base.yaml", "--config", CONFIGS / f"{arm}.yaml", *words)
        finished.touch()
    python("train", "export", "--checkpoint", run / "checkpoints" / "last.ckpt", "--out", exported)
    return exported


def rows(results: dict[str, Any], probes: dict[str, Any]) -> list[list[str]]:
    """Return a line of the table for each arm, in order."""
    measured = {Path(codec["label"]).name: codec["summary"] for codec in results["codecs"]}
    read = {Path(row["codec"]).name: row for row in probes["rows"]}

    def cell(summary: dict[str, Any], digits: int) -> str:
        mean, low, high = (f"{summary[name]:.{digits}f}" for name in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    return [
        [
            arm.removesuffix("_no_text").removesuffix("_text").replace("_", " "),
            "no text" if arm.endswith("no_text") else "text",
            *(cell(measured[arm][name], 3) for name in SIGNAL),
            *(cell(read[arm][name], 3) for name in READ),
        ]
        for arm in ARMS
    ]


def report(out: Path, budget: str, command: str) -> str:
    """Write report.md from what eval wrote, and return it."""
    results = json.loads((out / "results.json").read_text())
    probes = json.loads((out / "probe.json").read_text())
    header = ["encoder", "loss", *SIGNAL.values(), *READ.values()]
    lines = [header, ["---"] * len(header), *rows(results, probes)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = f"""# Skip and text loss: an ablation

    {command}

{budget} Intervals are 95 % bootstrap intervals over recordings; they do not cover the seed.

{table}
"""
    (out / "report.md").write_text(text)
    return text


def main(
    manifest: Annotated[Path, typer.Option(help="JSONL manifest with splits and texts.")],
    root: Annotated[Path, typer.Option(help="Folder of relative audio paths.")],
    out: Annotated[Path, typer.Option(help="Folder of the table.")] = Path("reports/ablation"),
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/ablation"),
    steps: Annotated[int, typer.Option(help="Optimiser steps of each arm, of 24 s of audio.")] = 600,
    probe_steps: Annotated[int, typer.Option(help="Steps of each probe.")] = 1000,
    every: Annotated[int, typer.Option(help="Measure every Nth recording of the dev split.")] = 2,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
) -> None:
    """Train, measure and read the four arms; write and print the table."""
    models = [train(arm, runs, manifest, root, steps, seed) for arm in ARMS]
    shared = ["--codec", *models, "--manifest", manifest, "--root", root, "--split", "dev", "--out", out]
    python("eval", *shared, "--every", every, "--metric", "signal", "sim")
    python("eval", "probe", *shared, "--steps", probe_steps, "--seed", seed)
    budget = (
        f"Per arm: {steps} steps of 24 s of audio ({steps * 24 / 3600:.1f} hours heard), seed {seed}; probes: "
        f"{probe_steps} steps on the codes of the train split. Measured on the dev split with 8 codebooks, "
        f"1550 bit/s; the probe on those of its recordings whose text a human wrote, signals on every {every}th."
    )
    print(report(out, budget, "python -m scripts.ablation " + shlex.join(sys.argv[1:])))


if __name__ == "__main__":
    try:
        typer.run(main)
    except subprocess.CalledProcessError as error:
        sys.exit(f"ablation: {shlex.join(error.cmd[1:])} ended with exit code {error.returncode}")

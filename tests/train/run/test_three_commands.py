"""The three commands of docs/train.md lead from a folder in LJSpeech's layout to an evaluated model."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile

from tests.helpers.paths import CONFIGS, ROOT

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")
pytest.importorskip("pesq", reason="needs: pip install 'mimotok[eval]'")

from eval.__main__ import main as evaluate
from eval.run import tasks
from train.__main__ import main as train

pytestmark = pytest.mark.slow


def commands() -> list[list[str]]:
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    block = re.search(r"## From a folder to an evaluated model.*?```bash\n(.*?)```", page, re.DOTALL)
    return [shlex.split(line) for line in block[1].splitlines()]


def make_ljspeech(folder: Path) -> None:
    (folder / "wavs").mkdir(parents=True)
    lines = []
    for k in range(8):
        time = np.arange(24_000) / 24_000
        wav = 0.1 * sum(np.sin(2 * np.pi * (100 + 10 * k) * n * time) / n for n in range(1, 9))
        wav = wav * (1.1 + np.sin(2 * np.pi * 3 * time))
        soundfile.write(folder / "wavs" / f"LJ001-000{k}.wav", wav, 24_000)
        lines.append(f"LJ001-000{k}|Clip {k}|clip number {k}\n")
    (folder / "metadata.csv").write_text("".join(lines))


def exit_code(main: Callable[[], None], words: list[str]) -> int | str:
    with mock.patch("sys.argv", words):
        try:
            main()
        except SystemExit as stopped:
            return stopped.code or 0
    return 0


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ljspeech(tmp_path / "LJSpeech-1.1")
    monkeypatch.chdir(tmp_path)
    # a process of its own for each step would import everything again
    monkeypatch.setattr(tasks, "_run_one_by_one", tasks._run_here)
    fit, export, measure = commands()
    fit[fit.index("--config") + 1] = str(CONFIGS / "tiny.yaml")
    fit[fit.index("--data.val_fraction") + 1] = "0.2"
    few = ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu"]
    for line, main in ((fit + few, train), (export, train), ([*measure, "--metric", "signal"], evaluate)):
        assert line[:2] == ["python", "-m"]
        assert exit_code(main, line[2:]) == 0
    held_out = [json.loads(row)["id"] for row in Path("runs/mine/held_out.jsonl").read_text().splitlines()]
    assert len(held_out) == 2
    results = json.loads(Path("runs/mine/report/results.json").read_text())
    assert [clip["id"] if isinstance(clip, dict) else clip for clip in results["clips"]] == held_out
    assert Path("runs/mine/report/index.html").is_file()

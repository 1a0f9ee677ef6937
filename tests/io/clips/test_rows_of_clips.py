"""One rule for the lines of a manifest in every command that reads them: tokenize, train and eval."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from eval.testlists import read_test_list
from mimotok.corpus.inputs import read_input
from train.data.manifest import read_manifest

Reader = Callable[..., list[Any]]


def tokenize(path: Path, root: Path, **options: Any) -> list[Any]:
    return read_input(str(path), root=str(root), **options).clips


def train(path: Path, root: Path, **options: Any) -> list[Any]:
    return read_manifest(str(path), str(root), **options)


def evaluate(path: Path, root: Path, **options: Any) -> list[Any]:
    return read_test_list(path, root=root, **options)


READERS = [tokenize, train, evaluate]
GOOD = {"audio": "a.wav", "duration": 1.0, "id": "good"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    for folder in (tmp_path / "root", tmp_path):
        soundfile.write(folder / "a.wav", np.zeros(100), 8000)
    (tmp_path / "lists").mkdir()
    return tmp_path / "root"


def manifest(root: Path, *rows: Any, start: str = "") -> Path:
    path = root.parent / "lists" / "m.jsonl"
    path.write_text(start + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio": 7}, "needs `audio`"),
        ({"audio": ["a.wav"]}, "needs `audio`"),
        ({"audio": None}, "needs `audio`"),
        ({"text": ["a"]}, "text=.*is a list"),
        ({"text": 4.5}, "text=.*is a float"),
        ({"text": True}, "text=.*is a bool"),
        ({"speaker": {}}, "speaker=.*is a dict"),
        ({"split": [1]}, "split=.*is a list"),
        ({"id": 1.5}, "id=.*is a float"),
        ({"duration": "long"}, "duration='long'"),
        ({"duration": True}, "duration=True"),
        ({"duration": -1}, "duration=-1"),
        ({"duration": float("nan")}, "duration=nan"),
        ({"duration": float("inf")}, "duration=inf"),
        ({"duration": 10**400}, "duration=a number of about 400 digits"),
    ],
)
def test_values_of_another_type_are_reported_with_file_and_line(
    root: Path, reader: Reader, row: dict[str, Any], message: str
) -> None:
    path = manifest(root, GOOD, GOOD | {"id": "bad"} | row)
    with pytest.raises(ValueError, match=rf"m\.jsonl:2: .*{message}") as caught:
        reader(path, root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_whole_numbers_are_texts_and_a_byte_order_mark_is_nothing(root: Path, reader: Reader) -> None:
    path = manifest(root, GOOD | {"text": 42, "speaker": 7, "id": 3, "source": None, "split": "test"}, start="\ufeff")
    (clip,) = reader(path, root)
    if reader is tokenize:
        read = (clip.key, clip.metadata["text"], clip.metadata["speaker"])
    else:
        read = (clip.id, clip.text, clip.speaker)
    assert read == ("3", "42", "7")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["..", "absolute", "link"])
def test_paths_that_leave_the_root_are_refused_unless_they_are_allowed(root: Path, reader: Reader, kind: str) -> None:
    outside = root.parent / "a.wav"
    audio = {"..": "../a.wav", "absolute": str(outside), "link": "sub/../../a.wav"}[kind]
    path = manifest(root, GOOD, {"audio": audio, "duration": 1.0})
    with pytest.raises(ValueError, match=r"m\.jsonl:2: .*outside of the root .*--allow-outside"):
        reader(path, root)
    _, clip = reader(path, root, allow_outside=True)
    assert str(clip.audio["path"] if reader is tokenize else clip.audio) == str(outside)
    # a root above is the other remedy, where the paths are relative to it
    if kind == "absolute":
        assert len(reader(manifest(root, {"audio": audio, "duration": 1.0}), root.parent)) == 1


@pytest.mark.parametrize("reader", READERS)
def test_paths_below_the_root_or_beside_the_manifest_need_no_leave(root: Path, reader: Reader) -> None:
    beside = root.parent / "lists" / "b.wav"
    soundfile.write(beside, np.zeros(100), 8000)
    rows = [{"audio": name, "duration": 1.0} for name in ("a.wav", str(root / "a.wav"), "x/../a.wav", str(beside))]
    path = manifest(root, *[row | {"id": str(i)} for i, row in enumerate(rows)])
    assert len(reader(path, root)) == 4


@pytest.mark.parametrize("lines", ["x|said|../../a.wav|x", "../../../a|said"])
def test_lists_of_the_evaluation_keep_to_their_folder_too(root: Path, lines: str) -> None:
    if lines.startswith("x"):
        path = root / "meta.lst"
        path.write_text(lines)
    else:
        path = root
        (root / "metadata.csv").write_text(lines)
    with pytest.raises(ValueError, match=r":1: .*outside of the root"):
        read_test_list(path)
    assert len(read_test_list(path, allow_outside=True)) == 1


def test_a_clip_that_cannot_be_kept_is_skipped_in_training_with_its_reason(root: Path) -> None:
    from train.data.cache import prepare, read_prepared

    soundfile.write(root / "a.wav", np.sin(np.arange(8000)), 8000)
    rows = [GOOD, GOOD | {"id": "emoji", "text": "\ud83d"}, GOOD | {"id": "nul", "audio": "a\0.wav"}]
    folder = prepare(str(manifest(root, *rows)), str(root), str(root.parent / "cache"))
    clips, skipped = read_prepared(folder)
    assert [clip.id for clip in clips] == ["good"]
    assert "UTF-8" in skipped["emoji"]
    assert "NUL" in skipped["nul"]

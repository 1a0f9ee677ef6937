"""Nothing of a corpus is lost without a word: what cannot be kept is reported, and costs no other clip."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mimotok import Tokenizer
from mimotok.corpus.inputs import read_input
from mimotok.corpus.ledger import read_entries, read_failures
from mimotok.corpus.run import tokenize_corpus

RATE = 24_000
QUICK: dict[str, Any] = {"workers": 0, "shard_hours": 0.01 / 3600}


def sound(seed: int = 0) -> bytes:
    data = io.BytesIO()
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, 2000)
    soundfile.write(data, samples, RATE, format="WAV")
    return data.getvalue()


def write_tar(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items() if isinstance(members, dict) else members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def keys_of(out: Path) -> list[str]:
    return sorted(key for entry in read_entries(out) for key in entry.keys)


def test_every_sound_of_a_tar_is_a_clip_whatever_the_dots_in_its_name(tmp_path: Path) -> None:
    names = ["talk_1.0s.wav", "talk_1.5s.wav", "one.wav", "d/a.left.wav", "d/a.right.flac", "Dr. Who.wav", ".b.wav"]
    members = [(name, sound(i)) for i, name in enumerate(names)]
    about = {"talk_1.0s.txt": "zero", "one.txt": "one", "d/a.json": '{"speaker": "x"}', "d/a.left.txt": "left"}
    members += [(name, text.encode()) for name, text in about.items()]
    members += [("one.wav", sound(99)), ("lost.m4a", b"x"), ("lost.cls", b"1")]
    listing = read_input(str(write_tar(tmp_path / "t.tar", members)))
    texts = {clip.key.removeprefix("t.tar/"): clip.metadata for clip in listing.clips}
    assert texts == {
        "talk_1.0s.wav": {"text": "zero"},
        "talk_1.5s.wav": {},
        "one.wav": {"text": "one"},
        "one.wav#2": {"text": "one"},
        "d/a.left.wav": {"speaker": "x", "text": "left"},
        "d/a.right.flac": {"speaker": "x"},
        "Dr": {},
        ".b": {},
    }
    assert len({tuple(clip.audio["span"]) for clip in listing.clips}) == len(names) + 1
    assert listing.notes == ["in tars, not read: 1 .m4a, 1 .cls"]


@pytest.mark.parametrize("kind", ["surrogate in a text", "name in Latin-1", "NUL in a path", "names in a tar"])
@pytest.mark.parametrize("format", ["parquet", "webdataset", "shar"])
def test_a_name_or_text_that_cannot_be_kept_costs_its_own_clip_alone(
    tmp_path: Path, tokenizer: Tokenizer, kind: str, format: str
) -> None:
    if format == "shar":
        pytest.importorskip("lhotse")
    audio = tmp_path / "audio"
    audio.mkdir()
    for name in ("a", "b", "c"):
        (audio / f"{name}.wav").write_bytes(sound())
    source = audio
    if kind == "name in Latin-1":
        with open(os.fsencode(audio) + b"/b_caf\xe9.wav", "wb") as file:
            file.write(sound())
        (audio / "b.wav").unlink()
    elif kind == "names in a tar":
        (audio / "b.wav").unlink()
        write_tar(audio / "t.tar", {"b\udce9.wav": sound()})
    else:
        rows = [{"audio": f"{name}.wav", "text": "fine"} for name in ("a", "b", "c")]
        rows[1] |= {"text": "\ud83d"} if "text" in kind else {"audio": "b\0.wav"}
        source = tmp_path / "m.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):  # the second run is the resumed one
        done = tokenize_corpus(source, tmp_path / "out", tokenizer, root=audio, format=format, **QUICK)
        assert (done.clips, done.failed) == (2, 1)
    assert keys_of(tmp_path / "out") == ["a.wav", "c.wav"]
    (failure,) = read_failures(tmp_path / "out")
    assert "UTF-8" in failure.reason or "NUL" in failure.reason


def test_sounds_and_tars_links_and_hidden_files_are_all_read_and_the_rest_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    elsewhere = tmp_path / "elsewhere"
    for path in (folder / ".hidden", folder / "sub", elsewhere):
        path.mkdir(parents=True)
    for path in (folder / "a.wav", folder / ".hidden" / ".b.wav", folder / "sub" / "c.wav", elsewhere / "d.wav"):
        path.write_bytes(sound())
    write_tar(folder / "t.tar", {"x.wav": sound()})
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder / "sub")
    (folder / "sub" / "up").symlink_to(tmp_path)
    (folder / "e.m4a").touch()
    (folder / "m.jsonl").touch()
    (folder / "README").touch()
    listing = read_input(str(folder))
    assert sorted(clip.key for clip in listing.clips) == [
        ".hidden/.b.wav",
        "a.wav",
        "linked/d.wav",
        "sub/c.wav",
        "t.tar/x",
    ]
    message = "; ".join(listing.notes)
    for part in ("1 .m4a", "1 .jsonl", "1 without a suffix", "2 links to folders", "4 sound files and 1 tars"):
        assert part in message


@pytest.mark.parametrize("kind", ["folder", "tar", "tars"])
def test_no_sound_at_all_is_an_error_that_says_what_is_there(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    source = tmp_path / "in"
    if kind == "folder":
        (source / "a.m4a").touch()
    else:
        write_tar(source / "t.tar", {"a.m4a": b"x"})
    with pytest.raises(ValueError, match=r"1 \.m4a"):
        read_input(str(source / "t.tar" if kind == "tar" else source))


@pytest.mark.parametrize("kind", ["folder", "manifest", "tar", "cuts"])
def test_tokens_of_another_sound_are_not_taken_for_those_of_this_one(
    tmp_path: Path, tokenizer: Tokenizer, kind: str
) -> None:
    roots = [tmp_path / "noisy", tmp_path / "clean"]
    sources = []
    for seed, root in enumerate(roots):
        root.mkdir()
        source = root
        if kind == "tar":
            source = write_tar(
                root / "t.tar", {name: sound(10 * seed + i) for i, name in enumerate(("a.wav", "b.wav"))}
            )
        else:
            for i, name in enumerate(("a.wav", "b.wav")):
                (root / name).write_bytes(sound(10 * seed + i))
        if kind in ("manifest", "cuts"):
            source = tmp_path / "m.jsonl"
            source.write_text("".join(json.dumps(row(name, kind)) + "\n" for name in ("a.wav", "b.wav")))
        sources.append(str(source))
    out = tmp_path / "out"
    for _ in range(2):
        assert tokenize_corpus(sources[0], out, tokenizer, root=str(roots[0]), **QUICK).clips == 2
    with pytest.raises(ValueError, match="2 clips whose sound is another one now"):
        tokenize_corpus(sources[1], out, tokenizer, root=str(roots[1]), **QUICK)
    if kind != "tar":
        (roots[0] / "b.wav").write_bytes(sound(7) + bytes(2))
        with pytest.raises(ValueError, match=r"1 clips .*'b"):
            tokenize_corpus(sources[0], out, tokenizer, root=str(roots[0]), **QUICK)
        (roots[0] / "b.wav").unlink()  # what is gone is not another
        if kind != "folder":
            assert tokenize_corpus(sources[0], out, tokenizer, root=str(roots[0]), **QUICK).clips == 2


def row(name: str, kind: str) -> dict:
    if kind == "manifest":
        return {"audio": name}
    pytest.importorskip("lhotse")
    source = {"type": "file", "channels": [0], "source": name}
    recording = {"id": name, "sources": [source], "sampling_rate": RATE, "num_samples": 2000, "duration": 2000 / RATE}
    cut = {"id": name, "start": 0, "duration": 2000 / RATE, "channel": 0, "supervisions": [], "recording": recording}
    return cut | {"type": "MonoCut"}

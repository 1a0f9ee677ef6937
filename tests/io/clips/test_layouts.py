"""One reader for training and evaluation: each layout gives both the same recordings; commands are never run."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from eval.run.steps import _load_levelled
from eval.testlists import read_test_list
from mimotok.corpus.clips import read_clip
from mimotok.corpus.inputs import read_input
from mimotok.corpus.recordings import load_recording, read_recordings, with_durations
from train.data.cache import prepare, read_prepared
from train.data.manifest import BadClipError, decode, read, read_manifest

RATE = 16000
TEXTS = {"s1-c-0001": "he began", "s1-c-0002": 'to "speak"', "s2-c-0001": "of it"}
SECONDS = {name: 0.5 + 0.1 * k for k, name in enumerate(TEXTS)}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def sound(folder: Path, name: str, suffix: str) -> Path:
    seed = list(TEXTS).index(name)
    wav = 0.1 * np.random.default_rng(seed).standard_normal(round(SECONDS[name] * RATE))
    path = folder / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, RATE)
    return path


def ljspeech(folder: Path) -> Path:
    for name in TEXTS:
        sound(folder / "wavs", name, ".wav")
    write(folder / "metadata.csv", "".join(f"{name}|as read|{text}\n" for name, text in TEXTS.items()))
    return folder


def librispeech(folder: Path) -> Path:
    for name in TEXTS:
        sound(folder / name[:2] / "c", name, ".flac")
    for speaker in ("s1", "s2"):
        lines = [f"{name} {text}\n" for name, text in TEXTS.items() if name.startswith(speaker)]
        write(folder / speaker / "c" / f"{speaker}-c.trans.txt", "".join(lines))
    return folder


def audio_folder(folder: Path) -> Path:
    rows = [{"file_name": f"x/{name}.wav", "transcription": text, "speaker": name[:2]} for name, text in TEXTS.items()]
    for name in TEXTS:
        sound(folder / "x", name, ".wav")
    write(folder / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    return folder


def common_voice(folder: Path) -> Path:
    header = "client_id\tpath\tsentence\tlocale\n"
    lines = [f"{name[:2]}\t{name}.mp3\t{text}\ten\n" for name, text in TEXTS.items()]
    for name in TEXTS:
        sound(folder / "clips", name, ".mp3")
    write(folder / "validated.tsv", header + "".join(lines))
    milliseconds = [f"{name}.mp3\t{round(1000 * seconds)}\n" for name, seconds in SECONDS.items()]
    write(folder / "clip_durations.tsv", "clip\tduration[ms]\n" + "".join(milliseconds))
    return folder


def common_voice_list(folder: Path) -> Path:
    return common_voice(folder) / "validated.tsv"


def jsonl(folder: Path) -> Path:
    rows = [{"audio": f"{name}.wav", "text": text, "speaker": name[:2]} for name, text in TEXTS.items()]
    for name in TEXTS:
        sound(folder, name, ".wav")
    return write(folder / "m.jsonl", "\n".join(map(json.dumps, rows)))


def cut_rows(folder: Path) -> list[dict[str, Any]]:
    """Cuts out of the middle of longer files, with their texts."""
    rows = []
    for name, text in TEXTS.items():
        inner = soundfile.read(sound(folder, name, ".wav"))[0]
        soundfile.write(folder / f"{name}.wav", np.concatenate([0 * inner, inner, 0 * inner]), RATE)
        seconds = SECONDS[name]
        source = {"type": "file", "channels": [0], "source": f"{name}.wav"}
        facts = {"sampling_rate": RATE, "num_samples": 3 * len(inner), "duration": 3 * len(inner) / RATE}
        said = {"id": name, "recording_id": name, "start": 0.0, "duration": seconds, "channel": 0, "text": text}
        rows.append(
            {
                "id": name,
                "start": len(inner) / RATE,
                "duration": len(inner) / RATE,
                "channel": 0,
                "supervisions": [said | {"speaker": name[:2]}],
                "recording": {"id": name, "sources": [source], "channel_ids": [0], **facts},
                "type": "MonoCut",
            }
        )
    return rows


def cut_set(folder: Path) -> Path:
    pytest.importorskip("lhotse")
    folder.mkdir()
    return write(folder / "cuts.jsonl", "\n".join(map(json.dumps, cut_rows(folder))))


def shar(folder: Path) -> Path:
    lhotse = pytest.importorskip("lhotse")
    (folder / "shar").mkdir(parents=True)
    cuts = [clip.cut for clip in read_recordings(str(cut_set(folder / "files")))]
    lhotse.CutSet.from_cuts(cuts).to_shar(folder / "shar", fields={"recording": "wav"}, shard_size=2)
    return folder / "shar"


LAYOUTS = [ljspeech, librispeech, audio_folder, common_voice, common_voice_list, jsonl, cut_set, shar]
Layout = Callable[[Path], Path]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_evaluation_and_training_the_same_recordings(layout: Layout, tmp_path: Path) -> None:
    path = layout(tmp_path / "corpus-1.1")
    clips = read_test_list(path)
    assert [clip.text for clip in clips] == list(TEXTS.values())
    if layout is not ljspeech:
        assert [clip.speaker for clip in clips] == ["s1", "s1", "s2"]
    timed = with_durations(clips)
    assert [clip.duration for clip in timed] == pytest.approx(list(SECONDS.values()), abs=0.06)
    for clip, seconds in zip(clips, SECONDS.values(), strict=True):
        wav = load_recording(clip, RATE)
        # padding at either end belongs to MP3
        assert len(wav) == pytest.approx(seconds * RATE, abs=1200 if clip.audio.endswith("mp3") else 1)
        assert 0.08 < wav.std() < 0.12
        assert np.abs(_load_levelled(clip)).max() == pytest.approx(0.7)
    trained = read_manifest(str(path), str(tmp_path / "elsewhere") if path.is_dir() else str(path.parent))
    fields = [(clip.id, clip.text, clip.speaker, clip.language, clip.audio) for clip in clips]
    assert [(clip.id, clip.text, clip.speaker, clip.language, clip.audio) for clip in trained] == fields
    assert {clip.split for clip in trained} == {"train"}
    assert {clip.source for clip in trained} == {path.name if path.is_dir() else path.stem}
    # tokens are made of the folder, and their keys are its paths
    tokenized = read_input(str(path.parent if layout is common_voice_list else path), root=str(path.parent))
    by_sound = sorted(tokenized.clips, key=lambda item: item.key)
    assert [item.metadata["text"] for item in by_sound] == list(TEXTS.values())
    if layout is not ljspeech:
        assert [item.metadata["speaker"] for item in by_sound] == ["s1", "s1", "s2"]
    for item, clip in zip(by_sound, clips, strict=True):
        blocks = [block[0].numpy() for block in read_clip(item, RATE)]
        np.testing.assert_allclose(np.concatenate(blocks), load_recording(clip, RATE), atol=1e-4)
    prepared, skipped = read_prepared(prepare(str(path), str(path.parent), str(tmp_path / "cache")))
    assert skipped == {}
    for clip, other, decoded in zip(trained, clips, prepared, strict=True):
        wav, rate = decode(clip)
        np.testing.assert_array_equal(wav, load_recording(other, rate))
        expected = (clip.id, clip.text, clip.speaker, clip.source)
        assert (decoded.id, decoded.text, decoded.speaker, decoded.source) == expected
        np.testing.assert_allclose(read(decoded)[0], wav, atol=1 / 32768)


def test_a_folder_of_audio_needs_no_list(tmp_path: Path) -> None:
    for name in TEXTS:
        sound(tmp_path / name[:2], name, ".wav")
    write(tmp_path / "broken.wav", "no sound")
    clips = read_manifest(str(tmp_path))
    assert [clip.id for clip in clips] == ["broken.wav", *(f"{name[:2]}/{name}.wav" for name in TEXTS)]
    with pytest.raises(BadClipError, match="corrupt"):
        decode(clips[0])
    assert [clip.duration for clip in clips] == pytest.approx([0.0, *SECONDS.values()], abs=1e-3)


@pytest.mark.parametrize("layout", [librispeech, audio_folder, common_voice])
def test_parts_of_a_corpus_keep_their_split(layout: Layout, tmp_path: Path) -> None:
    if layout is common_voice:
        folder = common_voice(tmp_path / "corpus")
        header, *lines = (folder / "validated.tsv").read_text().splitlines()
        for split, line in zip(("train", "dev", "test"), lines, strict=True):
            write(folder / f"{split}.tsv", f"{header}\n{line}\n")
    else:
        folder = tmp_path / "corpus"
        whole = layout(tmp_path / "whole")
        named = ("train-clean", "dev-other", "test-x") if layout is librispeech else ("train", "validation", "test")
        for name in named:
            shutil.copytree(whole, folder / name)
    trained = read_manifest(str(folder))
    assert sorted({clip.split for clip in trained}) == ["dev", "test", "train"]
    tested = read_test_list(folder)
    assert {clip.split for clip in tested} == {"test"}
    assert 3 * len(tested) == len(trained)
    assert len({clip.id for clip in trained}) == len(trained)
    with pytest.raises(ValueError, match=r"no recordings of split x, only of dev, test, train"):
        read_test_list(folder, split="x")


LEAVING = {
    "metadata.csv": ("../../a|said\n", r"metadata\.csv:1: "),
    "meta.lst": ("x|said|../a.wav|more\n", r"meta\.lst:1: "),
    "metadata.jsonl": ('{"file_name": "../a.wav"}\n', r"metadata\.jsonl:1: "),
    "x.trans.txt": ("../a said\n", r"x\.trans\.txt:1: "),
    "validated.tsv": ("path\tsentence\n../../a.wav\tsaid\n", r"validated\.tsv:2: "),
    "m.jsonl": ('{"audio": "../a.wav", "duration": 1}\n', r"m\.jsonl:1: "),
}


@pytest.mark.parametrize("name", LEAVING)
@pytest.mark.parametrize("reader", ["train", "eval"])
def test_no_list_leads_out_of_its_folder(name: str, reader: str, tmp_path: Path) -> None:
    lines, message = LEAVING[name]
    path = write(tmp_path / "corpus" / name, lines)
    (path.parent / "clips").mkdir()
    source = path if path.suffix in (".lst",) or name == "m.jsonl" else path.parent

    def read(**options: Any) -> list[Any]:
        if reader == "train":
            return read_manifest(str(source), str(source if source.is_dir() else source.parent), **options)
        return read_test_list(source, **options)

    with pytest.raises(ValueError, match=message + r".*outside of the root .*--allow-outside"):
        read()
    (clip,) = read(allow_outside=True)
    assert clip.audio.startswith(str(tmp_path / "a."))


@pytest.mark.parametrize(("reader", "kind"), list(product(("train", "eval"), ("cut set", "shar"))))
def test_a_cut_that_names_a_command_is_refused_by_every_reader(reader: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("lhotse")
    marker = tmp_path / "marker"
    (tmp_path / "in").mkdir()
    row = cut_rows(tmp_path / "in")[0]
    row["recording"]["sources"] = [{"type": "command", "channels": [0], "source": f"touch {marker}"}]
    path = write(tmp_path / "in" / "cuts.000000.jsonl", json.dumps(row))
    with tarfile.open(tmp_path / "in" / "recording.000000.tar", "w") as tar:
        tar.add(tmp_path / "in" / f"{row['id']}.wav", f"{row['id']}.wav")
        write(tmp_path / "about.json", json.dumps(row["recording"]))
        tar.add(tmp_path / "about.json", f"{row['id']}.json")
    source = path if kind == "cut set" else path.parent
    with pytest.raises(ValueError, match=r"cuts\.000000\.jsonl:1: cut .*a source of the type 'command'"):
        list(read_manifest(str(source)) if reader == "train" else read_test_list(source))
    assert not marker.exists()


@pytest.mark.parametrize("duration", ["1", [], {}, True, -1, 10**400])
def test_a_cut_whose_duration_is_no_seconds_is_reported(duration: Any, tmp_path: Path) -> None:
    pytest.importorskip("lhotse")
    row = cut_rows(tmp_path)[0] | {"duration": duration}
    path = write(tmp_path / "cuts.jsonl", json.dumps(row))
    with pytest.raises(ValueError, match=r"cuts\.jsonl:1: .*duration") as caught:
        read_test_list(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("client_id\tpath\n1\ta.mp3\n", r"tsv:2: .*columns named path and sentence, this has client_id, path"),
        ("path\tsentence\na.mp3\n", r"tsv:2: 1 fields, but its header names 2"),
        ("path\tsentence\n\tsaid\n", r"tsv:2: "),
        ("", "no recordings"),
    ],
)
def test_a_tsv_that_is_not_common_voices_is_reported(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_test_list(write(tmp_path / "validated.tsv", text))


def test_quotes_in_common_voice_are_letters(tmp_path: Path) -> None:
    path = write(tmp_path / "validated.tsv", 'path\tsentence\na.mp3\t"Yes\nb\tNo"\n')
    assert [(clip.id, clip.text) for clip in read_test_list(path)] == [("a.mp3", '"Yes'), ("b.mp3", 'No"')]

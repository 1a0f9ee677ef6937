"""Every layout of test lists is read; what is wrong with one is reported with its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from eval.testlists import read_test_list, thin
from tests.helpers.evaluation_speech import speech


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_manifest_gives_the_rows_of_its_split(tmp_path: Path) -> None:
    rows = [
        {"audio": "a.wav", "split": "test", "text": " Hi. ", "language": "en", "text_source": "human"},
        {"audio": "b.wav", "split": "train"},
        {"audio": "c.wav", "text": "yo", "text_source": "whisper-tiny.en", "id": "c"},
    ]
    path = write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    # what has no split beside others is trained on
    (first,) = read_test_list(path)
    assert (first.id, first.audio, first.text, first.machine_text) == ("a.wav", str(tmp_path / "a.wav"), "Hi.", False)
    assert read_test_list(path, root=tmp_path / "x", split="train")[0].audio == str(tmp_path / "x" / "b.wav")
    write(path, json.dumps(rows[2]))
    (alone,) = read_test_list(path)
    assert (alone.id, alone.machine_text) == ("c", True)


@pytest.mark.parametrize("split", ["te\n", "s" * 5000], ids=["of two lines", "long"])
def test_what_a_manifest_says_is_quoted_in_one_short_line(split: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", json.dumps({"audio": "a.wav", "split": split, "id": split}))
    with pytest.raises(ValueError, match="no recordings of split test") as caught:
        read_test_list(path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300 + len(str(path))
    path.write_text(2 * (json.dumps({"audio": "a.wav", "split": "test", "id": split}) + "\n"))
    with pytest.raises(ValueError, match="two recordings are called") as caught:
        read_test_list(path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300 + len(str(path))


def test_seed_tts_eval_gives_each_real_recording_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "en" / "meta.lst",
        "u1|What he said.|prompt-wavs/p.wav|To be spoken.\nu2|What he said.|prompt-wavs/p.wav|More|wavs/u2.wav\n",
    )
    (clip,) = read_test_list(path)
    assert clip.audio == str(tmp_path / "en" / "prompt-wavs" / "p.wav")
    assert (clip.text, clip.language) == ("What he said.", "en")


def test_ljspeech_takes_the_written_out_text(tmp_path: Path) -> None:
    write(tmp_path / "metadata.csv", "LJ001-0001|In 1465|In fourteen sixty-five\n")
    (clip,) = read_test_list(tmp_path)
    assert (clip.audio, clip.text) == (str(tmp_path / "wavs" / "LJ001-0001.wav"), "In fourteen sixty-five")


def test_audio_folders_metadata_is_a_known_layout(tmp_path: Path) -> None:
    quoted = 'file_name,transcription,language\r\nx/a.wav,"He said, ""yes""\r\nand left.",en\r\nb.flac,,\r\n'
    rows = [{"file_name": "x/a.wav", "text": 'He said, "yes"\r\nand left.', "language": "en"}, {"file_name": "b.flac"}]
    for name, text in (("metadata.csv", "\ufeff" + quoted), ("metadata.jsonl", "\n".join(map(json.dumps, rows)))):
        folder = tmp_path / name.replace(".", "-")
        write(folder / name, text)
        first, second = read_test_list(folder)
        assert (first.id, first.audio, first.language) == ("x/a.wav", str(folder / "x" / "a.wav"), "en")
        assert first.text == 'He said, "yes"\r\nand left.'
        assert (second.id, second.text) == ("b.flac", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,words\na.wav,Hi\n", r"csv:1: neither LJSpeech's layout .*AudioFolder's"),
        ("file_name,transcription\na.wav,Hi,there\n", r"csv:2: 3 fields, but its header names 2"),
        ("file_name,transcription\n,Hi\n", r"csv:2: a recording needs file_name"),
        ("file_name,transcription\n../../a.wav,Hi\n", r"csv:2: .*outside of the root"),
        ('file_name,transcription\na.wav,"Hi\n', r"csv: cannot be read"),
    ],
)
def test_an_unknown_metadata_says_what_was_expected(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "metadata.csv", text)
    with pytest.raises(ValueError, match=message):
        read_test_list(tmp_path)


def test_librispeech_finds_transcripts_beside_the_audio(tmp_path: Path) -> None:
    write(tmp_path / "61" / "70968" / "61-70968.trans.txt", "61-70968-0000 HE BEGAN\n61-70968-0001 TO SPEAK\n")
    clips = read_test_list(tmp_path)
    assert [clip.text for clip in clips] == ["HE BEGAN", "TO SPEAK"]
    assert clips[1].audio == str(tmp_path / "61" / "70968" / "61-70968-0001.flac")


def test_a_folder_gives_its_audio_in_order(corpus) -> None:
    assert [clip.id for clip in read_test_list(corpus)] == ["a.wav", "b.wav", "c.wav"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.jsonl", "", "no recordings"),
        ("m.jsonl", "{", ":1: not JSON"),
        ("m.jsonl", "[1]", ":1: a clip is a JSON object"),
        ("m.jsonl", "{}", ":1: a clip needs"),
        ("m.jsonl", '{"audio": "a"}\n{"audio": "a"}', "two recordings are called a"),
        ("meta.lst", "a|b", ":1: 2 fields"),
    ],
)
def test_what_is_wrong_is_reported(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_test_list(write(tmp_path / name, text))


def test_a_missing_list_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_test_list(tmp_path / "nothing")


def test_thinning_drops_short_recordings_but_keeps_unreadable_ones_to_be_reported(corpus) -> None:
    soundfile.write(corpus / "short.wav", speech(0.5), 24000)
    write(corpus / "broken.wav", "no audio")
    messages: list[str] = []
    clips = thin(read_test_list(corpus), every=2, min_seconds=1.6, notify=messages.append)
    assert [clip.id for clip in clips] == ["b.wav", "c.wav"]
    assert len(messages) == 1
    with pytest.raises(ValueError, match="no recording lasts"):
        thin([clip for clip in clips if clip.id == "b.wav"], min_seconds=99, notify=messages.append)

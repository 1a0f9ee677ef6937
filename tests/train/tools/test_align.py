"""Forced alignment: labels cover the clip in order, reasons are counted, a killed run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

from mimotok.io.audio import load_audio
from mimotok.io.clips.alignments import read_alignments, read_words
from mimotok.io.clips.clip import Clip
from mimotok.io.clips.phones import Phone, Word
from tests.helpers.paths import SAMPLE
from train.data.cache import prepare, read_prepared
from train.data.manifest import read_manifest, with_phones
from train.tools import align as module
from train.tools.align import NotAlignedError, align, fitted, moved, spell

pytestmark = pytest.mark.slow

SAID = (
    "A kodak turns speech into a handful of numbers each second, and these numbers back into speech. "
    "What you hear now has made that journey."
)


def test_texts_become_words() -> None:
    assert spell("Don't stop—it’s 5 o'clock!") == ["don't", "stop", "it's", "five", "o'clock"]
    assert spell("in 1665, 1805 and 1900: 317") == [
        *("in", "sixteen", "sixty", "five", "eighteen", "oh", "five", "and", "nineteen", "hundred"),
        *("three", "hundred", "seventeen"),
    ]
    # numbers of unclear reading stay digits, which no dictionary has
    assert spell("007 20000") == ["007", "20000"]


def test_phones_are_moved_back_by_the_margin_and_cover_the_clip() -> None:
    heard = [Phone("SIL", 0.0, 0.08), Phone("AH", 0.08, 0.3), Phone("N", 0.3, 0.62), Phone("SIL", 0.62, 0.8)]
    # a margin of .1 s on either side of a clip of .5 s: the last silence lies outside of it
    assert fitted(heard, 0.1, 0.5) == [("AH", 0.0, pytest.approx(0.2)), ("N", pytest.approx(0.2), 0.5)]
    with pytest.raises(NotAlignedError, match="no phone was found"):
        fitted([Phone("SIL", 0.0, 0.7)], 0.1, 0.5)


def test_words_are_moved_and_cut_at_the_ends() -> None:
    heard = [Word("an", 0.05, 0.3), Word("end", 0.3, 0.62), Word("late", 0.65, 0.7)]
    assert moved(heard, 0.1, 0.5) == [
        ("an", 0.0, pytest.approx(0.2)),
        ("end", pytest.approx(0.2), 0.5),
        ("late", 0.5, 0.5),
    ]


def test_a_file_without_words_says_so(tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"audio": "a", "phones": [["AH", 0, 1]]}\n')
    assert read_alignments(labels).parts_of([Clip("a", "a")]) == [(("AH", 0.0, 1.0),)]
    with pytest.raises(ValueError, match=r"labels\.jsonl:1: .*no words; align the clips again"):
        read_words(labels)
    labels.write_text('{"audio": "a", "phones": [], "words": [["b", 0.5, 1], ["c", 0.2, 0.4]]}\n')
    with pytest.raises(ValueError, match=r"'c' at 0\.2 to 0\.4 s, after a word that ends at 1\.0 s"):
        read_words(labels)


@pytest.fixture(scope="module")
def aligner() -> module.Aligner:
    pytest.importorskip("pocketsphinx", reason="needs: pip install 'mimotok[align]'")
    return module.Aligner()


def write_manifest(folder: Path, **fields: object) -> str:
    soundfile.write(folder / "a.wav", load_audio(SAMPLE, 24_000)[0].numpy(), 24_000)
    path = folder / "manifest.jsonl"
    path.write_text(json.dumps({"audio": "a.wav", "duration": 7.0} | fields) + "\n")
    return str(path)


@pytest.mark.parametrize("language", ["English", "en_US", None])
def test_english_is_known_by_its_names(aligner: module.Aligner, tmp_path: Path, language: str | None) -> None:  # noqa: ARG001
    manifest = write_manifest(tmp_path, text=SAID, language=language)
    assert align(manifest, str(tmp_path), tmp_path / "labels.jsonl") == "1 aligned"


def test_what_was_put_right_is_aligned_by_another_call(aligner: module.Aligner, tmp_path: Path) -> None:  # noqa: ARG001
    labels = tmp_path / "labels.jsonl"
    manifest = write_manifest(tmp_path)
    with pytest.raises(ValueError, match=r"not the folder of these clips"):
        align(manifest, str(tmp_path.parent), labels, allow_outside=True)
    assert not labels.exists()
    assert align(manifest, str(tmp_path), labels) == "1 no text"
    write_manifest(tmp_path, text=SAID)
    sound = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(b"RIFF, but no more")
    assert align(manifest, str(tmp_path), labels) == "1 unreadable"
    (tmp_path / "a.wav").write_bytes(sound)
    assert align(manifest, str(tmp_path), labels) == "1 aligned"
    assert len(labels.read_text().splitlines()) == 1


def test_labels_are_in_order_and_cover_the_clip(aligner: module.Aligner) -> None:
    wav = load_audio(SAMPLE, module.RATE)[0].numpy()
    phones, words = aligner.align(wav, SAID)
    assert phones[0].start == 0
    assert phones[-1].end == pytest.approx(len(wav) / module.RATE)
    assert all(a.end == pytest.approx(b.start) for a, b in pairwise(phones))
    assert all(phone.start < phone.end for phone in phones)
    spoken = " ".join(phone.label for phone in phones if phone.label != "SIL")
    assert spoken.count("S P IY CH") == 2
    # the sentences are parted by a pause, where the sample is quiet
    pause = max((p for p in phones[5:-5] if p.label == "SIL"), key=lambda p: p.end - p.start)
    assert [word.text for word in words] == spell(SAID)
    assert all(a.end <= b.start for a, b in pairwise(words))
    second = next(word for word in words if word.text == "what")
    assert second.start == pytest.approx(pause.end), "the pause is of no word"
    inside = wav[round(pause.start * module.RATE) : round(pause.end * module.RATE)]
    assert abs(inside).mean() < 0.1 * abs(wav).mean()


def test_words_beyond_the_dictionary_are_named(aligner: module.Aligner) -> None:
    with pytest.raises(NotAlignedError, match="not in the dictionary: qwrtplk"):
        aligner.words("a qwrtplk turns")
    with pytest.raises(NotAlignedError, match="no text"):
        aligner.words("...")
    # a possessive is as its owner and an s
    assert aligner.words("the fremont's cobbler's 12") == ["the", "fremont's", "cobbler's", "twelve"]
    assert aligner._decoder.lookup_word("fremont's").endswith("N T S")


class FakeAligner:
    """Stands for pocketsphinx: one phone as long as the clip, after a number of clips a crash."""

    calls = 0
    limit = 1000

    def words(self, text: str) -> list[str]:
        if "unknown" in text:
            raise NotAlignedError("not in the dictionary: unknown")
        return text.split()

    def align(self, wav, text: str) -> module.Alignment:  # noqa: ARG002
        type(self).calls += 1
        if self.calls > self.limit:
            raise KeyboardInterrupt
        end = len(wav) / module.RATE
        return module.Alignment([Phone("AH", 0.0, end)], [Word("some", 0.0, end)])


def test_a_killed_run_goes_on_and_counts_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"audio": str(SAMPLE), "id": f"clip {i}", "duration": 8.55, "text": "some text", "language": "en"}
        for i in range(4)
    ]
    rows[1] |= {"text": "an unknown word"}
    rows[2] |= {"language": "de"}
    rows.append({"audio": "missing.flac", "duration": 1.0, "text": "some text", "text_source": "human"})
    rows.append({"audio": "silent.flac", "duration": 1.0, "text": None})
    rows[0]["text_source"] = "whisper-tiny.en"
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(module, "Aligner", FakeAligner)
    monkeypatch.setattr(FakeAligner, "calls", 0)
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    counted = align(str(manifest), str(tmp_path), whole, allow_outside=True)
    assert counted.split(", ") == [
        *("2 aligned", "1 not in the dictionary", "1 not English", "1 unreadable", "1 no text"),
    ]
    clips = [Clip(f"clip {number}", str(SAMPLE)) for number in range(4)]
    assert [phones is not None for phones in read_alignments(whole).parts_of(clips)] == [True, False, False, True]
    assert [words and words[0].text for words in read_words(whole).parts_of(clips)] == ["some", None, None, "some"]
    written = [json.loads(line) for line in whole.read_text().splitlines()]
    assert written[0]["text_source"] == "whisper-tiny.en"
    named = {"audio": "missing.flac", "id": "missing.flac", "source": "manifest"}
    assert written[4] == named | {"skipped": "unreadable: missing"}

    monkeypatch.setattr(FakeAligner, "calls", 0)
    monkeypatch.setattr(FakeAligner, "limit", 1)
    with pytest.raises(KeyboardInterrupt):
        align(str(manifest), str(tmp_path), part, allow_outside=True)
    with part.open("a") as file:
        file.write('{"audio": "clip')  # a kill in the middle of a line
    monkeypatch.setattr(FakeAligner, "limit", 1000)
    assert align(str(manifest), str(tmp_path), part, allow_outside=True) == counted
    assert part.read_text() == whole.read_text()
    assert align(str(manifest), str(tmp_path), part, allow_outside=True) == counted


def test_the_labels_of_a_shar_folder_are_those_of_its_files_and_fit_what_prepare_makes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lhotse = pytest.importorskip("lhotse")
    monkeypatch.setattr(module, "Aligner", FakeAligner)
    monkeypatch.setattr(FakeAligner, "calls", 0)
    recording = lhotse.Recording.from_file(SAMPLE)
    cuts = []
    for number in range(3):
        cut = recording.to_cut().truncate(offset=number, duration=1.0 + number).with_id(f"cut {number}")
        said = lhotse.SupervisionSegment(cut.id, cut.recording_id, 0.0, cut.duration, text=f"text {number}")
        cut.supervisions = [said]
        cuts.append(cut)
    (tmp_path / "shar").mkdir()
    lhotse.CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl")
    lhotse.CutSet.from_cuts(cuts).to_shar(tmp_path / "shar", fields={"recording": "flac"}, shard_size=2)
    labels = {}
    for name in ("cuts.jsonl", "shar"):
        out = tmp_path / f"{name}.labels"
        assert align(str(tmp_path / name), str(tmp_path), out, allow_outside=True) == "3 aligned"
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        labels[name] = [(row["id"], row["phones"]) for row in rows]
    assert labels["shar"] == labels["cuts.jsonl"]
    assert [phones[0][2] for _, phones in labels["shar"]] == [1.0, 2.0, 3.0]
    prepared = prepare(str(tmp_path / "shar"), ".", str(tmp_path / "cache"))
    clips = with_phones(read_manifest(str(prepared / "cuts.jsonl.gz")), str(tmp_path / "shar.labels"))
    assert [clip.phones[0].end for clip in clips if clip.phones] == [1.0, 2.0, 3.0]


def test_two_folders_that_name_their_files_alike_have_labels_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Aligner", FakeAligner)
    monkeypatch.setattr(FakeAligner, "calls", 0)
    wav, rate = soundfile.read(SAMPLE)
    folders = [str(tmp_path / "first"), str(tmp_path / "second")]
    for number, folder in enumerate(folders, 1):
        (Path(folder) / "wavs").mkdir(parents=True)
        soundfile.write(f"{folder}/wavs/1.wav", wav[: number * rate], rate)
        (Path(folder) / "metadata.csv").write_text("1|some text|some text\n")
    labels, one = tmp_path / "labels.jsonl", tmp_path / "one.jsonl"
    assert align(folders, str(tmp_path), labels) == "2 aligned"
    assert align(folders, str(tmp_path), labels) == "2 aligned"
    assert len(labels.read_text().splitlines()) == 2
    align(folders[0], str(tmp_path), one)

    def ends(clips: list[Clip], path: Path) -> list[float | None]:
        return [clip.phones[-1].end if clip.phones else None for clip in with_phones(clips, str(path), str(tmp_path))]

    listed = read_manifest(folders, str(tmp_path))
    prepared, _ = read_prepared(prepare(folders, str(tmp_path), str(tmp_path / "cache")))
    assert [clip.id for clip in prepared] == [clip.id for clip in listed]
    assert len({clip.id for clip in listed}) == 1
    for clips in (listed, prepared, listed[::-1]):
        wanted = [clip.duration for clip in clips]
        assert ends(clips, labels) == wanted
        # the labels of the one are not the other's
        assert ends(clips, one) == [seconds if seconds == 1.0 else None for seconds in wanted]
    renamed = [replace(clip, source=f"other {clip.source}") for clip in prepared]
    for path in (labels, one):
        with pytest.raises(ValueError, match=rf"{path.name}: several clips are called .*1.*align this manifest"):
            ends(renamed, path)


def test_another_file_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Aligner", FakeAligner)
    other = tmp_path / "other.txt"
    other.write_text("something else\n")
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"audio": "a.wav", "duration": 1}\n')
    with pytest.raises(ValueError, match="not an alignment file"):
        align(str(manifest), str(tmp_path), other)
    assert other.read_text() == "something else\n"

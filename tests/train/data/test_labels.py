"""Phone labels in batches: they follow crops, speed and padding, and clips without labels have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimotok.io.clips.phones import PHONES, UNKNOWN, Phone, frame_labels
from tests.helpers.speech_corpus import RATE, take
from train.data.augment import AugmentConfig
from train.data.batches import Render
from train.data.manifest import read_manifest, with_phones
from train.data.plan import Item, PlannedBatch

FRAME = 960
QUIET = AugmentConfig(speed=(0.8, 1.25), speed_prob=1.0, bandwidth_prob=0.0, noise_prob=0.0, gain_db=(0.0, 0.0))


@pytest.fixture(scope="module")
def alignments(corpus, tmp_path_factory: pytest.TempPathFactory):
    """Labels for two clips of three: phones of random length over the whole clip."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for clip in read_manifest(str(corpus / "manifest.jsonl"), str(corpus)):
        drawn = np.cumsum(rng.uniform(0.05, 0.3, 200)).round(3)
        ends = [*drawn[drawn < clip.duration].tolist(), round(clip.duration, 3)]
        labels = rng.choice(PHONES, len(ends)).tolist()
        starts = [0.0, *ends[:-1]]
        if len(rows) % 3:
            rows.append({"audio": clip.id, "phones": list(zip(labels, starts, ends, strict=True))})
        else:
            rows.append({"audio": clip.id, "skipped": "no text"})
    path = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def clip_of(corpus, alignments, name: str):
    clips = with_phones(read_manifest(str(corpus / "manifest.jsonl"), str(corpus)), alignments, str(corpus))
    return next(clip for clip in clips if clip.id == name)


def test_labels_of_a_crop_are_the_labels_of_the_clip_within_it(corpus, alignments) -> None:
    clip = clip_of(corpus, alignments, "31.wav")
    assert clip.duration == 9.0
    render = Render(RATE, None, 25.0)
    items = [Item(0, 0.0, 9.0, 1.0, True), Item(0, 2.0, 1.6, 1.0, False), Item(0, 8.0, 1.0, 1.0, False)]
    batch = render.batch([clip], PlannedBatch(9 * RATE, items), (0,)).batch
    whole = batch.phones[0]
    assert whole.tolist() == frame_labels(clip.phones, 225, 25.0).tolist()
    assert (whole != UNKNOWN).all()
    for row, (first, count) in zip(batch.phones[1:], [(50, 40), (200, 25)], strict=True):
        assert row[:count].equal(whole[first : first + count])
        assert (row[count:] == UNKNOWN).all()


def test_speed_moves_labels_with_the_sound(corpus, alignments) -> None:
    clip = clip_of(corpus, alignments, "31.wav")
    speed, start, seconds = 1.25, 1.0, 4.0
    item = Item(0, start, seconds, speed, False)
    batch = Render(RATE, QUIET, 25.0).batch([clip], PlannedBatch(4 * RATE, [item]), (0,)).batch
    assert batch.lengths.tolist() == [round(seconds / speed * RATE)]
    played = [Phone(label, (a - start) / speed, (b - start) / speed) for label, a, b in clip.phones]
    assert batch.phones[0, :80].tolist() == frame_labels(played, 80, 25.0).tolist()
    assert (batch.phones[0, 80:] == UNKNOWN).all()


def test_every_batch_has_labels_where_its_clips_do(module, alignments) -> None:
    data = module(alignments=alignments, augment=QUIET)
    data.setup()
    known = {clip.id for clip in data.train_clips + data.val_clips if clip.phones is not None}
    assert 0 < len(known) < len(data.train_clips)
    for loader in (take(data.train_dataloader(), 8), list(data.val_dataloader())):
        for batch in loader:
            assert batch.phones is not None
            assert batch.phones.shape == (len(batch.wav), -(-batch.wav.shape[1] // FRAME))
            for labels, length, name in zip(batch.phones, batch.lengths.tolist(), batch.ids, strict=True):
                frames = -(-length // FRAME)
                assert (labels[frames:] == UNKNOWN).all()
                # the last frame's middle may lie beyond the clip's end
                assert (labels[: frames - 1] != UNKNOWN).all() == (name in known)


def test_labels_change_no_audio_and_no_text(module, alignments) -> None:
    plain, labelled = (take(module(alignments=path).train_dataloader(), 6) for path in (None, alignments))
    for a, b in zip(plain, labelled, strict=True):
        assert a.phones is None
        assert a.wav.equal(b.wav)
        assert (a.text, a.ids) == (b.text, b.ids)


def test_labels_of_another_corpus_or_for_shar_are_refused(module, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"audio": "elsewhere.wav", "phones": []}\n')
    with pytest.raises(ValueError, match="has phones of none of the"):
        module(alignments=str(other)).setup()
    (tmp_path / "cuts.000000.jsonl").touch()
    with pytest.raises(ValueError, match="a Shar folder takes none"):
        module(alignments=str(other), manifest=str(tmp_path))

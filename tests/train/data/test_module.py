"""Training batches: functions of their number, text that belongs to its audio, bad files skipped, exact resume."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import soundfile as sf
import torch

from mimotok.io.clips.clip import Clip
from tests.helpers.speech_corpus import BAD, RATE, assert_equal, speech, take
from train.data.batches import Batch, BatchDataset, ResumableLoader, ValidationLoader
from train.data.manifest import read, read_manifest
from train.data.module import SpeechDataModule
from train.data.plan import Item, PlannedBatch

pytestmark = pytest.mark.slow


def test_batches_are_functions_of_their_number(module) -> None:
    batches = take(module().train_dataloader(), 40)
    dataset = module().train_dataloader().dataset
    assert len(batches) > 2 * dataset.epoch_batches
    order = np.random.default_rng(0).permutation(40)
    again = {int(k): dataset[int(k)].batch for k in order}
    assert_equal(batches, [again[k] for k in range(40)])


def test_workers_change_nothing(module) -> None:
    assert_equal(take(module().train_dataloader(), 20), take(module(num_workers=2).train_dataloader(), 20))


def test_seeds_and_epochs_differ(module) -> None:
    loader = module().train_dataloader()
    first, second = (take(loader, len(loader)) for _ in range(2))
    other = take(module(seed=1).train_dataloader(), len(first))
    assert len({str([batch.ids for batch in epoch]) for epoch in (first, second, other)}) == 3


def test_text_and_audio_belong_together(module, corpus: Path) -> None:
    """Without augmentation, texted audio is the whole file, and crops are parts of it."""
    for cache_dir in (module().cache_dir, None):
        clips = {clip.id: clip for clip in read_manifest(str(corpus / "manifest.jsonl"), str(corpus))}
        crops = 0
        for batch in take(module(augment=None, cache_dir=cache_dir).train_dataloader(), 20):
            assert batch.wav.shape[1] % 11520 == 0
            for wav, length, text, name in zip(*batch[:4], strict=True):
                assert not wav[length:].any()
                assert text is None or text == clips[name].text
                if clips[name].duration < 4 and clips[name].text:
                    assert text is not None
                    assert abs(int(length) - clips[name].duration * RATE) <= 2
                elif clips[name].duration > 4:
                    crops += 1
                    assert text is None
                samples, rate = read(clips[name])
                if rate == RATE:
                    assert is_part(wav[:length].numpy(), samples)
        assert crops


def is_part(part: np.ndarray, whole: np.ndarray) -> bool:
    return any(np.allclose(part, whole[k : k + len(part)], atol=1e-4) for k in np.flatnonzero(near(whole, part)))


def near(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
    return np.abs(whole[: len(whole) - len(part) + 1] - part[0]) < 1e-4


def test_a_wrong_duration_in_the_manifest_drops_the_text(tmp_path: Path) -> None:
    for name, seconds in (("longer", 3.0), ("shorter", 1.0)):
        sf.write(tmp_path / f"{name}.wav", speech(seconds, RATE, 0), RATE)
    rows = [{"audio": f"{name}.wav", "duration": 2.0, "text": "half"} for name in ("longer", "shorter")]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loader = SpeechDataModule(str(tmp_path / "m.jsonl"), str(tmp_path)).train_dataloader()
    assert {text for batch in take(loader, 4) for text in batch.text} == {None}


def test_validation_is_whole_once_and_plain(module, corpus: Path) -> None:
    loader = module().val_dataloader()
    batches = list(loader)
    assert_equal(batches, list(loader))
    assert len(loader) == len(batches)
    assert sorted(name for batch in batches for name in batch.ids) == [f"{k}.wav" for k in range(32, 36)]
    wav = next(b.wav[b.ids.index("33.wav")] for b in batches if "33.wav" in b.ids)
    samples, _ = sf.read(corpus / "33.wav", dtype="float32")
    assert np.array_equal(wav[: len(samples)].numpy(), samples)


def test_ranks_take_equally_many_steps_where_clips_cannot_be_read(corpus: Path, tmp_path: Path, monkeypatch) -> None:
    rows = [{"audio": f"{k}.wav", "split": "dev"} for k in (30, 31, 32)]
    rows += [{"audio": name, "split": split} for name, split in (("none.wav", "dev"), ("1.wav", "train"))]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    taken = []
    for rank in range(2):
        data = SpeechDataModule(str(tmp_path / "m.jsonl"), str(corpus), batch_seconds=9.0)
        monkeypatch.setattr(data, "_ranks", lambda rank=rank: (rank, 2))
        loader = data.val_dataloader()
        assert len(list(loader)) == len(loader)
        taken.append(len(loader))
    assert taken[0] == taken[1] > 1


def test_max_seconds_zero_crops_all_that_is_longer_than_a_crop(module) -> None:
    batches = take(module(max_seconds=0, crop_seconds=(0.48, 0.48), augment=None).train_dataloader(), 10)
    assert not any(text for batch in batches for text in batch.text)
    assert {batch.wav.shape[1] for batch in batches} == {11520}


def test_a_weight_for_no_source_is_refused(module) -> None:
    with pytest.raises(ValueError, match=r"'kerstin' matches none of \['manifest', 'narrow', 'wide'\]"):
        module(source_weights={"kerstin": 2.0}).train_dataloader()


class Model(L.LightningModule):
    """Remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[Batch] = []

    def training_step(self, batch, index):  # noqa: ARG002
        self.seen.append(batch)
        return (self.weight * batch.wav.mean()).sum()

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def fit(data: SpeechDataModule, folder: Path, steps: int, checkpoint: Path | None = None) -> list[Batch]:
    model = Model()
    saving = L.pytorch.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=False)
    return model.seen


def test_lightning_resumes_bit_identically_anywhere_in_an_epoch(module, tmp_path: Path) -> None:
    epoch = len(module().train_dataloader())
    whole = fit(module(), tmp_path / "whole", 2 * epoch + 3)
    assert_equal(whole, take(module().train_dataloader(), 2 * epoch + 3))
    for step, workers in ((3, 2), (epoch, 0), (epoch + 1, 0)):
        checkpoint = tmp_path / "whole" / f"step={step}.ckpt"
        rest = fit(module(num_workers=workers), tmp_path / f"from{step}", 2 * epoch + 3, checkpoint)
        assert_equal(rest, whole[step:])


def test_the_position_survives_another_number_of_ranks(module) -> None:
    data = module()
    data.setup()

    def loader(world_size: int) -> ResumableLoader:
        return ResumableLoader(data._clips(0, world_size), num_workers=0, skipped={}, digest="")

    one, two = loader(1), loader(2)
    take(one, len(one) + 4)
    two.load_state_dict(one.state_dict())
    assert two.position == len(two) + 2


def test_other_data_than_the_checkpoints_is_noticed(module, caplog: pytest.LogCaptureFixture) -> None:
    state = module(seed=1).train_dataloader().state_dict()
    module().train_dataloader().load_state_dict(state)
    assert "not those of the checkpoint" in caplog.text


@pytest.mark.parametrize("cached", [True, False])
def test_bad_files_are_skipped_and_named_once_an_epoch(module, caplog: pytest.LogCaptureFixture, cached: bool) -> None:
    loader = module(**({} if cached else {"cache_dir": None})).train_dataloader()
    with caplog.at_level(logging.WARNING, "train"):
        ids = {name for batch in take(loader, len(loader)) for name in batch.ids}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("epoch 0: 4 clips skipped: ")
    assert all(f"{name} ({reason}" in line for name, reason in BAD.items())
    assert not ids & set(BAD)
    assert len(ids) > 25


@pytest.mark.parametrize("cached", [True, False])
def test_a_corpus_without_a_readable_clip_stops_with_one_line(tmp_path: Path, cached: bool) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "nowhere.wav", "duration": 1.0, "text": "x"}))
    data = SpeechDataModule(str(tmp_path / "m.jsonl"), cache_dir=str(tmp_path / "cache") if cached else None)
    with pytest.raises(
        (ValueError, RuntimeError), match=r"root=.*: of 1 files that were tried none is there, e\.g\. .*nowhere\.wav"
    ):
        next(data.train_dataloader())


def test_ranks_without_a_readable_clip_take_as_many_steps(module, corpus: Path) -> None:
    """Others would wait for them without end."""
    data = module()
    render = data.val_dataloader().dataset.render
    good = data.val_clips
    bad = [
        replace(clip, id=f"bad {n}", audio=str(corpus / "corrupt.wav"), cut=None, pcm=None)
        for n, clip in enumerate(good)
    ]

    def steps(clips: list[Clip], rank: int) -> list[Batch]:
        batches = [PlannedBatch(3 * RATE, [Item(n, 0.0, clip.duration, 1.0, True)]) for n, clip in enumerate(clips)]
        dataset = BatchDataset(clips, lambda _: batches, render, seed=0, rank=rank, world_size=2)
        return list(ValidationLoader(dataset))

    mixed = [clip for pair in zip(good, bad, strict=True) for clip in pair]
    first, second = (steps(mixed, rank) for rank in range(2))
    assert len(first) == len(second) == len(good)
    assert all(torch.equal(batch.wav, first[0].wav) for batch in second)
    with pytest.raises(ValueError, match="not one clip of validation can be read"):
        steps(bad, 0)

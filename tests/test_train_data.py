"""Training data: batches are functions of their number, text belongs to its audio, bad files are skipped."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lightning", reason="training needs: pip install 'mimotok[train]'")
import lightning as L

from train.augment import AugmentConfig, augment
from train.batches import Batch, BatchDataset, Render, ResumableLoader
from train.cache import prepare, read_prepared
from train.data import SpeechDataModule
from train.manifest import BadClipError, Clip, decode, read, read_manifest
from train.plan import PlanConfig, train_plan, whole_plan
from train.shar import ShardBatches, find_shards

RATE = 24000
BAD = {"missing.wav": "missing", "corrupt.wav": "corrupt", "silent.wav": "silent", "short.wav": "short"}


def speech(seconds: float, rate: int, seed: int) -> np.ndarray:
    """Noise, full to the Nyquist frequency, float32 [T]."""
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate)).astype(np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A folder of WAV files and its manifest: 30 whole clips, 2 long ones, 4 bad ones, 4 for validation."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows = []
    for k in range(36):
        rate, seconds = (16000, 24000)[k % 2], 9.0 if k in (30, 31) else float(rng.uniform(0.6, 3.0))
        sf.write(root / f"{k}.wav", speech(seconds, rate, k), rate, subtype="PCM_16")
        text = None if k % 5 == 0 or k == 31 else f"text of {k}"
        split, source = "dev" if k > 31 else "train", "wide" if k % 2 else "narrow"
        rows.append({"audio": f"{k}.wav", "duration": seconds, "text": text, "split": split, "source": source})
    (root / "corrupt.wav").write_bytes(b"RIFF, but no more")
    sf.write(root / "silent.wav", np.zeros(RATE), RATE)
    sf.write(root / "short.wav", speech(0.2, RATE, 99), RATE)
    for name in BAD:
        rows.append({"audio": name, "duration": 0.2 if name == "short.wav" else 1.0, "text": "bad"})
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module")
def cache(corpus, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("cache"))
    prepare(str(corpus / "manifest.jsonl"), str(corpus), folder)
    return folder


@pytest.fixture
def module(corpus, cache):
    """Makes data modules over the corpus: small batches, the shared cache."""

    def make(**changes) -> SpeechDataModule:
        files = {"manifest": str(corpus / "manifest.jsonl"), "root": str(corpus), "cache_dir": cache}
        sizes = {"batch_seconds": 6.0, "max_seconds": 4.0, "crop_seconds": (1.0, 2.0)}
        return SpeechDataModule(**{**files, **sizes, **changes})

    return make


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.wav, b.wav)
        assert torch.equal(a.lengths, b.lengths)
        assert (a.text, a.ids) == (b.text, b.ids)


def take(loader, count: int) -> list[Batch]:
    return list(islice(loader, count))


# plan

clip_lists = st.lists(
    st.tuples(st.floats(0.1, 40.0), st.booleans(), st.sampled_from("abc")), min_size=1, max_size=40
).map(
    lambda rows: [
        Clip(str(k), "", seconds, source, text="words" if has_text else None)
        for k, (seconds, has_text, source) in enumerate(rows)
    ]
)


@settings(deadline=None, max_examples=60)
@given(clip_lists, st.floats(8.0, 60.0), st.integers(0, 99), st.booleans())
def test_planned_batches_hold_whole_texted_clips_and_crops_that_fit(clips, batch_seconds, seed, speed):
    config = PlanConfig(batch_seconds=batch_seconds)
    plan = train_plan(clips, config, AugmentConfig() if speed else None, (seed, 0))
    for batch in plan:
        assert batch.samples % config.pad_samples == 0
        assert len(batch.items) == config.batch_size(batch.samples)
        for item in batch.items:
            clip = clips[item.clip]
            assert round(item.seconds / item.speed * RATE) <= batch.samples
            assert 0 <= item.start <= item.start + item.seconds <= clip.duration + 1e-6
            assert item.whole == (item.seconds == clip.duration)
            assert item.whole or clip.text is None or clip.duration > config.max_seconds
            assert clip.duration >= config.min_seconds
    heard = {item.clip for batch in plan for item in batch.items}
    must = {k for k, clip in enumerate(clips) if clip.text and config.min_seconds <= clip.duration <= 12}
    assert must <= heard


def seconds_by_source(clips: list[Clip], config: PlanConfig, epochs: int = 5) -> dict[str, float]:
    total = {clip.source: 0.0 for clip in clips}
    for epoch in range(epochs):
        for batch in train_plan(clips, config, AugmentConfig(), (0, epoch)):
            for item in batch.items:
                total[clips[item.clip].source] += item.seconds / epochs
    return total


def test_each_clip_is_heard_for_its_length_times_its_weight():
    rng = np.random.default_rng(0)
    clips = [Clip(f"whole{k}", "", rng.uniform(1, 11), "whole", text="x") for k in range(200)]
    clips += [Clip(f"long{k}", "", rng.uniform(13, 60), "long", text="x") for k in range(50)]
    clips += [replace(clip, id=f"no{clip.id}", source="off") for clip in clips]
    weights = {"off": 0.0, "wh*": 2.5, "*": 0.5}
    heard = seconds_by_source(clips, PlanConfig(source_weights=weights))
    length = {name: sum(c.duration for c in clips if c.source == name) for name in heard}
    assert heard["off"] == 0
    # a few random clips fill each epoch's last batch up
    assert heard["whole"] == pytest.approx(2.5 * length["whole"], rel=0.05)
    assert heard["long"] == pytest.approx(0.5 * length["long"], rel=0.05)


def test_max_seconds_zero_crops_all_that_is_longer_than_a_crop(module):
    batches = take(module(max_seconds=0, crop_seconds=(0.48, 0.48), augment=None).train_dataloader(), 10)
    assert not any(text for batch in batches for text in batch.text)
    assert {batch.wav.shape[1] for batch in batches} == {11520}


def test_a_weight_for_no_source_is_refused(module):
    with pytest.raises(ValueError, match=r"'kerstin' matches none of \['manifest', 'narrow', 'wide'\]"):
        module(source_weights={"kerstin": 2.0}).train_dataloader()


# batches


def test_batches_are_functions_of_their_number(module):
    batches = take(module().train_dataloader(), 40)
    dataset = module().train_dataloader().dataset
    assert len(batches) > 2 * dataset.epoch_batches
    order = np.random.default_rng(0).permutation(40)
    again = {int(k): dataset[int(k)].batch for k in order}
    assert_equal(batches, [again[k] for k in range(40)])


def test_workers_change_nothing(module):
    assert_equal(take(module().train_dataloader(), 20), take(module(num_workers=2).train_dataloader(), 20))


def test_seeds_and_epochs_differ(module):
    loader = module().train_dataloader()
    first, second = (take(loader, len(loader)) for _ in range(2))
    other = take(module(seed=1).train_dataloader(), len(first))
    assert len({str([batch.ids for batch in epoch]) for epoch in (first, second, other)}) == 3


@given(st.integers(1, 5), st.integers(10, 80))
@settings(deadline=None, max_examples=20)
def test_ranks_share_an_epoch_evenly(world_size, count):
    clips = [Clip(str(k), "", 1.0 + k % 7, "s", text="x") for k in range(count)]

    def plan(epoch: int):
        return train_plan(clips, PlanConfig(batch_seconds=8), None, (0, epoch))

    ranks = [
        BatchDataset(clips, plan, Render(RATE, None), seed=0, rank=r, world_size=world_size) for r in range(world_size)
    ]
    assert len({dataset.epoch_batches for dataset in ranks}) == 1
    numbers = [dataset.planned(k)[1] for dataset in ranks for k in range(dataset.epoch_batches)]
    assert len(set(numbers)) == len(numbers)
    assert len(plan(0)) - len(numbers) < world_size


def test_text_and_audio_belong_together(module, corpus):
    """Without augmentation, texted audio is the whole file, and crops are parts of it."""
    for cache_dir in (module().cache_dir, None):
        clips = {clip.id: clip for clip in read_manifest(str(corpus / "manifest.jsonl"), str(corpus))}
        crops = 0
        for batch in take(module(augment=None, cache_dir=cache_dir).train_dataloader(), 20):
            assert batch.wav.shape[1] % 11520 == 0
            for wav, length, text, name in zip(*batch, strict=True):
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


def test_a_wrong_duration_in_the_manifest_drops_the_text(tmp_path):
    for name, seconds in (("longer", 3.0), ("shorter", 1.0)):
        sf.write(tmp_path / f"{name}.wav", speech(seconds, RATE, 0), RATE)
    rows = [{"audio": f"{name}.wav", "duration": 2.0, "text": "half"} for name in ("longer", "shorter")]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loader = SpeechDataModule(str(tmp_path / "m.jsonl"), str(tmp_path)).train_dataloader()
    assert {text for batch in take(loader, 4) for text in batch.text} == {None}


def test_validation_is_whole_once_and_plain(module, corpus):
    loader = module().val_dataloader()
    batches = list(loader)
    assert_equal(batches, list(loader))
    assert len(loader) == len(batches)
    assert sorted(name for batch in batches for name in batch.ids) == [f"{k}.wav" for k in range(32, 36)]
    wav = next(b.wav[b.ids.index("33.wav")] for b in batches if "33.wav" in b.ids)
    samples, _ = sf.read(corpus / "33.wav", dtype="float32")
    assert np.array_equal(wav[: len(samples)].numpy(), samples)


def test_validation_plan_covers_every_clip_once():
    clips = [Clip(str(k), "", 0.3 + k % 13, "s") for k in range(50)]
    plan = whole_plan(clips, PlanConfig())
    assert sorted(item.clip for batch in plan for item in batch.items) == list(range(50))
    assert all(len(batch.items) <= PlanConfig().batch_size(batch.samples) for batch in plan)


# resume


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


def test_lightning_resumes_bit_identically_anywhere_in_an_epoch(module, tmp_path):
    epoch = len(module().train_dataloader())
    whole = fit(module(), tmp_path / "whole", 2 * epoch + 3)
    assert_equal(whole, take(module().train_dataloader(), 2 * epoch + 3))
    for step, workers in ((3, 2), (epoch, 0), (epoch + 1, 0)):
        checkpoint = tmp_path / "whole" / f"step={step}.ckpt"
        rest = fit(module(num_workers=workers), tmp_path / f"from{step}", 2 * epoch + 3, checkpoint)
        assert_equal(rest, whole[step:])


def test_the_position_survives_another_number_of_ranks(module):
    data = module()
    data.setup()

    def loader(world_size: int) -> ResumableLoader:
        return ResumableLoader(data._clips(0, world_size), num_workers=0, skipped={}, digest="")

    one, two = loader(1), loader(2)
    take(one, len(one) + 4)
    two.load_state_dict(one.state_dict())
    assert two.position == len(two) + 2


def test_other_data_than_the_checkpoints_is_noticed(module, caplog):
    state = module(seed=1).train_dataloader().state_dict()
    module().train_dataloader().load_state_dict(state)
    assert "not those of the checkpoint" in caplog.text


# bad files


@pytest.mark.parametrize("cached", [True, False])
def test_bad_files_are_skipped_and_named_once_an_epoch(module, caplog, cached):
    loader = module(**({} if cached else {"cache_dir": None})).train_dataloader()
    with caplog.at_level(logging.WARNING, "train"):
        ids = {name for batch in take(loader, len(loader)) for name in batch.ids}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("epoch 0: 4 clips skipped: ")
    assert all(f"{name} ({reason}" in line for name, reason in BAD.items())
    assert not ids & set(BAD)
    assert len(ids) > 25


@pytest.mark.parametrize("cached", [True, False])
def test_a_corpus_without_a_readable_clip_stops_with_one_line(tmp_path, cached):
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "nowhere.wav", "duration": 1.0, "text": "x"}))
    data = SpeechDataModule(str(tmp_path / "m.jsonl"), cache_dir=str(tmp_path / "cache") if cached else None)
    with pytest.raises((ValueError, RuntimeError), match=r"readable|can be read.*nowhere\.wav"):
        next(data.train_dataloader())


@pytest.mark.parametrize("line", ['{"path": "b.wav"}', "b.wav", '["b.wav"]'])
def test_lines_that_are_no_clips_are_refused_by_number(tmp_path, line):
    good = json.dumps({"audio": "a.wav", "duration": 1})
    for lines, number in (((good, line), 2), ((line, good), 1)):
        (tmp_path / "m.jsonl").write_text("\n".join(lines))
        with pytest.raises(ValueError, match=rf"m\.jsonl:{number}: "):
            read_manifest(str(tmp_path / "m.jsonl"))


# the cache


def test_the_cache_is_a_lhotse_cut_set_of_the_same_samples(corpus, cache):
    lhotse = pytest.importorskip("lhotse")
    (folder,) = Path(cache).iterdir()
    cuts = lhotse.CutSet.from_file(folder / "cuts.jsonl.gz")
    clips, skipped = read_prepared(folder)
    assert set(skipped) == set(BAD) - {"short.wav"}
    for cut, clip in zip(cuts, clips, strict=True):
        samples, rate = sf.read(corpus / clip.id, dtype="float32")
        assert np.array_equal(cut.load_audio()[0], samples)
        assert np.array_equal(read(clip)[0], samples)
        assert (cut.sampling_rate, cut.supervisions[0].text) == (rate, clip.text)


def test_an_interrupted_preparation_goes_on(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("train.cache.SHARD_SECONDS", 20.0)
    manifest = str(corpus / "manifest.jsonl")
    folder = prepare(manifest, str(corpus), str(tmp_path), workers=2)
    whole = (folder / "cuts.jsonl.gz").read_bytes()
    (folder / "cuts.jsonl.gz").unlink()
    (folder / "shard-00001.jsonl").unlink()
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*.wav")}
    assert prepare(manifest, str(corpus), str(tmp_path)) == folder
    assert (folder / "cuts.jsonl.gz").read_bytes() == whole
    rewritten = {path.name[:11] for path, then in times.items() if path.stat().st_mtime_ns != then}
    assert rewritten == {"shard-00001"}


def test_a_file_that_was_missing_is_tried_again(tmp_path):
    rows = [{"audio": f"{k}.wav", "duration": 1.0} for k in range(2)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for k in range(2):
        sf.write(tmp_path / f"{k}.wav", speech(1.0, RATE, k), RATE)
        clips, _ = read_prepared(prepare(str(tmp_path / "m.jsonl"), str(tmp_path), str(tmp_path / "cache")))
        assert len(clips) == k + 1


def test_high_rates_are_brought_down_and_channels_averaged(tmp_path):
    sf.write(tmp_path / "a.wav", np.stack([speech(1.0, 48000, 0), np.zeros(48000)], axis=1), 48000)
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "a.wav", "duration": 1.0}))
    (clip,), _ = read_prepared(prepare(str(tmp_path / "m.jsonl"), str(tmp_path), str(tmp_path)))
    wav, rate = read(clip)
    assert (wav.shape, rate) == ((RATE,), RATE)
    assert decode(Clip("a", str(tmp_path / "a.wav"), 1.0, "s"))[0].shape == (48000,)


def test_a_truncated_cache_is_noticed(corpus, tmp_path):
    folder = prepare(str(corpus / "manifest.jsonl"), str(corpus), str(tmp_path))
    clip = read_prepared(folder)[0][-1]
    Path(clip.pcm.path).write_bytes(Path(clip.pcm.path).read_bytes()[:-2000])
    with pytest.raises(BadClipError, match="truncated"):
        read(clip)


def test_a_prepared_corpus_needs_neither_lhotse_nor_torchaudio(cache):
    """In a process of its own: nothing that reads a prepared corpus may import them."""
    (folder,) = Path(cache).iterdir()
    code = f"""
import sys
sys.modules["lhotse"] = sys.modules["torchaudio"] = None
import train.shar
from train.batches import Render
from train.cache import read_prepared
from train.plan import PlanConfig, whole_plan
clips, _ = read_prepared({str(folder)!r})
(planned, *_) = whole_plan(clips, PlanConfig())
assert Render(24000, None).batch(clips, planned, (0,)).batch.wav.any()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# augmentation


def changed(config: AugmentConfig, rate: int = RATE, speed: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return augment(speech(2.0, rate, 0), rate, sample_rate=RATE, speed=speed, config=config, rng=rng)


def level(wav: np.ndarray, low: float, high: float) -> float:
    """Level of a band in dB, by a window that keeps the edges of the clip out of it."""
    power = np.abs(np.fft.rfft(wav * np.hanning(len(wav)))) ** 2
    frequencies = np.fft.rfftfreq(len(wav), 1 / RATE)
    return 10 * np.log10(power[(frequencies > low) & (frequencies < high)].mean() / len(wav) + 1e-20)


OFF = {"speed_prob": 0.0, "bandwidth_prob": 0.0, "noise_prob": 0.0, "gain_db": (0.0, 0.0)}


@given(st.integers(0, 999), st.floats(0.8, 1.25), st.sampled_from([8000, 16000, 22050, 24000]))
@settings(deadline=None, max_examples=30)
def test_augmentation_is_seeded_peak_safe_and_of_the_planned_length(seed, speed, rate):
    config = AugmentConfig(gain_db=(-20.0, 40.0))
    wav = changed(config, rate, speed, seed)
    assert np.array_equal(wav, changed(config, rate, speed, seed))
    assert wav.dtype == np.float32
    assert np.abs(wav).max() <= 1
    assert abs(len(wav) - 2.0 / speed * RATE) <= 2


def test_band_limits_empty_the_band_above_and_keep_the_one_below():
    plain = changed(AugmentConfig(**OFF))
    limited = changed(AugmentConfig(**{**OFF, "bandwidth_prob": 1.0, "bandwidths": (4000.0,)}))
    assert level(limited, 0, 3500) == pytest.approx(level(plain, 0, 3500), abs=0.1)
    assert level(limited, 4300, 12000) < level(plain, 4300, 12000) - 80


def test_speed_moves_the_band_edge_of_narrow_band_speech():
    faster = changed(AugmentConfig(**OFF), rate=16000, speed=1.1)
    assert level(faster, 7000, 8200) > level(faster, 9000, 12000) + 80


def test_narrow_band_clips_stay_empty_above_their_band_until_noise_fills_it(module):
    """The cache must not put a quantization floor where a resampled file has none."""

    def top_band(**changes) -> float:
        data = module(source_weights={"narrow": 1.0, "*": 0.0}, augment=AugmentConfig(**{**OFF, **changes}))
        batches = take(data.train_dataloader(), 8)
        clips = [wav[: int(n)].numpy() for b in batches for wav, n in zip(b.wav, b.lengths, strict=True)]
        return max(level(clip, 9500, 11500) for clip in clips)

    assert top_band() < -130
    # the window takes 4 dB
    assert top_band(noise_prob=1.0, noise_db=(-70.0, -70.0)) == pytest.approx(-74, abs=1)


@pytest.mark.parametrize("bad", [{"speed": (1.1, 0.9)}, {"speed": (0.0, 1.0)}, {"noise_prob": 1.5}])
def test_augment_configs_check_themselves(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        AugmentConfig(**bad)


# Lhotse


@pytest.fixture(scope="module")
def cuts(corpus):
    """The corpus's good training clips as a Lhotse CutSet."""
    lhotse = pytest.importorskip("lhotse")
    made = []
    for clip in read_manifest(str(corpus / "manifest.jsonl"), str(corpus)):
        if clip.split == "train" and clip.id not in BAD:
            recording = lhotse.Recording.from_file(clip.audio, recording_id=clip.id)
            segment = lhotse.SupervisionSegment(clip.id, clip.id, 0.0, recording.duration, text=clip.text)
            cut = recording.to_cut()
            cut.id, cut.supervisions, cut.custom = clip.id, [segment], {"source": clip.source}
            made.append(cut)
    return lhotse.CutSet.from_cuts(made)


def test_cut_sets_give_the_batches_of_the_same_jsonl(cuts, corpus, tmp_path, module):
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    lines = (corpus / "manifest.jsonl").read_text().splitlines()[:32]
    (tmp_path / "clips.jsonl").write_text("\n".join(lines))
    loaders = [
        module(cache_dir=None, manifest=str(tmp_path / name)).train_dataloader()
        for name in ("cuts.jsonl.gz", "clips.jsonl")
    ]
    assert_equal(*(take(loader, 10) for loader in loaders))


def test_a_transcript_that_a_cut_truncates_is_dropped(cuts, tmp_path):
    cut = next(iter(cuts.filter(lambda cut: cut.supervisions[0].text)))
    truncated = cut.truncate(duration=cut.duration / 2).with_id("truncated")
    type(cuts).from_cuts([cut, truncated]).to_file(tmp_path / "cuts.jsonl")
    whole, part = read_manifest(str(tmp_path / "cuts.jsonl"))
    assert (whole.text, part.text) == (cut.supervisions[0].text, None)
    assert len(decode(part)[0]) == pytest.approx(len(decode(whole)[0]) / 2, abs=1)


def test_relative_recordings_are_taken_from_root(cuts, corpus, tmp_path):
    rows = [json.loads(json.dumps(cut.to_dict())) for cut in cuts]
    for row in rows:
        row["recording"]["sources"][0]["source"] = Path(row["recording"]["sources"][0]["source"]).name
    (tmp_path / "cuts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    clips = read_manifest(str(tmp_path / "cuts.jsonl"), str(corpus))
    assert len(decode(clips[0])[0])
    with pytest.raises(BadClipError, match="^missing$"):
        decode(read_manifest(str(tmp_path / "cuts.jsonl"), str(tmp_path))[0])


@pytest.fixture(scope="module")
def shar(cuts, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("shar")
    cuts.to_shar(folder, fields={"recording": "wav"}, shard_size=8)
    return str(folder)


PLAN = PlanConfig(batch_seconds=6.0, max_seconds=4.0, crop_seconds=(1.0, 2.0))


def shard_loader(shar: str, workers: int = 0, **ranks: int) -> ResumableLoader:
    batches = ShardBatches(find_shards(shar), PLAN, AugmentConfig(), seed=0, **ranks)
    return ResumableLoader(batches, num_workers=workers, skipped={}, digest="")


@pytest.mark.parametrize("workers", [0, 2])
def test_shar_resumes_bit_identically(shar, workers):
    whole = take(shard_loader(shar, workers), 45)
    assert_equal(whole, take(shard_loader(shar, workers), 45))
    for first in (0, 7, 30):
        loader = shard_loader(shar, workers)
        loader.load_state_dict({"epoch": 0, "batch": 0, "digest": ""})
        loader.position = first
        assert_equal(take(loader, 45 - first), whole[first:])


def test_shar_gives_every_clip_to_one_rank_with_its_text(shar, cuts):
    texts = {cut.id: cut.supervisions[0].text for cut in cuts}
    shards = len(find_shards(shar))
    names: list[set[str]] = []
    for rank in range(2):
        dataset = shard_loader(shar, rank=rank, world_size=2).dataset
        turns = [dataset._plan(0, int(k)) for k in np.random.default_rng([0, 0]).permutation(shards)[rank::2]]
        batches = take(shard_loader(shar, rank=rank, world_size=2), sum(len(planned) for _, planned in turns))
        names.append({name for batch in batches for name in batch.ids})
        pairs = [pair for batch in batches for pair in zip(batch.ids, batch.text, strict=True)]
        assert all(text in (None, texts[name]) for name, text in pairs)
        assert any(text for _, text in pairs)
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) >= 30


def test_a_damaged_shard_is_named_and_the_others_are_heard(shar, tmp_path, caplog):
    for path in Path(shar).iterdir():
        data = path.read_bytes()
        damaged = path.name in ("recording.000001.tar", "cuts.000002.jsonl.gz")
        (tmp_path / path.name).write_bytes(data[: len(data) // 2] if damaged else data)
    loader = shard_loader(str(tmp_path))
    with caplog.at_level(logging.WARNING, "train"):
        batches = take(loader, 2 * len(loader))
    assert "recording.000001.tar (corrupt" in caplog.text
    assert "cuts.000002.jsonl.gz (corrupt" in caplog.text
    assert len({name for batch in batches for name in batch.ids}) >= 16


def test_the_data_module_streams_shar_and_validates_on_a_manifest(shar, corpus, module):
    data = module(manifest=shar, val_manifest=str(corpus / "manifest.jsonl"))
    data.prepare_data()
    assert next(data.train_dataloader()).wav.any()
    assert next(iter(data.val_dataloader())).wav.any()
    (Path(shar).parent / "empty").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="0 cuts files and 0 recording files"):
        find_shards(str(Path(shar).parent / "empty"))

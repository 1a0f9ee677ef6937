"""Any causal LM as an audio LM: a Hugging Face one, and one that is not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from mimotok.lm import InterleavedLayout, Positions, SpecialIds
from mimotok.lm.audio_lm import AudioLM, PositionsCollator, pad_sequences
from mimotok.lm.patches import PatchConfig
from mimotok.lm.sampling import GREEDY, Sampling
from tests.helpers.layout_strategies import random_codes

pytestmark = pytest.mark.slow

SIZES = (12, 9, 5)
SPECIAL = SpecialIds(20, 21, 22)
LAYOUT = InterleavedLayout(SIZES, SPECIAL)
CONFIG = PatchConfig(SIZES, dim=16, heads=2, ffn_dim=32, encoder_layers=1, decoder_layers=2)


def llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=23, **sizes))


class Output(NamedTuple):
    last_hidden_state: Tensor
    past_key_values: Tensor


class Recurrent(nn.Module):
    """The least that AudioLM asks of a language model."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gru, self.head = nn.Embedding(23, 24), nn.GRU(24, 24, batch_first=True), nn.Linear(24, 23)

    def base_model(self, inputs_embeds: Tensor, use_cache: bool, past_key_values: Tensor | None = None) -> Output:
        assert use_cache or past_key_values is None
        return Output(*self.gru(inputs_embeds, past_key_values))

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def get_output_embeddings(self) -> nn.Module:
        return self.head


@pytest.fixture(params=[llama, Recurrent])
def model(request: pytest.FixtureRequest) -> AudioLM:
    torch.manual_seed(0)
    return AudioLM(request.param(), CONFIG, SPECIAL).eval()


def clip(frames: int, seed: int = 0) -> Tensor:
    return random_codes(SIZES, frames, seed)[0]


SEQUENCES = [
    LAYOUT.encode([torch.tensor([3, 4, 5]), clip(9), torch.tensor([2])]),
    LAYOUT.encode([torch.tensor([7])]),
    LAYOUT.encode([clip(13, 1), torch.tensor([1, 2])]),
]


def test_losses_of_a_batch_are_those_of_its_sequences(model: AudioLM) -> None:
    batch = model(pad_sequences(SEQUENCES, SIZES))
    audible = [SEQUENCES[0], SEQUENCES[2]]
    single = [model(pad_sequences([each], SIZES)) for each in audible]
    # the second sequence has one position, so nothing is predicted in it
    texts, patches = torch.tensor([len(e.text) - 1.0 for e in audible]), torch.tensor([3.0, 4.0])
    torch.testing.assert_close(batch.text, (torch.stack([s.text for s in single]) * texts).sum() / texts.sum())
    weighted = torch.stack([s.audio for s in single]) * patches[:, None] / patches.sum()
    torch.testing.assert_close(batch.audio, weighted.sum(0))
    torch.testing.assert_close(batch.loss, batch.text + batch.audio.mean())


def test_what_stands_in_the_padding_does_not_matter(model: AudioLM) -> None:
    text, patches, lengths = sequences = pad_sequences(SEQUENCES, SIZES)
    expected = model(sequences)
    for row, length in enumerate(lengths.tolist()):
        text[row, length:] = SPECIAL.audio
        patches[row, length:] = 1
    changed = model(sequences)
    torch.testing.assert_close(changed.text, expected.text)
    torch.testing.assert_close(changed.audio, expected.audio)


def test_text_alone_has_no_audio_loss(model: AudioLM) -> None:
    losses = model(pad_sequences([LAYOUT.encode([torch.tensor([3, 4, 5])])], SIZES))
    assert losses.audio.tolist() == [0, 0, 0]
    assert losses.text > 0


def test_gradients_reach_everything(model: AudioLM) -> None:
    losses = model.train()(pad_sequences(SEQUENCES, SIZES))
    (losses.text + losses.audio.sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_cached_generation_equals_teacher_forcing(model: AudioLM) -> None:
    """Greedy: at every position, what was written is what the whole sequence, read at once, finds likeliest."""
    prompt = LAYOUT.encode([torch.tensor([3, 4])])
    written = model.generate(prompt, limit=30, text_sampling=GREEDY, audio_sampling=GREEDY)
    embeds = model.embed(written.text[None], written.patches[None])
    hidden = model.lm.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state[0]
    logits = model.lm.get_output_embeddings()(hidden)
    inside = False
    for at in range(2, 32):
        allowed = logits[at - 1].clone()
        if inside:
            kept = [SPECIAL.audio] + [SPECIAL.end] * (written.text[at - 1] != SPECIAL.start)
            allowed = torch.full_like(allowed, float("-inf")).index_copy(0, torch.tensor(kept), allowed[kept])
        else:
            allowed[[SPECIAL.audio, SPECIAL.end]] = float("-inf")
        if at < 31 or inside:  # the last position may not start audio
            assert int(written.text[at]) == int(allowed.argmax())
        inside = int(written.text[at]) in (SPECIAL.start, SPECIAL.audio)
    audio = written.text == SPECIAL.audio
    forced = model.patch_decoder(hidden[:-1][audio[1:]], written.patches[audio])
    expected = torch.stack([each.argmax(-1) for each in forced], dim=1)
    assert torch.equal(written.patches[audio], expected)


@pytest.mark.parametrize("limit", [1, 2, 3, 40])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_written_can_be_taken_apart(model: AudioLM, limit: int, seed) -> None:
    prompts = [LAYOUT.encode([torch.tensor([3])]), SEQUENCES[2]]
    open_audio = type(SEQUENCES[0])(SEQUENCES[0].text[:5], SEQUENCES[0].patches[:5])
    for prompt in [*prompts, open_audio]:
        generator = torch.Generator().manual_seed(seed)
        written = model.generate(prompt, limit=limit, text_sampling=Sampling(2.0), generator=generator)
        assert torch.equal(written.text[: len(prompt.text)], prompt.text)
        assert limit <= len(written.text) - len(prompt.text) <= limit + 1
        assert LAYOUT.decode(written)


def test_generation_stops_at_the_stop_id(model: AudioLM) -> None:
    generator = torch.Generator().manual_seed(0)
    written = model.generate(SEQUENCES[1], limit=500, stop_id=9, text_sampling=Sampling(3.0), generator=generator)
    assert written.text.tolist().index(9) == len(written.text) - 1


def test_it_survives_the_disk(model: AudioLM, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.manual_seed(5)
    again = AudioLM(type(model.lm)() if isinstance(model.lm, Recurrent) else llama(), CONFIG, SPECIAL).eval()
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    first, second = (m(pad_sequences(SEQUENCES, SIZES)) for m in (model, again))
    assert torch.equal(first.text, second.text)
    assert torch.equal(first.audio, second.audio)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.5, 0.9)])
def test_a_batch_writes_what_each_prompt_alone_does(model: AudioLM, sampling: Sampling) -> None:
    """Prompts of any lengths, one of them within audio, of which some stop early."""
    within = Positions(SEQUENCES[2].text[:3], SEQUENCES[2].patches[:3])
    prompts = [SEQUENCES[0], SEQUENCES[1], within]
    options: dict = {"limit": 14, "stop_id": 2, "text_sampling": sampling, "audio_sampling": sampling}

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    together = model.generate(prompts, generator=generators(), **options)
    for prompt, written, generator in zip(prompts, together, generators(), strict=True):
        alone = model.generate(prompt, generator=generator, **options)
        assert torch.equal(written.text, alone.text)
        assert torch.equal(written.patches, alone.patches)
    with pytest.raises(ValueError, match="2 generators for 3 prompts"):
        model.generate(prompts, generator=generators()[:2], **options)


def test_a_script_is_spoken_whole_and_the_same_in_every_batch(model: AudioLM) -> None:
    prompts = [Positions(torch.tensor([2]), LAYOUT.empty_patches(1)), SEQUENCES[0]]
    scripts = [[[3, 4], [5], [6]], [[7], [8, 9]]]
    options: dict = {"limit": 200, "text_sampling": Sampling(0.5)}
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    together = model.generate(prompts, script=scripts, generator=generators, **options)
    for number, (prompt, script, written) in enumerate(zip(prompts, scripts, together, strict=True)):
        new = written.text[len(prompt.text) :]
        assert new[new < min(SPECIAL)].tolist() == [id for unit in script for id in unit]
        assert new[-1] == SPECIAL.end
        LAYOUT.decode(written)
        generator = torch.Generator().manual_seed(number)
        alone = model.generate(prompt, script=script, generator=generator, **options)
        assert torch.equal(written.text, alone.text)
        assert torch.equal(written.patches, alone.patches)
    with pytest.raises(ValueError, match="1 scripts for 2 prompts"):
        model.generate(prompts, script=scripts[:1], limit=9)
    with pytest.raises(ValueError, match="stop_id=2: a sequence with a script"):
        model.generate(prompts, script=scripts, limit=9, stop_id=2)
    cut = [model.generate(prompts[0], script=scripts[0], limit=limit) for limit in range(1, 9)]
    assert all(len(each.text) <= 1 + limit + 1 for limit, each in enumerate(cut, 1))
    for each in cut:
        LAYOUT.decode(each)


def test_a_folder_gives_the_model_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for tied in (False, True):
        lm = llama()
        if tied:
            lm.config.tie_word_embeddings = True
            lm.tie_weights()
        model = AudioLM(lm, CONFIG, SPECIAL).eval()
        model.save_pretrained(tmp_path / str(tied))
        modes = {(tmp_path / str(tied) / name).stat().st_mode for name in ("patches.safetensors", "audio_lm.json")}
        # others may read the weights where they may read the rest
        assert len(modes) == 1
        again = AudioLM.from_pretrained(tmp_path / str(tied))
        assert (again.patch_config, again.special) == (CONFIG, SPECIAL)
        assert again.patch_encoder.embedding is again.patch_decoder.embedding
        first, second = (m(pad_sequences(SEQUENCES, SIZES)) for m in (model, again))
        assert torch.equal(first.text, second.text)
        assert torch.equal(first.audio, second.audio)
    with pytest.raises(ValueError, match="Recurrent, which has no save_pretrained"):
        AudioLM(Recurrent(), CONFIG, SPECIAL).save_pretrained(tmp_path / "other")
    (tmp_path / "True" / "patches.safetensors").unlink()
    with pytest.raises(ValueError, match="is no audio LM"):
        AudioLM.from_pretrained(tmp_path / "True")


def test_transformers_trains_measures_and_resumes_it(tmp_path: Path) -> None:
    """Trainer's checkpoints are safetensors, and two steps and two resumed ones are as four."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    def trained(steps: int, folder: str, resume: bool = False) -> tuple[AudioLM, dict]:
        torch.manual_seed(0)
        model = AudioLM(llama(), CONFIG, SPECIAL)
        arguments = transformers.TrainingArguments(
            str(tmp_path / folder), max_steps=steps, save_steps=2, per_device_train_batch_size=2, report_to=[],
            use_cpu=True, disable_tqdm=True, logging_strategy="no", lr_scheduler_type="constant", learning_rate=1e-2,
        )  # fmt: skip
        trainer = transformers.Trainer(
            model, arguments, train_dataset=SEQUENCES, eval_dataset=SEQUENCES, data_collator=PositionsCollator(SIZES)
        )
        trainer.train(resume_from_checkpoint=resume)
        return model, trainer.evaluate()

    torch.manual_seed(0)
    before = AudioLM(llama(), CONFIG, SPECIAL)(**PositionsCollator(SIZES)(SEQUENCES)).loss.item()
    whole, measured = trained(4, "whole")
    assert measured["eval_loss"] < before
    trained(2, "parts")
    resumed, _ = trained(4, "parts", resume=True)
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_one_sequence_is_learnt_by_heart() -> None:
    """Training drives both losses to zero, and greedy generation then repeats what was learnt."""
    torch.manual_seed(0)
    model = AudioLM(llama(), CONFIG, SPECIAL)
    learnt = SEQUENCES[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        losses = model(pad_sequences([learnt], SIZES))
        optimizer.zero_grad()
        (losses.text + losses.audio.mean()).backward()
        optimizer.step()
    prompt = LAYOUT.encode([learnt.text[:3]])
    written = model.eval().generate(prompt, limit=20, stop_id=2, text_sampling=GREEDY, audio_sampling=GREEDY)
    assert torch.equal(written.text, learnt.text)
    assert torch.equal(LAYOUT.decode(written, frames=[9])[1], clip(9))


def test_an_lm_in_half_precision() -> None:
    torch.manual_seed(0)
    model = AudioLM(llama(), CONFIG, SPECIAL).eval()
    expected = model(pad_sequences(SEQUENCES, SIZES))
    model.lm.to(torch.bfloat16)
    losses = model(pad_sequences(SEQUENCES, SIZES))
    assert losses.text.dtype == losses.audio.dtype == torch.float32
    torch.testing.assert_close(losses.audio, expected.audio, rtol=0.02, atol=0)
    assert LAYOUT.decode(model.generate(SEQUENCES[2], limit=9))


def test_nothing_to_go_on_from_or_to_write(model: AudioLM) -> None:
    with pytest.raises(ValueError, match="limit=0, and a prompt of 1 positions"):
        model.generate(SEQUENCES[1], limit=0)
    with pytest.raises(ValueError, match="a prompt of 0 positions"):
        model.generate(type(SEQUENCES[1])(SEQUENCES[1].text[:0], SEQUENCES[1].patches[:0]), limit=1)


def test_special_ids_that_the_lm_does_not_have() -> None:
    with pytest.raises(ValueError, match="the LM has 23 ids"):
        AudioLM(Recurrent(), CONFIG, SpecialIds(21, 22, 23))
    with pytest.raises(ValueError, match="the LM has 23 ids"):
        AudioLM(Recurrent(), CONFIG, SpecialIds(1, 2, 2))

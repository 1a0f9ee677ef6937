"""PatchEncoder and PatchDecoder: who sees what, steps equal teacher forcing, gradients, and the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from mimotok.lm.patches import CodeEmbedding, PatchConfig, PatchDecoder, PatchEncoder
from mimotok.lm.sampling import GREEDY, Sampling
from tests.helpers.layout_strategies import random_codes

SIZES = (12, 9, 5)
LM_DIM = 10
CONFIG = PatchConfig(SIZES, dim=16, heads=2, ffn_dim=32, encoder_layers=2, decoder_layers=2)


class Both(nn.Module):
    """Encoder and decoder with the embeddings they share."""

    def __init__(self, config: PatchConfig = CONFIG) -> None:
        super().__init__()
        torch.manual_seed(0)
        embedding = CodeEmbedding(config.codebook_sizes, config.dim)
        self.encoder = PatchEncoder(config, LM_DIM, embedding)
        self.decoder = PatchDecoder(config, LM_DIM, embedding)


def hidden_states(count: int) -> Tensor:
    return torch.randn(count, LM_DIM, generator=torch.Generator().manual_seed(1))


def test_every_frame_and_channel_of_a_patch_is_encoded() -> None:
    encoder, patches = Both().encoder, random_codes(SIZES, 4, 0, batch=1)
    assert encoder(patches).shape == (1, LM_DIM)
    for channel, size in enumerate(SIZES):
        for frame in range(4):
            other = patches.clone()
            other[0, channel, frame] = (other[0, channel, frame] + 1) % size
            assert not torch.allclose(encoder(other), encoder(patches))


@given(st.lists(st.integers(0, 4), min_size=3, max_size=3), st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_a_channel_sees_exactly_the_steps_before_its_own(delays, patch_size) -> None:
    decoder = Both(PatchConfig(SIZES, patch_size, tuple(delays), 16, 2, 32, 1, 1)).decoder
    patches, hidden = random_codes(SIZES, patch_size, 0, batch=1), hidden_states(1)
    before = decoder(hidden, patches)
    for channel, frame in [(0, 0), (1, patch_size - 1), (2, patch_size // 2)]:
        other = patches.clone()
        other[0, channel, frame] = (other[0, channel, frame] + 1) % SIZES[channel]
        after = decoder(hidden, other)
        for seen, late in enumerate(delays):
            changed = (after[seen] - before[seen]).abs().amax(-1)[0] > 1e-7
            later = [at + late > frame + delays[channel] for at in range(patch_size)]
            assert changed.tolist() == later


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.8, 0.9)])
def test_step_by_step_equals_teacher_forcing(sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, hidden = Both().decoder, hidden_states(5)
    seen: list[Tensor] = []
    from mimotok.lm import patches as patches_module
    from mimotok.lm.sampling import sample as real

    def sample(logits: Tensor, *rest: Any) -> Tensor:
        seen.append(logits)
        return real(logits, *rest)

    monkeypatch.setattr(patches_module, "sample", sample)
    generator = torch.Generator().manual_seed(3)
    patches = decoder.generate(hidden, sampling=sampling, generator=generator)
    forced = decoder(hidden, patches)
    order = [(step, c) for step in range(CONFIG.steps) for c, late in enumerate(CONFIG.delays) if 0 <= step - late < 4]
    assert len(order) == len(seen) == 12
    for (step, channel), logits in zip(order, seen, strict=True):
        torch.testing.assert_close(logits, forced[channel][:, step - CONFIG.delays[channel]], atol=1e-5, rtol=1e-5)
    if sampling == GREEDY:
        assert torch.equal(patches, torch.stack([each.argmax(-1) for each in forced], dim=1))


def test_one_sampling_for_each_channel() -> None:
    decoder, hidden = Both().decoder, hidden_states(200)
    each = [GREEDY, Sampling(), Sampling(top_p=1e-9)]
    draws = [decoder.generate(hidden, sampling=each, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    # only the second channel draws; its first frame comes after the first frame of channel 0 and before that of 2
    assert torch.equal(draws[0][:, 0, :2], draws[1][:, 0, :2])
    assert not torch.equal(draws[0][:, 1], draws[1][:, 1])
    with pytest.raises(ValueError, match="names 2 channels, but there are 3"):
        decoder.generate(hidden, sampling=each[:2])


def test_the_loss_is_the_mean_cross_entropy_of_each_channel() -> None:
    decoder, hidden, patches = Both().decoder, hidden_states(6), random_codes(SIZES, 4, 0, batch=6)
    loss = decoder.loss(hidden, patches)
    for channel, logits in enumerate(decoder(hidden, patches)):
        chosen = logits.log_softmax(-1).gather(-1, patches[:, channel, :, None])
        torch.testing.assert_close(loss[channel], -chosen.mean())
    assert decoder.loss(hidden[:0], patches[:0]).tolist() == [0, 0, 0]


def test_gradients_reach_everything_but_the_empty_id() -> None:
    both, patches = Both(), random_codes(SIZES, 40, 0, batch=1).unfold(2, 4, 4)[0].transpose(0, 1)
    hidden = both.encoder(patches)
    both.decoder.loss(hidden, patches).sum().backward()
    for name, parameter in both.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    for table, size in zip(both.encoder.embedding, SIZES, strict=True):
        assert not table.weight[size].any()
        assert not table.weight.grad[size].any()


def test_embeddings_are_shared_and_everything_survives_the_disk(tmp_path: Path) -> None:
    both = Both()
    assert both.encoder.embedding is both.decoder.embedding
    again = Both()
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.normal_()
    save_model(both, str(tmp_path / "model.safetensors"))
    load_model(again, str(tmp_path / "model.safetensors"))
    assert again.encoder.embedding is again.decoder.embedding
    patches, hidden = random_codes(SIZES, 4, 0), hidden_states(2)
    assert torch.equal(again.encoder(patches), both.encoder(patches))
    assert torch.equal(again.decoder.generate(hidden, sampling=GREEDY), both.decoder.generate(hidden, sampling=GREEDY))


def test_the_published_sizes() -> None:
    config = PatchConfig.published()
    assert (config.patch_size, config.steps, config.delays) == (4, 11, tuple(range(8)))
    with torch.device("meta"):
        decoder = PatchDecoder(config, 4096)
    assert (len(decoder.layers), len(decoder.heads), decoder.projection.out_features) == (16, 8, 1024)
    with torch.device("meta"):
        assert len(PatchEncoder(config, 4096).layers) == 6


@pytest.mark.parametrize(
    "changes", [{"dim": 18, "heads": 4}, {"patch_size": 0}, {"decoder_layers": 0}, {"delays": (0, 1)}]
)
def test_impossible_configs(changes) -> None:
    with pytest.raises(ValueError, match="="):
        PatchConfig(SIZES, **changes)


def test_summed_embeddings_have_unit_variance() -> None:
    torch.manual_seed(0)
    for books in (2, 8):
        summed = CodeEmbedding([512] * books, 64)(torch.randint(0, 512, (100, books, 40)))
        assert float(summed.detach().var()) == pytest.approx(1, rel=0.1)

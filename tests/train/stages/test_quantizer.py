"""Codebooks in training: the same tables as in inference, statistics of valid frames only, and no dead codes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mimotok import Tokenizer

pytest.importorskip("vector_quantize_pytorch", reason="needs: pip install 'mimotok[train]'")

from train.stages.quantizer import TrainingQuantizer


@pytest.fixture
def source(tiny: Callable[..., Tokenizer]) -> Tokenizer:
    return tiny()


def every(tokenizer: Tokenizer, items: int) -> torch.Tensor:
    return torch.full((items,), tokenizer.config.num_quantizers)


@pytest.mark.parametrize("settings", [{}, {"beam": 4}, {"weighted": True}, {"beam": 4, "weighted": True}])
def test_codes_equal_inference(tiny: Callable[..., Tokenizer], settings: dict[str, Any]) -> None:
    source = tiny(default_n_q=3, quantizer_settings=settings)
    quantizer = TrainingQuantizer(source.encoder.quantizer).eval()
    latents, lengths = torch.randn(2, 9, 32), torch.tensor([9, 5])
    out = quantizer(latents, lengths, every(source, 2))
    codes = source.encoder.quantizer.encode(latents, 4)
    assert torch.equal(out.codes[0], codes[0])
    assert torch.equal(out.codes[1, :, :5], codes[1, :, :5])
    assert (out.codes[1, :, 5:] == -1).all()
    torch.testing.assert_close(out.quantized[0], source.encoder.quantizer.decode(codes)[0])


def test_codes_of_a_beam_are_those_that_are_trained(tiny: Callable[..., Tokenizer]) -> None:
    source = tiny(default_n_q=3, quantizer_settings={"beam": 4})
    quantizer = TrainingQuantizer(source.encoder.quantizer, dead_code_fraction=0.0).train()
    latents = torch.randn(2, 9, 32)
    codes = source.encoder.quantizer.encode(latents, 4)
    before = [book.cluster_size.clone() for book in source.encoder.quantizer.codebooks()]
    quantizer(latents, torch.tensor([9, 9]), torch.tensor([4, 2]))
    for index, codebook in enumerate(quantizer._codebooks()):
        heard = codes[:, index] if index < 2 else codes[:1, index]
        counts = torch.bincount(heard.flatten(), minlength=codebook.cluster_size.shape[1]).float()
        torch.testing.assert_close(codebook.cluster_size[0], torch.lerp(before[index], counts, 1 - codebook.decay))


@pytest.mark.parametrize("inited", [True, False])
def test_a_step_is_that_of_the_library(source: Tokenizer, inited: bool) -> None:
    """Entries, codes, loss and gradient of each codebook, and its averages afterwards, k-means and revival included."""
    for book in source.encoder.quantizer.codebooks():
        book.inited.fill_(float(inited))
        book.cluster_size[:3] = 0
    ours = TrainingQuantizer(source.encoder.quantizer, dead_code_fraction=0.3).train()
    theirs = copy.deepcopy(ours)
    in_use = torch.rand(3, 200) < 0.8
    for step in range(3):
        found = []
        for quantizer in (ours, theirs):
            torch.manual_seed(step)
            residual = torch.randn(3, 200, 32, requires_grad=True)
            for index, layer in enumerate(quantizer.layers):
                if quantizer is ours:
                    result = tuple(ours._search(index, residual, in_use))
                else:
                    quantizer._set_dead_threshold(layer._codebook)
                    result = layer(residual, mask=in_use)
                    # the library leaves what is not in use as it is
                    result = (result[0] * in_use[..., None], *result[1:])
                (gradient,) = torch.autograd.grad(result[2], residual)
                found.append((*result, gradient))
        for mine, wanted in zip(found[: len(ours.layers)], found[len(ours.layers) :], strict=True):
            torch.testing.assert_close(mine, wanted)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_padding_and_unused_codebooks_leave_no_trace(source: Tokenizer) -> None:
    latents = torch.randn(2, 40, 32)
    loud = latents.clone()
    loud[1, 30:] = 1e3
    n_q = torch.tensor([4, 2])
    states = []
    for given in (latents, loud):
        quantizer = TrainingQuantizer(source.encoder.quantizer, dead_code_fraction=0.0).train()
        quantizer(given, torch.tensor([40, 30]), n_q)
        states.append(quantizer.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    counts = [states[0][f"layers.{i}._codebook.cluster_size"].sum() for i in range(4)]
    before = [float(book.cluster_size.sum()) for book in source.encoder.quantizer.codebooks()]
    for count, old, frames in zip(counts, before, (70, 70, 40, 40), strict=True):
        torch.testing.assert_close(count, torch.tensor(0.99 * old + 0.01 * frames))


def test_latents_that_are_not_finite_leave_no_trace(source: Tokenizer) -> None:
    latents = torch.randn(1, 40, 32, requires_grad=True)
    spoilt = latents.detach().clone().requires_grad_()
    with torch.no_grad():
        spoilt[0, 30:, 3] = float("nan")
    states = []
    for given, length in ((latents, 30), (spoilt, 40)):
        quantizer = TrainingQuantizer(source.encoder.quantizer, dead_code_fraction=0.0).train()
        out = quantizer(given, torch.tensor([length]), every(source, 1))
        states.append(quantizer.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert out.quantized.isnan().any()


@pytest.mark.slow
def test_kmeans_then_training_fits_and_revives(tiny: Callable[..., Tokenizer]) -> None:
    """Latents in clusters: codebooks start from data, and codes that nothing uses come back to life."""
    tokenizer = tiny()
    for book in tokenizer.encoder.quantizer.codebooks():
        book.inited.zero_()
    quantizer = TrainingQuantizer(tokenizer.encoder.quantizer, decay=0.9, dead_code_fraction=0.2).train()
    centres = 3 * torch.randn(64, 32)
    for step in range(60):
        torch.manual_seed(step)
        latents = centres[torch.randint(0, 64, (4, 100))] + 0.1 * torch.randn(4, 100, 32)
        if step == 20:
            quantizer.layers[0]._codebook.embed.data[:, :16] = 1e4
            quantizer.layers[0]._codebook.cluster_size.data[:, :16] = 0
        out = quantizer(latents, torch.full((4,), 100), every(tokenizer, 4))
    assert (out.quantized - latents).square().mean() < 0.5 * latents.var()
    for index in range(4):
        used = out.codes[:, index].unique().numel()
        assert used > 0.7 * tokenizer.codebook_sizes[index], f"codebook {index}: {used} codes"
    quantizer.write_back(tokenizer.encoder.quantizer)
    codes = tokenizer.encoder.quantizer.encode(latents, 4)
    assert torch.equal(codes, quantizer.eval()(latents, torch.full((4,), 100), every(tokenizer, 4)).codes)


def test_gradients(source: Tokenizer) -> None:
    """Once through the straight-through step, whatever the number of codebooks; each codebook commits the latents."""
    quantizer = TrainingQuantizer(source.encoder.quantizer).train()
    latents = torch.randn(3, 10, 32, requires_grad=True)
    out = quantizer(latents, torch.full((3,), 10), torch.tensor([4, 1, 0]))
    (gradient,) = torch.autograd.grad(out.quantized.sum(), latents, retain_graph=True)
    assert torch.equal(gradient, torch.ones_like(gradient))
    assert torch.equal(out.quantized[2], latents[2])
    (gradient,) = torch.autograd.grad(out.commitment_loss, latents)
    assert gradient[0].abs().sum() > gradient[1].abs().sum() > 0
    assert not gradient[2].any()

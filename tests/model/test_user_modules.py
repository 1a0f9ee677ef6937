"""What a user puts on a layer or in its place is part of the model: fused paths step aside for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mimotok import StreamDecoder, Tokenizer
from mimotok.model.linear import ACTIVATIONS, Linear, activated

Place = tuple[nn.Module, str]


class Adapted(nn.Module):
    """What peft's lora.Linear computes; it has no `weight` of its own."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(0.1 * torch.randn(2, base.in_features))
        self.b = nn.Parameter(0.1 * torch.randn(base.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a.T @ self.b.T


def linear_places(model: nn.Module) -> list[Place]:
    modules = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    return [(parent, name) for parent, name, child in modules if isinstance(child, nn.Linear)]


@torch.no_grad()
def hear(tokenizer: Tokenizer) -> tuple[Tensor, ...]:
    """Everything that linear layers have a part in: sound, codes' latents, of batches and of streams."""
    codes = torch.arange(4 * 12).view(1, 4, 12) % 16
    stream = StreamDecoder(tokenizer)
    wav = torch.sin(torch.arange(9000) * 0.1)[None]
    return (
        tokenizer.decode(codes),
        torch.cat([stream.push(codes), stream.flush()], 1),
        tokenizer.encode_latents(wav).values,
        tokenizer.decode(codes.repeat(2, 1, 1), torch.tensor([12, 7])).values,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["k_proj", "out_proj", "fc1", "fc2", "out", "embeddings"])
def test_an_adapter_beside_a_layer_and_merged_into_it_are_one_model(
    streamable: Callable[..., Tokenizer], name: str
) -> None:
    tokenizer = streamable()
    plain = hear(tokenizer)
    places = [place for place in linear_places(tokenizer) if place[1] == name]
    for parent, child in places:
        setattr(parent, child, Adapted(getattr(parent, child)))
    beside = hear(tokenizer)
    for parent, child in places:
        adapted = getattr(parent, child)
        adapted.base.weight.data += adapted.b @ adapted.a
        setattr(parent, child, adapted.base)
    merged = hear(tokenizer)
    assert not torch.allclose(plain[0], merged[0], atol=1e-3)
    for one, other in zip(beside, merged, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-3)


def halved(layer: nn.Module) -> None:
    layer.register_forward_hook(lambda _module, _inputs, output: output / 2)


def patched(layer: nn.Module) -> None:
    layer.forward = lambda x: nn.Linear.forward(layer, x) / 2  # type: ignore[arg-type]


def parametrized(layer: nn.Linear) -> None:
    class Halved(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    layer.bias.data /= 2
    parametrize.register_parametrization(layer, "weight", Halved())


@pytest.mark.parametrize("change", [halved, patched, parametrized])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@torch.no_grad()
def test_a_change_of_a_layer_acts_on_its_product(change: Callable[[nn.Module], None], activation: str) -> None:
    layer = Linear(6, 5)
    x = torch.randn(2, 3, 6)
    wanted = ACTIVATIONS[activation](layer(x) / 2)
    change(layer)
    torch.testing.assert_close(activated(layer, x, activation), wanted)


@torch.no_grad()
def test_a_plain_layer_is_its_product_and_the_activation() -> None:
    layer = Linear(6, 5)
    x = torch.randn(2, 3, 6)
    for name, function in ACTIVATIONS.items():
        torch.testing.assert_close(activated(layer, x, name), function(x @ layer.weight.T + layer.bias))


def test_a_hook_on_the_norm_over_time_acts_in_padded_batches_too(tiny: Callable[..., Tokenizer]) -> None:
    tokenizer = tiny(upsample_norm="group")
    tokenizer.decoder.dconv2.norm.register_forward_hook(lambda _module, _inputs, output: 0.5 * output)
    codes = torch.arange(4 * 12).view(1, 4, 12) % 16
    batch = tokenizer.decode(codes.repeat(2, 1, 1), torch.tensor([12, 7])).values
    torch.testing.assert_close(batch[:1], tokenizer.decode(codes), atol=1e-5, rtol=1e-4)
    alone = tokenizer.decode(codes[:, :, :7])
    torch.testing.assert_close(batch[1:, : alone.shape[1]], alone, atol=1e-5, rtol=1e-4)

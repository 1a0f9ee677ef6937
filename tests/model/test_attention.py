"""Windowed attention against a dense mask, and its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mimotok.model import attention as module
from mimotok.model.attention import attention, plan_attention
from mimotok.model.transformer import rope_table, rotate


def dense(q: Tensor, k: Tensor, v: Tensor, window: tuple[int, int], length: int) -> Tensor:
    """One clip, softmax over an explicit mask."""
    size = q.shape[2]
    offset = torch.arange(size) - torch.arange(size)[:, None]
    mask = torch.ones(size, size, dtype=torch.bool)
    if window[0] >= 0:
        mask &= offset >= -window[0]
    if window[1] >= 0:
        mask &= offset <= window[1]
    mask &= torch.arange(size) < length
    score = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return score.masked_fill(~mask, float("-inf")).softmax(-1) @ v


def attend(q: Tensor, k: Tensor, v: Tensor, window: tuple[int, int], lengths: Tensor | None = None) -> Tensor:
    """Heads before time, as in `dense`."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return attention(q, k, v, plan_attention([window], q, lengths)[window]).transpose(1, 2)


sides = st.integers(-1, 9)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.integers(1, 70), sides, sides, st.integers(1, 16), st.data())
def test_equals_a_dense_mask(size: int, left: int, right: int, block: int, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, size), min_size=2, max_size=2))
    torch.manual_seed(size)
    q, k, v = torch.randn(3, 2, 2, size, 8).unbind(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        patch.setattr(module, "HALF_OPEN_BLOCK", block)
        out = attend(q, k, v, (left, right), torch.tensor(lengths))
        whole = attend(q, k, v, (left, right))
    assert torch.isfinite(out).all()
    for i, length in enumerate(lengths):
        wanted = dense(q[i : i + 1], k[i : i + 1], v[i : i + 1], (left, right), length)
        torch.testing.assert_close(out[i, :, :length], wanted[0, :, :length], atol=1e-5, rtol=1e-5)
        wanted = dense(q[i : i + 1], k[i : i + 1], v[i : i + 1], (left, right), size)
        torch.testing.assert_close(whole[i], wanted[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [(4, 2), (9, 0), (0, 0), (3, 60)])
def test_in_training_a_clip_is_one_block_with_the_same_gradients(window: tuple[int, int]) -> None:
    torch.manual_seed(0)
    given = torch.randn(3, 2, 2, 40, 8)
    lengths = torch.tensor([40, 25])
    valid = (torch.arange(40) < lengths[:, None])[:, None, :, None]
    weights = torch.randn(2, 2, 40, 8) * valid

    def gradients(run: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        qkv = given.clone().requires_grad_()
        out = run(*qkv.unbind(0)) * valid
        (out * weights).sum().backward()
        assert qkv.grad is not None
        return out.detach(), qkv.grad

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        items = [
            dense(q[i : i + 1, :, :length], k[i : i + 1, :, :length], v[i : i + 1, :, :length], window, length)
            for i, length in enumerate(lengths.tolist())
        ]
        return torch.cat([torch.nn.functional.pad(item, (0, 0, 0, 40 - item.shape[2])) for item in items])

    wanted = gradients(plain)
    torch.testing.assert_close(gradients(lambda q, k, v: attend(q, k, v, window, lengths)), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        out, slope = gradients(lambda q, k, v: attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), window, lengths))
    assert (out - wanted[0]).norm() < 0.01 * wanted[0].norm()
    assert (slope - wanted[1]).norm() < 0.02 * wanted[1].norm()


def test_a_rotation_has_the_gradient_of_its_operations() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 3, 8, dtype=torch.float64, requires_grad=True)
    rope = rope_table(9, 8, 10_000.0, x.detach())
    assert torch.autograd.gradcheck(lambda x: rotate(x, rope), x)
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, rope), x)
    torch.testing.assert_close(rotate(x, rope).detach(), rotate(x.detach(), rope))
    each = torch.func.vmap(torch.func.grad(lambda x: rotate(x[None], rope).square().sum()))(x)
    torch.testing.assert_close(each, 2 * x.detach())  # a rotation keeps lengths


def test_no_call_sees_more_keys_than_a_block_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a windowed layer hands to the kernel, mask included, does not grow with the length of the audio."""
    calls = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        calls.append((q.shape, k.shape, options["attn_mask"].shape))
        return kernel(q, k, v, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    x = torch.zeros(1, 1, 20_000, 8)
    attend(x, x, x, (40, 10))
    blocks, block, keys = 20_000 // module.BLOCK, module.BLOCK, module.BLOCK + 50
    assert calls == [((blocks, 1, block, 8), (blocks, 1, keys, 8), (blocks, 1, block, keys))]


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), sides, sides, st.data())
def test_packed_equals_padded(size: int, left: int, right: int, data: st.DataObject) -> None:
    """What torch's varlen kernel is given, with a stand-in for the kernel, which only CUDA has."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, size), min_size=1, max_size=3)))
    q, k, v = torch.randn(3, len(lengths), 2, size, 8).unbind(0)

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, starts: Tensor, key_starts: Tensor, longest: int, _: int, *, window_size: tuple
    ) -> Tensor:
        assert torch.equal(starts, key_starts)
        assert starts.dtype == torch.int32
        assert longest == int(starts.diff().max())
        items = zip(*(x.split(starts.diff().tolist()) for x in (q, k, v)), strict=True)
        parts = ([x.transpose(0, 1)[None] for x in item] for item in items)
        return torch.cat(
            [dense(item[0], item[1], item[2], window_size, item[0].shape[2])[0].transpose(0, 1) for item in parts]
        )

    padded = attend(q, k, v, (left, right), lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_packs", lambda _: True)
        patch.setattr(varlen, "varlen_attn", kernel)
        packed = attend(q, k, v, (left, right), lengths)
    for i, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(packed[i, :, :length], padded[i, :, :length], atol=1e-5, rtol=1e-5)

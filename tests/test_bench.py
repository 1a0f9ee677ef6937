"""The benchmarks run, at sizes that take no time; what they time is nobody's business here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import batch, gpu, guard, large
from bench.entropy import Corpus, network_bits
from mimotok import Tokenizer
from tests.helpers.models import STREAMABLE, make_tokenizer
from train.tools.code_model import CodeNetwork

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(STREAMABLE.to_json())
    return path


@pytest.mark.parametrize("mixed", [False, True])
def test_gpu_bench_runs_on_a_cpu(tiny_config: Path, mixed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {
        "batch": 2,
        "seconds": 1.5,
        "device": "cpu",
        "shape": tiny_config,
        "product": 64,
        "repeats": 1,
    }
    gpu.main(mixed=mixed, dtype="float32", **options)
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == ["| work", "| ---", "| encode", "| decode"]


def test_gpu_bench_refuses_graphs_without_cuda(tiny_config: Path) -> None:
    with pytest.raises(ValueError, match="CUDA graphs need cuda"):
        gpu.main("graphs", device="cpu", shape=tiny_config)


def test_operations_are_counted_in_proportion_to_the_batch() -> None:
    one, three = gpu.count_flops(STREAMABLE, 1, 100), gpu.count_flops(STREAMABLE, 3, 100)
    assert three == tuple(3 * flops for flops in one)
    assert min(one) > 0


def test_the_random_checkpoint_is_one(tmp_path: Path) -> None:
    size = large.write_random_checkpoint(tmp_path, STREAMABLE)
    tokenizer = Tokenizer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert sum(tensor.numel() * tensor.element_size() for tensor in tokenizer.state_dict().values()) == size
    assert tokenizer.decode(tokenizer.encode(torch.randn(1, 9_600))).isfinite().all()


def test_batches_give_the_codes_of_each_clip() -> None:
    tokenizer = make_tokenizer(STREAMABLE)
    clips = [torch.randn(length) for length in (5_000, 960, 12_345)]
    for clip, codes in zip(clips, batch.encode_in_batches(tokenizer, clips, 2), strict=True):
        assert torch.equal(codes, tokenizer.encode(clip[None])[0])


def test_a_ratio_that_fell_by_more_than_a_tenth_is_reported() -> None:
    committed = {"encode": 10.0, "decode": 5.0}
    assert guard.falls({"encode": 8.9, "decode": 4.6, "new": 0.1}, committed) == ["encode: 8.90, it was 10.00"]
    assert set(json.loads(guard.COMMITTED.read_text())) == {"processor", "ratios"}


def test_a_code_is_predicted_from_those_before_it_alone() -> None:
    """A change of one code changes no bits of the codes before it; of itself and of those after it, it does."""
    torch.manual_seed(0)
    sizes = (16, 8, 4)
    model = CodeNetwork(
        [torch.randn(size, 6) for size in sizes], [np.full(size, 1 / size) for size in sizes], 12
    ).eval()
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter)
    codes = torch.stack([torch.randint(size, (1, 10)) for size in sizes], dim=-1)
    with torch.no_grad():
        before = model(codes)
        for book, size in enumerate(sizes):
            changed = codes.clone()
            changed[0, 6, book] = (codes[0, 6, book] + 1) % size
            same = (model(changed) == before)[0].flatten()
            place = 6 * len(sizes) + book
            assert same[:place].all()
            assert not same[place:].any()
    # the bits of a corpus are those of its spans, each begun anew
    held = Corpus(codes[0].T.numpy(), np.zeros(10, bool))
    halves = torch.stack([model(codes[:, :5]), model(codes[:, 5:])]).sum((0, 1, 2)) / np.log(2) / 10
    np.testing.assert_allclose(network_bits(model, held, 5), halves.detach().numpy(), rtol=1e-5)

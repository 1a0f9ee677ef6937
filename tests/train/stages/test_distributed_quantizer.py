"""Two processes train the same codebooks, and a step of theirs is a step of one process on the joined batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as distributed
from torch.nn.parallel import DistributedDataParallel

from tests.helpers.models import TINY, make_tokenizer
from tests.helpers.ranks import run_ranks

pytest.importorskip("vector_quantize_pytorch", reason="needs: pip install 'mimotok[train]'")

from train.stages.quantizer import TrainingQuantizer

pytestmark = pytest.mark.slow

STEPS, CLIPS, FRAMES = 4, 4, 50


class Toy(torch.nn.Module):
    """A layer of latents before the real training quantizer."""

    def __init__(self, kmeans: bool) -> None:
        super().__init__()
        source = make_tokenizer(TINY).encoder.quantizer
        for book in source.codebooks():
            book.inited.fill_(float(not kmeans))
        torch.manual_seed(1)
        self.layer = torch.nn.Linear(32, 32)
        self.quantizer = TrainingQuantizer(source, dead_code_fraction=0.3 if kmeans else 0.0)
        self.quantizer.synchronise()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n_q = torch.full((len(x),), 4)
        out = self.quantizer(self.layer(x), torch.full((len(x),), FRAMES), n_q)
        return (out.quantized - x).square().mean() + out.commitment_loss


def batch(step: int) -> torch.Tensor:
    return torch.randn(CLIPS, FRAMES, 32, generator=torch.Generator().manual_seed(step))


def train(model: torch.nn.Module, rank: int, ranks: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        torch.manual_seed(100 * step + rank)
        optimizer.zero_grad()
        model(batch(step).chunk(ranks)[rank]).backward()
        optimizer.step()


def worker(rank: int, folder: str, kmeans: bool) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = Toy(kmeans).train()
    train(DistributedDataParallel(model, broadcast_buffers=False), rank, 2)
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def two_ranks(folder: Path, kmeans: bool) -> list[dict[str, torch.Tensor]]:
    run_ranks(worker, folder, kmeans)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_codebooks_are_equal_through_kmeans_and_revival(tmp_path: Path) -> None:
    first, second = two_ranks(tmp_path, kmeans=True)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert first["quantizer.layers.3._codebook.embed"].abs().sum() > 0


def test_equals_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    first, second = two_ranks(tmp_path, kmeans=False)
    alone = Toy(kmeans=False).train()
    train(alone, 0, 1)
    for key, wanted in alone.state_dict().items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], wanted, atol=1e-5, rtol=1e-4, msg=key)

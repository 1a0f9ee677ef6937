"""Fully sharded data parallelism (FSDP2) of the joint stage.

Each rank holds its part of the weights, of their moving average and of the optimizer's moments. Codebooks, which are
buffers, are whole on every rank.
"""

from __future__ import annotations

from itertools import chain

import torch
import torch.distributed as distributed
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from mimotok.tokenizer import Tokenizer
from train.stages.text_decoder import AudioToText


def replicate(module: nn.Module, device: torch.device) -> None:
    """Move `module` to `device` and give every rank the weights and buffers of rank 0."""
    module.to(device)
    for tensor in chain(module.parameters(), module.buffers()):
        distributed.broadcast(tensor.detach(), 0)


def shard_tokenizer(tokenizer: Tokenizer, mesh: DeviceMesh) -> None:
    """Shard encoder and decoder, whose forward is what training calls, block by block.

    They are whole during their forward only: after a validation the moving average goes on on shards.
    """
    for stack in tokenizer.stacks():
        for block in stack.blocks():
            fully_shard(block, mesh=mesh)
    for module in (tokenizer.encoder, tokenizer.decoder):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def shard_text_decoder(text_decoder: AudioToText, mesh: DeviceMesh) -> None:
    """Shard the text decoder as one: ranks write texts of different lengths, and must not wait for each other's."""
    fully_shard(text_decoder, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(text_decoder, "transcribe")

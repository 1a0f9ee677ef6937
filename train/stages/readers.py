"""What reads the first codebook in the joint stage, and can go from one part of that stage to the next.

A new reader knows nothing, and what it asks of the first codebook at first takes meaning from a model that has some.
"""

from __future__ import annotations

from torch import nn

# By the names that the stage and its checkpoints have for them.
READERS = ("phone_classifier", "character_reader", "semantic_reader")


def readers_of(stage: nn.Module) -> nn.ModuleDict:
    """Return the readers that a joint stage has, by name."""
    readers = {name: getattr(stage, name) for name in READERS}
    return nn.ModuleDict({name: reader for name, reader in readers.items() if reader is not None})

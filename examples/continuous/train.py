"""Train on continuous latents: python -m examples.continuous.train manifest.jsonl --root data."""

from __future__ import annotations

from examples.asr_adapter.train import command, latent_items
from examples.training import run

if __name__ == "__main__":
    run(command(latent_items, "continuous"))

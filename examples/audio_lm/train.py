"""Train an audio LM: python -m examples.audio_lm.train manifest.jsonl --root data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from examples.audio_lm.model import SpeechLM, spoken
from examples.corpus import Corpus, Item, codes_of, hours, load_items
from examples.training import fit, make_loader, run
from mimotok import Tokenizer
from mimotok.lm.audio_lm import Sequences, pad_sequences

# the share of training clips whose text is left out, so that the model also learns to go on without one
WITHOUT_TEXT = 0.1


def collate(items: Sequence[Item], *, codebook_sizes: Sequence[int], without_text: float) -> Sequences:
    """Clips as one batch."""
    texts = ["" if random.random() < without_text else item.text for item in items]
    sequences = [
        spoken(item.features.long(), text, codebook_sizes, item.speaker)
        for item, text in zip(items, texts, strict=True)
    ]
    return pad_sequences(sequences, codebook_sizes)


def main(
    manifest: str,
    root: str = ".",
    out: Path = Path("runs/examples/audio_lm"),
    cache: str = Corpus.cache,
    model: str | None = None,
    language: str = "en",
    source: str = "",
    minutes: float = 60.0,
    steps: int = 400,
    batch_size: int = 16,
    every: int = 100,
    precision: str = "32-true",
    resume: bool = False,
) -> None:
    """Train a small audio LM from scratch; the codes come from `model`, the embedded checkpoint by default.

    language: "" for all languages of the manifest. precision: bf16-mixed is twice as fast on processors that have it.
    resume: goes on where a stopped call with the same settings was.
    """
    random.seed(0)
    tokenizer = Tokenizer.from_pretrained(model)
    sizes = tokenizer.codebook_sizes[: tokenizer.n_q]
    corpus = Corpus(manifest, root, cache, language or None, source, minutes)
    loaders = {}
    for split, without_text in (("train", WITHOUT_TEXT), ("dev", 0.0)):
        items = load_items(corpus, split, tokenizer, "codes", codes_of)
        print(f"{split}: {len(items)} clips, {hours(items, tokenizer.frame_rate, time=1):.2f} h")
        lengths = [item.features.shape[1] for item in items]
        together = partial(collate, codebook_sizes=sizes, without_text=without_text)
        loaders[split] = make_loader(items, lengths, together, batch_size)
    lm = SpeechLM(sizes, steps)
    print(fit(lm, loaders["train"], loaders["dev"], out, every=every, precision=precision, resume=resume))


if __name__ == "__main__":
    run(main)

"""Train an audio LM: python -m examples.audio_lm.train manifest.jsonl --root data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from examples.audio_lm.model import SpeechLM, pronounced, spoken, turns_of
from examples.corpus import Corpus, Item, codes_of, hours, load_items
from examples.training import fit, make_loader, run
from mimotok import Tokenizer
from mimotok.lm import InterleavedLayout
from mimotok.lm.audio_lm import Sequences, pad_sequences

# the share of training clips whose text is left out, so that the model also learns to go on without one
WITHOUT_TEXT = 0.1


def collate(items: Sequence[Item], *, layout: InterleavedLayout, patch_rate: float, without_text: float) -> Sequences:
    """Clips as one batch; those whose words are not known are learnt without text."""
    sequences = []
    for item in items:
        turns = turns_of(pronounced(item.words, item.phones), item.features.shape[1] // layout.size, patch_rate)
        if random.random() < without_text:
            turns = []
        sequences.append(spoken(item.features.long(), turns, item.speaker, layout))
    return pad_sequences(sequences, layout.codebook_sizes)


def main(
    manifest: str,
    root: str = ".",
    labels: Path | None = None,
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
    start: Path | None = None,
    resume: bool = False,
) -> None:
    """Train a small audio LM; the codes come from `model`, the embedded checkpoint by default.

    labels: the clips' words and phones with their times, from `python -m train align`; clips that are not in it, or
    all without it, are learnt without text. language: "" for all languages of the manifest. precision: bf16-mixed is
    twice as fast on processors that have it. start: a checkpoint whose weights to begin with. resume: goes on where a
    stopped call with the same settings was.
    """
    random.seed(0)
    tokenizer = Tokenizer.from_pretrained(model)
    sizes = tokenizer.codebook_sizes[: tokenizer.n_q]
    corpus = Corpus(manifest, root, cache, language or None, source, minutes, labels=labels)
    lm = SpeechLM(sizes, steps)
    if start is not None:
        lm.load_state_dict(SpeechLM.load_from_checkpoint(start).state_dict())
    loaders = {}
    for split, without_text in (("train", WITHOUT_TEXT), ("dev", 0.0)):
        items = load_items(corpus, split, tokenizer, "codes", codes_of)
        labelled = sum(bool(item.words) for item in items)
        print(f"{split}: {len(items)} clips, {hours(items, tokenizer.frame_rate, time=1):.2f} h, {labelled} with words")
        lengths = [item.features.shape[1] for item in items]
        layout = lm.model.layout
        patch_rate = tokenizer.frame_rate / layout.size
        together = partial(collate, layout=layout, patch_rate=patch_rate, without_text=without_text)
        loaders[split] = make_loader(items, lengths, together, batch_size)
    print(fit(lm, loaders["train"], loaders["dev"], out, every=every, precision=precision, resume=resume))


if __name__ == "__main__":
    run(main)

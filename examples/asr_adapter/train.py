"""Train an adapter that transcribes: python -m examples.asr_adapter.train manifest.jsonl --root data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from examples.asr_adapter.model import Reader, collate
from examples.corpus import Corpus, Item, codes_of, hours, latents_of, load_items
from examples.training import fit, make_loader, run
from mimotok import Tokenizer
from mimotok.text import error_rates, normalize_text

SHOWN = 5


def quantized_items(corpus: Corpus, split: str, tokenizer: Tokenizer) -> list[Item]:
    """Clips with what their codes stand for, [F, D]."""
    items = load_items(corpus, split, tokenizer, "codes", codes_of)
    return [item._replace(features=tokenizer.dequantize(item.features[None].long())[0]) for item in items]


def latent_items(corpus: Corpus, split: str, tokenizer: Tokenizer) -> list[Item]:
    """Clips with their continuous latents, [F, D]."""
    return load_items(corpus, split, tokenizer, "latents", latents_of)


def command(read: Callable[[Corpus, str, Tokenizer], list[Item]], name: str) -> Callable[..., None]:
    """Return the script that trains on what `read` gives; it writes to runs/examples/`name`."""

    def main(
        manifest: str,
        root: str = ".",
        out: Path = Path("runs/examples", name),
        cache: str = Corpus.cache,
        model: str | None = None,
        language: str = "en",
        source: str = "",
        minutes: float = 60.0,
        steps: int = 400,
        listen_steps: int = 0,
        batch_size: int = 16,
        every: int = 100,
        resume: bool = False,
    ) -> None:
        """Train adapter and LM on a frozen tokenizer, and print the CER on dev.

        Of `steps`, the first `listen_steps` teach a recurrent network before the adapter to spell by CTC. resume: goes
        on where a stopped call with the same settings was.
        """
        if not 0 <= listen_steps <= steps:
            raise ValueError(f"listen_steps={listen_steps}: give 0, for a model without a listener, to {steps}")
        tokenizer = Tokenizer.from_pretrained(model)
        corpus = Corpus(manifest, root, cache, language or None, source, minutes)
        parts = {split: read(corpus, split, tokenizer) for split in ("train", "dev")}
        loaders = {}
        for split, items in parts.items():
            print(f"{split}: {len(items)} clips, {hours(items, tokenizer.frame_rate, time=0):.2f} h")
            loaders[split] = make_loader(items, [len(item.features) for item in items], collate, batch_size)
        reader = Reader(tokenizer.config.d_model, steps, listen_steps=listen_steps)
        print(fit(reader, loaders["train"], loaders["dev"], out, every=every, resume=resume))
        report(reader, parts["dev"])

    return main


def report(reader: Reader, items: list[Item]) -> None:
    """Print a few transcripts, and CER and WER over all clips and over each source's, of the LM and of the listener."""
    heard: dict[str, list[str]] = {"read": [], "spelled": []}
    reader.eval()
    for start in range(0, len(items), 16):
        batch = collate(items[start : start + 16])
        if reader.steps > reader.listen_steps:
            heard["read"] += reader.transcribe(batch)
        if reader.listener is not None:
            heard["spelled"] += reader.listener.transcribe(batch.features, batch.lengths)
    said = [normalize_text(item.text) for item in items]
    sources = sorted({item.source for item in items})
    for name, texts in heard.items():
        if not texts:
            continue
        for reference, hypothesis in list(zip(said, texts, strict=True))[:SHOWN]:
            print(f"said: {reference}\n{name}: {hypothesis}")
        for source in [*sources, ""]:
            chosen = [number for number, item in enumerate(items) if source in ("", item.source)]
            cer, wer = error_rates([said[number] for number in chosen], [texts[number] for number in chosen])
            print(f"dev CER {cer:.3f}, WER {wer:.3f} ({name}, {len(chosen)} clips{source and f' of {source}'})")


if __name__ == "__main__":
    run(command(quantized_items, "asr_adapter"))

"""Train an adapter that reads codes: python -m examples.asr_adapter.train manifest.jsonl --root data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from examples.asr_adapter.model import Reader, collate
from examples.asr_adapter.writing import Writer
from examples.corpus import Corpus, Item, codes_of, hours, latents_of, load_items, sound_of
from examples.training import fit, make_loader, run
from mimotok import Tokenizer
from mimotok.text import error_rates
from train.losses.speech import prepare
from train.losses.whisper import whisper_log_mel

FRAME_RATE = 25.0
SHOWN = 5


def quantized_items(corpus: Corpus, split: str, tokenizer: Tokenizer) -> list[Item]:
    """Clips with what their codes stand for, [F, D]."""
    items = load_items(corpus, split, tokenizer, "codes", codes_of)
    return [item._replace(features=tokenizer.dequantize(item.features[None].long())[0]) for item in items]


def latent_items(corpus: Corpus, split: str, tokenizer: Tokenizer) -> list[Item]:
    """Clips with their continuous latents, [F, D]."""
    return load_items(corpus, split, tokenizer, "latents", latents_of)


def mel_of(tokenizer: Tokenizer, wav: Tensor, n_mels: int) -> Tensor:
    """Compute what Whisper hears of wav [1, T], for whole frames of the tokenizer: float16 [1, 4 * F, n_mels]."""
    whole = tokenizer.num_frames(wav.shape[1]) * tokenizer.frame_size
    heard, samples = prepare(F.pad(wav, (0, whole - wav.shape[1])), torch.tensor([whole]), tokenizer.sample_rate)
    return whisper_log_mel(heard, samples, n_mels).transpose(1, 2).to(torch.float16)


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
        max_seconds: float = 20.0,
        steps: int = 400,
        stem_steps: int = 0,
        batch_size: int = 16,
        every: int = 100,
        resume: bool = False,
    ) -> None:
        """Train an adapter from a frozen tokenizer to a frozen Whisper, and print what the two read on dev.

        Of `steps`, the first `stem_steps` learn the output of Whisper's convolutions alone. resume: goes on where a
        stopped call with the same settings was.
        """
        if not 0 <= stem_steps <= steps:
            raise ValueError(f"stem_steps={stem_steps}: give 0 to {steps}")
        tokenizer = Tokenizer.from_pretrained(model)
        if tokenizer.frame_rate != FRAME_RATE:
            raise ValueError(f"{model}: {tokenizer.frame_rate:g} frames a second, but the adapter reads {FRAME_RATE:g}")
        corpus = Corpus(manifest, root, cache, language or None, source, minutes, max_seconds)
        reader = Reader(tokenizer.config.d_model, steps, stem_steps=stem_steps)
        n_mels = reader.whisper().shape.n_mels
        items = {}
        loaders = {}
        for split in ("train", "dev"):
            items[split] = read(corpus, split, tokenizer)
            print(f"{split}: {len(items[split])} clips, {hours(items[split], FRAME_RATE, time=0):.2f} h")
            heard = load_items(corpus, split, tokenizer, f"mel-{n_mels}", partial(mel_of, n_mels=n_mels))
            pairs = list(zip(items[split], heard, strict=True))
            loaders[split] = make_loader(pairs, [len(item.features) for item in heard], collate, batch_size)
        print(fit(reader, loaders["train"], loaders["dev"], out, every=every, resume=resume))
        # Lightning leaves it where it trained
        reader.cpu().eval()
        report(reader, Writer(reader.whisper()), tokenizer, items["dev"])

    return main


@torch.no_grad()
def report(reader: Reader, writer: Writer, tokenizer: Tokenizer, items: list[Item]) -> None:
    """Print a few transcripts, and CER and WER of each source and of all: of sound, of decoded sound, and as read."""
    texts: dict[str, list[str]] = {"original": [], "decoded": [], "read": []}
    for item in items:
        wav = sound_of(item.clip, tokenizer.sample_rate)
        texts["original"].append(writer.hear(wav, tokenizer.sample_rate))
        texts["decoded"].append(writer.hear(tokenizer.reconstruct(wav), tokenizer.sample_rate))
        stem = reader.adapter(item.features[None], torch.tensor([len(item.features)]))
        texts["read"].append(writer.read(stem[0]))
    for item, text in list(zip(items, texts["read"], strict=True))[:SHOWN]:
        print(f"said: {item.text}\nread: {text}")
    for source in [*sorted({item.source for item in items}), ""]:
        chosen = [number for number, item in enumerate(items) if source in ("", item.source)]
        said = [items[number].text for number in chosen]
        print(f"dev, {len(chosen)} clips{source and f' of {source}'}:")
        for name, written in texts.items():
            cer, wer = error_rates(said, [written[number] for number in chosen])
            print(f"  {name}: CER {cer:.3f}, WER {wer:.3f}")


if __name__ == "__main__":
    run(command(quantized_items, "asr_adapter"))

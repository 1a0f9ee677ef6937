"""Measure what an audio LM says: python -m examples.audio_lm.evaluate voices.jsonl labels.jsonl --root data.

Texts of the dev part are spoken and heard by Whisper base, beside the clips themselves after the codec; and beginnings
of the clips are continued, to see whether the voice stays.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eval.metrics.asr import make_recognizer
from eval.metrics.speaker import SpeakerSimilarity
from eval.protocol import SAMPLE_RATE, resample
from eval.whisper import BASE, RATE
from examples.audio_lm.model import SpeechLM, pronounced, spoken, turns_of
from examples.audio_lm.speaking import continue_speech, speak
from examples.corpus import Corpus, Item, codes_of, load_items
from examples.training import run
from mimotok import Tokenizer, save_audio
from mimotok.io.clips.clip import Clip
from mimotok.io.files import make_folder
from mimotok.lm.audio_lm import AudioLM, pad_sequences
from mimotok.lm.sampling import Sampling
from mimotok.text import error_rates

BATCH = 16


class Speaking(NamedTuple):
    """How texts of one speaker were spoken; both word error rates are by Whisper base.

    wer: of the LM; reference_wer: of the clips after the codec; ended: share that found an end; lengths: of each text,
    seconds written over those of the clip.
    """

    wer: float
    reference_wer: float
    ended: float
    lengths: list[float]


def measure_speech(lm: AudioLM, tokenizer: Tokenizer, items: Sequence[Item], sampling: Sampling, out: Path) -> Speaking:
    """Have the LM speak the texts of clips, and write the sound to a folder."""
    make_folder(out)
    recognize = make_recognizer(BASE, "cpu").recognize
    written = []
    for start in range(0, len(items), BATCH):
        batch = items[start : start + BATCH]
        written += speak(lm, [item.text for item in batch], [item.speaker for item in batch], sampling, start)
    heard: tuple[list[str], list[str]] = ([], [])
    for number, (item, said) in enumerate(zip(items, written, strict=True)):
        for texts, codes in zip(heard, (said.codes, item.features.long()), strict=True):
            wav = tokenizer.decode(codes[None])[0].numpy()
            texts.append(recognize(resample(wav, tokenizer.sample_rate, RATE), item.language or None))
        save_audio(out / f"{item.speaker}-{number:03d}.wav", tokenizer.decode(said.codes[None]), tokenizer.sample_rate)
    texts = [item.text for item in items]
    return Speaking(
        wer=error_rates(texts, heard[0]).wer,
        reference_wer=error_rates(texts, heard[1]).wer,
        ended=statistics.fmean(said.ended for said in written),
        lengths=[said.codes.shape[1] / item.features.shape[1] for item, said in zip(items, written, strict=True)],
    )


@torch.no_grad()
def measure_reading(lm: AudioLM, items: Sequence[Item], patch_rate: float) -> dict[str, float]:
    """Return what a code of the first codebook costs in nats with a clip's own text, without, and with another's.

    items: with words. patch_rate: Hz. The other text is the next item's, turn by turn.
    """
    right = [turns_of(pronounced(i.words, i.phones), i.features.shape[1] // lm.layout.size, patch_rate) for i in items]
    other = [
        [turn._replace(text=following[place % len(following)].text) for place, turn in enumerate(turns)]
        for turns, following in zip(right, [*right[1:], right[0]], strict=True)
    ]
    costs = {}
    for name, texts in (("its text", right), ("no text", [[] for _ in items]), ("another's text", other)):
        sequences = [
            spoken(item.features.long(), turns, item.speaker, lm.layout)
            for item, turns in zip(items, texts, strict=True)
        ]
        costs[name] = float(lm(pad_sequences(sequences, lm.layout.codebook_sizes)).audio[0])
    return costs


def measure_voices(
    lm: AudioLM, tokenizer: Tokenizer, items: dict[str, list[Item]], prompt_seconds: float, sampling: Sampling
) -> tuple[list[float], list[float]]:
    """Continue the beginnings of clips of several speakers.

    Returns:
        SIM of each continuation to the beginning that it continues, and to those of other speakers.
    """
    patches = round(prompt_seconds * tokenizer.frame_rate / lm.layout.size)
    frames = patches * lm.layout.size
    chosen = [(name, item.features[:, :frames].long()) for name, each in items.items() for item in each]
    # once over the beginning, a continuation gets as long again
    written = continue_speech(lm, [codes for _, codes in chosen], patches, sampling, seed=0)
    begun = [_measured(tokenizer, codes) for _, codes in chosen]
    wholes = [torch.cat((codes, more.codes), dim=1) for (_, codes), more in zip(chosen, written, strict=True)]
    continued = [_measured(tokenizer, codes, frames) for codes in wholes]
    similarity = SpeakerSimilarity()
    own: list[float] = []
    others: list[float] = []
    enough = [number for number, more in enumerate(written) if more.codes.shape[1] >= frames // 2]
    # beginnings outside, since the measure keeps the last one's embedding
    for other, prompt in enumerate(begun):
        for number in enough:
            same = chosen[other][0] == chosen[number][0]
            if other == number or not same:
                kind = own if same else others
                kind.append(similarity.measure(prompt, continued[number], Clip("prompt", ""))["sim"])
    return own, others


def _measured(tokenizer: Tokenizer, codes: Tensor, first: int = 0) -> np.ndarray:
    """Decode codes [n_q, F], and return the sound from frame `first` on at the rate of the measure."""
    wav = tokenizer.decode(codes[None])[0, first * tokenizer.frame_size :].numpy()
    return resample(wav, tokenizer.sample_rate, SAMPLE_RATE)


def main(
    manifest: str,
    labels: Path,
    root: str = ".",
    checkpoint: Path = Path("runs/examples/audio_lm/last.ckpt"),
    out: Path = Path("runs/examples/audio_lm/spoken"),
    cache: str = Corpus.cache,
    model: str | None = None,
    clips: int = 50,
    prompt_seconds: float = 2.0,
    temperature: float = 0.3,
    top_p: float = 0.9,
) -> None:
    """Speak the texts of up to so many dev clips of each speaker whose words are in `labels`, and continue all clips.

    Sound is written to `out`.
    """
    tokenizer = Tokenizer.from_pretrained(model)
    lm = SpeechLM.load_from_checkpoint(checkpoint).model.eval()
    sampling = Sampling(temperature, top_p)
    corpus = Corpus(manifest, root, cache, language=None, minutes=600.0, labels=labels)
    found: dict[str, list[Item]] = {}
    for item in load_items(corpus, "dev", tokenizer, "codes", codes_of):
        found.setdefault(item.speaker, []).append(item)
    for name, items in found.items():
        said = [item for item in items if item.words][:clips]
        if len(said) < 2:
            continue
        speech = measure_speech(lm, tokenizer, said, sampling, out)
        low, middle, high = statistics.quantiles(speech.lengths, n=4)
        print(
            f"{name}: {len(speech.lengths)} texts, WER {speech.wer:.3f} (the clips after the codec: "
            f"{speech.reference_wer:.3f}), {speech.ended:.0%} ended, quartiles of length against the clip's "
            f"{low:.2f} {middle:.2f} {high:.2f}"
        )
        costs = measure_reading(lm, said, tokenizer.frame_rate / lm.layout.size)
        print(f"{name}: codebook 0 costs " + ", ".join(f"{cost:.2f} nats with {text}" for text, cost in costs.items()))
    long = round((prompt_seconds + 0.5) * tokenizer.frame_rate)
    begun = {name: [i for i in items if i.features.shape[1] >= long][:clips] for name, items in found.items()}
    own, others = measure_voices(lm, tokenizer, begun, prompt_seconds, sampling)
    if own and others:
        print(
            f"{len(own)} continuations: SIM to their beginnings {statistics.fmean(own):.3f}, "
            f"to other speakers' {statistics.fmean(others):.3f}"
        )


if __name__ == "__main__":
    run(main)

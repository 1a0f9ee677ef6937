"""Speak a text: python -m examples.audio_lm.generate --checkpoint last.ckpt --text "hello" out.wav."""

from __future__ import annotations

from pathlib import Path

import torch

from examples.audio_lm.model import SpeechLM
from examples.audio_lm.speaking import continue_speech, speak
from examples.training import run
from mimotok import Tokenizer, load_audio, save_audio
from mimotok.lm.sampling import Sampling


def main(
    out: Path,
    checkpoint: Path = Path("runs/examples/audio_lm/last.ckpt"),
    text: str = "",
    speaker: str = "heart",
    audio: Path | None = None,
    prompt_seconds: float = 2.0,
    seconds: float = 5.0,
    temperature: float = 0.3,
    top_p: float = 0.9,
    seed: int = 0,
    model: str | None = None,
) -> None:
    """Say --text in the voice of a `speaker` of the training data, or go on after the first seconds of --audio.

    seconds: of a continuation, at most.
    """
    if bool(text) == (audio is not None):
        raise ValueError("give either --text to say, or --audio to go on from")
    tokenizer = Tokenizer.from_pretrained(model)
    lm = SpeechLM.load_from_checkpoint(checkpoint).model.eval()
    sampling = Sampling(temperature, top_p)
    if audio is None:
        codes = speak(lm, [text], [speaker], sampling, seed)[0].codes
    else:
        wav = load_audio(audio, tokenizer.sample_rate)[:, : round(prompt_seconds * tokenizer.sample_rate)]
        before = tokenizer.encode(wav)[0]
        before = before[:, : before.shape[1] // lm.layout.size * lm.layout.size]
        limit = max(1, round(seconds * tokenizer.frame_rate / lm.layout.size))
        codes = torch.cat((before, continue_speech(lm, [before], limit, sampling, seed)[0].codes), dim=1)
    save_audio(out, tokenizer.decode(codes[None]), tokenizer.sample_rate)
    print(f"{out}: {codes.shape[1] / tokenizer.frame_rate:.2f} s")


if __name__ == "__main__":
    run(main)

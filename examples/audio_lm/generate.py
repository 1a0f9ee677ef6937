"""Speak a text: python -m examples.audio_lm.generate --checkpoint last.ckpt --text "hello" out.wav."""

from __future__ import annotations

from pathlib import Path

import torch

from examples.audio_lm.model import SPECIAL, SpeechLM, continuation_prompt, speech_prompt
from examples.training import run
from mimotok import Tokenizer, load_audio, save_audio
from mimotok.lm.sampling import GREEDY, Sampling


def main(
    out: Path,
    checkpoint: Path = Path("runs/examples/audio_lm/last.ckpt"),
    text: str = "",
    audio: Path | None = None,
    prompt_seconds: float = 2.0,
    seconds: float = 5.0,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    model: str | None = None,
) -> None:
    """Say --text, or go on after the first seconds of --audio, for `seconds` at most."""
    if bool(text) == (audio is not None):
        raise ValueError("give either --text to say, or --audio to go on from")
    tokenizer = Tokenizer.from_pretrained(model)
    lm = SpeechLM.load_from_checkpoint(checkpoint).model.eval()
    if audio is None:
        prompt = speech_prompt(text, lm.patch_config)
    else:
        wav = load_audio(audio, tokenizer.sample_rate)[:, : round(prompt_seconds * tokenizer.sample_rate)]
        prompt = continuation_prompt(tokenizer.encode(wav)[0], lm.patch_config)
    written = lm.generate(
        prompt,
        limit=max(1, round(seconds * tokenizer.frame_rate / lm.patch_config.patch_size)),
        stop_id=SPECIAL.end,
        # where the speech ends is not left to chance
        text_sampling=GREEDY,
        audio_sampling=Sampling(temperature, top_p),
        generator=torch.Generator().manual_seed(seed),
    )
    codes = lm.layout.decode(written)[-1]
    save_audio(out, tokenizer.decode(codes[None]), tokenizer.sample_rate)
    print(f"{out}: {codes.shape[1] / tokenizer.frame_rate:.2f} s")


if __name__ == "__main__":
    run(main)

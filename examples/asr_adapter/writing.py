"""What a frozen Whisper writes down: of what an adapter gives its blocks, and of sound."""

from __future__ import annotations

import torch
from torch import Tensor

from eval.whisper import TINY_EN, load_whisper
from train.losses.speech import prepare
from train.losses.whisper import HOP, RATE, WhisperEncoder, whisper_log_mel

# What Whisper's log-mel features are after the end of a clip of usual loudness. It has learnt on 30 seconds, filled up
# with silence; of a short clip alone, or with five seconds of silence, it writes the last words again and again.
QUIET = -0.75
POSITION_RATE = RATE // (2 * HOP)  # Hz
TOKENS_PER_SECOND = 10  # nobody says more in a second; text that is repeated would go on


class Writer:
    """Whisper's blocks in torch and its decoder in faster-whisper, both frozen."""

    def __init__(self, encoder: WhisperEncoder, source: str = TINY_EN) -> None:
        """source: of `eval.whisper.load_whisper`, an English Whisper, the one that `encoder` is of. Raises as that."""
        self.model = load_whisper(source)
        from faster_whisper.tokenizer import Tokenizer

        self.tokenizer = Tokenizer(self.model.hf_tokenizer, multilingual=False)
        self.encoder = encoder
        silence = torch.full((1, encoder.shape.n_mels, 2 * encoder.shape.positions), QUIET)
        self.silence = encoder.convolve(silence, torch.tensor([silence.shape[2]]))[0]

    def hear(self, wav: Tensor, sample_rate: int) -> str:
        """wav: [1, T]. Returns the text."""
        heard, samples = prepare(wav, torch.tensor([wav.shape[1]]), sample_rate)
        mel = whisper_log_mel(heard, samples, self.encoder.shape.n_mels)
        return self.read(self.encoder.convolve(mel, torch.tensor([mel.shape[2]]))[0])

    def read(self, stem: Tensor) -> str:
        """stem: [P, D] at 50 Hz, as the convolutions give it, up to all of Whisper's positions. Returns the text."""
        from ctranslate2 import StorageView

        whole = torch.cat((stem, self.silence[len(stem) :]))[None]
        states = self.encoder.norm(self.encoder.attend(whole, torch.tensor([whole.shape[1]]))[-1])
        prompt = [*self.tokenizer.sot_sequence, self.tokenizer.no_timestamps]
        longest = len(prompt) + TOKENS_PER_SECOND * (1 + len(stem) // POSITION_RATE)
        found = self.model.model.generate(
            StorageView.from_array(states.numpy()),
            [prompt],
            beam_size=1,
            max_length=min(longest, self.model.max_length),
        )
        return self.tokenizer.decode(found[0].sequences_ids[0]).strip()

"""Sounds to codes as a function of batches, for `datasets.Dataset.map`, whose cache knows it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from mimotok.config import TokenizerConfig
from mimotok.identity import CHANGED
from mimotok.io.audio import resample
from mimotok.tokenizer import Tokenizer


class BatchEncoder:
    """Encodes a batch of a Hugging Face dataset: a column of sounds to a column of codes.

    `datasets` caches what `map` computes under a fingerprint of the function. That of this class is made of the
    model's weights and the settings, so that it is the same in every process, and another once the weights are.
    Worker processes (`num_proc`) load the model again.

    Args:
        tokenizer: encodes.
        audio: the column of sounds: what `datasets.Audio` decodes to, or dicts with `array` and `sampling_rate`.
        codes: the column to add: [n_q, F] for each sound.
        n_q: codebooks; the checkpoint's default where None.

    Raises:
        ValueError: for n_q out of range, and in use for what is no sound, naming its place in the batch.

    Example:
        >>> encoder = BatchEncoder(Tokenizer.from_pretrained())
        >>> sounds = [{"array": [0.0] * 9600, "sampling_rate": 24000}, {"array": [0.0] * 16000, "sampling_rate": 16000}]
        >>> first, second = encoder({"audio": sounds})["codes"]
        >>> second.shape
        (8, 26)
    """

    def __init__(
        self, tokenizer: Tokenizer, *, audio: str = "audio", codes: str = "codes", n_q: int | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.audio = audio
        self.codes = codes
        self.n_q = tokenizer.config.checked_n_q(n_q)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[np.ndarray]]:
        """Encode the sounds of a batch together; each gives what it gives alone."""
        wavs = [self._wav(sound, place) for place, sound in enumerate(batch[self.audio])]
        if not wavs:
            return {self.codes: []}
        lengths = torch.tensor([len(wav) for wav in wavs])
        padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        codes, frames = self.tokenizer.encode(padded, lengths, n_q=self.n_q)
        rows = zip(codes.cpu(), frames.tolist(), strict=True)
        return {self.codes: [row[:, :count].numpy() for row, count in rows]}

    def __reduce__(self) -> tuple[Any, ...]:
        # the same bytes in every process, which those of a pickled module are not
        model = self.tokenizer
        settings = {"audio": self.audio, "codes": self.codes, "n_q": self.n_q}
        identity = model.identity
        held = _Held(str(model.device), str(model.dtype), identity.name, identity.sha256)
        if model.folder is not None and not identity.name.endswith(CHANGED):
            return _loaded, (str(model.folder), held, settings)
        return _rebuilt, (model.config.to_json(), save(model.state_dict()), held, settings)

    def _wav(self, sound: Any, place: int) -> Tensor:
        # datasets from version 4 on gives torchcodec's decoder, which has these keys too
        try:
            samples = np.asarray(sound["array"], dtype=np.float32)
            rate = int(sound["sampling_rate"])
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{self.audio}[{place}]: no sound with array and sampling_rate ({error})") from None
        if samples.ndim == 2:
            samples = samples.mean(axis=0)
        if samples.ndim != 1 or not len(samples):
            raise ValueError(f"{self.audio}[{place}] has shape {list(samples.shape)}: give [samples], at least one")
        return torch.from_numpy(np.ascontiguousarray(resample(samples, rate, self.tokenizer.sample_rate)))


class _Held(NamedTuple):
    """What a model is, for the fingerprint and for building it again."""

    device: str
    dtype: str
    name: str
    sha256: str


def _loaded(folder: str, held: _Held, settings: dict[str, Any]) -> BatchEncoder:
    """Load the model again, as a worker process does. Raises ValueError where the file is another by now."""
    dtype = getattr(torch, held.dtype.removeprefix("torch."))
    tokenizer = Tokenizer.from_pretrained(Path(folder), device=held.device, dtype=dtype)
    if tokenizer.weights_sha256 != held.sha256:
        raise ValueError(f"{folder}: other weights than when the work began: sha256 {tokenizer.weights_sha256}")
    return BatchEncoder(tokenizer, **settings)


def _rebuilt(config: str, state: bytes, held: _Held, settings: dict[str, Any]) -> BatchEncoder:
    tokenizer = Tokenizer(TokenizerConfig.from_official(json.loads(config)), name=held.name)
    tokenizer.load_state_dict(load(state), assign=True)
    return BatchEncoder(tokenizer.to(held.device), **settings)

"""Our models with the interface of Codec-SUPERB: a file of one line in its `SoundCodec/codec` folder adds them.

The line is `from mimotok.interop.codec_superb import Codec`; a subclass chooses another model or number of codebooks.
It was run by that project's own code at its commit cfccafce (docs/interop.md).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from mimotok.io.audio import load_audio, resample, save_audio
from mimotok.io.files import make_folder
from mimotok.tokenizer import Tokenizer

Item = dict[str, Any]


class Coded(NamedTuple):
    """What decoding needs: codes int64 [n_q, F], and the samples to keep at the model's rate."""

    codes: Tensor
    num_samples: int


@dataclass
class ExtractedUnit:
    """Codes [n_q, F] of a sound, and what `decode_unit` takes."""

    unit: Tensor
    stuff_for_synth: Coded

    def to_dict(self) -> Item:
        """Return both fields by their names."""
        return {"unit": self.unit, "stuff_for_synth": self.stuff_for_synth}


@dataclass
class BatchExtractedUnit:
    """The same of several sounds."""

    units: list[Tensor]
    stuff_for_synth: list[Coded]
    batch_size: int

    def to_dict(self) -> Item:
        """Return all fields by their names."""
        return {"units": self.units, "stuff_for_synth": self.stuff_for_synth, "batch_size": self.batch_size}


class Codec:
    """A codec with `extract_unit`, `decode_unit`, `synth` and their batched versions.

    A sound is a dict whose "audio" has an "array" [T] and its "sampling_rate", or is, or has as "path", the path of a
    file; soxr resamples where the rate is not the model's.

    Attributes:
        source: folder or hub id; None for the embedded checkpoint.
        n_q: codebooks to use; the checkpoint's default where None.
        sampling_rate: Hz of the model.
        setting: the name of the folder into which `synth` writes.

    Example:
        >>> codec = Codec()
        >>> sound = {"audio": {"array": np.zeros(16000), "sampling_rate": 16000}}
        >>> codec.extract_unit(sound).unit.shape
        torch.Size([8, 26])
    """

    source: str | Path | None = None
    n_q: int | None = None
    supports_decode = True

    def __init__(self) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.config()

    def config(self) -> None:
        """Load the model that `source` and `n_q` name."""
        self.model = Tokenizer.from_pretrained(self.source, device=self.device)
        self.n_q = self.model.config.checked_n_q(self.n_q)
        self.sampling_rate = self.model.sample_rate
        self.setting = f"mimotok_{self.n_q}q"

    def is_1d(self) -> bool:
        """Return whether a frame is a single code."""
        return self.n_q == 1

    def extract_unit(self, data: Item) -> ExtractedUnit:
        """Encode a sound."""
        wav = self._wav(data)
        codes = self.model.encode(torch.from_numpy(wav)[None], n_q=self.n_q)[0].cpu()
        return ExtractedUnit(codes, Coded(codes, len(wav)))

    def decode_unit(self, stuff_for_synth: Coded) -> np.ndarray:
        """Decode what `extract_unit` gave. Returns float32 [T] at `sampling_rate`."""
        codes, num_samples = stuff_for_synth
        return self.model.decode(codes[None], length=num_samples)[0].cpu().numpy()

    def synth(self, data: Item, local_save: bool = True) -> Item:
        """Encode and decode a sound.

        Args:
            data: the sound; it gets the codes as "unit".
            local_save: whether to write a wav file below `reconstructed_{setting}` and put its path into "audio",
                instead of the samples. Both have the rate of the input.

        Returns:
            `data`.
        """
        rate = self._sound(data)[1]
        self.batch_synth([data], local_save=False)
        if local_save:
            back = data["audio"]["array"]
            path = self._saved(data, back, rate, f"reconstructed_{self.setting}")
            data["audio"] = {"path": path, "sampling_rate": rate}
        return data

    def batch_extract_unit(self, data_list: Sequence[Item]) -> BatchExtractedUnit:
        """Encode several sounds in one batch; the codes are those of each sound alone."""
        if not data_list:
            return BatchExtractedUnit([], [], 0)
        wavs = [torch.from_numpy(self._wav(data)) for data in data_list]
        lengths = torch.tensor([len(wav) for wav in wavs])
        padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        codes, frames = self.model.encode(padded, lengths, n_q=self.n_q)
        units = [row[:, :count].cpu() for row, count in zip(codes, frames.tolist(), strict=True)]
        coded = [Coded(unit, len(wav)) for unit, wav in zip(units, wavs, strict=True)]
        return BatchExtractedUnit(units, coded, len(units))

    def batch_decode_unit(self, batch_extracted_unit: BatchExtractedUnit) -> list[np.ndarray]:
        """Decode what `batch_extract_unit` gave, in one batch."""
        coded = batch_extracted_unit.stuff_for_synth
        if not coded:
            return []
        frames = torch.tensor([codes.shape[1] for codes, _ in coded])
        padded = torch.nn.utils.rnn.pad_sequence([codes.T for codes, _ in coded], batch_first=True).movedim(1, 2)
        wavs = self.model.decode(padded, frames).values.cpu().numpy()
        return [wav[:num_samples] for wav, (_, num_samples) in zip(wavs, coded, strict=True)]

    def batch_synth(self, data_list: list[Item], local_save: bool = True) -> list[Item]:
        """Encode and decode several sounds, as `synth`. Files go below `dummy_{setting}`; "audio" is then a path."""
        rates = [self._sound(data)[1] for data in data_list]
        extracted = self.batch_extract_unit(data_list)
        wavs = self.batch_decode_unit(extracted)
        for data, rate, unit, wav in zip(data_list, rates, extracted.units, wavs, strict=True):
            back = resample(wav, self.sampling_rate, rate)
            data["unit"] = unit
            data["audio"] = {"array": back, "sampling_rate": rate}
            if local_save:
                data["audio"] = self._saved(data, back, rate, f"dummy_{self.setting}")
        return data_list

    def _saved(self, data: Item, wav: np.ndarray, rate: int, folder: str) -> str:
        path = Path(folder, f"{data.get('id', uuid.uuid4())}.wav")
        if not path.resolve().is_relative_to(Path(folder).resolve()):
            raise ValueError(f"id={data['id']!r}: a file of that name would lie outside {folder}/")
        make_folder(path.parent)
        save_audio(path, torch.from_numpy(wav), rate)
        return str(path)

    def _wav(self, data: Item) -> np.ndarray:
        """Return the samples of a sound, float32 [T] at the model's rate."""
        wav, rate = self._sound(data)
        return np.ascontiguousarray(resample(wav, rate, self.sampling_rate))

    def _sound(self, data: Item) -> tuple[np.ndarray, int]:
        """Return the samples of a sound, float32 [T], and their rate. Raises ValueError for another shape."""
        audio: Any = {"path": data["audio"]} if isinstance(data["audio"], str | os.PathLike) else data["audio"]
        values = audio.get("array")
        if values is None:
            rate = soundfile.info(audio["path"]).samplerate
            return load_audio(audio["path"], rate)[0].numpy(), rate
        wav = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        wav = wav[0] if wav.ndim == 2 and len(wav) == 1 else wav
        if wav.ndim != 1:
            raise ValueError(f"audio array has shape {list(wav.shape)}: give one channel, [T]")
        rate = audio.get("sampling_rate")
        rate = self.sampling_rate if rate is None else int(rate)
        if rate < 1:
            raise ValueError(f"sampling_rate={rate}: give 1 Hz or more")
        return wav.astype(np.float32), rate

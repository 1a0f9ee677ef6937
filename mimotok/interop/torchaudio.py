"""Our models as torchaudio's pipelines are: a bundle that knows its rate and gives a `torch.nn.Module`.

torchaudio itself is not imported, and need not be installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from mimotok.config import TokenizerConfig
from mimotok.tokenizer import Tokenizer
from mimotok.weights import CONFIG_NAME, resolve_folder


class MimoTokenizerModel(nn.Module):
    """A tokenizer whose methods take and return (values, lengths), as the models of torchaudio do.

    Args:
        tokenizer: the model.
        n_q: codebooks to use; the checkpoint's default where None.

    Raises:
        ValueError: for n_q out of range.
    """

    def __init__(self, tokenizer: Tokenizer, n_q: int | None = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.n_q = tokenizer.config.checked_n_q(n_q)

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Encode, as `encode`."""
        return self.encode(waveforms, lengths)

    def encode(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Encode waveforms to codes.

        Args:
            waveforms: float [batch, time] in [-1, 1] at the bundle's rate. The channels of what `torchaudio.load`
                returns are encoded as clips of a batch; average them for a mono sound, as `mimotok.load_audio` does.
            lengths: [batch] valid samples of each waveform.

        Returns:
            Codes int64 [batch, n_q, frames], and the valid frames of each, None without `lengths`.

        Raises:
            ValueError: as `Tokenizer.encode`.
        """
        if lengths is None:
            return self.tokenizer.encode(waveforms, n_q=self.n_q), None
        return self.tokenizer.encode(waveforms, lengths, n_q=self.n_q)

    def decode(self, codes: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Decode codes to waveforms.

        Args:
            codes: int64 [batch, n_q, frames].
            lengths: [batch] valid frames of each item.

        Returns:
            Waveforms float32 [batch, time], and the valid samples of each, None without `lengths`.

        Raises:
            ValueError: as `Tokenizer.decode`.
        """
        if lengths is None:
            return self.tokenizer.decode(codes), None
        return self.tokenizer.decode(codes, lengths)


@dataclass(frozen=True)
class MimoTokenizerBundle:
    """A pretrained tokenizer with what belongs to it, as `torchaudio.pipelines` bundles models.

    The properties read config.json alone; `get_model` loads the weights.

    Args:
        source: folder or hub id; None for the embedded checkpoint.
        revision: branch, tag or commit of a hub id.
        n_q: codebooks to use; the checkpoint's default where None.

    Example:
        >>> from mimotok.interop.torchaudio import MIMO_TOKENIZER as bundle
        >>> bundle.sample_rate, bundle.frame_rate
        (24000, 25.0)
        >>> codes, _ = bundle.get_model()(torch.zeros(1, bundle.sample_rate))
        >>> codes.shape
        torch.Size([1, 8, 26])
    """

    source: str | Path | None = None
    revision: str | None = None
    n_q: int | None = None

    @cached_property
    def _config(self) -> TokenizerConfig:
        return TokenizerConfig.load(resolve_folder(self.source, self.revision) / CONFIG_NAME)

    @property
    def sample_rate(self) -> int:
        """Samples per second of what the model takes and returns."""
        return self._config.sample_rate

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self._config.frame_rate

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook in use."""
        return self._config.codebook_sizes[: self._config.checked_n_q(self.n_q)]

    def get_model(
        self, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> MimoTokenizerModel:
        """Load the model, in evaluation mode. Arguments and errors are those of `Tokenizer.from_pretrained`."""
        tokenizer = Tokenizer.from_pretrained(self.source, revision=self.revision, device=device, dtype=dtype)
        return MimoTokenizerModel(tokenizer, self.n_q).eval()


MIMO_TOKENIZER = MimoTokenizerBundle()

"""The whole-clip graphs as modules: sound to codes, and codes to magnitude and phase."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.model.lengths import frames_needed, mel_frames, valid_mask
from mimotok.model.mel import hann_window, mel_filterbank, reflect_pad
from mimotok.tokenizer import Tokenizer


class EncoderGraph(nn.Module):
    """wav [B, T] and its lengths [B] to codes [B, n_q, F] and theirs; the STFT is a convolution with its basis."""

    basis: Tensor
    bank: Tensor

    def __init__(self, tokenizer: Tokenizer, n_q: int) -> None:
        super().__init__()
        config = tokenizer.config
        self.config = config
        self.n_q = n_q
        self.encoder = tokenizer.encoder
        # not "kernels": AOTInductor's C++ has a member of that name
        self.register_buffer("basis", dft_kernels(config.n_fft, config.window_size)[:, None])
        bank = mel_filterbank(config.n_mels, config.n_fft, config.sample_rate, config.fmin, config.mel_top)
        self.register_buffer("bank", bank.clone())

    def forward(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode wav [B, T] with lengths [B]. Returns codes [B, n_q, F] and their lengths [B]."""
        frames = mel_frames(lengths, self.config.hop_length)
        latents = self.encoder(self.log_mel(wav, lengths), frames)
        code_lengths = frames_needed(frames, self.config.frame_stride)
        codes = self.encoder.quantizer.encode(latents, self.n_q)
        return codes * valid_mask(code_lengths, codes.shape[2])[:, None, :], code_lengths

    def log_mel(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """Compute what `mimotok.model.mel.log_mel` computes, [B, frames, n_mels], of wav [B, T]."""
        half = self.config.n_fft // 2
        mel = self.frame_log_mel(reflect_pad(wav, lengths, half, half))
        frames = mel_frames(lengths, self.config.hop_length)
        return mel * valid_mask(frames, mel.shape[1])[..., None]

    def frame_log_mel(self, padded: Tensor) -> Tensor:
        """Compute what `mimotok.model.mel.frame_log_mel` computes, [B, frames, n_mels], of samples [B, T]."""
        real, imaginary = F.conv1d(padded[:, None], self.basis, stride=self.config.hop_length).chunk(2, dim=1)
        magnitude = (real.square() + imaginary.square()).sqrt().transpose(1, 2)
        return (magnitude @ self.bank).clamp(min=self.config.mel_floor).log()


class DecoderGraph(nn.Module):
    """The graph from codes to magnitude and phase."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.quantizer = tokenizer.encoder.quantizer
        self.decoder = tokenizer.decoder

    def forward(self, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Decode codes [B, n_q, F] with lengths [B].

        A code below 0 is left out of the sum: one graph decodes any number of codebooks.

        Returns magnitude and phase, each [B, T, n_fft // 2 + 1], at the mel rate.
        """
        vocoder = self.decoder.vocoder
        coarse_mel, mel_lengths = self.decoder.coarse_mel(self.quantizer.decode(codes), lengths)
        hidden = vocoder.layers(vocoder.embeddings(coarse_mel), mel_lengths)
        return vocoder.head.magnitude_phase(vocoder.layer_norm(hidden))


def dft_kernels(n_fft: int, window_size: int) -> Tensor:
    """Compute real and imaginary parts of the windowed Fourier basis: fp32 [2 * (n_fft // 2 + 1), n_fft]."""
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
    # exact in whole numbers: the angle of bin b at sample t is that of b * t modulo n_fft
    turns = (bins[:, None] * torch.arange(n_fft)) % n_fft
    angle = 2 * torch.pi * turns / n_fft
    left = (n_fft - window_size) // 2
    window = F.pad(hann_window(window_size, torch.device("cpu")), (left, n_fft - window_size - left))
    return (torch.cat((angle.cos(), -angle.sin())) * window).float()


def inverse_dft_kernels(n_fft: int) -> Tensor:
    """Return the windowed inverse of the Fourier transform of real samples: fp32 [2 * (n_fft // 2 + 1), n_fft].

    It takes the real parts of all bins and then their imaginary parts.
    """
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
    angle = 2 * torch.pi * ((bins[:, None] * torch.arange(n_fft)) % n_fft) / n_fft
    # all bins but the first and, of an even size, the last stand for two of the full transform
    share = torch.where((bins == 0) | (2 * bins == n_fft), 1.0, 2.0)[:, None] / n_fft
    window = hann_window(n_fft, torch.device("cpu"))
    return (torch.cat((share * angle.cos(), -share * angle.sin())) * window).float()

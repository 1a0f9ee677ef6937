"""A search of codes that counts errors by what is heard of them, and codebooks that fit it.

Of what quantization does to a latent, the decoder lets little be heard in most directions and much in a few. The plain
search takes all of them alike. Here it is measured how far the sound moves with a small error in each direction, and
with it what a speech encoder hears, and the search of all codebooks but the first goes by that (Gardner and Rao, 1995,
"Theoretical analysis of the high-rate vector quantization of LPC parameters"). Their entries are then refitted to what
they are chosen for. The first codebook and its codes stay as they are, and with them what it means; encoder and decoder
stay too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from mimotok.io.files import require_writable
from mimotok.model.quantizer import Codebook, ResidualQuantizer
from mimotok.tokenizer import Tokenizer
from mimotok.weights import WEIGHTS_NAME
from train.losses.perceptual import stoi_loss
from train.losses.spectra import powers
from train.losses.speech import BUNDLED, SpeechEncoder, SpeechFeatureLoss, load_speech_encoder, prepare, standardised
from train.tools.export import checked_dtype
from train.tools.hear import speech

# seconds of a clip that are decoded at once, with gradients
LONGEST = 6
# spectra whose movement counts: windows in samples, and the power below which nothing is heard
WINDOWS = (512, 1024)
QUIETEST = 1e-4
# of the mean sensitivity, added to that of each direction: none is left to itself
FLOOR = 0.02
# latents of a round of refitting, and how often each codebook is refitted to what the others leave
ROWS = 60_000
SWEEPS = 3


def weigh_search(
    source: str | Path,
    out: str | Path,
    manifest: str | Sequence[str],
    *,
    root: str = ".",
    allow_outside: bool = False,
    minutes: float = 10.0,
    hours: float = 2.0,
    strength: float = 0.6,
    speech_share: float = 0.25,
    rounds: int = 8,
    seed: int = 0,
    dtype: str = "float16",
) -> str:
    """Write a model whose search is weighted, with refitted codebooks.

    Args:
        source: folder or hub id of a model with residual codebooks.
        out: folder to write.
        manifest: of speech, one or several.
        root: folder of its relative paths.
        allow_outside: its audio may lie elsewhere than below `root` or its own folder.
        minutes: speech to measure the sensitivity on.
        hours: speech to refit the codebooks on.
        strength: power of the sensitivity that weighs an error: 0 is the plain distance, 1 is right for errors so small
            that the decoder is linear in them.
        speech_share: of the sensitivity, for what the frozen speech encoder hears; the rest is that of the sound. Above
            0 it needs the package of `losses.speech.BUNDLED`.
        rounds: of searching and refitting.
        seed: of everything random.
        dtype: of the stored weights.

    Returns:
        What was gained, in a line.

    Raises:
        ValueError: for another kind of quantizer, a strength or share out of range, no clips, and an unknown dtype.
        ImportError: without the speech encoder's package.
    """
    stored = checked_dtype(dtype)
    require_writable(Path(out) / WEIGHTS_NAME, create_folders=True)
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength}: give a number above 0, up to 1")
    if not 0 <= speech_share <= 1:
        raise ValueError(f"speech_share={speech_share}: give 0 (the sound alone) to 1 (speech features alone)")
    plain = Tokenizer.from_pretrained(source)
    if not isinstance(plain.encoder.quantizer, ResidualQuantizer):
        raise ValueError(f"{source}: its quantizer is {plain.config.quantizer}; only residual_vq has a search to weigh")
    encoder = load_speech_encoder(BUNDLED) if speech_share else None
    torch.manual_seed(seed)

    # both at once, so that a wrong length of the second is told before the first one's minutes
    measured, refitted = (
        speech(manifest, root, seconds, plain.sample_rate, allow_outside=allow_outside)
        for seconds in (60 * minutes, 3600 * hours)
    )
    sensitivity = measure_sensitivity(plain, measured, encoder, speech_share)
    weighting = make_weighting(sensitivity, strength)
    settings = {**plain.config.quantizer_settings, "weighted": True}
    model = Tokenizer(dataclasses.replace(plain.config, quantizer_settings=settings))
    model.load_state_dict({**plain.state_dict(), "encoder.quantizer.weighting": weighting})
    quantizer = cast(ResidualQuantizer, model.encoder.quantizer)
    latents = torch.cat([model.encode_latents(wav).values[0] for wav in refitted])
    before = heard_error(plain.encoder.quantizer, latents[:ROWS], sensitivity)
    for _ in range(rounds):
        refit(quantizer, latents[torch.randperm(len(latents))[:ROWS]])
    after = heard_error(quantizer, latents[:ROWS], sensitivity)
    model.save_pretrained(out, dtype=stored)
    heard = (
        f"of the {len(sensitivity)} directions of an error, {directions_heard(sensitivity)} make 99 % of what is heard"
    )
    return f"{out}: {heard}; on {min(ROWS, len(latents))} frames {after / before:.3f} of what was heard is left"


def directions_heard(sensitivity: Tensor, share: float = 0.99) -> int:
    """Return how many directions, the most sensitive ones first, hold this share of the sensitivity [D, D]."""
    heard = torch.linalg.eigvalsh(sensitivity.double()).flip(0).cumsum(0)
    return int((heard < share * heard[-1]).sum()) + 1


def measure_sensitivity(
    tokenizer: Tokenizer, clips: Iterable[Tensor], encoder: SpeechEncoder | None = None, speech_share: float = 0.0
) -> Tensor:
    """Measure how far the sound, and what is heard in it, move with a small error of the quantized latents.

    That is the mean of J^T J over frames, for the Jacobians J of log spectra and of a speech encoder's features (by
    random combinations of them, of which one backward pass gives the gradient) and for the gradient of STOI. Each clip
    counts by its frames; log spectra and STOI have half each of what speech features leave.

    Args:
        tokenizer: the model; its parameters' gradients are not used.
        clips: wav [1, T] each, at the model's rate.
        encoder: whose features are meant; None where they have no share.
        speech_share: share of the sum that speech features make, 0 to 1.

    Returns:
        float32 [D, D], symmetric, with a mean of 1 on the diagonal.
    """
    tokenizer.requires_grad_(False)
    dim = tokenizer.config.d_model
    total = torch.zeros(dim, dim)
    for clip in clips:
        wav = clip[:, : LONGEST * tokenizer.sample_rate]
        quantized = tokenizer.dequantize(tokenizer.encode(wav)).detach().requires_grad_(True)
        decoded = tokenizer.decoder(quantized)[:, : wav.shape[1]]
        rate = tokenizer.sample_rate
        spectra = [(powers(decoded, window, window // 4) + QUIETEST).log() for window in WINDOWS]
        sound = (1 - speech_share) / 2
        goals = [(sound, _combined(spectra)), (sound, stoi_loss(decoded, wav, sample_rate=rate).sum())]
        if encoder is not None:
            goals.append((speech_share, _combined(_speech_features(encoder, decoded, rate))))
        for share, goal in goals:
            (slope,) = torch.autograd.grad(goal, quantized, retain_graph=True)
            moment = slope[0].T @ slope[0]
            # a clip without speech has no STOI, and so nothing to say
            total += share * len(slope[0]) * moment / moment.trace().clamp(min=torch.finfo().tiny)
    return total * dim / total.trace()


def _speech_features(encoder: SpeechEncoder, decoded: Tensor, sample_rate: int) -> list[Tensor]:
    """Return the standardised features [1, F, W] of wav [1, T], of the layers that the loss compares."""
    heard, samples = prepare(decoded, torch.tensor([decoded.shape[1]]), sample_rate)
    layers, _ = encoder.features(heard, samples, SpeechFeatureLoss.layers)
    return [standardised(layer) for layer in layers]


def _combined(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of all values of the parts, each times a random number."""
    return torch.stack([(part * torch.randn_like(part)).sum() for part in parts]).sum()


def make_weighting(sensitivity: Tensor, strength: float) -> Tensor:
    """Return the symmetric matrix [D, D] whose square is the sensitivity [D, D], with a floor, to the power `strength`.

    Lengths in its space are about those of the latents.
    """
    heard, directions = torch.linalg.eigh(sensitivity.double())
    factors = (heard.clamp(min=0) + FLOOR) ** (strength / 2)
    factors = factors / factors.square().mean().sqrt()
    return ((directions * factors) @ directions.T).float()


@torch.no_grad()
def heard_error(quantizer: ResidualQuantizer, latents: Tensor, sensitivity: Tensor) -> float:
    """Return the mean error of latents [N, D] over the default codebooks, weighed by the sensitivity [D, D]."""
    left = latents - quantizer.decode(quantizer.encode(latents[None], quantizer.depth))[0]
    return float(((left @ sensitivity) * left).sum(1).mean())


@torch.no_grad()
def refit(quantizer: ResidualQuantizer, latents: Tensor) -> None:
    """Search the codes of latents [N, D], and move the entries of all codebooks but the first to their means.

    The codebooks that are searched together are fitted to what all others of them leave, the further ones to what those
    before them leave.
    """
    books = quantizer.codebooks()
    codes = quantizer.encode(latents[None], len(books))[0]
    left = latents - quantizer.decode(codes[None, : quantizer.depth])[0]
    for index in [*range(1, quantizer.depth)] * SWEEPS:
        left += books[index].embed[codes[index]]
        _fit(books[index], codes[index], left)
        left -= books[index].embed[codes[index]]
    for book, code in zip(books[quantizer.depth :], codes[quantizer.depth :], strict=True):
        _fit(book, code, left)
        left -= book.embed[code]


def _fit(book: Codebook, codes: Tensor, wanted: Tensor) -> None:
    """Move the entries that codes [N] name to the means of wanted [N, D]; one that none names becomes some row of it.

    Its statistics become those of these rows, at the weight that they had.
    """
    counts = torch.bincount(codes, minlength=len(book.embed)).float()
    means = torch.zeros_like(book.embed).index_add_(0, codes, wanted) / counts.clamp(min=1)[:, None]
    others = wanted[torch.randint(len(wanted), counts.shape)]
    book.embed.copy_(torch.where(counts[:, None] > 0, means, others))
    weight = book.cluster_size.sum().clamp(min=1) / len(codes)
    book.cluster_size.copy_(counts * weight)
    book.embed_avg.copy_(book.embed * book.cluster_size[:, None])

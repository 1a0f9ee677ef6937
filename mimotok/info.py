"""Headings and values that say what a codes file or a model holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from mimotok.io.files import StrPath

if TYPE_CHECKING:
    from mimotok.config import TokenizerConfig


def read_info(source: StrPath | None = None, *, revision: str | None = None) -> dict[str, str]:
    """Read what a codes file or a model holds, without its weights.

    Args:
        source: a codes file, or a model: a folder, a hub id, or None for the embedded one.
        revision: branch, tag or commit of a hub id.

    Returns:
        A value for each heading.

    Raises:
        ValueError: where `source` is neither.
    """
    if _is_codes(source, revision):
        return _codes_info(Path(source))
    return _model_info(source, revision)


def read_facts(source: StrPath | None = None, *, revision: str | None = None) -> dict[str, Any]:
    """Read what a language model must know of the tokens of a codes file or a model, as values for JSON.

    Args:
        source: as of `read_info`.
        revision: as of `read_info`.

    Returns:
        Of the codebooks in use: `codebook_sizes`, their number `n_q`, `vocabulary` (the sum of their sizes),
        `frame_rate` (Hz), `frame_size` (samples), `tokens_per_second`, `bits_per_frame`, `bits_per_second`; further
        `sample_rate`, `model`, `weights_sha256`; of a model `num_quantizers` and `all_codebook_sizes`, of a codes file
        `num_samples`, `num_frames` and `duration` (seconds).

    Raises:
        ValueError: where `source` is neither.

    Example:
        >>> facts = read_facts()
        >>> facts["vocabulary"], facts["tokens_per_second"], facts["bits_per_second"]
        (2816, 200.0, 1550.0)
    """
    if _is_codes(source, revision):
        from mimotok.io.codes_file import load_codes

        held = load_codes(Path(source), only_facts=True)
        facts = _token_facts(held.codebook_sizes, held.frame_rate, held.sample_rate)
        sound = {"num_samples": held.num_samples, "num_frames": held.codes.shape[1], "duration": held.duration}
        return facts | sound | {"model": held.model_name, "weights_sha256": held.model_sha256}
    from mimotok.weights import sha256_of_file

    held_model = _read_model(source, revision)
    config = held_model.config
    facts = _token_facts(config.codebook_sizes[: config.n_q], config.frame_rate, config.sample_rate)
    books = {"num_quantizers": config.num_quantizers, "all_codebook_sizes": list(config.codebook_sizes)}
    return facts | books | {"model": str(source or "embedded"), "weights_sha256": sha256_of_file(held_model.weights)}


def _is_codes(source: StrPath | None, revision: str | None) -> TypeGuard[StrPath]:
    """Return whether `source` is a file. Raises ValueError for a revision of one."""
    if source is None or not Path(source).is_file():
        return False
    if revision is not None:
        raise ValueError(f"revision={revision}: {source} is a file, which has none; leave it out")
    return True


def _token_facts(sizes: tuple[int, ...], frame_rate: float, sample_rate: int) -> dict[str, Any]:
    bits = sum(math.log2(size) for size in sizes)
    return {
        "codebook_sizes": list(sizes),
        "n_q": len(sizes),
        "vocabulary": sum(sizes),
        "sample_rate": sample_rate,
        "frame_rate": frame_rate,
        "frame_size": round(sample_rate / frame_rate),
        "tokens_per_second": frame_rate * len(sizes),
        "bits_per_frame": bits,
        "bits_per_second": frame_rate * bits,
    }


def _codes_info(path: Path) -> dict[str, str]:
    from mimotok.io.codes_file import load_codes

    held = load_codes(path, only_facts=True)
    size = path.stat().st_size
    frames = f"{held.codes.shape[1]} at {held.frame_rate:g} Hz"
    if held.missing_frames:
        frames += f"; {held.missing_frames} more are missing: the file was cut short"
    return {
        "codes file": f"{path} ({held.container})",
        "model": f"{held.model_name} (sha256 {held.model_sha256})",
        "sound": f"{held.duration:.3f} s ({held.num_samples} samples at {held.sample_rate} Hz)",
        "frames": frames,
        "codebooks": f"{held.n_q} ({_sizes(held.codebook_sizes)} entries)",
        "bitrate": f"{held.bitrate:.0f} bit/s",
        "on disk": f"{size} bytes ({8 * size / held.duration:.0f} bit/s)",
    }


class _Model(NamedTuple):
    """A model's files. values: of all its weights."""

    folder: Path
    config: TokenizerConfig
    weights: Path
    values: int


def _read_model(source: StrPath | None, revision: str | None) -> _Model:
    from mimotok.config import TokenizerConfig
    from mimotok.weights import CONFIG_NAME, check_sizes, read_header, resolve_folder, weights_path

    folder = resolve_folder(source if source is None else str(source), revision)
    config = TokenizerConfig.load(folder / CONFIG_NAME)
    weights = weights_path(folder)
    header = read_header(weights)
    check_sizes(weights, config.to_official(), header)
    return _Model(folder, config, weights, sum(math.prod(tensor.shape) for tensor in header.values()))


def _model_info(source: StrPath | None, revision: str | None) -> dict[str, str]:
    from mimotok.model.quantizers import is_known
    from mimotok.weights import sha256_of_file

    folder, config, weights, count = _read_model(source, revision)
    return {
        "model": str(source or "embedded"),
        "folder": str(folder),
        "weights": f"{count / 1e6:.1f} M values in {weights.stat().st_size / 1e6:.1f} MB",
        "sha256": sha256_of_file(weights),
        "sound": f"{config.sample_rate} Hz, mono",
        "frames": f"{config.frame_rate:g} Hz ({config.frame_size} samples each)",
        "quantizer": config.quantizer if is_known(config.quantizer) else f"{config.quantizer} (not known here)",
        "codebooks": f"{config.num_quantizers} ({_sizes(config.codebook_sizes)} entries), {config.n_q} in use",
        "bitrate": f"{config.bitrate():.0f} bit/s ({_bitrates(config)} codebooks)",
    }


def _bitrates(config: TokenizerConfig) -> str:
    """Return the bitrates of some numbers of codebooks."""
    counts = sorted({n_q for n_q in (4, 8, 12, 20) if n_q < config.num_quantizers} | {config.num_quantizers})
    return ", ".join(f"{config.bitrate(n_q):.0f} with {n_q}" for n_q in counts)


def _sizes(sizes: tuple[int, ...]) -> str:
    """Return sizes such as 1024, 1024 and 6 x 128 as "2 x 1024 + 6 x 128"."""
    runs: list[tuple[int, int]] = []
    for size in sizes:
        count = runs.pop()[0] if runs and runs[-1][1] == size else 0
        runs.append((count + 1, size))
    return " + ".join(f"{count} x {size}" for count, size in runs)

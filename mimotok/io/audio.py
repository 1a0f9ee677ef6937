"""Sound files in and out: any that libsndfile reads, in blocks of bounded size, mono, resampled by soxr."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from mimotok.io.files import StrPath, atomic_path, open_regular, writing
from mimotok.io.sound.declared_lengths import mp3_tag
from mimotok.io.sound.decoded import Decoded, decoded_channels
from mimotok.io.sound.joined import find_more_sound
from mimotok.io.sound.levels import level_problem
from mimotok.io.sound.ogg import with_end_mark
from mimotok.io.truncation import declares_exact_length, find_truncation

RESAMPLER = "VHQ"
MIN_RATE = 8_000
MAX_RATE = 192_000
# libsndfile container and encoding of a file to write, by suffix
WRITABLE = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".w64": ("W64", "PCM_16"),
}
# what a search through folders reads as sound
AUDIO_SUFFIXES = frozenset(WRITABLE) | {".aif", ".aiff", ".au", ".caf", ".oga", ".rf64", ".snd", ".wave"}

_BLOCK_VALUES = 1 << 20  # samples x channels held at once
_WRITE_FRAMES = 1 << 16  # libsndfile's Vorbis encoder overruns its stack on far larger writes
_MAX_WAV_BYTES = (1 << 32) - (1 << 16)


class _ForwardFile(soundfile.SoundFile):
    """A sound file that is only read or written forwards.

    soundfile would seek after every block, which changes what MP3 decodes to.
    """

    def seekable(self) -> bool:
        """Return False, so that soundfile never seeks."""
        return False


def load_audio(source: StrPath | Decoded, sample_rate: int) -> Tensor:
    """Read a whole sound file, or take sound that another library has decoded.

    Args:
        source: any file that libsndfile reads; or a pair of waveform [C, T] and rate, as `torchaudio.load` returns; or
            a torchcodec `AudioDecoder` or its samples.
        sample_rate: Hz of the result; soxr resamples at quality "VHQ".

    Returns:
        wav float32 [1, T], the mean of the channels. T is the samples of the source x sample_rate / its rate, rounded
        half up, and at least 1.

    Raises:
        ValueError: in one line, for a file that is missing, empty, truncated or no audio, for a waveform of integers,
            for rates outside 8 to 192 kHz, and for NaN, infinite samples and peaks above 16 (full scale is 1).

    Example:
        >>> wav = load_audio("examples/sample.flac", 24000)
        >>> wav.shape
        torch.Size([1, 205200])
    """
    if isinstance(source, (str, os.PathLike)):
        return torch.cat(list(read_blocks(source, sample_rate)), dim=1)
    samples, rate = decoded_channels(source)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"the waveform: {rate} Hz is outside {MIN_RATE} to {MAX_RATE} Hz; resample it first")
    if problem := level_problem(float(samples.min()), float(samples.max())):
        raise ValueError(f"the waveform: {problem}")
    blocks = resample_blocks(iter([samples.mean(axis=1)]), rate, sample_rate)
    return torch.from_numpy(np.concatenate(list(blocks)))[None]


def read_blocks(path: StrPath, sample_rate: int) -> Iterator[Tensor]:
    """Read a sound file of any length in bounded memory.

    Args:
        path: any file that libsndfile reads.
        sample_rate: Hz of the result.

    Yields:
        wav float32 [1, t]; joined, the blocks are exactly what `load_audio` returns.

    Raises:
        ValueError: as `load_audio`.
    """
    path = Path(path)
    with _open_for_reading(path) as file:
        for block in resample_blocks(_mono_blocks(file, path), file.samplerate, sample_rate):
            if len(block):
                yield torch.from_numpy(block)[None]


def declared_seconds(path: StrPath) -> float | None:
    """Return the length that a sound file declares, in seconds; None where it declares none. Raises as `load_audio`."""
    path = Path(path)
    with _open_for_reading(path) as file:
        exact = declares_exact_length(path, file.format, file.frames)
        return file.frames / file.samplerate if exact else None


@contextmanager
def _open_for_reading(path: Path) -> Iterator[_ForwardFile]:
    """Open a sound file. Raises ValueError where it cannot be read to its end."""
    try:
        with open_regular(path) as raw:
            # before libmpg123 sees it, which would print a warning of its own
            if (tag := mp3_tag(raw)) and tag.cut_short:
                raise _truncated(path, f"{tag.present} of {tag.declared} bytes")
        marked = with_end_mark(path)
        # bytes: the name may be no UTF-8, of which soundfile would make some
        file = _ForwardFile(os.fsencode(path) if marked is None else marked)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: not audio ({_reason(error)}); give wav, flac, mp3 or ogg") from error
    except TypeError as error:  # soundfile asks for rate and channels by the suffix alone
        raise ValueError(f"{path}: raw samples without a header; convert to wav or flac first") from error
    with file:
        if not MIN_RATE <= file.samplerate <= MAX_RATE:
            limits = f"{MIN_RATE} to {MAX_RATE} Hz"
            raise ValueError(f"{path}: {file.samplerate} Hz is outside {limits}; resample it first")
        if problem := find_truncation(path, file.format, file.extra_info):
            raise _truncated(path, problem)
        if problem := find_more_sound(path, file.format):
            raise ValueError(f"{path}: only a part of its sound would be read ({problem})")
        yield file


def _mono_blocks(file: _ForwardFile, path: Path) -> Iterator[np.ndarray]:
    """Yield the file's samples, float32 [t] each, as the mean over channels."""
    buffer = np.empty((max(1, _BLOCK_VALUES // file.channels), file.channels), np.float32)
    total = 0
    while len(block := _read(file, buffer, path)):
        if problem := level_problem(float(block.min()), float(block.max())):
            raise ValueError(f"{path}: {problem}")
        total += len(block)
        yield block.mean(axis=1)
    if total < file.frames and declares_exact_length(path, file.format, file.frames):
        raise _truncated(path, f"{total} of {file.frames} samples could be decoded")
    if total == 0:
        raise ValueError(f"{path}: no audio in it (0 samples)")


def _read(file: _ForwardFile, buffer: np.ndarray, path: Path) -> np.ndarray:
    try:
        return file.read(out=buffer)
    except soundfile.LibsndfileError as error:
        raise _truncated(path, _reason(error)) from error


def _reason(error: soundfile.LibsndfileError) -> str:
    return " ".join(error.error_string.strip(" .").split())


def _truncated(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path}: truncated or damaged ({reason}); get a whole copy, or convert it with ffmpeg")


def resample(wav: np.ndarray, source_rate: float, sample_rate: float) -> np.ndarray:
    """Resample wav, float32 [T] at `source_rate` Hz, to float32 [T'] at `sample_rate` Hz, by soxr at quality "VHQ"."""
    if source_rate == sample_rate or not len(wav):
        return wav
    return soxr.resample(wav, source_rate, sample_rate, quality=RESAMPLER).astype(np.float32, copy=False)


def resample_blocks(blocks: Iterator[np.ndarray], source_rate: int, sample_rate: int) -> Iterator[np.ndarray]:
    """Resample a stream of blocks, float32 [t] each; the result does not depend on where it was cut."""
    if source_rate == sample_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(source_rate, sample_rate, 1, dtype="float32", quality=RESAMPLER)
    total = 0
    for block in blocks:
        total += len(block)
        yield stream.resample_chunk(block)
    # soxr rounds half up: even the shortest file must leave one sample
    missing = max(0, math.ceil(source_rate / (2 * sample_rate)) - total)
    yield stream.resample_chunk(np.zeros(missing, np.float32), last=True)


class _Sink(io.FileIO):
    """The bytes of a sound file. It remembers a failed write, which libsndfile may not report."""

    failure: BaseException | None = None

    def write(self, data: Any) -> int:
        """Write all bytes; an error ends the write and is kept in `failure`."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except BaseException as error:  # nothing passes through libsndfile, not even Ctrl-C
            self.failure = error
        return len(data) - len(rest)


class AudioWriter:
    """Write a mono sound file block by block; it appears whole at the end of the `with`, or not at all.

    The suffix chooses the format: wav, flac and w64 (all PCM 16 bit), ogg (Vorbis), opus, mp3. Samples beyond [-1, 1]
    are clipped.

    Raises:
        ValueError: for an unknown suffix, a rate that the format lacks, an output that cannot be written, and samples
            that are not finite.

    Example:
        >>> with AudioWriter("out.wav", 24000) as writer:  # doctest: +SKIP
        ...     for wav in blocks:  # [1, t] or [t]
        ...         writer.write(wav)
    """

    def __init__(self, path: StrPath, sample_rate: int, *, overwrite: bool = True) -> None:
        """Choose the file.

        Args:
            path: file to write.
            sample_rate: Hz.
            overwrite: whether an existing file may be replaced.
        """
        self.path = Path(path)
        self.sample_rate = sample_rate
        self.overwrite = overwrite
        self.num_samples = 0
        self._stack = ExitStack()
        self._sink: _Sink | None = None
        self._file: soundfile.SoundFile | None = None

    def __enter__(self) -> AudioWriter:
        """Open a temporary file beside the path."""
        container, subtype = audio_format(self.path)
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path, overwrite=self.overwrite))
            with writing(self.path):
                self._sink = stack.enter_context(_Sink(temporary, "w"))
            with self._one_line_failures():
                self._file = _ForwardFile(self._sink, "w", self.sample_rate, 1, subtype, format=container)
            stack.callback(self._close, self._file)
            self._stack = stack.pop_all()
        return self

    def write(self, wav: Tensor) -> None:
        """Append wav: [1, t] or [t], any floating dtype and device."""
        if self._file is None:
            raise ValueError(f"{self.path}: not open, write inside the `with`")
        samples = _mono_samples(wav)
        self.num_samples += len(samples)
        if self.path.suffix.lower() == ".wav" and 2 * self.num_samples > _MAX_WAV_BYTES:
            raise ValueError(f"{self.path}: a wav file holds 4 GiB at most; write .w64 or .flac instead")
        with self._one_line_failures():
            for start in range(0, len(samples), _WRITE_FRAMES):
                self._file.write(samples[start : start + _WRITE_FRAMES])

    def _close(self, file: soundfile.SoundFile) -> None:
        self._file = None
        with self._one_line_failures():
            file.close()

    @contextmanager
    def _one_line_failures(self) -> Iterator[None]:
        """Turn every failure to write into a ValueError of one line."""
        try:
            with writing(self.path):
                try:
                    yield
                finally:
                    if self._sink is not None and self._sink.failure is not None:
                        raise self._sink.failure
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{self.path}: cannot be written ({_reason(error)})") from error

    def __exit__(self, *raised: Any) -> None:
        """Close the file, and move it to its path unless an error was raised."""
        self._stack.__exit__(*raised)


def save_audio(path: StrPath, wav: Tensor, sample_rate: int, *, overwrite: bool = True) -> None:
    """Write a mono sound file, whole or not at all.

    Args:
        path: file to write; its suffix chooses the format, as in `AudioWriter`.
        wav: floating point [1, T] or [T]; samples beyond [-1, 1] are clipped.
        sample_rate: Hz.
        overwrite: whether an existing file may be replaced.

    Raises:
        ValueError: for no samples, and as `AudioWriter`.

    Example:
        >>> save_audio("out.wav", torch.zeros(1, 24000), 24000)  # doctest: +SKIP
    """
    if wav.numel() == 0:
        raise ValueError(f"{path}: no samples to write (wav has shape {tuple(wav.shape)})")
    with AudioWriter(path, sample_rate, overwrite=overwrite) as writer:
        writer.write(wav)


def audio_format(path: StrPath) -> tuple[str, str]:
    """Return the libsndfile container and encoding of the suffix of `path`. Raises ValueError for an unknown suffix."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE:
        raise ValueError(f"{path}: no sound format {suffix!r}; end the name in one of {' '.join(WRITABLE)}")
    return WRITABLE[suffix]


def _mono_samples(wav: Tensor) -> np.ndarray:
    """Return wav [1, t] or [t] as float32 [t] in [-1, 1] on the CPU. Raises ValueError where it is not finite."""
    if wav.dim() not in (1, 2) or wav.shape[:-1].numel() != 1 or not wav.is_floating_point():
        raise ValueError(f"wav must be float [1, T] or [T], not {wav.dtype} {list(wav.shape)}")
    if not bool(torch.isfinite(wav).all()):
        raise ValueError("wav holds NaN or infinite samples, which cannot be written")
    return wav.detach().to("cpu", torch.float32).clamp(-1.0, 1.0).flatten().numpy()

"""Runs the stream graphs that `mimotok export --streaming` wrote. Needs numpy, onnxruntime and run_onnx.py beside it.

from stream_onnx import OnnxStreamDecoder, OnnxStreamEncoder

encoder, decoder = OnnxStreamEncoder("exported"), OnnxStreamDecoder("exported")
codes = encoder.push(wav)  # float32 [B, any amount] -> int64 [B, n_q, frames that are now final]
sound = decoder.push(codes)  # float32 [B, samples that are now final]
codes, sound = encoder.flush(), decoder.flush()  # at the end: what is still inside
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

if __package__:
    from mimotok.export.run_onnx import checked_codes, checked_wav, open_session, read_facts
else:  # as a copy in an export
    from run_onnx import checked_codes, checked_wav, open_session, read_facts  # type: ignore[no-redef]

ENCODER_NAME = "encoder_stream.onnx"
DECODER_NAME = "decoder_stream.onnx"
# of one step: its attention's cost grows with their square
MOST_FRAMES = 25


class _Stream:
    """A graph with its state."""

    def __init__(self, folder: str | Path, name: str, threads: int | None) -> None:
        self.facts = read_facts(Path(folder))
        if not (Path(folder) / name).is_file():
            raise ValueError(f"{folder}: has no stream graphs, export it with --streaming")
        self._session = open_session(Path(folder) / name, threads)
        self._state: dict[str, np.ndarray] = {}
        self._batch: int | None = None
        self._ended = False

    def reset(self) -> None:
        """Forget everything and begin a new stream."""
        self._state = {}
        self._batch = None
        self._ended = False

    def _require(self, batch: int) -> None:
        if self._ended:
            raise ValueError("this stream has ended (flush was called): call reset() to begin another")
        if self._batch not in (None, batch):
            raise ValueError(f"{batch} clips, but the stream began with {self._batch}: give as many")
        self._batch = batch

    def _step(self, block: np.ndarray, lengths: int) -> tuple[np.ndarray, np.ndarray]:
        """Run the graph on a block [B, ...] of which each row has so many valid frames. Returns values and mask [F]."""
        first, second, *states = self._session.get_inputs()
        if not self._state:
            self._state = {state.name: np.zeros((len(block), *state.shape[1:]), np.float32) for state in states}
        given = {first.name: block, second.name: np.full(len(block), lengths, np.int64)}
        values, valid, *after = self._session.run(None, {**given, **self._state})
        self._state = dict(zip(self._state, after, strict=True))
        return values, valid[0]


class OnnxStreamEncoder(_Stream):
    """An encoder of sound that arrives in blocks of any size; the joined codes are those of the whole clip.

    threads: of onnxruntime, as many as it likes where None. Raises ValueError for bad input, in one line.
    """

    def __init__(self, folder: str | Path, *, threads: int | None = None) -> None:
        super().__init__(folder, ENCODER_NAME, threads)
        self.sample_rate: int = self.facts["sample_rate"]
        self._frame_size: int = self.facts["frame_size"]
        self._hop_length: int = self.facts["hop_length"]
        self._overlap: int = self.facts["n_fft"] - self._hop_length
        self._half: int = self.facts["n_fft"] // 2
        self._look_ahead: int = self.facts["encoder_look_ahead"]
        self._started = False
        self._pending = np.zeros((0, 0), np.float32)

    def reset(self) -> None:
        """Forget everything and begin a new stream."""
        super().reset()
        self._started = False
        self._pending = self._pending[:0, :0]

    def push(self, wav: np.ndarray) -> np.ndarray:
        """wav: float [B, t] in [-1, 1], t from 1 up. Returns the codes that are now final, int64 [B, n_q, f]."""
        wav = checked_wav(wav)
        self._require(len(wav))
        if not self._pending.size:
            self._pending = wav
        else:
            self._pending = np.concatenate((self._pending, wav), axis=1)
        if not self._started and self._pending.shape[1] > self._half:
            self._pending = np.pad(self._pending, ((0, 0), (self._half, 0)), "reflect")
            self._started = True
        frames = max(0, (self._pending.shape[1] - self._overlap) // self._frame_size) if self._started else 0
        return self._encode(frames, frames * self._frame_size // self._hop_length)

    def flush(self) -> np.ndarray:
        """End the stream. Returns the last codes."""
        if self._batch is None:
            raise ValueError("the stream ended before its first sample")
        self._require(self._batch)
        left = 0 if self._started else self._half
        self._pending = np.pad(self._pending, ((0, 0), (left, self._half)), "reflect")
        mel_frames = (self._pending.shape[1] - self._overlap) // self._hop_length
        frames = -(-mel_frames * self._hop_length // self._frame_size) + self._look_ahead
        rest = max(0, self._overlap + frames * self._frame_size - self._pending.shape[1])
        self._pending = np.pad(self._pending, ((0, 0), (0, rest)))
        self._ended = True
        return self._encode(frames, mel_frames)

    def _encode(self, frames: int, mel_frames: int) -> np.ndarray:
        """Encode the first code frames of what is pending, of whose mel frames so many are valid."""
        per_frame = self._frame_size // self._hop_length
        parts = [np.zeros((len(self._pending), len(self.facts["codebook_sizes"]), 0), np.int64)]
        for start in range(0, frames, MOST_FRAMES):
            count = min(MOST_FRAMES, frames - start)
            block = self._pending[:, : self._overlap + count * self._frame_size]
            codes, valid = self._step(block, min(max(0, mel_frames - start * per_frame), count * per_frame))
            parts.append(codes[:, :, valid])
            self._pending = self._pending[:, count * self._frame_size :]
        return np.concatenate(parts, axis=2)


class OnnxStreamDecoder(_Stream):
    """A decoder of codes that arrive frame by frame; the joined samples are those of the whole clip.

    threads: of onnxruntime, as many as it likes where None. Raises ValueError for bad input, in one line.
    """

    def __init__(self, folder: str | Path, *, threads: int | None = None) -> None:
        super().__init__(folder, DECODER_NAME, threads)
        self._look_ahead: int = self.facts["decoder_look_ahead"]
        self._sizes: list[int] = self.facts["codebook_sizes"]

    def push(self, codes: np.ndarray) -> np.ndarray:
        """codes: int [B, n, f], n up to all codebooks. Returns the samples that are now final, float32 [B, t]."""
        codes = checked_codes(codes, self._sizes)
        self._require(len(codes))
        return self._decode(codes, codes.shape[2])

    def flush(self) -> np.ndarray:
        """End the stream. Returns the last samples."""
        if self._batch is None:
            raise ValueError("the stream ended before its first code")
        self._require(self._batch)
        self._ended = True
        frames = -(-self._look_ahead * self.facts["hop_length"] // self.facts["frame_size"])
        return self._decode(np.zeros((self._batch, len(self._sizes), frames), np.int64), 0)

    def _decode(self, codes: np.ndarray, lengths: int) -> np.ndarray:
        parts = []
        for start in range(0, codes.shape[2], MOST_FRAMES):
            block = codes[:, :, start : start + MOST_FRAMES]
            wav, valid = self._step(block, min(lengths, block.shape[2]))
            parts.append(wav[:, valid].reshape(len(wav), -1))
        return np.concatenate(parts, axis=1)

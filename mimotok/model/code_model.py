"""A small model of codes in whole numbers: how likely each entry of the next codebook is, the same on every machine.

A GRU sees the frames before, and each codebook the ones before it in its frame (bench/entropy.py has its figures). All
numbers are whole ones held in float64, and no sum or product reaches 2^53: then no rounding takes place, and neither
the order of a sum, nor threads, nor the batch changes a result. Functions are tables in the model's file, so that no
library's `exp` has a say. docs/formats.md specifies all of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mimotok.io.codes.entropy import normalized
from mimotok.io.files import atomic_path, open_regular
from mimotok.io.terminal.streams import excerpt

FORMAT = "1"
WEIGHT_UNIT = 1 << 20  # of weights and biases
STATE_UNIT = 1 << 12  # of activations, which tables give
TABLE_UNIT = 1 << 8  # of what tables are asked
TABLE_SIZE = 4096  # values from -8 up, in steps of 1 / TABLE_UNIT; of "exp" the values of 0 down to -16
FUNCTIONS = ("sigmoid", "tanh", "gelu")
EXP_UNIT = 1 << 16
_EXACT = float(1 << 52)  # sums stay below, with a bit to spare
MAX_FILE = 16 << 20  # bytes


class CodeModel:
    """Predicts codes. Tensors are those of its file.

    Args:
        tensors: by name, as docs/formats.md lists them: int8 weights, int32 scales of their rows, biases and tables.
        codes_sha256: the digest of what makes the codes (`mimotok.weights.sha256_of_codes`).

    Raises:
        ValueError: for tensors that are missing, of other types or shapes, or so large that sums would not be exact.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], codes_sha256: str) -> None:
        self.codes_sha256 = codes_sha256
        self._tensors = dict(tensors)
        count = 0
        while f"head.{count}" in tensors:
            count += 1
        if not count:
            raise ValueError("no model of codes: it has no tensor head.0")
        self.frames = [self._weights(f"frame.{book}") for book in range(count)]
        self.sizes = tuple(len(table) for table in self.frames)
        self.hidden = self.frames[0].shape[1]
        self.books = [self._weights(f"book.{book}") for book in range(count - 1)]
        width = self.books[0].shape[1] if self.books else 0
        self.within = [self._weights(f"within.{book}", self.hidden, width) for book in range(1, count)]
        self.frame_bias = self._integers("frame.bias", self.hidden)
        gates = 3 * self.hidden
        self.gru_input = self._weights("gru.input", gates, self.hidden)
        self.gru_state = self._weights("gru.state", gates, self.hidden)
        self.gru_input_bias = self._integers("gru.input.bias", gates) * STATE_UNIT
        self.gru_state_bias = self._integers("gru.state.bias", gates) * STATE_UNIT
        self.heads = [self._weights(f"head.{book}", size, self.hidden) for book, size in enumerate(self.sizes)]
        self.head_biases = [
            self._integers(f"head.{book}.bias", size) * STATE_UNIT for book, size in enumerate(self.sizes)
        ]
        self.tables = {name: self._integers(f"table.{name}", TABLE_SIZE) for name in FUNCTIONS}
        self.exp = self._integers("table.exp", TABLE_SIZE)
        self._check()
        self.digest = self._digest()

    def _integers(self, name: str, *shape: int, kind: type = np.int32) -> np.ndarray:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ValueError(f"no model of codes: it has no tensor {name}")
        if tensor.dtype != kind or (shape and tensor.shape != shape):
            wanted = f"{np.dtype(kind)} {list(shape) or ''}".strip()
            raise ValueError(f"{name}: {tensor.dtype} {list(tensor.shape)}, expected {wanted}")
        return tensor.astype(np.float64)

    def _weights(self, name: str, *shape: int) -> np.ndarray:
        values = self._integers(name, *shape, kind=np.int8)
        if values.ndim != 2 or not values.size or len(values) > 1 << 16:
            raise ValueError(f"{name}: {list(values.shape)}, expected a matrix of 1 to 65536 rows")
        return values * self._integers(f"{name}.scale", len(values))[:, None]

    def _check(self) -> None:
        """Raise ValueError where a sum might not be exact, whatever the codes are."""
        state = max(float(np.abs(table).max()) for table in self.tables.values())
        parts = sum((float(np.abs(table).max()) for table in self.books), 0.0) / TABLE_UNIT + 1
        bias = max(float(np.abs(self.gru_input_bias).max()), float(np.abs(self.gru_state_bias).max()))
        worst = {
            "frame": (sum(float(np.abs(table).max()) for table in self.frames) + float(np.abs(self.frame_bias).max()))
            * STATE_UNIT,
            "gru": (_reach(self.gru_input) + 2 * _reach(self.gru_state)) * state + 4 * bias,
            "within": max((_reach(matrix) * parts for matrix in self.within), default=0.0) + state * WEIGHT_UNIT,
            "head": max(_reach(matrix) for matrix in self.heads) * state
            + max(float(np.abs(row).max()) for row in self.head_biases),
        }
        for name, value in worst.items():
            if not value < _EXACT:
                raise ValueError(f"{name}: weights so large that sums may reach {value:.2g}, more than {_EXACT:.2g}")
        if any(table.shape[1] != self.hidden for table in self.frames) or any(
            table.shape != (size, self.books[0].shape[1]) for table, size in zip(self.books, self.sizes, strict=False)
        ):
            raise ValueError("tensors frame and book: they differ in width, or from the codebooks' sizes")
        gate = self.tables["sigmoid"]
        if state > 1 << 15 or gate.min() < 0 or gate.max() > STATE_UNIT:
            raise ValueError(f"tables: expected values up to 2^15, and of sigmoid 0 to {STATE_UNIT}")
        if self.exp[0] < 1 or self.exp.min() < 0 or self.exp.max() > EXP_UNIT:
            raise ValueError(f"table.exp: expected values from 0 to {EXP_UNIT}, the first one at least 1")

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors.items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()

    @classmethod
    def load(cls, path: Path) -> CodeModel:
        """Read a model's file. Raises ValueError, naming it, where it is none."""
        open_regular(path).close()
        if path.stat().st_size > MAX_FILE:
            raise ValueError(f"{path}: {path.stat().st_size} bytes, but a model of codes has at most {MAX_FILE}")
        try:
            with safe_open(path, framework="np") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about.get("format") != FORMAT:
                raise ValueError(f"format {about.get('format')} of a model of codes, but this mimotok reads {FORMAT}")
            return cls(tensors, about.get("codes_sha256", ""))
        except (ValueError, SafetensorError) as error:
            raise ValueError(f"{path}: {excerpt(error)}") from None

    def save(self, path: Path) -> None:
        """Write the model's file, whole or not at all."""
        data = save(self._tensors, metadata={"format": FORMAT, "codes_sha256": self.codes_sha256})
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)

    def begin(self, blocks: int, n_q: int) -> Prediction:
        """Begin to predict blocks of codes of the first `n_q` codebooks, all at once."""
        return Prediction(self, blocks, min(n_q, len(self.sizes)))


def _reach(matrix: np.ndarray) -> float:
    """Return how much larger than its inputs a product with this matrix may be."""
    return float(np.abs(matrix).sum(1).max())


def function_tables() -> dict[str, np.ndarray]:
    """Make the tables of a new model's file, which alone count from then on: int32 by the tensors' names."""
    asked = (np.arange(TABLE_SIZE) - TABLE_SIZE // 2 + 0.5) / TABLE_UNIT
    sigmoid = 1 / (1 + np.exp(-asked))
    gelu = asked / (1 + np.exp(-1.702 * asked))
    values = {"sigmoid": sigmoid, "tanh": np.tanh(asked), "gelu": gelu}
    tables = {f"table.{name}": np.round(found * STATE_UNIT) for name, found in values.items()}
    tables["table.exp"] = np.round(EXP_UNIT * np.exp(-np.arange(TABLE_SIZE) / TABLE_UNIT))
    return {name: table.astype(np.int32) for name, table in tables.items()}


class Prediction:
    """Predicts the codes of blocks of equal length, frame after frame and in a frame book after book."""

    def __init__(self, model: CodeModel, blocks: int, n_q: int) -> None:
        self._model = model
        self._n_q = n_q
        self._state = np.zeros((blocks, model.hidden))
        self._frame = np.zeros((blocks, model.hidden))
        self._parts = np.zeros((blocks, model.books[0].shape[1] if model.books else 0))
        self._book = 0

    def frequencies(self) -> np.ndarray:
        """Return how often each entry comes as the next code, int64 [blocks, entries]: 1 at least."""
        model = self._model
        context = self._state
        if self._book == 0:
            self._advance()
            context = self._state
        book = self._book
        asked = context * WEIGHT_UNIT
        if book:
            asked = asked + np.floor(self._parts / TABLE_UNIT) @ model.within[book - 1].T
        logits = self._function("gelu", asked) @ model.heads[book].T + model.head_biases[book]
        logits = np.floor(logits / (WEIGHT_UNIT * STATE_UNIT // TABLE_UNIT)).astype(np.int64)
        below = np.minimum(logits.max(1, keepdims=True) - logits, TABLE_SIZE - 1)
        return normalized(model.exp[below].astype(np.int64))

    def push(self, codes: np.ndarray) -> None:
        """Tell the codes [blocks] of the book whose frequencies were asked for."""
        model = self._model
        book = self._book
        self._frame = self._frame + model.frames[book][codes]
        if book < len(model.books):
            self._parts = self._parts + model.books[book][codes]
        self._book = book + 1
        if self._book == self._n_q:
            self._book = 0
            self._parts = np.zeros_like(self._parts)

    def _advance(self) -> None:
        """Go on by the frame before."""
        model = self._model
        seen = self._function("gelu", (self._frame + model.frame_bias) * STATE_UNIT)
        self._frame = np.zeros_like(self._frame)
        given = seen @ model.gru_input.T + model.gru_input_bias
        kept = self._state @ model.gru_state.T + model.gru_state_bias
        size = model.hidden
        reset = self._function("sigmoid", given[:, :size] + kept[:, :size])
        update = self._function("sigmoid", given[:, size : 2 * size] + kept[:, size : 2 * size])
        recalled = reset * np.floor(kept[:, 2 * size :] / STATE_UNIT)
        new = self._function("tanh", given[:, 2 * size :] + recalled)
        self._state = new + np.floor(update * (self._state - new) / STATE_UNIT)

    def _function(self, name: str, values: np.ndarray) -> np.ndarray:
        """Look up a function of values in units of 1 / (WEIGHT_UNIT * STATE_UNIT); beyond -8 to 8, of these."""
        steps = np.floor(values / (WEIGHT_UNIT * STATE_UNIT // TABLE_UNIT)) + TABLE_SIZE // 2
        return self._model.tables[name][np.clip(steps, 0, TABLE_SIZE - 1).astype(np.int64)]

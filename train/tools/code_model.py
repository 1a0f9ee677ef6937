"""Train the model of codes that `mimotok encode --entropy` uses, and write it in whole numbers.

It learns from windows of a block's length, since a file's blocks are predicted each by itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.io.audio import resample
from mimotok.io.clips.clip import Clip
from mimotok.io.codes.bits import code_widths
from mimotok.io.codes.entropy import block_to_bytes, encode_blocks
from mimotok.io.files import atomic_path, open_regular, require_writable
from mimotok.io.npz import field_names, read_npz
from mimotok.io.terminal.streams import say
from mimotok.model.code_model import WEIGHT_UNIT, CodeModel, function_tables
from mimotok.tokenizer import Tokenizer
from mimotok.weights import CODE_MODEL_NAME, sha256_of_codes, weights_path
from train.data.manifest import BadClipError, decode, read_manifest

BATCH = 48  # windows
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.05
DROPOUT = 0.1
WIDTH = 64  # of what a book sees of the books before it in its frame
LARGEST = 127  # of int8
LIMIT = 8.0  # beyond it the tables end
MEASURED = 300  # seconds of each held-out split to code in the end
MOST_FIELDS = 16  # of a file of codes: two for each split, and what made them


def sigmoid_gelu(values: Tensor) -> Tensor:
    """Compute what the table of "gelu" holds."""
    values = values.clamp(-LIMIT, LIMIT)
    return values * torch.sigmoid(1.702 * values)


class CodeNetwork(nn.Module):
    """The model of codes in floating point; `mimotok.model.code_model` says what it computes.

    codebooks: [C, D] of each book; its tables begin as random projections of these vectors, which say more than
    numbers do. frequencies: of each book's entries.
    """

    def __init__(
        self, codebooks: Sequence[Tensor], frequencies: Sequence[np.ndarray], hidden: int, width: int = WIDTH
    ) -> None:
        super().__init__()
        scale = codebooks[0].std() * math.sqrt(codebooks[0].shape[1])
        self.vectors = [table / scale * math.sqrt(3) for table in codebooks]
        dim = codebooks[0].shape[1]
        self.all_books = nn.Linear(dim, hidden)
        self.first_book = nn.Linear(dim, hidden, bias=False)
        self.extra = nn.ParameterList(torch.zeros(len(table), hidden) for table in codebooks)
        self.narrow = nn.Linear(dim, width, bias=False)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.within = nn.ModuleList(nn.Linear(width, hidden, bias=False) for _ in codebooks[1:])
        self.heads = nn.ModuleList(nn.Linear(hidden, len(table)) for table in codebooks)
        for head, frequency in zip(self.heads, frequencies, strict=True):
            layer = cast(nn.Linear, head)
            nn.init.normal_(layer.weight, std=0.02)
            layer.bias.data = torch.from_numpy(np.log(frequency)).float()

    def frame_tables(self) -> list[Tensor]:
        """Return what each code of the frame before adds to the GRU's input, [C, hidden] of each book."""
        tables = [
            vectors @ self.all_books.weight.T + extra for vectors, extra in zip(self.vectors, self.extra, strict=True)
        ]
        tables[0] = tables[0] + self.vectors[0] @ self.first_book.weight.T
        return tables

    def book_tables(self) -> list[Tensor]:
        """Return what each code says to the books after it in its frame, [C, width] of each book but the last."""
        return [vectors @ self.narrow.weight.T for vectors in self.vectors[:-1]]

    def forward(self, codes: Tensor) -> Tensor:
        """codes: [B, F, n_q]. Returns the nats of each code, [B, F, n_q]; the first frame follows nothing."""
        frames = sum(F.embedding(codes[..., book], table) for book, table in enumerate(self.frame_tables()))
        seen = F.pad(cast(Tensor, frames), (0, 0, 1, -1)) + self.all_books.bias
        context, _ = self.gru(sigmoid_gelu(seen))
        parts: Tensor | None = None
        tables = self.book_tables()
        nats = []
        for book, head in enumerate(self.heads):
            hidden = context
            if book:
                found = F.embedding(codes[..., book - 1], tables[book - 1])
                parts = found if parts is None else parts + found
                hidden = context + self.within[book - 1](parts)
            logits = head(F.dropout(sigmoid_gelu(hidden), DROPOUT, self.training))
            nats.append(F.cross_entropy(logits.flatten(0, 1), codes[..., book].flatten(), reduction="none"))
        return torch.stack(nats, dim=-1).view(codes.shape)


@torch.no_grad()
def to_code_model(network: CodeNetwork, codes_sha256: str) -> CodeModel:
    """Round a network to whole numbers."""
    tensors = function_tables()
    tensors["frame.bias"] = _bias(network.all_books.bias)
    gru = network.gru
    matrices = {"gru.input": gru.weight_ih_l0, "gru.state": gru.weight_hh_l0}
    tensors["gru.input.bias"] = _bias(cast(Tensor, gru.bias_ih_l0))
    tensors["gru.state.bias"] = _bias(cast(Tensor, gru.bias_hh_l0))
    matrices |= {f"frame.{book}": table for book, table in enumerate(network.frame_tables())}
    matrices |= {f"book.{book}": table for book, table in enumerate(network.book_tables())}
    matrices |= {f"within.{book}": cast(nn.Linear, one).weight for book, one in enumerate(network.within, 1)}
    for book, head in enumerate(network.heads):
        matrices[f"head.{book}"] = cast(nn.Linear, head).weight
        tensors[f"head.{book}.bias"] = _bias(cast(nn.Linear, head).bias)
    for name, matrix in matrices.items():
        values = cast(Tensor, matrix).double().numpy() * WEIGHT_UNIT
        scales = np.maximum(1, np.ceil(np.abs(values).max(1) / LARGEST))
        tensors[name] = np.round(values / scales[:, None]).astype(np.int8)
        tensors[f"{name}.scale"] = scales.astype(np.int32)
    return CodeModel(tensors, codes_sha256)


def _bias(values: Tensor) -> np.ndarray:
    return np.round(values.detach().double().numpy() * WEIGHT_UNIT).astype(np.int32)


def trained(
    network: CodeNetwork, codes: np.ndarray, frames: int, minutes: float, *, steps: int | None = None, seed: int = 0
) -> int:
    """Train a network on codes [n_q, F] for so many minutes of CPU time, or `steps`. Returns the number of steps."""
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    generator = np.random.default_rng(seed)
    examples = torch.from_numpy(codes.T.astype(np.int64))
    begin = time.process_time()
    step = 0
    network.train()
    while True:
        done = step / steps if steps else (time.process_time() - begin) / (60 * minutes)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, done / 0.03 + 0.02) * 0.5 * (1 + math.cos(math.pi * done))
        places = generator.integers(0, len(examples) - frames, BATCH)
        loss = network(torch.stack([examples[at : at + frames] for at in places])).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
    network.eval()
    return step


class Measured(NamedTuple):
    """What codes take. nominal, coded: bit/s, the latter with all that blocks hold; faster: times real time."""

    nominal: float
    coded: float
    faster: float


def measure(model: CodeModel, sizes: Sequence[int], codes: np.ndarray, frames: int) -> Measured:
    """Code blocks of a second, [n_q, F]."""
    whole = codes[:, : codes.shape[1] // frames * frames]
    seconds = whole.shape[1] / frames
    begin = time.process_time()
    blocks = encode_blocks(model, sizes, whole, frames)
    spent = time.process_time() - begin
    size = sum(len(block_to_bytes(index, data)) for index, data in enumerate(blocks))
    return Measured(frames * sum(code_widths(sizes)), 8 * size / seconds, seconds / spent)


def train_code_model(
    manifest: str,
    *,
    root: str = ".",
    model: str | None = None,
    out: Path | None = None,
    codes: Path | None = None,
    hours: float = 2.0,
    minutes: float = 6.0,
    steps: int | None = None,
    hidden: int = 192,
    seed: int = 0,
    allow_outside: bool = False,
) -> str:
    """Train a model of codes and write it. Returns what it found, for a terminal.

    Args:
        manifest: of speech, with a split "train" and perhaps "dev" and "test".
        root: folder of its relative paths.
        model: the tokenizer: a folder or hub id; the embedded checkpoint where None.
        out: file to write; beside the tokenizer's weights where None.
        codes: .npz of the codes, see `codes_of_splits`.
        hours: of training speech.
        minutes: of CPU time to train.
        steps: of the training in place of minutes, for a result that another call repeats.
        hidden: units.
        seed: of everything random.
        allow_outside: audio may lie elsewhere than below `root` or the manifest's own folder.

    Raises:
        ValueError: for a manifest without training speech, a quantizer that is none of codebooks, and no time or steps.
    """
    if not minutes > 0 or (steps is not None and steps < 1):
        raise ValueError(f"minutes={minutes}, steps={steps}: give more than 0 minutes, or 1 or more steps")
    torch.manual_seed(seed)
    tokenizer = Tokenizer.from_pretrained(model)
    assert tokenizer.folder is not None
    quantizer = tokenizer.encoder.quantizer
    if not hasattr(quantizer, "codebooks"):
        raise ValueError(f"quantizer {type(quantizer).__name__}: a model of codes is made for codebooks only")
    out = out or tokenizer.folder / CODE_MODEL_NAME
    require_writable(out)
    wanted = {"train": hours, "dev": hours / 10, "test": hours / 10}
    digest = sha256_of_codes(weights_path(tokenizer.folder))
    clips = codes_of_splits(tokenizer, manifest, root, wanted, cache=codes, made_by=digest, allow_outside=allow_outside)
    found = {split: np.concatenate(parts, axis=1) for split, parts in clips.items()}
    frames = max(1, tokenizer.sample_rate // tokenizer.frame_size)
    if "train" not in found or found["train"].shape[1] <= frames:
        raise ValueError(f"{manifest}: no training speech of more than a second")
    n_q = len(found["train"])
    sizes = tokenizer.codebook_sizes[:n_q]
    counts = [np.bincount(row, minlength=size) + 0.5 for row, size in zip(found["train"], sizes, strict=True)]
    books = [book.embed.clone() for book in quantizer.codebooks()[:n_q]]
    network = CodeNetwork(books, [count / count.sum() for count in counts], hidden)
    steps = trained(network, found["train"], frames, minutes, steps=steps, seed=seed)
    made = to_code_model(network, digest)
    made.save(out)
    lines = [f"{out}: {out.stat().st_size} bytes, {steps} steps, digest {made.digest[:8]}"]
    for split in ("dev", "test"):
        if split in found:
            rate = measure(made, sizes, found[split][:, : MEASURED * frames], frames)
            lines.append(
                f"{split}: {rate.coded:.0f} bit/s of {rate.nominal:.0f}, {1 - rate.coded / rate.nominal:.1%} saved, "
                f"coded {rate.faster:.0f} times faster than real time"
            )
    return "\n".join(lines)


def codes_of_splits(
    tokenizer: Tokenizer,
    manifest: str,
    root: str,
    hours: Mapping[str, float],
    *,
    cache: Path | None = None,
    made_by: str = "",
    allow_outside: bool = False,
) -> dict[str, list[np.ndarray]]:
    """Encode clips of the splits of a manifest, in an order of chance that is always the same.

    A clip that cannot be read is left out, with a message.

    Args:
        tokenizer: what encodes.
        manifest: of speech.
        root: folder of its relative paths.
        hours: of each split that is wanted; a split ends with the clip that reaches them.
        cache: .npz of the codes, read in place of the manifest where it is there, otherwise written. It holds an array
            [n_q, F] of each split, under the split's name with "_len" the frames of its clips and with "_hours" what
            was wanted of it, and `made_by`.
        made_by: digest of what encodes (`mimotok.weights.sha256_of_codes`).
        allow_outside: audio may lie elsewhere than below `root` or the manifest's own folder.

    Returns:
        The clips of each split that has any, uint16 [n_q, F].

    Raises:
        ValueError: for a cache that is no .npz, or holds codes that something else made, or of other hours.
    """
    if cache is not None and cache.exists():
        kept = _read_codes(cache)
        if str(kept.get("made_by", "")) != made_by:
            raise ValueError(f"{cache}: holds codes that another model made; name another file, or remove it")
        for split, most in hours.items():
            if (held := float(kept.get(f"{split}_hours", most))) != most:
                raise ValueError(
                    f"{cache}: holds codes of {held:g} hours of {split}, not {most:g}; name another file, or remove it"
                )
        return {split: _clips(kept, split) for split in hours if split in kept}
    clips = read_manifest(manifest, root, allow_outside=allow_outside)
    found = {}
    for split, most in hours.items():
        encoded = _encode([clip for clip in clips if clip.split == split], tokenizer, 3600 * most)
        if encoded:
            found[split] = encoded
    if cache is not None:
        arrays = {split: np.concatenate(parts, axis=1) for split, parts in found.items()}
        arrays |= {f"{split}_len": np.array([part.shape[1] for part in parts]) for split, parts in found.items()}
        arrays |= {f"{split}_hours": np.array(float(hours[split])) for split in found}
        if made_by:
            arrays["made_by"] = np.array(made_by)
        with atomic_path(cache) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # mypy takes them for the option of the same place
    return found


def _read_codes(path: Path) -> dict[str, np.ndarray]:
    with open_regular(path) as file:
        try:
            return read_npz(file, tuple(field_names(file, MOST_FIELDS)))
        except ValueError as error:
            raise ValueError(f"{path}: no .npz of codes ({error}); name another file, or remove it") from error


def _clips(kept: Mapping[str, np.ndarray], split: str) -> list[np.ndarray]:
    """Cut the codes of a split into its clips; a file of an older version does not know them, and gives one."""
    codes = kept[split]
    lengths = kept.get(f"{split}_len", np.array([codes.shape[1]]))
    return np.split(codes, np.cumsum(lengths)[:-1], axis=1)


def _encode(clips: Sequence[Clip], tokenizer: Tokenizer, most: float) -> list[np.ndarray]:
    """Encode clips until they last `most` seconds."""
    seconds = 0.0
    encoded = []
    for index in np.random.default_rng(0).permutation(len(clips)):
        if seconds >= most:
            break
        try:
            wav, rate = decode(clips[index])
        except BadClipError as error:
            say(f"left out: {error}")
            continue
        sound = resample(wav, rate, tokenizer.sample_rate)
        seconds += len(sound) / tokenizer.sample_rate
        with torch.no_grad():
            encoded.append(tokenizer.encode(torch.from_numpy(sound)[None])[0].numpy().astype(np.uint16))
    return encoded

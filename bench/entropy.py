"""How many bits do codes need under models that predict them? What an entropy coder could save of a codes file.

OMP_NUM_THREADS=1 python -m bench.entropy manifest.jsonl --root data --hours 6 --codes /tmp/codes.npz

The network is that of `python -m train code-model`, in floating point.

Every model learns from clips of the split "train" and is measured on those of "dev" and "test", which it never saw.
`--codes` keeps the codes, so that a second run encodes nothing. A coder needs these bits and what its blocks take: the
last two rows of a split are a .mimo file, whose seconds are read by themselves, as it is and as a coder would make it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jsonargparse import CLI

from bench.tables import Table, book_columns
from mimotok.io.codes.bits import byte_count, code_widths
from mimotok.io.codes.mimo_layout import CHECK_BITS
from mimotok.tokenizer import Tokenizer
from mimotok.weights import sha256_of_codes, weights_path
from train.tools.code_model import CodeNetwork, codes_of_splits, trained

HELD_OUT = ("dev", "test")
WINDOW = 64  # frames of a training example
CLUSTERS = 32  # of the first book's entries, as a context
# bits that a second of coded frames takes besides them: its length, its checksum, and the unused end of its last byte
# with the byte by which a range coder ends
BLOCK_BITS = 16 + 8 + 4 + 8


class Corpus(NamedTuple):
    """Codes of one split. codes: int64 [n_q, F], clip after clip; starts: bool [F], the first frame of each clip."""

    codes: np.ndarray
    starts: np.ndarray


def corpus(clips: Sequence[np.ndarray]) -> Corpus:
    """Join the clips of a split, [n_q, F] each."""
    lengths = np.array([clip.shape[1] for clip in clips])
    codes = np.concatenate(clips, axis=1).astype(np.int64)
    starts = np.zeros(codes.shape[1], bool)
    starts[np.cumsum(lengths) - lengths] = True
    return Corpus(codes, starts)


# --- counts


def unigram_bits(train: Corpus, held: Corpus, sizes: Sequence[int]) -> np.ndarray:
    """Return the bits a frame of each book under the frequencies of its entries."""
    return np.array([-np.log2(_frequencies(train.codes[b], n)[held.codes[b]]).mean() for b, n in enumerate(sizes)])


def _frequencies(codes: np.ndarray, size: int) -> np.ndarray:
    counts = np.bincount(codes, minlength=size) + 0.5
    return counts / counts.sum()


def clusters_of(table: np.ndarray, count: int) -> np.ndarray:
    """Cluster the entries of a codebook [C, D] by k-means. Returns the cluster of each."""
    centres = table[np.random.default_rng(0).permutation(len(table))[:count]]
    for _ in range(20):
        distance = (table**2).sum(1)[:, None] - 2 * table @ centres.T + (centres**2).sum(1)
        nearest = distance.argmin(1)
        centres = np.stack([table[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(count)])
    return nearest


def contexts_of(corpus: Corpus, classes: np.ndarray, book: int) -> list[np.ndarray]:
    """Return what the next code of a book may depend on, a number for each frame and context."""
    codes = corpus.codes
    previous = np.roll(codes, 1, axis=1)
    previous[:, corpus.starts] = 0
    was = classes[previous[0]]
    found = [previous[book], was]
    if book:
        now = classes[codes[0]]
        found += [codes[book - 1], now, now * CLUSTERS + was]
    return found


def context_bits(train: Corpus, held: Corpus, sizes: Sequence[int], classes: np.ndarray) -> np.ndarray:
    """Return the bits a frame of each book under a mixture of counts in several contexts.

    The weights of the mixture, by how often a context was seen, are fitted on a tenth of the training codes.
    """
    cut = train.codes.shape[1] * 9 // 10
    early = Corpus(train.codes[:, :cut], train.starts[:cut])
    late = Corpus(train.codes[:, cut:], train.starts[cut:])
    bits = []
    for book, size in enumerate(sizes):
        unigram = _frequencies(early.codes[book], size)
        chances = {"late": [unigram[late.codes[book]]], "held": [unigram[held.codes[book]]]}
        learnt = contexts_of(early, classes, book)
        asked = {"late": contexts_of(late, classes, book), "held": contexts_of(held, classes, book)}
        for index, context in enumerate(learnt):
            kinds = int(max(context.max(), *(found[index].max() for found in asked.values()))) + 1
            counts = np.bincount(context * size + early.codes[book], minlength=kinds * size).reshape(kinds, size)
            totals = counts.sum(1)
            for strength in (size / 16, size):
                for name, corpus in (("late", late), ("held", held)):
                    at = asked[name][index]
                    codes = corpus.codes[book]
                    chances[name].append((counts[at, codes] + strength * unigram[codes]) / (totals[at] + strength))
        weights = _mixture(np.stack(chances["late"]))
        bits.append(-np.log2(weights @ np.stack(chances["held"])).mean())
    return np.array(bits)


def _mixture(chances: np.ndarray) -> np.ndarray:
    """Fit the weights of a mixture of models, chances [models, F], by expectation maximisation."""
    weights = np.full(len(chances), 1 / len(chances))
    for _ in range(30):
        shares = weights[:, None] * chances
        weights = (shares / shares.sum(0)).mean(1)
    return weights


# --- a network


@torch.no_grad()
def network_bits(model: CodeNetwork, held: Corpus, span: int) -> np.ndarray:
    """Return the bits a frame of each book under a network that begins anew after every `span` frames."""
    codes = torch.from_numpy(held.codes.T.copy())
    whole = len(codes) // span * span
    nats = torch.cat([model(part).sum((0, 1))[None] for part in codes[:whole].view(-1, span, codes.shape[1]).split(8)])
    return (nats.sum(0) / math.log(2) / whole).numpy()


def main(
    manifest: Path,
    root: Path = Path(),
    codes: Path | None = None,
    hours: float = 6.0,
    steps: int = 1500,
    hidden: int = 192,
    model: str | None = None,
) -> None:
    """Print the table.

    Args:
        manifest: JSON lines with "audio", "duration" and "split".
        root: folder of its audio.
        codes: .npz of the codes, written if it is not there; `codes.npz` if left out.
        hours: of training clips.
        steps: of the network's training.
        hidden: units of the network.
        model: folder or hub id; the embedded checkpoint if left out.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_pretrained(model)
    assert tokenizer.folder is not None
    digest = sha256_of_codes(weights_path(tokenizer.folder))
    wanted = {**dict.fromkeys(HELD_OUT, math.inf), "train": hours}
    clips = codes_of_splits(
        tokenizer, str(manifest), str(root), wanted, cache=codes or Path("codes.npz"), made_by=digest
    )
    found = {split: corpus(parts) for split, parts in clips.items()}
    train = found["train"]
    n_q = len(train.codes)
    sizes = tokenizer.codebook_sizes[:n_q]
    tables = [book.embed for book in tokenizer.encoder.quantizer.codebooks()[:n_q]]
    classes = clusters_of(tables[0].numpy(), CLUSTERS)
    start = time.process_time()
    frequencies = [_frequencies(train.codes[book], size) for book, size in enumerate(sizes)]
    network = CodeNetwork([table.clone() for table in tables], frequencies, hidden)
    trained(network, train.codes, WINDOW, minutes=0, steps=steps)
    spent = time.process_time() - start
    nominal = np.array(code_widths(sizes), float)
    header = ("model", "split", *book_columns(n_q), "bit/s", "saved")
    table = Table("", header)
    for split in HELD_OUT:
        held = found[split]
        second = round(tokenizer.frame_rate)
        anew = network_bits(network, held, second)
        full = second * nominal.sum()
        for name, bits in {
            "none": nominal,
            "frequencies": unigram_bits(train, held, sizes),
            "contexts": context_bits(train, held, sizes, classes),
            "network": network_bits(network, held, 40 * second),
            "network, each second by itself": anew,
        }.items():
            rate = second * bits.sum()
            table.add(name, split, *(f"{value:.2f}" for value in bits), f"{rate:.0f}", f"{1 - rate / full:.1%}")
        # as mimotok.io.codes.mimo_layout has it
        file = 8 * byte_count(int(full) + CHECK_BITS)
        coded = second * anew.sum() + BLOCK_BITS
        table.add("seconds of a .mimo file", split, *[""] * n_q, f"{file}", "0.0%")
        table.add("... by the network", split, *[""] * n_q, f"{coded:.0f}", f"{1 - coded / file:.1%}")
    print(table)
    size = sum(value.numel() for value in network.parameters())
    learnt = train.codes.shape[1] / tokenizer.frame_rate / 3600
    print(
        f"\n{learnt:.1f} h to learn from; network: {size / 1e6:.2f} M weights, {steps} steps, {spent:.0f} s of CPU time"
    )


if __name__ == "__main__":
    CLI(main, as_positional=True)

"""What tokens mean: how well a small model of fixed size and budget learns to read text from a codec's frozen codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval import protocol
from eval.cache import Cache
from eval.codecs import Codec, CodecSpec
from eval.report import table
from eval.runner import open_codec
from eval.statistics import Summary, summarize_ratio
from eval.tasks import Failed, run_tasks
from eval.testlists import Clip
from mimotok.audio import load_audio
from mimotok.text import error_counts, normalize_text

BLANK = 0
MIN_RATE = 50.0  # positions per second that text is read at: CTC cannot write more letters than it has positions
MAX_SECONDS = 20.0  # of a training recording: longer ones would set the memory of every batch


@dataclass(frozen=True)
class Budget:
    """The probe's size and training, the same for every codec that is to be compared."""

    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 2e-3
    width: int = 256
    seed: int = 0


class Tokens(NamedTuple):
    """A recording as a codec has it: codes int64 [n_q, F], and the text, normalised."""

    codes: Tensor
    text: str


class ProbeResult(NamedTuple):
    """CER and WER on `clips` held-out recordings, after training on `train_clips` of `train_seconds` in all."""

    cer: Summary
    wer: Summary
    clips: int
    train_clips: int
    train_seconds: float
    final_loss: float


class Probe(nn.Module):
    """Embeddings of the codebooks, summed; a bidirectional GRU of two layers; letters by CTC."""

    def __init__(self, codebook_sizes: Sequence[int], frame_rate: float, letters: int, width: int) -> None:
        """letters: without the blank."""
        super().__init__()
        self.repeat = max(1, int(np.ceil(MIN_RATE / frame_rate)))
        self.embed = nn.ModuleList(nn.Embedding(size, width) for size in codebook_sizes)
        self.mix = nn.Conv1d(width, width, 5, padding=2)
        self.read = nn.GRU(width, width, num_layers=2, bidirectional=True, batch_first=True, dropout=0.2)
        self.write = nn.Linear(2 * width, self.repeat * (letters + 1))

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """codes: [B, n_q, F], lengths: [B] frames. Returns log-probabilities [B, F * repeat, letters + 1]."""
        embedded = sum(embed(codes[:, book]) for book, embed in enumerate(self.embed))
        assert isinstance(embedded, Tensor)
        valid = torch.arange(codes.shape[2], device=codes.device) < lengths[:, None]
        mixed = F.gelu(self.mix((embedded * valid[..., None]).transpose(1, 2))).transpose(1, 2)
        packed = nn.utils.rnn.pack_padded_sequence(mixed, lengths.cpu(), batch_first=True, enforce_sorted=False)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(self.read(packed)[0], True, total_length=codes.shape[2])
        return self.write(hidden).unflatten(-1, (self.repeat, -1)).flatten(1, 2).log_softmax(-1)


def run_probe(
    spec: CodecSpec,
    train: Sequence[Clip],
    test: Sequence[Clip],
    *,
    budget: Budget,
    out: Path,
    workers: int = 1,
    device: str = "cpu",
    tell: Callable[[str], None],
    progress: Callable[[str, int], AbstractContextManager[Callable[[], None]]],
) -> ProbeResult:
    """Trains a probe on the codec's codes of `train` and measures it on `test`, of which only human texts count.

    out: folder where codes are cached. tell: takes each problem as one line. Raises ValueError for a codec without
    codes, and where no recording is left on either side.
    """
    codec = open_codec(spec, device)
    if not codec.codebook_sizes:
        raise ValueError(f"{spec.label}: has no codes to read from")
    out.mkdir(parents=True, exist_ok=True)
    cache = Cache(out / "cache.jsonl")
    sides = []
    for name, clips in (("train", train), ("test", [clip for clip in test if not clip.machine_text])):
        tokens = _tokens(codec, spec, clips, cache, workers, device, tell, progress)
        if not tokens:
            raise ValueError(f"{spec.label}: no recording with text for the {name} side")
        sides.append(tokens)
    return train_probe(codec, sides[0], sides[1], budget=budget, device=device, progress=progress)


class _Tokenizing(NamedTuple):
    spec: CodecSpec
    device: str
    audio: Path


def _tokens(
    codec: Codec,
    spec: CodecSpec,
    clips: Sequence[Clip],
    cache: Cache,
    workers: int,
    device: str,
    tell: Callable[[str], None],
    progress: Callable[[str, int], AbstractContextManager[Callable[[], None]]],
) -> list[Tokens]:
    said = [clip for clip in clips if clip.text and normalize_text(clip.text)]
    questions = {clip.audio: ["tokens", codec.identity, str(clip.audio), _stamp(clip.audio)] for clip in said}
    todo = [_Tokenizing(spec, device, clip.audio) for clip in said if cache.get(questions[clip.audio]) is None]
    with progress(f"{spec.label}: codes", len(todo)) as advance:
        for item, result in run_tasks(tokenize, todo, workers):
            if isinstance(result, Failed):
                tell(f"{item.audio}: {result.reason}")
            else:
                cache.put(questions[item.audio], result)
            advance()
    known = [(clip, cache.get(questions[clip.audio])) for clip in said]
    return [Tokens(torch.tensor(codes), normalize_text(clip.text or "")) for clip, codes in known if codes is not None]


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def tokenize(item: _Tokenizing) -> list[list[int]]:
    """The codes [n_q, F] of one recording, at the protocol's level."""
    codec = open_codec(item.spec, item.device)
    wav = load_audio(item.audio, codec.sample_rate)[0].numpy()
    peak = float(np.abs(wav).max())
    if peak < protocol.SILENCE:
        raise ValueError("silent: nothing to read")
    codes = codec.encode_decode(wav * (protocol.PEAK / peak)).codes
    assert codes is not None
    return codes.tolist()


def train_probe(
    codec: Codec,
    train: Sequence[Tokens],
    test: Sequence[Tokens],
    *,
    budget: Budget,
    device: str,
    progress: Callable[[str, int], AbstractContextManager[Callable[[], None]]],
) -> ProbeResult:
    """Trains for the budget's steps and measures. The same seed gives the same figures on the same machine."""
    frame_rate = _frame_rate(codec)
    train = [tokens for tokens in train if tokens.codes.shape[1] <= MAX_SECONDS * frame_rate]
    if not train:
        raise ValueError(f"no training recording lasts less than {MAX_SECONDS} s")
    letters = sorted(set("".join(tokens.text for tokens in train)))
    torch.manual_seed(budget.seed)
    model = Probe(codec.codebook_sizes, frame_rate, len(letters), budget.width).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=budget.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, budget.learning_rate, total_steps=budget.steps + 1, pct_start=0.1
    )
    index = {letter: number for number, letter in enumerate(letters, 1)}
    loss = torch.tensor(float("nan"))
    with progress(f"{codec.label}: probe", budget.steps) as advance:
        for batch in _batches(train, budget):
            codes, lengths = _padded(batch, device)
            targets = [torch.tensor([index[letter] for letter in tokens.text]) for tokens in batch]
            logits = model(codes, lengths).transpose(0, 1)
            loss = F.ctc_loss(
                logits,
                torch.cat(targets).to(device),
                lengths * model.repeat,
                torch.tensor([len(target) for target in targets], device=device),
                blank=BLANK,
                # a recording spoken faster than there are positions cannot be written
                zero_infinity=True,
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            advance()
    cer, wer = _score(model.eval(), test, letters, device, budget.seed)
    seconds = sum(tokens.codes.shape[1] for tokens in train) / frame_rate
    return ProbeResult(cer, wer, len(test), len(train), seconds, float(loss.detach()))


def _frame_rate(codec: Codec) -> float:
    """Frames per second: the nominal bitrate over the bits of a frame."""
    assert codec.nominal_bitrate is not None
    return codec.nominal_bitrate / float(np.log2(codec.codebook_sizes).sum())


def _batches(tokens: Sequence[Tokens], budget: Budget) -> Iterator[list[Tokens]]:
    """The budget's number of batches of similar lengths, in random order, epoch after epoch."""
    generator = np.random.default_rng(budget.seed)
    order = sorted(range(len(tokens)), key=lambda i: tokens[i].codes.shape[1])
    groups = [order[start : start + budget.batch_size] for start in range(0, len(order), budget.batch_size)]
    drawn: list[int] = []
    for _ in range(budget.steps):
        if not drawn:
            drawn = generator.permutation(len(groups)).tolist()
        yield [tokens[i] for i in groups[drawn.pop()]]


def _padded(batch: Sequence[Tokens], device: str) -> tuple[Tensor, Tensor]:
    """codes [B, n_q, F] and lengths [B]."""
    rows = [tokens.codes.T for tokens in batch]
    lengths = torch.tensor([len(row) for row in rows])
    return nn.utils.rnn.pad_sequence(rows, True).transpose(1, 2).to(device), lengths.to(device)


@torch.no_grad()
def _score(
    model: Probe, test: Sequence[Tokens], letters: Sequence[str], device: str, seed: int
) -> tuple[Summary, Summary]:
    counts = []
    for tokens in test:
        best = model(*_padded([tokens], device))[0].argmax(-1).unique_consecutive().tolist()
        counts.append(error_counts(tokens.text, "".join(letters[i - 1] for i in best if i != BLANK)))
    cer = summarize_ratio([c.char_errors for c in counts], [c.chars for c in counts], seed=seed)
    wer = summarize_ratio([c.word_errors for c in counts], [c.words for c in counts], seed=seed)
    return cer, wer


def probe_row(spec: CodecSpec, result: ProbeResult, budget: Budget) -> dict[str, Any]:
    """A result as JSON."""
    summaries = {name: getattr(result, name)._asdict() for name in ("cer", "wer")}
    return {"codec": spec.label, **result._asdict(), **summaries, "budget": budget.__dict__}


def probe_table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of what `probe_row` gave."""

    def rate(summary: dict[str, Any]) -> str:
        return f"{summary['mean']:.3f} [{summary['low']:.3f}, {summary['high']:.3f}]"

    header = ["codec", "CER ↓", "WER ↓", "held-out clips", "training minutes", "steps", "seed"]
    cells = [
        [row["codec"], rate(row["cer"]), rate(row["wer"]), str(row["clips"]), f"{row['train_seconds'] / 60:.1f}"]
        + [str(row["budget"]["steps"]), str(row["budget"]["seed"])]
        for row in rows
    ]
    return table(header, cells)

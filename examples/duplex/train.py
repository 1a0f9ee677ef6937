"""Two clips to one duplex sequence, some training steps, and back: python -m examples.duplex.train one.wav two.wav."""

from __future__ import annotations

from pathlib import Path

import torch

from examples.duplex.model import TEXT, DuplexLM, duplex_of, read_labels, spans_of, text_of
from examples.training import run
from mimotok import Tokenizer, load_audio, save_audio
from mimotok.io.files import make_folder
from mimotok.lm import DuplexLayout
from mimotok.lm.text_stream import Span


def main(
    speaker: Path,
    other: Path,
    text: str = "",
    words: Path | None = None,
    out: Path = Path("runs/examples/duplex"),
    model: str | None = None,
    seconds: float = 10.0,
    steps: int = 200,
    answer_seconds: float = 1.0,
) -> None:
    """Learn one conversation by heart: SPEAKER, who says TEXT or the WORDS of a file of labels, and OTHER meanwhile.

    Writes speaker.wav and other.wav, decoded from the sequence, and answer.wav: the speaker with the model's own last
    `answer_seconds`, given all that the other says.
    """
    if text and words is not None:
        raise ValueError("give either --text, a sentence, or --words, a file of words with their times")
    make_folder(out)
    tokenizer = Tokenizer.from_pretrained(model)
    sizes = tokenizer.codebook_sizes[: tokenizer.n_q]
    limit = round(seconds * tokenizer.sample_rate)
    clips = [tokenizer.encode(load_audio(path, tokenizer.sample_rate)[:, :limit])[0] for path in (speaker, other)]
    said = [Span(tuple(TEXT.encode(text)), 0.0, clips[0].shape[1] / tokenizer.frame_rate)] if text else []
    by_words = words is not None
    if words is not None:
        said = [word for word in read_labels(words) if word.start < seconds]
    layout = DuplexLayout(sizes, pad_id=TEXT.size)
    ids = layout.encode(duplex_of(clips[0], clips[1], said, tokenizer.frame_rate, by_words=by_words))
    print(f"sequence: {ids.shape[1]} channels, {ids.shape[2]} steps at {tokenizer.frame_rate:g} Hz")

    lm = DuplexLM(layout)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=3e-3)
    for step in range(1, steps + 1):
        loss = lm.loss(ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (1, steps) or step % 50 == 0:
            print(f"step {step}: {loss.item():.3f} nats per id")

    answered = lm.eval().answer(ids, min(round(answer_seconds * tokenizer.frame_rate), ids.shape[2] - 2))
    duplex = layout.decode(ids)
    written = layout.decode(answered)
    spans = spans_of(duplex, tokenizer.frame_rate, by_words=by_words)
    print(f"text: {[(text_of(span), round(span.start, 2)) for span in spans]}")
    same = float((written.speaker == duplex.speaker).float().mean())
    print(f"answer: {same:.0%} of the speaker's codes are those of the conversation")
    for name, codes in (("speaker", duplex.speaker), ("other", duplex.other), ("answer", written.speaker)):
        save_audio(out / f"{name}.wav", tokenizer.decode(codes), tokenizer.sample_rate)
    print(out)


if __name__ == "__main__":
    run(main)

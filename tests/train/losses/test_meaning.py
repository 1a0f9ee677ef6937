"""Phones and characters in the first codebook: who gets a gradient, who does not, and what padding may not change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mimotok import Tokenizer

pytest.importorskip("vector_quantize_pytorch", reason="needs: pip install 'mimotok[train]'")

from mimotok.io.clips.phones import PHONES, UNKNOWN
from train.losses.meaning import ALPHABET, CharacterConfig, CharacterReader, PhoneClassifier, fit_labels, spelling
from train.stages.quantizer import TrainingQuantizer


@pytest.fixture
def coded(tiny: Callable[..., Tokenizer]):
    """(latents that want a gradient, what the quantizer makes of them): four items of unlike numbers of codebooks."""
    tokenizer = tiny()
    quantizer = TrainingQuantizer(tokenizer.encoder.quantizer).eval()
    latents = torch.randn(4, 12, 32, requires_grad=True)
    return latents, quantizer(latents, torch.tensor([12, 12, 9, 12]), torch.tensor([4, 0, 2, 1])), tokenizer


@pytest.mark.slow
def test_first_is_the_first_codebook_alone_whatever_the_number_of_codebooks(coded) -> None:
    latents, out, tokenizer = coded
    quantizer = tokenizer.encoder.quantizer
    entries = quantizer.decode(quantizer.encode(latents.detach(), 1))
    torch.testing.assert_close(out.first[:, :9], entries[:, :9])
    # the sum of all codebooks, the latents themselves, and two codebooks are something else
    for item in range(3):
        assert (out.quantized[item, :9] - out.first[item, :9]).abs().mean() > 0.05
    torch.testing.assert_close(out.quantized[3], out.first[3])


def test_the_phone_loss_reaches_the_latents_straight_through_the_first_codebook(coded) -> None:
    latents, out, _ = coded
    classifier = PhoneClassifier(32)
    labels = torch.randint(len(PHONES), (4, 12))
    loss = classifier.score(out.first, labels).loss
    (gradient,) = torch.autograd.grad(loss, latents, retain_graph=True)
    # the gradient is the one at the first codebook's entries, although the latents are others
    entries = out.first.detach().requires_grad_()
    (wanted,) = torch.autograd.grad(classifier.score(entries, labels).loss, entries)
    torch.testing.assert_close(gradient, wanted)
    assert gradient.abs().sum(-1).gt(0).all()


def test_clips_without_labels_or_text_give_no_gradient(coded) -> None:
    latents, out, _ = coded
    labels = torch.randint(len(PHONES), (4, 12))
    labels[1] = UNKNOWN
    labels[0, 5:] = UNKNOWN
    score = PhoneClassifier(32).score(out.first, labels)
    assert score.frames == int((labels != UNKNOWN).sum())
    (gradient,) = torch.autograd.grad(score.loss, latents, retain_graph=True)
    assert (gradient.abs().sum(-1) > 0).equal(labels != UNKNOWN)

    reader = CharacterReader(32, CharacterConfig(hidden=8))
    loss = reader.loss(out.first, torch.tensor([12, 12, 9, 12]), ["ab", None, "你好", "c"])
    (gradient,) = torch.autograd.grad(loss, latents)
    assert gradient[[0, 3]].abs().sum(-1).gt(0).all()
    assert not gradient[[1, 2]].any()


def test_nothing_known_is_a_loss_of_zero_that_reaches_every_parameter() -> None:
    frames = torch.randn(2, 6, 16)
    classifier, reader = PhoneClassifier(16), CharacterReader(16, CharacterConfig(hidden=4))
    score = classifier.score(frames, torch.full((2, 6), UNKNOWN))
    total = score.loss + reader.loss(frames, torch.tensor([6, 4]), [None, ""])
    assert total == 0
    assert score.frames == 0
    total.backward()
    for parameter in [*classifier.parameters(), *reader.parameters()]:
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_the_phone_loss_is_the_mean_over_known_frames() -> None:
    frames, labels = torch.randn(2, 5, 16), torch.randint(len(PHONES), (2, 5))
    labels[1, 3:] = UNKNOWN
    classifier = PhoneClassifier(16)
    known = labels != UNKNOWN
    log_probs = classifier(frames).log_softmax(-1)[known]
    wanted = -log_probs[torch.arange(8), labels[known]].mean()
    score = classifier.score(frames, labels)
    torch.testing.assert_close(score.loss, wanted)
    torch.testing.assert_close(score.accuracy, (log_probs.argmax(-1) == labels[known]).float().mean())


def test_batch_equals_single_for_the_reader() -> None:
    reader = CharacterReader(16, CharacterConfig(hidden=8))
    frames, lengths = torch.randn(2, 20, 16), torch.tensor([20, 11])
    batch = reader(frames, lengths)
    single = reader(frames[1:, :11], lengths[1:])
    torch.testing.assert_close(batch[1, :11], single[0])
    together = reader.loss(frames, lengths, ["hello", "the cat"])
    apart = [
        reader.loss(frames[i : i + 1, :n], lengths[i : i + 1], [text])
        for i, n, text in [(0, 20, "hello"), (1, 11, "the cat")]
    ]
    torch.testing.assert_close(together, torch.stack(apart).mean())


@pytest.mark.slow
def test_the_reader_learns_to_spell() -> None:
    torch.manual_seed(0)
    reader = CharacterReader(8, CharacterConfig(hidden=16))
    frames, lengths, texts = torch.randn(2, 16, 8), torch.tensor([16, 12]), ["to be", "or not"]
    optimizer = torch.optim.Adam(reader.parameters(), 2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        reader.loss(frames, lengths, list(texts)).backward()
        optimizer.step()
    likeliest = reader(frames, lengths).argmax(-1)
    for row, length, text in zip(likeliest, lengths, texts, strict=True):
        # without repeats and blanks
        assert "".join(ALPHABET[i - 1] for i in row[:length].unique_consecutive() if i) == text


def test_spelling_knows_letters_and_refuses_the_rest() -> None:
    def letters(text: str | None) -> str | None:
        ids = spelling(text)
        return None if ids is None else "".join(ALPHABET[i - 1] for i in ids)

    assert letters("Don't STOP, now!") == "dont stop now"
    assert letters("Größe, señor") == "grosse senor"
    for text in (None, "", "...", "chapter 35", "你好", "привет"):
        assert letters(text) is None


def test_labels_of_another_frame_rate_are_refused() -> None:
    labels = torch.arange(10)[None]
    assert fit_labels(labels, 11).tolist() == [[*range(10), UNKNOWN]]
    assert fit_labels(labels, 9).tolist() == [[*range(9)]]
    with pytest.raises(ValueError, match="10 phone labels for 20 frames: set the data module's frame_rate"):
        fit_labels(labels, 20)

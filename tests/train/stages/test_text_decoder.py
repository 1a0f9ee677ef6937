"""The audio-to-text model: blind to padding, learns through the audio prefix, survives the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mimotok.text import error_rates, normalize_text
from train.stages.text import ByteTokenizer, HuggingFaceTokenizer
from train.stages.text_decoder import (
    EXTRA_TOKENS,
    TOKENS_PER_FRAME,
    TextDecoder,
    TextDecoderConfig,
    TextLosses,
    load_text_decoder,
)

SMALL: dict[str, Any] = {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "ffn_dim": 128}
D_MODEL = 12


@pytest.fixture(params=[{"stack": 1}, {"stack": 3}, {"ctc": True}], ids=["stack1", "stack3", "ctc"])
def decoder(request: pytest.FixtureRequest) -> TextDecoder:
    torch.manual_seed(0)
    return TextDecoder(D_MODEL, TextDecoderConfig(**SMALL, **request.param))


def total(losses: TextLosses) -> Tensor:
    return losses.text if losses.ctc is None else losses.text + losses.ctc


def audio(*lengths: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(lengths), max(lengths), D_MODEL, generator=generator), torch.tensor(lengths)


@pytest.mark.slow
@given(st.text())
def test_bytes_round_trip_any_unicode(text) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode([tokenizer.bos, *ids, tokenizer.eos, tokenizer.pad]) == text
    assert all(3 <= i < tokenizer.size for i in ids)


@given(st.lists(st.integers(0, ByteTokenizer.size - 1)))
def test_any_byte_ids_decode(ids) -> None:
    assert isinstance(ByteTokenizer().decode(ids), str)


def test_a_lone_surrogate_does_not_stop_training() -> None:
    assert ByteTokenizer().decode(ByteTokenizer().encode("a\ud800b")) == "a?b"


def test_batch_loss_is_the_token_weighted_mean_of_single_losses(decoder: TextDecoder) -> None:
    quantized, lengths = audio(9, 14, 6)
    texts = ["one", "twenty two", "ü"]
    singles = [decoder(quantized[i : i + 1, :n], lengths[i : i + 1], texts[i : i + 1]) for i, n in enumerate(lengths)]
    # the text loss counts eos, for which CTC has no need
    for name, extra in (("text", 1.0), ("ctc", 0.0)):
        losses = [getattr(single, name) for single in singles]
        if losses[0] is not None:
            tokens = torch.tensor([len(t.encode()) + extra for t in texts])
            expected = (torch.stack(losses) * tokens).sum() / tokens.sum()
            torch.testing.assert_close(getattr(decoder(quantized, lengths, texts), name), expected)


def test_what_lies_in_the_padding_does_not_matter(decoder: TextDecoder) -> None:
    quantized, lengths = audio(9, 4)
    spoilt = torch.cat([quantized, torch.ones(2, 5, D_MODEL)], dim=1)
    spoilt[1, 4:] = 100
    texts = ["one", "two"]
    torch.testing.assert_close(total(decoder(spoilt, lengths, texts)), total(decoder(quantized, lengths, texts)))
    assert decoder.transcribe(spoilt, lengths) == decoder.transcribe(quantized, lengths)


def test_gradient_reaches_each_valid_frame_and_no_other(decoder: TextDecoder) -> None:
    quantized, lengths = audio(9, 4)
    quantized.requires_grad_()
    total(decoder(quantized, lengths, ["one", "two"])).backward()
    reached = quantized.grad.abs().sum(-1) > 0
    assert reached.tolist() == [[True] * 9, [True] * 4 + [False] * 5]


def test_padded_transcripts_equal_single_ones(decoder: TextDecoder) -> None:
    quantized, lengths = audio(9, 4, 6)
    singles = [decoder.transcribe(quantized[i : i + 1, :n], lengths[i : i + 1])[0] for i, n in enumerate(lengths)]
    assert decoder.transcribe(quantized, lengths) == singles


def test_transcripts_of_an_untrained_model_are_bounded_by_the_audio(decoder: TextDecoder) -> None:
    quantized, lengths = audio(9, 4)
    for text, frames in zip(decoder.transcribe(quantized, lengths), lengths.tolist(), strict=True):
        assert len(text) <= TOKENS_PER_FRAME * frames + EXTRA_TOKENS


def test_texts_must_match_the_clips(decoder: TextDecoder) -> None:
    with pytest.raises(ValueError, match="1 transcripts for 2 clips"):
        decoder(*audio(3, 3), ["one"])


def test_bfloat16_autocast_gives_nearly_the_same_loss(decoder: TextDecoder) -> None:
    quantized, lengths = audio(9, 4)
    expected = total(decoder(quantized, lengths, ["one", "two"]))
    with torch.autocast("cpu", torch.bfloat16):
        actual = total(decoder(quantized, lengths, ["one", "two"]))
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0.03, atol=0)


@pytest.mark.slow
def test_overfits_four_sentences_through_the_prefix_and_survives_the_disk(tmp_path: Path) -> None:
    """Only the audio tells these clips apart, so a CER of 0 proves that the text is read from the prefix."""
    torch.manual_seed(0)
    decoder = TextDecoder(D_MODEL, TextDecoderConfig(**SMALL))
    quantized, lengths = audio(12, 7, 9, 12)
    texts = ["Guten Morgen.", "Good morning", "早上好", "good night"]
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        total(decoder(quantized, lengths, texts)).backward()
        optimizer.step()
    assert error_rates(texts, decoder.transcribe(quantized, lengths)) == (0, 0)

    decoder.save(tmp_path)
    again = load_text_decoder(tmp_path)
    assert again.transcribe(quantized, lengths) == texts
    torch.testing.assert_close(again(quantized, lengths, texts).text, decoder(quantized, lengths, texts).text)


@pytest.mark.slow
def test_ctc_learns_the_order_of_what_is_said() -> None:
    """Each frame holds one letter or a pause: aligned, the loss of every letter falls to nearly nothing."""
    torch.manual_seed(0)
    decoder = TextDecoder(D_MODEL, TextDecoderConfig(**SMALL, ctc=True))
    frames = torch.eye(D_MODEL)[[0, 1, 0, 2, 2, 0, 3, 0, 1, 0]][None]
    lengths = torch.tensor([10])
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        decoder(frames, lengths, ["abca"]).ctc.backward()
        optimizer.step()
    assert decoder(frames, lengths, ["abca"]).ctc < 0.05 < decoder(frames, lengths, ["acba"]).ctc


def test_a_text_too_long_for_its_audio_adds_no_ctc_loss() -> None:
    decoder = TextDecoder(D_MODEL, TextDecoderConfig(**SMALL, ctc=True))
    losses = decoder(*audio(3), ["far too long"])
    assert losses.ctc == 0 < losses.text


def test_normalized_text_is_what_is_learned() -> None:
    torch.manual_seed(0)
    decoder = TextDecoder(D_MODEL, TextDecoderConfig(**SMALL, normalize=True))
    assert decoder(*audio(9), ["Well-KNOWN!"]).text == decoder(*audio(9), ["well known"]).text


def test_hugging_face_tokenizer_trains_and_is_saved_with_the_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {w: i for i, w in enumerate(["[unk]", "[end]", "hello", "world"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[unk]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="[end]", unk_token="[unk]")
    wrapped.save_pretrained(tmp_path / "source")

    tokenizer = HuggingFaceTokenizer(str(tmp_path / "source"))
    assert tokenizer.bos == tokenizer.pad == tokenizer.eos == 1
    assert tokenizer.decode([*tokenizer.encode("hello world"), tokenizer.eos]) == "hello world"

    decoder = TextDecoder(D_MODEL, TextDecoderConfig(**SMALL, tokenizer=str(tmp_path / "source")))
    quantized, lengths = audio(3)
    decoder(quantized, lengths, ["hello world"]).text.backward()
    decoder.save(tmp_path / "saved")
    (tmp_path / "source").rename(tmp_path / "gone")
    again = load_text_decoder(tmp_path / "saved")
    assert again.tokenizer.encode("world") == [3]
    again.save(tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()


@pytest.mark.parametrize("settings", [{"hidden_size": 66, "num_heads": 4}, {"stack": 0}])
def test_impossible_shapes_are_refused(settings) -> None:
    with pytest.raises(ValueError, match="="):
        TextDecoderConfig(**settings)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Well-known,  “facts”!", "well known facts"),
        ("Don't — don’t", "dont dont"),
        ("Ｆｕｌｌ\twidth。", "full width"),
        ("Größe", "größe"),
        ("?!", ""),
    ],
)
def test_normal_text(text: str, normal: str) -> None:
    assert normalize_text(text) == normal


def test_error_rates_count_over_the_corpus() -> None:
    assert error_rates(["Hello, world!", "..."], ["hello word", "noise"]) == (1 / 11, 1 / 2)


def test_error_rates_need_a_reference() -> None:
    with pytest.raises(ValueError, match="no reference"):
        error_rates(["--"], ["hello"])

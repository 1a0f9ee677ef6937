"""Codes as text and as ids of a text tokenizer: there and back, errors by position, generation in the right order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok.lm import FlatLayout, add_audio_tokens, codes_to_text, text_to_codes
from tests.helpers.layout_strategies import codes_and_sizes, random_codes

TEMPLATES = ["<a{book}_{code}>", "<|audio_{id}|>", "[{code}:{book}]"]
SIZES = (7, 5)


@settings(max_examples=40, deadline=None)
@given(drawn=codes_and_sizes(), chunk=st.sampled_from([1, 2, None]), template=st.sampled_from(TEMPLATES))
def test_text_gives_the_codes_back(drawn, chunk, template) -> None:
    codes, sizes = drawn
    layout = FlatLayout(sizes, chunk)
    text = codes_to_text(codes[0], layout, template=template)
    assert torch.equal(text_to_codes(text, layout, template=template), codes[0])
    spaced = text.replace(">", "> ").replace("]", "]\n")
    assert torch.equal(text_to_codes(spaced, layout, template=template), codes[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<a0_1><a1_2>,<a0_1><a1_2>", r"text\[12\]: ',<a0_1><a1_2>' begins with no token"),
        ("<a0_1><a1_5>", r"text\[6\]: <a1_5>, but codebook 1 has 5 entries"),
        ("<a0_1><a2_1>", r"text\[6\]: <a2_1>, but there are 2 codebooks"),
        ("<a0_1> <a0_2>", r"text\[7\]: a token of codebook 0, but it is the turn of codebook 1"),
        ("<a0_1><a1_2><a0_1>", r"text holds 3 tokens: give a multiple of 2"),
        ("", r"text holds 0 tokens"),
    ],
)
def test_errors_name_the_character(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_to_codes(text, FlatLayout(SIZES))


@pytest.mark.parametrize(
    "template", ["a{book}{code}>", "<{code}>", "<a{book}_{code}", "<a {id}>", "<{id:3}>", "<{id}{", "<1{id}>", "plain"]
)
def test_templates_that_could_not_be_read_back(template: str) -> None:
    with pytest.raises(ValueError, match="template="):
        codes_to_text(random_codes(SIZES, 3, 0)[0], FlatLayout(SIZES), template=template)


def byte_tokenizer() -> Any:
    return pytest.importorskip("transformers").ByT5Tokenizer()


def lower_casing_tokenizer() -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    letters = {letter: number for number, letter in enumerate("?abcdefghijklmnopqrstuvwxyz ")}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=letters, merges=[], unk_token="?"))
    inner.normalizer = tokenizers.normalizers.Lowercase()
    inner.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?")


@pytest.mark.parametrize("make", [byte_tokenizer, lower_casing_tokenizer])
@pytest.mark.parametrize("template", ["<a{book}_{code}>", "<|Audio{id}|>"])
def test_a_text_tokenizer_reads_and_writes_codes(make, template: str) -> None:
    text_tokenizer = make()
    before = len(text_tokenizer)
    layout = FlatLayout(SIZES)
    vocabulary = add_audio_tokens(text_tokenizer, layout, template=template)
    assert len(text_tokenizer) == before + sum(SIZES)
    assert torch.equal(add_audio_tokens(text_tokenizer, layout, template=template).ids, vocabulary.ids)
    codes = random_codes(SIZES, 6, 1)[0]
    text = codes_to_text(codes, layout, template=template)
    ids = text_tokenizer("say " + text, add_special_tokens=False).input_ids
    tail = torch.tensor(ids[-codes.numel() :])
    assert torch.equal(tail, vocabulary.encode(codes))
    assert torch.equal(vocabulary.decode(tail), codes)
    written = text_tokenizer.decode(tail, skip_special_tokens=True)
    assert torch.equal(text_to_codes(written, layout, template=template), codes)


def test_errors_name_the_id() -> None:
    vocabulary = add_audio_tokens(byte_tokenizer(), FlatLayout(SIZES))
    ids = vocabulary.encode(random_codes(SIZES, 3, 0)[0])
    with pytest.raises(ValueError, match=r"ids\[2\]=3 is no code: its ids are"):
        vocabulary.decode(ids.index_fill(0, torch.tensor([2]), 3))
    with pytest.raises(ValueError, match=r"ids\[0, 0\].*this position belongs to codebook 0"):
        vocabulary.decode(ids[[1, 0, 2, 3, 4, 5]])
    with pytest.raises(ValueError, match=r"belongs|multiple of 2"):
        vocabulary.decode(ids[:3])


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("start_id", [None, 9])
def test_whatever_is_generated_can_be_decoded(chunk: int, start_id: int | None) -> None:
    transformers = pytest.importorskip("transformers")
    from mimotok.lm.constrained import CodebookTurns

    text_tokenizer = byte_tokenizer()
    vocabulary = add_audio_tokens(text_tokenizer, FlatLayout(SIZES, chunk))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    lm = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(text_tokenizer), **sizes)).eval()
    end = 1
    turns = CodebookTurns(vocabulary, start_id=start_id, end_ids=[end])
    # one prompt ends before audio begins, the other within it
    before = vocabulary.encode(random_codes(SIZES, chunk, 0)[0]).tolist()
    opening = start_id or 7
    prompt = torch.tensor([[5] * len(before) + [opening], [opening, *before]])
    ids = lm.generate(
        prompt, attention_mask=torch.ones_like(prompt), logits_processor=transformers.LogitsProcessorList([turns]),
        do_sample=True, max_new_tokens=60, eos_token_id=end, pad_token_id=0,
    )  # fmt: skip
    for row, begins in zip(ids.tolist(), (len(before) + 1, 1), strict=True):
        audio = torch.tensor(row[begins:])
        stops = (audio == end).nonzero()
        whole = int(stops[0]) if len(stops) else len(audio) // (2 * chunk) * 2 * chunk
        assert vocabulary.decode(audio[:whole]).shape[1] * 2 == whole


def test_outside_of_audio_no_code_is_allowed() -> None:
    pytest.importorskip("transformers")
    from mimotok.lm.constrained import CodebookTurns

    vocabulary = add_audio_tokens(byte_tokenizer(), FlatLayout(SIZES))
    turns = CodebookTurns(vocabulary, start_id=9, end_ids=[1])
    scores = turns(
        torch.tensor([[5, 6], [9, int(vocabulary.ids[0])], [9, 1]]), torch.zeros(3, int(vocabulary.ids.max()) + 1)
    )
    for row, expected in enumerate([False, True, False]):
        allowed = set(torch.isfinite(scores[row]).nonzero().flatten().tolist())
        assert bool(allowed & set(vocabulary.ids.tolist())) == expected
    assert set(torch.isfinite(scores[1]).nonzero().flatten().tolist()) == set(vocabulary.book_ids(1).tolist())
    with pytest.raises(ValueError, match="chunk=None"):
        CodebookTurns(add_audio_tokens(byte_tokenizer(), FlatLayout(SIZES, None)))

"""Tokens as text: `<a0_17><a1_903>...`, for language models that only know words, and their place in a vocabulary.

    layout = FlatLayout(tokenizer.codebook_sizes[: tokenizer.n_q])
    text = codes_to_text(codes, layout)                      # "<a0_17><a1_903>..."
    vocabulary = add_audio_tokens(AutoTokenizer.from_pretrained(...), layout)
    ids = vocabulary.encode(codes)                           # what the tokenizer makes of that text

The layout says in what order the codes come: frame by frame (`chunk=1`) or codebook by codebook (`chunk=None`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from string import Formatter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mimotok.lm.layouts import FlatLayout

# {book} counts codebooks and {code} their entries; {id} would count all entries of all codebooks.
TEMPLATE = "<a{book}_{code}>"
_FIELDS = ({"book", "code"}, {"id"})


class TokenName(NamedTuple):
    """What a template says of one token: its codebook and entry."""

    book: int
    code: int


@dataclass(frozen=True)
class TokenNames:
    """The names of all codes of a layout.

    Attributes:
        layout: the codebooks and the order of their codes.
        template: a name with `{book}` and `{code}`, or with `{id}`, which counts through all codebooks; every number
            has something that is no digit on both sides, and nothing is a space.

    Raises:
        ValueError: for another template.
    """

    layout: FlatLayout
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        try:
            parts = list(Formatter().parse(self.template))
        except ValueError:
            parts = []
        fields = [part[1] for part in parts if part[1] is not None]
        plain = all(not part[2] and not part[3] for part in parts)
        borders = [part[0] for part in parts]
        if parts and parts[-1][1] is not None:
            borders.append("")
        separated = all(border and not border[0].isdigit() and not border[-1].isdigit() for border in borders)
        if set(fields) not in _FIELDS or len(fields) != len(set(fields)) or not plain or not separated:
            raise ValueError(
                f"template={self.template!r}: give a name such as {TEMPLATE!r} or '<|audio_{{id}}|>', in which text "
                "that is no digit stands on both sides of each number"
            )
        if any(letter.isspace() for letter in self.template):
            raise ValueError(f"template={self.template!r}: give one without spaces")

    def all(self) -> list[str]:
        """Return the names of all codes, in the order of the layout's ids."""
        offsets = accumulate(self.layout.codebook_sizes, initial=0)
        return [
            self.template.format(book=book, code=code, id=first + code)
            for book, (first, size) in enumerate(zip(offsets, self.layout.codebook_sizes, strict=False))
            for code in range(size)
        ]

    def find(self, text: str) -> Iterator[tuple[int, TokenName]]:
        """Yield each token of a text with the character at which it begins; spaces between tokens are passed over.

        Raises ValueError at the first character that belongs to no token, and for codes outside their codebooks.
        """
        pattern = re.compile(self._pattern())
        at = 0
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            match = pattern.match(text, at)
            if match is None:
                raise ValueError(f"text[{at}]: {text[at : at + 20]!r} begins with no token such as {self.all()[0]}")
            yield at, self._named(match, at)
            at = match.end()

    def _named(self, match: re.Match[str], at: int) -> TokenName:
        numbers = {name: int(value) for name, value in match.groupdict().items()}
        sizes = self.layout.codebook_sizes
        if "id" in numbers:
            number = numbers["id"]
            if number >= self.layout.vocabulary:
                raise ValueError(f"text[{at}]: {match[0]}, but there are {self.layout.vocabulary} ids")
            ends = list(accumulate(sizes))
            book = next(book for book, end in enumerate(ends) if number < end)
            return TokenName(book, number - ends[book] + sizes[book])
        name = TokenName(**numbers)
        if name.book >= len(sizes):
            raise ValueError(f"text[{at}]: {match[0]}, but there are {len(sizes)} codebooks")
        if name.code >= sizes[name.book]:
            raise ValueError(f"text[{at}]: {match[0]}, but codebook {name.book} has {sizes[name.book]} entries")
        return name

    def _pattern(self) -> str:
        parts = Formatter().parse(self.template)
        # at most nine digits: whole numbers of thousands of digits are slow to read
        return "".join(re.escape(text) + (f"(?P<{field}>[0-9]{{1,9}})" if field else "") for text, field, _, _ in parts)


def codes_to_text(codes: Tensor, layout: FlatLayout, *, template: str = TEMPLATE) -> str:
    """Write codes as text.

    Args:
        codes: [n_q, F].
        layout: the codebooks and the order of their codes.
        template: the name of a token, as `TokenNames` has it.

    Returns:
        The tokens, with nothing between them.

    Raises:
        ValueError: for codes outside their codebooks, and a template that could not be read back.

    Example:
        >>> codes_to_text(torch.tensor([[3, 4], [5, 6]]), FlatLayout((1024, 128)))
        '<a0_3><a1_5><a0_4><a1_6>'
        >>> codes_to_text(torch.tensor([[3, 4], [5, 6]]), FlatLayout((1024, 128), chunk=None), template="({id})")
        '(3)(4)(1029)(1030)'
    """
    names = TokenNames(layout, template).all()
    return "".join(names[number] for number in layout.encode(codes[None])[0].tolist())


def text_to_codes(text: str, layout: FlatLayout, *, template: str = TEMPLATE) -> Tensor:
    """Read codes from text, the inverse of `codes_to_text`; spaces between tokens do not matter.

    Args:
        text: tokens.
        layout: as they were written.
        template: as they were written.

    Returns:
        Codes int64 [n_q, F].

    Raises:
        ValueError: naming the character at which something is no token, a code that its codebook does not have, a
            token of a codebook whose turn it is not, or a last frame that is not complete.

    Example:
        >>> text_to_codes("<a0_3><a1_5> <a0_4><a1_6>", FlatLayout((1024, 128))).tolist()
        [[3, 4], [5, 6]]
    """
    found = list(TokenNames(layout, template).find(text))
    if not found or len(found) % layout.n_q:
        raise ValueError(f"text holds {len(found)} tokens: give a multiple of {layout.n_q}, one for each codebook")
    turns = layout.books(len(found) // layout.n_q).tolist()
    for (at, name), turn in zip(found, turns, strict=True):
        if name.book != turn:
            raise ValueError(f"text[{at}]: a token of codebook {name.book}, but it is the turn of codebook {turn}")
    offsets = [0, *accumulate(layout.codebook_sizes)]
    ids = torch.tensor([[offsets[name.book] + name.code for _, name in found]])
    return layout.decode(ids)[0]


class AudioVocabulary:
    """The ids that a text tokenizer has for codes; `add_audio_tokens` makes it.

    Attributes:
        layout: the codebooks and the order of their codes.
        ids: int64 [vocabulary], the text tokenizer's id of each of the layout's ids.

    Example:
        >>> vocabulary = AudioVocabulary(FlatLayout((4, 2)), torch.arange(100, 106))
        >>> ids = vocabulary.encode(torch.tensor([[3, 1], [0, 1]]))
        >>> ids.tolist()
        [103, 104, 101, 105]
        >>> vocabulary.decode(ids).tolist()
        [[3, 1], [0, 1]]
    """

    def __init__(self, layout: FlatLayout, ids: Tensor) -> None:
        self.layout = layout
        self.ids = ids
        self._order = ids.argsort()

    def encode(self, codes: Tensor) -> Tensor:
        """Turn codes [n_q, F] into the text tokenizer's ids [n_q * F]. Raises ValueError for invalid codes."""
        return self.ids[self.layout.encode(codes[None].cpu())[0]]

    def decode(self, ids: Tensor) -> Tensor:
        """Turn the text tokenizer's ids [n_q * F] into codes [n_q, F].

        Raises ValueError naming the position of an id that is no code, or not of the codebook whose turn it is.
        """
        if ids.dim() != 1:
            raise ValueError(f"ids have shape {list(ids.shape)}: give those of one clip, [n_q * frames]")
        ids = ids.cpu()
        place = torch.searchsorted(self.ids[self._order], ids).clamp(max=len(self.ids) - 1)
        flat = self._order[place]
        wrong = self.ids[flat] != ids
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            raise ValueError(f"ids[{at}]={int(ids[at])} is no code: its ids are {self._span()}")
        return self.layout.decode(flat[None])[0]

    def book_ids(self, book: int) -> Tensor:
        """Return the text tokenizer's ids of one codebook."""
        start = sum(self.layout.codebook_sizes[:book])
        return self.ids[start : start + self.layout.codebook_sizes[book]]

    def _span(self) -> str:
        return f"{int(self.ids.min())} to {int(self.ids.max())}"


def add_audio_tokens(tokenizer: Any, layout: FlatLayout, *, template: str = TEMPLATE) -> AudioVocabulary:
    """Add a token for every code to a tokenizer of Hugging Face, unless it has it.

    Afterwards the tokenizer reads the text of `codes_to_text` as one id for each code, and writes it. The model's
    embeddings must grow with it: `model.resize_token_embeddings(len(tokenizer))`.

    Args:
        tokenizer: any tokenizer of transformers; it is changed.
        layout: the codebooks and the order of their codes.
        template: the name of a token, as `TokenNames` has it.

    Returns:
        The new ids.

    Raises:
        ValueError: for a template that could not be read back, and a tokenizer that does not take its names.

    Example:
        >>> from transformers import AutoTokenizer  # doctest: +SKIP
        >>> text_tokenizer = AutoTokenizer.from_pretrained("any/model")  # doctest: +SKIP
        >>> vocabulary = add_audio_tokens(text_tokenizer, FlatLayout((1024, 128)))  # doctest: +SKIP
    """
    from tokenizers import AddedToken

    names = TokenNames(layout, template).all()
    # not special: `skip_special_tokens` leaves them in; not normalized: lower-casing tokenizers leave them alone
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in names])
    ids = tokenizer.convert_tokens_to_ids(names)
    unknown = [name for name, number in zip(names, ids, strict=True) if number is None]
    if unknown or len(set(ids)) != len(names):
        raise ValueError(f"template={template!r}: this tokenizer does not tell its names apart; give another template")
    return AudioVocabulary(layout, torch.tensor(ids))

"""A pretrained language model of transformers: read from safetensors, without code of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mimotok.weights import require_source
from train.stages.text import HuggingFaceTokenizer
from train.stages.text_decoder.base import Writing


class LanguageModel(Protocol):
    """A language model that audio comes before.

    Attributes:
        lm: the model of transformers.
        width: of the audio that it takes.
        bos: the id that comes first; None is the tokenizer's.
    """

    lm: Any
    width: int
    bos: int | None

    def room(self, lengths: Tensor) -> Tensor | None:
        """Return how many ids have positions beside audio of lengths [B], as [B]; None where all have."""

    def logits(self, audio: Tensor, lengths: Tensor, ids: Tensor) -> Tensor:
        """Return logits after each id, [B, N, V].

        Args:
            audio: [B, P, width].
            lengths: [B], valid positions of the audio.
            ids: [B, N].
        """

    def start_writing(self, audio: Tensor, lengths: Tensor, start: Tensor) -> Writing:
        """Begin transcripts of the audio; start, [B, N], are the ids before each."""


class Pretrained(NamedTuple):
    """A model in fp32, its tokenizer, and the dtype of its file."""

    model: Any
    tokenizer: HuggingFaceTokenizer
    dtype: torch.dtype


def load_language_model(name: str) -> Pretrained:
    """Load a causal LM, or of a Whisper the decoder, with its tokenizer.

    Args:
        name: folder, or hub id.

    Raises:
        ValueError: where there is none, or where its weights are no safetensors.
    """
    try:
        pretrained = _load(name)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"text_decoder.pretrained={name}: no language model with safetensors ({problem:.300})"
        ) from error
    return pretrained


@contextmanager
def quiet_transformers(*, bars: bool) -> Iterator[None]:
    """Keep transformers from warning, and without `bars` from drawing progress bars."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()


def _load(name: str) -> Pretrained:
    from transformers import AutoConfig, AutoModelForCausalLM, WhisperForCausalLM

    from train.stages.text_decoder.causal import CausalModel
    from train.stages.text_decoder.whisper import WhisperModel

    require_source(name)
    config: Any = AutoConfig.from_pretrained(name, trust_remote_code=False)
    whisper = config.model_type == "whisper"
    kind: Any = WhisperForCausalLM if whisper else AutoModelForCausalLM
    # a bar is for a download; what transformers tells about weights would be of Whisper's encoder, which is not wanted
    with quiet_transformers(bars=not Path(name).is_dir()):
        lm, report = kind.from_pretrained(
            name,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="sdpa",
            dtype=torch.float32,
            output_loading_info=True,
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"its file lacks {len(missing)} weights, such as {missing[0]}")
    tokenizer = HuggingFaceTokenizer(name)
    vocabulary = lm.get_input_embeddings().num_embeddings
    if tokenizer.size > vocabulary:
        raise ValueError(f"its tokenizer has {tokenizer.size} ids, but the model embeds {vocabulary}")
    return Pretrained(WhisperModel(lm) if whisper else CausalModel(lm), tokenizer, config.dtype or torch.float32)

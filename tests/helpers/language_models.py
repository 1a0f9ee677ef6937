"""Tiny language models with random weights, in the folders that transformers reads: a letter is a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

LETTERS = ["[end]", "[start]", "[pad]", "<|en|>", *"abcdefghijklmnopqrstuvwxyz "]
KINDS = ("llama", "gpt2", "whisper")


def make_language_model(kind: str, folder: Path, *, safetensors: bool = True, dtype: str = "float32") -> Path:
    """Write a model of KINDS with its tokenizer into `folder`.

    Llama ties embeddings and has dropout, GPT-2 has 64 positions, Whisper 24 for text.
    """
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    lm = _model(kind).to(getattr(torch, dtype))
    if safetensors:
        lm.save_pretrained(folder)
    else:
        lm.config.save_pretrained(folder)
        torch.save(lm.state_dict(), folder / "pytorch_model.bin")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={x: i for i, x in enumerate(LETTERS)}, merges=[]))
    inner.decoder = tokenizers.decoders.Fuse()
    special: dict[str, Any] = {"bos_token": "[start]", "eos_token": "[end]", "pad_token": "[pad]"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=inner, additional_special_tokens=["<|en|>"], **special)
    wrapped.save_pretrained(folder)
    return folder


def _model(kind: str) -> Any:
    import transformers

    size: dict[str, Any] = {"vocab_size": len(LETTERS), "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 2}
    if kind == "llama":
        size |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        size |= {"initializer_range": 0.15, "tie_word_embeddings": True, "attention_dropout": 0.2}
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**size))
    if kind == "gpt2":
        size |= {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.15}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**size))
    size |= {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 64}
    size |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_target_positions": 24, "dropout": 0.2}
    size |= {"max_source_positions": 20, "init_std": 0.15, "decoder_start_token_id": 1, "begin_suppress_tokens": None}
    return transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**size))

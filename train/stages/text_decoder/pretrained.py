"""A text decoder that starts from a pretrained language model, as those of Borealis and Voxtral do.

An adapter, Linear-GELU-Linear on stacked frames, makes the audio that the language model reads: a causal LM as
a prefix of embeddings, the decoder of a Whisper by its cross-attention. The loss is the published one, of a model that
can already spell.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mimotok.fields import check_fields, flag, number, whole
from mimotok.model.lengths import frames_needed
from mimotok.weights import Sizes
from train.stages.optim import OptimizerConfig, parameter_groups
from train.stages.text_decoder.base import AudioToText, Stacked, TextLosses, Writing, check_texts, text_loss
from train.stages.text_decoder.folders import write_folder
from train.stages.text_decoder.language_model import LanguageModel, load_language_model, quiet_transformers

LM_FOLDER = "lm"
# Where the adapter shows what the configuration says.
SIZES = Sizes({"stack * d_model": ("adapter.0.weight", 1, 0)}, {})


@dataclass(frozen=True)
class PretrainedTextDecoderConfig:
    """A pretrained language model, and how audio comes to it.

    Attributes:
        pretrained: hub id or folder of a causal LM or a Whisper, whose weights are safetensors.
        tune: train it, too; otherwise it is frozen, and only the adapter learns.
        stack: audio frames that are joined into one position of audio.
        normalize: learn lower-case text without punctuation, where sources disagree on how they write.
        prompt: what comes between audio and transcript, special tokens by their names: a multilingual Whisper is used
            to "<|en|><|transcribe|><|notimestamps|>", an English one to "<|notimestamps|>".
        lr: learning rate of a tuned language model, by AdamW; the adapter has that of the optimizer.
    """

    pretrained: str
    tune: bool = flag(False)
    stack: int = whole(4, 1, 64)
    normalize: bool = flag(False)
    prompt: str = ""
    lr: float = number(2e-5, 1e-9, 1.0)

    def __post_init__(self) -> None:
        check_fields(self)


class PretrainedTextDecoder(AudioToText):
    """An adapter and a pretrained language model.

    A frozen language model is no part of this module: it has no gradients, no optimizer state and no dropout, and is in
    no checkpoint of a run, which reads it again from where it was. `save` writes it beside the adapter.
    """

    fingerprint: Tensor

    def __init__(self, d_model: int, config: PretrainedTextDecoderConfig) -> None:
        """Build an adapter of random weights for quantized vectors of width `d_model`, and load the language model."""
        super().__init__()
        self.d_model = d_model
        self.config = config
        model, self.tokenizer, self.dtype = load_language_model(config.pretrained)
        if model.bos is not None:
            self.tokenizer.bos = model.bos
        self.start = [self.tokenizer.bos, *self.tokenizer.encode(config.prompt)]
        self.adapter = nn.Sequential(
            nn.Linear(config.stack * d_model, model.width), nn.GELU(), nn.Linear(model.width, model.width)
        )
        self._frozen: dict[str, LanguageModel] = {}
        if config.tune:
            # transformers loads models in eval mode
            self.tuned = model.train()
        else:
            # in a dict, torch does not take it for a part
            self._frozen["model"] = model.eval().requires_grad_(False)
            self.register_buffer("fingerprint", fingerprint(model))

    def forward(self, quantized: Tensor, lengths: Tensor, texts: Sequence[str]) -> TextLosses:
        """Compute the cross-entropy of the next token (eq. 1). See `AudioToText`.

        The part of a text that the language model has no positions for is not learned.
        """
        check_texts(texts, quantized)
        model = self.language_model(quantized.device)
        audio = self._adapt(quantized, lengths)
        tokens = self.tokenize(texts, self.start, self._room(audio.lengths))
        ids, labels = (x.to(quantized.device) for x in tokens)
        return TextLosses(text_loss(model.logits(*audio, ids), labels), None)

    def start_writing(self, quantized: Tensor, lengths: Tensor) -> Writing:
        """Begin transcripts. See `AudioToText`."""
        start = torch.tensor(self.start, device=quantized.device).expand(len(quantized), -1)
        return self.language_model(quantized.device).start_writing(*self._adapt(quantized, lengths), start)

    def longest_transcripts(self, lengths: Tensor) -> Tensor:
        """Return after how many tokens greedy search stops: also where the positions end. See `AudioToText`."""
        limits = super().longest_transcripts(lengths)
        room = self._room(frames_needed(lengths, self.config.stack))
        return limits if room is None else torch.minimum(limits, room - len(self.start) + 1)

    def language_model(self, device: torch.device | str) -> LanguageModel:
        """Return the language model, on `device` where it is frozen."""
        if self.config.tune:
            return cast(LanguageModel, self.tuned)
        # moved in a validation, its weights would otherwise be of no use for gradients
        with torch.inference_mode(False):
            return self._frozen["model"].to(device)  # type: ignore[attr-defined]

    def parameter_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """Return those of the adapter, and of a tuned language model, which AdamW trains at a rate of its own."""
        groups = parameter_groups(self.adapter, config)
        if not self.config.tune:
            return groups
        tuned = parameter_groups(self.tuned, replace(config, muon=False))
        return groups + [group | {"lr": self.config.lr} for group in tuned]

    def save(self, folder: Path | str) -> None:
        """Write config.json, model.safetensors with the adapter, and the language model with its tokenizer into lm/.

        A frozen language model has the dtype of its source there, so that it stays what it was.
        """
        folder = Path(folder)
        lm = self.language_model("cpu").lm
        if not self.config.tune and lm.dtype != self.dtype:
            # a copy: converted there and back, buffers that are in no file, such as RoPE's frequencies, lose precision
            lm = copy.deepcopy(lm).to(self.dtype)
        with quiet_transformers(bars=False):
            lm.save_pretrained(folder / LM_FOLDER)
        self.tokenizer.save(folder / LM_FOLDER)
        state = {name: tensor for name, tensor in self.state_dict().items() if name.startswith("adapter.")}
        write_folder(folder, {"d_model": self.d_model, **asdict(self.config), "pretrained": LM_FOLDER}, state)

    def _room(self, lengths: Tensor) -> Tensor | None:
        """Return `LanguageModel.room`. Raises ValueError where audio of lengths [B] leaves too little to begin."""
        room = self.language_model(lengths.device).room(lengths)
        if room is not None and int(room.min()) < len(self.start):
            raise ValueError(
                f"{int(lengths.max())} positions of audio leave this language model {int(room.min())} for text, which "
                f"takes {len(self.start)} to begin: raise text_decoder.stack, or lower data.max_seconds"
            )
        return room

    def _adapt(self, quantized: Tensor, lengths: Tensor) -> Stacked:
        """Return the audio as the language model takes it, [B, P, width], and its lengths [B]."""
        stacked = self.stack_frames(quantized, lengths)
        return Stacked(self.adapter(stacked.frames), stacked.lengths)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Refuse an adapter that learned with another language model. Called by torch."""
        saved = state_dict.get(f"{prefix}fingerprint")
        if not self.config.tune and saved is not None and not torch.equal(saved.cpu(), self.fingerprint.cpu()):
            raise ValueError(
                f"text_decoder.pretrained={self.config.pretrained}: not the language model that this text decoder was "
                "trained with; give the same, or start a new run"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def fingerprint(model: nn.Module) -> Tensor:
    """Return 16 bytes, uint8, that tell the weights of one model from those of another."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.flatten()[:64].float().numpy().tobytes())
    return torch.tensor(list(digest.digest()[:16]), dtype=torch.uint8)

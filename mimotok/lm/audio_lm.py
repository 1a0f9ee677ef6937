"""Any causal language model as one that reads and writes audio: patches in, patches out (MiMo-Audio, section 2.2).

    lm = AutoModelForCausalLM.from_pretrained(...)     # or any model with the methods that `AudioLM` names
    lm.resize_token_embeddings(len(tokenizer) + 3)
    model = AudioLM(lm, PatchConfig.published(), SpecialIds(n, n + 1, n + 2))

The sequences are those of `mimotok.lm.interleaving`. transformers' Trainer takes the model as it is:

    Trainer(model, args, train_dataset=positions, data_collator=PositionsCollator(codebook_sizes))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.io.files import StrPath
from mimotok.lm.interleaving import InterleavedLayout, Positions, SpecialIds
from mimotok.lm.kv_cache import cache_name
from mimotok.lm.lm_folder import read_folder, write_folder
from mimotok.lm.patches import CodeEmbedding, PatchConfig, PatchDecoder, PatchEncoder
from mimotok.lm.sampling import PLAIN, Generators, Sampling, sample
from mimotok.lm.script import Script
from mimotok.model.lengths import checked_lengths, valid_mask


class Sequences(NamedTuple):
    """A padded batch of `Positions`. text: [B, T]; patches: [B, T, n_q, size]; lengths: [B] positions."""

    text: Tensor
    patches: Tensor
    lengths: Tensor


class AudioLosses(NamedTuple):
    """Cross-entropies in nats.

    loss: text and the mean of audio, scalar, which trainers minimise; text: per next text id, scalar; audio: per code
    of the next patch and channel, [n_q].
    """

    loss: Tensor
    text: Tensor
    audio: Tensor


def pad_sequences(positions: Sequence[Positions], codebook_sizes: Sequence[int]) -> Sequences:
    """Pad sequences to one length with text id 0 and empty patches, which are masked out of the model."""
    lengths = torch.tensor([len(each.text) for each in positions])
    size = int(lengths.max())
    frames = positions[0].patches.shape[2]
    text = torch.zeros(len(positions), size, dtype=torch.int64)
    patches = torch.tensor(codebook_sizes)[:, None].repeat(len(positions), size, 1, frames)
    for row, each in enumerate(positions):
        text[row, : len(each.text)] = each.text
        patches[row, : len(each.text)] = each.patches
    return Sequences(text, patches, lengths)


@dataclass(frozen=True)
class PositionsCollator:
    """Sequences to a batch, as the `collate_fn` of a DataLoader or the `data_collator` of transformers' Trainer.

    Attributes:
        codebook_sizes: of the channels.

    Example:
        >>> from mimotok.lm import InterleavedLayout, SpecialIds
        >>> layout = InterleavedLayout((8, 8), SpecialIds(audio=20, start=21, end=22))
        >>> sequence = layout.encode([torch.tensor([3, 4]), torch.zeros(2, 9, dtype=torch.int64)])
        >>> batch = PositionsCollator((8, 8))([sequence, layout.encode([torch.tensor([3])])])
        >>> {name: list(tensor.shape) for name, tensor in batch.items()}
        {'text': [2, 7], 'patches': [2, 7, 2, 4], 'lengths': [2]}
    """

    codebook_sizes: tuple[int, ...]

    def __call__(self, positions: Sequence[Positions]) -> dict[str, Tensor]:
        """Return the arguments of `AudioLM.forward`."""
        return pad_sequences(positions, self.codebook_sizes)._asdict()


class AudioLM(nn.Module):
    """A causal LM with a PatchEncoder before it and a PatchDecoder after it.

    lm: a Hugging Face causal LM, or what has its `base_model` (called with inputs_embeds, past_key_values, use_cache;
    gives last_hidden_state and past_key_values), `get_input_embeddings()` and `get_output_embeddings()`.
    special: text ids that the LM must have embeddings for.
    """

    def __init__(self, lm: Any, config: PatchConfig, special: SpecialIds) -> None:
        super().__init__()
        vocabulary, dim = lm.get_input_embeddings().weight.shape
        if not 0 <= min(special) <= max(special) < vocabulary or len(set(special)) != len(special):
            raise ValueError(f"{special}, but the LM has {vocabulary} ids: give three of them, enlarging it if need be")
        self.lm = lm
        self.patch_config = config
        self.special = special
        self.layout = InterleavedLayout(config.codebook_sizes, special, config.patch_size)
        embedding = CodeEmbedding(config.codebook_sizes, config.dim)
        self.patch_encoder = PatchEncoder(config, dim, embedding)
        self.patch_decoder = PatchDecoder(config, dim, embedding)
        self.register_state_dict_post_hook(_without_copies)
        self.register_load_state_dict_pre_hook(_with_copies)

    @property
    def config(self) -> Any:
        """The language model's configuration, which trainers read and set; `patch_config` is that of the patches."""
        return self.lm.config

    def save_pretrained(self, folder: StrPath) -> None:
        """Write a folder that `from_pretrained` reads: the LM as transformers saves it, and the patch modules.

        Raises ValueError for an LM that is not of transformers: save the `state_dict` of that.
        """
        patches = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("lm.")}
        write_folder(Path(folder), self.lm, self.patch_config, self.special, patches)

    @classmethod
    def from_pretrained(cls, folder: StrPath, **options: Any) -> AudioLM:
        """Load what `save_pretrained` wrote, in evaluation mode.

        options: of transformers' `AutoModelForCausalLM.from_pretrained`. Raises ValueError where the folder is another.
        """
        saved = read_folder(Path(folder), options)
        model = cls(saved.lm, saved.config, saved.special)
        problems = model.load_state_dict(saved.patches, strict=False)
        missing = [name for name in problems.missing_keys if not name.startswith("lm.")]
        if missing or problems.unexpected_keys:
            raise ValueError(f"{folder}: missing {missing[:3]}, unexpected {problems.unexpected_keys[:3]}; save again")
        return model.eval()

    def forward(
        self,
        text: Tensor | Sequences,
        patches: Tensor | None = None,
        lengths: Tensor | None = None,
        return_loss: bool = True,
    ) -> AudioLosses:
        """Compute the losses of predicting each position from those before it.

        Args:
            text: [B, T] ids, or all of a batch as `Sequences`.
            patches: [B, T, n_q, size].
            lengths: [B] positions; all of T where None.
            return_loss: True, by which transformers' Trainer knows that there is a loss in evaluation too.

        Returns:
            The losses, the one to minimise first.

        Raises:
            ValueError: for lengths outside 1 to T, text without patches, and return_loss=False.
        """
        if isinstance(text, Sequences):
            text, patches, lengths = text
        if patches is None or not return_loss:
            raise ValueError(f"patches={patches}, return_loss={return_loss}: give patches, and leave return_loss True")
        if lengths is None:
            lengths = torch.full((text.shape[0],), text.shape[1], device=text.device)
        lengths = checked_lengths(lengths, text, "positions")
        # the padding is on the right, where causal attention hides it without a mask
        hidden = self.lm.base_model(inputs_embeds=self.embed(text, patches), use_cache=False).last_hidden_state[:, :-1]
        following = text[:, 1:]
        valid = valid_mask(lengths - 1, text.shape[1] - 1)
        logits = self.lm.get_output_embeddings()(hidden[valid])
        text_loss = F.cross_entropy(logits.float(), following[valid])
        audio = valid & (following == self.special.audio)
        audio_loss = self.patch_decoder.loss(self._for_patches(hidden[audio]), patches[:, 1:][audio])
        return AudioLosses(text_loss + audio_loss.mean(), text_loss, audio_loss)

    def embed(self, text: Tensor, patches: Tensor) -> Tensor:
        """text: [B, T], patches: [B, T, n_q, size] -> what the LM is given, [B, T, dim]."""
        embedded = self.lm.get_input_embeddings()(text)
        audio = text == self.special.audio
        encoded = torch.zeros_like(embedded)
        encoded[audio] = self.patch_encoder(patches[audio]).to(embedded.dtype)
        return embedded + encoded

    def _for_patches(self, hidden: Tensor) -> Tensor:
        # an LM that was loaded in half precision, with patch modules in full
        return hidden.to(self.patch_decoder.projection.weight.dtype)

    @overload
    def generate(
        self,
        prompt: Positions,
        *,
        limit: int,
        script: Sequence[Sequence[int]] | None = None,
        stop_id: int | None = None,
        text_sampling: Sampling = PLAIN,
        audio_sampling: Sampling | Sequence[Sampling] = PLAIN,
        generator: Generators = None,
    ) -> Positions: ...
    @overload
    def generate(
        self,
        prompt: list[Positions],
        *,
        limit: int,
        script: Sequence[Sequence[Sequence[int]]] | None = None,
        stop_id: int | None = None,
        text_sampling: Sampling = PLAIN,
        audio_sampling: Sampling | Sequence[Sampling] = PLAIN,
        generator: Generators = None,
    ) -> list[Positions]: ...
    @torch.no_grad()
    def generate(
        self,
        prompt: Positions | list[Positions],
        *,
        limit: int,
        script: Sequence[Any] | None = None,
        stop_id: int | None = None,
        text_sampling: Sampling = PLAIN,
        audio_sampling: Sampling | Sequence[Sampling] = PLAIN,
        generator: Generators = None,
    ) -> Positions | list[Positions]:
        """Continue prompts by up to `limit` positions each, up to and with the first `stop_id`.

        Text and audio alternate as `InterleavedLayout.decode` wants it: audio that the limit cuts off is ended
        by one more position.

        Args:
            prompt: one, or a list of any lengths; all begin together, and a longer one is read while the shorter ones
                are continued, so that nothing is padded and each gives what it gives alone.
            limit: positions, at least 1.
            script: what a prompt is to say, as units of text ids, or that of each of a list of prompts. The model takes
                unit by unit and speaks in between (see `Script`), and the sequence ends with its last speech.
            stop_id: the text id that ends a sequence which has no script.
            text_sampling: of text ids.
            audio_sampling: of codes, for all channels or one for each.
            generator: for all, or one for each prompt: only then is a prompt's result the same in every batch.

        Returns:
            The prompt and what was written, or a list of them.

        Raises:
            ValueError: for a prompt or a limit of 0 positions, a script that is empty, has an id which is no text or
                stands beside a stop_id, and another number of generators or scripts than prompts.
        """
        prompts = [prompt] if isinstance(prompt, Positions) else prompt
        shortest = min((len(each.text) for each in prompts), default=0)
        if limit < 1 or not shortest:
            raise ValueError(f"limit={limit}, and a prompt of {shortest} positions: give at least 1 of each")
        generators = generator
        if isinstance(prompt, Positions) and isinstance(generator, torch.Generator):
            generators = [generator]
        if isinstance(generators, Sequence) and len(generators) != len(prompts):
            raise ValueError(f"{len(generators)} generators for {len(prompts)} prompts: give one, or one for each")
        scripts = [script] if isinstance(prompt, Positions) and script is not None else script
        if scripts is not None and len(scripts) != len(prompts):
            raise ValueError(f"{len(scripts)} scripts for {len(prompts)} prompts: give one for each")
        if scripts is not None and stop_id is not None:
            raise ValueError(f"stop_id={stop_id}: a sequence with a script ends with what it says; give one of the two")
        rows = [_Row(list(each.text), list(each.patches), limit) for each in prompts]
        for row, units in zip(rows, scripts or [], strict=False):
            row.script = Script(units, self.special, self.lm.get_output_embeddings().weight.shape[0])
        device = prompts[0].text.device
        text = torch.stack([each.text[:shortest] for each in prompts])
        patches = torch.stack([each.patches[:shortest] for each in prompts])
        name = cache_name(self.lm.base_model)
        cache = None
        read = shortest
        while True:
            embeds = self.embed(text, patches)
            output = self.lm.base_model(inputs_embeds=embeds, use_cache=True, **{name: cache})
            cache = getattr(output, name)
            writing = [number for number, row in enumerate(rows) if len(row.text) == read and row.remaining]
            if writing:
                hidden = output.last_hidden_state[writing, -1]
                own = [generators[number] for number in writing] if isinstance(generators, Sequence) else generators
                written = self._next(hidden, [rows[n] for n in writing], text_sampling, audio_sampling, own)
                for number, new_text, new_patch in zip(writing, *written, strict=True):
                    rows[number].write(new_text, new_patch, self._stop_id(rows[number], stop_id))
            if not any(row.remaining for row in rows):
                break
            text = torch.stack([row.text[min(read, len(row.text) - 1)] for row in rows])[:, None]
            patches = torch.stack([row.patches[min(read, len(row.text) - 1)] for row in rows])[:, None]
            read += 1
        empty = self.layout.empty_patches(1, device)
        results = [row.result(self.special, empty) for row in rows]
        return results[0] if isinstance(prompt, Positions) else results

    def _next(
        self,
        hidden: Tensor,
        rows: Sequence[_Row],
        text_sampling: Sampling,
        audio_sampling: Sampling | Sequence[Sampling],
        generators: Generators,
    ) -> tuple[Tensor, Tensor]:
        """hidden: [N, dim]. Returns the next text ids [N] and patches [N, n_q, size] of the rows."""
        grammar = torch.stack([self._grammar(int(row.text[-1]), row.remaining, hidden.device) for row in rows])
        logits = self.lm.get_output_embeddings()(hidden).float()
        text = sample(logits + grammar, text_sampling, generators)
        for number, row in enumerate(rows):
            forced = row.script.follow(int(row.text[-1]), logits[number]) if row.script else None
            if forced is not None:
                text[number] = forced
        patches = self.layout.empty_patches(len(rows), hidden.device)
        audio = (text == self.special.audio).nonzero().flatten()
        if len(audio):
            own = [generators[number] for number in audio.tolist()] if isinstance(generators, Sequence) else generators
            state = self._for_patches(hidden[audio])
            patches[audio] = self.patch_decoder.generate(state, sampling=audio_sampling, generator=own)
        return text, patches

    def _stop_id(self, row: _Row, stop_id: int | None) -> int | None:
        if row.script is None:
            return stop_id
        return self.special.end if row.script.said else None

    def _grammar(self, last: int, remaining: int, device: torch.device) -> Tensor:
        """Return what is added to the logits, [ids]: -inf for a text id that may not follow `last`."""
        audio, start, end = self.special
        mask = torch.zeros(self.lm.get_output_embeddings().weight.shape[0], device=device)
        if last in (start, audio):
            mask.fill_(float("-inf"))
            mask[audio] = 0.0
            mask[end] = 0.0 if last == audio else float("-inf")
        else:
            mask[[audio, end]] = float("-inf")
            # an audio that begins with the last position could not hold a patch
            mask[start] = float("-inf") if remaining == 1 else 0.0
        return mask


@dataclass
class _Row:
    """One sequence of a batch that is generated: its prompt, then what is written; `remaining` positions may follow."""

    text: list[Tensor]
    patches: list[Tensor]
    remaining: int
    script: Script | None = None

    def write(self, text: Tensor, patch: Tensor, stop_id: int | None) -> None:
        """Append a position."""
        self.text.append(text)
        self.patches.append(patch)
        self.remaining -= 1
        if int(text) == stop_id:
            self.remaining = 0

    def result(self, special: SpecialIds, empty: Tensor) -> Positions:
        """Return all positions, with an end of audio that the limit has cut off. empty: a patch, [1, n_q, size]."""
        # speech that a script begins with the last position holds no patch
        size = len(self.text) - int(int(self.text[-1]) == special.start)
        text = torch.stack(self.text[:size])
        patches = torch.stack(self.patches[:size])
        if int(text[-1]) != special.audio:
            return Positions(text, patches)
        return Positions(torch.cat((text, text.new_tensor([special.end]))), torch.cat((patches, empty)))


def _copies(module: nn.Module) -> dict[str, str]:
    """Return the names of parameters that are also called otherwise, each with its first name."""
    first: dict[int, str] = {}
    copies = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if known != name:
            copies[name] = known
    return copies


def _without_copies(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    # safetensors, and with it transformers' Trainer, refuses a tensor under two names
    for name in _copies(module):
        state.pop(prefix + name, None)


def _with_copies(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name, known in _copies(module).items():
        if prefix + known in state:
            state.setdefault(prefix + name, state[prefix + known])

"""The speaker model of Seed-TTS-Eval: an ECAPA-TDNN on weighted layers of WavLM-large.

WavLM: Chen et al. 2022 (arXiv 2110.13900); ECAPA-TDNN: Desplanques et al. 2020 (arXiv 2005.07143). The weights are
Microsoft's `wavlm_large_finetune.pth`, which its users fetch themselves. WavLM itself comes from transformers; its keys
and the head's are renamed from the names in that file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import WavLMConfig

# names in the file -> names here, in this order
WAVLM_KEYS = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^encoder\.pos_conv\.0\.weight_g$", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"^encoder\.pos_conv\.0\.weight_v$", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.grep_linear\.", ".attention.gru_rel_pos_linear."),
    (r"\.self_attn\.grep_a$", ".attention.gru_rel_pos_const"),
    (r"\.self_attn\.relative_attention_bias\.", ".attention.rel_attn_embed."),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)
HEAD_KEYS = (
    (r"^layer1\.", "stem."),
    (r"^layer([234])\.", lambda match: f"blocks.{int(match[1]) - 2}."),
    (r"\.Conv1dReluBn1\.", ".enter."),
    (r"\.Conv1dReluBn2\.", ".leave."),
    (r"\.Res2Conv1dReluBn\.", ".scales."),
    (r"\.SE_Connect\.", ".gate."),
    (r"^conv\.", "join."),
    (r"^pooling\.linear1\.", "attend.0."),
    (r"^pooling\.linear2\.", "attend.2."),
)
BACKBONE = "feature_extract.model."
SCALE = 8


def load_wavlm_ecapa(path: Path, config: WavLMConfig | None = None) -> WavlmEcapa:
    """Read `wavlm_large_finetune.pth`, as tensors only.

    Args:
        path: the file.
        config: shape of the WavLM in it, the large one unless given.

    Raises:
        ValueError: the file is missing, holds more than tensors, or lacks some that the model needs.
    """
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # torch raises various errors for what is not a pickle
        raise ValueError(f"{path}: no checkpoint of tensors ({type(error).__name__})") from None
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: no checkpoint of tensors")
    state = renamed(loaded.get("model", loaded))
    model = WavlmEcapa(config or wavlm_large())
    missing = [key for key in model.state_dict() if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"{path}: lacks {len(missing)} tensors of the speaker model, {missing[0]} among them")
    # its training also left a classifier there
    model.load_state_dict({key: state[key] for key in model.state_dict() if key in state}, strict=False)
    return model.eval()


def wavlm_large() -> WavLMConfig:
    """Make the configuration of WavLM-large."""
    try:
        from transformers import WavLMConfig
    except ImportError as error:
        raise ImportError("SIM by WavLM + ECAPA needs: pip install 'mimotok[hf]'") from error

    return WavLMConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the file to the names in this module."""
    result = {}
    for key, tensor in state.items():
        if key.startswith(BACKBONE):
            result["backbone." + _substituted(key.removeprefix(BACKBONE), WAVLM_KEYS)] = tensor
        else:
            result[_substituted(key, HEAD_KEYS)] = tensor
    return result


def _substituted(key: str, patterns: tuple[tuple[str, Any], ...]) -> str:
    for pattern, replacement in patterns:
        key = re.sub(pattern, replacement, key)
    return key


class WavlmEcapa(nn.Module):
    """An ECAPA-TDNN on the weighted layers of a WavLM."""

    def __init__(self, config: WavLMConfig, channels: int = 512, joined: int = 1536, embedding: int = 256) -> None:
        """Make a model of random weights; config: shape of the WavLM; the others are widths of the head."""
        from transformers import WavLMModel

        super().__init__()
        width = config.hidden_size
        self.backbone = WavLMModel(config)
        self.feature_weight = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        self.stem = _ConvNorm(width, channels, kernel=5, padding=2)
        self.blocks = nn.ModuleList(_Block(channels, dilation) for dilation in (2, 3, 4))
        self.join = nn.Conv1d(3 * channels, joined, 1)
        self.attend = nn.Sequential(nn.Conv1d(joined, 128, 1), nn.Tanh(), nn.Conv1d(128, joined, 1))
        self.bn = nn.BatchNorm1d(2 * joined)
        self.linear = nn.Linear(2 * joined, embedding)

    def forward(self, wav: Tensor) -> Tensor:
        """Embed voices.

        Args:
            wav: float32 [B, T] at 16 kHz.

        Returns:
            Speaker embeddings [B, embedding].
        """
        # WavLM-large was trained on waveforms of zero mean and unit variance
        wav = F.layer_norm(wav, wav.shape[1:])
        layers = torch.stack(self.backbone(wav, output_hidden_states=True).hidden_states)
        features = (self.feature_weight.softmax(0)[:, None, None, None] * layers).sum(0).transpose(1, 2)
        hidden = self.stem(F.instance_norm(features + 1e-6))
        outputs = []
        for block in self.blocks:
            hidden = block(hidden)
            outputs.append(hidden)
        frames = F.relu(self.join(torch.cat(outputs, 1)))
        weights = self.attend(frames).softmax(2)
        mean = (weights * frames).sum(2)
        deviation = ((weights * frames**2).sum(2) - mean**2).clamp(min=1e-9).sqrt()
        return self.linear(self.bn(torch.cat([mean, deviation], 1)))


class _ConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, kernel: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, padding=padding)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.relu(self.conv(x)))


class _Scales(nn.Module):
    """Res2Net: each slice of channels also receives the result of the slice before it; the last passes unchanged."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        width = channels // SCALE
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation) for _ in range(SCALE - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(SCALE - 1))

    def forward(self, x: Tensor) -> Tensor:
        *slices, last = x.chunk(SCALE, 1)
        outputs: list[Tensor] = []
        for part, conv, norm in zip(slices, self.convs, self.bns, strict=True):
            outputs.append(norm(F.relu(conv(outputs[-1] + part if outputs else part))))
        return torch.cat([*outputs, last], 1)


class _Gate(nn.Module):
    """Squeeze and excitation: channels are weighted by their means over the whole clip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, 128)
        self.linear2 = nn.Linear(128, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.linear2(F.relu(self.linear1(x.mean(2)))).sigmoid()[:, :, None]


class _Block(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.enter = _ConvNorm(channels, channels)
        self.scales = _Scales(channels, dilation)
        self.leave = _ConvNorm(channels, channels)
        self.gate = _Gate(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate(self.leave(self.scales(self.enter(x))))

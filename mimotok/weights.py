"""Checkpoint folders: the official key map, safetensors in and out, a local folder or a hub repository."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mimotok.config import TokenizerConfig
from mimotok.io.files import atomic_path
from mimotok.model.mel import hann_window

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
# What transformers reads to find the feature extractor (mimotok.hf); official folders have none.
PREPROCESSOR_NAME = "preprocessor_config.json"
# The official modules are wrappers around the library that trained them; the tensors are the same.
OFFICIAL_CODEBOOKS = ("encoder.quantizer.vq.layers.", "._codebook.")
OUR_CODEBOOKS = ("encoder.quantizer.layers.", ".")
# A constant that the official file stores; ours is computed.
WINDOW_KEY = "decoder.vocoder.head.istft.window"


def official_key(name: str) -> str:
    """The official checkpoint's name for the parameter or buffer `name` of Tokenizer."""
    if not name.startswith(OUR_CODEBOOKS[0]):
        return name
    index, field = name.removeprefix(OUR_CODEBOOKS[0]).split(OUR_CODEBOOKS[1], 1)
    return f"{OFFICIAL_CODEBOOKS[0]}{index}{OFFICIAL_CODEBOOKS[1]}{field}"


def embedded_folder() -> Path:
    """The embedded checkpoint's folder, in a source checkout or an installed wheel."""
    package = Path(__file__).parent
    for folder in (package / "checkpoints" / "default", package.parent / "checkpoints" / "default"):
        if (folder / CONFIG_NAME).is_file():
            return folder
    raise ValueError("the embedded checkpoint is missing from this installation: pass a folder or a hub id")


def resolve_folder(source: str | Path | None, revision: str | None) -> Path:
    """The local folder of a checkpoint: embedded (None), a folder, or a hub id fetched at `revision`.

    Raises ValueError where there is none, saying what was looked for.
    """
    if source is None:
        return embedded_folder()
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.exists() or len(folder.parts) != 2 or folder.is_absolute() or ".." in folder.parts:
        raise ValueError(f"{source}: neither a folder nor a hub id such as owner/name")
    return _fetch(str(source), revision)


def _fetch(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME]))
    except Exception as error:  # the client raises many types: offline, unknown id, no access, full disk
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{repo}: no such folder, and the hub did not give it ({reason})") from None


def load_state(folder: Path, model: nn.Module, *, device: torch.device, dtype: torch.dtype) -> None:
    """Fills `model`, which may be on the meta device, from the folder's safetensors, tensor by tensor.

    Floating tensors become `dtype`, except codebooks, which stay fp32. Raises ValueError naming every missing,
    unexpected and mis-shaped tensor.
    """
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise ValueError(f"{folder}: has no {WEIGHTS_NAME} (pickled weights are not read: convert them)")
    wanted = {official_key(name): (name, tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    state = {}
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            _check_tensors(path, {key: tuple(tensor.shape) for key, (_, tensor) in wanted.items()}, shapes)
            for key, (name, _) in wanted.items():
                kept = torch.float32 if name.startswith(OUR_CODEBOOKS[0]) else dtype
                state[name] = file.get_tensor(key).to(kept)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    model.load_state_dict(state, assign=True)


def _check_tensors(path: Path, wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    problems = [
        ("missing", [key for key in wanted if key not in found]),
        ("unexpected", [key for key in found if key not in wanted and key != WINDOW_KEY]),
        (
            "mis-shaped",
            [
                f"{key} {list(found[key])} for {list(shape)}"
                for key, shape in wanted.items()
                if key in found and found[key] != shape
            ],
        ),
    ]
    told = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in problems if keys)
    if told:
        raise ValueError(f"{path}: does not fit its {CONFIG_NAME}: {told}")


def save_state(folder: Path, model: nn.Module, config: TokenizerConfig, dtype: torch.dtype | None) -> None:
    """Writes the official layout's files, and the one that transformers adds, each whole or not at all.

    dtype: of the weights on disk, as they are where None; codebooks stay fp32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {official_key(name): _on_disk(name, tensor, dtype) for name, tensor in model.state_dict().items()}
    state[WINDOW_KEY] = hann_window(config.n_fft, torch.device("cpu")).clone()
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        temporary.write_bytes(save(state, metadata={"format": "pt"}))
    with atomic_path(folder / CONFIG_NAME) as temporary:
        temporary.write_text(config.to_json(), encoding="utf-8")
    save_preprocessor(folder, config)


def save_preprocessor(folder: Path, config: TokenizerConfig) -> None:
    """Writes `preprocessor_config.json`, by which transformers' AutoFeatureExtractor knows the model's sound."""
    values = {"feature_extractor_type": "MimoAudioTokenizerFeatureExtractor", "sampling_rate": config.sample_rate}
    with atomic_path(folder / PREPROCESSOR_NAME) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _on_disk(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    keep = dtype is None or name.startswith(OUR_CODEBOOKS[0])
    return tensor.detach().to("cpu", tensor.dtype if keep else dtype).contiguous()


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

"""Checkpoint folders: the official key map, safetensors in and out, a local folder or a hub repository."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mimotok.config import TokenizerConfig
from mimotok.io.files import atomic_path, make_folder, open_regular
from mimotok.io.terminal.streams import excerpt
from mimotok.model.mel import hann_window
from mimotok.model.precision import float32_names

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CODE_MODEL_NAME = "code_model.safetensors"  # what --entropy needs, of mimotok.code_models
# Where the second generation's tokenizer lies in the folder of its language model.
INNER_FOLDER = "audio_tokenizer"
# What transformers reads to find the feature extractor (mimotok.hf); official folders have none.
PREPROCESSOR_NAME = "preprocessor_config.json"
# The official modules are wrappers around the library that trained them; the tensors are the same.
OFFICIAL_CODEBOOKS = ("encoder.quantizer.vq.layers.", "._codebook.")
OUR_CODEBOOKS = ("encoder.quantizer.layers.", ".")
# A constant that the official file stores; ours is computed.
WINDOW_KEY = "decoder.vocoder.head.istft.window"
# Bytes of a safetensors file's header; the official one has 1300 tensors in 160 kB.
MAX_HEADER = 1 << 22
# of codebooks, for training: they decide no code
_STATISTICS = (".embed_avg", ".cluster_size", ".inited")
FLOATS = ("F64", "F32", "F16", "BF16")
MOST_NAMED = 5  # tensors that a message lists of each kind


# What the hub allows in a name.
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
# Of files that are given in the place of a model, or beside one.
_FILE_SUFFIXES = (".json", ".jsonl", ".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".onnx", ".npz", ".wav", ".flac")


class Sizes(NamedTuple):
    """Where a safetensors header shows what a configuration says.

    dimensions: of a field, the tensor, its dimension, and what is added to the field there. counts: of a field, what
    the names of like tensors begin with, before their numbers.
    """

    dimensions: Mapping[str, tuple[str, int, int]]
    counts: Mapping[str, str]


OFFICIAL_SIZES = Sizes(
    {
        "n_mels": ("encoder.conv1.weight", 1, 0),
        "d_model": ("encoder.conv1.weight", 0, 0),
        "encoder_ffn_dim": ("encoder.layers.0.fc1.weight", 0, 0),
        "avg_pooler": ("encoder.down_sample_layer.0.weight", 2, 0),
        "decoder_ffn_dim": ("decoder.layers.0.fc1.weight", 0, 0),
        "decoder_kernel_size": ("decoder.dconv2.conv.weight", 2, 0),
        "vocoder_dim": ("decoder.vocoder.embeddings.weight", 0, 0),
        "vocoder_intermediate_dim": ("decoder.vocoder.layers.0.fc1.weight", 0, 0),
        "nfft": ("decoder.vocoder.head.out.weight", 0, 2),
    },
    {
        "encoder_layers": "encoder.layers.",
        "decoder_layers": "decoder.layers.",
        "vocoder_num_layers": "decoder.vocoder.layers.",
        "num_quantizers": OFFICIAL_CODEBOOKS[0],
    },
)


class TensorInfo(NamedTuple):
    """What a safetensors header says of a tensor: its dtype, by the format's name, and its shape."""

    dtype: str
    shape: tuple[int, ...]


Header = Mapping[str, TensorInfo]


def official_key(name: str) -> str:
    """Return the official checkpoint's name for the parameter or buffer `name` of Tokenizer."""
    if not name.startswith(OUR_CODEBOOKS[0]):
        return name
    index, field = name.removeprefix(OUR_CODEBOOKS[0]).split(OUR_CODEBOOKS[1], 1)
    return f"{OFFICIAL_CODEBOOKS[0]}{index}{OFFICIAL_CODEBOOKS[1]}{field}"


def embedded_folder() -> Path:
    """Return the embedded checkpoint's folder, in a source checkout or an installed wheel."""
    package = Path(__file__).parent
    for folder in (package / "checkpoints" / "default", package.parent / "checkpoints" / "default"):
        if (folder / CONFIG_NAME).is_file():
            return folder
    raise ValueError("the embedded checkpoint is missing from this installation: pass a folder or a hub id")


def resolve_folder(source: str | Path | None, revision: str | None) -> Path:
    """Return the local folder of a checkpoint: embedded (None), a folder, or a hub id fetched at `revision`.

    A language model of the second generation (MiMo-V2.5) has its tokenizer in a folder within its own: then it is that.
    Raises ValueError where there is none, saying what was looked for, and for a revision of anything but a hub id.
    """
    if revision is not None and (source is None or Path(source).is_dir()):
        which = "the embedded checkpoint" if source is None else f"{source}, a folder,"
        raise ValueError(f"revision={revision}: {which} has none; give a hub id (owner/name), or leave it out")
    if source is None:
        return embedded_folder()
    if not str(source).strip():
        raise ValueError("the model's name is empty: give a folder or a hub id, or leave it out")
    folder = Path(source)
    if folder.is_dir():
        return _tokenizer_folder(folder)
    if looks_like_path(source) or not _HUB_ID.fullmatch(str(source)):
        raise ValueError(
            f"{source}: neither a folder nor a hub id such as owner/name; paths are not looked for on the hub"
        )
    return _tokenizer_folder(_fetch(str(source), revision))


def _tokenizer_folder(folder: Path) -> Path:
    inner = folder / INNER_FOLDER
    return inner if (inner / CONFIG_NAME).is_file() else folder


def looks_like_path(source: str | Path) -> bool:
    """Return whether a source names something on this machine, there or not, rather than a model of the hub.

    It is a Path, begins with / . or ~, has the suffix of a file, is there, or begins in a folder that is there.
    """
    if isinstance(source, Path) or source.startswith((".", "~", "/")) or source.lower().endswith(_FILE_SUFFIXES):
        return True
    return Path(source).exists() or Path(source.split("/")[0]).is_dir()


def require_source(source: str) -> None:
    """Check a source before transformers takes it for a hub id. Raises ValueError where it is a missing path."""
    if not Path(source).is_dir() and looks_like_path(source):
        raise ValueError(f"{source}: no such folder; paths are not looked for on the hub")


def _fetch(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        names = [CONFIG_NAME, WEIGHTS_NAME, f"{INNER_FOLDER}/{CONFIG_NAME}", f"{INNER_FOLDER}/{WEIGHTS_NAME}"]
        names += [CODE_MODEL_NAME, f"{INNER_FOLDER}/{CODE_MODEL_NAME}"]
        return Path(snapshot_download(repo, revision=revision, allow_patterns=names))
    except Exception as error:  # the client raises many types: offline, unknown id, no access, full disk
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{repo}: no such folder, and the hub did not give it ({reason})") from None


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read what a safetensors file says of its tensors, and none of them.

    Raises ValueError where it is no such file.
    """
    with open_regular(path) as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER:
        raise ValueError(f"{path}: not a readable safetensors file, its header would have more than {MAX_HEADER} bytes")
    try:
        with safe_open(path, framework="pt") as file:
            parts = ((key, file.get_slice(key)) for key in file.keys())  # noqa: SIM118
            return {key: TensorInfo(str(part.get_dtype()), tuple(part.get_shape())) for key, part in parts}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({excerpt(error)})") from None


def weights_path(folder: Path) -> Path:
    """Return where a checkpoint folder has its weights. Raises ValueError where it has none."""
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise ValueError(f"{folder}: has no {WEIGHTS_NAME} (pickled weights are not read: convert them)")
    return path


def check_sizes(path: Path, said: Mapping[str, int], header: Header, sizes: Sizes = OFFICIAL_SIZES) -> None:
    """Check that the weights are of the sizes that the configuration says, before anything is built by it.

    said: the configuration's fields, by the names of its file. Tensors that are missing are left to who reads them.
    Raises ValueError naming every field that differs.
    """
    counts = {name: len(_numbers(header, prefix)) for name, prefix in sizes.counts.items()}
    found = {name: count for name, count in counts.items() if count}
    for name, (key, dimension, added) in sizes.dimensions.items():
        shape = header[key].shape if key in header else ()
        if dimension < len(shape):
            found[name] = shape[dimension] - added
    wrong = [f"{name}={said[name]}, but the weights have {size}" for name, size in found.items() if said[name] != size]
    if wrong:
        raise ValueError(f"{path}: does not fit its {CONFIG_NAME}: {_listed(wrong)}")


def _numbers(header: Header, prefix: str) -> set[int]:
    """Return the numbers that follow a prefix in the names of tensors."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,9})\.")
    return {int(match[1]) for match in map(pattern.match, header) if match}


def load_state(folder: Path, model: nn.Module, *, device: torch.device, dtype: torch.dtype) -> None:
    """Fill `model`, which may be on the meta device, from the folder's safetensors, tensor by tensor.

    Floating tensors become `dtype`, except those of `KeepsFloat32` modules. Raises ValueError naming missing,
    unexpected and mis-shaped tensors, those that are no floating point numbers, and those that hold NaN or infinity.
    """
    path = weights_path(folder)
    wanted = {official_key(name): (name, tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    state = {}
    check_tensors(path, model, read_header(path))
    try:
        exact = float32_names(model)
        with safe_open(path, framework="pt", device=str(device)) as file:
            for key, (name, _) in wanted.items():
                kept = torch.float32 if name in exact else dtype
                state[name] = file.get_tensor(key).to(kept)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({excerpt(error)})") from None
    check_finite(path, {official_key(name): tensor for name, tensor in state.items()})
    model.load_state_dict(state, assign=True)


def check_dtypes(path: Path, header: Header) -> None:
    """Check that all weights are floating point numbers of 16 bits and more. Raises ValueError naming the others."""
    # the flag is training's, and nothing computes with it
    wrong = [
        f"{key} {tensor.dtype}"
        for key, tensor in header.items()
        if tensor.dtype not in FLOATS and not key.endswith("._codebook.inited")
    ]
    if wrong:
        raise ValueError(f"{path}: no weights of 16, 32 or 64 bit floating point: {_listed(wrong)}; convert them")


def check_finite(path: Path | str, state: Mapping[str, Tensor]) -> None:
    """Check that no tensor holds NaN or infinity. Raises ValueError naming those that do.

    One of them spoils all that is computed, and the codes show nothing of it.
    """
    wrong = [key for key, tensor in state.items() if tensor.numel() and not _is_finite(tensor)]
    if wrong:
        raise ValueError(f"{path}: NaN or infinity in {_listed(wrong)}; get the weights again, or in a wider dtype")


def _is_finite(tensor: Tensor) -> bool:
    # NaN if there is one; a fifteenth of isfinite's time
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a Tokenizer, which may be on the meta device, by its official name."""
    return {official_key(name): tuple(tensor.shape) for name, tensor in model.state_dict(keep_vars=True).items()}


def check_tensors(path: Path, model: nn.Module, header: Header) -> None:
    """Check that the weights are those of a Tokenizer, which may be on the meta device.

    Raises ValueError naming missing, unexpected and mis-shaped tensors, and those that are no floating point numbers.
    """
    wanted = shapes_of(model)
    problems = {
        "missing": [key for key in wanted if key not in header],
        "unexpected": [key for key in header if key not in wanted and key != WINDOW_KEY],
        "mis-shaped": [
            f"{key} {list(header[key].shape)} for {list(shape)}"
            for key, shape in wanted.items()
            if key in header and header[key].shape != shape
        ],
    }
    listed = "; ".join(f"{kind}: {_listed(keys)}" for kind, keys in problems.items() if keys)
    if listed:
        raise ValueError(f"{path}: does not fit its {CONFIG_NAME}: {listed}")
    check_dtypes(path, header)


def _listed(names: Iterable[str]) -> str:
    names = [name[:200] for name in names]
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def save_state(folder: Path, model: nn.Module, config: TokenizerConfig, dtype: torch.dtype | None) -> None:
    """Write the official layout's files, and the one that transformers adds, each whole or not at all.

    dtype: of the weights on disk, as they are where None; what stays in float32 in memory stays so there.
    """
    make_folder(folder)
    exact = float32_names(model)
    state = {
        official_key(name): _on_disk(tensor, None if name in exact else dtype)
        for name, tensor in model.state_dict().items()
    }
    state[WINDOW_KEY] = hann_window(config.n_fft, torch.device("cpu")).clone()
    with atomic_path(folder / CONFIG_NAME) as temporary:
        temporary.write_text(config.to_json(), encoding="utf-8")
    save_preprocessor(folder, config)
    # last: whoever finds the weights takes the folder to be whole
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        temporary.write_bytes(save(state, metadata={"format": "pt"}))


def save_preprocessor(folder: Path, config: TokenizerConfig) -> None:
    """Write `preprocessor_config.json`, from which AutoFeatureExtractor reads the model's rate."""
    values = {"feature_extractor_type": "MimoAudioTokenizerFeatureExtractor", "sampling_rate": config.sample_rate}
    with atomic_path(folder / PREPROCESSOR_NAME) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _on_disk(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()


def sha256_of_file(path: Path) -> str:
    """Hash a file's bytes: hex SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_codes(path: Path) -> str:
    """Hash the weights of a file that decide codes, the encoder's and the codebooks', as float32: hex SHA-256.

    Models that differ in nothing but the decoder give the same codes and have the same digest.
    """
    digest = hashlib.sha256()
    header = read_header(path)
    names = sorted(name for name in header if name.startswith("encoder.") and not name.endswith(_STATISTICS))
    with safe_open(path, framework="pt") as file:
        for name in names:
            digest.update(f"{name} {list(header[name].shape)}\n".encode())
            # the sum makes 0 of -0, which gives the same codes
            values = file.get_tensor(name).float().contiguous() + 0.0
            digest.update(values.numpy().tobytes())
    return digest.hexdigest()

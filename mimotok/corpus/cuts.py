"""Lhotse cuts. Every reader gets them through this module, because a cut can name a command to run.

Lhotse itself trusts its manifests: a shell runs a source of the type "command" and an address that begins with "pipe:",
and features may be pickles. Nothing of a cut is given to Lhotse before all of it has been checked here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from mimotok.io.clips.places import Places
from mimotok.io.files import open_regular
from mimotok.io.remote import checked_address, fetch, is_remote
from mimotok.io.sound.levels import level_problem
from mimotok.io.terminal.streams import excerpt, shortened

_DATA_CUTS = ("MonoCut", "MultiCut", "Cut")
_MIXED = "MixedCut"
_PADDING = "PaddingCut"
# of Lhotse's own only those that compute: no name that some other code registers, no codec of a shared library
_TRANSFORMS = frozenset(
    {
        "Speed",
        "Resample",
        "Tempo",
        "Volume",
        "Narrowband",
        "LoudnessNormalization",
        "ReverbWithImpulseResponse",
        "DereverbWPE",
        "Clipping",
        "Compress",
    }
)
# Features and arrays are never read here, but travel with a cut to whoever reads the tokens. These are plain numbers;
# memory_raw is a pickle, kaldiio may be a command.
_STORAGE_FILES = frozenset(
    {"lilcom_files", "lilcom_chunky", "lilcom_hdf5", "chunked_lilcom_hdf5", "numpy_files", "numpy_hdf5", "lilcom_url"}
)
_STORAGE_MEMORY = frozenset({"shar", "memory_lilcom", "memory_npy"})
_DEEPEST = 64  # a mix of reverberated cuts has 16 levels


def lhotse() -> Any:
    """Import lhotse, set to read audio by libsndfile. Raises ImportError naming the extras."""
    try:
        import lhotse as module
        from lhotse.audio import set_current_audio_backend
    except ImportError as error:
        raise ImportError("Lhotse needs: pip install 'mimotok[tokenize]' or 'mimotok[train]'") from error
    # whatever the environment asks for: other backends give the names of files to a shell, or need torchaudio
    set_current_audio_backend("LibsndfileBackend")
    return module


def is_cut(row: dict[str, Any]) -> bool:
    """Return whether a line of a manifest is a Lhotse cut."""
    return str(row.get("type", "")).endswith("Cut")


def make_cut(row: dict[str, Any], root: str = ".", folder: str | None = None, *, allow_outside: bool = False) -> Any:
    """Build the Lhotse cut of a line of a CutSet, after a check.

    Args:
        row: the line.
        root: folder or address of relative paths.
        folder: folder of the manifest. All files lie below `root` or below this.
        allow_outside: files may lie anywhere on this machine.

    Raises:
        ValueError: for sources and stored arrays of other kinds or in other places, and for what is no cut.
    """
    checked = check_cut(row, root, folder, allow_outside=allow_outside)
    lhotse()
    from lhotse.serialization import deserialize_item

    try:
        return deserialize_item(checked)
    except Exception as error:  # of missing and misspelt fields: KeyError, TypeError, AssertionError ...
        raise ValueError(f"{_name(row)}: not understood by Lhotse ({type(error).__name__}: {excerpt(error)})") from None


def check_cut(
    row: dict[str, Any], root: str = ".", folder: str | None = None, *, allow_outside: bool = False
) -> dict[str, Any]:
    """Copy a cut's JSON with its paths made absolute. Raises ValueError as `make_cut`."""
    try:
        _check_type(row, (*_DATA_CUTS, _MIXED))
        if not isinstance(row.get("custom") or {}, dict):
            raise ValueError(f"custom={shortened(row['custom'])}, expected an object")
        checked = copy.deepcopy(row)
        _check_values(checked, Places(root, folder, allow_outside=allow_outside), 0)
    except ValueError as error:
        raise ValueError(f"{_name(row)}: {error}") from None
    except RecursionError:
        raise ValueError(f"{_name(row)}: nested too deeply") from None
    return checked


def load_cut(cut: Any) -> np.ndarray:
    """Read a cut's sound, float32 [T], mono, at the cut's rate.

    Raises ValueError for samples that are not finite or far beyond full scale, and what Lhotse and remote file systems
    raise.
    """
    lhotse()
    wav = np.atleast_2d(_fetched(cut).load_audio()).mean(axis=0, dtype=np.float32)
    problem = level_problem(float(wav.min()), float(wav.max())) if wav.size else None
    if problem is not None:
        raise ValueError(f"cut {excerpt(cut.id)}: {problem}")
    return wav


def shar_cut(row: dict[str, Any], recording: dict[str, Any], root: str = ".") -> Any:
    """Build the cut of a Shar folder, for `with_sound` to complete. Raises as `make_cut`.

    Args:
        row: line of the cuts file.
        recording: metadata of the recording, from the tar.
        root: the folder.
    """
    check_cut(row, root)
    sources = recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise ValueError(f"{_name(row)}: a recording in a Shar folder has one source")
    placeholder = {**sources[0], "type": "shar", "source": ""}
    return make_cut({**row, "recording": {**recording, "sources": [placeholder]}}, root)


def with_sound(cut: Any, data: bytes) -> Any:
    """Return a copy of a cut of a Shar folder with its encoded sound in memory."""
    source = replace(cut.recording.sources[0], type="memory", source=data)
    return replace(cut, recording=replace(cut.recording, sources=[source]))


def files_in(row: Any) -> Iterator[str]:
    """Yield the paths of the sound files that a cut, given as JSON, names anywhere."""
    if isinstance(row, list):
        for item in row:
            yield from files_in(item)
    if isinstance(row, dict):
        if row.get("type") == "file" and isinstance(row.get("source"), str):
            yield row["source"]
        for value in row.values():
            yield from files_in(value)


def _name(row: dict[str, Any]) -> str:
    return f"cut {excerpt(row.get('id'))}"


def _check_type(cut: Any, kinds: tuple[str, ...]) -> None:
    kind = _field(cut, "type")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"type={kind!r}, expected one of {', '.join(kinds)}")
    if kind != _MIXED:
        return
    tracks = _list(cut.get("tracks"))
    if "snr_reference" in cut:
        tracks = [*tracks, cut["snr_reference"]]
    for track in tracks:
        inner = _field(track, "cut")
        if not isinstance(inner, dict):
            raise ValueError("a track of a MixedCut has a `cut`")
        # Lhotse puts the track's type in the place of the cut's
        _check_type({**inner, "type": track.get("type")}, (*_DATA_CUTS, _PADDING))


def _field(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return value.get(name)
    return None


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{shortened(value)} where a list is expected")
    return value


def _check_values(value: Any, places: Places, depth: int) -> None:
    """Check all that Lhotse could read as a recording, an array or a transform, at any place in the cut."""
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        for item in value:
            _check_values(item, places, depth + 1)
    if not isinstance(value, dict):
        return
    if "storage_type" in value:
        _check_storage(value, places)
    sources = value.get("sources")
    if isinstance(sources, list):
        for source in filter(_is_object, sources):
            _check_source(source, places)
    transforms = value.get("transforms")
    if isinstance(transforms, list):
        for transform in transforms:
            _check_transform(transform)
    for item in value.values():
        _check_values(item, places, depth + 1)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _check_source(source: dict[str, Any], places: Places) -> None:
    kind = source.get("type")
    if kind == "file":
        source["source"] = places.file(source.get("source"))
        if is_remote(source["source"]):
            source["type"] = "url"
    elif kind == "url":
        if not isinstance(source.get("source"), str):
            raise ValueError("a source of the type url needs an address")
        checked_address(source["source"])
    elif kind not in ("memory", "shar"):
        place = shortened(source.get("source"))
        raise ValueError(
            f"a source of the type {shortened(kind)} ({place}) is not read; allowed are file, url and memory"
        )


def _check_transform(transform: Any) -> None:
    name = _field(transform, "name")
    if not isinstance(name, str) or name not in _TRANSFORMS:
        raise ValueError(f"transform {shortened(name)} is not allowed, only {', '.join(sorted(_TRANSFORMS))}")
    arguments = transform.get("kwargs")
    if name == "Narrowband" and (not isinstance(arguments, dict) or arguments.get("codec") != "mulaw"):
        raise ValueError("transform 'Narrowband' is allowed with codec='mulaw' only")


def _check_storage(array: dict[str, Any], places: Places) -> None:
    kind = array["storage_type"]
    path = array.get("storage_path")
    key = array.get("storage_key")
    if isinstance(kind, str) and kind in _STORAGE_MEMORY:
        return
    if not isinstance(kind, str) or kind not in _STORAGE_FILES:
        raise ValueError(f"features or arrays of the storage type {kind!r} are not allowed")
    if isinstance(path, str) and is_remote(path):
        checked_address(path)
    else:
        path = places.file(path)
    # these types have the path and the key joined to the name of a file
    if kind.endswith(("_files", "_url")) and (not isinstance(key, str) or key[:1] == "/" or ".." in key.split("/")):
        raise ValueError(f"{key}: leaves the storage path {path}")


def _fetched(cut: Any) -> Any:
    """Return the cut with the contents of its addresses in memory; pipes and devices are refused."""
    if type(cut).__name__ == _MIXED:
        tracks = [replace(track, cut=_fetched(track.cut)) for track in cut.tracks]
        return replace(cut, tracks=tracks, transforms=_fetched_transforms(cut.transforms))
    # a PaddingCut has none
    recording = getattr(cut, "recording", None)
    return cut if recording is None else replace(cut, recording=_fetched_recording(recording))


def _fetched_recording(recording: Any) -> Any:
    sources = [_fetched_source(source) for source in recording.sources]
    return replace(recording, sources=sources, transforms=_fetched_transforms(recording.transforms))


def _fetched_transforms(transforms: Any) -> Any:
    """Fetch the impulse responses of reverberations, which are sound files too."""
    return transforms and [_fetched_transform(transform) for transform in transforms]


def _fetched_transform(transform: Any) -> Any:
    response = getattr(transform, "rir", None)
    if response is None:
        return transform
    is_recording = hasattr(response, "sources")
    return replace(transform, rir=_fetched_recording(response) if is_recording else _fetched(response))


def _fetched_source(source: Any) -> Any:
    if source.type == "url":
        return replace(source, type="memory", source=fetch(source.source))
    if source.type == "file":
        open_regular(source.source).close()
    elif source.type not in ("memory", "shar"):
        raise ValueError(f"a source of the type {source.type!r} is not read")
    return source

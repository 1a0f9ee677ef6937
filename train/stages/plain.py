"""Read checkpoints without running anything in them: tensors and plain values, from files or allowed addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import lightning
import torch

from mimotok.io.remote import checked_address, is_remote, open_file
from train.stages.arguments import arguments_of

# Classes in our own checkpoints beside tensors and Python's plain types, which torch lets pass by itself. There are
# none: settings are stored as dicts. A class named here must do nothing when it is created.
OURS: list[Any] = []
# Among saved arguments, the names of those that are objects of classes of the user's own: they must be given again.
GIVEN = "given"
_PROBLEM = "not a readable checkpoint: remove it, or resume from another one"


def read_plain(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint. Nothing that its pickle names is called.

    Args:
        path: a file, or an address as in `mimotok.io.remote`.
        map_location: as of torch.load.

    Raises:
        ValueError: in one line, where it cannot be read or holds more than tensors and plain values.
    """
    with _opened(path) as file:
        try:
            # said each time: torch before 2.6, and Lightning for addresses, take everything by default
            with torch.serialization.safe_globals(OURS):
                checkpoint = torch.load(file, map_location=map_location, weights_only=True)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
        except Exception as error:  # damaged at any place, it fails in any way
            raise ValueError(f"{path}: {_PROBLEM} ({_reason(error)})") from None
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: not a checkpoint, but a {type(checkpoint).__name__}")
    return checkpoint


def require_plain(path: str | Path) -> None:
    """Check that a checkpoint holds tensors and plain values only, for code that reads it in ways of its own.

    Raises ValueError for a folder, a file that is none, one that holds more, and an address that is not allowed.
    """
    if is_remote(str(path)):
        checked_address(str(path))
        return
    if Path(path).is_dir():
        raise ValueError(f"{path}: a folder; sharded checkpoints are not read, give a .ckpt file")
    with _opened(path) as file:
        try:
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        except Exception as error:  # damaged at any place, it fails in any way
            raise ValueError(f"{path}: {_PROBLEM} ({_reason(error)})") from None
    if unsafe := [name for name in unsafe if name not in {f"{kind.__module__}.{kind.__name__}" for kind in OURS}]:
        raise ValueError(f"{path}: {_PROBLEM} (it holds more than tensors: {', '.join(unsafe)[:150]})")


def _opened(path: str | Path) -> BinaryIO:
    # a full disk or a crash may have left it without a byte
    if Path(path).is_file() and not Path(path).stat().st_size:
        raise ValueError(f"{path}: {_PROBLEM} (it is empty)")
    return open_file(str(path))


def _reason(error: Exception) -> str:
    """Return the first sentence of torch's message; the others explain how to trust the file."""
    _, refused, reason = " ".join(str(error).split()).rpartition("WeightsUnpickler error: ")
    prefix = "it holds more than tensors: " if refused else ""
    return prefix + (reason or type(error).__name__).split(". ")[0][:200]


def _given(saved: Any) -> list[Any]:
    names = saved.get(GIVEN) if isinstance(saved, dict) else None
    return names if isinstance(names, list) else []


class PlainLoading(lightning.LightningModule):
    """A LightningModule whose `load_from_checkpoint` runs nothing that a checkpoint names.

    Lightning's own method reads `_instantiator` from the file, the name of a function that it then imports and calls.
    """

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", *, strict: bool = True, **arguments: Any
    ) -> Any:
        """Build the module of a checkpoint with the arguments that were saved in it, and with these.

        The saved arguments are plain values, which become what `__init__` declares (see `train.stages.arguments`).
        Raises ValueError as `read_plain`, and where the checkpoint is of another module.
        """
        checkpoint = read_plain(checkpoint_path, map_location)
        saved = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {})
        missing = [str(name) for name in _given(saved) if name not in arguments]
        if missing:
            raise ValueError(
                f"{checkpoint_path}: give {' and '.join(missing)} to load_from_checkpoint, as the run had: a "
                "checkpoint names no classes of yours"
            )
        try:
            cls.check_saved(saved, checkpoint["state_dict"])
            module = cls(**arguments_of(cls.__init__, saved) | arguments)
            module.on_load_checkpoint(checkpoint)
            module.load_state_dict(checkpoint["state_dict"], strict=strict)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            problem = " ".join(str(error).split())
            raise ValueError(f"{checkpoint_path}: no checkpoint of a {cls.__name__} ({problem:.200})") from error
        return module

    @classmethod
    def check_saved(cls, saved: dict[str, Any], state: dict[str, Any]) -> None:
        """Check the arguments of a checkpoint against its weights before anything is built by them.

        Raises RuntimeError or ValueError. This one takes all.
        """

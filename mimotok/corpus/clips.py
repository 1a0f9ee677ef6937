"""Read the sound of one clip of a corpus: the same samples as `load_audio` gives."""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mimotok.corpus.cuts import files_in, load_cut, make_cut
from mimotok.identity import digest_of
from mimotok.io.audio import read_blocks, resample_blocks
from mimotok.io.files import file_stamp, open_regular, writing
from mimotok.io.remote import fetch, is_remote

# blocks that wait for the consumer
_BLOCKS_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Item:
    """A clip to be tokenized: JSON values that are stored beside its tokens, and its length.

    Attributes:
        key: its name in the corpus, unique.
        seconds: its length, or an estimate where only decoding would tell. Only batching and progress depend on it.
        audio: where the sound is: {"path": file or URL}, with {"span": [first byte, bytes], "member": name} for a
            member of a tar, or {"cut": a Lhotse cut as a dict, "root": folder or address of its relative paths,
            "folder": that of its manifest, "outside": true where its files may lie anywhere}.
        metadata: JSON values that are stored with the tokens.
        stamp: what shows that the sound was replaced, see `stamp_of`; "" where it was not looked at.
    """

    key: str
    seconds: float
    audio: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    stamp: str = ""

    @property
    def place(self) -> str:
        """The place of the sound, for messages."""
        if "cut" in self.audio:
            return f"cut {self.key}"
        member = self.audio.get("member")
        return self.audio["path"] if member is None else f"{self.audio['path']}:{member}"


def read_clip(clip: Item, sample_rate: int) -> Iterator[Tensor]:
    """Read a clip in blocks.

    Yields:
        wav float32 [1, t], mono, at `sample_rate`; joined, they are what `load_audio` returns.

    Raises:
        ValueError: where the sound cannot be read.
        OSError: as a file system raises; a remote one may raise errors of its own.
    """
    if "cut" in clip.audio:
        return _cut_blocks(clip, sample_rate)
    if "span" in clip.audio or is_remote(clip.audio["path"]):
        return _fetched_blocks(clip, sample_rate)
    return read_blocks(clip.audio["path"], sample_rate)


def stamp_of(clip: Item) -> str:
    """Return a stamp that differs once a clip's sound is not the same any more; "" where it has no file.

    Of a file it is its size and time of modification, of a tar's member what the listing saw of it, of a cut its JSON
    too, and of what lies behind an address that alone.
    """
    if clip.stamp:
        return clip.stamp
    if "cut" in clip.audio:
        return _stamp_of_cut(clip.audio["cut"], clip.audio["root"])
    path = clip.audio["path"]
    if is_remote(path):
        return digest_of(path)
    stamp = file_stamp(path)
    return "" if stamp is None else digest_of(stamp)


def _stamp_of_cut(cut: dict[str, Any], root: str) -> str:
    if is_remote(root):
        return digest_of([cut, root])
    stamps = [file_stamp(os.path.join(root, path)) for path in files_in(cut) if not is_remote(path)]
    return "" if None in stamps else digest_of([cut, stamps])


class NoRoomError(Exception):
    """The temporary folder is full: the fault lies with this machine, not with the clip."""


def _fetched_blocks(clip: Item, sample_rate: int) -> Iterator[Tensor]:
    data = _fetch(clip.audio)
    with _temporary(data, Path(clip.audio.get("member") or clip.audio["path"]).suffix) as path:
        del data
        try:
            yield from read_blocks(path, sample_rate)
        except ValueError as error:
            raise ValueError(str(error).replace(path, clip.place)) from None


def _fetch(audio: dict[str, Any]) -> bytes:
    """Return the encoded bytes of a remote file, or of a tar's member."""
    path = audio["path"]
    first, size = audio.get("span") or (0, None)
    if is_remote(path):
        return fetch(path, first, size)
    with open_regular(path) as file:
        file.seek(first)
        return file.read(-1 if size is None else size)


@contextmanager
def _temporary(data: bytes, suffix: str) -> Iterator[str]:
    """Write `data` into a temporary file and yield its path: the check for truncated files reads paths.

    Where the system has paths of open files, the file has no name, so that nothing is left however this process ends.
    """
    nameless = os.path.isdir("/proc/self/fd")
    make: Any = tempfile.TemporaryFile
    if not nameless:
        make = partial(tempfile.NamedTemporaryFile, suffix=suffix, prefix="mimotok-")
    with ExitStack() as stack:
        try:
            with writing(tempfile.gettempdir()):
                file = stack.enter_context(make())
                file.write(data)
                file.flush()
        except ValueError as error:
            raise NoRoomError(str(error)) from None
        yield f"/proc/self/fd/{file.fileno()}" if nameless else file.name


def _cut_blocks(clip: Item, sample_rate: int) -> Iterator[Tensor]:
    cut = cut_of(clip.audio)
    wav = load_cut(cut)
    if not wav.size:
        raise ValueError(f"{clip.place}: no audio in it (0 samples)")
    for block in resample_blocks(iter([wav]), cut.sampling_rate, sample_rate):
        if len(block):
            yield torch.from_numpy(np.ascontiguousarray(block))[None]


def cut_of(audio: dict[str, Any]) -> Any:
    """Build the Lhotse cut of `Item.audio`, checked. Raises ValueError where it names what may not be read."""
    return make_cut(audio["cut"], audio["root"], audio.get("folder"), allow_outside=audio.get("outside") is True)


def load_clip(clip: Item, sample_rate: int, limit: float) -> Tensor | None:
    """Return wav float32 [1, T], or None where it is longer than `limit` seconds. Raises as `read_clip`."""
    blocks = []
    samples = 0
    for block in read_clip(clip, sample_rate):
        samples += block.shape[1]
        if samples > limit * sample_rate:
            return None
        blocks.append(block)
    return torch.cat(blocks, dim=1)


def ahead(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the same blocks, read by a thread while the consumer works. Raises what reading raised."""
    waiting: queue.Queue[Tensor | BaseException | None] = queue.Queue(_BLOCKS_AHEAD)
    stopped = threading.Event()

    def put(item: Tensor | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return
            except queue.Full:
                pass

    def read() -> None:
        end: BaseException | None = None
        try:
            # in blocks of bounded size, so that what waits is bounded however large a reader's blocks are
            for block in chain.from_iterable(block.split(1 << 20, dim=1) for block in blocks):
                put(block)
                if stopped.is_set():
                    return
        except BaseException as error:
            end = error
        put(end)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()

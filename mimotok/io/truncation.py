"""Signs that a sound file was truncated, which libsndfile ignores."""

from __future__ import annotations

import re
from pathlib import Path

from mimotok.io.sound.declared_lengths import UNKNOWN_LENGTH, is_placeholder, mp3_tag
from mimotok.io.sound.ogg import end_problem

# libsndfile's log of an opened file: a chunk said to be larger than what the file holds
_CUT_CHUNK = re.compile(r"^\s*(data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)


def find_truncation(path: Path, container: str, log: str) -> str | None:
    """Return what shows that the file was truncated, in a few words, or None.

    Args:
        path: the file.
        container: libsndfile's name of the format.
        log: libsndfile's log of opening the file.
    """
    for chunk, declared, found in _CUT_CHUNK.findall(log):
        if int(declared) > int(found) and not is_placeholder(int(declared)):
            return f"{found} of {declared} bytes in chunk {chunk}"
    return end_problem(path) if container == "OGG" else None


def declares_exact_length(path: Path, container: str, num_samples: int) -> bool:
    """Return whether the file itself declares how many samples it holds; what libsndfile reports may be a guess.

    Args:
        path: the file.
        container: libsndfile's name of the format.
        num_samples: libsndfile's count.
    """
    if container == "MP3":
        with path.open("rb") as raw:
            return mp3_tag(raw) is not None
    return num_samples < UNKNOWN_LENGTH

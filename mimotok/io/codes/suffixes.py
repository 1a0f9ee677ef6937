"""The suffixes of codes files, by themselves: a command line knows them before numpy is imported."""

from __future__ import annotations

NPZ_SUFFIX = ".npz"
MIMO_SUFFIX = ".mimo"
CODES_SUFFIXES = (NPZ_SUFFIX, MIMO_SUFFIX)

"""The codes file of format 1, as plain numpy writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mimotok.io.codes_file import load_codes


def arrays_of_format_1(path: Path) -> dict[str, Any]:
    """Return the seven arrays of format 1 with the content of a codes file; `numpy.savez` makes a file of them."""
    held = load_codes(path)
    return {
        "codes": held.codes,
        "num_samples": np.array(held.num_samples),
        "sample_rate": np.array(held.sample_rate),
        "frame_rate": np.array(held.frame_rate),
        "codebook_sizes": np.array(held.codebook_sizes),
        "model": np.array([held.model_name, held.model_sha256]),
        "format_version": np.array(1),
    }

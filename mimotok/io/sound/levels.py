"""How loud samples may be: far beyond full scale they are integers that somebody stored as floats."""

from __future__ import annotations

import math

# 24 dB above full scale: no mix of floating point sound comes near it, and even quiet 8-bit integers as floats do.
MAX_PEAK = 16.0


def level_problem(low: float, high: float) -> str | None:
    """Return what is wrong with samples between `low` and `high`, in a line, or None. Full scale is 1."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "NaN or infinite samples: clean it first"
    peak = max(-low, high)
    if peak <= MAX_PEAK:
        return None
    bits = next((bits for bits in (8, 16, 24, 32) if peak <= 2 ** (bits - 1)), None)
    cause = "" if bits is None else f" (integers stored as floats? divide {bits}-bit ones by {2 ** (bits - 1)})"
    return (
        f"absurdly large samples, peak {peak:g}: sound lies in [-1, 1], and no more than {MAX_PEAK:g} is accepted"
        f"{cause}"
    )

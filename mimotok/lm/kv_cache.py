"""What a language model of transformers calls the keys and values that it has computed."""

from __future__ import annotations

import inspect
from typing import Any


def cache_name(model: Any) -> str:
    """Return the argument of a model or function: `cache`, or `past_key_values` as before transformers 5.24.

    What is returned to `forward` under this name is also an attribute of its output.
    """
    known = inspect.signature(getattr(model, "forward", model)).parameters
    return "cache" if "cache" in known else "past_key_values"

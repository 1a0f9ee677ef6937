"""What a language model of transformers calls the keys and values that it has computed."""

from __future__ import annotations

import inspect
from typing import Any


def cache_name(model: Any) -> str:
    """Return the argument of a model or function: `cache`, or `past_key_values` as before transformers 5.24.

    The model's output has what it has computed as an attribute of the same name.
    """
    known = inspect.signature(getattr(model, "forward", model)).parameters
    return "cache" if "cache" in known else "past_key_values"

"""Results that hold arrays: compared by content, and shown in a few lines."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

MOST_CHARACTERS = 60
"""Of a field's own repr that `Content.__repr__` shows."""


class Content:
    """Base of frozen dataclasses with array fields (declare them with repr=False, eq=False).

    `==` compares type and fields, arrays by content, and never raises. Such objects are not hashable.
    """

    def __eq__(self, other: object) -> bool:
        return same(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = (f"{f.name}={_short(getattr(self, f.name))}" for f in fields(self) if f.repr)  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal: arrays and tensors by dtype, shape and content, others by their parts."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if hasattr(a, "__array__"):
        left, right = np.asarray(a), np.asarray(b)
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        return bool(np.array_equal(left, right, equal_nan=left.dtype.kind in "fc"))
    if is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a) if f.compare)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    try:
        return bool(a == b)
    except (TypeError, ValueError):
        return False


def _short(value: Any) -> str:
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        return f"<{array.dtype} {array.shape}>"
    if isinstance(value, (list, tuple)) and len(repr(value)) > MOST_CHARACTERS:
        return f"<{len(value)} entries>"
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"<{type(value).__name__}>"

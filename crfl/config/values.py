"""What a setting can hold: kinds of values with their limits, and the same in words for errors and the reference."""

from __future__ import annotations

import math
import os
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.fields import FieldInfo

LARGEST_COUNT = 10**9
LARGEST_SEED = 10**18
MANY = 10**6
"""Most rounds, epochs and clients: enough for any experiment, few enough to be listed."""
LARGEST_NUMBER = 3.4028234663852886e38
"""The largest number that float32 holds."""
LONGEST_WORD, LONGEST_NUMBER, LONGEST_PATH, LONGEST_PATH_PART = 200, 100, 4096, 255
"""In characters, for paths in bytes."""


def _number(value: Any) -> Any:
    """A number as Python has it; pydantic alone would take true for 1, and bytes for digits."""
    if isinstance(value, str):
        if len(value) > LONGEST_NUMBER:
            raise ValueError(f"at most {LONGEST_NUMBER} digits")
        value = math.nan if value.lower().strip(" +-.") == "nan" else value
    elif type(value) is not int and type(value) is not float:
        value = _converted(value)
    if value != value:
        raise ValueError
    return value


def _converted(value: Any) -> Any:
    """The int or float that stands for a number of another library; ValueError if it stands for none."""
    try:
        if getattr(value, "shape", ()) != ():
            raise ValueError
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, (bool, bytes, bytearray, str)):
            raise ValueError
        return int(value) if isinstance(value, int) else float(value)
    except Exception:  # a foreign object may raise anything
        raise ValueError from None


def _float32_or_infinite(value: float) -> float:
    if LARGEST_NUMBER < value < math.inf:
        raise ValueError(f"at most {LARGEST_NUMBER:.2g}")
    return value


def _path(value: Path) -> Path:
    """A path that the system can look up."""
    try:
        parts = [os.fsencode(part) for part in value.parts]
        value.expanduser()
    except (RuntimeError, ValueError):  # nobody of that name; characters that no file name has
        raise ValueError("of characters and a user that this system knows") from None
    if len(os.fsencode(value)) > LONGEST_PATH or any(len(part) > LONGEST_PATH_PART for part in parts):
        raise ValueError(f"at most {LONGEST_PATH} bytes, {LONGEST_PATH_PART} from one / to the next")
    if any(b"\0" in part for part in parts):
        raise ValueError("without the character NUL")
    return value


_AS_NUMBER = BeforeValidator(_number)
Count = Annotated[int, _AS_NUMBER, Field(ge=0, le=LARGEST_COUNT)]
PositiveInt = Annotated[int, _AS_NUMBER, Field(ge=1, le=LARGEST_COUNT)]
Many = Annotated[int, _AS_NUMBER, Field(ge=1, le=MANY)]
Seed = Annotated[int, _AS_NUMBER, Field(ge=0, le=LARGEST_SEED)]
Nonnegative = Annotated[float, _AS_NUMBER, Field(ge=0, le=LARGEST_NUMBER)]
Positive = Annotated[float, _AS_NUMBER, Field(gt=0, le=LARGEST_NUMBER)]
PositiveOrInfinite = Annotated[
    float,
    Field(gt=0, allow_inf_nan=True),
    _AS_NUMBER,
    AfterValidator(_float32_or_infinite),
    "a number above 0, or .inf",
]
Share = Annotated[float, _AS_NUMBER, Field(gt=0, le=1)]
Probability = Annotated[float, _AS_NUMBER, Field(gt=0, lt=1)]
Word = Annotated[str, Field(strict=True, max_length=LONGEST_WORD)]
Folder = Annotated[Path, AfterValidator(_path)]

ClientNames = Annotated[tuple[Word, ...], Field(min_length=1), "a list of names"]
Attackers = Annotated[
    tuple[Annotated[int, _AS_NUMBER, Field(ge=0, le=MANY)] | Word, ...], "a list of numbers and names"
]
Rounds = Annotated[tuple[Many, ...], Field(min_length=1), "a list of such numbers"]
Rates = Annotated[tuple[Positive, ...], "a list of such numbers"]
Place = Word | tuple[Count, Count]
Trigger = Annotated[Word, "a name"] | Annotated[tuple[Place, ...], "a list of pixels [row, column] or feature names"]
Scale = Positive | Literal["replace"]
Labels = Literal["target", "keep"]
DataName = Literal["digits", "mnist", "emnist", "cifar10", "loan", "custom"]
PartitionName = Literal["iid", "dirichlet", "natural"]

WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    Path: "a path",
    type(None): "null",
}


def describe(kind: Any) -> str:
    """A kind of value in words, e.g. "a whole number from 1 to 1,000,000, or null".

    A text among the arguments of Annotated is taken as it is.
    """
    if is_union(kind):
        *others, last = [describe(member) for member in get_args(kind)]
        return f"{', '.join(others)}{',' if any(',' in o or ' ' in o for o in others) else ''} or {last}"
    if get_origin(kind) is Annotated:
        inner, *about = get_args(kind)
        return next((words for words in about if isinstance(words, str)), describe(inner) + _limits(about))
    if get_origin(kind) is Literal:
        *others, last = map(repr, get_args(kind))
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(kind) is tuple:
        return "a list of groups of settings"
    return WORDS.get(kind, "a group of settings")


def is_union(kind: Any) -> bool:
    """Whether a kind of value is one of several."""
    return get_origin(kind) in (Union, types.UnionType)


def _limits(about: list[Any]) -> str:
    """The limits among the arguments of Annotated, but that of float32."""
    found = {
        name: getattr(one, name)
        for one in _constraints(about)
        for name in ("ge", "gt", "le", "lt")
        if hasattr(one, name)
    }
    match found:
        case {"ge": least, "le": most} if isinstance(least, int) and most != LARGEST_NUMBER:
            return f" from {least} to {_figure(most)}"
        case {"gt": least, "lt": most}:
            return f" between {least} and {most}"
        case {"gt": least, "le": most}:
            return f" above {least}" + ("" if most == LARGEST_NUMBER else f", at most {most}")
        case {"ge": least}:
            return f", {least} or more"
    return ""


def _constraints(about: list[Any]) -> Iterator[Any]:
    for one in about:
        yield from one.metadata if isinstance(one, FieldInfo) else ()


def _figure(number: int) -> str:
    return f"10^{len(str(number)) - 1}" if number >= MANY else f"{number:,}"

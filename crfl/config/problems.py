"""From a validator's complaints to sentences: the key, what was given, what is expected."""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from crfl.config.values import LARGEST_NUMBER, LONGEST_WORD, describe, is_union

Conflict = tuple[tuple[str, ...], str]
"""The keys involved, and a sentence."""

MORE = {
    "finite_number": f"at most {LARGEST_NUMBER:.2g}",
    "string_too_long": f"at most {LONGEST_WORD} characters",
    "too_short": "at least one entry",
    "string_unicode": "of characters that UTF-8 has",
}
"""What is expected besides, by the validator's type of error."""


class _Short(reprlib.Repr):
    """`repr`, but never long: a value may be a mebibyte of digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < 10**40 else "a number of more than 40 digits"


def shown(value: object) -> str:
    """What was given, in an error: `repr`, cut after some entries and characters."""
    text = " ".join(_Short().repr(value).split("\n"))
    return text if len(text) <= 200 else f"{text[:200]}..."


def cut(text: str, length: int = 100) -> str:
    """A text, or the beginning of a long one."""
    text = str(text).replace("\n", " ")
    return text if len(text) <= length else f"{text[:length]}..."


def listed(names: Iterable[object], most: int = 20) -> str:
    """Names in a sentence, the first of many."""
    words = [cut(str(name)) for name in names]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def value_problems(error: ValidationError, root: type[Any]) -> dict[str, str]:
    """A sentence for each wrong key: what was given and what is expected."""
    problems: dict[str, str] = {}
    depths: dict[str, int] = {}
    for detail in error.errors(include_url=False):
        key, section, kind = _locate(detail["loc"], root)
        if detail["type"] in ("unexpected_keyword_argument", "invalid_key"):
            problems[key] = _unknown(key, list(_kinds(section)))
        elif (
            detail["type"] in ("missing", "missing_keyword_only_argument") and len(detail["loc"]) <= key.count(".") + 2
        ):
            problems[key] = f"{key}: missing, expected {describe(kind)}"
        elif len(detail["loc"]) > depths.get(key, 0):  # of a union's members that which came furthest
            depths[key] = len(detail["loc"])
            problems[key] = f"{key}: got {shown(detail['input'])}, expected {describe(kind)}{_more(detail)}"
    parts = [key.split(".") for key in problems]
    whole = {".".join(names[:depth]) for names in parts for depth in range(1, len(names))}
    return {key: text for key, text in problems.items() if key not in whole}  # the wrong part says more than the whole


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key.rpartition(".")[2][:100], known, n=1)
    hint = f"; did you mean {close[0]}? Expected" if close else "; expected"
    return f"{cut(key) or repr(key)}: unknown setting{hint} {', '.join(known)}"


def _more(detail: Any) -> str:
    """What the words for the kind leave out."""
    if detail["type"] == "value_error":
        more = str(detail["ctx"]["error"])
    elif detail["type"] == "less_than_equal" and detail["ctx"]["le"] == LARGEST_NUMBER:
        more = MORE["finite_number"]
    else:
        more = MORE.get(detail["type"], "")
    return f" ({more})" if more else ""


def _locate(loc: tuple[int | str, ...], root: type[Any]) -> tuple[str, Any, Any]:
    """Of an error's place: the dotted key, the group that it is in, and what is expected there."""
    section: Any = root
    kind, names = None, []
    inner: type[Any] | None = root
    for part in loc:
        if inner is None:
            break
        if is_union(kind):  # the validator's name for a member of it
            if part != inner.__name__:
                break
            kind = inner
            continue
        names.append(str(part))
        if isinstance(part, int) and kind is not None:  # an entry of a list of groups
            kind = get_args(kind)[0]
        else:
            section = inner
            kind = _kinds(section).get(str(part))
        inner = group_of(kind)
    return ".".join(names), section, kind


@cache
def _kinds(section: type[Any]) -> dict[str, Any]:
    """The kind of value of each setting of a group."""
    return get_type_hints(section, include_extras=True)


def group_of(kind: Any) -> type[Any] | None:
    """The group of settings that a kind of value is, lists or has among its members."""
    if dataclasses.is_dataclass(kind):
        return kind if isinstance(kind, type) else None
    if is_union(kind) or get_origin(kind) in (tuple, Annotated):
        return next((found for member in get_args(kind) if (found := group_of(member))), None)
    return None


def inside(key: str, problem: str) -> bool:
    """Whether one of the two keys is a part of the other."""
    return f"{key}.".startswith(f"{problem}.") or f"{problem}.".startswith(f"{key}.")


def without(settings: Any, keys: Iterable[str], prefix: str = "") -> Any:
    """The nested settings less those at the dotted keys, where the entries of a list have numbers for keys."""
    if isinstance(settings, Mapping):
        named = {k: f"{prefix}{k}" for k in settings}
        return {k: without(v, keys, f"{named[k]}.") for k, v in settings.items() if named[k] not in keys}
    if isinstance(settings, (list, tuple)):
        return [without(v, keys, f"{prefix}{i}.") for i, v in enumerate(settings) if f"{prefix}{i}" not in keys]
    return settings

"""From a validator's complaints to sentences: the key, what was found, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

WORDS = {
    "string_type": "a word",
    "tuple_type": "a list",
    "model_type": "a group of settings",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "too_short": "a list of at least one",
}
"""What is allowed, in the user's words, by the validator's type of error."""


def value_problems(error: ValidationError, root: type[BaseModel]) -> dict[str, str]:
    """A sentence for each wrong key: what was found and what is allowed."""
    problems: dict[str, str] = {}
    for detail in error.errors():
        key, section = _locate(detail["loc"], root)
        if detail["type"] == "extra_forbidden":
            leaf = key.rsplit(".", 1)[-1]
            close = difflib.get_close_matches(leaf, section, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            problems[key] = f"{key}: unknown setting; {hint}expected {', '.join(section)}"
            continue
        allowed = WORDS.get(detail["type"]) or detail["msg"].removeprefix("Value error, ").removeprefix(
            "Input should be "
        )
        if key in problems:  # the other members of a union, or another wrong entry of the same list
            known = problems[key].split(", expected ", maxsplit=1)[-1].split(" or ")
            problems[key] += "" if allowed in known else f" or {allowed}"
        else:
            problems[key] = f"{key}: got {detail['input']!r}, expected {allowed}"
    return problems


def _locate(loc: tuple[int | str, ...], root: type[BaseModel]) -> tuple[str, list[str]]:
    """Dotted key of an error's place, and the names that its section allows."""
    model, names = root, []
    inner: Any = root
    for part in loc:
        if isinstance(part, int) and get_args(inner):  # an entry of a list of sections
            inner = get_args(inner)[0]
        else:
            field = model.model_fields.get(str(part))
            inner = field.annotation if field else None
        names.append(str(part))
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
        elif not _lists_sections(inner):
            break
    return ".".join(names), list(model.model_fields)


def _lists_sections(kind: Any) -> bool:
    entry = next(iter(get_args(kind)), None)
    return get_origin(kind) is tuple and isinstance(entry, type) and issubclass(entry, BaseModel)


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

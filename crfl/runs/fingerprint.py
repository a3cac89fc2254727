"""The user's own triggers, malicious updates and rules: which of them a run uses, and if they are still the same.

A name must be the same in every process, wherever the function lies in its file, and another one after an edit. Of the
ten groups of functions in tests/runs/test_fingerprint.py joblib.hash refuses five (it pickles, and lambdas and closures do
not pickle); cloudpickle gives five another name in another process; and both name a function of an imported module by
its place alone, so that an edit goes unnoticed. Hence a digest of sources and of the data that they enclose.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crfl.aggregation import AGGREGATORS
from crfl.attack.malicious import MALICIOUS
from crfl.attack.triggers import TRIGGERS
from crfl.config import Experiment

KNOWN: dict[str, dict[str, Any]] = {
    "attack.trigger": TRIGGERS,
    "attack.update": MALICIOUS,
    "server.aggregation": AGGREGATORS,
}
"""Where the functions are found that a setting names."""

Own = Mapping[tuple[str, str], Callable[..., Any]]
"""Functions by setting and name."""


def own_functions(exp: Experiment) -> Own:
    """The functions that the settings name and that are not crfl's own."""
    attackers = (exp.attack, *exp.attack.individuals)
    named: dict[str, set[Any]] = {
        "attack.trigger": {a.trigger for a in attackers},
        "attack.update": {a.update for a in attackers},
        "server.aggregation": {exp.server.aggregation},
    }
    found = {
        (setting, name): KNOWN[setting][name]
        for setting, names in named.items()
        for name in sorted(n for n in names if isinstance(n, str))
        if name in KNOWN[setting]
    }
    return {(setting, name): own for (setting, name), own in found.items() if not _of_crfl(own, name)}


def register(own: Own) -> None:
    """Make the functions known to this process, a worker of a sweep."""
    for (setting, name), function in own.items():
        KNOWN[setting][name] = function


def digest(value: object) -> str:
    """Name of what a function, module or object holds: its source, its data, and the same of all that it encloses.

    Functions that it calls by a global name are not looked into.
    """
    found = hashlib.blake2b(digest_size=16)
    for part in _parts(value, {}):
        found.update(part)
    return found.hexdigest()


def _of_crfl(function: Callable[..., Any], name: str) -> bool:
    """Whether it comes with crfl, whole and under this name: not one that crfl made of the user's samples."""
    function = getattr(function, "function", function)  # of an aggregation rule
    module, known = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return str(module).startswith("crfl.") and known == name


def _parts(value: object, seen: dict[int, object]) -> Iterator[bytes | memoryview]:
    """`seen`: what was looked into already, kept so that no other object gets its number."""
    yield type(value).__qualname__.encode()
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        yield repr(value).encode()
    elif id(value) not in seen:
        seen[id(value)] = value
        for part in _members(value):
            yield from _parts(part, seen)


def _members(value: Any) -> Iterator[object]:
    """What makes up a container, function, class or object."""
    if isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, np.ndarray):
        yield from value.tolist()
    elif isinstance(value, ModuleType):
        yield value.__name__
    elif isinstance(value, (set, frozenset)):
        yield from sorted(value, key=repr)
    elif isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif inspect.ismethod(value):
        yield from (value.__func__, value.__self__)
    elif inspect.isfunction(value):
        yield _source(value)
        yield from (value.__defaults__, value.__kwdefaults__)
        with contextlib.suppress(ValueError):  # of a variable that has no value yet
            yield from (cell.cell_contents for cell in value.__closure__ or ())
    elif isinstance(value, type):
        yield _source(value)
    elif isinstance(value, nn.Module):
        yield from (_text(value), value.state_dict())
        for module in value.modules():
            yield from (type(module), {k: v for k, v in vars(module).items() if k not in vars(nn.Module())})
    elif isinstance(value, (torch.dtype, torch.device)) or not hasattr(value, "__dict__"):
        yield _text(value)
    else:
        yield from (type(value), vars(value))


def _text(value: object) -> str:
    """What it prints as, without where it lies in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _source(value: Any) -> str:
    """Source code; the name of what belongs to torch; byte code where there is no source."""
    if str(value.__module__).startswith("torch."):
        return f"{value.__module__}.{value.__qualname__}"
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return f"{value.__module__}.{value.__qualname__} {_byte_code(getattr(value, '__code__', None))}"


def _byte_code(code: CodeType | None) -> str:
    if code is None:
        return ""
    sets = [sorted(map(repr, c)) if isinstance(c, frozenset) else c for c in code.co_consts]
    inner = [_byte_code(c) if isinstance(c, CodeType) else repr(c) for c in sets]
    return f"{code.co_code.hex()} {code.co_names} {inner}"

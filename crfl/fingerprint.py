"""The name of what a function, module or object holds: the key under which features, votes and runs are found again.

A name must be the same in every process, wherever the function lies in its file, and another one after an edit. joblib.hash
does not serve: it pickles, and lambdas and closures do not pickle. Nor does cloudpickle: it gives many functions another
name in another process. Both name a function of an imported module by its place alone, so that an edit goes unnoticed.
Hence a digest of sources and of the data that they use.
"""

from __future__ import annotations

import contextlib
import copyreg
import dis
import functools
import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

NAMED = frozenset({"torch", "numpy", *sys.stdlib_module_names})
"""Packages whose functions and classes count by their name alone."""

Part = str | bytes | memoryview | None
"""What a digest is made of. None: something whose content cannot be seen, such as an object written in C++."""


def digest(value: object) -> str:
    """Name of what a function, module or object holds: its source, its data, and the same of all that it uses.

    What it uses is what it encloses and the global variables that its code loads. Of an imported module the name counts.
    Of functions and classes of crfl and of installed packages the source counts, but not what they use; of those of
    Python, NumPy and PyTorch the name.

    Example:
        >>> digest([1.0, 2.0]) == digest([1.0, 2.0]), digest([1.0, 2.0]) == digest([1.0, [2.0]])
        (True, False)
    """
    return _digest(value)[0]


def exact_digest(value: object) -> str | None:
    """The digest of a value, or None if it holds something whose content cannot be seen.

    Example:
        >>> exact_digest(torch.relu) == digest(torch.relu), exact_digest(value for value in (1, 2)) is None
        (True, True)
    """
    found, seen_whole = _digest(value)
    return found if seen_whole else None


def _digest(value: object) -> tuple[str, bool]:
    """The digest, and whether all of the value was seen."""
    found, seen_whole = hashlib.blake2b(digest_size=16), True
    for part in _parts(value, {}):
        seen_whole &= part is not None
        content = b"?" if part is None else part.encode() if isinstance(part, str) else part
        found.update(len(content).to_bytes(8, "little"))  # no two sequences of parts run together to the same bytes
        found.update(content)
    return found.hexdigest(), seen_whole


def _parts(value: object, seen: dict[int, tuple[int, object]]) -> Iterator[Part]:
    """`seen`: what was looked into already with its place in the order, kept so that no other object gets its number."""
    yield type(value).__qualname__
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}"
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype} {value.shape}"
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        yield repr(value)
    elif id(value) in seen:
        yield f"again {seen[id(value)][0]}"
    else:
        if not isinstance(value, (tuple, frozenset)):  # whether equal constants are one object is Python's affair
            seen[id(value)] = len(seen), value
        for part in _members(value):
            if isinstance(part, _Unseen):
                yield None
            else:
                yield from _parts(part, seen)
        yield "end"


class _Unseen:
    """Stands for a member whose content cannot be seen."""


def _members(value: Any) -> Iterator[object]:
    """What makes up a container, function, class or object."""
    if isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, np.ndarray):
        yield from (value.shape, value.tolist())
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
        yield from (value.__defaults__, value.__kwdefaults__, _enclosed(value), _globals(value))
    elif isinstance(value, type):
        yield _source(value)
        if not _installed(value):
            yield from (value.__bases__, [f for f in vars(value).values() if inspect.isfunction(f)])
    elif isinstance(value, nn.Module):
        yield from _of_module(value)
    else:
        yield from _of_object(value)


def _enclosed(function: Any) -> list[object]:
    """Values of the variables that a function encloses."""
    found = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # of a variable that has no value yet
            found.append(cell.cell_contents)
    return found


def _globals(function: Any) -> dict[str, object]:
    """The global variables that a function's code names, with their values."""
    if _installed(function):
        return {}
    known = function.__globals__
    return {name: known[name] for name in sorted(_names(function.__code__)) if name in known}


def _names(code: CodeType) -> set[str]:
    """The global names that code loads, also inside the functions that it defines."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _of_module(value: nn.Module) -> Iterator[object]:
    """A PyTorch module: its weights, and the class and attributes of every module in it."""
    yield from (_text(value), value.state_dict())
    for module in value.modules():
        if isinstance(module, torch.jit.ScriptModule):
            yield _Unseen()
        yield from (type(module), {k: v for k, v in vars(module).items() if k not in vars(nn.Module())})


def _of_object(value: Any) -> Iterator[object]:
    """Any other object: what pickle would rebuild it from."""
    if isinstance(value, (torch.dtype, torch.device)):
        yield _text(value)
        return
    reduce: Callable[[Any], Any] | None = copyreg.dispatch_table.get(type(value))
    try:
        yield value.__reduce_ex__(2) if reduce is None else reduce(value)
    except Exception:  # whatever an object raises that does not pickle
        yield from (type(value), _text(value), getattr(value, "__dict__", None), _Unseen())


def _package(value: Any) -> str:
    """The package that a function or class belongs to."""
    return str(value.__module__).partition(".")[0]


def _installed(value: Any) -> bool:
    """Whether a function or class belongs to Python, an installed package or crfl."""
    path = getattr(sys.modules.get(str(value.__module__)), "__file__", None) or ""
    return _package(value) in {*NAMED, "crfl"} or not {"site-packages", "dist-packages"}.isdisjoint(Path(path).parts)


def _text(value: object) -> str:
    """What it prints as, without where it lies in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _source(value: Any) -> str:
    """Source code; the name alone of what is in NAMED; byte code where there is no source."""
    if _package(value) in NAMED:
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

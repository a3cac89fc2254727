"""Features on disk: made once, found again by a digest of the map and the samples."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import pickle
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crfl.errors import StoreError
from crfl.features.fitted import FeatureMap
from crfl.files import read_tensors, write_tensors


def digest(parts: Iterable[object]) -> str:
    """Name of a sequence of tensors and plain values."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype} {tuple(part.shape)}".encode())
            for block in torch.atleast_1d(part).split(2**14):
                found.update(block.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            found.update(repr(part).encode())
    return found.hexdigest()


def identity(function: FeatureMap | None) -> list[object] | None:
    """What makes a map the one that it is, and the code of this package; None if that cannot be told of it."""
    code = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))]
    try:
        return [*code, *_parts(function)]
    except (TypeError, OSError, AttributeError, pickle.PicklingError):
        return None


def _parts(function: Any) -> Iterator[object]:
    """Source code and content of a module, function or object."""
    if function is None or type(function).__module__.startswith("crfl."):
        yield repr(function)
    elif isinstance(function, nn.Module):
        yield repr(function)
        plain = set(vars(nn.Module()))
        for module in function.modules():
            if not type(module).__module__.startswith("torch."):
                yield inspect.getsource(type(module))
            yield [pickle.dumps(v) for k, v in sorted(vars(module).items()) if k not in plain]
        for name, values in sorted(function.state_dict().items()):
            yield from (name, values)
    else:
        yield inspect.getsource(function if inspect.isroutine(function) else type(function))
        cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        yield pickle.dumps((cells, getattr(function, "__defaults__", None), vars(function)))


def load(path: Path, key: str) -> dict[str, Tensor] | None:
    """What `save` wrote under this key; None if there is nothing, or something else, or it was damaged."""
    if not path.is_file():
        return None
    with contextlib.suppress(StoreError):
        tensors, about = read_tensors(path)
        if about.get("key") == key and about.get("content") == _content(tensors):
            return tensors
    return None


def save(path: Path, key: str, tensors: dict[str, Tensor]) -> None:
    """Write the tensors whole or not at all, or warn that they cannot be written."""
    try:
        write_tensors(path, tensors, key=key, content=_content(tensors))
    except OSError as error:
        warnings.warn(f"{path}: cannot be written ({error}); the features will be made again next time", stacklevel=3)


def _content(tensors: dict[str, Tensor]) -> str:
    return digest(part for name in sorted(tensors) for part in (name, tensors[name]))

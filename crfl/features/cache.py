"""Features on disk: made once, found again by a digest of the map and the samples."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

from torch import Tensor

from crfl.errors import StoreError
from crfl.features.fitted import FeatureMap
from crfl.files import read_tensors, write_tensors
from crfl.fingerprint import digest, exact_digest


def feature_key(function: FeatureMap | None, *about: object) -> str | None:
    """Name of features: of the map, of all else that they depend on, and of the code of this package.

    None if the map holds something whose content cannot be seen, such as a TorchScript module: a change of it would go
    unnoticed, so its features are not kept.
    """
    code = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))]
    return exact_digest([code, function, about])


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
    return digest(sorted(tensors.items()))

"""training.json: which training a folder belongs to, as a digest of all that the training depends on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from crfl import fingerprint
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.errors import DamagedFileError, StoreError
from crfl.files import digest, parse_json, read_json
from crfl.models.base import Model
from crfl.runs import manifest
from crfl.runs.own import own_functions

NAME = "training.json"
SECTIONS = ("seed", "features", "model", "local", "server", "attack")
"""Parts of the settings that matter to training; the data has a digest of its own."""


def training_key(
    exp: Experiment,
    data: FederatedData,
    benign: bool = False,
    checkpoints: Sequence[int] = (),
    model: Model | nn.Module | None = None,
    groups: Sequence[npt.NDArray[np.int64]] | None = None,
) -> dict[str, str]:
    """All that training depends on, as a digest for each part; the user's own functions and model by content.

    `groups`: the numbers of each group's clients, of an ensemble.
    """
    parts: dict[str, Any] = {
        "benign": benign,
        "checkpoints": sorted({str(round_) for round_ in checkpoints}),
        "version": version("crfl"),
        "names": [data.client_names, data.feature_names, data.input_shape],
    }
    key = _settings(exp) | {part: _digest(value) for part, value in parts.items()}
    key["data"] = data.digest
    functions = own_functions(exp)
    key |= {f"{setting}: {name}": fingerprint.digest(function) for (setting, name), function in functions.items()}
    if groups is not None:
        key["ensemble"] = _digest([clients.tolist() for clients in groups])
    return key if model is None else key | {"own model": fingerprint.digest(model)}


def dumps(key: dict[str, str]) -> str:
    """The text of training.json."""
    return json.dumps(key, indent=2) + "\n"


def is_claimed(folder: Path, key: dict[str, str]) -> bool:
    """Whether the folder belongs to this training already; False if it is fresh.

    Raises:
        StoreError: if it belongs to another training, or if nobody can tell.
    """
    if not (folder / NAME).exists() and not _holds_a_run(folder):
        return False
    try:
        found = read_json(folder / NAME)
    except DamagedFileError as error:
        if _listed(folder, key):
            return True
        raise StoreError(f"{error}, so it holds a run that was trained elsewhere; choose another folder") from None
    different = [name for name in {**key, **found} if found.get(name) != key.get(name)]
    if different:
        raise StoreError(
            f"{folder}: holds a run that differs in {', '.join(different)} (see its settings.yaml); choose another folder"
        )
    return True


def check_settings(folder: Path, found: dict[str, Any], exp: Experiment) -> None:
    """StoreError if the training of the folder had other settings than `exp`, `found` being its training.json."""
    if found.get("version") != _digest(version("crfl")):
        return  # another version may know other settings
    different = [part for part, value in _settings(exp).items() if found.get(part) != value]
    if different:
        raise StoreError(
            f"{folder}: the settings are not those of the training, they differ in {', '.join(different)}; was "
            "settings.yaml changed by hand?"
        )


def check_data(folder: str | Path, data: FederatedData) -> None:
    """StoreError unless the run in `folder` was trained on this very data."""
    files = manifest.load(Path(folder))
    if NAME not in files.digests:
        return  # of a run that was saved, not trained here
    if parse_json(files.read(NAME), files.folder / NAME).get("data") != data.digest:
        raise StoreError(f"{folder}: the data is not that of the training; set data.root to where that lies")


def _holds_a_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (manifest.NAME, "params.safetensors", "record.json", "resume"))


def _listed(folder: Path, key: dict[str, str]) -> bool:
    """Whether the manifest lists this training's claim, though the file itself is lost."""
    try:
        known = manifest.load(folder).digests.get(NAME, ())
    except StoreError:
        return False
    return digest(dumps(key).encode()) in known


def _settings(exp: Experiment) -> dict[str, str]:
    settings = exp.to_dict()
    return {part: _digest(settings[part]) for part in SECTIONS}


def _digest(value: object) -> str:
    return digest(json.dumps(value).encode())

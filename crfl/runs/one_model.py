"""The files of a run of one model, and what they say."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crfl.config import Experiment
from crfl.errors import DamagedFileError, StoreError
from crfl.files import format_columns, pack_tensors, parse_columns, parse_json, unpack_tensors
from crfl.models import make_model
from crfl.models.base import Model
from crfl.record import TrainingRecord
from crfl.run import Columns, TrainingRun
from crfl.runs import claim, plausibility, record_file
from crfl.runs.manifest import Manifest


def run_files(run: TrainingRun) -> dict[str, bytes]:
    """The files of a run by their path in its folder. Equal runs have equal files."""
    about = about_model(run.model)
    kept = {
        f"checkpoints/round-{round_:05d}.safetensors": pack_tensors({"params": params}, **about)
        for round_, params in run.checkpoints.items()
    }
    return {
        "settings.yaml": run.experiment.to_yaml().encode(),
        "versions.json": versions_text(),
        "record.json": record_file.dumps(run.record).encode(),
        "history.csv": format_columns(run.columns).encode(),
        **kept,
        "params.safetensors": pack_tensors({"params": run.params}, **about),
    }


def load_one(files: Manifest, exp: Experiment | None, model: Model | nn.Module | None) -> TrainingRun:
    """The run of these files; arguments and errors as of `load_run`."""
    exp, record, columns, about, params, kept = check_one(files, exp)
    trained = trained_model(files.folder, model, about, params.numel())
    return TrainingRun(experiment=exp, model=trained, params=params, record=record, columns=columns, checkpoints=kept)


class Content(NamedTuple):
    """What the files of a run say."""

    exp: Experiment
    record: TrainingRecord
    columns: Columns
    about: dict[str, Any]
    params: Tensor
    checkpoints: dict[int, Tensor]


def check_one(files: Manifest, exp: Experiment | None = None) -> Content:
    """Read all files of a run and hold them against each other and, if given, other settings.

    DamagedFileError if one is not what was written or contradicts another.
    """
    folder = files.folder
    exp = read_settings(files, exp)
    record = record_file.loads(files.read("record.json"), folder / "record.json")
    columns = parse_columns(files.read("history.csv"), folder / "history.csv")
    wrong = plausibility.contradictions(record, exp)
    if columns["round"].tolist() != [r.round for r in record.rounds]:
        wrong.append("history.csv and record.json have different rounds")
    params, about = read_params(files, "params.safetensors")
    kept = {_round_of(name): read_params(files, name)[0] for name in files.under("checkpoints")}
    for t, vector in ((len(record.rounds), params), *kept.items()):
        norm = float(torch.linalg.vector_norm(vector, dtype=torch.float64))
        told = record.rounds[t - 1 : t]
        wrong += plausibility.norm_problems(norm, told[0]) if told else [f"a model of round {t} is none of this run"]
    if wrong:
        raise DamagedFileError(f"{folder}: its files contradict one another: {'; '.join(wrong[:5])}")
    return Content(exp, record, columns, about, params, kept)


def read_settings(files: Manifest, exp: Experiment | None) -> Experiment:
    """The settings of a run, or those given; StoreError if it was trained under others, smoothing apart."""
    if exp is None:
        files.read("settings.yaml")  # checked; then read once more, by the one who knows how to
        exp = Experiment.from_yaml(files.folder / "settings.yaml")
    if claim.NAME in files.digests:
        claim.check_settings(files.folder, parse_json(files.read(claim.NAME), files.folder / claim.NAME), exp)
    return exp


def about_model(model: Model) -> dict[str, Any]:
    """What a file of parameters says of its model."""
    return {
        "model": model.name,
        "num_features": model.num_features,
        "num_classes": model.num_classes,
        "bias": model.bias,
    }


def trained_model(folder: Path, model: Model | nn.Module | None, about: dict[str, Any], num_params: int) -> Model:
    """What was trained; StoreError if `model` is another."""
    trained = make_model(model, about["num_features"], about["num_classes"], about["bias"])
    if (trained.name, trained.num_params) != (about["model"], num_params):
        raise StoreError(
            f"{folder}: got the model {trained.name!r} with {trained.num_params} parameters, expected that of the run, "
            f"{about['model']!r} with {num_params}; give load_run the model that was trained"
        )
    return trained


def read_params(files: Manifest, name: str) -> tuple[Tensor, dict[str, Any]]:
    """Parameters (P,) of a model, or (G, P) of several, and what it is."""
    tensors, about = unpack_tensors(files.read(name), files.folder / name)
    if "params" not in tensors or not {"model", "num_features", "num_classes", "bias"} <= about.keys():
        raise DamagedFileError(
            f"{files.folder / name}: got {sorted({*tensors, *about})}, expected a model: params, model, num_features, "
            "num_classes and bias"
        )
    return tensors["params"], about


def versions() -> dict[str, str]:
    """Versions of crfl, Python and the packages that compute."""
    packages = ("crfl", "torch", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def versions_text() -> bytes:
    """The content of versions.json."""
    return (json.dumps(versions(), indent=2) + "\n").encode()


def _round_of(name: str) -> int:
    """The round of a checkpoint's file."""
    number = Path(name).stem.removeprefix("round-")
    if not number.isdecimal():
        raise DamagedFileError(
            f"{name}: got the name {Path(name).name!r}, expected that of a checkpoint, such as round-10"
        )
    return int(number)

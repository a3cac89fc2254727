"""Run folders: what a run was asked, what it did and what came of it, in files that outlive the process.

    settings.yaml           the experiment
    record.json             what happened in training, for certification
    history.csv             a row a round
    params.safetensors      the final model
    checkpoints/            the models of the rounds asked for
    certificates/           per certificate a CSV (a row a test sample), a JSON (what it rests on) and its votes
    versions.json           of crfl, Python and the packages that compute
    training.json           digests of all that the training depended on, if it was trained in this folder
    manifest.json           the digest of every file above; written last: its presence says that training is complete
    resume/                 how far training is, while it is not complete
    plots/, report.html     pictures of all that

Every file is written whole or not at all, and no file is believed that the manifest does not know.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crfl.config import Experiment
from crfl.errors import DamagedFileError, StoreError
from crfl.files import digest, format_columns, pack_tensors, parse_columns, parse_json, unpack_tensors
from crfl.models import make_model
from crfl.models.base import Model
from crfl.record import TrainingRecord
from crfl.run import Columns, TrainingRun
from crfl.runs import claim, manifest, plausibility, record_file
from crfl.runs.lock import folder_lock
from crfl.runs.manifest import Manifest

WAIT = 60.0
"""Seconds to wait for another process that writes to a folder."""


def save_run(folder: str | Path, run: TrainingRun) -> None:
    """Write a run: settings, record, history, checkpoints, parameters and, last, the manifest.

    Args:
        folder: Where to; made if need be.
        run: What to write.

    Raises:
        StoreError: if the folder holds another run, or one that was left unfinished.
        FolderBusyError: if somebody else writes there.

    Example:
        >>> import crfl, tempfile
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
        >>> run = crfl.train(exp, crfl.load_data(exp))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     crfl.save_run(folder, run)
        ...     crfl.load_run(folder).record == run.record
        True
    """
    folder, files = Path(folder), run_files(run)
    with folder_lock(folder, wait=WAIT):
        if not (folder / manifest.NAME).exists() and (folder / claim.NAME).exists():
            raise StoreError(f"{folder}: a training that is not complete lies here; choose another folder")
        write_run(folder, files)


def run_files(run: TrainingRun) -> dict[str, bytes]:
    """The files of a run by their path in its folder. Equal runs have equal files."""
    about = {
        "model": run.model.name,
        "num_features": run.model.num_features,
        "num_classes": run.model.num_classes,
        "bias": run.model.bias,
    }
    kept = {
        f"checkpoints/round-{round_:05d}.safetensors": pack_tensors({"params": params}, **about)
        for round_, params in run.checkpoints.items()
    }
    return {
        "settings.yaml": run.experiment.to_yaml().encode(),
        "versions.json": (json.dumps(versions(), indent=2) + "\n").encode(),
        "record.json": record_file.dumps(run.record).encode(),
        "history.csv": format_columns(run.columns).encode(),
        **kept,
        "params.safetensors": pack_tensors({"params": run.params}, **about),
    }


def write_run(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a run, then their manifest; of a run that is there already, the files that were damaged.

    StoreError, and nothing is written, if what is there is another run.
    """
    if not (folder / manifest.NAME).exists():
        manifest.write_files(folder, files)
        return
    known = manifest.load(folder)
    for name, content in files.items():
        if name in ("settings.yaml", "versions.json"):
            continue
        if digest(content) not in known.digests.get(name, ()):
            raise StoreError(
                f"{folder}: holds another run: {name} differs. A run is the same to the last bit on the same machine "
                "with the same versions and number of threads only. Choose another folder"
            )
    known.restore(files)


def load_run(
    folder: str | Path, exp: Experiment | None = None, *, model: Model | nn.Module | None = None
) -> TrainingRun:
    """The finished run in a folder.

    Args:
        folder: Where it lies.
        exp: Settings to certify it under, other than its own in `smoothing` alone.
        model: What was trained, if not softmax regression.

    Returns:
        The run, equal to the last bit to what was saved.

    Raises:
        StoreError: if the folder holds no finished run of that model.
        DamagedFileError: if a file is not what was written, or the files contradict one another.
    """
    folder = Path(folder)
    files = open_run(folder)
    exp, record, columns, about, params, kept = check_run(files, exp)
    trained = make_model(model, about["num_features"], about["num_classes"], about["bias"])
    if (trained.name, trained.num_params) != (about["model"], params.numel()):
        raise StoreError(
            f"{folder}: got the model {trained.name!r} with {trained.num_params} parameters, expected that of the run, "
            f"{about['model']!r} with {params.numel()}; give load_run the model that was trained"
        )
    return TrainingRun(experiment=exp, model=trained, params=params, record=record, columns=columns, checkpoints=kept)


class Content(NamedTuple):
    """What the files of a run say."""

    exp: Experiment
    record: TrainingRecord
    columns: Columns
    about: dict[str, Any]
    params: Tensor
    checkpoints: dict[int, Tensor]


def check_run(files: Manifest, exp: Experiment | None = None) -> Content:
    """Read all files of a run and hold them against each other and, if given, other settings.

    DamagedFileError if one is not what was written or contradicts another.
    """
    folder = files.folder
    if exp is None:
        files.read("settings.yaml")  # checked; then read once more, by the one who knows how to
        exp = Experiment.from_yaml(folder / "settings.yaml")
    if claim.NAME in files.digests:
        claim.check_settings(folder, parse_json(files.read(claim.NAME), folder / claim.NAME), exp)
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


def is_complete(folder: Path) -> bool:
    """Whether a finished run lies in the folder, damaged or not."""
    return (folder / manifest.NAME).exists()


def open_run(folder: Path) -> Manifest:
    """The manifest of a finished run; StoreError if there is no finished run."""
    if is_complete(folder):
        return manifest.load(folder)
    if (folder / "params.safetensors").exists():
        raise StoreError(
            f"{folder}: has no manifest.json, so nobody can tell whether its files are whole: its run was interrupted, "
            "or is of an older crfl. Train it again: `crfl run` with its settings.yaml, into the same folder if it was "
            "this version, else into another"
        )
    raise StoreError(f"{folder}: no finished run here; `crfl run` makes one")


def read_params(files: Manifest, name: str) -> tuple[Tensor, dict[str, Any]]:
    """Parameters (P,) of a model, and what it is."""
    tensors, about = unpack_tensors(files.read(name), files.folder / name)
    if "params" not in tensors or not {"model", "num_features", "num_classes", "bias"} <= about.keys():
        raise DamagedFileError(f"{files.folder / name}: holds no model of a run")
    return tensors["params"], about


def versions() -> dict[str, str]:
    """Versions of crfl, Python and the packages that compute."""
    packages = ("crfl", "torch", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _round_of(name: str) -> int:
    """The round of a checkpoint's file."""
    number = Path(name).stem.removeprefix("round-")
    if not number.isdecimal():
        raise DamagedFileError(f"{name}: is no checkpoint of a round")
    return int(number)

"""Run folders: what a run was asked, what it did and what came of it, in files that outlive the process.

    settings.yaml           the experiment
    record.json             what happened in training, for certification
    history.csv             a row a round
    params.safetensors      the final model; written last: its presence says that training is complete
    checkpoints/            the models of the rounds asked for
    resume.safetensors      the state after some round, while training is not complete
    certificates/           per certificate a CSV (a row a test sample), a JSON (what it rests on) and its votes
    plots/                  PNG and PDF
    versions.json           of crfl, Python and the packages that compute

Every file is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crfl.certification.smoothing import VoteCounts
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.errors import StoreError
from crfl.files import read_columns, read_json, read_tensors, write_atomic, write_columns, write_tensors
from crfl.models import make_model
from crfl.models.base import Model
from crfl.progress import bar
from crfl.record import TrainingRecord
from crfl.run import TrainingRun
from crfl.run_batch import RunBatch
from crfl.runs.fingerprint import digest, own_functions
from crfl.state import TrainingState

if TYPE_CHECKING:
    from crfl.certification.certificate import Certificate

SAVE_SECONDS = 5.0
"""Time between two saves of an unfinished run."""


def train(
    folder: str | Path,
    exp: Experiment,
    data: FederatedData,
    *,
    benign: bool = False,
    model: Model | nn.Module | None = None,
    checkpoints: Sequence[int] = (),
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> TrainingRun:
    """`crfl.train` in a run folder: starts, resumes where it stopped (bit for bit), or loads what is complete.

    Raises StoreError if the folder holds another experiment's training.
    """
    folder = Path(folder)
    key = training_key(exp, data, benign, checkpoints, model)
    _claim(folder, exp, key)
    if (folder / "params.safetensors").exists():
        run = load_run(folder, exp, model=model)
        write_atomic(folder / "settings.yaml", exp.to_yaml())  # whose smoothing may be another
        return run
    stack = RunBatch.of([exp], data, [benign], model, checkpoints)
    state = _read_state(folder / "resume.safetensors") or stack.start()
    saved = time.monotonic()
    left = stack.rounds(state, device)
    rounds = bar(left, initial=state.round, total=stack.num_rounds, desc="training", unit="round", shown=progress)
    try:
        for state in rounds:
            if time.monotonic() - saved > SAVE_SECONDS:
                _write_state(folder / "resume.safetensors", state)
                saved = time.monotonic()
    except BaseException:  # Ctrl-C above all: keep what was done, then let it through
        if state.round:
            _write_state(folder / "resume.safetensors", state)
        raise
    run = stack.finish(state)[0]
    save_run(folder, run)
    (folder / "resume.safetensors").unlink(missing_ok=True)
    return run


def training_key(
    exp: Experiment,
    data: FederatedData,
    benign: bool = False,
    checkpoints: Sequence[int] = (),
    model: Model | nn.Module | None = None,
) -> dict[str, str]:
    """All that training depends on, as a digest for each part; the user's own functions and model by content."""
    parts: dict[str, Any] = {
        "benign": benign,
        "checkpoints": sorted({str(round_) for round_ in checkpoints}),
        "version": version("crfl"),
        "names": [data.client_names, data.feature_names, data.input_shape],
    }
    digests = _settings(exp) | {part: _digest(value) for part, value in parts.items()}
    digests["data"] = data.digest
    functions = own_functions(exp)
    own = {f"{setting}: {name}": digest(function) for (setting, name), function in functions.items()}
    return digests | own if model is None else digests | own | {"model": digest(model)}


def save_run(folder: str | Path, run: TrainingRun) -> None:
    """Write settings, record, history, checkpoints and, last, the final parameters.

    StoreError if the folder holds another run.
    """
    folder = Path(folder)
    if (folder / "params.safetensors").exists() and read_json(folder / "record.json") != run.record.to_dict():
        raise StoreError(f"{folder}: holds another run; choose another folder, or delete this one")
    model = {
        "model": run.model.name,
        "num_features": run.model.num_features,
        "num_classes": run.model.num_classes,
        "bias": run.model.bias,
    }
    write_atomic(folder / "settings.yaml", run.experiment.to_yaml())
    write_atomic(folder / "versions.json", json.dumps(versions(), indent=2) + "\n")
    write_atomic(folder / "record.json", json.dumps(run.record.to_dict(), allow_nan=False) + "\n")
    write_columns(folder / "history.csv", run.columns)
    for round_, params in run.checkpoints.items():
        write_tensors(folder / "checkpoints" / f"round-{round_:05d}.safetensors", {"params": params}, **model)
    write_tensors(folder / "params.safetensors", {"params": run.params}, **model)


def load_run(
    folder: str | Path, exp: Experiment | None = None, *, model: Model | nn.Module | None = None
) -> TrainingRun:
    """The finished run in `folder`, under its own settings or, to certify it anew, under `exp`.

    `model` is what was trained, if not softmax regression. StoreError if the folder holds no finished run of it.
    """
    folder = Path(folder)
    if not (folder / "params.safetensors").exists():
        raise StoreError(f"{folder}: no finished run here (params.safetensors is missing); `crfl run` makes one")
    exp = exp or Experiment.from_yaml(folder / "settings.yaml")
    params, about = _read_params(folder / "params.safetensors")
    trained = make_model(model, about["num_features"], about["num_classes"], about["bias"])
    if (trained.name, trained.num_params) != (about["model"], params.numel()):
        raise StoreError(
            f"{folder}: holds a run of {about['model']!r} with {params.numel()} parameters, found "
            f"{trained.name!r} with {trained.num_params}; give load_run the model that was trained"
        )
    try:
        record = TrainingRecord.from_dict(read_json(folder / "record.json"))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{folder / 'record.json'}: is not the record of a run ({error!r})") from None
    columns = read_columns(folder / "history.csv")
    rounds = {
        "settings.yaml": exp.server.rounds,
        "record.json": len(record.rounds),
        "history.csv": len(columns["round"]),
    }
    if len(set(rounds.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in rounds.items())
        raise StoreError(f"{folder}: its files tell of different numbers of rounds: {told}")
    _check_settings(folder, exp)
    return TrainingRun(
        experiment=exp,
        model=trained,
        params=params,
        record=record,
        columns=columns,
        checkpoints={
            int(path.stem.removeprefix("round-")): _read_params(path)[0]
            for path in sorted((folder / "checkpoints").glob("round-*.safetensors"))
        },
    )


def save_certificate(
    folder: str | Path, name: str, certificate: Certificate, labels: Tensor, exp: Experiment | None = None
) -> None:
    """Write certificates/<name>.csv (a row a certified sample, with its label), .json (assumptions) and the votes.

    `exp`: the settings under which it was issued, for the JSON file.
    """
    place = Path(folder) / "certificates"
    frame = certificate.to_frame()
    frame.insert(1, "label", labels.numpy()[certificate.indices])
    write_atomic(place / f"{name}.csv", frame.to_csv(index=False))
    about = {
        "kind": certificate.kind,
        "bounds": certificate.bounds and certificate.bounds.method,
        "critical_radius": _or_none(certificate.critical_radius),
        "assumptions": list(certificate.assumptions),
        "warnings": list(certificate.warnings),
        "seed": exp and exp.seed,
        "smoothing": exp and exp.smoothing.to_dict(),
        "crfl": versions()["crfl"],
    }
    write_atomic(place / f"{name}.json", json.dumps(about, indent=2, allow_nan=False) + "\n")
    if certificate.votes is not None:
        save_votes(place / f"{name}.votes.safetensors", certificate.votes)


def save_votes(path: Path, votes: VoteCounts) -> None:
    """Write the counts (m, C) with the number of models and the noise."""
    write_tensors(path, {"counts": torch.from_numpy(votes.counts)}, samples=votes.samples, noise=votes.noise)


def load_votes(path: Path) -> VoteCounts:
    """The votes that `save_votes` wrote."""
    tensors, about = read_tensors(path)
    if not {"samples", "noise"} <= about.keys() or "counts" not in tensors:
        raise StoreError(f"{path}: holds no votes; delete it to start anew")
    return VoteCounts(tensors["counts"].numpy(), int(about["samples"]), float(about["noise"]))


def check_data(folder: str | Path, data: FederatedData) -> None:
    """StoreError unless the run in `folder` was trained on this very data."""
    path = Path(folder) / "training.json"
    if path.exists() and read_json(path).get("data") != data.digest:
        raise StoreError(f"{folder}: the data is not that of the training; set data.root to where that lies")


def versions() -> dict[str, str]:
    """Versions of crfl, Python and the packages that compute."""
    packages = ("crfl", "torch", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _claim(folder: Path, exp: Experiment, key: dict[str, str]) -> None:
    """Mark a fresh folder as this training's; StoreError if it is another's."""
    path = folder / "training.json"
    if not path.exists() and (folder / "params.safetensors").exists():
        raise StoreError(f"{folder}: holds a run that was trained elsewhere; choose another folder, or delete this one")
    if not path.exists():
        write_atomic(folder / "settings.yaml", exp.to_yaml())
        write_atomic(path, json.dumps(key, indent=2) + "\n")
        return
    found = read_json(path)
    different = [name for name in {**key, **found} if found.get(name) != key.get(name)]
    if different:
        raise StoreError(
            f"{folder}: holds a run that differs in {', '.join(different)} (see its settings.yaml); "
            "choose another folder with --out, or delete this one"
        )


def _check_settings(folder: Path, exp: Experiment) -> None:
    """StoreError if the run in `folder` was trained by this version of crfl under other settings than `exp` has."""
    path = folder / "training.json"
    found = read_json(path) if path.exists() else {}
    if found.get("version") != _digest(version("crfl")):
        return
    different = [part for part, digest in _settings(exp).items() if found.get(part) != digest]
    if different:
        raise StoreError(
            f"{folder}: the settings are not those of the training, they differ in {', '.join(different)}; was "
            "settings.yaml changed by hand?"
        )


def _settings(exp: Experiment) -> dict[str, str]:
    """The settings that matter to training, as a digest for each part."""
    settings = exp.to_dict()
    return {part: _digest(settings[part]) for part in ("seed", "local", "server", "attack")}


def _digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _read_params(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """Parameters of a model, and what it is."""
    tensors, about = read_tensors(path)
    if "params" not in tensors or not {"model", "num_features", "num_classes"} <= about.keys():
        raise StoreError(f"{path}: holds no model of a run; delete it to start anew")
    return tensors["params"], about


def _write_state(path: Path, state: TrainingState) -> None:
    write_tensors(path, state.to_tensors())


def _read_state(path: Path) -> TrainingState | None:
    if not path.exists():
        return None
    try:
        return TrainingState.from_tensors([read_tensors(path)[0]])
    except KeyError as error:
        raise StoreError(f"{path}: is not the state of a run ({error} is missing); delete it to start anew") from None


def _or_none(value: float) -> float | None:
    """JSON has no infinity."""
    return value if abs(value) != float("inf") else None

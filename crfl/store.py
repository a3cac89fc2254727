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
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from crfl.certification.smoothing import VoteCounts
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.errors import StoreError
from crfl.training.models import Model
from crfl.training.modules import make_model
from crfl.training.own import digest, own_functions
from crfl.training.record import TrainingRecord
from crfl.training.run import Columns, TrainingRun
from crfl.training.stack import Stack
from crfl.training.state import TrainingState

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from crfl.certification.certificate import Certificate

SAVE_SECONDS = 5.0
"""Time between two saves of an unfinished run."""


def train(
    folder: str | Path,
    exp: Experiment,
    data: FederatedData,
    *,
    benign: bool = False,
    model: nn.Module | None = None,
    checkpoints: Sequence[int] = (),
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> TrainingRun:
    """`crfl.train` in a run folder: starts, resumes where it stopped (bit for bit), or loads what is complete.

    Raises StoreError if the folder holds another experiment's training.
    """
    from tqdm.auto import tqdm

    folder = Path(folder)
    key = training_key(exp, data, benign, checkpoints, model)
    _claim(folder, exp, key)
    if (folder / "params.safetensors").exists():
        return load_run(folder, exp, model=model)
    stack = Stack((exp,), (benign,), data, tuple(checkpoints), model)
    state = _read_state(folder / "resume.safetensors") or stack.start()
    saved = time.monotonic()
    bar = tqdm(
        stack.rounds(state, device),
        initial=state.round,
        total=stack.num_rounds,
        desc="training",
        unit="round",
        disable=not progress,
    )
    try:
        for state in bar:
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
    model: nn.Module | None = None,
) -> dict[str, str]:
    """All that training depends on, as a digest for each part; the user's own functions and model by content."""
    settings = exp.to_dict()
    parts = {group: settings[group] for group in ("seed", "local", "server", "attack")}
    parts |= {"benign": benign, "checkpoints": sorted(checkpoints), "version": version("crfl")}
    digests = {k: hashlib.blake2b(json.dumps(v).encode(), digest_size=16).hexdigest() for k, v in parts.items()}
    digests["data"] = data.digest
    functions = own_functions(exp)
    own = {f"{setting}: {name}": digest(function) for (setting, name), function in functions.items()}
    return digests | own if model is None else digests | own | {"model": digest(model)}


def save_run(folder: str | Path, run: TrainingRun) -> None:
    """Write settings, record, history, checkpoints and, last, the final parameters."""
    folder = Path(folder)
    model = {
        "model": run.model.name,
        "num_features": str(run.model.num_features),
        "num_classes": str(run.model.num_classes),
    }
    write_atomic(folder / "settings.yaml", run.experiment.to_yaml())
    write_atomic(folder / "versions.json", json.dumps(versions(), indent=2) + "\n")
    write_atomic(folder / "record.json", json.dumps(run.record.to_dict(), allow_nan=False) + "\n")
    lines = [run.columns, *zip(*(column.tolist() for column in run.columns.values()), strict=True)]
    write_atomic(folder / "history.csv", "".join(",".join(map(str, line)) + "\n" for line in lines))
    for round_, params in run.checkpoints.items():
        write_atomic(folder / "checkpoints" / f"round-{round_:05d}.safetensors", save({"params": params}, model))
    write_atomic(folder / "params.safetensors", save({"params": run.params}, model))


def load_run(
    folder: str | Path, exp: Experiment | None = None, *, model: Model | nn.Module | None = None
) -> TrainingRun:
    """The finished run in `folder`, under its own settings or, to certify it anew, under `exp`.

    `model` is what was trained, if not softmax regression. StoreError if the folder holds no finished run of it.
    """
    folder = Path(folder)
    if not (folder / "params.safetensors").exists():
        raise StoreError(f"{folder}: no finished run here (params.safetensors is missing); `crfl run` makes one")
    tensors, metadata = read_tensors(folder / "params.safetensors")
    trained = make_model(model, int(metadata["num_features"]), int(metadata["num_classes"]))
    if (trained.name, trained.num_params) != (metadata["model"], tensors["params"].numel()):
        raise StoreError(
            f"{folder}: holds a run of {metadata['model']!r} with {tensors['params'].numel()} parameters, found "
            f"{trained.name!r} with {trained.num_params}; give load_run the model that was trained"
        )
    return TrainingRun(
        experiment=exp or Experiment.from_yaml(folder / "settings.yaml"),
        model=trained,
        params=tensors["params"],
        record=TrainingRecord.from_dict(json.loads((folder / "record.json").read_text(encoding="utf-8"))),
        columns=_read_columns(folder / "history.csv"),
        checkpoints={
            int(path.stem.removeprefix("round-")): read_tensors(path)[0]["params"]
            for path in sorted((folder / "checkpoints").glob("round-*.safetensors"))
        },
    )


def save_certificate(folder: str | Path, name: str, certificate: Certificate, labels: Tensor) -> None:
    """Write certificates/<name>.csv (a row a certified sample, with its label), .json (assumptions) and the votes."""
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
        "crfl": versions()["crfl"],
    }
    write_atomic(place / f"{name}.json", json.dumps(about, indent=2, allow_nan=False) + "\n")
    if certificate.votes is not None:
        save_votes(place / f"{name}.votes.safetensors", certificate.votes)


def save_votes(path: Path, votes: VoteCounts) -> None:
    """Write the counts (m, C) with the number of models and the noise."""
    about = {"samples": str(votes.samples), "noise": repr(votes.noise)}
    write_atomic(path, save({"counts": torch.from_numpy(votes.counts)}, about))


def load_votes(path: Path) -> VoteCounts:
    """The votes that `save_votes` wrote."""
    tensors, about = read_tensors(path)
    return VoteCounts(tensors["counts"].numpy(), int(about["samples"]), float(about["noise"]))


def check_data(folder: str | Path, data: FederatedData) -> None:
    """StoreError unless the run in `folder` was trained on this very data."""
    path = Path(folder) / "training.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8"))["data"] != data.digest:
        raise StoreError(f"{folder}: the data is not that of the training; set data.root to where that lies")


def save_plot(folder: str | Path, name: str, ax: Axes) -> Path:
    """Write plots/<name>.png and .pdf of the figure that holds `ax`, and close it; returns the PNG's path."""
    import io

    from matplotlib import pyplot

    figure = ax.get_figure(root=True)
    assert figure is not None

    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # lay it out once, not once a format
        figure.set_layout_engine("none")
    for suffix in ("png", "pdf"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=150)
        write_atomic(Path(folder) / "plots" / f"{name}.{suffix}", buffer.getvalue())
    pyplot.close(figure)
    return Path(folder) / "plots" / f"{name}.png"


def versions() -> dict[str, str]:
    """Versions of crfl, Python and the packages that compute."""
    packages = ("crfl", "torch", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: beside it first, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as sink:
            sink.write(content.encode() if isinstance(content, str) else content)
            sink.flush()
            os.fsync(sink.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; StoreError if it is not one."""
    try:
        with safe_open(path, framework="pt") as source:
            return {name: source.get_tensor(name) for name in source.keys()}, source.metadata() or {}  # noqa: SIM118
    except Exception as error:  # safetensors has no public error class
        raise StoreError(f"{path}: cannot be read as safetensors ({error}); delete it to start anew") from None


def _claim(folder: Path, exp: Experiment, key: dict[str, str]) -> None:
    """Mark a fresh folder as this training's; StoreError if it is another's."""
    path = folder / "training.json"
    if not path.exists():
        write_atomic(folder / "settings.yaml", exp.to_yaml())
        write_atomic(path, json.dumps(key, indent=2) + "\n")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    different = [name for name in {**key, **found} if found.get(name) != key.get(name)]
    if different:
        raise StoreError(
            f"{folder}: holds a run that differs in {', '.join(different)} (see its settings.yaml); "
            "choose another folder with --out, or delete this one"
        )


def _write_state(path: Path, state: TrainingState) -> None:
    write_atomic(path, save(state.to_tensors()))


def _read_state(path: Path) -> TrainingState | None:
    return TrainingState.from_tensors(read_tensors(path)[0]) if path.exists() else None


def _read_columns(path: Path) -> Columns:
    """The columns of a CSV file of numbers, to the last bit."""
    names = path.read_text(encoding="utf-8").split("\n", maxsplit=1)[0].split(",")
    columns = dict(zip(names, np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2).T, strict=True))
    return columns | {"round": columns["round"].astype(np.int64)}


def _or_none(value: float) -> float | None:
    """JSON has no infinity."""
    return value if abs(value) != float("inf") else None

"""The files of an ensemble, and what they say: one file of parameters, one of records, for all groups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from crfl.config import Experiment
from crfl.ensemble_run import EnsembleRun, choose_groups
from crfl.errors import DamagedFileError, SettingsError, StoreError
from crfl.files import pack_tensors
from crfl.finish import group_columns
from crfl.models.base import Model
from crfl.record import TrainingRecord
from crfl.run import TrainingRun
from crfl.runs import plausibility, record_file
from crfl.runs.manifest import Manifest
from crfl.runs.one_model import about_model, read_params, read_settings, trained_model, versions_text

NAME, RECORDS, PARAMS = "ensemble.json", "records.jsonl", "params.safetensors"


class Groups(BaseModel):
    """What ensemble.json consists of."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    client_names: list[str]
    groups: list[list[Annotated[int, Field(ge=0)]]]
    """The numbers of each group's clients, rising."""


def run_files(run: EnsembleRun) -> dict[str, bytes]:
    """The files of an ensemble by their path in its folder. Equal ensembles have equal files.

    StoreError if its groups are not those that the settings deal.
    """
    groups = [clients.tolist() for clients in run.groups]
    _check_groups(run.experiment, Groups(client_names=list(run.client_names), groups=groups))
    records = (record_file.dumps(run.record(group)) for group in range(len(groups)))
    return {
        "settings.yaml": run.experiment.to_yaml().encode(),
        "versions.json": versions_text(),
        NAME: (json.dumps({"client_names": list(run.client_names), "groups": groups}) + "\n").encode(),
        RECORDS: "".join(records).encode(),
        PARAMS: pack_tensors({"params": run.params}, **about_model(run.model)),
    }


def load_ensemble(files: Manifest, exp: Experiment | None, model: Model | nn.Module | None) -> EnsembleRun:
    """The ensemble of these files; arguments and errors as of `load_run`. A group's record is read when it is needed."""
    exp, groups, params, about, records = _read(files, exp)
    trained = trained_model(files.folder, model, about, params.shape[1])
    return EnsembleRun(
        experiment=exp,
        model=trained,
        params=params,
        groups=tuple(np.array(clients, dtype=np.int64) for clients in groups.groups),
        client_names=tuple(groups.client_names),
        make_group_run=partial(_group_run, files.folder, exp, trained, groups, params, records),
    )


def check_ensemble(files: Manifest) -> None:
    """Read all files of an ensemble, every group's record too. DamagedFileError if they contradict one another."""
    exp, groups, params, _, records = _read(files)
    attackers = set()
    for group in range(len(records)):
        record = _record(files.folder, exp, groups, params, records, group)
        attackers |= {record.client_names[a] for a in record.attackers}
    expected = exp.attack.count if exp.attack.rounds(exp.server.rounds) else 0
    if exp.ensemble.clients_per_group is None and len(attackers) != expected:
        raise DamagedFileError(f"{files.folder / RECORDS}: got {len(attackers)} attackers, expected {expected}")


def _read(
    files: Manifest, exp: Experiment | None = None
) -> tuple[Experiment, Groups, Tensor, dict[str, Any], list[bytes]]:
    """Settings, groups, parameters (G, P) with what they are, and a record's text for each group."""
    exp = read_settings(files, exp)
    try:
        groups = Groups.model_validate_json(files.read(NAME))
    except ValidationError as error:
        raise DamagedFileError(
            f"{files.folder / NAME}: is not the groups of an ensemble: {error.errors()[0]['msg']}"
        ) from None
    _check_groups(exp, groups, files.folder)
    params, about = read_params(files, PARAMS)
    records = files.read(RECORDS).splitlines()
    if params.ndim != 2 or not len(params) == len(records) == len(groups.groups):
        raise DamagedFileError(
            f"{files.folder}: its files contradict one another: got parameters {tuple(params.shape)} and {len(records)} "
            f"records, expected {len(groups.groups)} groups"
        )
    if not torch.isfinite(params).all():
        raise DamagedFileError(f"{files.folder / PARAMS}: got parameters that are not finite, expected finite numbers")
    return exp, groups, params, about, records


def _check_groups(exp: Experiment, found: Groups, folder: Path | None = None) -> None:
    """StoreError unless the groups are those that names, settings and seed deal, whatever was trained."""
    where = "" if folder is None else f"{folder}: "
    try:
        dealt = choose_groups(found.client_names, exp.ensemble, exp.seed)
    except SettingsError as error:
        raise StoreError(f"{where}no ensemble by its settings: {error}") from None
    if [clients.tolist() for clients in dealt] != found.groups:
        raise StoreError(f"{where}the groups are not those that its settings and its clients' names deal")


def _group_run(
    folder: Path, exp: Experiment, model: Model, groups: Groups, params: Tensor, records: list[bytes], group: int
) -> TrainingRun:
    record = _record(folder, exp, groups, params, records, group)
    return TrainingRun(experiment=exp, model=model, params=params[group], record=record, columns=group_columns(record))


def _record(
    folder: Path, exp: Experiment, groups: Groups, params: Tensor, records: list[bytes], group: int
) -> TrainingRecord:
    """The record of a group; DamagedFileError if it contradicts the other files."""
    record = record_file.loads(records[group], folder / RECORDS)
    wrong = list(_problems(record, exp, groups, group))
    if not wrong:
        norm = float(torch.linalg.vector_norm(params[group], dtype=torch.float64))
        wrong = plausibility.norm_problems(norm, record.rounds[-1])
    if wrong:
        raise DamagedFileError(f"{folder}: its files contradict one another: group {group}: {'; '.join(wrong[:5])}")
    return record


def _problems(record: TrainingRecord, exp: Experiment, groups: Groups, group: int) -> Iterator[str]:
    clients = groups.groups[group]
    if list(record.client_names) != [groups.client_names[c] for c in clients]:
        yield "its record is of other clients"
        return
    rates = exp.local.learning_rates(len(groups.client_names))
    yield from plausibility.contradictions(record, exp, tuple(rates[c] for c in clients))

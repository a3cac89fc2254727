"""A folder of runs and votes, each under a name made of all that it depends on."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from crfl import fingerprint, rng, sanity
from crfl.certification.certificate import Certificate
from crfl.certification.certify import certify
from crfl.certification.smoothing import VoteCounts, smooth
from crfl.config import Experiment
from crfl.data.federated import FederatedData, Split
from crfl.data.load import load_data
from crfl.errors import DamagedFileError, SettingsError
from crfl.run import TrainingRun
from crfl.runs import manifest
from crfl.runs.certificates import load_votes, save_votes
from crfl.runs.claim import training_key
from crfl.runs.folder import is_complete, load_one_model, save_run
from crfl.runs.lock import folder_lock
from crfl.runs.own import Own, own_functions, register
from crfl.sweeps.jobs import work_off
from crfl.training import train, train_pair

WAIT = 24 * 3600.0
"""Seconds to wait for another process that trains the same pair."""


@dataclass(frozen=True)
class Cache:
    """A folder of runs and votes. Several processes and machines may use the same one at the same time."""

    root: Path
    """Where it lies."""
    jobs: int = 1
    """Processes that train at the same time (joblib; a back end such as Ray or Dask may take them elsewhere)."""
    device: str = "cpu"
    data: FederatedData | None = field(default=None, repr=False)
    """Your own data, for all runs; None: what the settings of a run name."""
    model: nn.Module | None = field(default=None, repr=False)
    """Your own model, for all runs; None: softmax regression."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))  # a string will do
        if self.jobs < 1:
            raise SettingsError([f"jobs: got {self.jobs}, expected 1 and more"])

    def train(
        self, experiments: Sequence[Experiment], *, benign: bool = False, checkpoints: Sequence[int] = ()
    ) -> list[TrainingRun]:
        """The runs of the experiments, trained if they are not in the cache yet.

        A run that fails ends the call with its error after the others were trained; those stay in the cache.
        """
        folders = [self.folder(exp, benign, checkpoints) for exp in experiments]
        pairs = list(zip(folders, experiments, strict=True))
        tasks = {
            folder: partial(_train, self, folder, exp, benign, checkpoints, own_functions(exp)) for folder, exp in pairs
        }
        work_off(tasks, is_complete, self.jobs)
        return [self._load(folder, exp, benign, checkpoints) for folder, exp in pairs]

    def pair(self, exp: Experiment) -> tuple[TrainingRun, TrainingRun]:
        """A run and its benign counterpart, trained in one pass; `distance` in the run's history is theirs."""
        folder = self.folder(exp).with_name(self.folder(exp).name + "-pair")
        places = folder / "run", folder / "benign"
        if not all(map(is_complete, places)):
            with folder_lock(folder, wait=WAIT):
                if not all(map(is_complete, places)):
                    self._train_pair(exp, *places)
        run, benign = (load_one_model(place, exp, model=self.model) for place in places)
        return run, benign

    def folder(self, exp: Experiment, benign: bool = False, checkpoints: Sequence[int] = ()) -> Path:
        """Where the run of these settings lives."""
        key = training_key(exp, self.data_of(exp), benign, checkpoints, self.model)
        return self.root / "runs" / f"{exp.data.name}-{_digest(key)}"

    def data_of(self, exp: Experiment) -> FederatedData:
        """What a run of these settings is trained on."""
        return dataset(exp) if self.data is None else self.data

    def certify(self, run: TrainingRun, test: Split, **options: Any) -> Certificate:
        """`crfl.certify`, its votes taken from the cache or left there."""
        kind = options.get("kind", inspect.signature(certify).parameters["kind"].default)
        if (
            kind in ("published", "smoothing", "distance")
            and options.get("bounds") != "exact"
            and "votes" not in options
        ):
            options["votes"] = self.votes(run, test)
        return certify(run, test, **options)

    def votes(self, run: TrainingRun, test: Split) -> VoteCounts:
        """Algorithm 2's votes on the whole test set or, if the settings ask for fewer, on the rows they draw."""
        settings, seed = run.experiment.smoothing, run.experiment.seed
        wanted = settings.test_samples
        if wanted is not None and wanted < len(test.x):
            test = test.take(rng.choice(len(test.x), wanted, rng.stream(seed, "test samples")))
        parts = {"params": fingerprint.digest(run.params), "x": fingerprint.digest(test.x)}
        parts |= {} if self.model is None else {"model": fingerprint.digest(self.model)}
        key = _digest({**parts, "noise": settings.noise, "samples": settings.samples, "seed": seed})
        path = self.root / "votes" / f"{key}.safetensors"
        try:
            return load_votes(path)
        except DamagedFileError:  # or not there yet
            generator = rng.stream(seed, "votes")
            params = run.params.to(self.device)
            found = smooth(
                run.model, params, test.x, noise=settings.noise, samples=settings.samples, generator=generator
            )
            save_votes(path, found)
            return found

    def _load(self, folder: Path, exp: Experiment, benign: bool, checkpoints: Sequence[int]) -> TrainingRun:
        """The complete run in a folder; one that was damaged is trained again."""
        try:
            return load_one_model(folder, exp, model=self.model)
        except DamagedFileError:
            _train(self, folder, exp, benign, checkpoints, {})
            return load_one_model(folder, exp, model=self.model)

    def _train_pair(self, exp: Experiment, place: Path, benign_place: Path) -> None:
        """Train a pair and write both runs, in place of what a pair left that was not finished."""
        run, benign = train_pair(exp, self.data_of(exp), model=self.model, device=self.device)
        for one, where in ((benign, benign_place), (run, place)):
            (where / manifest.NAME).unlink(missing_ok=True)
            save_run(where, one)


def prefix(run: TrainingRun, rounds: int) -> TrainingRun:
    """The run as if it had ended after `rounds`, from its checkpoint: the last round only clips.

    Args:
        run: A run that kept the model of that round (`checkpoints`).
        rounds: T of the shorter run.

    Raises:
        SettingsError: if that is before an attack round, or the run kept no checkpoint of it.
    """
    shorter = run.experiment.override({"server.rounds": rounds})
    if rounds not in run.checkpoints:
        known = ", ".join(map(str, sorted(run.checkpoints))) or "none"
        raise SettingsError([f"rounds: got {rounds}, expected a round whose model the run kept ({known})"])
    kept = list(run.record.rounds[:rounds])
    kept[-1] = replace(kept[-1], noise_std=0.0)
    return replace(
        run,
        experiment=shorter,
        params=run.checkpoints[rounds],
        record=replace(run.record, rounds=tuple(kept)),
        columns={name: column[:rounds] for name, column in run.columns.items()}
        | {"noise_std": np.append(run.columns["noise_std"][: rounds - 1], 0.0)},
        checkpoints={},
    )


def dataset(exp: Experiment) -> FederatedData:
    """The experiment's data, kept for the next experiment that wants the same."""
    settings = exp.to_dict()
    return _load_data(
        _Wanted(json.dumps({group: settings[group] for group in ("seed", "data", "features", "local")}), exp)
    )


@dataclass(frozen=True)
class _Wanted:
    """Data that is wanted: what it depends on, and the whole settings of one who wants it."""

    key: str
    exp: Experiment = field(compare=False, repr=False)


@lru_cache(maxsize=32)
def _load_data(wanted: _Wanted) -> FederatedData:
    return load_data(wanted.exp)


def _train(
    cache: Cache,
    folder: Path,
    exp: Experiment,
    benign: bool,
    checkpoints: Sequence[int],
    functions: Own,
) -> None:
    """One job of a sweep. A worker is a new process, which does not know the user's own functions."""
    register(functions)
    with sanity.quiet():  # whoever sweeps says it once
        train(
            exp,
            cache.data_of(exp),
            benign=benign,
            model=cache.model,
            checkpoints=checkpoints,
            resume_dir=folder,
            device=cache.device,
        )


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()

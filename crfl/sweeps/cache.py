"""A folder of runs and votes, each under a name made of all that it depends on."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
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
from crfl.errors import DamagedFileError, SettingsError
from crfl.run import TrainingRun
from crfl.runs import manifest
from crfl.runs.certificates import load_votes, save_votes
from crfl.runs.claim import training_key
from crfl.runs.folder import is_complete, load_one_model, save_run
from crfl.runs.lock import folder_lock
from crfl.runs.own import Own, own_functions, register
from crfl.sweeps.datasets import dataset
from crfl.sweeps.jobs import work_off
from crfl.training import train, train_pair

WAIT = 24 * 3600.0
"""Seconds to wait for another process that trains the same pair."""


@dataclass(frozen=True)
class Cache:
    """A folder of runs and votes. Several processes and machines may use the same one at the same time.

    Raises:
        SettingsError: `jobs` is less than 1.

    Example:
        >>> import crfl, tempfile
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2, "smoothing.samples": 50})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = Cache(folder)
        ...     (run,) = cache.train([exp])  # trains
        ...     (again,) = cache.train([exp])  # reads
        ...     run, benign = cache.pair(exp)
        ...     test = cache.data_of(exp).test
        ...     votes = cache.votes(run, test)
        ...     cert = cache.certify(run, test, kind="smoothing")  # with those votes
        ...     print(cache.folder(exp).name.startswith("digits-"), votes.samples, cert.kind, benign.record.benign)
        True 50 smoothing True
    """

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
        """The runs of some experiments, trained if they are not in the cache yet.

        A run that fails ends the call with its error after the others were trained; those stay in the cache.

        Args:
            experiments: The settings of each run.
            benign: Whether to train the benign counterparts instead.
            checkpoints: Rounds whose models are kept.

        Returns:
            A run for each experiment, in their order.

        Raises:
            TrainingError: A run failed; so with the other errors of `crfl.train`.
        """
        folders = [self.folder(exp, benign, checkpoints) for exp in experiments]
        pairs = list(zip(folders, experiments, strict=True))
        tasks = {
            folder: partial(_train, self, folder, exp, benign, checkpoints, own_functions(exp)) for folder, exp in pairs
        }
        work_off(tasks, is_complete, self.jobs)
        return [self._load(folder, exp, benign, checkpoints) for folder, exp in pairs]

    def pair(self, exp: Experiment) -> tuple[TrainingRun, TrainingRun]:
        """A run and its benign counterpart, trained in one pass; `distance` in the run's history is theirs.

        Args:
            exp: The settings of both.

        Returns:
            The run, then its benign counterpart.
        """
        folder = self.folder(exp).with_name(self.folder(exp).name + "-pair")
        places = folder / "run", folder / "benign"
        if not all(map(is_complete, places)):
            with folder_lock(folder, wait=WAIT):
                if not all(map(is_complete, places)):
                    self._train_pair(exp, *places)
        run, benign = (load_one_model(place, exp, model=self.model) for place in places)
        return run, benign

    def folder(self, exp: Experiment, benign: bool = False, checkpoints: Sequence[int] = ()) -> Path:
        """Where the run of some settings lives, trained or not.

        Args:
            exp: The settings.
            benign: Whether it is the benign counterpart.
            checkpoints: Rounds whose models are kept.

        Returns:
            A folder named by a digest of all that the run depends on.
        """
        key = training_key(exp, self.data_of(exp), benign, checkpoints, self.model)
        return self.root / "runs" / f"{exp.data.name}-{_digest(key)}"

    def data_of(self, exp: Experiment) -> FederatedData:
        """What a run is trained on.

        Args:
            exp: Its settings.

        Returns:
            The cache's own data, or else what the settings name.
        """
        return dataset(exp) if self.data is None else self.data

    def certify(self, run: TrainingRun, test: Split, **options: Any) -> Certificate:
        """`crfl.certify`, its votes taken from the cache or left there.

        Args:
            run: A run of this cache's model.
            test: What is certified.
            options: Those of `crfl.certify`.

        Returns:
            The certificate.

        Raises:
            CertificateError: as `crfl.certify`.
        """
        kind = options.get("kind", inspect.signature(certify).parameters["kind"].default)
        if (
            kind in ("published", "smoothing", "distance")
            and options.get("bounds") != "exact"
            and "votes" not in options
        ):
            options["votes"] = self.votes(run, test)
        return certify(run, test, **options)

    def votes(self, run: TrainingRun, test: Split) -> VoteCounts:
        """Algorithm 2's votes on the whole test set or, if the settings ask for fewer, on the rows they draw.

        Args:
            run: A run of this cache's model.
            test: The whole test set.

        Returns:
            Votes (m, C).

        Raises:
            CertificateError: as `crfl.smooth`.
        """
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
    """The run as if it had ended earlier, from its checkpoint: the last round only clips.

    Args:
        run: A run that kept the model of that round (`checkpoints`).
        rounds: T of the shorter run.

    Returns:
        The shorter run, the same to the last bit as if it had been trained so.

    Raises:
        SettingsError: if that is before an attack round, or the run kept no checkpoint of it.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 5, "attack.round": 2})
        >>> run = crfl.train(exp, data := crfl.load_data(exp), checkpoints=[3])
        >>> bool((prefix(run, 3).params == crfl.train(exp.override({"server.rounds": 3}), data).params).all())
        True
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

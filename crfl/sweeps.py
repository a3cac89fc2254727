"""One base setting, one swept value, many runs: trained once, spread over cores, certified from cached votes.

Runs and votes live in a cache folder under a name made of all that they depend on. A sweep that is killed goes on where
it stopped, and a run that two sweeps share is trained once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import nn

from crfl import rng
from crfl.certification.certificate import Certificate
from crfl.certification.certify import certify
from crfl.certification.smoothing import VoteCounts, smooth
from crfl.config import Experiment
from crfl.data.federated import FederatedData, Split
from crfl.data.load import load_data
from crfl.errors import SettingsError
from crfl.progress import bar
from crfl.run import TrainingRun
from crfl.runs import fingerprint as own
from crfl.runs import certificates, claim, folder as folders
from crfl.training import train, train_pair

T = TypeVar("T")


@dataclass(frozen=True)
class Cache:
    """A folder of runs and votes."""

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
        """The runs of the experiments, trained if they are not in the cache yet."""
        from joblib import Parallel, delayed

        folders = [self.folder(exp, benign, checkpoints) for exp in experiments]
        missing = {
            folder: exp
            for folder, exp in zip(folders, experiments, strict=True)
            if not folders.is_complete(folder)
        }
        jobs = Parallel(n_jobs=min(self.jobs, max(1, len(missing))), return_as="generator_unordered")(
            delayed(_train)(self, folder, exp, benign, checkpoints, own.own_functions(exp))
            for folder, exp in missing.items()
        )
        for _ in bar(jobs, total=len(missing), desc="runs", unit="run", leave=False, shown=bool(missing)):
            pass
        pairs = zip(folders, experiments, strict=True)
        return [folders.load_run(folder, exp, model=self.model) for folder, exp in pairs]

    def pair(self, exp: Experiment) -> tuple[TrainingRun, TrainingRun]:
        """A run and its benign counterpart, trained in one pass; `distance` in the run's history is theirs."""
        folder = self.folder(exp).with_name(self.folder(exp).name + "-pair")
        places = folder / "run", folder / "benign"
        if not (places[0] / "params.safetensors").exists():
            pair = train_pair(exp, self.data_of(exp), model=self.model, device=self.device)
            for run, place in reversed(list(zip(pair, places, strict=True))):
                (place / "params.safetensors").unlink(missing_ok=True)  # left by a pair that was not finished
                folders.save_run(place, run)
        run, benign = (folders.load_run(place, exp, model=self.model) for place in places)
        return run, benign

    def folder(self, exp: Experiment, benign: bool = False, checkpoints: Sequence[int] = ()) -> Path:
        """Where the run of these settings lives."""
        key = claim.training_key(exp, self.data_of(exp), benign, checkpoints, self.model)
        return self.root / "runs" / f"{exp.data.name}-{_digest(key)}"

    def data_of(self, exp: Experiment) -> FederatedData:
        """What a run of these settings is trained on."""
        return dataset(exp) if self.data is None else self.data

    def certify(self, run: TrainingRun, test: Split, **options: Any) -> Certificate:
        """`crfl.certify`, its votes taken from the cache or left there."""
        if options.get("kind", "published") == "margin" or options.get("bounds") == "exact":
            return certify(run, test, **options)
        if options.get("bounds", "hoeffding") == "hoeffding":
            options["votes"] = self.votes(run, test)
        return certify(run, test, **options)

    def votes(self, run: TrainingRun, test: Split) -> VoteCounts:
        """Algorithm 2's votes on the whole test set or, if the settings ask for fewer, on the rows they draw."""
        settings, seed = run.experiment.smoothing, run.experiment.seed
        wanted = settings.test_samples
        if wanted is not None and wanted < len(test.x):
            test = test.take(rng.choice(len(test.x), wanted, rng.stream(seed, "test samples")))
        parts = {"params": own.digest(run.params), "x": own.digest(test.x)}
        parts |= {} if self.model is None else {"model": own.digest(self.model)}
        key = _digest({**parts, "noise": settings.noise, "samples": settings.samples, "seed": seed})
        path = self.root / "votes" / f"{key}.safetensors"
        if not path.exists():
            params = run.params.to(self.device)
            generator = rng.stream(seed, "votes")
            found = smooth(
                run.model, params, test.x, noise=settings.noise, samples=settings.samples, generator=generator
            )
            certificates.save_votes(path, found)
        return certificates.load_votes(path)


@dataclass(frozen=True)
class Sweep:
    """Certificates for each value of one setting and each seed."""

    values: tuple[Any, ...]
    runs: tuple[tuple[TrainingRun, ...], ...]
    """For each value a run a seed."""
    certificates: tuple[tuple[Certificate, ...], ...]
    labels: tuple[tuple[npt.NDArray[np.int64], ...], ...] = field(repr=False)
    """For each value the labels of the whole test set, a seed: some data has another test set for each."""

    @property
    def critical(self) -> npt.NDArray[np.float64]:
        """Critical radius of each value: where the certified rate falls to 0, the mean over seeds."""
        return np.array([np.mean([c.critical_radius for c in group]) for group in self.certificates])

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """Share of the whole test set that each value's base classifier gets right, the mean over seeds."""
        return np.array([np.mean([r.history["accuracy"].iloc[-1] for r in group]) for group in self.runs])

    def certified_accuracy(self, radii: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(values, seeds, radii)"""
        pairs = [zip(*groups, strict=True) for groups in zip(self.certificates, self.labels, strict=True)]
        return np.array([[c.certified_accuracy(y, radii) for c, y in group] for group in pairs])

    def certified_rate(self, radii: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(values, seeds, radii)"""
        return np.array([[c.certified_rate(radii) for c in group] for group in self.certificates])


def sweep(
    cache: Cache,
    base: Experiment,
    key: str,
    values: Sequence[Any],
    *,
    seeds: Iterable[int] = (0,),
    test: Callable[[Experiment, FederatedData], Split] | None = None,
    **options: Any,
) -> Sweep:
    """Train and certify `base` with the setting `key` at each of `values`, once a seed.

    `test` makes the test set (default: the clean one); `options` go to `crfl.certify`. SettingsError without values or
    seeds.
    """
    seeds = tuple(seeds)
    if not seeds or not values:
        raise SettingsError(["seeds, values: got none, expected one or more of each"])
    grid = [base.override({key: value, "seed": seed}) for value in values for seed in seeds]
    trained = cache.train(grid)
    certificates, labels = [], []
    for run in trained:
        data = cache.data_of(run.experiment)
        split = data.test if test is None else test(run.experiment, data)
        labels.append(split.y.numpy())
        certificates.append(cache.certify(run, split, **options))

    def by_value(items: list[T]) -> tuple[tuple[T, ...], ...]:
        n = len(seeds)
        return tuple(tuple(items[i : i + n]) for i in range(0, len(items), n))

    return Sweep(tuple(values), by_value(trained), by_value(certificates), by_value(labels))


def prefix(run: TrainingRun, rounds: int) -> TrainingRun:
    """The run as if it had ended after `rounds`, from its checkpoint: the last round only clips.

    SettingsError if that is before an attack round, or the run kept no checkpoint of it.
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
    return _load(json.dumps({group: settings[group] for group in ("seed", "data", "local")}))


@lru_cache(maxsize=32)
def _load(settings: str) -> FederatedData:
    return load_data(Experiment.from_dict({**json.loads(settings), "attack": {"clients": 0, "poisoned_per_batch": 0}}))


def _train(
    cache: Cache, folder: Path, exp: Experiment, benign: bool, checkpoints: Sequence[int], functions: own.Own
) -> None:
    """One job of a sweep. A worker is a new process, which does not know the user's own functions."""
    own.register(functions)
    store.train(
        folder,
        exp,
        cache.data_of(exp),
        benign=benign,
        model=cache.model,
        checkpoints=checkpoints,
        device=cache.device,
    )


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()

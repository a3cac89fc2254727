"""A sweep: one base setting, every combination of some values, several seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from crfl import sanity
from crfl.certification.certificate import Certificate
from crfl.config import Experiment
from crfl.data.federated import FederatedData, Split
from crfl.errors import SettingsError
from crfl.run import TrainingRun
from crfl.sweeps.cache import Cache
from crfl.training import warn_of_results

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sweep:
    """Runs and certificates for each value and each seed. `sweep` makes it.

    Example:
        >>> import crfl, tempfile
        >>> base = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = sweep(Cache(folder), base, "attack.scale", [2.0, 4.0], seeds=2, kind="margin")
        >>> found.certified_accuracy([0.0, 0.1, 0.2]).shape, found.certified_rate([0.0]).shape
        ((2, 2, 3), (2, 2, 1))
        >>> list(found.to_frame().columns[:3]), list(found.curves([0.0, 0.1]).columns)
        (['attack.scale', 'seed', 'accuracy'], ['attack.scale', 'radius', 'mean', 'low', 'high'])
    """

    values: tuple[Any, ...]
    """The values of the setting that was swept; of several settings, a tuple of a value for each."""
    runs: tuple[tuple[TrainingRun, ...], ...] = field(repr=False)
    """For each value a run a seed."""
    certificates: tuple[tuple[Certificate, ...], ...] = field(repr=False)
    labels: tuple[tuple[npt.NDArray[np.int64], ...], ...] = field(repr=False)
    """For each value the labels of the whole test set, a seed: some data has another test set for each."""
    keys: tuple[str, ...] = ("value",)
    """The settings that were swept."""

    @property
    def critical(self) -> FloatArray:
        """Critical radius of each value: where the certified rate falls to 0, the mean over seeds."""
        return np.array([np.mean([c.critical for c in group]) for group in self.certificates])

    @property
    def accuracy(self) -> FloatArray:
        """Share of the whole test set that each value's base classifier gets right, the mean over seeds."""
        return np.array([np.mean([r.history["accuracy"].iloc[-1] for r in group]) for group in self.runs])

    def certified_accuracy(self, radii: npt.ArrayLike) -> FloatArray:
        """Certified accuracy of every run.

        Args:
            radii: Where to read the certificates, (k,).

        Returns:
            (values, seeds, k).

        Raises:
            CertificateError: There are no samples, or a radius is NaN.
        """
        pairs = [zip(*groups, strict=True) for groups in zip(self.certificates, self.labels, strict=True)]
        return np.array([[c.certified_accuracy(y, radii) for c, y in group] for group in pairs])

    def certified_rate(self, radii: npt.ArrayLike) -> FloatArray:
        """Certified rate of every run: the same, right or wrong.

        Args:
            radii: Where to read the certificates, (k,).

        Returns:
            (values, seeds, k).

        Raises:
            CertificateError: There are no samples, or a radius is NaN.
        """
        return np.array([[c.certified_rate(radii) for c in group] for group in self.certificates])

    def to_frame(self, radii: Iterable[float] = (0.0,)) -> pd.DataFrame:
        """A row for each value, seed and radius.

        Args:
            radii: Where to read the certificates.

        Returns:
            Columns: the settings that were swept, seed, accuracy and attack_success_rate of the final model,
            critical_radius, radius, certified_accuracy and certified_rate.
        """
        import pandas as pd

        radii = np.asarray(list(radii), dtype=np.float64)
        heights = zip(self.certified_accuracy(radii), self.certified_rate(radii), strict=True)
        rows = []
        for (point, runs, certificates), (accuracies, rates) in zip(self._groups(), heights, strict=True):
            for run, certificate, accuracy, rate in zip(runs, certificates, accuracies, rates, strict=True):
                about = {
                    **point,
                    "seed": run.experiment.seed,
                    "accuracy": float(run.columns["accuracy"][-1]),
                    "attack_success_rate": float(run.columns["attack_success_rate"][-1]),
                    "critical_radius": certificate.critical,
                }
                rows += [
                    {**about, "radius": float(r), "certified_accuracy": float(a), "certified_rate": float(c)}
                    for r, a, c in zip(radii, accuracy, rate, strict=True)
                ]
        return pd.DataFrame(rows)

    def curves(
        self, radii: npt.ArrayLike, curve: Literal["certified_accuracy", "certified_rate"] = "certified_accuracy"
    ) -> pd.DataFrame:
        """Mean and spread over the seeds, to plot: a row for each value and radius.

        Args:
            radii: Where to read the certificates, (k,).
            curve: What to read.

        Returns:
            Columns: the settings that were swept, radius, mean, low and high, the least and the largest of the seeds.

        Raises:
            SettingsError: `curve` is another word.
        """
        import pandas as pd

        if curve not in ("certified_accuracy", "certified_rate"):
            raise SettingsError([f"curve: got {curve!r}, expected certified_accuracy or certified_rate"])
        radii = np.atleast_1d(np.asarray(radii, dtype=np.float64))
        heights: FloatArray = getattr(self, curve)(radii)
        return pd.concat(
            [
                pd.DataFrame(
                    {
                        **{key: [value] * len(radii) for key, value in point.items()},
                        "radius": radii,
                        "mean": ys.mean(axis=0),
                        "low": ys.min(axis=0),
                        "high": ys.max(axis=0),
                    }
                )
                for (point, _, _), ys in zip(self._groups(), heights, strict=True)
            ],
            ignore_index=True,
        )

    def _groups(self) -> Iterator[tuple[dict[str, Any], tuple[TrainingRun, ...], tuple[Certificate, ...]]]:
        """For each value the settings, the runs and the certificates. ("seed" has a column of its own.)"""
        for value, runs, certificates in zip(self.values, self.runs, self.certificates, strict=True):
            each = value if len(self.keys) > 1 else (value,)
            point = {k: v if np.isscalar(v) else str(v) for k, v in zip(self.keys, each, strict=True) if k != "seed"}
            yield point, runs, certificates


def sweep(
    cache: Cache,
    base: Experiment,
    key: str | Mapping[str, Sequence[Any]],
    values: Sequence[Any] | None = None,
    *,
    seeds: int | Iterable[int] | None = None,
    test: Callable[[Experiment, FederatedData], Split] | None = None,
    **options: Any,
) -> Sweep:
    """Train and certify `base` at each of some values, once a seed.

    Args:
        cache: Where runs and votes are kept; a sweep that was killed goes on from there.
        base: The settings that stay.
        key: The setting to sweep, e.g. "attack.scale"; or several with their values, of which every combination is
            trained: {"attack.scale": [1, 5], "server.noise": [0.01, 0.02]}.
        values: The values, if `key` is one setting.
        seeds: The seeds, or how many (0, 1, ...); default: that of `base`.
        test: Makes the test set of a run; default: the clean one.
        options: Of `crfl.certify`.

    Returns:
        Runs and certificates by value and seed.

    Raises:
        SettingsError: without values or seeds, or if a value is none for its setting; before anything is trained.

    Example:
        >>> import crfl, tempfile
        >>> from crfl.sweeps import Cache, sweep
        >>> base = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = sweep(Cache(folder), base, {"attack.scale": [2.0, 4.0]}, seeds=2, kind="margin")
        >>> found.to_frame(radii=[0.0, 0.1])[["attack.scale", "seed", "radius"]].shape
        (8, 3)
    """
    grid = _grid(key, values)
    points = [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]
    if seeds is not None and "seed" in grid:
        raise SettingsError(["seeds: got some, expected none: seed is swept"])
    wanted = tuple(range(seeds)) if isinstance(seeds, int) else tuple((base.seed,) if seeds is None else seeds)
    if not wanted or not points:
        raise SettingsError(["seeds, values: got none, expected one or more of each"])
    trained = cache.train([base.override({"seed": seed, **point}) for point in points for seed in wanted])
    certificates, labels = [], []
    for run in trained:
        data = cache.data_of(run.experiment)
        split = data.test if test is None else test(run.experiment, data)
        labels.append(split.y.numpy())
        with sanity.quiet():
            certificates.append(cache.certify(run, split, **options))
    warn_of_results(trained, len(labels[0]))

    def by_value(items: list[T]) -> tuple[tuple[T, ...], ...]:
        n = len(wanted)
        return tuple(tuple(items[i : i + n]) for i in range(0, len(items), n))

    found = [tuple(point.values()) if len(grid) > 1 else next(iter(point.values())) for point in points]
    return Sweep(tuple(found), by_value(trained), by_value(certificates), by_value(labels), tuple(grid))


def _grid(key: str | Mapping[str, Sequence[Any]], values: Sequence[Any] | None) -> dict[str, Sequence[Any]]:
    """The values by setting."""
    if isinstance(key, str):
        if values is None:
            raise SettingsError([f"values: got none, expected those of {key}"])
        return {key: values}
    if values is not None:
        raise SettingsError(["values: got some, expected none: `key` has the values of each setting"])
    if not key:
        raise SettingsError(["key: got no setting, expected one or more"])
    return dict(key)

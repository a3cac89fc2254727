"""Where figures come from: base settings and a cache of runs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from crfl import sanity
from crfl.config import Experiment
from crfl.ensemble import train_ensemble
from crfl.ensemble_run import EnsembleRun, choose_groups
from crfl.errors import CertificateWarning, DataError
from crfl.files import digest
from crfl.runs.claim import training_key
from crfl.sweeps import Cache, Sweep, dataset, sweep

if TYPE_CHECKING:
    from crfl.certification.certificate import Certificate
    from crfl.data.federated import FederatedData, Split
    from crfl.run import TrainingRun

PAPER_TEST_SAMPLES = {"mnist": 5_000, "emnist": 10_000, "loan": 10_000}
"""Test samples that the paper certifies."""
EMNIST_IMAGES = 697_932
"""Training images of EMNIST ByMerge."""
DATA_TITLES = {"digits": "digits", "mnist": "MNIST", "emnist": "EMNIST", "loan": "LOAN"}
SMOKE = {"server.rounds": 12, "attack.round": 4, "smoothing.samples": 200, "smoothing.test_samples": 100}
"""Short settings for `smoke`, on the embedded digits."""


@dataclass(frozen=True)
class Lab:
    """Where figures come from: a cache of runs, seeds, and base settings for each data set.

    Example:
        >>> import tempfile
        >>> from crfl.config.shipped import find_settings
        >>> from crfl.reproduction import sweep_panel
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lab = Lab(Cache(Path(folder)), find_settings("digits").parent, smoke=True)
        ...     exp = lab.base("digits")
        ...     found = lab.sweep(exp, "attack.scale", [2.0, 50.0], kind="margin")
        ...     again = lab.certify(found.runs[0][0], lab.cache.data_of(exp).test, kind="margin")
        >>> lab.datasets("mnist", "loan"), exp.server.rounds, again.kind
        (('digits',), 12, 'margin')
        >>> sweep_panel(found, "gamma = {:g}".format).curves.keys()
        dict_keys(['gamma = 2', 'gamma = 50'])
    """

    cache: Cache
    configs: Path
    seeds: tuple[int, ...] = (0,)
    smoke: bool = False
    root: Path | None = None
    """Folder of the data, in place of the settings' own."""
    missing: dict[str, str] = field(default_factory=dict)
    """Data sets that could not be loaded, and why: figures are drawn without them."""

    def datasets(self, *names: str) -> tuple[str, ...]:
        """The data sets of a figure that are there; the embedded digits alone for a smoke test.

        Args:
            names: Those of the figure.

        Returns:
            The names that could be loaded; `missing` then says of the others why not.
        """
        if self.smoke:
            return ("digits",)
        for name in names:
            try:
                dataset(self.base(name))
            except DataError as error:
                self.missing[name] = str(error)
        return tuple(name for name in names if name not in self.missing)

    def base(self, name: str) -> Experiment:
        """The paper's base settings for a data set; those of its sample if only a part of the data is there.

        A sample keeps the paper's local steps a round, by more epochs, so that its figures look like the paper's.

        Args:
            name: "digits", "mnist", "emnist" or "loan".

        Returns:
            The settings.
        """
        changes: dict[str, Any] = {"data.root": None if self.root is None else str(self.root)}
        if name == "digits":
            return self._read(name).override(changes | SMOKE)
        changes |= {"smoothing.test_samples": PAPER_TEST_SAMPLES[name]}
        exp = self._read(name).override(changes)
        return self._read(f"{name}-sample").override(changes) if self._is_sample(name, exp) else exp

    def _is_sample(self, name: str, exp: Experiment) -> bool:
        """Whether only a part of a data set is there. A part of LOAN cannot fill the paper's batches of 800."""
        if name == "emnist":
            return sum(dataset(exp).sizes) < EMNIST_IMAGES / 2
        if name == "loan":
            try:
                dataset(exp)
            except DataError:
                return True
        return False

    def recipe(self, name: str, smoke: Mapping[str, Any]) -> Experiment:
        """Settings that ship with crfl, in configs/certified/.

        Args:
            name: Of the file, without its ending.
            smoke: Changes that make them small, for a smoke test on the digits.

        Returns:
            The settings.
        """
        exp = self._read(f"certified/{name}")
        if self.smoke:
            return exp.override({"data.name": "digits", **smoke})
        return exp.override({"data.root": None if self.root is None else str(self.root)})

    def ensemble(self, exp: Experiment, data: FederatedData, model: nn.Module | None = None) -> EnsembleRun:
        """The ensemble of some settings, trained in this lab's cache.

        Args:
            exp: The settings, with `ensemble.groups`.
            data: What it is trained on.
            model: What is trained, if not softmax regression.

        Returns:
            The ensemble.
        """
        groups = choose_groups(data.client_names, exp.ensemble, exp.seed)
        key = json.dumps(training_key(exp, data, model=model, groups=groups), sort_keys=True)
        folder = self.cache.root / "ensembles" / f"{exp.data.name}-{digest(key.encode())}"
        return train_ensemble(exp, data, model=model, resume_dir=folder, device=self.cache.device)

    def sweep(self, exp: Experiment, key: str, values: Sequence[Any], **options: Any) -> Sweep:
        """`crfl.sweeps.sweep` with this lab's cache and seeds. The figures say themselves what is no guarantee.

        Args:
            exp: The settings that stay.
            key: The setting to sweep.
            values: Its values.
            options: Those of `crfl.sweeps.sweep`.

        Returns:
            Runs and certificates by value and seed.
        """
        with _quietly():
            return sweep(self.cache, exp, key, values, seeds=self.seeds, **options)

    def certify(self, run: TrainingRun, test: Split, **options: Any) -> Certificate:
        """`crfl.certify` with this lab's cache.

        Args:
            run: A run of the cache.
            test: What is certified.
            options: Those of `crfl.certify`.

        Returns:
            The certificate.
        """
        with _quietly():
            return self.cache.certify(run, test, **options)

    def _read(self, name: str) -> Experiment:
        return Experiment.from_yaml(self.configs / f"{name}.yaml")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings that a certificate is no guarantee, or that a model has learnt little: figures show it."""
    with warnings.catch_warnings(), sanity.quiet():
        warnings.simplefilter("ignore", CertificateWarning)
        yield

"""Where figures come from: base settings, a cache of runs, and sweeps drawn as panels."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from crfl import plots, sanity
from crfl.certification.bounds.votes import hoeffding
from crfl.certification.lipschitz import lemma1_lipschitz
from crfl.certification.published import corollary1_radius
from crfl.config import Experiment
from crfl.ensemble import train_ensemble
from crfl.ensemble_run import EnsembleRun, choose_groups
from crfl.errors import CertificateWarning, DataError
from crfl.files import digest
from crfl.reproduction.figures import Claim, Figure, Panel
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
    """Where figures come from: a cache of runs, seeds, and base settings for each data set."""

    cache: Cache
    configs: Path
    seeds: tuple[int, ...] = (0,)
    smoke: bool = False
    root: Path | None = None
    """Folder of the data, in place of the settings' own."""
    missing: dict[str, str] = field(default_factory=dict)
    """Data sets that could not be loaded, and why: figures are drawn without them."""

    def datasets(self, *names: str) -> tuple[str, ...]:
        """The data sets of a figure that are there; the embedded digits alone for a smoke test."""
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
        """Settings that ship with crfl; for a smoke test on the digits, with changes that make them small."""
        exp = self._read(f"certified/{name}")
        if self.smoke:
            return exp.override({"data.name": "digits", **smoke})
        return exp.override({"data.root": None if self.root is None else str(self.root)})

    def ensemble(self, exp: Experiment, data: FederatedData, model: nn.Module | None = None) -> EnsembleRun:
        """The ensemble of these settings, trained in this lab's cache."""
        groups = choose_groups(data.client_names, exp.ensemble, exp.seed)
        key = json.dumps(training_key(exp, data, model=model, groups=groups), sort_keys=True)
        folder = self.cache.root / "ensembles" / f"{exp.data.name}-{digest(key.encode())}"
        return train_ensemble(exp, data, model=model, resume_dir=folder, device=self.cache.device)

    def sweep(self, exp: Experiment, key: str, values: Sequence[Any], **options: Any) -> Sweep:
        """`crfl.sweeps.sweep` with this lab's cache and seeds. The figures say themselves what is no guarantee."""
        with _quietly():
            return sweep(self.cache, exp, key, values, seeds=self.seeds, **options)

    def certify(self, run: TrainingRun, test: Split, **options: Any) -> Certificate:
        """`crfl.certify` with this lab's cache."""
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


def sweep_figures(
    lab: Lab,
    name: str,
    title: str,
    exp: Experiment,
    key: str,
    values: Sequence[Any],
    label: Callable[[Any], str],
    claims: Callable[[Sweep], Sequence[Claim]],
    *,
    rate: bool = False,
    sound: bool = True,
    levels: Callable[[Sweep], Mapping[str, float]] | None = None,
    **options: Any,
) -> list[Figure]:
    """Certified accuracy over the radius, a curve a value; with `sound` also a figure of the `margin` certificate.

    `rate` adds a panel of the certified rate; `levels` gives accuracies to mark at the right edge.
    """
    published = lab.sweep(exp, key, values, kind="published", **options)
    panel = sweep_panel(published, label)
    marked = "" if levels is None else " Short lines at the right edge: accuracy without smoothing."
    panels: tuple[Panel, ...] = (panel if levels is None else replace(panel, levels=levels(published)),)
    if rate:
        panels += (sweep_panel(published, label, rate=True),)
    settings = {"base": exp.to_dict(), "swept": key, "values": list(values), "seeds": list(lab.seeds)}
    stem, data = f"{name}-{exp.data.name}", DATA_TITLES[exp.data.name]
    what = f"{title.split(': ')[-1]} ({key})"
    seeds = f", mean and extremes over {len(lab.seeds)} seeds" if len(lab.seeds) > 1 else ""
    caption = f"The paper's certificate on {data} for several values of {what}{seeds}.{marked}"
    figures = [Figure(stem, f"{title}, {data}", panels, tuple(claims(published)), settings, caption)]
    if sound:
        margin = sweep_panel(lab.sweep(exp, key, values, kind="margin"), label)
        caption = f"The same runs under the certificate of the margins, which is sound{seeds}."
        figures.append(Figure(f"{stem}-sound", f"{title}, {data}: sound certificate", (margin,), (), settings, caption))
    return figures


def sweep_panel(found: Sweep, label: Callable[[Any], str], rate: bool = False) -> Panel:
    """Certified accuracy, or rate, over the radius: a curve for each value of a sweep."""
    radii = np.linspace(0.0, _largest(found), 500)
    heights = (found.certified_rate if rate else found.certified_accuracy)(radii)
    curves = {label(v): (radii, heights[i]) for i, v in enumerate(found.values)}
    certificates = [c for group in found.certificates for c in group]
    endless = any(np.isinf(c.strength).any() for c in certificates)
    ylabel = "certified rate" if rate else "certified accuracy"
    return Panel(_kind(certificates), plots.strength_label(certificates), ylabel, curves, endless=endless)


def _kind(certificates: Sequence[Certificate]) -> str:
    """What the certificates are called in pictures, and whether they are no guarantee for one of these runs."""
    broken = [c for c in certificates if not c.guarantee.holds]
    if broken:
        return broken[0].label
    return certificates[0].kind


def _largest(found: Sweep) -> float:
    finite = [
        r for group in found.certificates for c in group for r in [c.strength[np.isfinite(c.strength)].max(initial=0)]
    ]
    return 1.05 * float(max(finite)) or 1.0


def expected_critical(exp: Experiment, clip_norm: float | None = None) -> float:
    """Corollary 1 for unanimous votes from the settings alone: equal shards, whole batches, R equal attackers.

    `clip_norm` stands in for that of the attack round in Lemma 1.
    """
    data, local, attack = dataset(exp), exp.local, exp.attack
    assert isinstance(attack.round, int)
    assert isinstance(attack.scale, float)
    shares = [
        1
        / len(data.shards)
        * attack.scale
        * local.epochs
        * (data.sizes[i] // local.batch_size)
        * local.learning_rates(len(data.shards))[i]
        * attack.poisoned_per_batch
        / local.batch_size
        for i in range(attack.count)
    ]
    unanimous = np.zeros((1, data.num_classes), dtype=np.int64)
    unanimous[0, 0] = exp.smoothing.samples
    bound = hoeffding(unanimous, exp.smoothing.alpha)
    lipschitz = lemma1_lipschitz(clip_norm or exp.server.clip.norm(attack.round))
    return float(
        corollary1_radius(bound.p_a, bound.p_b, strengths=shares, lipschitz=lipschitz, noise=exp.server.noise)[0]
    )

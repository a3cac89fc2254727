"""Choosing settings: lambda, the rounds and the update clip that certify most, on samples that are not the test set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from crfl import sanity
from crfl.certification.certify import certify
from crfl.config import Experiment
from crfl.data.federated import FederatedData, Split
from crfl.data.mapped import judged_on
from crfl.errors import CertificateError, SettingsError
from crfl.progress import bar
from crfl.training import train
from crfl.tune_clip import fit_update_clip

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Trial", "Tuning", "fit_update_clip", "rehearse", "tune"]

HELD_OUT = 10
"""One in so many samples of each client validates, where the server has no samples of its own."""
UNREACHED = 1e9
"""A clip that no update reaches."""


@dataclass(frozen=True)
class Trial:
    """One choice of lambda and T, made by `tune`.

    Example:
        >>> trial = Trial(Experiment(), decay=0.05, rounds=60, accuracy=0.9, certified=0.8)
        >>> Tuning((trial, Trial(Experiment(), decay=0.5, rounds=60, accuracy=0.8, certified=0.7))).best == trial
        True
    """

    experiment: Experiment
    decay: float
    """lambda"""
    rounds: int
    """T"""
    accuracy: float
    """On the validation samples."""
    certified: float
    """Share of the validation samples that are right and certified."""


@dataclass(frozen=True)
class Tuning:
    """All trials, made by `tune`.

    Example:
        >>> trials = (Trial(Experiment(), 0.05, 60, 0.9, 0.7), Trial(Experiment(), 0.5, 60, 0.8, 0.8))
        >>> tuning = Tuning((*trials, Trial(Experiment(), 5.0, 60, 0.7, 0.7)))
        >>> [trial.decay for trial in tuning.frontier], tuning.best.decay
        ([0.5, 0.05], 0.5)
    """

    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the largest certified accuracy; of equals, the most accurate."""
        return max(self.trials, key=lambda t: (t.certified, t.accuracy))

    @property
    def frontier(self) -> tuple[Trial, ...]:
        """The trials that no other one beats in accuracy and certified accuracy, by rising accuracy."""
        kept = [
            t
            for t in self.trials
            if not any(
                (o.accuracy, o.certified) != (t.accuracy, t.certified)
                and o.accuracy >= t.accuracy
                and o.certified >= t.certified
                for o in self.trials
            )
        ]
        return tuple(sorted(kept, key=lambda t: (t.accuracy, t.certified)))

    def to_frame(self) -> DataFrame:
        """A row a trial: lambda, T, accuracy, certified accuracy, and whether it is on the frontier."""
        from pandas import DataFrame  # here, because it is slow to import

        frontier = self.frontier
        return DataFrame(
            [
                {
                    "decay": t.decay,
                    "rounds": t.rounds,
                    "accuracy": t.accuracy,
                    "certified": t.certified,
                    "frontier": t in frontier,
                }
                for t in self.trials
            ]
        )


def tune(
    exp: Experiment,
    data: FederatedData,
    decays: Sequence[float] | None = None,
    rounds: Sequence[int] | None = None,
    client_rounds: int = 1,
    progress: bool = False,
) -> Tuning:
    """Train and certify every lambda and T, and fit the update clip of each by a rehearsal.

    Certified is, in an unknown round: with server.update_clip, `client_rounds` updates that are anything; else the
    attack of the settings with whatever images and labels. Validated on the server's public samples (which set the
    feature map: a slight advantage to all trials alike), or without them on a tenth of every client's samples, which
    then leave the training set. The test set takes no part.

    Args:
        exp: The settings; their server.decay or local.weight_decay is lambda.
        data: Clients, as from `crfl.load_data(exp)`.
        decays: Values of lambda; by default a third, one and three times that of the settings.
        rounds: Values of T; by default that of the settings.
        client_rounds: How many updates may be anything.
        progress: Show a bar.

    Returns:
        Every trial, with settings that are ready to use.

    Raises:
        SettingsError: neither decay is set.
        CertificateError: no trial certifies anything.

    Example:
        >>> import crfl
        >>> local = {"local.batch_size": 140, "local.learning_rate": 0.1, "local.schedule": "inverse"}
        >>> server = {"server.decay": 0.05, "server.noise": 0.0, "server.update_clip": 1.0, "server.rounds": 20}
        >>> exp = crfl.Experiment().override({**local, **server, "server.clip.start": float("inf")})
        >>> tuning = tune(exp, crfl.load_data(exp), decays=[0.05, 0.2])
        >>> len(tuning.trials)
        2
    """
    name = "server.decay" if exp.server.decay else "local.weight_decay"
    decay = exp.server.decay or exp.local.weight_decay
    if not decay:
        raise SettingsError(["server.decay: got 0, expected a positive number: it is what tune varies"])
    decays, rounds = decays or (decay / 3, decay, decay * 3), rounds or (exp.server.rounds,)
    fitting, training, validation = _validation(exp, _untested(data))
    trials, failed = [], CertificateError("no trial was made")
    choices = [(d, t) for d in decays for t in rounds]
    for chosen, length in bar(choices, total=len(choices), desc="tuning", unit="run", shown=progress):
        trial = _with_rounds(fitting, length).override({name: chosen})
        try:
            clip = _update_clip(trial, training, client_rounds)
            accuracy, certified = _validate(trial.override(clip), training, validation, client_rounds)
        except CertificateError as error:
            failed = error
            continue
        found = _with_rounds(exp, length).override({name: chosen, **clip})
        trials.append(Trial(found, chosen, length, accuracy, certified))
    if not trials:
        raise failed
    return Tuning(tuple(trials))


def rehearse(exp: Experiment, data: FederatedData, client_rounds: int = 1, every_round: bool = False) -> Experiment:
    """The settings with the update clip that a rehearsal, without an attack and unclipped, finds smallest.

    Args:
        exp: The settings.
        data: Clients, as from `crfl.load_data(exp)`.
        client_rounds: k, how many updates may be anything. Each attacker of the settings counts as one more.
        every_round: k clients may be malicious in every round instead; attackers of the settings are not counted.

    Returns:
        The settings with `server.update_clip`.

    Raises:
        CertificateError: no clip withstands so many.

    Example:
        >>> import crfl
        >>> local = {"local.batch_size": 140, "local.learning_rate": 0.1, "local.schedule": "inverse"}
        >>> server = {"server.decay": 0.05, "server.noise": 0.0, "server.rounds": 20}
        >>> exp = crfl.Experiment().override({**local, **server, "server.clip.start": float("inf")})
        >>> rehearse(exp, crfl.load_data(exp)).server.update_clip.end > 0
        True
    """
    quiet = {"attack.round": None, "attack.every": None, "server.update_clip": UNREACHED}
    with sanity.quiet():
        run = train(exp.override({**quiet, "server.evaluate_every": exp.server.rounds}), data)
    attackers = exp.attack.count if exp.attack.active and not every_round else 0
    clip = fit_update_clip(run.record, client_rounds + attackers, every_round)
    return exp.override({"server.update_clip": {k: getattr(clip, k) for k in ("start", "end", "decay_rounds")}})


def _update_clip(exp: Experiment, data: FederatedData, client_rounds: int) -> dict[str, object]:
    """The fitted clip as changes of settings; none where the settings have no update clip."""
    if exp.server.update_clip is None:
        return {}
    return {"server.update_clip": rehearse(exp, data, client_rounds).to_dict()["server"]["update_clip"]}


def _with_rounds(exp: Experiment, rounds: int) -> Experiment:
    """The settings with T rounds and an attack that lies in them, evaluated at the end alone."""
    changes: dict[str, object] = {"server.rounds": rounds, "server.evaluate_every": rounds}
    if isinstance(exp.attack.round, int) and exp.attack.round > rounds:
        changes["attack.round"] = math.ceil(rounds / 2)
    return exp.override(changes)


def _untested(data: FederatedData) -> FederatedData:
    """The data with one training sample as its test set, which training then backdoors, maps and judges in no time."""
    return judged_on(data, next(rows for rows in data.shards if len(rows))[:1])


def _validation(exp: Experiment, data: FederatedData) -> tuple[Experiment, FederatedData, Split]:
    """Settings and data to train with, and the samples that validate."""
    if data.public_rows is not None and len(data.public_rows):
        return exp, data, Split(data.features(data.public_rows), data.y[data.public_rows])
    kept = tuple(rows[: len(rows) - len(rows) // HELD_OUT] for rows in data.shards)
    held = [rows[len(rows) - len(rows) // HELD_OUT :] for rows in data.shards]
    import torch  # here, because settings are read without it

    rows = torch.cat(held)
    batch = max(1, exp.local.batch_size - exp.local.batch_size // HELD_OUT)
    poisoned = min(exp.attack.poisoned_per_batch, batch)
    shorter = exp.override({"local.batch_size": batch, "attack.poisoned_per_batch": poisoned})
    return shorter, replace(data, shards=kept), Split(data.features(rows), data.y[rows])


def _validate(exp: Experiment, data: FederatedData, split: Split, client_rounds: int) -> tuple[float, float]:
    """Accuracy and certified accuracy of a run on the validation samples."""
    with sanity.quiet():
        run = train(exp, data)
        cert = certify(run, split, attack_round="any")
    labels = split.y.numpy()
    right = (cert.prediction == labels) & ~cert.abstained
    if exp.server.update_clip is None:
        certified = float(cert.certified_accuracy(labels, [np.inf])[0])
    else:
        certified = float((right & (cert.max_malicious(limit=client_rounds) >= client_rounds)).mean())
    return run.score(split), certified

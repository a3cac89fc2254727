"""Ensembles: the clients are split into groups, each group trains a model of its own, and the models vote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crfl.aggregation import get_rule
from crfl.config import Ensemble, Experiment
from crfl.data.federated import FederatedData
from crfl.devices import resolve_device
from crfl.engines import EngineName
from crfl.errors import DataError, SettingsError
from crfl.groups import deal_clients, draw_groups
from crfl.models import Model
from crfl.progress import bar
from crfl.run import TrainingRun, finished_run
from crfl.run_batch import RunBatch
from crfl.runs.ensemble import train_groups_in
from crfl.state import TrainingState

if TYPE_CHECKING:
    from crfl.data.federated import Split
    from crfl.record import TrainingRecord

IntArray = npt.NDArray[np.int64]

BLOCK_SAMPLES, BLOCK_ROWS = 1024, 2048
"""Samples, and models times classes, that are judged at a time."""


@dataclass(frozen=True, eq=False, repr=False)
class EnsembleRun:
    """Trained models of all groups, and how they came about."""

    batch: RunBatch
    """The groups' runs."""
    state: TrainingState
    """Where they ended, on the CPU."""

    @property
    def experiment(self) -> Experiment:
        """The settings, of all groups."""
        return self.batch.experiments[0]

    @property
    def model(self) -> Model:
        """What every group trained."""
        return self.batch.model

    @property
    def params(self) -> Tensor:
        """(G, P): the final model of each group."""
        return self.state.params

    @property
    def groups(self) -> tuple[IntArray, ...]:
        """The numbers of each group's clients, rising."""
        return self.batch.groups or ()

    @property
    def num_clients(self) -> int:
        """N"""
        return len(self.batch.data.shards)

    @property
    def num_classes(self) -> int:
        """C"""
        return self.model.num_classes

    @property
    def clients_per_group(self) -> int | None:
        """k of groups drawn at random; None if every client is in one group."""
        return self.experiment.ensemble.clients_per_group

    def votes(self, x: npt.ArrayLike | Split, device: str | torch.device = "cpu") -> IntArray:
        """The class that each group predicts for each sample.

        Args:
            x: features (m, d), or samples that have them, such as `data.test`.
            device: where to compute.

        Returns:
            Classes (m, G).

        Raises:
            DataError: `x` has another number of features.
        """
        features = torch.as_tensor(getattr(x, "x", x))
        if features.ndim != 2 or features.shape[1] != self.model.num_features:
            raise DataError(f"x: got shape {tuple(features.shape)}, expected (m, {self.model.num_features})")
        models = self.params.to(resolve_device(device)).split(max(1, self.model.models_per_block(BLOCK_ROWS)))
        found = np.empty((len(features), len(self.params)), dtype=np.int64)
        for start in range(0, len(features), BLOCK_SAMPLES):
            block = features[start : start + BLOCK_SAMPLES].to(models[0])
            logits = (self.model.class_logits(some, block) for some in models)
            found[start : start + len(block)] = torch.cat([some.max(1).indices for some in logits]).T.cpu().numpy()
        return found

    def predict(self, x: npt.ArrayLike | Split) -> IntArray:
        """The class (m,) that most groups vote for; of classes that tie, the smallest. `x` as for `votes`."""
        votes = self.votes(x)
        counts = np.zeros((len(votes), self.num_classes), dtype=np.int64)
        np.add.at(counts, (np.arange(len(votes))[:, None], votes), 1)
        return counts.argmax(axis=1)

    def score(self, split: Split) -> float:
        """Accuracy of the vote on labelled samples such as `data.test`."""
        return float(np.mean(self.predict(split) == split.y.cpu().numpy()))

    def group_run(self, group: int) -> TrainingRun:
        """The run of one group, as if it had been trained alone. Its record numbers the group's own clients from 0."""
        if not 0 <= group < len(self.groups):
            raise DataError(f"group: got {group}, expected 0 to {len(self.groups) - 1}")
        return finished_run(self.batch, group, self.state)

    def record(self, group: int) -> TrainingRecord:
        """What happened in the training of one group. It is made when it is asked for."""
        return self.group_run(group).record

    def __repr__(self) -> str:
        sizes = sorted({len(clients) for clients in self.groups})
        clients = "-".join(map(str, sizes[:: max(1, len(sizes) - 1)]))
        kind = "disjoint" if self.clients_per_group is None else "random"
        return (
            f"EnsembleRun({self.batch.data.name}: {len(self.groups)} {kind} groups of {clients} of {self.num_clients} "
            f"clients, {self.model.name}, {self.state.round} rounds)"
        )


def train_ensemble(
    exp: Experiment,
    data: FederatedData,
    groups: int | None = None,
    *,
    disjoint: bool = True,
    clients_per_group: int | None = None,
    model: Model | nn.Module | None = None,
    engine: EngineName = "vectorised",
    resume_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> EnsembleRun:
    """Train one model for each group of clients, by Algorithm 1 on the group's clients alone.

    Clients are dealt to groups before training, by a keyed hash of their names. The settings hold within each group:
    participation and the rule's quorum are of its clients, and the attackers of the settings attack where they are.
    What a group computes depends on its own clients alone, to the last bit. A group whose training fails in a round
    keeps its model.

    All groups together take the client steps of one run, if they are disjoint.

    Args:
        exp: the settings.
        data: clients and test split, as from `load_data(exp)`.
        groups: G; None: ensemble.groups and clients_per_group of the settings say which groups.
        disjoint: whether every client is in one group; else each group is drawn at random, independently.
        clients_per_group: k of groups drawn at random.
        model: a torch.nn.Module that maps samples (m, d) to logits (m, C), instead of softmax regression.
        engine: as for `train`.
        resume_dir: a folder of its own: training starts in it, goes on where it stopped, or is found complete.
        device: where to compute, e.g. "cuda".
        progress: show a progress bar.

    Returns:
        The models with what happened. `crfl.certify` certifies their vote.

    Raises:
        SettingsError, DataError: if settings, data, model and groups do not fit.
        StoreError: if `resume_dir` holds another training.

    Warns:
        InvalidUpdateWarning: of clients whose updates are dropped.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2, "data.clients": 20})
        >>> data = crfl.load_data(exp)
        >>> ensemble = crfl.train_ensemble(exp, data, groups=5)
        >>> ensemble
        EnsembleRun(digits: 5 disjoint groups of 4 of 20 clients, softmax regression, 3 rounds)
        >>> ensemble.votes(data.test).shape
        (397, 5)
    """
    exp = _with_groups(exp, groups, disjoint, clients_per_group)
    members = choose_groups(data.client_names, exp.ensemble, exp.seed)
    _check_quorum(exp, members)
    batch = RunBatch.of([exp] * len(members), data, model=model, groups=members)
    if resume_dir is not None:
        state = train_groups_in(resume_dir, batch, model=model, engine=engine, device=device, progress=progress)
        return EnsembleRun(batch, state.to("cpu"))
    state = batch.start()
    rounds = batch.rounds(state, device, engine)
    for state in bar(rounds, total=batch.num_rounds, desc="training", unit="round", shown=progress):  # noqa: B007
        pass
    return EnsembleRun(batch, state.to("cpu"))


def choose_groups(client_names: Sequence[str], ensemble: Ensemble, seed: int) -> tuple[IntArray, ...]:
    """The numbers of each group's clients, rising, as `train_ensemble` chooses them before training.

    Args:
        client_names: N different names.
        ensemble: the settings of the groups.
        seed: key of the dealing, or seed of the draws.

    Returns:
        G arrays.

    Raises:
        SettingsError: if there are no such groups.

    Example:
        >>> [clients.tolist() for clients in choose_groups(["Ada", "Bob", "Eve", "Kim"], Ensemble(groups=2), seed=0)]
        [[0, 3], [1, 2]]
    """
    if ensemble.groups is None:
        raise SettingsError(["ensemble.groups: got null, expected the number of groups"])
    if ensemble.clients_per_group is not None:
        return tuple(draw_groups(len(client_names), ensemble.groups, ensemble.clients_per_group, seed))
    dealt = deal_clients(client_names, ensemble.groups, seed)
    return tuple(np.flatnonzero(dealt == g) for g in range(ensemble.groups))


def _with_groups(exp: Experiment, groups: int | None, disjoint: bool, clients_per_group: int | None) -> Experiment:
    """The settings with the groups that were asked for."""
    if groups is None and disjoint and clients_per_group is None:
        return exp
    if disjoint and clients_per_group is not None:
        raise SettingsError([f"clients_per_group: got {clients_per_group}, expected None unless disjoint=False"])
    if not disjoint and clients_per_group is None:
        raise SettingsError(["clients_per_group: got None, expected the size of groups that are drawn at random"])
    if groups is None:
        raise SettingsError(["groups: got None, expected a number, as clients_per_group or disjoint is given"])
    return exp.override({"ensemble.groups": groups, "ensemble.clients_per_group": clients_per_group})


def _check_quorum(exp: Experiment, groups: Sequence[IntArray]) -> None:
    """SettingsError if the rule needs more clients than the smallest group has in a round."""
    smallest = min(map(len, groups))
    needed, present = get_rule(exp.server.aggregation).min_clients(exp.server), exp.server.participants(smallest)
    if present < needed:
        raise SettingsError(
            [
                f"groups: got {len(groups)}, of which the smallest has {present} clients in a round, expected {needed} "
                f"or more for server.aggregation {exp.server.aggregation} (num_byzantine {exp.server.num_byzantine})"
            ]
        )

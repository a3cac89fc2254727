"""Ensembles: which clients train together, and what their training leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crfl.config import Ensemble, Experiment
from crfl.devices import resolve_device
from crfl.errors import DataError, SettingsError
from crfl.groups import deal_clients, draw_groups
from crfl.matmul import aligned
from crfl.models import Model
from crfl.run import TrainingRun

if TYPE_CHECKING:
    from crfl.data.federated import Split
    from crfl.record import TrainingRecord

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

BLOCK_SAMPLES, BLOCK_ROWS = 1024, 2048
"""Samples, and models times classes, that are judged at a time."""


@dataclass(frozen=True, eq=False, repr=False)
class EnsembleRun:
    """Trained models of all groups, and how they came about: what `crfl.train_ensemble` returns.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
        >>> crfl.train_ensemble(exp, crfl.load_data(exp), groups=2).params.shape
        torch.Size([2, 650])
    """

    experiment: Experiment
    """The settings, of all groups."""
    model: Model
    """What every group trained."""
    params: Tensor
    """(G, P): the final model of each group."""
    groups: tuple[IntArray, ...]
    """The numbers of each group's clients, rising."""
    client_names: tuple[str, ...]
    """Of all N clients."""
    make_group_run: Callable[[int], TrainingRun]
    """From a group's number to its run, which is made when it is asked for: a thousand records are large."""

    @property
    def num_clients(self) -> int:
        """N"""
        return len(self.client_names)

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

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
            >>> data = crfl.load_data(exp)
            >>> ensemble = crfl.train_ensemble(exp, data, groups=2)
            >>> ensemble.votes(data.test).shape
            (397, 2)
        """
        features = torch.as_tensor(getattr(x, "x", x))
        if features.ndim != 2 or features.shape[1] != self.model.num_features:
            raise DataError(f"x: got shape {tuple(features.shape)}, expected (m, {self.model.num_features})")
        models = self.params.to(resolve_device(device)).split(max(1, self.model.models_per_block(BLOCK_ROWS)))
        models = tuple(map(aligned, models))
        found = np.empty((len(features), len(self.params)), dtype=np.int64)
        for start in range(0, len(features), BLOCK_SAMPLES):
            block = aligned(features[start : start + BLOCK_SAMPLES].to(models[0]))
            logits = (self.model.class_logits(some, block) for some in models)
            found[start : start + len(block)] = torch.cat([some.max(1).indices for some in logits]).T.cpu().numpy()
        return found

    def predict(self, x: npt.ArrayLike | Split) -> IntArray:
        """The class that most groups vote for; of classes that tie, the smallest.

        Args:
            x: features (m, d), or samples that have them.

        Returns:
            Classes (m,).

        Raises:
            DataError: `x` has another number of features.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
            >>> data = crfl.load_data(exp)
            >>> ensemble = crfl.train_ensemble(exp, data, groups=2)
            >>> ensemble.predict(data.test.x[:4]).shape
            (4,)
        """
        votes = self.votes(x)
        counts = np.zeros((len(votes), self.num_classes), dtype=np.int64)
        np.add.at(counts, (np.arange(len(votes))[:, None], votes), 1)
        return counts.argmax(axis=1)

    def score(self, split: Split) -> float:
        """Accuracy of the vote.

        Args:
            split: labelled samples such as `data.test`.

        Returns:
            The share of samples whose predicted class is their label.

        Raises:
            DataError: the features have another shape than the models'.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
            >>> data = crfl.load_data(exp)
            >>> ensemble = crfl.train_ensemble(exp, data, groups=2)
            >>> 0 <= ensemble.score(data.test) <= 1
            True
        """
        return float(np.mean(self.predict(split) == split.y.cpu().numpy()))

    def group_run(self, group: int) -> TrainingRun:
        """The run of one group, as if it had been trained alone. Its record numbers the group's own clients from 0.

        Args:
            group: its number, from 0.

        Returns:
            The run.

        Raises:
            DataError: there is no such group.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
            >>> data = crfl.load_data(exp)
            >>> ensemble = crfl.train_ensemble(exp, data, groups=2)
            >>> bool((ensemble.group_run(1).params == ensemble.params[1]).all())
            True
        """
        if not 0 <= group < len(self.groups):
            raise DataError(f"group: got {group}, expected 0 to {len(self.groups) - 1}")
        return replace(self.make_group_run(group), experiment=self.experiment)

    def group_scores(self, split: Split) -> FloatArray:
        """Accuracy of each group's model.

        Args:
            split: labelled samples such as `data.test`.

        Returns:
            Shares (G,).

        Raises:
            DataError: the features have another shape than the models'.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
            >>> data = crfl.load_data(exp)
            >>> ensemble = crfl.train_ensemble(exp, data, groups=2)
            >>> ensemble.group_scores(data.test).shape
            (2,)
        """
        right: FloatArray = (self.votes(split) == split.y.cpu().numpy()[:, None]).mean(axis=0)
        return right

    def record(self, group: int) -> TrainingRecord:
        """What happened in the training of one group. It is made when it is asked for.

        Args:
            group: its number, from 0.

        Returns:
            The record, of the group's own clients.

        Raises:
            DataError: there is no such group.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
            >>> data = crfl.load_data(exp)
            >>> ensemble = crfl.train_ensemble(exp, data, groups=2)
            >>> len(ensemble.record(0).client_names) == len(ensemble.groups[0])
            True
        """
        return self.group_run(group).record

    def __repr__(self) -> str:
        return (
            f"EnsembleRun({self.experiment.data.name}: {self.dealing}, {self.model.name}, "
            f"{self.experiment.server.rounds} rounds)"
        )

    @property
    def dealing(self) -> str:
        """Which groups, in words: 5 disjoint groups of 4 of 20 clients."""
        sizes = sorted({len(clients) for clients in self.groups})
        clients = "-".join(map(str, sizes[:: max(1, len(sizes) - 1)]))
        kind = "disjoint" if self.clients_per_group is None else "random"
        return f"{len(self.groups)} {kind} groups of {clients} of {self.num_clients} clients"


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

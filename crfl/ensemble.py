"""Ensembles: the clients are split into groups, each group trains a model of its own, and the models vote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from crfl.aggregation import get_rule
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.engines import EngineName
from crfl.ensemble_run import EnsembleRun, choose_groups
from crfl.errors import SettingsError
from crfl.models import Model
from crfl.run_batch import RunBatch
from crfl.runs.resume import train_in
from crfl.training import warn_of_inputs

IntArray = npt.NDArray[np.int64]


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
        resume_dir: a run folder: training starts in it, goes on where it stopped, or loads what is complete.
        device: where to compute, e.g. "cuda".
        progress: show a progress bar.

    Returns:
        The models with what happened. `crfl.certify` certifies their vote.

    Raises:
        SettingsError, DataError: if settings, data, model and groups do not fit.
        StoreError: if `resume_dir` holds another training.

    Warns:
        InvalidUpdateWarning: of clients whose updates are dropped.
        SanityWarning: features that are not normalised, layers in eval mode, settings without effect.

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
    warn_of_inputs(batch)
    if resume_dir is not None:
        found = train_in(resume_dir, batch, model=model, engine=engine, device=device, progress=progress)
        assert isinstance(found, EnsembleRun)  # as the batch has groups
        return found
    return batch.finish_ensemble(batch.train(device, engine, progress))


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

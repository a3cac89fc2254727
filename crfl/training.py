"""Algorithm 1: federated averaging whose server clips and perturbs the global model every round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from crfl.algorithm import RunBatch
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.models.base import Model
from crfl.progress import bar
from crfl.run import TrainingRun
from crfl.runs.resume import train_in


def train(
    exp: Experiment,
    data: FederatedData,
    *,
    benign: bool = False,
    model: Model | nn.Module | None = None,
    checkpoints: Sequence[int] = (),
    resume_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> TrainingRun:
    """Algorithm 1 with the attack of the settings.

    `benign` trains the benign counterpart: the same seeds, batches, participants, noise and scaling, but the attackers'
    data stays clean, and those who would send a malicious update send none. `model` is a torch.nn.Module that maps
    samples (m, d) to logits (m, C), instead of softmax regression; training starts at its parameters. `checkpoints` are
    rounds whose model is kept. `resume_dir` is a run folder: training that was interrupted goes on there, and a run that
    is complete is loaded from it (see `crfl.runs.resume.train_in`). Raises SettingsError or DataError if settings, data and model do not fit, TrainingError
    if the model diverges or a round leaves no update to use. Warns (InvalidUpdateWarning) of clients that it drops.
    """
    if resume_dir is not None:
        batch = RunBatch((exp,), (benign,), data, tuple(checkpoints), model)
        return train_in(resume_dir, batch, model=model, device=device, progress=progress)
    runs = train_many(
        [exp], data, benign=[benign], model=model, checkpoints=checkpoints, device=device, progress=progress
    )
    return runs[0]


def train_pair(
    exp: Experiment,
    data: FederatedData,
    *,
    model: Model | nn.Module | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> tuple[TrainingRun, TrainingRun]:
    """A run and its benign counterpart in one pass over the data.

    Column `distance` of the run's history is the l2 distance of the two global models, round by round (Figure 9a).
    """
    benign, run = train_many([exp, exp], data, benign=[True, False], model=model, device=device, progress=progress)
    return run, benign


def train_many(
    experiments: Sequence[Experiment],
    data: FederatedData,
    *,
    benign: Sequence[bool] | None = None,
    model: Model | nn.Module | None = None,
    checkpoints: Sequence[int] = (),
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> list[TrainingRun]:
    """Train runs that share seed, data, local settings and rounds in one pass over the data.

    `benign` says which of them are benign counterparts (default: none). Each equals the run trained alone to float32
    rounding. If they are several, their histories gain a column `distance`: the l2 distance of the global model to that
    of the first run.
    """
    stack = RunBatch(tuple(experiments), tuple(benign or [False] * len(experiments)), data, tuple(checkpoints), model)
    state = stack.start()
    rounds = bar(stack.rounds(state, device), total=stack.num_rounds, desc="training", unit="round", shown=progress)
    for state in rounds:  # noqa: B007 the last one is wanted
        pass
    return stack.finish(state)

"""Training: Algorithm 1 for one run, for a run and its benign counterpart, or for many runs in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from crfl import sanity
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.engines import EngineName
from crfl.models import Model
from crfl.models.module import ModuleModel
from crfl.run import TrainingRun
from crfl.run_batch import RunBatch
from crfl.runs.resume import train_in

FEW = 100
"""Samples that show what features look like."""


def train(
    exp: Experiment,
    data: FederatedData,
    *,
    benign: bool = False,
    model: Model | nn.Module | None = None,
    checkpoints: Sequence[int] = (),
    engine: EngineName = "vectorised",
    resume_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> TrainingRun:
    """Algorithm 1 with the attack of the settings.

    Args:
        exp: the settings.
        data: clients and test split, as from `load_data(exp)`.
        benign: train the benign counterpart: the same seeds, batches, participants, noise and scaling, but the
            attackers' data stays clean, and those who would send a malicious update send none.
        model: a torch.nn.Module that maps samples (m, d) to logits (m, C), instead of softmax regression; training
            starts at its parameters.
        checkpoints: rounds whose model is kept.
        engine: "vectorised", or "reference": a plain loop over clients and batches with torch.optim.SGD.
        resume_dir: a run folder: training starts in it, resumes where it stopped, or loads what is complete.
        device: where to compute, e.g. "cuda".
        progress: show a progress bar.

    Returns:
        The final model with its record and history.

    Raises:
        SettingsError, DataError: if settings, data and model do not fit.
        TrainingError: if the model diverges or a round leaves no update to use.
        StoreError: if `resume_dir` holds another run.

    Warns:
        InvalidUpdateWarning: of clients whose updates are dropped.
        SanityWarning: features that are not normalised, layers in eval mode, settings without effect, and a model that
            has learnt nothing.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
        >>> run = crfl.train(exp, crfl.load_data(exp))
        >>> len(run.history)
        3
    """
    if resume_dir is not None:
        batch = RunBatch.of([exp], data, [benign], model, checkpoints)
        warn_of_inputs(batch)
        run = train_in(resume_dir, batch, model=model, engine=engine, device=device, progress=progress)
        assert isinstance(run, TrainingRun)  # as the batch has no groups
        warn_of_results([run], len(data.test))
        return run
    runs = train_many(
        [exp],
        data,
        benign=[benign],
        model=model,
        checkpoints=checkpoints,
        engine=engine,
        device=device,
        progress=progress,
    )
    return runs[0]


def train_pair(
    exp: Experiment,
    data: FederatedData,
    *,
    model: Model | nn.Module | None = None,
    engine: EngineName = "vectorised",
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> tuple[TrainingRun, TrainingRun]:
    """A run and its benign counterpart in one pass over the data.

    Column `distance` of the run's history is the l2 distance of the two global models, round by round (Figure 9a of the
    paper).

    Args:
        exp: as for `train`, and so the other arguments.
        data: clients and test split.
        model: a module instead of softmax regression.
        engine: "vectorised" or "reference".
        device: where to compute.
        progress: show a progress bar.

    Returns:
        The run, then its benign counterpart.

    Raises:
        SettingsError, DataError, TrainingError: as for `train`.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
        >>> run, benign = crfl.train_pair(exp, crfl.load_data(exp))
        >>> (run.history["distance"] > 1e-6).tolist()
        [False, True, True]
    """
    benign, run = train_many(
        [exp, exp], data, benign=[True, False], model=model, engine=engine, device=device, progress=progress
    )
    return run, benign


def train_many(
    experiments: Sequence[Experiment],
    data: FederatedData,
    *,
    benign: Sequence[bool] | None = None,
    model: Model | nn.Module | None = None,
    checkpoints: Sequence[int] = (),
    engine: EngineName = "vectorised",
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> list[TrainingRun]:
    """Train runs that share seed, data, local settings and rounds in one pass over the data.

    Each equals the run trained alone up to rounding. If they are several, their histories gain a column `distance`:
    the l2 distance of the global model to that of the first run.

    Args:
        experiments: the settings of each run.
        data: as for `train`, and so the other arguments.
        benign: which of them are benign counterparts; None: none.
        model: a module instead of softmax regression.
        checkpoints: rounds whose models are kept.
        engine: "vectorised" or "reference".
        device: where to compute.
        progress: show a progress bar.

    Returns:
        The runs, in the order of the experiments.

    Raises:
        SettingsError: the runs cannot share their batches, or settings do not fit.
        DataError, TrainingError: as for `train`.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
        >>> runs = crfl.train_many([exp, exp.override({"attack.scale": 1.0})], crfl.load_data(exp))
        >>> [run.experiment.attack.scale for run in runs]
        [5.0, 1.0]
    """
    batch = RunBatch.of(experiments, data, benign, model, checkpoints)
    warn_of_inputs(batch)
    runs = batch.finish(batch.train(device, engine, progress))
    warn_of_results(runs, len(data.test))
    return runs


def warn_of_inputs(batch: RunBatch) -> None:
    """SanityWarning of features, layers and settings that are hardly meant."""
    exp, data = batch.experiments[0], batch.data
    found = sanity.ignored_settings(exp.data, exp.local, data.partition)
    found += sanity.feature_scale(data.max_feature_norm, data.features(data.shards[0][:FEW]).cpu().numpy())
    if isinstance(batch.model, ModuleModel):
        found += sanity.eval_mode(batch.model.module)
    sanity.warn(found)


def warn_of_results(runs: Sequence[TrainingRun], test_size: int) -> None:
    """SanityWarning of models that have learnt nothing."""
    found = []
    for run in runs:
        top, accuracy, majority = (
            float(run.columns[name][-1]) for name in ("top_prediction_share", "accuracy", "majority_accuracy")
        )
        found.append(sanity.predictions(top, test_size, accuracy, majority))
    sanity.warn(sanity.summarised(found))

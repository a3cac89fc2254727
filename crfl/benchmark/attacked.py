"""Attacks on crfl's own rows: Algorithm 1 again under attack, and the last round exactly, each sample by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crfl.algorithm import training_round
from crfl.attack.malicious import MALICIOUS, MaliciousUpdate
from crfl.attack.triggers import TRIGGERS, Trigger, TriggerFactory
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.engines import make_engine
from crfl.errors import SettingsError
from crfl.models.softmax import SoftmaxRegression
from crfl.run import TrainingRun
from crfl.run_batch import RunBatch
from crfl.state import TrainingState

__all__ = ["affordable", "attacking", "continued", "last_round_predictions"]

LARGE = 20_000
"""Samples of a data set from which on attacks that train for long are made once, not at each strength."""
BLOCK = 512
"""Test samples that are attacked at a time."""


def affordable(data: FederatedData, strength: float, once: float | None) -> bool:
    """Whether to attack by a training of its own: always on small data, on large data at the strength `once` alone."""
    return len(data.x) < LARGE or strength == once


@contextmanager
def attacking(
    triggers: dict[str, Trigger] | None = None, updates: dict[str, MaliciousUpdate] | None = None
) -> Iterator[None]:
    """Makes triggers and malicious updates known by name, for as long as the block lasts."""
    added: dict[str, TriggerFactory] = {name: _always(plant) for name, plant in (triggers or {}).items()}
    TRIGGERS.update(added)
    MALICIOUS.update(updates or {})
    try:
        yield
    finally:
        for name in added:
            del TRIGGERS[name]
        for name in updates or {}:
            del MALICIOUS[name]


def continued(exps: Sequence[Experiment], data: FederatedData, params: Tensor, start: int) -> Tensor:
    """Algorithm 1 from `params` (P,), the model after round `start`, to the end: final models (S, P), one an experiment.

    What happened before is what would have happened under these settings, if they attack in later rounds only.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 4, "attack.round": 4})
        >>> data = crfl.load_data(exp)
        >>> run = crfl.train(exp, data, checkpoints=[2])
        >>> bool((continued([exp], data, run.checkpoints[2], 2)[0] == run.params).all())
        True
    """
    batch = RunBatch.of(exps, data)
    engine = make_engine("vectorised", batch.model, data, batch.local, batch.seed)
    state = TrainingState(params.to(batch.local.dtype).repeat(len(exps), 1))
    for t in range(start + 1, batch.num_rounds + 1):
        state = training_round(batch, state, t, engine, None)
    return state.params


def last_round_predictions(
    run: TrainingRun, data: FederatedData, before: Tensor, count: int, x: Tensor
) -> npt.NDArray[np.int64]:
    """What each sample becomes if, in the last round, the `count` clients that hurt it most send what hurts it most.

    Exact for a server without noise whose clients take one step: the update S (e_b - e_a) x^T / (sqrt(2) ||x||), as long
    as the server's clip lets it be, in place of u_i changes the difference of the logits by

        p_i (sqrt(2) S ||x|| - <u_i, (e_b - e_a) x^T>)

    Args:
        run: Without an attack, of softmax regression without a bias.
        data: What it was trained on.
        before: The model (P,) after the last round but one.
        count: How many clients, at most all.
        x: Features (m, d).

    Returns:
        Classes (m,).

    Raises:
        SettingsError: The run has noise, a bias, several local steps or no update clip.
    """
    exp, model = run.experiment, run.model
    last = run.record.rounds[-1]
    steps = exp.local.epochs * max(-(-size // exp.local.batch_size) for size in data.sizes)
    if exp.server.noise or model.bias or steps > 1 or last.update_clip is None:
        raise SettingsError(["run: got noise, a bias, local steps or no update clip, expected none, none, one and one"])
    assert isinstance(model, SoftmaxRegression)
    rate = min(max(run.record.learning_rates), last.learning_rate_cap)
    updates = torch.stack([_update(model, before.double(), data, rows, rate) for rows in data.shards])
    weights = torch.tensor(last.weights, dtype=torch.float64)
    found = [
        _last_round(model, run.params.double(), updates, weights, last.update_clip, min(count, len(weights)), block)
        for block in x.double().split(BLOCK)
    ]
    return torch.cat(found).numpy()


def _update(model: SoftmaxRegression, params: Tensor, data: FederatedData, rows: Tensor, rate: float) -> Tensor:
    """What an honest client sends after one step on its whole shard, (C, d)."""
    gradient = model.gradient(params, data.features(rows).double(), data.y[rows])
    return model.split(-rate * gradient)[0]


def _last_round(
    model: SoftmaxRegression, params: Tensor, updates: Tensor, weights: Tensor, clip: float, count: int, x: Tensor
) -> Tensor:
    """Classes of a block of samples (m, d)."""
    logits = model.logits(params, x)
    own = logits.argmax(1, keepdim=True)
    logits = logits - logits.gather(1, own)  # <= 0: how far each class is behind
    sent = torch.einsum("ncd,md->nmc", updates, x)
    ahead = sent - sent.gather(2, own.expand(len(updates), -1, -1))
    reach = math.sqrt(2) * clip * x.norm(dim=1)
    gains = weights[:, None, None] * (reach[None, :, None] - ahead)
    total = gains.topk(count, dim=0).values.clamp_min(0).sum(0)
    moved = (logits + total).scatter(1, own, 0.0)
    return torch.where(moved.max(1).values > 0, moved.argmax(1), own.squeeze(1))


def _always(trigger: Trigger) -> TriggerFactory:
    """The same trigger whatever the settings."""
    return lambda *_: trigger

"""Algorithm 1 of the paper: federated averaging whose server clips and perturbs the global model every round.

Leading dimensions batch: the same page trains one run, or S runs that share their batches (a run and its benign
counterpart, a sweep over the attack). Whatever makes it fast lives behind `engine`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crfl.aggregator import WRONG_SHAPE, ClientStats
from crfl.attack.plan import apply_attack
from crfl.engines import Engine, UpdateSums
from crfl.evaluation import Evaluation, unmeasured
from crfl.server import norm, perturb, project, shrink
from crfl.state import RoundMetrics, TrainingState

if TYPE_CHECKING:
    from crfl.run_batch import RunBatch


def training_rounds(
    batch: RunBatch, state: TrainingState, engine: Engine, evaluation: Evaluation | None
) -> Iterator[TrainingState]:
    """Algorithm 1 from the round after `state` to round T.

    Args:
        batch: the S runs: settings, data, model.
        state: where they stand.
        engine: trains the clients.
        evaluation: measures the models on the test set; None: nothing is measured.

    Yields:
        The state after every round.

    Raises:
        TrainingError: a model diverges, or no update is left to aggregate.
    """
    for t in range(state.round + 1, batch.num_rounds + 1):
        state = training_round(batch, state, t, engine, evaluation)
        yield state


def training_round(
    batch: RunBatch, state: TrainingState, t: int, engine: Engine, evaluation: Evaluation | None
) -> TrainingState:
    """Round t of Algorithm 1: perturb, local training and attack, aggregate, clip, record.

    Args:
        batch: the S runs: settings, data, model.
        state: where they stand after round t - 1, clipped and without noise.
        t: the round, 1 .. T.
        engine: trains the clients.
        evaluation: measures the models on the test set; None: nothing is measured.

    Returns:
        The state after round t.

    Raises:
        TrainingError: a model diverges, or no update is left to aggregate.
    """
    # The server perturbs the model of the round before: z_t = w_{t-1} + N(0, sigma_{t-1}^2 I).
    global_models = perturb(state.params, batch.noise_stds(t - 1), batch.seed, t - 1)

    # The clients train on their batches, those of attackers poisoned; attackers scale or replace their updates.
    aggregates, clients = collect_updates(batch, global_models, t, engine)

    # The server aggregates: v_t = (1 - kappa_t) z_t + sum_i p_i u_i,
    pre_clip = batch.check_finite(shrink(global_models, batch.decays(t)) + aggregates, global_models, t)

    # and clips: w_t = Pi_{rho_t}(v_t).
    params = project(pre_clip, batch.clip_norms(t))

    batch.warn_of_dropped(clients, state, t)
    return record_round(batch, state, t, global_models, pre_clip, params, clients, evaluation)


def collect_updates(
    batch: RunBatch, global_models: Tensor, t: int, engine: Engine
) -> tuple[Tensor, tuple[ClientStats, ...]]:
    """Local training, attack and aggregation of round t: sum_i p_i gamma_i u_i(z_t) of every run.

    Args:
        batch: the S runs.
        global_models: z_t, (S, P).
        t: the round, 1 .. T.
        engine: trains the clients.

    Returns:
        The aggregates (S, P), and of each run what is recorded of its clients.

    Raises:
        TrainingError: no update is left to aggregate.
    """
    plans = [plan.round(t) for plan in batch.plans]
    aggregators = batch.aggregators(plans, t, like=global_models[0])
    weights = [a.weights if a.needs_only_sum else None for a in aggregators]
    apart = batch.groups is not None
    for block in engine.local_updates(global_models, t, batch.learning_rate_caps(t), plans, weights, apart):
        for i, run in enumerate(block.runs):
            if isinstance(block, UpdateSums):
                aggregators[run].add_sum(block.totals[i])
                continue
            clients, updates = aggregators[run].of_participants(block.clients, block.updates[:, i])
            submitted, invalid = apply_attack(plans[run], clients, updates, global_models[run], batch.seed, t)
            for client in invalid:
                aggregators[run].drop(client, WRONG_SHAPE)
            aggregators[run].add(clients, submitted)
    aggregates, clients_stats = zip(*map(batch.aggregate, aggregators), strict=True)
    return torch.stack(aggregates), clients_stats


def record_round(
    batch: RunBatch,
    state: TrainingState,
    t: int,
    global_models: Tensor,
    pre_clip: Tensor,
    params: Tensor,
    clients: tuple[ClientStats, ...],
    evaluation: Evaluation | None,
) -> TrainingState:
    """The state after round t, with the norms, measurements and client statistics that are recorded of it.

    Args:
        batch: the S runs.
        state: where they stood after round t - 1.
        t: the round, 1 .. T.
        global_models: z_t, (S, P).
        pre_clip: v_t, (S, P).
        params: w_t, (S, P).
        clients: of each run what is recorded of its clients.
        evaluation: measures w_t, in the rounds that are evaluated.

    Returns:
        The state.
    """
    measure = evaluation.measure if evaluation is not None and batch.evaluates(t) else unmeasured
    loss, accuracy, attack_success_rate, top_prediction_share = measure(params)
    metrics = RoundMetrics(
        start_norm=norm(global_models),
        start_spectral_norm=batch.model.spectral_norm(global_models),
        pre_clip_norm=norm(pre_clip),
        distance=norm(params - params[0]),
        loss=loss,
        accuracy=accuracy,
        attack_success_rate=attack_success_rate,
        top_prediction_share=top_prediction_share,
    )
    if state.clients:
        clients = tuple(own.sharing(before) for own, before in zip(clients, state.clients[-1], strict=True))
    kept = {**state.checkpoints, t: params} if t in batch.checkpoints else state.checkpoints
    return TrainingState(params, state.metrics.and_then(metrics), state.clients.and_then(clients), kept)

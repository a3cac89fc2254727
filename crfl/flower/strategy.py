"""Algorithm 1's server as a Flower strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor, nn

from crfl.aggregator import WRONG_SHAPE, RoundAggregator
from crfl.algorithm import record_round
from crfl.attack.plan import RoundPlan
from crfl.attack.triggers import make_trigger
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.errors import DataError, SettingsError, TrainingError
from crfl.evaluation import Evaluation
from crfl.flower import messages
from crfl.flower.declared import DeclaredData
from crfl.flower.nodes import find_clients
from crfl.models import Model
from crfl.run import TrainingRun
from crfl.run_batch import RunBatch
from crfl.server import perturb, project, shrink

NO_REPLY, FAILED, TWICE, OTHER_ROUND, ABSENT = (
    "without a reply in time",
    "of a client that failed",
    "sent more than once",
    "of another round",
    "of a client that is not connected",
)
"""Why an update is dropped, apart from crfl.aggregator's reasons."""


class CRFL(Strategy):
    """Federated averaging whose server clips and perturbs the global model in every round (Algorithm 1).

    Everything that the settings say of the server happens here, by crfl's own functions: participation, aggregation
    with fixed weights, update clip, decay, projection, noise. After `start`, `run` is the TrainingRun, which
    `crfl.save_run` writes and `crfl.certify` certifies. Its record says that the clients' part was not seen by the
    server. Replies that failed, came too late, are not finite or have the wrong shape are dropped and recorded.
    """

    def __init__(
        self,
        exp: Experiment,
        data: FederatedData,
        *,
        model: Model | nn.Module | None = None,
        connect_timeout: float = 600.0,
    ) -> None:
        """A server that has not begun.

        Args:
            exp: The settings. `attack` is the attack that certificates are about, and that crfl's clients carry out.
            data: What the server knows of the clients' data, and its test split: DeclaredData; or the data itself in a
                simulation.
            model: The module to train, if not softmax regression.
            connect_timeout: Seconds to wait for the clients.

        Raises:
            SettingsError, DataError: If settings, data and model do not fit.
        """
        self.batch = _Batch.of([exp], data, model=model)
        self.connect_timeout = connect_timeout
        self.state = self.batch.start()
        """Where training stands."""
        self.nodes: dict[int, int] = {}
        """Flower's node of each client."""
        self._round: _Round | None = None
        _check_triggers(exp, data)

    @property
    def exp(self) -> Experiment:
        """The settings."""
        return self.batch.experiments[0]

    @property
    def run(self) -> TrainingRun:
        """The finished run. TrainingError before the last round."""
        if self.state.round < self.batch.num_rounds:
            raise TrainingError(f"run: got {self.state.round} rounds, expected all {self.batch.num_rounds}")
        (run,) = self.batch.finish(self.state)
        return replace(run, record=replace(run.record, client_reported=True))

    def start(  # type: ignore[override]
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """All rounds, as Flower's strategies do it.

        Args:
            grid: Flower's connection to the clients.
            initial_arrays: The model to start from, by the names of the module's parameters; None: that of the
                settings.
            num_rounds: T; None: server.rounds, which it must equal.
            timeout: Seconds to wait for the replies of a round.
            train_config: Sent to the clients as well.
            evaluate_config: Not used: the server measures the model itself.
            evaluate_fn: See Flower.

        Raises:
            SettingsError: If num_rounds is not server.rounds, on which noise and clipping depend.
            TrainingError: If clients are missing at the start, the model diverges, or a round has no usable update.
        """
        if num_rounds not in (None, self.batch.num_rounds):
            raise SettingsError([f"num_rounds: got {num_rounds}, expected server.rounds, {self.batch.num_rounds}"])
        arrays = (
            messages.to_arrays(self.batch.model, self.state.params[0]) if initial_arrays is None else initial_arrays
        )
        return super().start(grid, arrays, self.batch.num_rounds, timeout, train_config, evaluate_config, evaluate_fn)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Perturb the model of the round before, and send it to the round's clients. See Strategy."""
        t, batch = server_round, self.batch
        if t != self.state.round + 1:
            raise TrainingError(f"server_round: got {t}, expected {self.state.round + 1}")
        if t == 1:
            self._begin_at(arrays)
            self.nodes = find_clients(grid, len(batch.sizes), self.connect_timeout)
        global_models = perturb(self.state.params, batch.noise_stds(t - 1), batch.seed, t - 1)
        plan = batch.plans[0].round(t)
        (aggregator,) = batch.aggregators([plan], t, like=global_models[0])
        connected = set(grid.get_node_ids())
        for client in plan.participants.tolist():
            if self.nodes[client] not in connected:
                aggregator.drop(client, ABSENT)
        self._round = _Round(t, plan, global_models, aggregator)
        content = self._content(config)
        asked = [client for client in plan.participants.tolist() if client not in aggregator.dropped]
        return [Message(content, self.nodes[client], MessageType.TRAIN, group_id=str(t)) for client in asked]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate, decay and clip: the model of this round, without noise. See Strategy."""
        if self._round is None or self._round.number != server_round:
            raise TrainingError(f"server_round: got {server_round}, expected the round that was configured last")
        now, batch, t = self._round, self.batch, server_round
        self._receive(now, replies)
        aggregate, stats = now.aggregator.aggregate()
        moved = shrink(now.global_models, batch.decays(t)) + aggregate
        moved = batch.check_finite(moved, now.global_models, t)
        params = project(moved, batch.clip_norms(t))
        batch.warn_of_dropped((stats,), self.state, t)
        self.state = record_round(batch, self.state, t, now.global_models, moved, params, (stats,), self._evaluation)
        self._round = None
        metrics = self.state.metrics[-1]
        told = {"loss": float(metrics.loss[0]), "accuracy": float(metrics.accuracy[0]), "dropped": len(stats.dropped)}
        return messages.to_arrays(batch.model, params[0]), MetricRecord(told)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: the server measures the model on its own test split."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing."""
        return None

    def summary(self) -> None:
        """Log the settings of the server."""
        from logging import INFO, getLogger

        server = self.exp.server
        getLogger("flwr").log(
            INFO,
            "\t%d clients, %s, noise %g, seed %d",
            len(self.batch.sizes),
            server.aggregation,
            server.noise,
            self.exp.seed,
        )

    @cached_property
    def _evaluation(self) -> Evaluation:
        return Evaluation(self.batch.model, self.batch.data, self.batch.experiments)

    def _begin_at(self, arrays: ArrayRecord) -> None:
        """Take the model to start from."""
        start = messages.from_arrays(self.batch.model, arrays, self.state.params[0])
        if start is None or not torch.isfinite(start).all():
            raise DataError(
                f"initial_arrays: got {dict.fromkeys(arrays)}, expected the finite parameters of {self.batch.model.name}"
            )
        self.state = replace(self.state, params=start[None])

    def _content(self, config: ConfigRecord) -> RecordDict:
        """What every client of the round gets."""
        assert self._round is not None
        now = self._round
        own = {
            messages.ROUND: now.number,
            messages.CAP: self.batch.learning_rate_caps(now.number)[0],
            messages.PARTICIPANTS: len(now.plan.participants),
            messages.ATTACKERS: len(now.plan.attackers),
            messages.SETTINGS: messages.settings_digest(self.exp),
        }
        arrays = messages.to_arrays(self.batch.model, now.global_models[0])
        return RecordDict({messages.ARRAYS: arrays, messages.CONFIG: ConfigRecord({**config, **own})})

    def _receive(self, now: _Round, replies: Iterable[Message]) -> None:
        """Hand the usable updates to the aggregator in the order of the clients; drop the others."""
        by_node: dict[int, list[Message]] = {}
        for reply in replies:
            by_node.setdefault(reply.metadata.src_node_id, []).append(reply)
        for client in now.plan.participants.tolist():
            if client in now.aggregator.dropped:
                continue
            update = self._usable(now, by_node.get(self.nodes[client], []))
            if isinstance(update, str):
                now.aggregator.drop(client, update)
            else:
                now.aggregator.add(np.array([client]), update[None])

    def _usable(self, now: _Round, replies: list[Message]) -> Tensor | str:
        """A client's update (P,); or what is wrong with it."""
        if not replies:
            return NO_REPLY
        if len(replies) > 1:
            return TWICE
        if replies[0].has_error():
            return FAILED
        if messages.read_number(replies[0], messages.ROUND) != now.number:
            return OTHER_ROUND
        update = messages.read_update(self.batch.model, replies[0], now.global_models[0])
        return WRONG_SHAPE if update is None else update


@dataclass(frozen=True)
class _Round:
    """A round that is under way."""

    number: int
    plan: RoundPlan
    global_models: Tensor
    """z_t, (1, P)."""
    aggregator: RoundAggregator


@dataclass(frozen=True)
class _Batch(RunBatch):
    """A batch of one run, whose data may be declared only."""

    @cached_property
    def smoothness(self) -> npt.NDArray[np.float64]:
        """See RunBatch."""
        if isinstance(self.data, DeclaredData) and self.model.linear:
            return self.data.smoothness(self.model.bias)
        return super().smoothness


def _check_triggers(exp: Experiment, data: FederatedData) -> None:
    """DataError if an attacker's trigger has no bound, and there are no samples on which to measure it."""
    if not isinstance(data, DeclaredData) or not exp.attack.active:
        return
    for attack in exp.attack.individuals:
        if not hasattr(make_trigger(attack, data, exp.seed).trigger, "magnitude"):
            raise DataError(
                f"attack.trigger: {attack.trigger!r} states no magnitude, expected one where data is declared"
            )

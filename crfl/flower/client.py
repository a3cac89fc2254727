"""The clients' side: local training of Algorithm 1, and the attack of the settings in experiments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from crfl.attack.plan import AttackPlan, RoundPlan, apply_attack
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.engines.base import ClientUpdates
from crfl.engines.reference import ReferenceEngine
from crfl.errors import DataError, SettingsError
from crfl.flower import messages
from crfl.models import Model, make_model


def client_app(
    exp: Experiment, load_partition: Callable[[int], FederatedData], *, model: Model | nn.Module | None = None
) -> ClientApp:
    """A ClientApp that trains as `crfl.train` does, to the same batches.

    A client's number is `context.node_config["partition-id"]`.

    Args:
        exp: The settings, equal to the server's; where they differ, the client sends an error instead of an update.
        load_partition: From the client's number to its data: FederatedData of this client alone, or of the whole
            federation, of which it takes its own part. Called in every round.
        model: The module that is trained, if not softmax regression.

    Returns:
        The app. It answers `train` and `query` messages of `CRFL`.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment()
        >>> app = client_app(exp, lambda number: crfl.load_data(exp))
    """
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({messages.CLIENT: _stated(context)}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        stated = _stated(context)
        number = int(context.node_config["partition-id"])
        update = LocalTrainer(exp, load_partition(number), number, model).reply(message)
        round_ = message.content.config_records[messages.CONFIG][messages.ROUND]
        stated[messages.ROUND] = round_
        return Message(RecordDict({messages.CLIENT: stated, **update}), reply_to=message)

    return app


class LocalTrainer:
    """One client's training: the reference engine on its own shard."""

    def __init__(
        self, exp: Experiment, data: FederatedData, number: int, model: Model | nn.Module | None = None
    ) -> None:
        """DataError if the data has no part for the client."""
        self.exp, self.number = exp, number
        self.data = own_part(exp, data, number)
        self.model = make_model(model, data.num_features, data.num_classes, exp.model.bias)
        self.engine = ReferenceEngine(self.model, self.data, exp.local, exp.seed)
        self.attack = AttackPlan(exp, self.data, clients=np.array([number]))

    def reply(self, message: Message) -> RecordDict:
        """The client's update on a server's message; nothing if an attacker sends what is no update."""
        config = message.content.config_records[messages.CONFIG]
        if config[messages.SETTINGS] != messages.settings_digest(self.exp):
            raise SettingsError(
                [f"client {self.number}: got settings that differ from the server's, expected the same"]
            )
        like = torch.zeros(self.model.num_params, dtype=self.exp.local.dtype)
        global_model = messages.from_arrays(self.model, message.content.array_records[messages.ARRAYS], like)
        if global_model is None:
            raise DataError(f"client {self.number}: got another model from the server, expected {self.model.name}")
        round_, share = int(config[messages.ROUND]), (config[messages.PARTICIPANTS], config[messages.ATTACKERS])
        update = self.update(global_model, round_, float(config[messages.CAP]), share)
        return RecordDict({} if update is None else {messages.UPDATE: messages.to_arrays(self.model, update)})

    def update(self, global_model: Tensor, round_: int, cap: float, share: tuple[int, int]) -> Tensor | None:
        """The submitted update (P,) from the global model (P,); None if an attacker sends what is no update.

        `cap` bounds the learning rate; `share`: how many clients, and how many attackers, take part in the round.
        """
        plan = self._plan(round_, share)
        (block,) = self.engine.local_updates(global_model[None], round_, [cap], [plan], weights=[None])
        assert isinstance(block, ClientUpdates)
        submitted, invalid = apply_attack(plan, block.clients, block.updates[:, 0], global_model, self.exp.seed, round_)
        return None if invalid else submitted[0]

    def _plan(self, round_: int, share: tuple[int, int]) -> RoundPlan:
        attackers = {a.client: a for a in self.attack.all_attackers} if round_ in self.attack.rounds else {}
        for client, attacker in attackers.items():
            if attacker.replaces_model:
                attackers[client] = replace(attacker, scale=share[0] / share[1])
        return RoundPlan(np.array([self.number]), attackers, benign=False)


def own_part(exp: Experiment, data: FederatedData, number: int) -> FederatedData:
    """The data of client `number` alone, in its place among the clients of the settings.

    DataError if `data` has neither one client nor as many as the settings.
    """
    clients = exp.data.num_clients
    if not 0 <= number < clients:
        raise DataError(f"partition-id: got {number}, expected 0 to {clients - 1}, the clients of the settings")
    if len(data.shards) not in (1, clients):
        raise DataError(
            f"load_partition: got data of {len(data.shards)} clients, expected that of client {number} alone or of "
            f"all {clients}"
        )
    shard = data.shards[number if len(data.shards) == clients else 0]
    none = shard[:0]
    shards = tuple(shard if i == number else none for i in range(clients))
    names = data.client_names if len(data.client_names) == clients else ()
    if not names and not isinstance(exp.data.clients, int):
        names = exp.data.clients
    return replace(data, shards=shards, client_names=names)


def _stated(context: Context) -> ConfigRecord:
    if "partition-id" not in context.node_config:
        raise DataError(
            "node config: got no partition-id, expected the client's number: start the SuperNode with "
            '--node-config "partition-id=0 num-partitions=2"'
        )
    return ConfigRecord({messages.NUMBER: int(context.node_config["partition-id"])})

"""The reference engine: client by client, batch by batch, torch.optim.SGD on a torch module. No trick."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crfl import rng
from crfl.attack.plan import Attacker, RoundPlan
from crfl.config import Local
from crfl.data.federated import FederatedData
from crfl.engines.base import ClientUpdates
from crfl.models import Model


class ReferenceEngine:
    """Client by client and batch by batch. The vectorised engine is tested against it."""

    def __init__(self, model: Model, data: FederatedData, local: Local, seed: int) -> None:
        """`data` lies on the device that trains."""
        self.model, self.data, self.local, self.seed = model, data, local, seed

    def local_updates(
        self,
        global_models: Tensor,
        round_: int,
        learning_rate_caps: Sequence[float],
        plans: Sequence[RoundPlan],
        weights: Sequence[Tensor | None],
        apart: bool = False,
    ) -> Iterator[ClientUpdates]:
        """See Engine."""
        rates = self.local.learning_rates(len(self.data.shards))
        for run, (global_model, cap, plan) in enumerate(zip(global_models, learning_rate_caps, plans, strict=True)):
            for client in plan.participants.tolist():
                rate = min(rates[client], cap)
                update = self._train(global_model, client, round_, rate, plan.poisoners.get(client))
                yield ClientUpdates([run], np.array([client]), update[None, None])

    def _train(
        self, global_model: Tensor, client: int, round_: int, learning_rate: float, attacker: Attacker | None
    ) -> Tensor:
        """The update (P,) of one client: SGD from the global model (P,) on its batches, poisoned by an attacker."""
        module = self.model.to_module(global_model)
        decay = self.local.weight_decay
        optimizer = torch.optim.SGD(module.parameters(), lr=learning_rate, weight_decay=decay)
        for rows in self._batches(client, round_):
            x, y = self.data.x[rows].to(global_model.dtype) * self.data.scale, self.data.y[rows].clone()
            if attacker is not None:
                attacker.poison(self.data, rows, x, y)
            optimizer.zero_grad()
            functional.cross_entropy(module(x), y).backward()
            optimizer.step()
        return self.model.from_module(module) - global_model

    def _batches(self, client: int, round_: int) -> Iterator[Tensor]:
        """The training rows of each batch of a client's round: a random order of its shard, epoch by epoch."""
        shard, size = self.data.shards[client], self.local.batch_size
        for epoch in range(self.local.epochs):
            key = rng.keys(self.seed, "batches", round_, [client], epoch)
            order = torch.from_numpy(rng.shuffles(key, len(shard))[0])
            for rows in shard[order].split(size):
                if len(rows) == size or self.local.keep_last_batch:
                    yield rows.to(self.data.x.device)

"""Local SGD of many clients at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crfl import rng
from crfl.config import Local
from crfl.data.federated import FederatedData
from crfl.training.attack import Attacker
from crfl.training.models import Model

CHUNK_BYTES = 2**23
"""Memory for the batches and models of the clients that are trained together on a CPU: about what its cache holds. An
accelerator, which needs more work at a time, gets 32 times as much."""


def local_steps(sizes: Sequence[int], local: Local) -> npt.NDArray[np.int64]:
    """tau_i: local steps a round of clients with n_i samples each, (N,)."""
    n = np.asarray(sizes, dtype=np.int64)
    batches = -(-n // local.batch_size) if local.keep_last_batch else n // local.batch_size
    return batches * local.epochs


def batches(
    data: FederatedData, clients: npt.NDArray[np.int64], local: Local, seed: int, round_: int
) -> Iterator[npt.NDArray[np.int64]]:
    """For each local step the training rows (k, batch_size) of the first k clients, -1 for padding.

    `clients` come in falling order of their numbers of steps; those that have finished drop out at the end. Each
    client's order is drawn from (seed, round, client, epoch), so it does not depend on who else is listed.
    """
    plans: list[list[npt.NDArray[np.int64]]] = [[] for _ in clients]
    sizes = [data.sizes[c] for c in clients]
    for epoch in range(local.epochs):
        for plan, client, order in zip(
            plans, clients, rng.shuffles(seed, "batches", round_, clients, sizes, epoch), strict=True
        ):
            rows = data.shards[client].numpy()[order]
            spare = len(rows) % local.batch_size
            if spare and local.keep_last_batch:
                rows = np.pad(rows, (0, local.batch_size - spare), constant_values=-1)
            plan.extend(rows[: len(rows) - len(rows) % local.batch_size].reshape(-1, local.batch_size))
    for step in range(len(plans[0])):
        yield np.stack([plan[step] for plan in plans if step < len(plan)])


def local_updates(
    model: Model,
    params: Tensor,
    data: FederatedData,
    local: Local,
    *,
    clients: npt.NDArray[np.int64],
    seed: int,
    round_: int,
    attackers: Sequence[Attacker] | None = None,
) -> Tensor:
    """What the local SGD of each of these clients adds to `params` (S, P) in one round, (clients, S, P).

    With `attackers`, one for each of the clients, on the same batches poisoned. Not scaled by gamma. `data` lies on the
    device of `params`.
    """
    steps = local_steps([data.sizes[c] for c in clients], local)
    order = np.argsort(-steps, kind="stable")
    per_client = 4 * (local.batch_size * data.num_features + 2 * params.numel())
    memory = CHUNK_BYTES if params.device.type == "cpu" else 32 * CHUNK_BYTES
    chunks = -(-len(clients) // max(1, memory // per_client))
    updates = params.new_empty(len(clients), *params.shape)
    for members, out in zip(np.array_split(order, chunks), updates.tensor_split(chunks), strict=True):
        poisoners = None if attackers is None else [attackers[i] for i in members]
        _train(model, params, data, local, seed, round_, clients[members], poisoners, out)
    return updates if (np.diff(order) > 0).all() else updates[torch.from_numpy(np.argsort(order))]


def _train(
    model: Model,
    params: Tensor,
    data: FederatedData,
    local: Local,
    seed: int,
    round_: int,
    clients: npt.NDArray[np.int64],
    attackers: Sequence[Attacker] | None,
    out: Tensor,
) -> None:
    """The updates (clients, S, P) of clients in falling order of their numbers of steps, written to `out`."""
    device, size, d = params.device, local.batch_size, data.num_features
    trainer = model.local_sgd(params, len(clients), data.scale if attackers is None else 1.0)
    stored = torch.empty(len(clients) * size, d, dtype=data.x.dtype, device=device)
    widened = stored if data.x.dtype == torch.float32 else torch.empty(len(clients) * size, d, device=device)
    rates = np.asarray(local.learning_rates(len(data.shards)))[clients]
    rate = torch.from_numpy(rates).to(params).view(-1, 1, 1)
    decay = rate * local.weight_decay if local.weight_decay else None
    for plan_rows in batches(data, clients, local, seed, round_):
        k = len(plan_rows)
        real = torch.from_numpy(plan_rows >= 0).to(device) if local.keep_last_batch else None
        rows = torch.from_numpy(plan_rows).to(device).clamp_(min=0).flatten()
        # Rows are gathered as stored (bytes for images) and widened in a buffer that every step reuses.
        torch.index_select(data.x, 0, rows, out=stored[: k * size])
        x = widened[: k * size] if widened is stored else widened[: k * size].copy_(stored[: k * size])
        x, y = x.view(k, size, d), data.y.index_select(0, rows).view(k, size)
        if attackers is not None:
            x = x.mul_(data.scale)
            for attacker, batch, labels in zip(attackers, x, y, strict=False):
                attacker.poison(batch, labels)
        share = 1 / size if real is None else (real / real.sum(1, keepdim=True)).unsqueeze(1)
        trainer.step(x, y, rate[:k] * share, None if decay is None else decay[:k])
    trainer.updates(out)

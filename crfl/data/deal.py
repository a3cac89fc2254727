"""Who owns which rows: public rows for the server, the others dealt out to clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crfl.data import arrays, partition
from crfl.data.public import complement, draw_public, without
from crfl.errors import DataError
from crfl.rng import stream


@dataclass(frozen=True)
class Dealt:
    """Who owns which rows."""

    shards: tuple[Tensor, ...]
    """The rows of each client, (n_i,) int64."""
    public: Tensor | None
    """The server's rows, (p,) int64; None: it has none."""
    partition: str | None
    """"iid", "dirichlet" or "natural"; None: the shards were given."""
    names: tuple[str, ...] = ()
    """The clients' names, where a natural partition has them."""


def deal(
    y: Tensor, clients: Any, name: str | None, alpha: float, shards: Sequence[Any] | None, public: int, seed: int
) -> Dealt:
    """Draw the server's public rows, then deal the other rows out to clients.

    Args:
        y: Labels (n,).
        clients: Their number; or the client of every sample, (n,) numbers or words.
        name: The partition; None: "iid" for a number of clients, else "natural".
        alpha: Concentration of the dirichlet partition.
        shards: The rows of each client, in place of a partition; public rows are taken from them.
        public: How many rows the server keeps.
        seed: Of the partition and of the choice of public rows.

    Raises:
        DataError: The partition does not fit the clients, or the rows do not suffice.
    """
    number = isinstance(clients, (int, np.integer))
    name = name or ("iid" if number else "natural")
    if shards is not None:
        rows = draw_public(torch.arange(len(y)), public, seed)
        return Dealt(without(arrays.row_sets(shards), rows, len(y)), rows if public else None, None)
    if name not in ("iid", "dirichlet", "natural") or number != (name != "natural"):
        raise DataError(
            f"partition: got {name!r} with clients {clients if number else 'by sample'}, expected 'iid' or 'dirichlet' "
            "with a number of clients, or 'natural' with the client of every sample"
        )
    rows = draw_public(torch.arange(len(y)), public, seed)
    if name == "natural":
        keys = np.asarray(clients)
        if keys.shape != (len(y),):
            raise DataError(f"clients: got shape {keys.shape}, expected one client for each of {len(y)} samples")
        dealt, names = partition.natural(keys), tuple(map(str, np.unique(keys).tolist()))
        return Dealt(without(dealt, rows, len(y)), rows if public else None, name, names)
    rest, generator = complement(rows, len(y)), stream(seed, "partition")
    if name == "iid":
        dealt = partition.iid(len(rest), clients, generator)
    else:
        dealt = partition.dirichlet(y[rest], clients, alpha, generator)
    if public:
        dealt = rest[torch.cat(dealt)].split([len(own) for own in dealt])
    return Dealt(dealt, rows if public else None, name)

"""Dealing training samples out to clients. Every partition returns, for each client, the rows that it owns.

Rows are int64 and rise within a client: the samples stay where they are, and each row has at most one owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crfl.errors import DataError
from crfl.rng import permutation

Shards = tuple[Tensor, ...]

MOST_EQUAL = 1e100
"""Concentration beyond which shares are equal to the last bit, and NumPy would overflow."""


def iid(samples: int, clients: int, generator: torch.Generator) -> Shards:
    """Equal random shards of `samples` // `clients` rows each; the remainder of the division is nobody's.

    Args:
        samples: n
        clients: N
        generator: Of the shuffle.

    Returns:
        The rows of each client.

    Raises:
        DataError: There are more clients than samples.

    Example:
        >>> [len(rows) for rows in iid(7, 3, torch.Generator())]
        [2, 2, 2]
    """
    _check_count(samples, clients)
    order = permutation(samples, generator)[: samples // clients * clients]
    return order.view(clients, -1).sort(dim=1).values.unbind(0)


def dirichlet(y: Tensor | npt.NDArray[np.int64], clients: int, alpha: float, generator: torch.Generator) -> Shards:
    """Unequal label mixes: the samples of each label are dealt out in shares drawn from Dirichlet(alpha, ..., alpha).

    Small `alpha` gives each label to few clients; large `alpha` approaches an iid partition. Every sample finds an
    owner, sizes differ, and a client may come out small or empty. Source of the scheme: Hsu, Qi, Brown 2019 (arXiv
    1909.06335), with the prior uniform and the roles of label and client exchanged, so that all samples are used.

    Args:
        y: Labels, (n,) int64.
        clients: N
        alpha: Concentration.
        generator: Of the shares and the shuffles.

    Returns:
        The rows of each client.

    Raises:
        DataError: There are more clients than samples, or `alpha` is not positive and finite.

    Example:
        >>> shards = dirichlet(torch.arange(100) % 2, 3, 0.5, torch.Generator().manual_seed(0))
        >>> sum(len(rows) for rows in shards)
        100
    """
    _check_count(len(y), clients)
    if not 0 < alpha < np.inf:
        raise DataError(f"alpha: got {alpha}, expected a positive number")
    y = torch.as_tensor(y)
    random = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
    owner = torch.empty(len(y), dtype=torch.int64)
    for label in np.unique(y.numpy()).tolist():
        rows = (y == label).nonzero().flatten()
        rows = rows[permutation(len(rows), generator)]
        cuts = np.rint(np.cumsum(_dirichlet_shares(random, clients, alpha))[:-1] * len(rows))
        owner[rows] = torch.from_numpy(np.searchsorted(cuts, np.arange(len(rows)), side="right"))
    return _rows_of(owner.numpy(), clients)


def natural(keys: npt.ArrayLike, clients: Sequence[Any] | None = None) -> Shards:
    """One client a key: client i owns the rows whose key is `clients[i]`; rows of other keys are nobody's.

    Args:
        keys: (n,) numbers or words, one a sample.
        clients: Keys in client order; None means all of them, rising.

    Returns:
        The rows of each client.

    Raises:
        DataError: A client owns no row or is named twice, or keys cannot be sorted.

    Example:
        >>> [rows.tolist() for rows in natural(["Ada", "Bob", "Ada"])]
        [[0, 2], [1]]
    """
    try:
        values, inverse = np.unique(np.asarray(keys), return_inverse=True)
    except TypeError as error:
        raise DataError(f"partition: keys that cannot be sorted ({error}), expected numbers or words") from None
    wanted = values.tolist() if clients is None else list(clients)
    if len(set(wanted)) < len(wanted):
        raise DataError(f"partition: got clients {wanted}, expected every key once")
    number = {key: client for client, key in enumerate(wanted)}
    owner = np.array([number.get(key, -1) for key in values.tolist()], dtype=np.int64)[inverse.reshape(-1)]
    shards = _rows_of(owner, len(wanted))
    empty = [key for key, rows in zip(wanted, shards, strict=True) if not len(rows)]
    if empty:
        raise DataError(f"partition: got client {empty[0]!r}, expected a key that a sample has; leave this client out")
    return shards


def _dirichlet_shares(random: np.random.Generator, clients: int, alpha: float) -> npt.NDArray[np.float64]:
    """One draw of Dirichlet(alpha, ..., alpha); one client takes all if alpha is so small that every share is 0."""
    shares = random.dirichlet(np.full(clients, min(alpha, MOST_EQUAL)))
    if not np.isfinite(shares).all() or not np.isclose(shares.sum(), 1.0):
        shares = np.eye(clients)[random.integers(clients)]
    return shares


def _rows_of(owner: npt.NDArray[np.int64], clients: int) -> Shards:
    """Rows of each client 0 .. clients - 1, in rising order; owner -1 is nobody."""
    order = np.argsort(owner, kind="stable")
    edges = np.searchsorted(owner[order], np.arange(clients + 1))
    return tuple(torch.from_numpy(order[a:b].astype(np.int64)) for a, b in pairwise(edges.tolist()))


def _check_count(samples: int, clients: int) -> None:
    if not isinstance(clients, (int, np.integer)) or not 1 <= clients <= samples:
        raise DataError(f"data.clients: got {clients}, expected 1 to the number of training samples = {samples}")

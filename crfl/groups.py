"""Which clients train together in an ensemble: dealt once, by their names and the seed, before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from crfl import rng
from crfl.errors import SettingsError

IntArray = npt.NDArray[np.int64]


def deal_clients(client_names: Sequence[str], groups: int, seed: int) -> IntArray:
    """Deal all clients to disjoint groups: in the order of a keyed hash of their names, round robin.

    Group sizes differ by one at most, and no group is empty. The dealing depends on the set of names and the seed alone:
    not on the clients' order, data or behaviour, so a client that stays away or sends anything moves no other. It does
    depend on *which* clients there are. The list of names must stand before training, and no client may be on it twice.

    Args:
        client_names: N different names.
        groups: G, 1 to N.
        seed: Key of the hash. Who does not know it cannot foresee a client's group.

    Returns:
        (N,) int64: the group, 0 to G - 1, of each client.

    Raises:
        SettingsError: G is out of range, or two clients have the same name.

    Example:
        >>> deal_clients(["Ada", "Bob", "Eve", "Kim", "Max"], groups=2, seed=0)
        array([1, 0, 0, 1, 0])
    """
    names = list(client_names)
    if len(set(names)) < len(names):
        raise SettingsError([f"client_names: got {len(names)} ({len(set(names))} different), expected different names"])
    _check_range("groups", groups, len(names))
    order = sorted(range(len(names)), key=lambda client: _keyed_hash(names[client], seed))
    found = np.empty(len(names), dtype=np.int64)
    found[order] = np.arange(len(names)) % groups
    return found


def draw_groups(num_clients: int, groups: int, clients_per_group: int, seed: int) -> IntArray:
    """Draw groups of k different clients, each uniformly from all C(N, k) and independently of the others.

    A client may be in several groups or in none. Group g is drawn from the stream (seed, "groups", g), so the first
    groups are the same however many are drawn.

    Args:
        num_clients: N
        groups: G, 1 or more.
        clients_per_group: k, 1 to N.
        seed: Seed of the draws. Clients must not know it before training ends.

    Returns:
        (G, k) int64: the numbers of each group's clients, in rising order.

    Raises:
        SettingsError: a number is out of range.

    Example:
        >>> draw_groups(num_clients=10, groups=2, clients_per_group=3, seed=0).shape
        (2, 3)
    """
    _check_range("groups", groups)
    _check_range("clients_per_group", clients_per_group, num_clients)
    drawn = [rng.choice(num_clients, clients_per_group, rng.stream(seed, "groups", g)) for g in range(groups)]
    return np.array(drawn, dtype=np.int64)


def _keyed_hash(name: str, seed: int) -> bytes:
    return hashlib.blake2b(name.encode(), key=str(seed).encode(), person=b"crfl groups").digest()


def _check_range(setting: str, value: int, most: int | None = None) -> None:
    if not isinstance(value, (int, np.integer)) or not 1 <= value <= (value if most is None else most):
        expected = "a whole number of 1 or more" if most is None else f"1 to {most}, the number of clients"
        raise SettingsError([f"{setting}: got {value!r}, expected {expected}"])

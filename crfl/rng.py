"""Named random streams: every draw derives from (seed, purpose, ids), so nothing depends on the order of other draws.

`stream(seed, "noise", round)` is the same generator whichever client came first, wherever the run was resumed
and however the work was split into chunks. Draws are made on the CPU, so that every device sees the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def seed_for(seed: int, purpose: str, *ids: int) -> int:
    """63-bit seed of the stream named by (seed, purpose, ids)."""
    name = "/".join(map(str, (seed, purpose, *ids)))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def stream(seed: int, purpose: str, *ids: int) -> torch.Generator:
    """CPU generator of the stream named by (seed, purpose, ids)."""
    return torch.Generator().manual_seed(seed_for(seed, purpose, *ids))


Keys = npt.NDArray[np.uint64]


def keys(seed: int, purpose: str, round_: int, clients: npt.ArrayLike, epoch: int = 0) -> Keys:
    """For each client (n,) the key of a SplitMix64 stream of its own (Steele, Lea, Flood 2014), for `shuffles`.

    A client's key depends on its number, not on who else is asked for.
    """
    base = np.uint64(seed_for(seed, purpose, round_, epoch))
    return _mix(base + _mix(np.asarray(clients, dtype=np.uint64) + _GOLDEN))


def shuffles(streams: Keys, size: int) -> npt.NDArray[np.int64]:
    """One random order of range(size) for each of the `keys`, (n, size), at most 2^32 samples each.

    The streams are evaluated at once: ten thousand small clients cost as little as twenty large ones. The order is that
    of 32 random bits a sample, ties broken by position.
    """
    position = np.arange(size, dtype=np.uint64)
    draws = _mix(streams[:, None] + (position + np.uint64(1)) * _GOLDEN)
    low = np.uint64(0xFFFFFFFF)
    draws &= ~low
    draws |= position
    draws.sort(axis=1)  # sorting plain numbers is faster than argsort
    draws &= low
    return draws.view(np.int64)


def _mix(z: Keys) -> Keys:
    """SplitMix64's finaliser, in place: a bijection of 64-bit words (sums and products wrap on purpose)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return z


def permutation(size: int, generator: torch.Generator) -> torch.Tensor:
    """Random order of range(size), shape (size,), int64."""
    return torch.randperm(size, generator=generator)


def choice(size: int, count: int, generator: torch.Generator) -> Sequence[int]:
    """`count` different numbers below `size`, in rising order."""
    return sorted(permutation(size, generator)[:count].tolist())

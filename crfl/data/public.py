"""Samples of the server: they set the feature map, and no client trains on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crfl.errors import DataError
from crfl.rng import permutation, stream


def draw_public(candidates: Tensor, count: int, seed: int) -> Tensor:
    """`count` of the candidate rows, drawn from the seed, (count,) int64, rising.

    Raises:
        DataError: If that leaves no sample to the clients.

    Example:
        >>> import torch
        >>> len(draw_public(torch.arange(100), 10, seed=0))
        10
    """
    if count and count >= len(candidates):
        raise DataError(f"features.public: got {count}, expected fewer than the {len(candidates)} training samples")
    return candidates[permutation(len(candidates), stream(seed, "public"))[:count]].sort().values


def without(shards: Sequence[Tensor], rows: Tensor, samples: int) -> tuple[Tensor, ...]:
    """The shards less the given rows, of so many samples in all."""
    if not len(rows):
        return tuple(shards)
    taken = torch.zeros(samples, dtype=torch.bool)
    taken[rows] = True
    owned = torch.cat(tuple(shards))
    keep = ~taken[owned]
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), keep.cumsum(0)])
    cuts = ends[torch.tensor([0, *(len(s) for s in shards)]).cumsum(0)]
    return owned[keep].split(cuts.diff().tolist())


def complement(rows: Tensor, samples: int) -> Tensor:
    """All rows but these, rising."""
    free = torch.ones(samples, dtype=torch.bool)
    free[rows] = False
    return free.nonzero().flatten()

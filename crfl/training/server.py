"""The server: which updates it uses, and its defence: projection on a ball and Gaussian noise (Algorithm 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crfl import rng

NOT_FINITE, WRONG_SHAPE = 1, 2
REASONS = {NOT_FINITE: "not finite", WRONG_SHAPE: "of the wrong shape"}
"""Why an update was dropped, by code; 0 means that it was not."""


def norm(params: Tensor) -> Tensor:
    """l2 norm over the last dimension, in float64: params (..., P) -> (...)."""
    return torch.linalg.vector_norm(params, dim=-1, dtype=torch.float64)


def finite(updates: Tensor) -> Tensor:
    """Which of the updates (n, P) have only finite entries, (n,) bool."""
    found = torch.isfinite(updates.sum(1))  # one pass; a NaN or an infinity spoils the sum, but so may overflow
    if not found.all():
        suspects = (~found).nonzero().flatten()
        found[suspects] = torch.isfinite(updates[suspects]).all(1)
    return found


def project(params: Tensor, clip_norm: float) -> Tensor:
    """The nearest vector of norm at most `clip_norm` (rho): params (..., P) times min(1, rho / ||params||).

    An exact projection; a vector inside the ball keeps its bits, and an infinite `clip_norm` keeps all.
    """
    if math.isinf(clip_norm):
        return params
    factor = (clip_norm / norm(params)).clamp(max=1.0)  # 0 / 0 cannot be: clip norms are positive
    return params * factor.to(params.dtype).unsqueeze(-1)


def perturb(params: Tensor, noise_std: float, seed: int, round_: int) -> Tensor:
    """Parameters (P,) plus N(0, sigma^2) on every coordinate, from the stream of the round that just ended."""
    if noise_std == 0:
        return params
    draw = torch.randn(params.shape[-1], generator=rng.stream(seed, "noise", round_), dtype=params.dtype)
    return params + noise_std * draw.to(params.device)

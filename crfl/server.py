"""The server's steps of Algorithm 1: noise, decay, projection on a ball. Leading dimensions batch runs or clients."""

from __future__ import annotations

import torch
from torch import Tensor

from crfl import rng
from crfl.devices import to_device


def norm(params: Tensor) -> Tensor:
    """l2 norm over the last dimension, in float64.

    Args:
        params: (..., P).

    Returns:
        (...) float64.

    Example:
        >>> norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([5., 0.], dtype=torch.float64)
    """
    return torch.linalg.vector_norm(params, dim=-1, dtype=torch.float64)


def project(params: Tensor, clip_norm: float | Tensor, norms: Tensor | None = None) -> Tensor:
    """The nearest vector of norm at most rho: Pi_rho(w) = w min(1, rho / ||w||) (Algorithm 1, clipping).

    An exact projection: a vector inside the ball keeps its bits.

    Args:
        params: (..., P); a vector whose norm is not finite in float64 becomes NaN.
        clip_norm: rho, positive; one for all or one for each vector (...). Infinite: no clipping.
        norms: (...) float64, what `norm` finds, where that is known.

    Returns:
        (..., P).

    Example:
        >>> project(torch.tensor([3.0, 4.0]), 1.0)
        tensor([0.6000, 0.8000])
    """
    norms = norm(params) if norms is None else norms
    factor = (to_device(torch.as_tensor(clip_norm, dtype=torch.float64), params.device) / norms).clamp(max=1.0)
    factor = torch.where(norms == 0, 1.0, factor.masked_fill(norms.isinf(), torch.nan))
    mantissa, exponent = torch.frexp(factor)  # three factors: one alone would underflow in float32 where ||w|| is 1e38
    half = torch.div(exponent - 1, 2, rounding_mode="floor")
    parts = (torch.exp2(half.double()), torch.exp2((exponent - 1 - half).double()), 2 * mantissa)
    first, second, third = (part.to(params.dtype).unsqueeze(-1) for part in parts)
    return (params * first).mul_(second).mul_(third)


def perturb(params: Tensor, noise_std: float | Tensor, seed: int, round_: int) -> Tensor:
    """w + N(0, sigma^2 I) (Algorithm 1, noise): the same draw for all runs, from the stream of the round that just ended.

    Drawn in float32 whatever the type of the parameters: a run in float64 sees the same noise.

    Args:
        params: (..., P).
        noise_std: sigma, one for all or one for each vector (...).
        seed: of the run.
        round_: t, the round that just ended.

    Returns:
        (..., P).

    Example:
        >>> perturb(torch.zeros(2, 3), torch.tensor([0.0, 0.1]), seed=0, round_=1)[0]
        tensor([0., 0., 0.])
    """
    std = torch.as_tensor(noise_std, dtype=torch.float64)
    if not std.any():
        return params
    draw = torch.randn(params.shape[-1], generator=rng.stream(seed, "noise", round_), dtype=torch.float32)
    std = to_device(std.to(params.dtype), params.device)
    return params + std.unsqueeze(-1) * to_device(draw, params.device).to(params.dtype)


def shrink(params: Tensor, decay: Tensor) -> Tensor:
    """(1 - kappa) w: the decay that the server adds to Algorithm 1 (server.decay).

    Args:
        params: w (..., P).
        decay: kappa, one for each vector, (...).

    Returns:
        (..., P).

    Example:
        >>> shrink(torch.tensor([[1.0, 2.0]]), torch.tensor([0.5]))
        tensor([[0.5000, 1.0000]])
    """
    return params * to_device((1 - decay).to(params.dtype), params.device).unsqueeze(-1) if decay.any() else params

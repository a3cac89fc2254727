"""What malicious clients send instead of what they trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

MaliciousUpdate = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""(update, model, generator) -> the update (P,) to send, before it is scaled by gamma.

`update` (P,) is what the client trained, on poisoned data if the settings say so; `model` (P,) is what the server sent to
it; `generator` is a CPU generator for this client and round. The server drops what is not P finite real numbers."""


def sign_flip(update: Tensor, model: Tensor, generator: torch.Generator) -> Tensor:
    """The opposite of the trained update.

    Args:
        update: What the client trained, (P,).
        model: Not read.
        generator: Not read.

    Returns:
        (P,).

    Example:
        >>> sign_flip(torch.tensor([1.0, -2.0]), torch.zeros(2), torch.Generator())
        tensor([-1.,  2.])
    """
    return -update


def gaussian(update: Tensor, model: Tensor, generator: torch.Generator) -> Tensor:
    """A random direction, as long as the trained update.

    Args:
        update: What the client trained, (P,).
        model: Not read.
        generator: Of the direction.

    Returns:
        (P,).

    Example:
        >>> sent = gaussian(torch.tensor([3.0, 4.0]), torch.zeros(2), torch.Generator().manual_seed(0))
        >>> round(float(sent.norm()), 4)
        5.0
    """
    direction = torch.randn(update.shape, generator=generator, dtype=torch.float32).to(update)
    return direction * (update.norm() / direction.norm())


def nan(update: Tensor, model: Tensor, generator: torch.Generator) -> Tensor:
    """Not a number, everywhere: what a server must drop.

    Args:
        update: What the client trained, (P,).
        model: Not read.
        generator: Not read.

    Returns:
        (P,).

    Example:
        >>> nan(torch.zeros(2), torch.zeros(2), torch.Generator())
        tensor([nan, nan])
    """
    return torch.full_like(update, torch.nan)


MALICIOUS: dict[str, MaliciousUpdate] = {"sign_flip": sign_flip, "gaussian": gaussian, "nan": nan}
"""Malicious updates by the name that `attack.update` says; add your own."""


def as_update(value: object, like: Tensor) -> Tensor | None:
    """What a malicious client sends, as a plain tensor.

    Args:
        value: What its function returned.
        like: A tensor (P,) of the type and on the device that are wanted.

    Returns:
        (P,), without gradients; None if the value is not P real numbers.

    Example:
        >>> as_update(np.array([1, 2]), torch.zeros(2)), as_update("nonsense", torch.zeros(2))
        (tensor([1., 2.]), None)
    """
    try:
        if isinstance(value, np.ndarray):
            value = torch.as_tensor(value)
        if not isinstance(value, Tensor) or value.is_complex() or value.is_meta:
            return None
        dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
        dense = dense.dequantize() if dense.is_quantized else dense
        return dense.to(like) if dense.shape == like.shape else None
    except (TypeError, RuntimeError, ValueError):  # strings, objects, nested tensors
        return None

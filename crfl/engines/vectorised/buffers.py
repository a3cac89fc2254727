"""Memory that every step uses again: fresh memory costs more to touch than to write."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Buffers:
    """Named tensors on one device."""

    def __init__(self, device: torch.device) -> None:
        """`device`: of all of them."""
        self._device, self._tensors = device, dict[str, Tensor]()

    def get(self, name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """The tensor of that name, with what was last written to it."""
        size = math.prod(shape)
        found = self._tensors.get(name)
        if found is None or found.numel() < size or found.dtype != dtype:
            found = self._tensors[name] = torch.empty(size, dtype=dtype, device=self._device)
        return found[:size].view(shape)

    def gather(self, x: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows (k,) of the stored features x (n, d) in the type of the models.

        Images are gathered as bytes, a quarter of the traffic, then widened.
        """
        shape = len(rows), x.shape[1]
        stored = self.get("stored", x.dtype, *shape)
        torch.index_select(x, 0, rows, out=stored)
        return stored if x.dtype == dtype else self.get("widened", dtype, *shape).copy_(stored)

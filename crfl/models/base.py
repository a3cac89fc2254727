"""What training asks of a model: parameters as one flat vector, and local SGD."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class LocalSGD(Protocol):
    """Local training of n clients times S runs, all stepping together on cross entropy."""

    def step(self, x: Tensor, y: Tensor, rates: Tensor, decay: Tensor | None) -> None:
        """One step of the first k clients.

        `x` (k, n, d) stored features; `y` (k, n); `rates` (k, 1, n) or (k, 1, 1): learning rate over batch size, 0 for
        padding; `decay` (k, 1, 1): learning rate times weight decay, None for none.
        """

    def updates(self, out: Tensor) -> None:
        """Write what each client moved to `out` (n, S, P)."""


class Model(Protocol):
    """What training asks of a model. Parameters are one vector of P numbers; leading dimensions batch."""

    @property
    def name(self) -> str: ...
    @property
    def num_features(self) -> int:
        """d"""

    @property
    def num_classes(self) -> int:
        """C"""

    @property
    def num_params(self) -> int:
        """P"""

    def initial(self, generator: torch.Generator) -> Tensor:
        """The parameters (P,) at which training starts."""

    def logits(self, params: Tensor, x: Tensor) -> Tensor:
        """Logits (..., m, C) of the samples x (m, d) under parameters (..., P)."""

    def spectral_norm(self, params: Tensor) -> Tensor:
        """||W||_2 of the weights in parameters (..., P), float64 (...); NaN if the model is not linear."""

    def local_sgd(self, params: Tensor, clients: int, scale: float) -> LocalSGD:
        """Local training of `clients` clients that all start at `params` (S, P); features are scale * stored."""

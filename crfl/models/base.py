"""What training, evaluation and certification ask of a model: parameters as one flat vector."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class LocalSGD(Protocol):
    """Local training of k clients times S runs, all stepping together on cross entropy."""

    def step(self, x: Tensor, y: Tensor, rates: Tensor, decay: Tensor | None) -> None:
        """One step of the first k clients.

        `x` (k, n, d) stored features; `y` (k, n); `rates` (k, 1, n) or (k, 1, 1): learning rate over batch size, 0 for
        padding; `decay` (k, 1, 1): learning rate times weight decay, None for none.
        """

    def updates(self, out: Tensor) -> None:
        """Write what each client moved to `out` (k, S, P)."""


class WeightedGradients(Protocol):
    """Gradients of the cross entropy where local training starts."""

    def __call__(self, params: Tensor, x: Tensor, y: Tensor, shares: Tensor, scale: float) -> Tensor:
        """Each of k sets' sum over its samples of share times gradient, (k, S, P).

        `params`: S models of all sets (S, P), or models of each set (k, S, P); then no bit of a set depends on another
        one. `x` (k, n, d), labels `y` and `shares` (k, n); the features are scale * stored.
        """


class Model(Protocol):
    """A model is P numbers in one vector; leading dimensions batch. Its fast paths are its own."""

    @property
    def name(self) -> str:
        """As in the record."""

    @property
    def num_features(self) -> int:
        """d"""

    @property
    def num_classes(self) -> int:
        """C"""

    @property
    def num_params(self) -> int:
        """P"""

    @property
    def bias(self) -> bool:
        """Whether logits have a constant term."""

    @property
    def linear(self) -> bool:
        """Whether logits are linear in the features, so that cross entropy is convex in the parameters."""

    def initial(self, generator: torch.Generator) -> Tensor:
        """The parameters (P,) float32 at which training starts."""

    def logits(self, params: Tensor, x: Tensor) -> Tensor:
        """Logits (..., m, C) of the samples x (m, d) under parameters (..., P)."""

    def class_logits(self, params: Tensor, x: Tensor) -> Tensor:
        """Logits (S, C, m) of the samples x (m, d) under S models (S, P), classes before samples."""

    def changed_logits(self, params: Tensor, logits: Tensor, x: Tensor, columns: Tensor, change: Tensor) -> Tensor:
        """Logits (C, m) of one model (P,) once `change` (m, k) is added to `columns` (k,) of x, given those before."""

    def noisy_logits(self, models: Tensor, x: Tensor) -> Tensor:
        """Logits (C, k, m) of k models (k, P), as votes need them."""

    def models_per_block(self, limit: int) -> int:
        """How many models judge samples together, given a limit on models times classes."""

    def feature_norms(self, x: Tensor) -> Tensor:
        """||x~|| of the samples x (m, d), (m,) float64: of (x, 1) with a bias, of x without."""

    def spectral_norm(self, params: Tensor) -> Tensor:
        """||W||_2 of the weights in parameters (..., P), float64 (...); NaN if the model is not linear."""

    def local_sgd(self, params: Tensor, clients: int, scale: float, columns: Tensor | None = None) -> LocalSGD:
        """Local training of `clients` clients from `params`: (S, P) for all of them, or (clients, S, P).

        Features are scale * stored. `columns` (clients, w), for linear models: the features that each client's samples
        consist of; None: all.
        """

    @property
    def weighted_gradients(self) -> WeightedGradients | None:
        """Gradients without a step; None if that of a batch is not known to be a sum over its samples."""

    def to_module(self, params: Tensor) -> nn.Module:
        """A torch module with the parameters (P,), which maps features (m, d) to logits (m, C)."""

    def from_module(self, module: nn.Module) -> Tensor:
        """The parameters (P,) of such a module."""

"""What training, evaluation and certification ask of a model: parameters as one flat vector."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class LocalSGD(Protocol):
    """Local training of k clients times S runs, all stepping together on cross entropy. `Model.local_sgd` begins it.

    Example:
        >>> from crfl.models import SoftmaxRegression
        >>> model = SoftmaxRegression(num_features=3, num_classes=2)
        >>> training = model.local_sgd(torch.zeros(1, 8), clients=2, scale=1.0)
        >>> training.step(torch.rand(2, 5, 3), torch.ones(2, 5, dtype=torch.int64), torch.full((2, 1, 5), 0.1 / 5), None)
        >>> training.updates(moved := torch.empty(2, 1, 8))
        >>> moved.shape, bool((moved[..., 7] > 0).all())  # the bias of class 1
        (torch.Size([2, 1, 8]), True)
    """

    def step(self, x: Tensor, y: Tensor, rates: Tensor, decay: Tensor | None) -> None:
        """One step of the first k clients.

        Args:
            x: Stored features of their batches, (k, n, d).
            y: Labels, (k, n) int64.
            rates: Learning rate over batch size, (k, 1, n) or (k, 1, 1); 0 for padding.
            decay: Learning rate times weight decay, (k, 1, 1); None for none.
        """

    def updates(self, out: Tensor) -> None:
        """Write what each client moved. The training is over then.

        Args:
            out: Where to, (k, S, P).
        """


class WeightedGradients(Protocol):
    """Gradients of the cross entropy where local training starts.

    Example:
        >>> from crfl.models import SoftmaxRegression
        >>> gradients = SoftmaxRegression(num_features=3, num_classes=2).weighted_gradients
        >>> labels, shares = torch.zeros(4, 5, dtype=torch.int64), torch.full((4, 5), 0.2)
        >>> gradients(torch.zeros(1, 8), torch.rand(4, 5, 3), labels, shares, scale=1.0).shape
        torch.Size([4, 1, 8])
    """

    def __call__(self, params: Tensor, x: Tensor, y: Tensor, shares: Tensor, scale: float) -> Tensor:
        """The sum over the samples of each of k sets of share times gradient.

        Args:
            params: S models of all sets (S, P), or models of each set (k, S, P); then no bit of a set depends on another one.
            x: Stored features, (k, n, d), of any type.
            y: Labels, (k, n) int64.
            shares: Weights of the samples, (k, n); 0 for padding.
            scale: The features are scale * stored.

        Returns:
            (k, S, P).
        """


class Model(Protocol):
    """A model is P numbers in one vector; leading dimensions batch. Its fast paths are its own.

    Example:
        >>> from crfl.models import make_model
        >>> model: Model = make_model(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), 4, 3)
        >>> params = model.initial(torch.Generator())
        >>> model.num_params, model.logits(params, torch.rand(5, 4)).shape
        (67, torch.Size([5, 3]))
        >>> torch.equal(model.from_module(model.to_module(params)), params)
        True
        >>> many, x = params.expand(2, -1), torch.rand(5, 4)
        >>> model.class_logits(many, x).shape, model.noisy_logits(many, x).shape, model.feature_norms(x).shape
        (torch.Size([2, 3, 5]), torch.Size([3, 2, 5]), torch.Size([5]))
    """

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
        """The parameters at which training starts.

        Args:
            generator: Of the random draw, on the CPU; a model that brings its parameters leaves it alone.

        Returns:
            (P,) float32.
        """

    def logits(self, params: Tensor, x: Tensor) -> Tensor:
        """Logits of samples.

        Args:
            params: (..., P).
            x: Features in real units, (m, d).

        Returns:
            (..., m, C).
        """

    def class_logits(self, params: Tensor, x: Tensor) -> Tensor:
        """Logits with classes before samples.

        Args:
            params: S models, (S, P).
            x: Features in real units, (m, d).

        Returns:
            (S, C, m).
        """

    def changed_logits(self, params: Tensor, logits: Tensor, x: Tensor, columns: Tensor, change: Tensor) -> Tensor:
        """Logits of one model once some features of the samples have changed, as under a trigger.

        Args:
            params: (P,).
            logits: Those before the change, (C, m).
            x: Features before the change, (m, d).
            columns: Which features change, (k,) int64.
            change: What is added to them, (m, k).

        Returns:
            (C, m).
        """

    def noisy_logits(self, models: Tensor, x: Tensor) -> Tensor:
        """Logits as votes need them.

        Args:
            models: (k, P).
            x: Features in real units, (m, d).

        Returns:
            (C, k, m).
        """

    def models_per_block(self, limit: int) -> int:
        """How many models judge samples together.

        Args:
            limit: On models times classes.

        Returns:
            Their number; less than 1 where not even one fits.
        """

    def feature_norms(self, x: Tensor) -> Tensor:
        """||x~||, with x~ = (x, 1) for a model with a bias, else x.

        Args:
            x: Features in real units, (m, d).

        Returns:
            l2 norms (m,) float64.
        """

    def spectral_norm(self, params: Tensor) -> Tensor:
        """||W||_2 of the weights, the largest singular value.

        Args:
            params: (..., P).

        Returns:
            (...) float64; NaN if the model is not linear.
        """

    def local_sgd(self, params: Tensor, clients: int, scale: float, columns: Tensor | None = None) -> LocalSGD:
        """Begin local training.

        Args:
            params: Where the clients start: (S, P) for all of them, or (clients, S, P).
            clients: How many.
            scale: Features are scale * stored.
            columns: For linear models, the features that each client's samples consist of, (clients, w); None: all.

        Returns:
            The training, before its first step.
        """

    @property
    def weighted_gradients(self) -> WeightedGradients | None:
        """Gradients without a step; None if that of a batch is not known to be a sum over its samples."""

    def to_module(self, params: Tensor) -> nn.Module:
        """The model as a torch module.

        Args:
            params: (P,).

        Returns:
            A module of its own, which maps features (m, d) to logits (m, C).
        """

    def from_module(self, module: nn.Module) -> Tensor:
        """The parameters of such a module.

        Args:
            module: One of the kind that `to_module` returns.

        Returns:
            (P,).
        """

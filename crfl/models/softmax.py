"""Models as flat parameter vectors. Only this module knows what their entries mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from crfl import matmul as products


@dataclass(frozen=True)
class SoftmaxRegression:
    """Linear model with softmax and cross entropy: l = W x + b, p = softmax(l).

    Parameters are one vector of P = C (d + 1) numbers: W row by row, then b. Leading dimensions batch.
    """

    num_features: int
    """d"""
    num_classes: int
    """C"""

    @property
    def name(self) -> str:
        """As in the record."""
        return "softmax regression"

    @property
    def num_params(self) -> int:
        """P"""
        return self.num_classes * (self.num_features + 1)

    def split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Views of `params` (..., P): weights W (..., C, d) and biases b (..., C)."""
        cut = self.num_classes * self.num_features
        weights = params[..., :cut].unflatten(-1, (self.num_classes, self.num_features))
        return weights, params[..., cut:]

    def join(self, weights: Tensor, bias: Tensor) -> Tensor:
        """The flat vectors (..., P) of weights (..., C, d) and biases (..., C)."""
        return torch.cat([weights.flatten(-2), bias], dim=-1)

    def initial(self, generator: torch.Generator) -> Tensor:
        """PyTorch's default for a linear layer: every entry uniform in +-1/sqrt(d). Shape (P,), float32."""
        bound = 1 / math.sqrt(self.num_features)
        return (2 * torch.rand(self.num_params, generator=generator, dtype=torch.float32) - 1) * bound

    def logits(self, params: Tensor, x: Tensor) -> Tensor:
        """Logits (..., m, C) of the samples x (m, d) under parameters (..., P)."""
        weights, bias = self.split(params)
        return x @ weights.mT + bias.unsqueeze(-2)

    def gradient(self, params: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Gradient (..., P) of the mean cross entropy over samples x (..., m, d), y (..., m): (p - e_y) x~^T / m."""
        residual = torch.softmax(self.logits(params, x), dim=-1)
        residual = (residual - functional.one_hot(y, self.num_classes)) / x.shape[-2]
        return self.join(residual.mT @ x, residual.sum(-2))

    def spectral_norm(self, params: Tensor) -> Tensor:
        """||W||_2 of parameters (..., P), shape (...), in float64 from the Gram matrix of the shorter side."""
        weights = self.split(params)[0].double()
        gram = weights @ weights.mT if self.num_classes <= self.num_features else weights.mT @ weights
        return torch.linalg.eigvalsh(gram)[..., -1].clamp(min=0).sqrt()

    def local_sgd(self, params: Tensor, clients: int, scale: float, columns: Tensor | None = None) -> SoftmaxSGD:
        """Local training of `clients` clients that all start at `params` (S, P).

        `columns` (clients, w): the features that each client's samples x (k, n, w) consist of; None: all.
        """
        return SoftmaxSGD(self, params, clients, scale, columns)


class SoftmaxSGD:
    """Local SGD of n clients times S runs of softmax regression, all stepping together.

    The S runs see the same batches, so their class rows are stacked: one product serves all of them. Everything is
    class-major, (client, run and class, sample): both products of a step are then contiguous batched GEMMs, several
    times faster than the transposed forms. Features come in stored units, true = scale * stored; the products bring
    the factor in for nothing.
    """

    def __init__(
        self, model: SoftmaxRegression, params: Tensor, clients: int, scale: float, columns: Tensor | None = None
    ) -> None:
        """`params` (S, P): where every client starts. `columns` (clients, w): the features that each has; None: all."""
        self.model, self.scale, self.runs, self.columns = model, scale, len(params), columns
        weights, bias = model.split(params)
        self.start, self.start_bias = weights.flatten(0, 1).expand(clients, -1, -1), bias.reshape(-1, 1)
        if columns is not None:
            self.start = self.start.gather(2, columns[:, None].expand(-1, self.start.shape[1], -1))
        self.weights = self.start.clone(memory_format=torch.contiguous_format)
        self.bias = self.start_bias.repeat(clients, 1, 1)
        self.running = self.weights, self.bias
        """Of the clients that still train."""
        self.minus_one = params.new_full((1, 1, 1, 1), -1.0).expand(clients, self.runs, 1, 2**31)
        """For any number of samples."""

    def step(self, x: Tensor, y: Tensor, rates: Tensor, decay: Tensor | None) -> None:
        """See LocalSGD."""
        k, n = y.shape
        weights, bias = self.running
        if k < weights.shape[0]:
            weights, bias = self.running = weights[:k], bias[:k]
        logits = products.batched_affine(weights, x, bias, alpha=self.scale)
        residual = logits.view(k, self.runs, self.model.num_classes, n).softmax(dim=2)
        residual.scatter_add_(2, y.view(k, 1, 1, n).expand(k, self.runs, 1, n), self.minus_one)
        residual = residual.view(k, -1, n).mul_(rates)
        if decay is not None:
            weights.mul_(1 - decay)
            bias.mul_(1 - decay)
        products.add_batched(weights, residual, x, alpha=-self.scale)
        bias.sub_(residual.sum(dim=2, keepdim=True))

    def updates(self, out: Tensor) -> None:
        """See LocalSGD."""
        weights, bias = self.model.split(out)
        torch.sub(self.bias.view(bias.shape), self.start_bias.view(bias.shape[1:]), out=bias)
        each = (*bias.shape, -1)
        if self.columns is None:
            torch.sub(self.weights.view(each), self.start.unflatten(1, each[1:3]), out=weights)
        else:
            moved = self.weights.sub_(self.start).view(each)
            weights.zero_().scatter_(3, self.columns[:, None, None].expand(moved.shape), moved)

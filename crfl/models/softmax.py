"""Softmax regression: a linear model with its closed-form gradient and its fast paths."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from crfl import matmul


@dataclass(frozen=True)
class SoftmaxRegression:
    """Linear model with softmax and cross entropy: l = W x + b, p = softmax(l). See `Model` for what models have in common.

    Parameters are one vector of P = C (d + 1) numbers: W row by row, then b; without a bias P = C d. Leading dimensions
    batch.

    Example:
        >>> model = SoftmaxRegression(num_features=2, num_classes=3)
        >>> params = model.join(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.tensor([0.0, 0.0, 0.5]))
        >>> model.num_params, [part.shape for part in model.split(params)]
        (9, [torch.Size([3, 2]), torch.Size([3])])
        >>> x, y = torch.tensor([[2.0, 1.0]]), torch.tensor([0])
        >>> model.logits(params, x)
        tensor([[2.0000, 1.0000, 0.5000]])
        >>> bool((model.gradient(params, x, y)[:2] < 0).all())  # a step downhill raises the row of the right class
        True
    """

    num_features: int
    """d"""
    num_classes: int
    """C"""
    bias: bool = True
    start: Tensor | None = field(default=None, repr=False, compare=False)
    """Parameters (P,) at which training starts; None: drawn at random."""

    @property
    def name(self) -> str:
        """As in the record."""
        return "softmax regression"

    @property
    def linear(self) -> bool:
        """True"""
        return True

    @property
    def num_params(self) -> int:
        """P"""
        return self.num_classes * (self.num_features + self.bias)

    def split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and biases of a vector of parameters.

        Args:
            params: (..., P).

        Returns:
            Views: W (..., C, d) and b (..., C); zeros for b if the model has no bias.
        """
        cut = self.num_classes * self.num_features
        weights = params[..., :cut].unflatten(-1, (self.num_classes, self.num_features))
        if not self.bias:
            return weights, params.new_zeros(()).expand(*params.shape[:-1], self.num_classes)
        return weights, params[..., cut:]

    def join(self, weights: Tensor, bias: Tensor) -> Tensor:
        """The vector of weights and biases: `split` the other way round.

        Args:
            weights: W (..., C, d).
            bias: b (..., C); left out if the model has no bias.

        Returns:
            (..., P), a copy.
        """
        return torch.cat([weights.flatten(-2), bias], dim=-1) if self.bias else weights.flatten(-2)

    def initial(self, generator: torch.Generator) -> Tensor:
        """PyTorch's default for a linear layer: every entry uniform in +-1/sqrt(d). (P,), float32. See `Model`."""
        if self.start is not None:
            return self.start.clone()
        bound = 1 / math.sqrt(self.num_features)
        return (2 * torch.rand(self.num_params, generator=generator, dtype=torch.float32) - 1) * bound

    def logits(self, params: Tensor, x: Tensor) -> Tensor:
        """W x + b, (..., m, C), of the samples x (m, d) under parameters (..., P). See `Model`."""
        weights, bias = self.split(params)
        return x @ weights.mT + bias.unsqueeze(-2)

    def class_logits(self, params: Tensor, x: Tensor) -> Tensor:
        """Logits (S, C, m) of the samples x (m, d) under S models (S, P)."""
        weights, bias = self.split(params)
        return matmul.inner(weights.flatten(0, 1), x).view(*bias.shape, -1).add_(bias.unsqueeze(2))

    def changed_logits(self, params: Tensor, logits: Tensor, x: Tensor, columns: Tensor, change: Tensor) -> Tensor:
        """Logits (C, m) of one model (P,) once `change` (m, k) is added to `columns` (k,) of x, given those before."""
        return logits + self.split(params)[0][:, columns] @ change.mT

    def noisy_logits(self, models: Tensor, x: Tensor) -> Tensor:
        """Logits (C, k, m) of k models (k, P): one large product, so that a maximum over classes is elementwise."""
        weights, bias = (part.transpose(0, 1).flatten(0, 1) for part in self.split(models))
        logits = matmul.inner(weights, x).add_(bias.unsqueeze(1))
        return logits.view(self.num_classes, len(models), len(x))

    def models_per_block(self, limit: int) -> int:
        """`limit` is a number of rows of logits: models times classes."""
        return limit // self.num_classes

    def feature_norms(self, x: Tensor) -> Tensor:
        """||x~|| of the samples x (m, d), (m,) float64."""
        norms = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
        return torch.hypot(norms, torch.ones_like(norms)) if self.bias else norms

    def gradient(self, params: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Gradient of the mean cross entropy: (p - e_y) x~^T / m.

        Args:
            params: (..., P).
            x: Features in real units, (..., m, d).
            y: Labels, (..., m) int64.

        Returns:
            (..., P).
        """
        residual = torch.softmax(self.logits(params, x), dim=-1)
        residual = (residual - functional.one_hot(y, self.num_classes)) / x.shape[-2]
        return self.join(residual.mT @ x, residual.sum(-2))

    def weighted_gradients(self, params: Tensor, x: Tensor, y: Tensor, shares: Tensor, scale: float) -> Tensor:
        """See WeightedGradients: the sum of share (p - e_y) x~^T."""
        weights, bias = self.split(params)
        rows, k = (weights * scale).flatten(-3, -2), len(y)
        if params.dim() == 2 and k > 1:
            gradient, constants = self._gradients(rows, bias, x.to(rows.dtype), y, shares)
        else:  # which way a set goes depends on itself alone
            own = rows.expand(k, -1, -1), bias.expand(k, -1, -1), x, y, shares
            if torch.get_num_threads() == 1 and matmul.is_one_piece(x[0], rows.dtype):
                gradient, constants = self._gradients_apart(*own)
            else:
                of_sets = (self._own_gradient(*of_set) for of_set in zip(*own, strict=True))
                gradient, constants = map(torch.stack, zip(*of_sets, strict=True))
        gradient = gradient.mul_(scale).unflatten(1, (bias.shape[-2], -1))
        return self.join(gradient, constants.view(k, *bias.shape[-2:]) if self.bias else bias)

    def _gradients(self, rows: Tensor, bias: Tensor, x: Tensor, y: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Of k sets, (k, S C, d) and (k, S C), from models (S C, d) and (S, C)."""
        residual = self._residual(rows @ x.mT, bias, y, shares)
        return torch.bmm(residual, x), residual.sum(2)

    def _own_gradient(self, rows: Tensor, bias: Tensor, x: Tensor, y: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Of one set, (S C, d) and (S C,), in pieces, which the cache keeps from one product to the next."""
        rows, x = matmul.aligned(rows), matmul.aligned(x)
        gradient, constants = torch.zeros_like(rows), rows.new_zeros(len(rows))
        for some, size in matmul.pieces(x, rows.dtype):
            parts = (values.unflatten(0, (-1, size)) for values in (x[some].to(rows.dtype), y[some], shares[some]))
            of_parts = self._gradients(rows, bias, *parts)
            gradient += of_parts[0].sum(0)
            constants += of_parts[1].sum(0)
        return gradient, constants

    def _gradients_apart(
        self, rows: Tensor, bias: Tensor, x: Tensor, y: Tensor, shares: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of k small sets with models (k, S C, d) and (k, S, C) of their own, each to the bit as if it were alone.

        Every set has products of its own. What lies between them is done for all: one thread takes the samples of a set
        from the first to the last, several would part them where it depends on the other sets.
        """
        own = [matmul.aligned(samples.to(rows.dtype)) for samples in x]
        logits = torch.stack([matmul.aligned(model) @ samples.mT for model, samples in zip(rows, own, strict=True)])
        residual = self._residual(logits, bias, y, shares)
        found = [matmul.aligned(factor) @ samples for factor, samples in zip(residual, own, strict=True)]
        return torch.stack(found), residual.sum(2)

    def _residual(self, logits: Tensor, bias: Tensor, y: Tensor, shares: Tensor) -> Tensor:
        """share (softmax(l + b) - e_y), (k, S C, n), of W x (k, S C, n), and biases (S, C) or (k, S, C)."""
        k, n = y.shape
        residual = logits.view(k, *bias.shape[-2:], n)
        residual = (residual + bias.unsqueeze(-1) if self.bias else residual).softmax(dim=2)
        shape = (k, bias.shape[-2], 1, n)
        residual.scatter_add_(2, y.view(k, 1, 1, n).expand(shape), residual.new_full((), -1.0).expand(shape))
        return residual.mul_(shares.view(k, 1, 1, n)).flatten(1, 2)

    def spectral_norm(self, params: Tensor) -> Tensor:
        """||W||_2 of parameters (..., P), shape (...), in float64 from the Gram matrix of the shorter side."""
        weights = self.split(params)[0].double()
        gram = weights @ weights.mT if self.num_classes <= self.num_features else weights.mT @ weights
        return torch.linalg.eigvalsh(gram)[..., -1].clamp(min=0).sqrt()

    def local_sgd(self, params: Tensor, clients: int, scale: float, columns: Tensor | None = None) -> SoftmaxSGD:
        """Local training of `clients` clients from `params`, (S, P) or (clients, S, P). See `Model`.

        The samples of each client consist of its `columns` (clients, w): x (k, n, w).
        """
        return SoftmaxSGD(self, params, clients, scale, columns)

    def to_module(self, params: Tensor) -> nn.Linear:
        """A torch.nn.Linear with the parameters (P,)."""
        module = nn.Linear(self.num_features, self.num_classes, self.bias, device=params.device, dtype=params.dtype)
        weights, bias = self.split(params.detach())
        with torch.no_grad():
            module.weight.copy_(weights)
            if self.bias:
                module.bias.copy_(bias)
        return module

    def from_module(self, module: nn.Module) -> Tensor:
        """The parameters (P,) of a torch.nn.Linear."""
        return torch.cat([p.detach().flatten() for p in module.parameters()])


class SoftmaxSGD:
    """Local SGD of k clients times S runs of softmax regression, all stepping together. See `LocalSGD`.

    The S runs see the same batches, so their class rows are joined: one product serves all of them. Everything is
    class-major, (client, run and class, sample): both products of a step are then contiguous batched matrix products,
    several times faster than the transposed forms. Features come in stored units, true = scale * stored; the products
    apply the factor.
    """

    def __init__(
        self, model: SoftmaxRegression, params: Tensor, clients: int, scale: float, columns: Tensor | None = None
    ) -> None:
        """`params` (S, P) or (clients, S, P): where the clients start. `columns` (clients, w); None: all features."""
        self.model, self.scale, self.runs, self.columns = model, scale, params.shape[-2], columns
        weights, bias = model.split(params)
        rows = self.runs * model.num_classes
        self.start = weights.flatten(-3, -2).expand(clients, rows, -1)
        self.start_bias = bias.reshape(*bias.shape[:-2], rows, 1).expand(clients, rows, 1)
        if columns is not None:
            self.start = self.start.gather(2, columns[:, None].expand(-1, rows, -1))
        self.weights = self.start.clone(memory_format=torch.contiguous_format)
        self.bias = self.start_bias.clone(memory_format=torch.contiguous_format)
        self.running = self.weights, self.bias
        """Of the clients that still train."""
        self.minus_one = params.new_full((1, 1, 1, 1), -1.0).expand(clients, self.runs, 1, 2**31)
        """For any number of samples."""

    def step(self, x: Tensor, y: Tensor, rates: Tensor, decay: Tensor | None) -> None:
        """w <- (1 - eta lambda) w - eta / n sum (p - e_y) x~^T of the first k clients. See LocalSGD."""
        k, n = y.shape
        weights, bias = self.running
        if k < weights.shape[0]:
            weights, bias = self.running = weights[:k], bias[:k]
        logits = matmul.batched_affine(weights, x, bias, alpha=self.scale)
        residual = logits.view(k, self.runs, self.model.num_classes, n).softmax(dim=2)
        residual.scatter_add_(2, y.view(k, 1, 1, n).expand(k, self.runs, 1, n), self.minus_one)
        residual = residual.view(k, -1, n).mul_(rates)
        if decay is not None:
            weights.mul_(1 - decay)
            bias.mul_(1 - decay)
        matmul.add_batched(weights, residual, x, alpha=-self.scale)
        if self.model.bias:
            bias.sub_(residual.sum(dim=2, keepdim=True))

    def updates(self, out: Tensor) -> None:
        """See LocalSGD."""
        weights, bias = self.model.split(out)
        if self.model.bias:
            torch.sub(self.bias.view(bias.shape), self.start_bias.reshape(bias.shape), out=bias)
        shape = (*bias.shape, -1)
        if self.columns is None:
            torch.sub(self.weights.view(shape), self.start.unflatten(1, shape[1:3]), out=weights)
        else:
            moved = self.weights.sub_(self.start).view(shape)
            weights.zero_().scatter_(3, self.columns[:, None, None].expand(moved.shape), moved)

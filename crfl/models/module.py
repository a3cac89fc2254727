"""Any torch.nn.Module as a flat-parameter model, through torch.func."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from crfl.errors import DataError
from crfl.models.base import Model
from crfl.models.softmax import SoftmaxRegression

BLOCK_SAMPLES = 1024
"""Samples that a module judges at once."""


class ModuleModel:
    """A module that maps samples (m, d) to logits (m, C), with cross entropy.

    The module is copied and runs in eval mode: no dropout, running statistics stay as they are. Training starts at the
    parameters that it has, whatever the seed. They are one vector, in the order of `named_parameters`.
    """

    def __init__(self, module: nn.Module, num_features: int, num_classes: int) -> None:
        """DataError unless the module maps (m, d) to (m, C)."""
        self.module = copy.deepcopy(module).eval().requires_grad_(False).float()
        self.num_features, self.num_classes = num_features, num_classes
        self.shapes = {name: p.shape for name, p in self.module.named_parameters()}
        if not self.shapes:
            raise DataError(f"model: got {type(module).__name__}, which has no parameters to train")
        self.start = torch.cat([p.detach().float().cpu().flatten() for p in self.module.parameters()])
        try:
            shape: object = tuple(self._logits(self.start, torch.zeros(2, num_features, dtype=torch.float32)).shape)
        except Exception as error:  # whatever the module raises of features that it does not fit
            shape = error
        if shape != (2, num_classes):
            raise DataError(
                f"model: got {type(module).__name__}, which makes {shape} of features (2, {num_features}), expected "
                f"logits (2, {num_classes}); torch.nn.Unflatten turns features into images"
            )

    @property
    def name(self) -> str:
        """As in the record."""
        return f"module {type(self.module).__name__}"

    @property
    def num_params(self) -> int:
        """P"""
        return len(self.start)

    def initial(self, generator: torch.Generator) -> Tensor:
        """The module's own parameters (P,)."""
        return self.start.clone()

    def logits(self, params: Tensor, x: Tensor) -> Tensor:
        """Logits (..., m, C) of the samples x (m, d) under parameters (..., P)."""
        many = vmap(self._logits, in_dims=(0, None))
        # A copy of the samples, should the module work in place.
        blocks = [many(params.reshape(-1, params.shape[-1]), block.clone()) for block in x.split(BLOCK_SAMPLES)]
        return torch.cat(blocks, dim=1).view(*params.shape[:-1], len(x), -1)

    def spectral_norm(self, params: Tensor) -> Tensor:
        """NaN: there is no one weight matrix."""
        return params.new_full(params.shape[:-1], torch.nan, dtype=torch.float64)

    def local_sgd(self, params: Tensor, clients: int, scale: float) -> ModuleSGD:
        """Local training of `clients` clients that all start at `params` (S, P)."""
        return ModuleSGD(self, params, clients, scale)

    def _logits(self, params: Tensor, x: Tensor) -> Tensor:
        """Logits (m, C) under one vector of parameters (P,)."""
        parts = params.split([shape.numel() for shape in self.shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        named |= {name: b.to(params.device) for name, b in self.module.named_buffers()}
        found: Tensor = functional_call(self.module, named, (x,))
        return found

    def _loss(self, params: Tensor, x: Tensor, y: Tensor, rates: Tensor) -> Tensor:
        """Sum over the samples of rate times cross entropy."""
        return (rates * functional.cross_entropy(self._logits(params, x), y, reduction="none")).sum()


class ModuleSGD:
    """Local SGD of n clients times S runs of a module, all stepping together. See LocalSGD."""

    def __init__(self, model: ModuleModel, params: Tensor, clients: int, scale: float) -> None:
        """`params` (S, P): where every client starts."""
        self.start, self.scale = params, scale
        self.params = params.repeat(clients, 1, 1)
        per_run = vmap(grad(model._loss), in_dims=(0, None, None, None))
        self.gradient = vmap(per_run)

    def step(self, x: Tensor, y: Tensor, rates: Tensor, decay: Tensor | None) -> None:
        """See LocalSGD."""
        params = self.params[: len(y)]
        moved = self.gradient(params, x * self.scale, y, rates.squeeze(1).expand(y.shape))
        if decay is not None:
            params.mul_(1 - decay)
        params.sub_(moved)

    def updates(self, out: Tensor) -> None:
        """See LocalSGD."""
        torch.sub(self.params, self.start, out=out)


def make_model(model: Model | nn.Module | None, num_features: int, num_classes: int) -> Model:
    """The model to train: softmax regression by default; a module is wrapped for so many features and classes."""
    if model is None:
        return SoftmaxRegression(num_features, num_classes)
    if isinstance(model, nn.Module):
        return ModuleModel(model, num_features, num_classes)
    found = getattr(model, "num_features", None), getattr(model, "num_classes", None)
    if found != (num_features, num_classes):
        raise DataError(
            f"model: got {model!r}, expected a torch.nn.Module, or a model of {num_features} features and "
            f"{num_classes} classes"
        )
    return model

"""Any torch.nn.Module as a flat-parameter model, through torch.func."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from crfl.models.checks import check_function, check_module, converted, frozen_copy

BLOCK_SAMPLES = 1024
"""Samples that a module judges at once."""
BLOCK_MODELS = 16
"""Models that judge samples at once: their activations are of unknown size."""


class ModuleModel:
    """A module that maps samples (m, d) to logits (m, C), with cross entropy. See `Model` for what models have in common.

    The module is copied and runs in eval mode: no dropout, running statistics stay as they are. Training starts at the
    parameters that it has, whatever the seed. Those that require gradients are one vector, in the order of
    `named_parameters`; the others are frozen.

    Args:
        module: What is trained.
        num_features: d
        num_classes: C

    Raises:
        DataError: The module does not map (m, d) to (m, C), or cannot be trained; names the part.

    Example:
        >>> model = ModuleModel(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), 4, 3)
        >>> params, x, y = model.initial(torch.Generator()), torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1])
        >>> model.num_params, model.logits(params, x).shape, model.loss(params, x, y, torch.full((5,), 0.2)).shape
        (67, torch.Size([5, 3]), torch.Size([]))
    """

    linear = False
    bias = True
    weighted_gradients = None

    def __init__(self, module: nn.Module, num_features: int, num_classes: int) -> None:
        """See the class."""
        check_module(module, num_features)
        self.shapes = {name: p.shape for name, p in module.named_parameters() if p.requires_grad}
        self.module = frozen_copy(module)
        self.names = _all_names(self.module)
        self.num_features, self.num_classes = num_features, num_classes
        self.start = self.from_module(self.module).cpu()
        check_function(self.module, self._logits, self.start, num_features, num_classes)

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
        return torch.cat(blocks, dim=1).view(*params.shape[:-1], len(x), self.num_classes)

    def class_logits(self, params: Tensor, x: Tensor) -> Tensor:
        """Logits (S, C, m) of the samples x (m, d) under S models (S, P)."""
        return self.logits(params, x).mT

    def changed_logits(self, params: Tensor, logits: Tensor, x: Tensor, columns: Tensor, change: Tensor) -> Tensor:
        """Logits (C, m) of one model (P,) once `change` (m, k) is added to `columns` (k,) of x."""
        moved = x.clone()
        moved[:, columns] += change
        return self.logits(params, moved).mT

    def noisy_logits(self, models: Tensor, x: Tensor) -> Tensor:
        """Logits (C, k, m) of k models (k, P)."""
        return self.logits(models, x).permute(2, 0, 1)

    def models_per_block(self, limit: int) -> int:
        """BLOCK_MODELS, whatever the limit."""
        return BLOCK_MODELS

    def feature_norms(self, x: Tensor) -> Tensor:
        """||(x, 1)|| of the samples x (m, d), (m,) float64."""
        norms = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
        return torch.hypot(norms, torch.ones_like(norms))

    def spectral_norm(self, params: Tensor) -> Tensor:
        """NaN: there is no one weight matrix."""
        return params.new_full(params.shape[:-1], torch.nan, dtype=torch.float64)

    def local_sgd(self, params: Tensor, clients: int, scale: float, columns: Tensor | None = None) -> ModuleSGD:
        """Local training of `clients` clients from `params`: (S, P) for all of them, or (clients, S, P)."""
        return ModuleSGD(self, params, clients, scale)

    def to_module(self, params: Tensor) -> nn.Module:
        """The user's module with the parameters (P,), in eval mode."""
        module = converted(copy.deepcopy(self.module), params.device, params.dtype)
        trained = [module.get_parameter(name).requires_grad_(True) for name in self.shapes]
        nn.utils.vector_to_parameters(params.detach().clone(), trained)
        return module

    def from_module(self, module: nn.Module) -> Tensor:
        """The parameters (P,) of such a module."""
        return torch.cat([module.get_parameter(name).detach().flatten() for name in self.shapes])

    def loss(self, params: Tensor, x: Tensor, y: Tensor, rates: Tensor) -> Tensor:
        """Weighted cross entropy.

        Args:
            params: (P,).
            x: Features in real units, (m, d).
            y: Labels, (m,) int64.
            rates: Weights of the samples, (m,).

        Returns:
            Their sum, a tensor of one number.
        """
        return (rates * functional.cross_entropy(self._logits(params, x), y, reduction="none")).sum()

    def _logits(self, params: Tensor, x: Tensor) -> Tensor:
        """Logits (m, C) under one vector of parameters (P,)."""
        parts = params.split([shape.numel() for shape in self.shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        for name, fixed in chain(self.module.named_parameters(), self.module.named_buffers()):
            if name not in named:
                kind = params.dtype if fixed.is_floating_point() else fixed.dtype
                named[name] = fixed.to(params.device, kind)
        tied = {alias: tensor for name, tensor in named.items() for alias in self.names[name]}
        logits: Tensor = functional_call(self.module, tied, (x,), tie_weights=False)
        return logits


def _all_names(module: nn.Module) -> dict[str, list[str]]:
    """By the name of each parameter and buffer, all names under which it is to be replaced.

    Tied weights have several. A layer that is used twice has one: torch's own tying swaps it twice, and then puts back
    what it swapped in.
    """
    names: dict[int, list[str]] = {}
    places = set()
    every = chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    for name, tensor in every:
        owner, _, attribute = name.rpartition(".")
        place = id(module.get_submodule(owner)), attribute
        if place not in places:
            places.add(place)
            names.setdefault(id(tensor), []).append(name)
    return {found[0]: found for found in names.values()}


class ModuleSGD:
    """Local SGD of k clients times S runs of a module, all stepping together. See LocalSGD."""

    def __init__(self, model: ModuleModel, params: Tensor, clients: int, scale: float) -> None:
        """`params` (S, P) or (clients, S, P): where the clients start."""
        self.start, self.scale = params.expand(clients, *params.shape[-2:]), scale
        self.params = self.start.clone(memory_format=torch.contiguous_format)
        per_run = vmap(grad(model.loss), in_dims=(0, None, None, None))
        self.gradient = vmap(per_run)

    def step(self, x: Tensor, y: Tensor, rates: Tensor, decay: Tensor | None) -> None:
        """See LocalSGD."""
        params = self.params[: len(y)]
        gradient = self.gradient(params, x * self.scale, y, rates.squeeze(1).expand(y.shape))
        if decay is not None:
            params.mul_(1 - decay)
        params.sub_(gradient)

    def updates(self, out: Tensor) -> None:
        """See LocalSGD."""
        torch.sub(self.params, self.start, out=out)

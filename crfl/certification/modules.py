"""Any nn.Module as a model with one flat parameter vector, for votes of noisy copies.

What holds for such a model: votes (`smooth`), bounds on its class probabilities, and `smoothing_budget`, the distance
in parameter space that cannot change the vote. Nothing here bounds how far an attack moves its parameters: Lemma 1,
the margin and the coupling argument are about softmax regression, whose loss is convex. `certify` refuses other models.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


class ModuleModel:
    """An nn.Module, in evaluation mode, whose parameters are given as one vector. Its buffers stay as they are."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval()
        self.shapes = {name: p.shape for name, p in module.named_parameters()}

    @property
    def num_params(self) -> int:
        """P"""
        return sum(shape.numel() for shape in self.shapes.values())

    @property
    def params(self) -> Tensor:
        """The module's own parameters (P,), in the order of named_parameters()."""
        return torch.cat([p.detach().flatten() for p in self.module.parameters()])

    @torch.no_grad()
    def logits(self, params: Tensor, x: Tensor) -> Tensor:
        """Logits (..., m, C) of the samples x (m, ...) under parameters (..., P); leading dimensions by torch.func."""
        if params.ndim == 1:
            return self._logits(params, x)
        found: Tensor = vmap(self._logits, in_dims=(0, None))(params.flatten(0, -2), x)
        return found.unflatten(0, params.shape[:-1])

    def _logits(self, params: Tensor, x: Tensor) -> Tensor:
        parts = params.split([shape.numel() for shape in self.shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        found: Tensor = functional_call(self.module, named, (x,))
        return found

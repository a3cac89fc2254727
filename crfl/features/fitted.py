"""A feature map whose constants are set: from samples to the features that the clients learn from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crfl.config import Features
from crfl.errors import DataError

FeatureMap = Callable[[Tensor], Any]
"""Samples -> numbers (m, ...). Samples are images (m, channels, height, width) or rows (m, d), float32, in real units.
Each sample is mapped by itself, and the same sample always alike."""

BLOCK = 256
"""Samples that a map gets at a time."""
MODULE_BLOCK = 64
"""Samples that a module gets at a time, whose layers may take much memory."""
INSIDE = 1 - 2.0**-22
"""Radius of the ball that features are projected on, relative to the one that is promised: float32 rounds by less."""


@dataclass(frozen=True, eq=False)
class FittedMap:
    """The map phi of the settings `features`, with constants that no client has a part in. `fit_map` makes it.

        phi(x) = P_c(W (P_1((f(x) - mean) / scale) - centre))

    f is the function, P_c(v) = v min(1, c / ||v||) the projection on the ball of radius c = features.norm, W whitens.
    What the settings leave out is the identity. Projections take the place of v / ||v||: they agree wherever ||v|| >= c,
    and projections are non-expansive.

    Example:
        >>> phi = FittedMap(Features(map="roots", norm=1.0), (4,), torch.sqrt)
        >>> phi(torch.tensor([[4.0, 0.0, 0.0, 0.0]])).round(decimals=4), phi.lipschitz
        (tensor([[1., 0., 0., 0.]]), None)
        >>> [len(block) for block in phi.raw(torch.rand(300, 4))], phi.to("cpu").name
        ([256, 44], 'roots')
        >>> phi.differentiable(torch.ones(1, 4, requires_grad=True)).requires_grad
        True
    """

    settings: Features
    input_shape: tuple[int, ...]
    """(height, width), (height, width, 3) or (d,): what a row of inputs is."""
    function: FeatureMap | None = field(default=None, repr=False)
    """f; None is the identity."""
    mean: Tensor | None = field(default=None, repr=False)
    """(d_f,) float64, over the public samples."""
    scale: Tensor | None = field(default=None, repr=False)
    """(d_f,) float64: standard deviation + 1e-3."""
    centre: Tensor | None = field(default=None, repr=False)
    """(d_f,) float64: mean of the public samples before whitening."""
    directions: Tensor | None = field(default=None, repr=False)
    """W^T (d_f, k) float64."""

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.settings.map

    @property
    def norm_bound(self) -> float | None:
        """c: no feature vector has a larger l2 norm, whatever the input, rounding included. None: no bound."""
        return self.settings.norm

    def __call__(self, inputs: Tensor) -> Tensor:
        """Features of inputs.

        Args:
            inputs: (m, d_in), in real units.

        Returns:
            (m, k) float32.

        Raises:
            DataError: If the function returns anything but finite numbers, one row a sample.
        """
        return torch.cat([self._finish(raw) for raw in self.raw(inputs)])

    def differentiable(self, inputs: Tensor) -> Tensor:
        """The features of a call, with a gradient in the inputs where the function has one: for attacks.

        Args:
            inputs: (m, d_in), in real units; all are mapped at once.

        Returns:
            (m, k) float32.

        Raises:
            DataError: As for a call.
        """
        raw = inputs if self.function is None else self.function(as_samples(inputs, self.input_shape))
        return self._finish(torch.as_tensor(raw).flatten(1))

    def raw(self, inputs: Tensor) -> Iterator[Tensor]:
        """f(x), block by block, without gradients.

        Args:
            inputs: (m, d_in), in real units.

        Yields:
            (b, d_f), in the order of the inputs.

        Raises:
            DataError: If the function returns anything but numbers, one row a sample.
        """
        with torch.no_grad():
            for block in inputs.split(MODULE_BLOCK if isinstance(self.function, nn.Module) else BLOCK):
                yield block.float() if self.function is None else self._call(self.function, block.float())

    def _call(self, function: FeatureMap, block: Tensor) -> Tensor:
        found = function(as_samples(block, self.input_shape))
        found = torch.from_numpy(found) if isinstance(found, np.ndarray) else found
        if not isinstance(found, Tensor) or found.is_complex() or found.dim() < 2 or len(found) != len(block):
            what = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise DataError(
                f"features.map: {self.name!r} made {what} of {len(block)} samples, expected a tensor of as many rows"
            )
        return found.detach().flatten(1)

    def _finish(self, raw: Tensor) -> Tensor:
        """All that comes after f, in float64."""
        v = raw.double()
        if self.mean is not None and self.scale is not None:
            v = (v - self.mean) / self.scale
        if self.centre is not None and self.directions is not None:
            v = (into_ball(v, 1.0) - self.centre) @ self.directions
        if self.settings.norm is not None:
            v = into_ball(v, self.settings.norm * INSIDE)
        found = v.float()
        if not bool(torch.isfinite(found).all()):
            raise DataError(f"features.map: {self.name!r} made NaN or infinity of a sample, expected finite numbers")
        return found

    @property
    def lipschitz(self) -> float | None:
        """A Lipschitz constant in l2 norms (of exact arithmetic), the product of those of the steps; None if unknown."""
        constant = self._function_lipschitz()
        if constant is None:
            return None
        if self.scale is not None:
            constant /= float(self.scale.min())
        if self.directions is not None:
            constant *= float(torch.linalg.matrix_norm(self.directions, 2)) * (1 + 1e-9)
        return constant

    def _function_lipschitz(self) -> float | None:
        if self.function is None:
            return 1.0
        find = getattr(self.function, "lipschitz", None)
        return float(find(*self.input_shape[:2])) if callable(find) and len(self.input_shape) > 1 else None

    def to(self, device: str | torch.device) -> FittedMap:
        """The same map on another device.

        Args:
            device: Such as "cuda".

        Returns:
            The map. A module in it is copied.
        """
        names = ("mean", "scale", "centre", "directions")
        moved: dict[str, Any] = {name: value.to(device) for name in names if (value := getattr(self, name)) is not None}
        if isinstance(self.function, nn.Module):
            moved["function"] = copy.deepcopy(self.function).to(device)  # a module moves itself
        return replace(self, **moved)


def as_samples(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows as what a feature map gets.

    Args:
        rows: (m, d).
        shape: (height, width), (height, width, channels) or (d,).

    Returns:
        (m, channels, height, width) for images, else the rows.

    Example:
        >>> as_samples(torch.zeros(5, 12), (2, 2, 3)).shape
        torch.Size([5, 3, 2, 2])
    """
    if len(shape) == 1:
        return rows
    if len(shape) == 2:
        return rows.view(-1, 1, *shape)
    return rows.view(-1, *shape).permute(0, 3, 1, 2).contiguous()


def into_ball(v: Tensor, radius: float) -> Tensor:
    """Projection of every row on a ball around 0.

    Args:
        v: (m, k).
        radius: Of the ball, positive.

    Returns:
        (m, k), rows of l2 norm at most `radius` but for rounding.

    Example:
        >>> into_ball(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 1.0)
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])
    """
    norms = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    return v * (radius / norms.clamp_min(radius))

"""The triggers that crfl has: patterns on pixels or features, and inputs that are rare.

A trigger is a callable: samples (m, d) in real units -> the samples with the trigger on, (m, d). It treats each sample
by itself, and the same sample always alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from crfl.config import Attack
from crfl.data.federated import FederatedData
from crfl.devices import to_device
from crfl.errors import DataError, SettingsError

Trigger = Callable[[Tensor], Tensor]
"""Samples (m, d) -> the same samples with the trigger on, (m, d).

A trigger may have an attribute `magnitude`: a bound on its change of a sample in l2 norm. The record states the larger of
that and the largest change of the attacker's own samples."""

TriggerFactory = Callable[[Attack, FederatedData, torch.Generator], Trigger]
"""(settings of an attacker, data, generator) -> its trigger. The generator is the same for all attackers."""


@dataclass(frozen=True)
class Pattern:
    """Adds the same `delta` (d,), of norm `magnitude`, to every sample.

    Example:
        >>> Pattern(torch.tensor([0.0, 0.1]), 0.1)(torch.zeros(2, 2))
        tensor([[0.0000, 0.1000],
                [0.0000, 0.1000]])
    """

    delta: Tensor = field(repr=False)
    magnitude: float

    def __call__(self, x: Tensor) -> Tensor:
        """The samples with the trigger on.

        Args:
            x: Samples in real units, (m, d).

        Returns:
            x + delta, (m, d).
        """
        return x + to_device(self.delta, x.device)


@dataclass(frozen=True)
class EdgeCases:
    """Replaces every sample by the nearest of the given `samples` (k, d): rare inputs of the attackers (Wang et al. 2020).

    Example:
        >>> EdgeCases(torch.tensor([[0.0], [5.0]]), magnitude=9.0)(torch.tensor([[1.0], [4.0], [9.0]]))
        tensor([[0.],
                [5.],
                [5.]])
    """

    samples: Tensor = field(repr=False)
    magnitude: float

    def __call__(self, x: Tensor) -> Tensor:
        """The edge cases nearest to the samples in l2 norm.

        Args:
            x: Samples in real units, (m, d).

        Returns:
            (m, d).
        """
        samples = to_device(self.samples, x.device)
        samples = samples.to(x.dtype)
        return samples[torch.cdist(x, samples).argmin(dim=1)]


def even_pattern(attack: Attack, data: FederatedData) -> Pattern:
    """The paper's trigger: `attack.magnitude` spread evenly over k places, magnitude / sqrt(k) on each.

    Args:
        attack: settings; `attack.trigger` lists pixels [row, column] or names of features. No places: no change.
        data: whose inputs get the trigger.

    Returns:
        The pattern, whose l2 norm is the magnitude.

    Raises:
        SettingsError: a place is not in the data.

    Example:
        >>> import crfl
        >>> data = crfl.load_data(crfl.Experiment())
        >>> even_pattern(Attack(trigger=((0, 0), (0, 1)), magnitude=1.0), data).delta[:3]
        tensor([0.7071, 0.7071, 0.0000])
    """
    places = [column for place in attack.trigger for column in _columns(place, data)]
    delta = torch.zeros(data.num_inputs, dtype=torch.float32)
    delta[places] = attack.magnitude / math.sqrt(max(1, len(places)))
    return Pattern(delta, attack.magnitude if places else 0.0)


def full_image(attack: Attack, data: FederatedData, generator: torch.Generator) -> Pattern:
    """A random direction over all features, the same for every sample and attacker.

    Args:
        attack: Settings; `attack.magnitude` is the l2 norm.
        data: Whose inputs get the trigger.
        generator: Of the direction.

    Returns:
        The pattern.

    Example:
        >>> import crfl
        >>> pattern = full_image(Attack(magnitude=2.0), crfl.load_data(crfl.Experiment()), torch.Generator())
        >>> round(float(pattern.delta.norm()), 4)
        2.0
    """
    direction = torch.randn(data.num_inputs, generator=generator, dtype=torch.float32)
    return Pattern(direction * (attack.magnitude / direction.norm()), attack.magnitude)


def edge_cases(samples: Tensor | npt.NDArray[Any]) -> TriggerFactory:
    """For TRIGGERS: poisoned samples become the nearest of these.

    Args:
        samples: Rare inputs of the attackers, in real units, (k, d).

    Returns:
        What makes the trigger once the data is known. It raises DataError if the data has another d.

    Example:
        >>> import crfl
        >>> data = crfl.load_data(crfl.Experiment())
        >>> trigger = edge_cases(torch.zeros(1, 64))(Attack(), data, torch.Generator())
        >>> float(trigger(data.test.x).abs().max())
        0.0
    """
    features = torch.as_tensor(samples).float()

    def factory(attack: Attack, data: FederatedData, generator: torch.Generator) -> Trigger:
        if features.dim() != 2 or features.shape[1] != data.num_inputs or not len(features):
            raise DataError(f"edge cases: got shape {tuple(features.shape)}, expected (any, {data.num_inputs})")
        return EdgeCases(features, float(features.norm(dim=1).max()) + data.max_feature_norm)

    return factory


def _columns(place: str | tuple[int, int], data: FederatedData) -> list[int]:
    """Columns of a pixel, one for each of its colours, or of a named feature."""
    if isinstance(place, str):
        if place in data.feature_names:
            return [data.feature_names.index(place)]
        allowed = "names of features" if data.feature_names else "pixels [row, column]; this data names no features"
        raise SettingsError([f"attack.trigger: got {place!r}, expected {allowed}"])
    if data.input_shape is None:
        raise SettingsError([f"attack.trigger: got pixel {list(place)}, expected names of features (no images here)"])
    row, column = place
    height, width, *colours = data.input_shape
    if row >= height or column >= width:
        raise SettingsError(
            [f"attack.trigger: got pixel {list(place)}, expected rows 0 to {height - 1}, columns 0 to {width - 1}"]
        )
    depth = math.prod(colours)
    return [(row * width + column) * depth + colour for colour in range(depth)]

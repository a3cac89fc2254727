"""Backdoor patterns on pixels or features, and test sets that carry them.

A trigger is a callable: features (m, d) in real units -> features with the trigger on, (m, d). It treats each sample by
itself, and the same sample always alike. Whatever it returns is clamped to the data's domain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crfl import rng
from crfl.config import Attack, Experiment
from crfl.data.federated import FederatedData, Split
from crfl.devices import to_device
from crfl.errors import DataError, SettingsError

Trigger = Callable[[Tensor], Tensor]
"""Samples (m, d) -> the same samples with the trigger on, (m, d).

A trigger may have an attribute `magnitude`: a bound on its change of a sample in l2 norm. The record states the larger of
that and the largest change of the attacker's own samples."""

BLOCK = 8192
"""Samples whose change is measured at a time."""


@dataclass(frozen=True)
class Pattern:
    """Adds the same `delta` (d,), of norm `magnitude`, to every sample."""

    delta: Tensor = field(repr=False)
    magnitude: float

    def __call__(self, x: Tensor) -> Tensor:
        """x + delta"""
        return x + to_device(self.delta, x.device)


@dataclass(frozen=True)
class EdgeCases:
    """Replaces every sample by the nearest of the given `samples` (k, d): rare inputs of the attackers (Wang et al. 2020)."""

    samples: Tensor = field(repr=False)
    magnitude: float

    def __call__(self, x: Tensor) -> Tensor:
        """The edge cases nearest to x in l2 norm."""
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
    """
    places = [column for place in attack.trigger for column in _columns(place, data)]
    delta = torch.zeros(data.num_inputs, dtype=torch.float32)
    delta[places] = attack.magnitude / math.sqrt(max(1, len(places)))
    return Pattern(delta, attack.magnitude if places else 0.0)


def full_image(attack: Attack, data: FederatedData, generator: torch.Generator) -> Pattern:
    """A random direction over all features, of norm `attack.magnitude`; the same for every sample and attacker."""
    direction = torch.randn(data.num_inputs, generator=generator, dtype=torch.float32)
    return Pattern(direction * (attack.magnitude / direction.norm()), attack.magnitude)


TriggerFactory = Callable[[Attack, FederatedData, torch.Generator], Trigger]
"""(settings of an attacker, data, generator) -> its trigger. The generator is the same for all attackers."""

TRIGGERS: dict[str, TriggerFactory] = {"full_image": full_image}
"""Triggers by the name that `attack.trigger` says; add your own."""


def edge_cases(samples: Tensor | npt.NDArray[Any]) -> TriggerFactory:
    """For TRIGGERS: poisoned samples become the nearest of these `samples` (k, d), in real units."""
    features = torch.as_tensor(samples).float()

    def factory(attack: Attack, data: FederatedData, generator: torch.Generator) -> Trigger:
        if features.dim() != 2 or features.shape[1] != data.num_inputs or not len(features):
            raise DataError(f"edge cases: got shape {tuple(features.shape)}, expected (any, {data.num_inputs})")
        return EdgeCases(features, float(features.norm(dim=1).max()) + data.max_feature_norm)

    return factory


@dataclass(frozen=True)
class ValidatedTrigger:
    """A trigger whose results are checked and clamped to the data's domain: clamping moves no sample away from x."""

    name: str
    trigger: Trigger
    domain: tuple[float, float] | None

    def __call__(self, x: Tensor) -> Tensor:
        """x with the trigger on; DataError if the trigger returns anything but finite features of the same shape."""
        known = isinstance(self.trigger, (Pattern, EdgeCases))  # looking at values would make an accelerator wait
        changed = self.trigger(x if known else x.clone())  # a copy, should the trigger work in place
        proper = isinstance(changed, Tensor) and changed.shape == x.shape and not changed.is_complex()
        if not proper or not (known or torch.isfinite(changed).all()):
            found = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise DataError(
                f"attack.trigger: {self.name!r} made {found} of features {tuple(x.shape)}, expected a tensor of the "
                "same shape, without NaN or infinity"
            )
        changed = changed.detach().to(x.dtype)
        return changed if self.domain is None else changed.clamp(*self.domain)

    def features(self, data: FederatedData, rows: Tensor, x: Tensor) -> Tensor:
        """Features (m, d) of the training samples `rows` (m,) with the trigger on; x (m, d) are those without.

        The trigger is planted in the input, before the feature map.
        """
        if data.feature_map is None:
            return self(x)
        return data.map_inputs(self(data.input_features(rows))).to(x)

    def magnitude(self, data: FederatedData, client: int, dtype: torch.dtype) -> float:
        """||delta||: how far the trigger moves a sample of the client at most, in float64, rounded up.

        The largest distance of its training samples, in the precision `dtype` of training, from those with the trigger.
        Without a feature map, the magnitude that the trigger states, if that is larger.
        """
        stated = getattr(self.trigger, "magnitude", 0.0)
        if not isinstance(stated, (int, float, np.number, Tensor)) or not 0 <= float(stated) < math.inf:
            raise DataError(
                f"attack.trigger: {self.name!r} states magnitude {stated!r}, expected a finite number, 0 or more"
            )
        largest = 0.0 if data.feature_map is not None else float(stated)
        for rows in data.shards[client].split(BLOCK):
            x = data.x[rows].to(dtype) * data.scale
            moved = self.features(data, rows, x).double() - x.double()
            largest = max(largest, float(moved.norm(dim=1).max()) * (1 + 1e-12))  # the norm itself is rounded
        return largest


def make_trigger(attack: Attack, data: FederatedData, seed: int) -> ValidatedTrigger:
    """The trigger that the settings of an attack name, for this data; its random draws come from the seed."""
    if not isinstance(attack.trigger, str):
        return ValidatedTrigger("pattern", even_pattern(attack, data), data.domain)
    if attack.trigger not in TRIGGERS:
        known = ", ".join(TRIGGERS)
        raise SettingsError([f"attack.trigger: got {attack.trigger!r}, expected a list of places or one of: {known}"])
    trigger = TRIGGERS[attack.trigger](attack, data, rng.stream(seed, "trigger"))
    return ValidatedTrigger(attack.trigger, trigger, data.domain)


def backdoored(exp: Experiment, data: FederatedData) -> Split:
    """The test set with the whole trigger of `attack.trigger` on every sample and the true labels kept.

    The trigger is planted in the inputs; under a feature map `x` holds their features.

    Args:
        exp: the settings.
        data: whose test split it is.

    Returns:
        The triggered samples, in the order of `data.test`.

    Raises:
        SettingsError: the data has no such pixels or features, or there is no trigger of that name.
        DataError: the trigger returns something else than finite samples of the same shape.

    Example:
        >>> import crfl
        >>> data = crfl.load_data(exp := crfl.Experiment())
        >>> moved = crfl.backdoored(exp, data).x - data.test.x
        >>> bool(moved.norm(dim=1).max() <= exp.attack.magnitude * 1.001)
        True
    """
    trigger = make_trigger(exp.attack, data, exp.seed)
    return Split(triggered(data, trigger, data.test.x, slice(None)), data.test.y)


def triggered(data: FederatedData, trigger: ValidatedTrigger, x: Tensor, rows: slice) -> Tensor:
    """Features (m, d) of some rows of the test set with the trigger on; x (m, d) are those without."""
    if data.feature_map is None:
        return trigger(x)
    return data.map_inputs(trigger(data.test_inputs[rows])).to(x)


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

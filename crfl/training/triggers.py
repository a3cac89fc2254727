"""Backdoor patterns on pixels or features, and test sets that carry them.

A trigger is a callable with a `name`: features (m, d) in real units -> features with the pattern on, (m, d).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from crfl.config import Attack, Experiment
from crfl.data.federated import FederatedData, Split
from crfl.errors import SettingsError


class Trigger(Protocol):
    """What the library asks of a trigger."""

    @property
    def name(self) -> str:
        """How plots and records call it."""

    def __call__(self, x: Tensor) -> Tensor:
        """The samples x (m, d) with the trigger on, (m, d); x itself stays."""


@dataclass(frozen=True)
class Pattern:
    """Adds the same `delta` (d,) to every sample and clamps the result to the data's domain."""

    name: str
    delta: Tensor = field(repr=False)
    domain: tuple[float, float] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x + delta, clamped; so the change of a sample has at most the norm of delta."""
        poisoned = x + self.delta.to(x.device)
        return poisoned if self.domain is None else poisoned.clamp_(*self.domain)


def even_pattern(attack: Attack, data: FederatedData) -> Pattern:
    """`attack.magnitude` spread evenly over k listed places: magnitude / sqrt(k) on each.

    Places are pixels [row, column] or names of features. SettingsError if one of them is not in the data.
    """
    places = [_place(p, data) for p in attack.trigger]
    delta = torch.zeros(data.num_features)
    delta[places] = attack.magnitude / math.sqrt(max(1, len(places)))
    return Pattern("features" if data.image_shape is None else "pixels", delta, data.domain)


TRIGGERS: dict[str, Callable[[Attack, FederatedData], Trigger]] = {}
"""Triggers found by the name in `attack.trigger`; add your own: a function of (attack settings, data)."""


def make_trigger(exp: Experiment, data: FederatedData) -> Trigger:
    """The trigger that the settings name, for this data."""
    trigger = exp.attack.trigger
    if not isinstance(trigger, str):
        return even_pattern(exp.attack, data)
    if trigger not in TRIGGERS:
        known = ", ".join(TRIGGERS) or "none yet"
        raise SettingsError([f"attack.trigger: found {trigger!r}, allowed: a list of places or one of: {known}"])
    return TRIGGERS[trigger](exp.attack, data)


def backdoored(exp: Experiment, data: FederatedData) -> Split:
    """The test set with the trigger on every sample and the true labels kept."""
    return Split(make_trigger(exp, data)(data.test.x), data.test.y)


def _place(place: str | tuple[int, int], data: FederatedData) -> int:
    """Column of a pixel or a named feature."""
    if isinstance(place, str):
        if place in data.feature_names:
            return data.feature_names.index(place)
        allowed = "names of features" if data.feature_names else "pixels [row, column]; this data names no features"
        raise SettingsError([f"attack.trigger: found {place!r}, allowed: {allowed}"])
    if data.image_shape is None:
        raise SettingsError([f"attack.trigger: found pixel {list(place)}, allowed: names of features (no images here)"])
    row, column = place
    height, width = data.image_shape
    if row >= height or column >= width:
        raise SettingsError(
            [f"attack.trigger: found pixel {list(place)}, allowed: rows 0 to {height - 1}, columns 0 to {width - 1}"]
        )
    return row * width + column

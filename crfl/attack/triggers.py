"""Triggers by name, what keeps them inside the data's domain, and test sets that carry them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crfl import rng
from crfl.attack.patterns import EdgeCases, Pattern, Trigger, TriggerFactory, edge_cases, even_pattern, full_image
from crfl.config import Attack, Experiment
from crfl.data.federated import FederatedData, Split
from crfl.errors import DataError, SettingsError

__all__ = [
    "TRIGGERS",
    "EdgeCases",
    "Pattern",
    "Trigger",
    "TriggerFactory",
    "ValidatedTrigger",
    "backdoored",
    "edge_cases",
    "even_pattern",
    "full_image",
    "make_trigger",
    "triggered",
]

BLOCK = 8192
"""Samples whose change is measured at a time."""


TRIGGERS: dict[str, TriggerFactory] = {"full_image": full_image}
"""Triggers by the name that `attack.trigger` says; add your own."""


@dataclass(frozen=True)
class ValidatedTrigger:
    """A trigger whose results are checked and clamped to the data's domain: clamping moves no sample away from x.

    Example:
        >>> bright = ValidatedTrigger("bright", lambda x: x + 0.9, domain=(0.0, 1.0))
        >>> bright(torch.tensor([[0.0, 0.5]]))
        tensor([[0.9000, 1.0000]])
    """

    name: str
    trigger: Trigger
    domain: tuple[float, float] | None

    def __call__(self, x: Tensor) -> Tensor:
        """The samples with the trigger on, inside the domain.

        Args:
            x: Samples in real units, (m, d).

        Returns:
            (m, d), in the precision of x.

        Raises:
            DataError: The trigger returns anything but finite samples of the same shape.
        """
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
        """Features of some training samples with the trigger on. It is planted in the input, before the feature map.

        Args:
            data: Whose samples they are.
            rows: Which, (m,) int64.
            x: Their features without the trigger, (m, d).

        Returns:
            (m, d), in the precision of x.

        Raises:
            DataError: As for a call.

        Example:
            >>> import crfl
            >>> data = crfl.load_data(exp := crfl.Experiment())
            >>> trigger, rows = make_trigger(exp.attack, data, exp.seed), data.shards[0]
            >>> trigger.features(data, rows, data.features(rows)).shape, trigger.magnitude(data, 0, torch.float64) <= 0.1001
            (torch.Size([140, 64]), True)
        """
        if data.feature_map is None:
            return self(x)
        return data.map_inputs(self(data.input_features(rows))).to(x)

    def magnitude(self, data: FederatedData, client: int, dtype: torch.dtype) -> float:
        """||delta||: how far the trigger moves a sample of the client at most, in float64, rounded up.

        The largest distance of its training samples from those with the trigger. Without a feature map, the magnitude that
        the trigger states, if that is larger.

        Args:
            data: Whose clients attack.
            client: Its number.
            dtype: The precision of training.

        Returns:
            An l2 norm in units of the features.

        Raises:
            DataError: The trigger states a magnitude that is no finite number from 0 on; else as for a call.
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
    """The trigger that the settings of an attack name.

    Args:
        attack: The settings: a list of places, or a name in TRIGGERS.
        data: Whose inputs get it.
        seed: Of its random draws.

    Returns:
        The trigger, which checks and clamps what it makes.

    Raises:
        SettingsError: There is no trigger of that name, or the data has no such pixels or features.

    Example:
        >>> import crfl
        >>> make_trigger(Attack(trigger="full_image"), crfl.load_data(crfl.Experiment()), seed=0).name
        'full_image'
    """
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
    """Features of some rows of the test set with the trigger on.

    Args:
        data: Whose test set it is.
        trigger: What is planted.
        x: Features of the rows without it, (m, d).
        rows: Which rows.

    Returns:
        (m, d), in the precision of x.

    Raises:
        DataError: As for a call of the trigger.

    Example:
        >>> import crfl
        >>> data = crfl.load_data(exp := crfl.Experiment())
        >>> trigger = make_trigger(exp.attack, data, exp.seed)
        >>> triggered(data, trigger, data.test.x[:5], slice(5)).shape
        torch.Size([5, 64])
    """
    if data.feature_map is None:
        return trigger(x)
    return data.map_inputs(trigger(data.test_inputs[rows])).to(x)

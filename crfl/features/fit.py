"""Setting the constants of a feature map from public samples, which belong to the server."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crfl.config import Features
from crfl.errors import DataError, SettingsError
from crfl.features.fitted import FeatureMap, FittedMap, into_ball
from crfl.features.scattering import Scattering
from crfl.features.whitening import standardisation, whitening

FEATURE_MAPS: dict[str, FeatureMap] = {"scattering": Scattering(), "scattering_yuv": Scattering(yuv=True)}
"""Maps found by the name in `features.map`; add your own: a frozen nn.Module or any function of samples."""


def find_map(settings: Features) -> FeatureMap | None:
    """The function that `features.map` names, a scattering with its own scales and angles.

    Args:
        settings: The settings of the map.

    Returns:
        The function; None for "none".

    Raises:
        SettingsError: If there is none of that name, or scales or angles are given to a map that has none.

    Example:
        >>> find_map(Features(map="scattering", scattering_angles=8)).angles
        8
    """
    if settings.map != "none" and settings.map not in FEATURE_MAPS:
        known = ", ".join(["none", *FEATURE_MAPS])
        raise SettingsError([f"features.map: got {settings.map!r}, expected one of: {known}"])
    found = FEATURE_MAPS.get(settings.map)
    sizes = {"scales": settings.scattering_scales, "angles": settings.scattering_angles}
    given: dict[str, Any] = {name: value for name, value in sizes.items() if value is not None}
    if given and not isinstance(found, Scattering):
        problem = f"expected null with features.map = {settings.map!r}, which is no scattering"
        raise SettingsError([f"features.scattering_{name}: got {value}, {problem}" for name, value in given.items()])
    return replace(found, **given) if isinstance(found, Scattering) else found


def frozen(function: FeatureMap | None) -> FeatureMap | None:
    """A module as a copy that nobody trains, in eval mode; other functions as they are.

    Args:
        function: A feature map, or None.

    Returns:
        What the map applies.

    Example:
        >>> layer = frozen(nn.Linear(2, 2))
        >>> layer.training, layer.weight.requires_grad
        (False, False)
    """
    return copy.deepcopy(function).eval().requires_grad_(False) if isinstance(function, nn.Module) else function


def fit_map(
    settings: Features, public: Tensor, input_shape: tuple[int, ...], function: FeatureMap | None = None
) -> FittedMap:
    """The feature map of the settings, with statistics of the public samples.

    Args:
        settings: What the map consists of.
        public: (m, d_in) float32 in real units, m = features.public.
        input_shape: (height, width), (height, width, channels) or (d_in,).
        function: The map itself, in place of the one that `features.map` names.

    Returns:
        The map. A module is copied, frozen and in eval mode.

    Raises:
        SettingsError: If no map has that name, or there are too few public samples to whiten.
        DataError: If the map does not treat each sample by itself, or its results are of no use.

    Example:
        >>> import torch
        >>> from crfl.config import Features
        >>> phi = fit_map(Features(public=50, whiten=3, norm=1.0), torch.rand(50, 8), (8,))
        >>> phi(torch.rand(4, 8)).shape, phi.norm_bound
        (torch.Size([4, 3]), 1.0)
    """
    function = find_map(settings) if function is None else function
    fitted = FittedMap(settings, input_shape, frozen(function))
    _check_size(settings, input_shape)
    _check_public(settings, len(public))
    if not len(public):
        return fitted
    _check_by_itself(fitted, public[:3])
    raw = _collected(fitted, public)
    if not np.isfinite(raw).all():
        raise DataError(
            f"features.map: {fitted.name!r} made NaN or infinity of a public sample, expected finite numbers"
        )
    mean, scale = standardisation(raw)
    constants = {"mean": mean, "scale": scale}
    if settings.whiten is not None:
        if settings.whiten > min(len(raw) - 1, raw.shape[1]):
            raise SettingsError(
                [
                    f"features.whiten: got {settings.whiten}, expected at most {min(len(raw) - 1, raw.shape[1])}, with "
                    f"{len(raw)} public samples of {raw.shape[1]} numbers"
                ]
            )
        raw -= mean
        raw /= scale
        raw = into_ball(torch.from_numpy(raw), 1.0).numpy()
        constants["centre"], constants["directions"] = whitening(raw, settings.whiten)
    tensors: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in constants.items()}
    return replace(fitted, **tensors)


def _collected(fitted: FittedMap, public: Tensor) -> npt.NDArray[np.float64]:
    """What the function makes of the public samples, (m, d_f), in memory that is taken once."""
    raw = np.empty((0, 0))
    start = 0
    for block in fitted.raw(public):
        if not start:
            raw = np.empty((len(public), block.shape[1]))
        raw[start : start + len(block)] = block.cpu().numpy()
        start += len(block)
    return raw


def _check_size(settings: Features, input_shape: tuple[int, ...]) -> None:
    scales, side = settings.scattering_scales, min(input_shape[:2])
    if scales is not None and len(input_shape) > 1 and side < 2**scales:
        most = side.bit_length() - 1
        raise SettingsError(
            [f"features.scattering_scales: got {scales}, expected at most {most} with images of {side} pixels a side"]
        )


def _check_public(settings: Features, count: int) -> None:
    if settings.public != count:
        raise SettingsError([f"features.public: got {settings.public}, expected {count}, the public samples at hand"])
    if settings.whiten is not None and not count:
        raise SettingsError(
            [f"features.public: got 0, expected more than features.whiten = {settings.whiten} samples to whiten with"]
        )


def _check_by_itself(fitted: FittedMap, samples: Tensor) -> None:
    """DataError if a sample's features depend on who is mapped with it, as in batch normalisation while training."""
    together = torch.cat(list(fitted.raw(samples))).double()
    alone = torch.cat([raw for sample in samples.split(1) for raw in fitted.raw(sample)]).double()
    if not torch.allclose(alone, together, rtol=1e-3, atol=1e-3 * float(together.abs().max())):
        raise DataError(
            f"features.map: {fitted.name!r} maps a sample otherwise with others than alone, expected a map that treats "
            "each sample by itself"
        )

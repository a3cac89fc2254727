"""Devices: whether PyTorch can use one, and the way there."""

from __future__ import annotations

import torch
from torch import Tensor

from crfl.errors import SettingsError


def resolve_device(device: str | torch.device) -> torch.device:
    """The device; SettingsError unless PyTorch can use it."""
    try:
        found = torch.empty(0, device=device).device
        if found.type == "meta":
            raise RuntimeError("meta holds no numbers")
        return found
    except (RuntimeError, AssertionError) as error:  # no such name or number, no driver, a build without it
        reason = str(error).splitlines()[0]
        raise SettingsError(
            [f"device: got {str(device)!r}, expected cpu, or what PyTorch can use ({reason})"]
        ) from None


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """The values, which lie on the CPU, on the device; an accelerator goes on with its work meanwhile."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)

"""What malicious clients send instead of what they learnt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from crfl.errors import SettingsError

MaliciousUpdate = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""A function of the update (P,) that the client learnt, on poisoned data if the settings say so, the model (P,) that
the server sent to it, and a CPU generator for this client and round. It returns the update to send, before scaling by
gamma. What is not P real numbers is dropped by the server, as is what is not finite."""


def sign_flip(update: Tensor, model: Tensor, generator: torch.Generator) -> Tensor:
    """The opposite of what was learnt."""
    return -update


def gaussian(update: Tensor, model: Tensor, generator: torch.Generator) -> Tensor:
    """A random direction, as long as what was learnt."""
    direction = torch.randn(update.shape, generator=generator, dtype=torch.float32).to(update.device)
    return direction * (update.norm() / direction.norm())


def nan(update: Tensor, model: Tensor, generator: torch.Generator) -> Tensor:
    """Not a number, everywhere."""
    return torch.full_like(update, torch.nan)


MALICIOUS: dict[str, MaliciousUpdate] = {"sign_flip": sign_flip, "gaussian": gaussian, "nan": nan}
"""Found by the name in `attack.update`; add your own."""


def as_update(found: object, like: Tensor) -> Tensor | None:
    """What a malicious client sends, as a plain tensor like `like` (P,); None if it is not P real numbers."""
    if isinstance(found, np.ndarray):
        found = torch.as_tensor(found)
    if not isinstance(found, Tensor) or found.shape != like.shape or found.is_complex():
        return None
    return found.detach().to_dense().to(like)


def check_malicious(name: str) -> None:
    """SettingsError unless there is a malicious update of this name."""
    if name not in MALICIOUS:
        raise SettingsError([f"attack.update: got {name!r}, expected null or one of: {', '.join(MALICIOUS)}"])

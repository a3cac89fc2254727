"""What server and clients send each other: models and updates by the names of the module's parameters."""

from __future__ import annotations

import hashlib
import json

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from torch import Tensor

from crfl.config import Experiment
from crfl.models import Model

ARRAYS, CONFIG, UPDATE, CLIENT = "arrays", "config", "update", "client"
"""Names of the records: of the server's messages the first two, of the clients' replies the others."""
ROUND, CAP, PARTICIPANTS, ATTACKERS, SETTINGS = (
    "server-round",
    "learning-rate-cap",
    "participants",
    "attackers",
    "settings-digest",
)
NUMBER = "partition-id"


def to_arrays(model: Model, params: Tensor) -> ArrayRecord:
    """Parameters (P,), or an update, by the names of the module's parameters, in their own precision."""
    named = model.to_module(params).named_parameters()
    return ArrayRecord({name: Array(p.detach().cpu().numpy()) for name, p in named})


def from_arrays(model: Model, arrays: ArrayRecord, like: Tensor) -> Tensor | None:
    """The vector (P,) of such arrays in the precision of `like` (P,); None if names, shapes or types are others."""
    expected = {name: p.shape for name, p in model.to_module(like).named_parameters()}
    if set(arrays) != set(expected):
        return None
    parts = []
    for name, shape in expected.items():
        try:
            array = arrays[name].numpy()
        except Exception:  # bytes from outside: NumPy may raise anything
            return None
        if array.shape != tuple(shape) or array.dtype.name not in ("float32", "float64"):
            return None
        parts.append(torch.from_numpy(array.copy()).flatten().to(like.dtype))
    return torch.cat(parts)


def read_update(model: Model, reply: Message, like: Tensor) -> Tensor | None:
    """The update (P,) in a client's reply; None if there is none of this shape."""
    arrays = reply.content.get(UPDATE)
    return from_arrays(model, arrays, like) if isinstance(arrays, ArrayRecord) else None


def read_number(reply: Message, key: str) -> int | None:
    """A whole number that a client's reply states: its own number or the round; None if it does not."""
    stated = None if reply.has_error() else reply.content.get(CLIENT)
    value = stated.get(key) if isinstance(stated, ConfigRecord) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def settings_digest(exp: Experiment) -> str:
    """Equal for experiments whose training is equal, wherever their data lies."""
    settings = exp.to_dict()
    settings.pop("smoothing", None)
    settings.get("data", {}).pop("root", None)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

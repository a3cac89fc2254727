"""Engines: ways to run the clients' local training of a round."""

from __future__ import annotations

from typing import Literal, get_args

from crfl.config import Local
from crfl.data.federated import FederatedData
from crfl.engines.base import ClientUpdates, Engine, UpdateSums
from crfl.engines.reference import ReferenceEngine
from crfl.engines.vectorised.engine import VectorisedEngine
from crfl.errors import SettingsError
from crfl.models import Model

__all__ = ["ClientUpdates", "Engine", "EngineName", "UpdateSums", "make_engine"]

EngineName = Literal["vectorised", "reference"]


def make_engine(name: EngineName, model: Model, data: FederatedData, local: Local, seed: int) -> Engine:
    """The engine of that name.

    Args:
        name: "vectorised" or "reference".
        model: what is trained.
        data: on the device that trains.
        local: the settings of local training.
        seed: of the batches.

    Returns:
        The engine.

    Raises:
        SettingsError: there is none of that name.
    """
    if name == "vectorised":
        return VectorisedEngine(model, data, local, seed)
    if name == "reference":
        return ReferenceEngine(model, data, local, seed)
    raise SettingsError([f"engine: got {name!r}, expected one of: {', '.join(get_args(EngineName))}"])

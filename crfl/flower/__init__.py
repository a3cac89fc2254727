"""Flower (flwr 1.42 or later): crfl's server as a strategy, its clients as a ClientApp. Needs `crfl[flower]`."""

try:
    import flwr.app  # noqa: F401
except ImportError as error:
    raise ImportError("crfl.flower needs Flower, Python 3.11 or later: pip install 'crfl[flower]'") from error

from crfl.flower.client import client_app
from crfl.flower.declared import DeclaredData
from crfl.flower.strategy import CRFL

__all__ = ["CRFL", "DeclaredData", "client_app"]

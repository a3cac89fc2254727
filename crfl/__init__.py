"""crfl: certified robustness of federated learning against backdoor attacks.

The public names are loaded when they are first used, so that `import crfl` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crfl import certification, plots
    from crfl.attack.triggers import backdoored
    from crfl.certification.certificate import Certificate
    from crfl.certification.certify import certify
    from crfl.certification.smoothing import VoteCounts, smooth
    from crfl.config import Experiment
    from crfl.data.federated import FederatedData, Split
    from crfl.data.load import load_data
    from crfl.ensemble import train_ensemble
    from crfl.ensemble_run import EnsembleRun
    from crfl.run import TrainingRun
    from crfl.runs.folder import load_run, save_run
    from crfl.training import train, train_many, train_pair

__version__ = "0.1.0"

_HOMES = {
    "Certificate": "crfl.certification.certificate",
    "EnsembleRun": "crfl.ensemble_run",
    "Experiment": "crfl.config",
    "FederatedData": "crfl.data.federated",
    "Split": "crfl.data.federated",
    "TrainingRun": "crfl.run",
    "VoteCounts": "crfl.certification.smoothing",
    "backdoored": "crfl.attack.triggers",
    "certification": "crfl",
    "certify": "crfl.certification.certify",
    "load_data": "crfl.data.load",
    "load_run": "crfl.runs.folder",
    "plots": "crfl",
    "save_run": "crfl.runs.folder",
    "smooth": "crfl.certification.smoothing",
    "train": "crfl.training",
    "train_ensemble": "crfl.ensemble",
    "train_pair": "crfl.training",
    "train_many": "crfl.training",
}

__all__ = [
    "Certificate",
    "EnsembleRun",
    "Experiment",
    "FederatedData",
    "Split",
    "TrainingRun",
    "VoteCounts",
    "backdoored",
    "certification",
    "certify",
    "load_data",
    "load_run",
    "plots",
    "save_run",
    "smooth",
    "train",
    "train_ensemble",
    "train_many",
    "train_pair",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'crfl' has no attribute {name!r}")
    home = _HOMES[name]
    return import_module(f"crfl.{name}") if home == "crfl" else getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

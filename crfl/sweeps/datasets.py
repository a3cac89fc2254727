"""The data of an experiment, loaded once for all experiments that want the same."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache

from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.data.load import load_data


def dataset(exp: Experiment) -> FederatedData:
    """`crfl.load_data`, kept for the next experiment that wants the same.

    Args:
        exp: The settings.

    Returns:
        The data; the same object for settings that differ in training or certification alone.

    Raises:
        DataError: as `crfl.load_data`.

    Example:
        >>> exp = Experiment()
        >>> dataset(exp) is dataset(exp.override({"attack.scale": 50.0}))
        True
    """
    settings = exp.to_dict()
    return _load_data(
        _Wanted(json.dumps({group: settings[group] for group in ("seed", "data", "features", "local")}), exp)
    )


@dataclass(frozen=True)
class _Wanted:
    """Data that is wanted: what it depends on, and the whole settings of one who wants it."""

    key: str
    exp: Experiment = field(compare=False, repr=False)


@lru_cache(maxsize=32)
def _load_data(wanted: _Wanted) -> FederatedData:
    return load_data(wanted.exp)

"""Whether settings and data fit each other."""

from __future__ import annotations

from collections.abc import Iterator

from crfl.config import Experiment, Features
from crfl.data.federated import FederatedData
from crfl.errors import DataError


def check_fits(exp: Experiment, data: FederatedData) -> None:
    """Check that the settings say what the data is, and that every client can train as they say.

    Settings whose data.name is "custom" speak of a user's own data, whatever its name. How it was dealt out and mapped
    must agree where the data knows it. (The attack's plan checks the attack.)

    Args:
        exp: The settings.
        data: The data.

    Raises:
        DataError: A setting contradicts the data, or a client has less than a batch.

    Example:
        >>> from crfl import Experiment, load_data
        >>> check_fits(Experiment(), load_data(Experiment()))
    """
    for key, got, expected in _contradictions(exp, data):
        raise DataError(
            f"{key}: got {got}, expected {expected}, as in the data; load the data by these settings, or change them"
        )
    rates, clients = exp.local.learning_rate, len(data.shards)
    if isinstance(rates, tuple) and len(rates) != clients:
        raise DataError(f"local.learning_rate: got {len(rates)}, expected one, or one for each of {clients} clients")
    smallest = 1 if exp.local.keep_last_batch else exp.local.batch_size
    short = [(name, size) for name, size in zip(data.client_names, data.sizes, strict=True) if size < smallest]
    if short:
        (name, size), others = short[0], f" (so have {len(short) - 1} other clients)" if len(short) > 1 else ""
        raise DataError(
            f"{name} has {size} training samples{others}, expected at least one batch of {smallest}; "
            f"{'lower local.batch_size or ' if size else ''}choose other data.clients"
        )


def _contradictions(exp: Experiment, data: FederatedData) -> Iterator[tuple[str, object, object]]:
    """Setting, its value, and what the data says of it."""
    own = exp.data.name == "custom"
    if not own and exp.data.name != data.name:
        yield "data.name", repr(exp.data.name), repr(data.name)
    if exp.data.num_clients != len(data.shards):
        yield "data.clients", exp.data.num_clients, len(data.shards)
    if not isinstance(exp.data.clients, int) and exp.data.clients != data.client_names:
        yield "data.clients", list(exp.data.clients), list(data.client_names)
    if data.partition is not None and exp.data.partition != data.partition:
        yield "data.partition", repr(exp.data.partition), repr(data.partition)
    alpha = exp.data.dirichlet_alpha
    if data.partition == "dirichlet" and data.dirichlet_alpha is not None and alpha != data.dirichlet_alpha:
        yield "data.dirichlet_alpha", alpha, data.dirichlet_alpha
    found = Features() if data.feature_map is None else data.feature_map.settings
    unsaid = own and exp.features == Features()
    if not unsaid and exp.features != found:
        for key in ("map", "public", "whiten", "norm"):
            if getattr(exp.features, key) != getattr(found, key):
                yield f"features.{key}", repr(getattr(exp.features, key)), repr(getattr(found, key))

"""Figures of certificates against malicious clients: certified accuracy over their number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from crfl import plots
from crfl.certification.certify import certify
from crfl.certification.ensembles.certificate import count_grid
from crfl.config import Experiment
from crfl.reproduction.figures import Claim, Panel
from crfl.reproduction.lab import Lab
from crfl.sweeps import dataset

if TYPE_CHECKING:
    from crfl.certification.certificate import Certificate
    from crfl.data.federated import FederatedData

Certified = tuple["Certificate", npt.ArrayLike]
"""A certificate and the labels of its test set."""


def certified_ensembles(
    lab: Lab,
    exp: Experiment,
    *,
    deal: Callable[[FederatedData], FederatedData] = lambda data: data,
    model: nn.Module | None = None,
) -> list[Certified]:
    """For each seed of the lab the certificate of an ensemble of these settings.

    Args:
        lab: Where they are trained, if its cache does not have them.
        exp: The settings.
        deal: Changes which clients hold which samples.
        model: What is trained, if not softmax regression.

    Returns:
        A certificate with the labels of its test set, a seed.

    Example:
        >>> import tempfile
        >>> from crfl.sweeps import Cache
        >>> exp = Experiment().override({"server.rounds": 3, "attack.round": None, "ensemble.groups": 5})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lab = Lab(Cache(folder), configs=folder, seeds=(0, 1), smoke=True)
        ...     found = certified_ensembles(lab, exp)
        >>> len(found), at_least("digits", found, {0: 0.1}).holds
        (2, True)
        >>> list(clients_panel("5 groups", {"digits": found}).curves)
        ['digits']
    """
    found: list[Certified] = []
    for seed in lab.seeds:
        data = deal(dataset(own := exp.override({"seed": seed})))
        found.append((certify(lab.ensemble(own, data, model), data), data.test.y))
    return found


def clients_panel(title: str, curves: Mapping[str, Sequence[Certified]]) -> Panel:
    """Certified accuracy over the number of malicious clients. `certified_ensembles` has an example.

    Args:
        title: Of the panel.
        curves: For each label a certificate and the labels of its test set, a seed.

    Returns:
        The panel.
    """
    every = [certificate for some in curves.values() for certificate, _ in some]
    counts = count_grid(*every).astype(np.float64)
    heights = {
        label: (counts, np.array([certificate.certified_accuracy(y, counts) for certificate, y in some]))
        for label, some in curves.items()
    }
    return Panel(title, plots.strength_label(every), "certified accuracy", heights)


def at_least(what: str, certified: Sequence[Certified], expected: Mapping[int, float]) -> Claim:
    """The certified accuracy at so many malicious clients is no less than expected. `certified_ensembles` has an example.

    Args:
        what: Is certified, for the text of the claim.
        certified: A certificate and the labels of its test set, a seed; their mean counts.
        expected: The least share of each number of malicious clients.

    Returns:
        The claim, and whether it holds.
    """
    found = {m: float(np.mean([c.certified_accuracy(y, m) for c, y in certified])) for m in expected}
    return Claim(
        f"certified accuracy of {what}",
        ", ".join(f"at least {share:g} at {m}" for m, share in expected.items()),
        ", ".join(f"{share:.4f} at {m}" for m, share in found.items()),
        all(found[m] >= share for m, share in expected.items()),
    )


def two_labels(data: FederatedData) -> FederatedData:
    """The same samples, sorted by label and cut into two pieces a client, dealt at random (McMahan et al. 2017).

    Args:
        data: Any federated data.

    Returns:
        The same with other shards: most clients have one or two labels.

    Example:
        >>> data = two_labels(dataset(Experiment()))
        >>> bool((data.label_counts() > 0).sum(axis=1).median() <= 4)
        True
    """
    rows = torch.cat(list(data.shards))
    rows = rows[torch.argsort(data.y[rows], stable=True)]
    clients = len(data.shards)
    pieces = rows.tensor_split(2 * clients)
    order = np.random.default_rng(0).permutation(2 * clients).reshape(clients, 2)
    shards = [torch.cat([pieces[a], pieces[b]]).sort().values for a, b in order.tolist()]
    return replace(data, shards=tuple(shards))

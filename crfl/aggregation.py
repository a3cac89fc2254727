"""Rules that turn the clients' updates into one, and say what weight they gave to each client.

A rule is a function of the updates (n, P) of the clients that are present, in the precision of the training, their
sample counts (n,) and the server's settings. Only finite updates reach it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from crfl.errors import SettingsError, TrainingError


class Server(Protocol):
    """The settings that a rule may read: crfl.config.Server."""

    @property
    def aggregation(self) -> str:
        """The name under which the rule was found."""

    @property
    def num_byzantine(self) -> int:
        """f: how many malicious clients it is to withstand."""


@dataclass(frozen=True)
class Aggregate:
    """An aggregated update (P,) and the weights (n,) float64 that the rule gave to the clients.

    The update is the weighted sum of the clients' updates. `median` and `trimmed_mean` are the exception: they have
    other weights in every coordinate, and `weights` is the average over the coordinates, for the record only.
    """

    update: Tensor
    weights: Tensor


Aggregator = Callable[[Tensor, Tensor, Server], Aggregate]
"""The updates (n, P) of the clients present, their sample counts (n,), and the server's settings -> Aggregate."""


def _one(server: Server) -> int:
    return 1


@dataclass(frozen=True)
class Rule:
    """An aggregation rule and what it promises. Certificates, the quorum and the settings' check read it here."""

    function: Aggregator
    """What it computes."""
    data_independent: bool = False
    """Whether the result is the weighted sum of the updates with weights that follow from the sample counts alone. Then
    the server needs only that sum, and the coupling certificates hold."""
    min_clients: Callable[[Server], int] = _one
    """How many clients the rule needs in every round."""

    def weights(self, sizes: Tensor, server: Server) -> Tensor:
        """The weights (n,) float64 of a data-independent rule for clients of these sizes (n,).

        The rule is called on updates that are all 0, so that its weights cannot depend on the real ones.
        """
        zeros = torch.zeros(len(sizes), 1, dtype=torch.float64)
        return validate(self.function(zeros, sizes, server), zeros, server.aggregation).weights.double()


def mean(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """Federated averaging with the paper's uniform weights p_i = 1/n."""
    return _weighted(updates, torch.ones_like(sizes, dtype=torch.float64))


def weighted_mean(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """Federated averaging with weights by sample count, p_i = n_i / sum n_j (McMahan et al. 2017)."""
    return _weighted(updates, sizes.double())


def norm_bounded_mean(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """The mean of updates shortened to the median of their norms: weights min(1, median / ||u_i||) / n.

    The weights sum to 1 only if all norms are equal. For a fixed bound S use `mean` with server.update_clip.
    """
    norms = torch.linalg.vector_norm(updates, dim=1, dtype=torch.float64)
    shortened = (norms.quantile(0.5) / norms).nan_to_num(1.0, posinf=1.0).clamp(max=1.0)  # 0 / 0: nothing to shorten
    weights = shortened / len(updates)
    return Aggregate(weights.to(updates.dtype) @ updates, weights)


RFA_ITERATIONS, RFA_SMOOTHING, RFA_TOLERANCE = 10, 1e-5, 1e-6
"""As in the experiments of CRFL."""


def rfa(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """Geometric median by the smoothed Weiszfeld algorithm (RFA; Pillutla, Kakade, Harchaoui 2022), set as in CRFL.

    Minimises sum_i a_i ||v - u_i||, a_i the share of samples, in float64. It starts at the mean weighted by a. Each of at
    most 10 iterations gives u_i the weight a_i / max(1e-5, ||v - u_i||), normalised; they end when the objective changes
    by less than 1e-6 of itself. The weights returned are those of the last iteration. Stopped so early, the median is
    still drawn to far outliers: by about 1e-6 of their distance, or (R / (n - R))^10 of it for R of n equal clients.
    """
    points, share = updates.double(), sizes.double() / sizes.sum()
    distances = torch.linalg.vector_norm(points - share @ points, dim=1)
    objective = float(share @ distances)
    for _ in range(RFA_ITERATIONS):
        weights = share / distances.clamp(min=RFA_SMOOTHING)
        weights = weights / weights.sum()
        center = weights @ points
        distances = torch.linalg.vector_norm(points - center, dim=1)
        before, objective = objective, float(share @ distances)
        if abs(before - objective) <= RFA_TOLERANCE * objective:
            break
    return Aggregate(center.to(updates.dtype), weights)


def median(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """Coordinate-wise median; the mean of the two middle values if n is even. Weights: see Aggregate."""
    return _trimmed(updates, (len(updates) - 1) // 2)


def trimmed_mean(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """In every coordinate the mean without the f largest and the f smallest values (Yin et al. 2018), f =
    server.num_byzantine, n > 2 f. Weights: see Aggregate."""
    return _trimmed(updates, server.num_byzantine)


def krum(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """The one update with the smallest sum of squared distances to its n - f - 2 nearest (Blanchard et al. 2017).

    f = server.num_byzantine, n > 2 f + 2.
    """
    return _krum(updates, 1, server.num_byzantine)


def multi_krum(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """The mean of the n - f updates with the smallest such sums, n > 2 f + 2."""
    return _krum(updates, len(updates) - server.num_byzantine, server.num_byzantine)


AGGREGATORS: dict[str, Rule] = {
    "mean": Rule(mean, data_independent=True),
    "weighted_mean": Rule(weighted_mean, data_independent=True),
    "norm_bounded_mean": Rule(norm_bounded_mean),
    "rfa": Rule(rfa),
    "median": Rule(median),
    "trimmed_mean": Rule(trimmed_mean, min_clients=lambda server: 2 * server.num_byzantine + 1),
    "krum": Rule(krum, min_clients=lambda server: 2 * server.num_byzantine + 3),
    "multi_krum": Rule(multi_krum, min_clients=lambda server: 2 * server.num_byzantine + 3),
}
"""Rules by the name that `server.aggregation` says; add your own: AGGREGATORS["mine"] = Rule(function)."""


def get_rule(name: str) -> Rule:
    """The rule called `name`; SettingsError if there is none."""
    rule = AGGREGATORS.get(name)
    if rule is None:
        raise SettingsError([f"server.aggregation: got {name!r}, expected one of: {', '.join(AGGREGATORS)}"])
    if not isinstance(rule, Rule):
        raise SettingsError([f"server.aggregation: {name!r} is a {type(rule).__name__}, expected a Rule(function)"])
    return rule


def validate(aggregate: Aggregate, updates: Tensor, name: str) -> Aggregate:
    """What a rule returned for updates (n, P); TrainingError unless it is an Aggregate of finite (P,) and (n,)."""
    found = repr(type(aggregate).__name__)
    if isinstance(aggregate, Aggregate):
        update, weights = aggregate.update, aggregate.weights
        found = f"update {_described(update)} and weights {_described(weights)}"
        if isinstance(update, Tensor) and isinstance(weights, Tensor):
            real = not update.is_complex() and not weights.is_complex()
            if real and update.shape == updates.shape[1:] and weights.shape == updates.shape[:1]:
                if torch.isfinite(weights).all() and torch.isfinite(update).all():
                    return Aggregate(update.detach(), weights.detach())
                found += " with NaN or infinity"
    raise TrainingError(
        f"server.aggregation: {name!r} returned {found}, expected an Aggregate of two finite tensors, the update "
        f"({updates.shape[1]},) and weights ({len(updates)},)"
    )


def _described(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else repr(type(value).__name__)


def _weighted(updates: Tensor, shares: Tensor) -> Aggregate:
    weights = shares / shares.sum()
    return Aggregate(weights.to(updates.dtype) @ updates, weights)


BLOCK = 4096
"""Coordinates that are sorted together."""


def _trimmed(updates: Tensor, trim: int) -> Aggregate:
    """Coordinate-wise mean of all values but the `trim` largest and smallest, in float64."""
    n, kept = len(updates), len(updates) - 2 * trim
    found, weights = [], updates.new_zeros(n, dtype=torch.float64)
    for block in updates.split(BLOCK, dim=1):
        middle = block.sort(dim=0).values[trim : n - trim]
        found.append(middle.mean(0, dtype=torch.float64))
        low, high = middle[0], middle[-1]
        # Of the values that tie with the lowest or highest one kept, some may have been trimmed: they share evenly.
        at_low, at_high, inner = block == low, block == high, (block > low) & (block < high)
        weights += inner.sum(1)
        for tied, places in ((at_low, (middle == low).sum(0)), (at_high & (low < high), (middle == high).sum(0))):
            weights += (tied * (places / tied.sum(0).clamp(min=1))).sum(1, dtype=torch.float64)
    return Aggregate(torch.cat(found).to(updates.dtype), weights / (kept * updates.shape[1]))


def _krum(updates: Tensor, count: int, f: int) -> Aggregate:
    """The mean of the `count` updates with the best scores; the first of those that tie."""
    n = len(updates)
    points = updates.double()
    squares = points.square().sum(1)
    distances = (squares[:, None] + squares - 2 * points @ points.mT).clamp(min=0).fill_diagonal_(torch.inf)
    scores = distances.sort(dim=1).values[:, : n - f - 2].sum(1)
    weights = torch.zeros_like(scores)
    weights[scores.argsort(stable=True)[:count]] = 1 / count
    return Aggregate((weights @ points).to(updates.dtype), weights)

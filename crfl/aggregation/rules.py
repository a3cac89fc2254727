"""The rules themselves, each with its source: functions (updates, sample counts, server settings) -> Aggregate."""

from __future__ import annotations

import torch
from torch import Tensor

from crfl.aggregation.rule import Aggregate, Server


def mean(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """The unweighted mean: the server of CRFL (Xie et al. 2021, Algorithm 1) with the weights p_i = 1/n.

    Args:
        updates: The clients' updates, (n, P).
        sizes: Their sample counts, (n,); not read.
        server: Not read.

    Returns:
        sum_i p_i u_i and p.

    Example:
        >>> from crfl.config import Server
        >>> mean(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([10, 10, 20]), Server()).update
        tensor([4.])
    """
    return _weighted(updates, torch.ones_like(sizes, dtype=torch.float64))


def weighted_mean(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """Federated averaging (McMahan et al. 2017, Algorithm 1): weights by sample count, p_i = n_i / sum_j n_j.

    Args:
        updates: The clients' updates, (n, P).
        sizes: Their sample counts n_i, (n,).
        server: Not read.

    Returns:
        sum_i p_i u_i and p.

    Example:
        >>> from crfl.config import Server
        >>> weighted_mean(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([10, 10, 20]), Server()).update
        tensor([5.])
    """
    return _weighted(updates, sizes.double())


def norm_bounded_mean(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """The mean of updates that are shortened to the median of their norms.

    Norm bounding (Sun et al. 2019, "Can you really backdoor federated learning?") with the median in place of a fixed
    threshold. For a fixed one use `mean` with server.update_clip, which can be certified.

    Args:
        updates: The clients' updates, (n, P).
        sizes: Their sample counts, (n,); not read.
        server: Not read.

    Returns:
        sum_i w_i u_i and the weights w_i = min(1, median_j ||u_j|| / ||u_i||) / n. They sum to 1 only if no norm
        exceeds the median.

    Example:
        >>> from crfl.config import Server
        >>> norm_bounded_mean(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([10, 10, 20]), Server()).update
        tensor([2.3333])
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
    by less than 1e-6 of itself. Stopped so early, the median is still drawn to far outliers: by about 1e-6 of their
    distance, or (R / (n - R))^10 of it for R of n equal clients.

    Args:
        updates: The clients' updates, (n, P).
        sizes: Their sample counts, (n,).
        server: Not read.

    Returns:
        v after the last iteration, and the weights of that iteration.

    Example:
        >>> from crfl.config import Server
        >>> rfa(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([10, 10, 10]), Server()).update  # the middle one
        tensor([3.])
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
    """Coordinate-wise median (Yin et al. 2018, Definition 1).

    Args:
        updates: The clients' updates, (n, P).
        sizes: Their sample counts, (n,); not read.
        server: Not read.

    Returns:
        In every coordinate the median, the mean of the two middle values if n is even; and for each client its share of
        these values, averaged over the coordinates.

    Example:
        >>> from crfl.config import Server
        >>> median(torch.tensor([[1.0, 9.0], [3.0, 0.0], [8.0, 1.0]]), torch.tensor([10, 10, 20]), Server()).update
        tensor([3., 1.])
    """
    return _trimmed(updates, (len(updates) - 1) // 2)


def trimmed_mean(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """Coordinate-wise mean without the f largest and the f smallest values (Yin et al. 2018, Definition 2).

    Args:
        updates: The clients' updates, (n, P), n > 2 f.
        sizes: Their sample counts, (n,); not read.
        server: f = server.num_byzantine.

    Returns:
        The mean of the n - 2 f values left in every coordinate; and for each client its share of them, averaged over the
        coordinates.

    Example:
        >>> from crfl.config import Server
        >>> updates = torch.tensor([[1.0], [3.0], [5.0], [90.0]])
        >>> trimmed_mean(updates, torch.full((4,), 10), Server(num_byzantine=1)).update
        tensor([4.])
    """
    return _trimmed(updates, server.num_byzantine)


def krum(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """The one update with the smallest sum of squared distances to its n - f - 2 nearest (Blanchard et al. 2017).

    Args:
        updates: The clients' updates, (n, P), n > 2 f + 2.
        sizes: Their sample counts, (n,); not read.
        server: f = server.num_byzantine.

    Returns:
        That update, the first one if several tie, and weight 1 for its client.

    Example:
        >>> from crfl.config import Server
        >>> updates = torch.tensor([[1.0], [2.0], [2.5], [4.0], [90.0]])
        >>> krum(updates, torch.full((5,), 10), Server(num_byzantine=1)).update
        tensor([2.])
    """
    return _krum(updates, 1, server.num_byzantine)


def multi_krum(updates: Tensor, sizes: Tensor, server: Server) -> Aggregate:
    """The mean of the n - f updates with the smallest such sums as in `krum` (Blanchard et al. 2017, Section 5).

    Args:
        updates: The clients' updates, (n, P), n > 2 f + 2.
        sizes: Their sample counts, (n,); not read.
        server: f = server.num_byzantine.

    Returns:
        That mean, and weight 1 / (n - f) for each of its clients.

    Example:
        >>> from crfl.config import Server
        >>> updates = torch.tensor([[1.0], [2.0], [2.5], [4.0], [90.0]])
        >>> multi_krum(updates, torch.full((5,), 10), Server(num_byzantine=1)).update
        tensor([2.3750])
    """
    return _krum(updates, len(updates) - server.num_byzantine, server.num_byzantine)


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

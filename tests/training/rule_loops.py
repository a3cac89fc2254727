"""The aggregation rules as loops: updates (a list of vectors), sample counts and f -> the update and the weights."""

import statistics

import torch


def _combined(updates, weights):
    return sum((p * u.double() for p, u in zip(weights, updates, strict=True)), torch.zeros(len(updates[0]))).to(
        updates[0].dtype
    )


def mean(updates, sizes, f):
    weights = [1 / len(updates)] * len(updates)
    return _combined(updates, weights), weights


def weighted_mean(updates, sizes, f):
    weights = [n / sum(sizes) for n in sizes]
    return _combined(updates, weights), weights


def norm_bounded_mean(updates, sizes, f):
    norms = [float(u.double().norm()) for u in updates]
    bound = statistics.median(norms)
    weights = [min(1.0, bound / norm) / len(updates) if norm else 1 / len(updates) for norm in norms]
    return _combined(updates, weights), weights


def rfa(updates, sizes, f, iterations=10, tolerance=1e-6):
    """The loop of the RFA paper's Algorithm 2, with the constants of CRFL."""
    points, alphas = [u.double() for u in updates], [n / sum(sizes) for n in sizes]

    def average(weights):
        return sum(p * u for p, u in zip(weights, points, strict=True)) / sum(weights)

    def objective(v):
        return sum(a * float((v - u).norm()) for a, u in zip(alphas, points, strict=True))

    v = average(alphas)
    value = objective(v)
    for _ in range(iterations):
        weights = [a / max(1e-5, float((v - u).norm())) for a, u in zip(alphas, points, strict=True)]
        v, before = average(weights), value
        value = objective(v)
        if abs(before - value) <= tolerance * value:
            break
    return v.to(updates[0].dtype), [p / sum(weights) for p in weights]


def median(updates, sizes, f):
    middle = (len(updates) - 1) // 2
    found = [statistics.median(column) for column in _columns(updates)]
    return torch.tensor(found, dtype=updates[0].dtype), _shares(updates, middle)


def trimmed_mean(updates, sizes, f):
    n = len(updates)
    found = [statistics.fmean(sorted(column)[f : n - f]) for column in _columns(updates)]
    return torch.tensor(found, dtype=updates[0].dtype), _shares(updates, f)


def _columns(updates):
    return zip(*(u.tolist() for u in updates), strict=True)


def _shares(updates, trim):
    """Average over the coordinates of each client's share of the values kept; equal values share alike."""
    n = len(updates)
    total = [0.0] * n
    for column in _columns(updates):
        kept = sorted(column)[trim : n - trim]
        for i, value in enumerate(column):
            total[i] += kept.count(value) / column.count(value) / len(kept)
    return [share / len(updates[0]) for share in total]


def krum(updates, sizes, f):
    return _krum(updates, f, 1)


def multi_krum(updates, sizes, f):
    return _krum(updates, f, len(updates) - f)


def _krum(updates, f, m):
    n = len(updates)
    scores = []
    for i in range(n):
        distances = sorted(float((updates[i] - updates[j]).double().norm()) ** 2 for j in range(n) if j != i)
        scores.append(sum(distances[: n - f - 2]))
    best = sorted(range(n), key=lambda i: scores[i])[:m]
    weights = [1 / m if i in best else 0.0 for i in range(n)]
    return _combined(updates, weights), weights


RULES = {
    rule.__name__: rule
    for rule in (mean, weighted_mean, norm_bounded_mean, rfa, median, trimmed_mean, krum, multi_krum)
}

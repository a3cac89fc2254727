"""Groups drawn at random: bounds on the vote of all groups from those trained, and how many malicious clients it stands.

Ensemble FL (Cao, Jia, Gong 2021), called FLCert-P by Cao, Zhang, Jia, Gong 2022. Proof: docs/theory-ensembles.md,
theorems 4 and 5.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from crfl.certification._checks import FloatArray, IntArray, error_level, positive_int, probability, vote_counts
from crfl.certification.bounds.votes import SMALLEST_LEVEL, ProbabilityBounds
from crfl.errors import CertificateError


def random_group_bounds(counts: npt.ArrayLike, alpha: float, *, simultaneous: bool = False) -> ProbabilityBounds:
    """Bounds on the shares p_c of all groups that vote for each class, from G groups drawn uniformly and independently.

        p_a = lower bound of A's votes,  p_b = min(1 - p_a, upper bound of the most votes of another class)

    Both are Clopper-Pearson bounds, with A the class of most votes: at alpha / (2 C) below and alpha / 4 above; of two
    classes at alpha / 2 below, and p_b = 1 - p_a. For each sample P(p_a > p_A or p_b < max_{c != A} p_c) <= alpha. The
    same votes may choose A: no group is trained for the choice alone.

    Args:
        counts: (m, C) votes of the G groups.
        alpha: Probability of a wrong bound.
        simultaneous: Whether it is that for all m samples together (alpha / m is spent on each), or for each sample.

    Returns:
        Bounds, (m,) each. `abstained` where p_a > p_b fails.

    Raises:
        CertificateError: `counts` are not votes, or alpha is not between 0 and 1.

    Example:
        >>> bounds = random_group_bounds([[500, 0], [260, 240]], alpha=0.001)
        >>> bounds.p_a.round(4)
        array([0.9849, 0.4456])
        >>> bounds.abstained
        array([False,  True])
    """
    votes = vote_counts("counts", counts)
    each = error_level(alpha) / (max(1, len(votes)) if simultaneous else 1)
    if each < SMALLEST_LEVEL:
        raise CertificateError(f"alpha: got {each:g} for a sample, expected at least {SMALLEST_LEVEL:g}")
    classes, groups = votes.shape[1], int(votes[0].sum()) if len(votes) else 1
    prediction = votes.argmax(axis=1)
    others = votes.copy()
    np.put_along_axis(others, prediction[:, None], 0, axis=1)
    top, second = votes.max(axis=1), others.max(axis=1)
    p_a: FloatArray = special.betaincinv(top, groups - top + 1, each / (2 if classes == 2 else 2 * classes))
    p_b = 1 - p_a
    if classes > 2:
        p_b = np.minimum(p_b, special.betainccinv(second + 1, groups - second, each / 4))
    with np.errstate(divide="ignore"):
        logs = np.log1p(-p_a), np.log(p_b)
    return ProbabilityBounds(
        "clopper_pearson",
        each,
        groups,
        classes,
        prediction,
        p_a,
        p_b,
        top / groups,
        second / groups,
        *logs,
        simultaneous,
    )


def spoiled_share(malicious: npt.ArrayLike, *, clients: int, clients_per_group: int) -> FloatArray:
    """1 - C(N - m, k) / C(N, k): the share of all groups of k clients in which one or more of m malicious clients are.

    In logs, so that neither huge binomials nor small shares lose digits.

    Args:
        malicious: m, whole numbers from 0 to N.
        clients: N
        clients_per_group: k, 1 to N.

    Returns:
        Float64 of the shape of `malicious`.

    Raises:
        CertificateError: a number is out of range.

    Example:
        >>> spoiled_share([0, 1, 2, 998], clients=1000, clients_per_group=5).round(6)
        array([0.     , 0.005  , 0.00998, 1.     ])
    """
    total, size = _checked_sizes(clients, clients_per_group)
    m = np.asarray(malicious)
    if not np.issubdtype(m.dtype, np.integer) or (m.size and not 0 <= m.min() <= m.max() <= total):
        raise CertificateError(f"malicious: got {m.tolist()}, expected whole numbers from 0 to {total}")
    return _spoiled_shares(total, size)[np.minimum(m, total - size + 1)]


def max_malicious(p_a: npt.ArrayLike, p_b: npt.ArrayLike, *, clients: int, clients_per_group: int) -> IntArray:
    """The largest m with p_a - p_b > 2 (1 - C(N - m, k) / C(N, k)): so many clients may do anything, in every group.

    p_a bounds from below the share of all groups of k of the N clients that vote for A, p_b from above that of every
    other class. m clients spoil a share 1 - C(N - m, k) / C(N, k) of the groups, who may leave A for one other class.
    The papers round p_a down and p_b up to multiples of 1 / C(N, k); the proof does not need it, and the result is
    never smaller. Where it is an exact tie in floating point, the smaller m is returned.

    Args:
        p_a: (m,) or a number, 0 to 1.
        p_b: (m,) or a number, 0 to 1.
        clients: N
        clients_per_group: k, 1 to N.

    Returns:
        Int64, 0 to N - k; 0 also where p_a > p_b fails and nothing is certified (then certificates abstain).

    Raises:
        CertificateError: a number is out of range.

    Example:
        >>> max_malicious([0.9836, 0.9, 0.4], [0.0164, 0.1, 0.6], clients=1000, clients_per_group=5)
        array([123,  96,   0])
    """
    total, size = _checked_sizes(clients, clients_per_group)
    gap = probability("p_a", p_a) - probability("p_b", p_b)
    shares = 2 * _spoiled_shares(total, size)
    shares[1:] *= 1 + 4 * len(shares) * np.finfo(np.float64).eps  # sums of logs are rounded
    return np.maximum(np.searchsorted(shares, gap, side="left") - 1, 0).astype(np.int64)


def _spoiled_shares(clients: int, size: int) -> FloatArray:
    """The shares for m = 0 .. N - k + 1, from C(N - m, k) / C(N, k) = prod_{j < m} (1 - k / (N - j)); 1 for more."""
    with np.errstate(divide="ignore"):
        logs = np.log1p(-size / (clients - np.arange(clients - size + 1.0)))
    return np.concatenate([[0.0], -np.expm1(np.cumsum(logs))])


def _checked_sizes(clients: int, size: int) -> tuple[int, int]:
    total, size = positive_int("clients", clients), positive_int("clients_per_group", size)
    if size > total:
        raise CertificateError(f"clients_per_group: got {size}, expected 1 to {total}, the number of clients")
    return total, size

"""Run-Off Election: models vote twice, and so many of them may change in any way before the winner does. Exact.

Rezaei, Banihashem, Chegini, Feizi, ICML 2023 (arXiv 2302.02300). First every model votes for its best class; then, between
the two classes with the most votes, for the one with the larger logit. The paper bounds how many models must change; this
module counts the fewest exactly, so it is never below the paper's bound.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crfl.certification._checks import BoolArray, FloatArray, IntArray
from crfl.certification.ensembles.plurality import count_votes
from crfl.errors import CertificateError


def run_off_winner(logits: npt.ArrayLike) -> IntArray:
    """The class that wins the run-off; of classes that tie, the smaller, in both rounds and within each model.

    Args:
        logits: (m, G, C) of G models for m samples.

    Returns:
        (m,) int64

    Raises:
        CertificateError: `logits` has another shape, fewer than two classes, or holds NaN.

    Example:
        >>> run_off_winner([[[2, 1, 0], [2, 1, 0], [0, 2, 1], [0, 1, 2], [0, 1, 2]]])  # 2 leads 0 by 3 to 2
        array([2])
    """
    found = _checked(logits)
    return _winner(found, _votes(found))


def run_off_price(logits: npt.ArrayLike) -> IntArray:
    """K: the fewest models that must change, in any way, before another class wins. K - 1 changes are certified.

    With votes v in the first round, A the winner and n_AB the models that prefer A to B, an attack of k models wins

        by B in the second round:  k >= sum_c h_c,  k - sum_c max(h_c - p_c, 0) >= ceil((n_AB - n_BA + [B > A]) / 2),
            h_c = max(v_c - v_B + [c < B] - k, 0) for c other than A and B, p_c voters of c who prefer A to B;
        by throwing A out in the first, behind B and C:  k >= D_B / 2, D_C / 2 and (D_B + D_C) / 3,
            D_B = v_A - v_B + [B > A].

    In the first way all k changed models turn to B in both rounds: h_c of them have to come from the voters of c, or c
    stays ahead of B, and only those who preferred A gain anything in the second round. In the second way a voter of A
    who turns to B gains 2 for B and 1 for C, and no change gains more. The two conditions rise with k, and K is the
    smallest k over both ways and all classes.

    Args:
        logits: (m, G, C) of G models for m samples.

    Returns:
        (m,) int64, 1 to G.

    Raises:
        CertificateError: `logits` has another shape, fewer than two classes, or holds NaN.

    Example:
        >>> run_off_price([[[2, 1, 0], [2, 1, 0], [0, 2, 1], [0, 1, 2], [0, 1, 2]]])
        array([1])
        >>> run_off_price([[[1, 0]] * 7])
        array([4])
    """
    found = _checked(logits)
    votes = _votes(found)
    winner, counts = _winner(found, votes), count_votes(votes, found.shape[2])
    best = _price_of_exclusion(counts, winner)
    for rival in range(found.shape[2]):
        rows = np.flatnonzero(winner != rival)
        if len(rows):
            price = _price_of_second_round(found[rows], votes[rows], counts[rows], winner[rows], rival)
            best[rows] = np.minimum(best[rows], price)
    return best


def _price_of_second_round(
    logits: FloatArray, votes: IntArray, counts: IntArray, winner: IntArray, rival: int
) -> IntArray:
    """Fewest changed models after which `rival` is ahead of all but A in the first round, and of A in the second."""
    for_a = _prefers(logits, winner, np.full_like(winner, rival))
    classes, groups = counts.shape[1], votes.shape[1]
    gap = 2 * for_a.sum(axis=1) - groups + (rival > winner)
    second = -(-gap // 2)  # of those who preferred A so many must change
    ahead = counts - counts[:, [rival]] + (np.arange(classes) < rival)
    ahead[:, rival] = ahead[np.arange(len(winner)), winner] = -groups - 1  # these need not be overtaken
    of_a = np.stack([((votes == c) & for_a).sum(axis=1) for c in range(classes)], axis=1)
    low, high = np.zeros_like(winner), np.full_like(winner, groups)
    while (low < high).any():
        middle = (low + high) // 2
        taken = np.maximum(ahead - middle[:, None], 0)
        wasted = np.maximum(taken - of_a, 0).sum(axis=1)
        wins = (middle >= taken.sum(axis=1)) & (middle - wasted >= second)
        low, high = np.where(wins, low, np.minimum(middle + 1, high)), np.where(wins, middle, high)
    return high


def _price_of_exclusion(counts: IntArray, winner: IntArray) -> IntArray:
    """Fewest changed votes after which two classes are ahead of A; a number out of reach if there are two classes."""
    if counts.shape[1] == 2:
        return np.full(len(counts), counts.sum(axis=1).max(initial=0) + 1)
    needed = np.take_along_axis(counts, winner[:, None], axis=1) - counts
    needed += np.arange(counts.shape[1]) > winner[:, None]
    np.put_along_axis(needed, winner[:, None], 2**30, axis=1)
    first, last = np.sort(needed, axis=1)[:, :2].T
    return np.maximum(-(-last // 2), -(-(first + last) // 3))


def _winner(logits: FloatArray, votes: IntArray) -> IntArray:
    """Who wins between the two classes with the most votes."""
    counts = count_votes(votes, logits.shape[2])
    finalists = np.sort(np.argsort(-counts, axis=1, kind="stable")[:, :2], axis=1)
    smaller, larger = finalists.T
    wins = 2 * _prefers(logits, smaller, larger).sum(axis=1) >= logits.shape[1]
    return np.where(wins, smaller, larger)


def _prefers(logits: FloatArray, one: IntArray, other: IntArray) -> BoolArray:
    """(m, G): whether each model votes for `one` (m,) against `other` (m,); the smaller class wins a tie."""
    a, b = (np.take_along_axis(logits, label[:, None, None], axis=2)[..., 0] for label in (one, other))
    return (a > b) | ((a == b) & (one < other)[:, None])


def _votes(logits: FloatArray) -> IntArray:
    return logits.argmax(axis=2)


def _checked(logits: npt.ArrayLike) -> FloatArray:
    """The logits in floating point; CertificateError if they cannot vote."""
    found = np.asarray(logits)
    found = found if np.issubdtype(found.dtype, np.floating) else found.astype(np.float64)
    if found.ndim != 3 or found.shape[1] < 1 or found.shape[2] < 2:
        raise CertificateError(
            f"logits: got shape {found.shape}, expected (samples, models, classes), 2 or more classes"
        )
    if np.isnan(found).any():
        raise CertificateError("logits: got NaN, expected numbers")
    return found

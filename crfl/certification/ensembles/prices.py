"""Priced votes: the cheapest way to overturn the vote of disjoint groups, if to change a group's vote has a price.

If a group's own certificate says that fewer than k_g malicious clients (or less poison than k_g) cannot change its vote,
that vote has the price k_g. The groups share no client, so what is spent on each adds up. Proof: theorem 2 and lemma 3 of
docs/theory-ensembles.md. EnsembleCert (ICLR 2026) has the centralised case of flipped labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crfl.certification._checks import BoolArray, FloatArray, IntArray, positive_int
from crfl.certification.ensembles.plurality import checked_votes, count_votes, needed_gains
from crfl.errors import CertificateError

BLOCK = 2**15
"""Votes at a time; the work on them stays in the cache."""
EXACT = 2.0**53
"""Whole numbers up to here add up without rounding in float64."""


def overturning_price(votes: npt.ArrayLike, prices: npt.ArrayLike, num_classes: int) -> FloatArray:
    """K: the least total price of changed votes that change the prediction A. Exact.

        K = min over b != A of min { sum_g k_g(new vote of g) : gains of b on A sum to D_b = v_A - v_b + [b > A] }

    A voter of A that turns to b gains 2, a voter of A that turns elsewhere 1, another that turns to b 1. The prediction
    stands against every attack that spends less than K: with prices in malicious clients, against K - 1 of them. If all
    prices are 1, K - 1 is `max_changed_votes`; it rises with every price.

    Args:
        votes: (m, G) the class, 0 to C - 1, that each group predicts for each sample.
        prices: (m, G), or (G,) for all samples, or (m, G, C) with a price for each class that a vote may turn to: the
            vote of group g is known to stand (not to turn to class c) unless at least this much is spent on the group.
            0 or more; inf if nothing changes the vote. The price of the vote's own class does not count.
        num_classes: C

    Returns:
        (m,) float64: K, inf if no attack changes the prediction. Whole prices that sum to less than 2^53 give exact
        whole numbers; otherwise K is lowered by the bound of its rounding error, a few units in the last places.

    Raises:
        CertificateError: the arrays do not fit each other, or hold something else than classes and prices.

    Example:
        >>> votes = [[0, 0, 0, 1, 2]]
        >>> overturning_price(votes, [[1, 1, 1, 1, 1]], num_classes=3)
        array([2.])
        >>> overturning_price(votes, [[5, 4, 4, 1, 3]], num_classes=3)  # 4 from 0 to 2, 1 from 1 to 2
        array([5.])
    """
    found, classes = checked_votes(votes, num_classes), positive_int("num_classes", num_classes)
    cost = np.asarray(prices)
    if cost.ndim == 1:
        cost = np.broadcast_to(cost, (len(found), *cost.shape))
    if cost.shape not in (found.shape, (*found.shape, classes)):
        raise CertificateError(
            f"prices: got shape {np.shape(prices)}, expected {found.shape[1:]}, {found.shape} or "
            f"{(*found.shape, classes)}"
        )
    result, size = np.empty(len(found)), max(1, BLOCK // found.shape[1])
    for start in range(0, len(found), size):
        rows = slice(start, start + size)
        result[rows] = _overturning_price(found[rows], _checked_prices(cost[rows]), classes)
    return result


def _overturning_price(votes: npt.NDArray[np.integer], prices: FloatArray, classes: int) -> FloatArray:
    """K of some samples."""
    counts = count_votes(votes, classes)
    needed, predicted = needed_gains(counts), counts.argmax(axis=1)
    for_a, leave, best = votes == predicted[:, None], None, np.full(len(votes), np.inf)
    into = np.moveaxis(prices, 2, 0).copy() if prices.ndim == 3 else np.broadcast_to(prices, (classes, *votes.shape))
    if prices.ndim == 3:
        np.put_along_axis(into, votes[None].astype(np.int64), np.inf, axis=0)
        leave = into.min(axis=0)  # the cheapest price of each vote for another class
        away = np.where(for_a & np.isfinite(leave), np.inf, 0.0)
    for b in range(classes):
        other = predicted != b
        need = np.where(other, needed[:, b], 0)
        most = int(need.max(initial=0))
        if leave is None:
            offers = _offers(for_a, votes == b, into[b], most)
        else:
            offers = _offers_by_class(away, into[b], leave, most)
        best = np.where(other, np.minimum(best, _cheapest(need, offers, best)), best)
    return _rounded_down(best, prices)


@dataclass(frozen=True)
class _Offers:
    """What can be bought for one class b: arrays (n, ...), inf where there is nothing."""

    doubles: FloatArray
    """(n, G): price of a gain of 2 from each group."""
    halves: FloatArray | None
    """(n, G): price of a gain of only 1 from it instead, more than half; None: the same price."""
    singles: FloatArray
    """Prices of a gain of 1, rising, as many as can be needed."""


def _offers(for_a: BoolArray, for_b: BoolArray, price: FloatArray, most: int) -> _Offers:
    """Prices (n, G) that are the same for all classes; `most`: gains that are needed at most."""
    singles = np.sort(np.where(for_a | for_b, np.inf, price), axis=1)
    return _Offers(np.where(for_a, price, np.inf), None, singles[:, :most])


def _offers_by_class(away: FloatArray, into: FloatArray, leave: FloatArray, most: int) -> _Offers:
    """Prices by class (n, G): `into` of turning a vote to b, inf if it is for b, and `leave` of turning it to anything;
    `away`: inf for the votes for A that have any price, 0 for others; `most`: gains that are needed at most.

    A voter of A with into >= 2 leave is two gains of 1, for `leave` and then for `into - leave`: the order of rising
    prices buys them in this order.
    """
    for_a = away > 0
    split = for_a & (into >= 2 * leave)
    with np.errstate(invalid="ignore"):  # inf - inf where nothing is split
        rest = np.where(split, into - leave, np.inf)
    singles = np.concatenate([np.where(split, leave, into + away), rest], axis=1)
    singles.sort(axis=1)
    return _Offers(np.where(for_a & ~split, into, np.inf), leave, singles[:, :most])


def _cheapest(need: IntArray, offers: _Offers, known: FloatArray) -> FloatArray:
    """Least price of gains that sum to `need` (n,) or more, if it is below `known` (n,); inf if there are none.

    Of j doubles the cheapest are best, and of the singles beside them the cheapest need - 2 j. At most one double is
    worth taking as a half: of two, one could be taken whole for less. A half beside j doubles costs at least half of the
    next double, which says where halves are worth a look.
    """
    pairs = min(offers.doubles.shape[1], (int(need.max(initial=0)) + 1) // 2)
    doubles, ones = np.sort(offers.doubles, axis=1)[:, :pairs], _sums(offers.singles)
    twos, left = _sums(doubles), need[:, None] - 2 * np.arange(pairs + 1)
    best: FloatArray = (twos + _of(ones, left)).min(axis=1)
    if offers.halves is None or not pairs:
        return best
    beside = _of(ones, left[:, :-1] - 1)
    at_least = (twos[:, :-1] + doubles / 2 + beside).min(axis=1)
    rows = np.flatnonzero(at_least < np.minimum(best, known))
    with_half = _with_half(offers.doubles[rows], offers.halves[rows], twos[rows])
    best[rows] = np.minimum(best[rows], (with_half + beside[rows]).min(axis=1, initial=np.inf))
    return best


def _with_half(doubles: FloatArray, halves: FloatArray, twos: FloatArray) -> FloatArray:
    """Least price of j = 0, 1, .. doubles and one half, given the sums of the cheapest j (n, pairs + 1): (n, pairs).

    The half is that of a later double, or of one before, in the order of rising prices.
    """
    order, pairs = np.argsort(doubles, axis=1), twos.shape[1] - 1
    doubles, halves = (np.take_along_axis(values, order, axis=1) for values in (doubles, halves))
    halves = np.where(np.isfinite(doubles), halves, np.inf)
    later = np.minimum.accumulate(halves[:, ::-1], axis=1)[:, ::-1]
    saved = np.subtract(halves, doubles, out=np.zeros_like(halves), where=np.isfinite(doubles))
    before = np.minimum.accumulate(saved, axis=1)
    return np.minimum(twos[:, :-1] + later[:, :pairs], twos[:, 1:] + before[:, :pairs])


def _of(sums: FloatArray, wanted: IntArray) -> FloatArray:
    """The sums (n, k + 1) of so many values (n, j); 0 of less than none, inf of more than there are."""
    most = sums.shape[1] - 1
    found: FloatArray = sums.ravel().take(np.clip(wanted, 0, most) + np.arange(len(sums))[:, None] * (most + 1))
    return np.where(wanted > most, np.inf, found)


def _sums(values: FloatArray) -> FloatArray:
    """Sums of the first 0, 1, .. of the values (n, k): (n, k + 1)."""
    sums = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _checked_prices(prices: npt.NDArray[np.generic]) -> FloatArray:
    """As float64; CertificateError unless all are 0 or more."""
    cost = prices.astype(np.float64)
    if not (cost >= 0).all():
        raise CertificateError(f"prices: got {cost[~(cost >= 0)].flat[0]}, expected numbers of 0 or more, or inf")
    return cost


def _rounded_down(best: FloatArray, prices: FloatArray) -> FloatArray:
    """The totals, less their rounding errors if the prices are not whole or too large."""
    each = prices.reshape(len(prices), -1)
    each = np.where(np.isfinite(each), each, 0.0)
    exact = (each == np.floor(each)).all(axis=1) & (each.sum(axis=1) < EXACT)
    return np.where(exact, best, best * (1 - 8 * prices.shape[1] * np.finfo(np.float64).eps))

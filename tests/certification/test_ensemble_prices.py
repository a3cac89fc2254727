"""Priced votes: exact against every change of every vote; limits, monotony, rounding, and the time that they take."""

import itertools
import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfl.certification.ensembles.plurality import count_votes, max_changed_votes, plurality
from crfl.certification.ensembles.prices import overturning_price
from crfl.errors import CertificateError


def cheapest(votes, prices, classes):
    """The least total price after which another class wins, by trying all votes; `prices` (G, C)."""
    before = max(range(classes), key=lambda c: (list(votes).count(c), -c))
    best = math.inf
    for new in itertools.product(range(classes), repeat=len(votes)):
        if max(range(classes), key=lambda c: (new.count(c), -c)) != before:
            best = min(best, sum(p[b] for p, a, b in zip(prices, votes, new, strict=True) if a != b))
    return best


def random_case(rng, groups, classes):
    """Votes (G,) with or without a clear winner, prices (G, C) with or without gaps and spread."""
    votes = rng.integers(0, classes, groups)
    if rng.random() < 0.5:
        votes[rng.random(groups) < 0.6] = votes[0]
    prices = rng.integers(rng.integers(0, 2), rng.integers(2, 9), (groups, classes)).astype(float)
    prices[rng.random((groups, classes)) < rng.choice([0.0, 0.3])] = np.inf
    return votes, prices


SIZES = [(1, 2), (2, 3), (3, 4), (4, 3), (5, 3), (6, 2), (4, 4), (7, 2), (6, 3)]


@pytest.mark.parametrize(("groups", "classes"), SIZES)
def test_exact(groups, classes):
    """One price for each group, or one for each group and class."""
    rng = np.random.default_rng([groups, classes])
    for _ in range(40 if classes**groups < 300 else 15):
        votes, prices = random_case(rng, groups, classes)
        assert overturning_price([votes], prices[None], classes) == cheapest(votes, prices, classes)
        same = np.repeat(prices[:, :1], classes, axis=1)
        assert overturning_price([votes], prices[:, 0], classes) == cheapest(votes, same, classes)


def test_real_prices_are_never_above_the_exact_sum():
    rng = np.random.default_rng(0)
    for _ in range(60):
        votes, prices = rng.integers(0, 3, 5), rng.exponential(size=(5, 3)) * 10.0 ** rng.integers(-9, 9, (5, 3))
        exact = cheapest(votes, [[Fraction(p) for p in row] for row in prices.tolist()], 3)
        found = overturning_price([votes], prices[None], 3)[0]
        assert Fraction(found) <= exact
        assert found == pytest.approx(float(exact), rel=1e-13)


votes_and_prices = st.integers(2, 5).flatmap(
    lambda c: st.lists(
        st.tuples(st.integers(0, c - 1), st.lists(st.integers(1, 9), min_size=c, max_size=c)), min_size=1, max_size=30
    )
)


@settings(max_examples=200)
@given(votes_and_prices, st.randoms(use_true_random=False))
def test_never_below_plain_votes_and_rising_with_every_price(groups, random):
    votes, prices = [g[0] for g in groups], np.array([g[1] for g in groups], dtype=float)
    classes = prices.shape[1]
    plain = max_changed_votes(count_votes([votes], classes))[0]
    assert overturning_price([votes], np.ones(len(votes)), classes)[0] == plain + 1
    found = overturning_price([votes], prices[None], classes)[0]
    # Cheaper: every vote at its least price; dearer: one price raised.
    assert plain + 1 <= overturning_price([votes], prices.min(axis=1), classes)[0] <= found
    prices[random.randrange(len(votes)), random.randrange(classes)] += random.choice([1, 7, math.inf])
    assert overturning_price([votes], prices[None], classes)[0] >= found


def test_prices_of_one_class_only():
    """Towards class 1 votes are cheap, towards class 2 dear: the cheap way decides, whatever the others cost."""
    prices = np.full((1, 9, 3), 50.0)
    prices[..., 1] = 2
    # 7 of 9 vote for 0: class 1 gains 2 for each of four votes.
    assert overturning_price([[0] * 7 + [2, 2]], prices, 3) == 8
    assert overturning_price([[0] * 7 + [1, 2]], prices, 3) == 8  # three votes from 0, and the 2 if not another 0
    assert overturning_price([[0] * 7 + [1, 1]], prices, 3) == 6


def test_a_vote_may_only_leave():
    """To leave A for a third class is cheap, to join B is not: votes that only leave count once."""
    prices = np.empty((1, 5, 3))
    prices[...] = [np.inf, 10, 1]
    votes = [[0, 0, 0, 1, 1]]  # a vote from 0 to 2 makes 0 and 1 tie: 0 wins; two, and 1 wins
    assert overturning_price(votes, prices, 3) == 2
    prices[..., 2] = 6
    assert overturning_price(votes, prices, 3) == 10


def test_limits():
    votes = [[1, 1, 1, 0, 2]]
    assert overturning_price(votes, np.full(5, np.inf), 3) == np.inf
    assert overturning_price(votes, np.zeros(5), 3) == 0
    assert overturning_price(votes, [np.inf, np.inf, np.inf, 1, 1], 3) == np.inf  # the others alone cannot win
    assert overturning_price(votes, [np.inf, np.inf, 4, 1, 1], 3) == 4  # 2 : 2 : 1 and 0 wins
    assert overturning_price([[0, 0]], [3, 5], 2) == 8
    assert overturning_price([[1, 1]], [3, 5], 2) == 3
    assert overturning_price(np.zeros((0, 4), dtype=int), np.ones(4), 2).shape == (0,)


def test_prices_of_all_shapes_and_many_blocks_agree():
    rng = np.random.default_rng(1)
    votes, prices = rng.integers(0, 4, (1300, 11)), rng.integers(1, 6, 11)
    expected = overturning_price(votes, prices, 4)
    for other in (np.broadcast_to(prices, (1300, 11)), np.broadcast_to(prices[:, None], (1300, 11, 4))):
        np.testing.assert_array_equal(overturning_price(votes, other, 4), expected)
    np.testing.assert_array_equal(
        np.concatenate([overturning_price(row[None], prices, 4) for row in votes[::100]]), expected[::100]
    )


def test_wrong_prices_are_errors():
    for prices, word in (([1, -1], "-1"), ([1, np.nan], "nan"), ([1, 1, 1], "shape"), ([[[1, 1]] * 2], "shape")):
        with pytest.raises(CertificateError, match=f"prices.*{word}"):
            overturning_price([[0, 1]], prices, 3)
    with pytest.raises(CertificateError, match="votes"):
        overturning_price([[0, 3]], [1, 1], 3)


def test_large_problems_take_seconds():
    """10,000 samples, 400 groups, 10 classes: about a second for a price a group, three for prices of each class."""
    rng = np.random.default_rng(2)
    votes = np.where(rng.random((10_000, 400)) < 0.7, rng.integers(0, 10, 10_000)[:, None], rng.integers(0, 10, 400))
    start = time.process_time()
    found = overturning_price(votes, rng.integers(1, 9, 400), 10)
    assert time.process_time() - start < 10
    assert (found > max_changed_votes(count_votes(votes, 10))).all()


def attack_within(votes, spend, prices, classes, rng):
    """Votes after random changes that cost at most `spend` together."""
    new, left = list(votes), spend
    for g in rng.permutation(len(votes)):
        c = rng.integers(classes)
        if c != new[g] and prices[g, c] <= left and rng.random() < 0.8:
            new[g], left = c, left - prices[g, c]
    return new


def test_no_attack_that_spends_less_wins():
    rng = np.random.default_rng(3)
    for _ in range(30):
        votes, prices = rng.integers(0, 3, 15), rng.integers(1, 9, (15, 3))
        votes[:7] = 0
        price = overturning_price([votes], prices[None], 3)[0]
        trials = [attack_within(votes, price - 1, prices, 3, rng) for _ in range(200)]
        assert (plurality(count_votes(trials, 3)) == plurality(count_votes([votes], 3))).all()

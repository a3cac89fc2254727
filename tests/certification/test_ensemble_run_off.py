"""The run-off election against every change of every model."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfl.certification.ensembles.plurality import count_votes, max_changed_votes
from crfl.certification.ensembles.run_off import run_off_price, run_off_winner
from crfl.errors import CertificateError


def elect(rankings, classes):
    """The election as the paper tells it, of models that rank the classes from best to worst."""
    first = [ranking[0] for ranking in rankings]
    one, other = sorted(range(classes), key=lambda c: (-first.count(c), c))[:2]
    for_one = sum(ranking.index(one) < ranking.index(other) for ranking in rankings)
    ahead = for_one - (len(rankings) - for_one)
    return min(one, other) if ahead == 0 else one if ahead > 0 else other


def fewest_changes(rankings, classes):
    """The smallest number of models whose change lets another class win, by trying all rankings of all subsets."""
    before, every = elect(rankings, classes), list(itertools.permutations(range(classes)))
    for changed in range(1, len(rankings) + 1):
        for models in itertools.combinations(range(len(rankings)), changed):
            kept = [r for i, r in enumerate(rankings) if i not in models]
            for new in itertools.combinations_with_replacement(every, changed):
                if elect([*kept, *new], classes) != before:
                    return changed
    raise AssertionError("another class always wins if every model changes")


def as_logits(rankings, classes):
    logits = np.empty((1, len(rankings), classes))
    for model, ranking in enumerate(rankings):
        logits[0, model, list(ranking)] = -np.arange(classes)
    return logits


@pytest.mark.parametrize(("groups", "classes"), [(1, 2), (4, 2), (1, 3), (2, 3), (3, 3), (4, 3), (5, 3)])
def test_exact_for_all_votes(groups, classes):
    """The order of the models does not matter: one case for each way to rank."""
    for rankings in itertools.combinations_with_replacement(itertools.permutations(range(classes)), groups):
        logits = as_logits(rankings, classes)
        assert run_off_winner(logits).tolist() == [elect(rankings, classes)]
        assert run_off_price(logits).tolist() == [fewest_changes(rankings, classes)], rankings


@settings(max_examples=30)
@given(st.lists(st.permutations(range(4)), min_size=3, max_size=6))
def test_exact_for_four_classes(rankings):
    logits = as_logits(rankings, 4)
    assert run_off_winner(logits).tolist() == [elect([list(r) for r in rankings], 4)]
    assert run_off_price(logits).tolist() == [fewest_changes(rankings, 4)]


def test_two_classes_are_a_plain_vote():
    logits = np.random.default_rng(0).integers(0, 3, (200, 9, 2))
    counts = count_votes(logits.argmax(axis=2), 2)
    assert (run_off_winner(logits) == counts.argmax(axis=1)).all()
    assert (run_off_price(logits) - 1 == max_changed_votes(counts)).all()


@given(st.integers(0, 2**32 - 1))
def test_no_change_of_fewer_models_wins(seed):
    """Many models: random changes of K - 1 of them, towards the rivals that are nearest."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(8, 15, 5)) + np.array([2.0, 1, 1, 0, 0]) * random.random((8, 1, 5))
    winner, price = run_off_winner(logits), run_off_price(logits)
    for i, (label, cost) in enumerate(zip(winner, price, strict=True)):
        for _ in range(20):
            after = logits[i].copy()
            after[random.permutation(15)[: cost - 1]] = random.permutation(5) * (np.arange(5) != label)
            assert run_off_winner(after[None]) == label


def test_errors():
    assert run_off_price(np.zeros((0, 3, 4))).shape == (0,)
    for logits in (np.zeros((2, 3)), np.zeros((2, 0, 3)), np.zeros((2, 3, 1)), np.full((1, 2, 3), np.nan)):
        with pytest.raises(CertificateError, match="logits"):
            run_off_price(logits)

"""Plain votes of disjoint groups, against every change of every vote."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfl.certification.ensembles.plurality import count_votes, max_changed_votes, plurality
from crfl.errors import CertificateError


def winner(votes, classes):
    """The class with the most votes, the smallest on a tie."""
    return max(range(classes), key=lambda c: (list(votes).count(c), -c))


def fewest_changes(votes, classes):
    """The smallest number of changed votes after which another class wins, by trying all votes."""
    before = winner(votes, classes)
    others = (new for new in itertools.product(range(classes), repeat=len(votes)) if winner(new, classes) != before)
    return min(sum(a != b for a, b in zip(votes, new, strict=True)) for new in others)


@pytest.mark.parametrize(("groups", "classes"), [(1, 2), (1, 4), (2, 3), (4, 3), (5, 2), (5, 3), (4, 4)])
def test_exact_for_all_votes(groups, classes):
    votes = np.array(list(itertools.product(range(classes), repeat=groups)))
    counts = count_votes(votes, classes)
    assert plurality(counts).tolist() == [winner(row, classes) for row in votes]
    # The order of the votes does not matter: one row for each way to count them.
    _, rows = np.unique(counts, axis=0, return_index=True)
    found = max_changed_votes(counts[rows])
    assert found.tolist() == [fewest_changes(row.tolist(), classes) - 1 for row in votes[rows]]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(0, 59), st.integers(0, 6))
def test_a_changed_vote_costs_one_at_most(votes, place, label):
    """Certified numbers of the ensemble before and after one vote changed differ by one at most, if it still wins."""
    after = list(votes)
    after[place % len(votes)] = label
    counts = count_votes([votes, after], 7)
    one, other = max_changed_votes(counts)
    if plurality(counts)[0] == plurality(counts)[1]:
        assert abs(one - other) <= 1
    else:
        assert one == other == 0


def test_unanimous_votes_stand_half():
    """An even number stands half its votes if the tie is its own."""
    assert max_changed_votes([[9, 0], [0, 9]]).tolist() == [4, 4]
    assert max_changed_votes([[10, 0], [0, 10]]).tolist() == [5, 4]


def test_edges():
    assert count_votes(np.zeros((0, 3), dtype=int), 2).shape == (0, 2)
    assert max_changed_votes(np.zeros((0, 2), dtype=int)).shape == (0,)
    for votes in ([[0, 3]], [[0, -1]], [[0.0, 1.0]], [0, 1], np.zeros((3, 0), dtype=int)):
        with pytest.raises(CertificateError, match="votes"):
            count_votes(votes, 3)
    with pytest.raises(CertificateError, match="counts"):
        max_changed_votes([[3, 1], [2, 1]])

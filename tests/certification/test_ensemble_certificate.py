"""Certificates of ensembles: every attack on small ones, and what they say of themselves."""

import itertools

import numpy as np
import pytest

from crfl.certification.certificate import Guarantee
from crfl.certification.ensembles.certificate import count_grid
from crfl.certification.ensembles.certify import certify_disjoint, certify_poison, certify_random
from crfl.certification.ensembles.plurality import count_votes, max_changed_votes, needed_gains, plurality
from crfl.errors import CertificateError
from crfl.groups import deal_clients

MARGINS = Guarantee("margins", ("the model is linear",), rounding="modelled")


def group_votes(opinions, dealt, classes):
    """A world where clients have opinions (runs, N) and a group votes for that of most of its clients: (runs, G)."""
    groups = [opinions[:, dealt == g] for g in range(dealt.max() + 1)]
    return np.stack([plurality(count_votes(own, classes)) for own in groups], axis=1)


@pytest.mark.parametrize(("clients", "groups", "classes"), [(9, 3, 2), (10, 4, 2), (11, 3, 2), (8, 3, 3), (7, 5, 3)])
def test_every_attack(clients, groups, classes):
    """All runs: certified numbers stand, those of two classes are exact, and prices never cost."""
    runs = np.array(list(itertools.product(range(classes), repeat=clients)))
    dealt = deal_clients([f"client {i}" for i in range(clients)], groups, seed=4)
    votes = group_votes(runs, dealt, classes)
    predictions = plurality(count_votes(votes, classes))
    for run in np.random.default_rng(0).choice(len(runs), 60, replace=False):
        # Fewest malicious clients in whom a run of another prediction differs.
        needed = (runs[predictions != predictions[run]] != runs[run]).sum(axis=1).min()
        own = [count_votes(runs[run, dealt == g][None], classes) for g in range(groups)]
        single = np.array([max_changed_votes(counts)[0] + 1 for counts in own])
        each = np.stack([-(-np.minimum(needed_gains(counts)[0], 99) // 2) for counts in own])
        plain, priced, by_class = (
            certify_disjoint(votes[run][None], classes, num_clients=clients, prices=p, group_guarantee=MARGINS)
            for p in (None, single, each[None])
        )
        found = [c.malicious_clients[0] for c in (plain, priced, by_class)]
        assert found == sorted(found)
        assert found[-1] < needed
        if classes == 2:
            assert found[-1] == needed - 1


def test_spoiled_groups_of_a_drawn_ensemble():
    """Plain votes count groups, so they stand any clients of so many groups: all their opinions replaced."""
    rng = np.random.default_rng(1)
    dealt = deal_clients([f"client {i}" for i in range(60)], 15, seed=0)
    opinions = np.where(rng.random((40, 60)) < 0.6, 1, rng.integers(0, 3, (40, 60)))
    certificate = certify_disjoint(group_votes(opinions, dealt, 3), 3, num_clients=60)
    assert certificate.malicious_clients.max() > 3
    for _ in range(50):
        attacked = opinions.copy()
        for row, m in enumerate(certificate.malicious_clients):
            attacked[row, rng.permutation(60)[:m]] = rng.integers(0, 3)
        found = plurality(count_votes(group_votes(attacked, dealt, 3), 3))
        np.testing.assert_array_equal(found, certificate.prediction)


def test_poison_is_certified_strictly_below_the_price():
    votes = [[0, 0, 1]] * 4
    prices = np.array([[3.0, 9, 1], [3.5, 9, 1], [np.inf, np.inf, 1], [0, 9, 1]])
    found = certify_poison(votes, 2, prices=prices, num_samples=50, group_guarantee=MARGINS)
    assert found.poisoned_samples.tolist() == [2, 3, 50, 0]
    assert found.abstained.tolist() == [False, False, False, True]
    assert found.certified_accuracy([0, 0, 0, 0], [0, 1, 3, 4, 51]).tolist() == [0.75, 0.75, 0.5, 0.25, 0]


def test_all_clients_are_the_most_that_is_certified():
    found = certify_disjoint([[0, 0, 1]], 2, num_clients=7, prices=[np.inf] * 3, group_guarantee=MARGINS)
    assert found.malicious_clients.tolist() == [7]


def test_certified_accuracy_and_rate_by_count():
    votes = [[0] * 5, [1] * 5, [0, 0, 0, 1, 1], [2, 2, 2, 2, 1]]
    found = certify_disjoint(votes, 3, num_clients=20, indices=[3, 5, 6, 9], test_size=10)
    assert found.malicious_clients.tolist() == [2, 2, 0, 1]
    labels = np.zeros(10, dtype=int)
    grid = count_grid(found)
    assert grid.tolist() == [0, 1, 2, 3]
    assert found.certified_accuracy(labels, grid).tolist() == [0.5, 0.25, 0.25, 0]
    assert found.certified_accuracy([0, 1, 0, 0], grid).tolist() == [0.75, 0.5, 0.5, 0]
    assert found.certified_rate(grid).tolist() == [1, 0.75, 0.5, 0]
    frame = found.to_frame()
    assert frame["index"].tolist() == [3, 5, 6, 9]
    assert frame["votes"].tolist() == [5, 5, 3, 4]
    assert frame["runner_up_votes"].tolist() == [0, 0, 2, 1]


def test_random_groups_abstain_where_they_do_not_decide():
    votes = np.repeat([[0, 0, 0, 1], [2, 2, 2, 2]], 50, axis=1)
    found = certify_random(votes, 3, num_clients=100, clients_per_group=5, alpha=0.01)
    assert found.prediction.tolist() == [0, 2]
    assert found.malicious_clients.tolist()[0] < found.malicious_clients.tolist()[1]
    undecided = certify_random(votes[:, ::50], 3, num_clients=100, clients_per_group=5, alpha=0.01)
    assert undecided.abstained.tolist() == [True, True]
    assert undecided.certified_accuracy([0, 2], 0) == 0
    together = certify_random(votes, 3, num_clients=100, clients_per_group=5, alpha=0.01, simultaneous=True)
    assert (together.bounds.p_a < found.bounds.p_a).all()
    assert together.guarantee.alpha == 0.005
    assert {"p_a", "p_b"} <= set(found.to_frame())


def test_it_says_what_it_rests_on():
    plain = certify_disjoint([[0, 0, 1]], 2, num_clients=9)
    assert plain.guarantee.holds
    assert plain.guarantee.rounding == "proved"
    assert plain.guarantee.alpha == 0
    assert not any("model is linear" in text for text in plain.assumptions)
    priced = certify_disjoint([[0, 0, 1]], 2, num_clients=9, prices=[2, 2, 2], group_guarantee=MARGINS)
    assert priced.guarantee.rounding == "modelled"
    assert "within each group: the model is linear" in priced.assumptions
    broken = Guarantee("margins", (), broken=("a client was dropped",))
    assert (
        "a client was dropped"
        in certify_disjoint([[0, 0, 1]], 2, num_clients=9, prices=[2, 2, 2], group_guarantee=broken).warnings
    )


def test_it_is_shown_in_ten_lines_and_compared_by_content():
    votes = np.zeros((3, 5), dtype=int)
    plain = certify_disjoint(votes, 2, num_clients=9)
    random = certify_random(votes, 2, num_clients=9, clients_per_group=2)
    poison = certify_poison(votes, 2, prices=np.ones(5), num_samples=9, group_guarantee=MARGINS)
    for certificate in (plain, random, poison):
        assert len(repr(certificate).splitlines()) <= 10
        assert "5 groups" in certificate.summary()
        assert "<table>" in certificate._repr_html_()
        assert certificate != votes
        assert isinstance(certificate == plain, bool)
    assert plain == certify_disjoint(votes, 2, num_clients=9)
    assert plain != certify_disjoint(votes, 2, num_clients=10)


def test_no_samples():
    found = certify_disjoint(np.zeros((0, 5), dtype=int), 2, num_clients=9)
    assert found.malicious_clients.shape == (0,)
    assert count_grid(found).tolist() == [0, 1]
    assert len(found.summary().splitlines()) <= 10


def test_wrong_arguments_are_errors():
    for prices in ([1, 1, 0], [1, 1, 1.5], [1, 1, np.nan]):
        with pytest.raises(CertificateError, match="prices: got"):
            certify_disjoint([[0, 0, 1]], 2, num_clients=9, prices=prices, group_guarantee=MARGINS)
    with pytest.raises(CertificateError, match="group_guarantee: got none"):
        certify_disjoint([[0, 0, 1]], 2, num_clients=9, prices=[1, 1, 1])
    sampled = Guarantee("votes", (), alpha=0.01)
    with pytest.raises(CertificateError, match="group_guarantee: got one of alpha"):
        certify_disjoint([[0, 0, 1]], 2, num_clients=9, prices=[1, 1, 1], group_guarantee=sampled)
    with pytest.raises(CertificateError, match="indices"):
        certify_disjoint([[0, 0, 1]], 2, num_clients=9, indices=[4], test_size=4)

"""What an ensemble certifies stands against attacks."""

import itertools

import numpy as np
import pytest
import torch

import crfl
from crfl.attack.malicious import MALICIOUS
from crfl.run_batch import RunBatch
from tests.ensemble.federations import CLASSES, CLIENTS, FEATURES, federation, settings, under_attack


def towards(target):
    """Model replacement: what makes the mean the model that predicts the target whatever it sees."""

    def update(own, model, generator):
        wanted = torch.zeros_like(own)
        wanted[CLASSES * FEATURES + target] = 50.0
        return CLIENTS * (wanted - model)

    return update


def against(own, model, generator):
    """A few honest updates backwards, all attackers alike."""
    return -3 * own


ATTACKS = {
    **{f"towards {c}": {"update": f"towards {c}"} for c in range(CLASSES)},
    "against": {"update": "against"},
    "sign_flip": {"update": "sign_flip", "scale": 1e6},
    "nan": {"update": "nan"},
    "labels": {"update": None, "scale": 20.0, "poisoned_per_batch": 4, "target": 1, "trigger": []},
}


@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
def test_no_attack_breaks_a_certified_prediction(monkeypatch):
    """m clients, in every choice of m groups, attack in every round; one more than certified does break some."""
    for c in range(CLASSES):
        monkeypatch.setitem(MALICIOUS, f"towards {c}", towards(c))
    monkeypatch.setitem(MALICIOUS, "against", against)
    data = federation(seed=2)
    exp = settings(data, server__rounds=3)
    ensemble = crfl.train_ensemble(exp, data, groups=6)
    certificate = crfl.certify(ensemble, data)
    assert certificate.kind == "ensemble"
    assert certificate.num_groups == 6
    np.testing.assert_array_equal(certificate.prediction, ensemble.predict(data.test))
    counts = certificate.malicious_clients
    assert {0, 1, 2} <= set(counts.tolist())
    broken = np.full(len(counts), 99)  # fewest attackers that were seen to change each prediction
    for m in (1, 2, 3):
        for spoiled in list(itertools.combinations(range(6), m))[:: m - m % 2 or 1]:
            attackers = [int(ensemble.groups[g][m % 2]) for g in spoiled]
            for attack in ATTACKS.values():
                changed = under_attack(exp, data, 6, attackers, attack) != certificate.prediction
                broken[changed] = np.minimum(broken[changed], m)
    assert (broken > counts).all()
    assert (broken[counts < 3] == counts[counts < 3] + 1).mean() > 0.9  # the attacks are no straw men


def shares_of(exp, data, groups):
    """Share of the groups that vote for each class, and the class of most votes."""
    batch = RunBatch.of([exp] * len(groups), data, groups=groups)
    *_, last = batch.rounds(batch.start())
    votes = batch.finish_ensemble(last).votes(data.test)
    shares = np.stack([(votes == c).mean(axis=1) for c in range(CLASSES)], axis=1)
    return shares, shares.argmax(axis=1)


def test_random_groups_against_all_groups():
    """All 35 groups of 3 of 7 clients are trained, so the ideal vote is known, with and without an attack."""
    data = federation(seed=3, sizes=(12,) * 7)
    exp = settings(data, server__rounds=3)
    every = [np.array(group) for group in itertools.combinations(range(7), 3)]
    shares, ideal = shares_of(exp, data, every)
    drawn = crfl.train_ensemble(exp, data, groups=400, disjoint=False, clients_per_group=3)
    found = crfl.certify(drawn, data)
    sure = ~found.abstained
    assert 0.5 < sure.mean() < 1
    assert found.guarantee.alpha == exp.smoothing.alpha
    assert (found.bounds.p_a <= np.take_along_axis(shares, found.prediction[:, None], 1)[:, 0]).all()
    np.testing.assert_array_equal(found.prediction[sure], ideal[sure])
    stands = found.malicious_clients >= 1
    assert stands.sum() > 5
    for attacker in range(7):
        hostile = {"attack.round": 1, "attack.every": 1, "attack.clients": [attacker], "attack.trigger": []}
        hostile |= {"attack.update": "sign_flip", "attack.scale": 50.0}
        _, attacked = shares_of(exp.override(hostile), data, every)
        np.testing.assert_array_equal(found.prediction[stands], attacked[stands])

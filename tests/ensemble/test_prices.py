"""Votes that are priced by the certificates of their groups."""

import itertools
import warnings

import numpy as np
import pytest
import torch

import crfl
from crfl.attack.malicious import MALICIOUS
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.ensembles.group_prices import client_prices, poisoned_record
from crfl.certification.ensembles.prices import overturning_price
from tests.ensemble.federations import CLASSES, federation, settings, under_attack


def ball(sizes, seed=4):
    """A federation whose samples, clean and poisoned, lie in the unit ball."""
    data = federation(seed=seed, sizes=sizes)
    x = [v / torch.linalg.vector_norm(v, dim=1, keepdim=True) for v in (data.x, data.test.x)]
    rows = [shard.numpy() for shard in data.shards]
    return crfl.FederatedData.from_arrays(x[0], data.y, x[1], data.test.y, shards=rows, norm=1.0)


def steady(data, **changes):
    """Settings whose runs forget: decay of the server, short steps."""
    values = {
        "model__bias": False,
        "local__batch_size": 6,
        "local__learning_rate": 3.0,
        "local__schedule": "inverse",
        "server__rounds": 20,
        "server__decay": 0.3,
        "server__noise": 0.0,
        "server__clip": {"start": float("inf")},
    }
    return settings(data, **values | changes)


@pytest.fixture(scope="module")
def steady_ensemble():
    data = ball((6,) * 90)
    exp = steady(data, server__update_clip={"start": 0.4, "end": 0.4})
    return data, exp, crfl.train_ensemble(exp, data, groups=3)


def test_prices_in_clients(steady_ensemble, monkeypatch):
    """Large groups withstand some clients, so that more may be malicious; attacked with all of them in few groups."""
    data, exp, ensemble = steady_ensemble
    plain, priced = (crfl.certify(ensemble, data, prices=p) for p in (None, "clients"))
    np.testing.assert_array_equal(plain.prediction, priced.prediction)
    assert (priced.malicious_clients >= plain.malicious_clients).all()
    assert (priced.malicious_clients > plain.malicious_clients).mean() > 0.5
    assert any(text.startswith("within each group") for text in priced.assumptions)

    def steered(own, model, generator):
        return 1e3 * torch.sign(own.view(CLASSES, -1).roll(1, 0)).flatten()

    monkeypatch.setitem(MALICIOUS, "steered", steered)
    for m in sorted(set(priced.malicious_clients.tolist()))[1::2]:
        for spread in ((m, 0, 0), (0, m // 2, m - m // 2)):
            attackers = [int(c) for g, k in enumerate(spread) for c in ensemble.groups[g][:k]]
            for update in ("sign_flip", "steered", "nan"):
                attack = {"update": update, "scale": 100.0}
                with pytest.warns() if update == "nan" else warnings.catch_warnings():
                    found = under_attack(exp, data, 3, attackers, attack)
                stands = priced.malicious_clients >= m
                np.testing.assert_array_equal(found[stands], priced.prediction[stands])


def test_prices_by_class(steady_ensemble):
    """The cheapest class costs what the group's own certificate says, the others no less; so the vote stands more."""
    data, _, ensemble = steady_ensemble
    least = []
    for group in range(3):
        run = ensemble.group_run(group)
        found = crfl.certify(run, data, kind="clients")
        prediction, price, _ = client_prices(run, data)
        np.testing.assert_array_equal(prediction, found.prediction)
        others = np.where(np.arange(CLASSES) == prediction[:, None], np.inf, price)
        np.testing.assert_array_equal(others.min(axis=1), found.malicious_clients + 1)
        assert (others.max(axis=1, where=np.isfinite(others), initial=0) > others.min(axis=1)).mean() > 0.5
        least.append(others.min(axis=1))
    by_class = crfl.certify(ensemble, data, prices="clients")
    by_group = overturning_price(ensemble.votes(data.test), np.stack(least, axis=1), CLASSES)
    assert (by_class.price >= by_group).all()


UNEVEN = tuple(range(3, 15)) * 3


@pytest.mark.parametrize("round_", [1, 10, 20])
@pytest.mark.parametrize(
    ("sizes", "changes"),
    [
        ((6,) * 30, {}),
        ((6,) * 30, {"server__update_clip": 0.02, "server__participation": 0.5}),
        (UNEVEN, {"local__keep_last_batch": True, "server__aggregation": "weighted_mean"}),
        (UNEVEN, {"local__keep_last_batch": True, "server__update_clip": 0.02, "local__epochs": 2}),
    ],
    ids=["alike", "clipped", "uneven", "uneven, clipped"],
)
def test_poison_anywhere_moves_a_model_no_further_than_its_price_says(sizes, changes, round_):
    """Delta for so many poisoned samples, against few clients full of poison and many with a little."""
    data = ball(sizes)
    exp = steady(data, **changes)
    clean = crfl.train(exp, data)
    rng, largest = np.random.default_rng(round_), 0.0
    for count in (1, 2, 8, 20):
        attackers = rng.permutation(len(sizes))[:count].tolist()
        each = rng.integers(1, 7, count).tolist()
        poison = {"attack.round": round_, "attack.clients": attackers, "attack.scale": 1.0, "attack.target": 2}
        poison |= {"attack.trigger": "full_image", "attack.magnitude": 50.0, "attack.poisoned_per_batch": 6}
        poison |= {"attack.per_attacker": [{"poisoned_per_batch": q} for q in each]}
        poisoned = crfl.train(exp.override(poison), data)
        batches = [-(-sizes[a] // 6) for a in attackers]
        samples = sum(min(q * b, sizes[a]) for q, b, a in zip(each, batches, attackers, strict=True))
        scenario = CoupledScenario(poisoned_record(clean.record, samples), before_clip=True, any_round=True)
        distance = float(torch.linalg.vector_norm(poisoned.params - clean.params))
        assert distance <= scenario.cost(np.inf)
        largest = max(largest, distance / scenario.cost(np.inf))
    assert largest > 0.01 or round_ < 20


def test_prices_in_poisoned_samples():
    data = ball((6,) * 90)
    exp = steady(data)
    ensemble = crfl.train_ensemble(exp, data, groups=3)
    certificate = crfl.certify(ensemble, data, prices="poison")
    assert certificate.kind == "ensemble"
    plain = crfl.certify(ensemble, data)
    np.testing.assert_array_equal(certificate.prediction, plain.prediction)
    assert (certificate.poisoned_samples >= plain.malicious_clients).all()
    assert np.median(certificate.poisoned_samples) > 50
    assert any("one round at most" in text for text in certificate.assumptions)
    for round_, groups in itertools.product((19, 20), ([0, 1], [1, 2])):
        attackers = [int(c) for g in groups for c in ensemble.groups[g][:10]]
        poison = {"round": round_, "every": None, "scale": 1.0, "poisoned_per_batch": 6, "target": round_ % 3}
        found = under_attack(exp, data, 3, attackers, poison | {"trigger": "full_image", "magnitude": 50.0})
        stands = certificate.poisoned_samples >= 6 * len(attackers)
        np.testing.assert_array_equal(found[stands], certificate.prediction[stands])


def test_a_group_without_a_certificate_costs_one(steady_ensemble):
    """Somebody in one group attacks, so nothing is known of its poison; its vote is counted as if any sample changed it."""
    data, exp, _ = steady_ensemble
    exp = exp.override({"attack.round": 5, "attack.clients": [0], "attack.trigger": [], "server.update_clip": None})
    certificate = crfl.certify(crfl.train_ensemble(exp, data, groups=3), data, prices="poison")
    assert (certificate.price >= 2).all()
    assert (certificate.price > 2).any()

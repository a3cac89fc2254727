"""Ensembles: groups train as if alone, to the last bit, and what is certified of their vote stands under attack."""

import itertools
import warnings

import numpy as np
import pytest
import torch

import crfl
from crfl.aggregation import AGGREGATORS
from crfl.attack.malicious import MALICIOUS
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.ensembles.group_prices import client_prices, poisoned_record
from crfl.certification.ensembles.prices import overturning_price
from crfl.config import Ensemble
from crfl.ensemble_run import choose_groups
from crfl.errors import CertificateError, DataError, SettingsError, StoreError
from crfl.run_batch import RunBatch
from tests.interrupted import interrupted, interrupting

CLIENTS, FEATURES, CLASSES = 12, 5, 3


def federation(seed=0, sizes=(12,) * CLIENTS, names=()):
    """Clients whose samples lie around one centre a class, and a test split."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, FEATURES))
    ys = [np.arange(n) % CLASSES for n in (*sizes, 60)]
    xs = [(centres[y] + 0.9 * rng.normal(size=(len(y), FEATURES))).astype("f4") for y in ys]
    rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    x, y = np.concatenate(xs[:-1]), np.concatenate(ys[:-1])
    return crfl.FederatedData.from_arrays(x, y, xs[-1], ys[-1], shards=rows, num_classes=CLASSES, client_names=names)


def settings(data, **changes):
    """Four clients a group can be heard by any rule; nobody attacks."""
    values = {
        "data.name": "custom",
        "data.clients": len(data.shards),
        "local.batch_size": 4,
        "local.learning_rate": 0.3,
        "server.rounds": 4,
        "server.noise": 0.01,
        "server.num_byzantine": 0,
        "attack.round": None,
    }
    return crfl.Experiment().override(values | {key.replace("__", "."): value for key, value in changes.items()})


def restricted(data, clients):
    """The federation of these clients alone."""
    names = [data.client_names[c] for c in clients]
    shards = [data.shards[c] for c in clients]
    return crfl.FederatedData.from_arrays(
        data.x, data.y, data.test.x, data.test.y, shards=shards, num_classes=CLASSES, client_names=names
    )


def seed_of_prefix(names, groups):
    """A seed under which the first clients are one group, so that they have the same numbers alone."""
    size = len(names) // groups
    for seed in range(10_000):
        dealt = choose_groups(names, Ensemble(groups=groups), seed)
        for number, clients in enumerate(dealt):
            if clients.tolist() == list(range(size)):
                return seed, number
    raise AssertionError("no such seed")


def module():
    """A network with one hidden layer."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(FEATURES, 6), torch.nn.Tanh(), torch.nn.Linear(6, CLASSES))


MODELS = {"softmax": lambda: None, "network": module}


@pytest.mark.parametrize("rule", sorted(AGGREGATORS))
@pytest.mark.parametrize("model", MODELS)
def test_a_group_trains_as_if_alone(model, rule):
    """Bit for bit, with every rule: the group's model, and the record of its rounds."""
    data = federation()
    seed, number = seed_of_prefix(data.client_names, 3)
    exp = settings(data, seed=seed, server__aggregation=rule, server__participation=0.75, server__update_clip=2.0)
    ensemble = crfl.train_ensemble(exp, data, groups=3, model=MODELS[model]())
    alone = crfl.train(exp.override({"data.clients": 4}), restricted(data, range(4)), model=MODELS[model]())
    assert torch.equal(ensemble.params[number], alone.params)
    assert ensemble.record(number).rounds == alone.record.rounds
    assert ensemble.record(number).client_names == alone.record.client_names
    np.testing.assert_array_equal(ensemble.group_run(number).predict(data.test.x), alone.predict(data.test.x))


@pytest.mark.parametrize(
    "changes",
    [
        {"local__keep_last_batch": True, "local__epochs": 2},
        {"local__schedule": "inverse", "server__decay": 0.1, "server__clip": {"start": 3.0}},
        {
            "attack__round": 2,
            "attack__every": 1,
            "attack__clients": 3,
            "attack__scale": "replace",
            "attack__trigger": "full_image",
        },
    ],
    ids=["uneven batches", "decay", "attack"],
)
@pytest.mark.parametrize("disjoint", [True, False])
def test_engines_agree(changes, disjoint):
    data = federation(sizes=(5, 9, 13, 4, 6, 12, 8, 4, 11, 7, 5, 10))
    exp = settings(data, **changes)
    how = {"groups": 3} if disjoint else {"groups": 4, "disjoint": False, "clients_per_group": 9}
    fast, slow = (crfl.train_ensemble(exp, data, **how, engine=e) for e in ("vectorised", "reference"))
    torch.testing.assert_close(fast.params, slow.params, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(fast.votes(data.test), slow.votes(data.test))


def huge(update, model, generator):
    return torch.full_like(update, torch.finfo(update.dtype).max)


def shout(update, model, generator):
    """Sends no update but an error, should the server evaluate it."""
    return "no update"


HOSTILE = {
    "nan": {},
    "sign_flip": {"attack__scale": 1e12},
    "huge": {},
    "shout": {},
    "gaussian": {"attack__scale": 1e30},
}


@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("update", HOSTILE)
def test_whatever_clients_send_other_groups_keep_their_bits(update, model, precision, monkeypatch):
    """Half of one group, and all of another: the others do not notice, and a group without updates keeps its model."""
    monkeypatch.setitem(MALICIOUS, "huge", huge)
    monkeypatch.setitem(MALICIOUS, "shout", shout)
    data = federation()
    exp = settings(data, local__precision=precision)
    groups = choose_groups(data.client_names, Ensemble(groups=4), exp.seed)
    hostile = exp.override(
        {"attack.round": 1, "attack.every": 1, "attack.clients": [*groups[1].tolist(), int(groups[2][0])]}
        | {"attack.update": update, "attack.trigger": []}
        | {key.replace("__", "."): value for key, value in HOSTILE[update].items()}
    )
    quiet, loud = (crfl.train_ensemble(e, data, groups=4, model=MODELS[model]()) for e in (exp, hostile))
    assert torch.equal(quiet.params[[0, 3]], loud.params[[0, 3]])
    assert not torch.equal(quiet.params[2], loud.params[2])
    assert torch.isfinite(loud.params).all()
    np.testing.assert_array_equal(quiet.votes(data.test)[:, [0, 3]], loud.votes(data.test)[:, [0, 3]])
    if update in ("nan", "shout"):
        assert {d.client for r in loud.record(1).rounds for d in r.dropped} == {0, 1, 2}
        one_round = crfl.train_ensemble(hostile.override({"server.rounds": 1}), data, groups=4, model=MODELS[model]())
        start = one_round.model.initial(crfl.rng.stream(exp.seed, "initial model"))
        torch.testing.assert_close(one_round.params[1], start.to(one_round.params), rtol=1e-6, atol=0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("schedule", ["constant", "inverse"])
def test_whatever_clients_hold_other_groups_keep_their_bits(model, schedule):
    """Other samples, and many more of them: more steps a round, more features, larger batches."""
    data = federation(sizes=(3,) * CLIENTS)
    changes = {"local__batch_size": 20, "local__keep_last_batch": True, "server__decay": 0.1}
    exp = settings(data, **changes, local__schedule=schedule)
    groups = choose_groups(data.client_names, Ensemble(groups=4), exp.seed)
    bad, shards = int(groups[2][1]), list(data.shards)
    more = 50 * np.random.default_rng(1).normal(size=(90, FEATURES)).astype("f4")
    shards[bad] = torch.arange(len(data.x), len(data.x) + 90)
    other = crfl.FederatedData.from_arrays(
        np.concatenate([data.x.numpy(), more]),
        np.concatenate([data.y.numpy(), np.ones(90, dtype=np.int64)]),
        data.test.x,
        data.test.y,
        shards=shards,
        num_classes=CLASSES,
    )
    one, two = (crfl.train_ensemble(exp, d, groups=4, model=MODELS[model]()) for d in (data, other))
    assert torch.equal(one.params[[0, 1, 3]], two.params[[0, 1, 3]])
    assert not torch.equal(one.params[2], two.params[2])


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


def under_attack(exp, data, groups, attackers, attack):
    """Predictions of the ensemble if these clients attack in every round."""
    changes = {"trigger": [], "round": 1, "every": 1, "clients": list(attackers), **attack}
    hostile = exp.override({f"attack.{key}": value for key, value in changes.items()})
    return crfl.train_ensemble(hostile, data, groups=groups).predict(data.test)


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


@pytest.fixture(scope="module")
def small():
    data = federation(seed=2)
    return data, crfl.train_ensemble(settings(data), data, groups=4)


def test_votes_prediction_and_score(small):
    data, ensemble = small
    votes = ensemble.votes(data.test)
    assert votes.shape == (60, 4)
    np.testing.assert_array_equal(votes, ensemble.votes(data.test.x))
    for g in range(4):
        np.testing.assert_array_equal(votes[:, g], ensemble.group_run(g).predict(data.test.x))
    counts = np.stack([(votes == c).sum(axis=1) for c in range(CLASSES)], axis=1)
    np.testing.assert_array_equal(ensemble.predict(data.test), counts.argmax(axis=1))
    assert ensemble.score(data.test) == (counts.argmax(axis=1) == data.test.y.numpy()).mean() > 0.5
    assert repr(ensemble) == ("EnsembleRun(custom: 4 disjoint groups of 3 of 12 clients, softmax regression, 4 rounds)")


def test_votes_of_many_samples_and_models_are_those_of_few():
    """More of both than are judged at a time."""
    data = federation(seed=1)
    how = {"groups": 40, "disjoint": False, "clients_per_group": 2, "model": module()}
    ensemble = crfl.train_ensemble(settings(data, server__rounds=1), data, **how)
    x = torch.randn(2500, FEATURES)
    votes = ensemble.votes(x)
    for g in (0, 15, 16, 39):
        logits = ensemble.group_run(g).logits(x)
        top = logits.topk(2, dim=1).values
        clear = (top[:, 0] - top[:, 1] > 1e-9).numpy()
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(votes[clear, g], logits.argmax(1).numpy()[clear])


def test_attackers_of_the_settings_attack_where_they_are():
    data = federation()
    exp = settings(data, attack__round=2, attack__clients=[1, 7], attack__scale="replace", attack__trigger="full_image")
    ensemble = crfl.train_ensemble(exp, data, groups=4)
    for number, clients in enumerate(ensemble.groups):
        record = ensemble.record(number)
        mine = [c for c in (1, 7) if c in clients]
        assert [record.client_names[a] for a in record.attackers] == [f"client {c}" for c in mine]
        scales = [a.scale for r in record.attack_rounds for a in r.attackers]
        assert scales == [len(clients) / len(mine) for _ in mine]


def test_test_samples_are_chosen_by_the_settings(small):
    data, ensemble = small
    exp = ensemble.experiment.override({"smoothing.test_samples": 20})
    some = crfl.certify(crfl.train_ensemble(exp, data, groups=4), data)
    every = crfl.certify(ensemble, data)
    assert some.test_size == 60
    np.testing.assert_array_equal(some.prediction, every.prediction[some.indices])
    y = data.test.y[torch.from_numpy(some.indices)]
    assert some.certified_accuracy(data.test.y, 1) == some.certified_accuracy(y, 1)


def test_plain_certificates_say_what_they_assume_and_what_not(small):
    data, ensemble = small
    certificate = crfl.certify(ensemble, data)
    assert "whatever the model and its training" in certificate.guarantee.statement
    assert not any(word in text for text in certificate.assumptions for word in ("convex", "SGD", "norm"))
    assert any("poses as several" in text for text in certificate.assumptions)
    assert certificate.guarantee.rounding == "proved"


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


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "ensemble.groups: got null, expected the number"),
        ({"groups": 0}, "ensemble.groups: got 0, expected a whole number from 1"),
        ({"groups": 13}, "ensemble.groups: got 13, expected 1 to the number of data.clients = 12"),
        ({"groups": 3, "clients_per_group": 2}, "clients_per_group: got 2, expected None"),
        ({"groups": 3, "disjoint": False}, "clients_per_group: got None"),
        (
            {"groups": 3, "disjoint": False, "clients_per_group": 13},
            "clients_per_group: got 13, expected 1 to the number",
        ),
        ({"groups": 3, "engine": "warp"}, "engine: got 'warp'"),
    ],
)
def test_wrong_groups_are_errors(how, message):
    data = federation()
    with pytest.raises(SettingsError, match=message):
        crfl.train_ensemble(settings(data), data, **how)


def test_groups_of_the_settings():
    """What the settings ask for is what arguments ask for; one model of all clients cannot have them."""
    data = federation()
    exp = settings(data, ensemble__groups=5, ensemble__clients_per_group=3)
    found, asked = (
        crfl.train_ensemble(exp, data),
        crfl.train_ensemble(settings(data), data, groups=5, disjoint=False, clients_per_group=3),
    )
    assert found.experiment == asked.experiment == exp
    assert torch.equal(found.params, asked.params)
    assert crfl.train_ensemble(exp, data, groups=2).clients_per_group is None
    with pytest.raises(SettingsError, match=r"ensemble.groups: got 5, expected null, or train_ensemble"):
        crfl.train(exp, data)
    with pytest.raises(SettingsError, match=r"ensemble.clients_per_group: got 3, expected null unless ensemble.groups"):
        settings(data, ensemble__clients_per_group=3)


def test_a_rule_needs_enough_clients_in_every_group():
    data = federation()
    exp = settings(data, server__aggregation="krum", server__num_byzantine=1)
    crfl.train_ensemble(exp, data, groups=2)
    with pytest.raises(
        SettingsError, match="groups: got 3, of which the smallest has 4 clients in a round, expected 5"
    ):
        crfl.train_ensemble(exp, data, groups=3)
    with pytest.raises(SettingsError, match="has 3 clients in a round"):
        crfl.train_ensemble(exp.override({"server.participation": 0.5}), data, groups=2)


def test_wrong_questions_are_errors(small):
    data, ensemble = small
    with pytest.raises(CertificateError, match="kind 'margin': got EnsembleRun, expected a TrainingRun"):
        crfl.certify(ensemble, data, kind="margin")
    with pytest.raises(CertificateError, match="kind 'ensemble': got TrainingRun, expected an EnsembleRun"):
        crfl.certify(ensemble.group_run(0), data, kind="ensemble")
    with pytest.raises(CertificateError, match="attack_round"):
        crfl.certify(ensemble, data, attack_round="any")
    with pytest.raises(CertificateError, match="prices: got 'votes'"):
        crfl.certify(ensemble, data, prices="votes")
    with pytest.raises(CertificateError, match="prices: got 'clients', expected None; of every group"):
        crfl.certify(ensemble, data, prices="clients")
    with pytest.raises(CertificateError, match="simultaneous"):
        crfl.certify(ensemble, data, simultaneous=True)
    with pytest.raises(DataError, match="x: got shape"):
        ensemble.votes(data.test.x[:, :2])
    with pytest.raises(DataError, match="group: got 4, expected 0 to 3"):
        ensemble.record(4)
    drawn = crfl.train_ensemble(ensemble.experiment, data, groups=4, disjoint=False, clients_per_group=3)
    with pytest.raises(CertificateError, match="share clients"):
        crfl.certify(drawn, data, prices="clients")
    network = crfl.train_ensemble(ensemble.experiment, data, groups=4, model=module())
    with pytest.raises(CertificateError, match="softmax regression"):
        crfl.certify(network, data, prices="poison")


@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
@pytest.mark.parametrize("model", MODELS)
def test_an_interrupted_ensemble_goes_on_in_the_same_bits(model, tmp_path):
    """With clients that are dropped, and groups that fail: votes and records are those of one training."""
    data = federation()
    groups = choose_groups(data.client_names, Ensemble(groups=4), 0)
    hostile = {"attack__round": 1, "attack__every": 2, "attack__update": "nan", "attack__trigger": []}
    attackers = [*groups[0].tolist(), int(groups[1][0])]
    exp = settings(data, **hostile, attack__clients=attackers, server__update_clip=0.5)
    how = {"groups": 4, "model": MODELS[model]()}
    whole = crfl.train_ensemble(exp, data, **how)
    for done in (1, 3):
        with interrupted(done):
            crfl.train_ensemble(exp, data, **how, resume_dir=tmp_path)
    again = crfl.train_ensemble(exp, data, **how, resume_dir=tmp_path)
    with interrupting(0):
        complete = crfl.train_ensemble(exp, data, **how, resume_dir=tmp_path)
    for found in (again, complete):
        assert torch.equal(found.params, whole.params)
        assert [found.record(g) for g in range(4)] == [whole.record(g) for g in range(4)]
        assert found.experiment == whole.experiment


def test_a_folder_belongs_to_one_ensemble(tmp_path):
    data = federation()
    exp = settings(data)
    crfl.train_ensemble(exp, data, groups=3, resume_dir=tmp_path)
    with pytest.raises(StoreError, match="differs in ensemble"):
        crfl.train_ensemble(exp, data, groups=4, resume_dir=tmp_path)
    with pytest.raises(StoreError, match="differs in server"):
        crfl.train_ensemble(exp.override({"server.rounds": 9}), data, groups=3, resume_dir=tmp_path)
    with pytest.raises(StoreError, match="differs in ensemble"):
        crfl.train(exp, data, resume_dir=tmp_path)


def test_an_interruption_in_the_first_round_leaves_no_folder(tmp_path):
    data = federation()
    with interrupted(0):
        crfl.train_ensemble(settings(data), data, groups=3, resume_dir=tmp_path / "new")
    assert not (tmp_path / "new").exists()

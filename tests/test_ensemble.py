"""Ensembles: groups train as if alone, to the last bit, and what is certified of their vote stands under attack."""

import itertools

import numpy as np
import pytest
import torch

import crfl
from crfl.aggregation import AGGREGATORS
from crfl.attack.malicious import MALICIOUS
from crfl.ensemble import EnsembleRun, choose_groups
from crfl.run_batch import RunBatch

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
        dealt = choose_groups(names, groups, seed)
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
    groups = choose_groups(data.client_names, 4, exp.seed)
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
    groups = choose_groups(data.client_names, 4, exp.seed)
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
    *_, state = batch.rounds(batch.start())
    votes = EnsembleRun(batch, state, disjoint=False).votes(data.test)
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
        assert scales == [len(clients) / len(mine)] * len(mine)


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


def priced(data, **changes):
    """An ensemble of few large groups whose server decays and clips updates, all features in the unit ball."""
    changes = {"server__decay": 0.3, "server__update_clip": 0.5, "server__noise": 0.0, **changes}
    exp = settings(data, model__bias=False, local__schedule="inverse", server__rounds=12, **changes)
    return crfl.train_ensemble(exp, data, groups=3)


@pytest.fixture(scope="module")
def ball():
    data = federation(seed=4, sizes=(4,) * 36)
    x = [v / torch.linalg.vector_norm(v, dim=1, keepdim=True) for v in (data.x, data.test.x)]
    rows = [shard.numpy() for shard in data.shards]
    return crfl.FederatedData.from_arrays(x[0], data.y, x[1], data.test.y, shards=rows, domain=(-1.0, 1.0))

"""A group trains as if it were alone, whatever the clients of other groups do."""

import numpy as np
import pytest
import torch

import crfl
from crfl import matmul
from crfl.aggregation import AGGREGATORS
from crfl.algorithm import training_rounds
from crfl.attack.malicious import MALICIOUS
from crfl.config import Ensemble
from crfl.engines.vectorised import one_step
from crfl.engines.vectorised.engine import VectorisedEngine
from crfl.ensemble_run import choose_groups
from crfl.run_batch import RunBatch
from tests.ensemble.federations import CLASSES, CLIENTS, FEATURES, MODELS, federation, settings


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
@pytest.mark.parametrize(
    "changes", [{"local__schedule": "constant"}, {"local__schedule": "inverse"}, {"server__update_clip": 0.1}]
)
def test_whatever_clients_hold_other_groups_keep_their_bits(model, changes):
    """Other samples, and many more of them: more steps a round, more features, larger batches, other places in memory."""
    data = federation(sizes=(3,) * CLIENTS)
    exp = settings(data, local__batch_size=20, local__keep_last_batch=True, server__decay=0.1, **changes)
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


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("changes", [{}, {"server__update_clip": 0.1}])
def test_where_the_samples_of_a_group_lie_in_memory_changes_no_bit(seed, changes):
    """They come after those of others, whose number is anything, and a row of 63 features does not fill whole vectors."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, CLIENTS)
    x, y = rng.normal(size=(sizes.sum() + 50, 63)), rng.integers(0, CLASSES, sizes.sum() + 50)
    exp = settings(
        federation(), local__batch_size=60, local__keep_last_batch=True, local__precision="float64", **changes
    )
    groups = choose_groups(federation().client_names, Ensemble(groups=4), exp.seed)
    group, trained = int(rng.integers(4)), []
    for more in (0, int(rng.integers(1, 50))):
        shards = list(torch.arange(sizes.sum()).split(sizes.tolist()))
        first = int(groups[group][0])
        shards[first] = torch.cat([shards[first], torch.arange(sizes.sum(), sizes.sum() + more)])
        data = crfl.FederatedData.from_arrays(x, y, x[:9], y[:9], shards=shards, num_classes=CLASSES)
        trained.append(crfl.train_ensemble(exp, data, groups=4).params)
    others = [g for g in range(4) if g != group]
    assert torch.equal(trained[0][others], trained[1][others])
    assert not torch.equal(trained[0][group], trained[1][group])


@pytest.mark.parametrize("keep_last_batch", [True, False])
@pytest.mark.parametrize("samples", [7, 30, 61])
def test_whose_groups_train_side_by_side_changes_no_bit(samples, keep_last_batch):
    """Three groups are as large as each other, or two, or each is alone; a client has more samples than a batch, or none has."""
    rng, clients, batch_size = np.random.default_rng(samples), 6, 61 if keep_last_batch else samples
    x, y = rng.normal(size=(clients * samples + 60, 63)), rng.integers(0, CLASSES, clients * samples + 60)
    exp = settings(federation(), local__batch_size=batch_size, local__keep_last_batch=keep_last_batch)
    trained = []
    for more in ((0, 0), (3, 0), (0, 5), (3, 5)):
        shards = list(torch.arange(clients * samples).split(samples))
        for client, count in enumerate(more):
            shards[client] = torch.cat([shards[client], clients * samples + 10 * client + torch.arange(count)])
        data = crfl.FederatedData.from_arrays(x, y, x[:9], y[:9], shards=shards, num_classes=CLASSES)
        trained.append(crfl.train_ensemble(exp.override({"data.clients": clients}), data, groups=3))
    one, other = (next(g for g, own in enumerate(trained[0].groups) if client in own) for client in (0, 1))
    for group in range(3):
        models = [ensemble.params[group] for ensemble in trained]
        pairs = {(0, 1): group != one, (0, 2): group != other, (0, 3): group not in (one, other)}
        for (a, b), same in pairs.items():
            assert torch.equal(models[a], models[b]) == same


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_how_the_samples_of_all_groups_are_split_to_threads_changes_no_bit(precision):
    """Groups of as many samples are trained side by side: three of them, or two. Large enough for two threads."""
    rng, samples, clients, classes = np.random.default_rng(0), 445, 6, 7
    x, y = rng.normal(size=(samples * clients, 430)), rng.integers(0, classes, samples * clients)
    exp = crfl.Experiment().override(
        {"data.name": "custom", "data.clients": clients, "local.batch_size": 10_000, "local.keep_last_batch": True}
        | {"local.learning_rate": 0.3, "local.precision": precision, "server.rounds": 3, "attack.round": None}
    )
    threads, trained = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        for first in (samples, 20):
            shards = [rows[:first] if i == 0 else rows for i, rows in enumerate(torch.arange(len(x)).split(samples))]
            data = crfl.FederatedData.from_arrays(x, y, x[:9], y[:9], shards=shards, num_classes=classes)
            trained.append(crfl.train_ensemble(exp, data, groups=3))
    finally:
        torch.set_num_threads(threads)
    same = [torch.equal(one, two) for one, two in zip(*(ensemble.params for ensemble in trained), strict=True)]
    assert same == [0 not in group for group in trained[0].groups]


def side_by_side(exp, data, groups, chunk_bytes=2**12):
    """The final models of groups with these clients, whose samples are taken a few at a time."""
    batch = RunBatch.of([exp.override({"ensemble.groups": len(groups)})] * len(groups), data, groups=groups)
    engine = VectorisedEngine(batch.model, data, batch.local, batch.seed, chunk_bytes)
    *_, state = training_rounds(batch, batch.start(), engine, None)
    return state.params


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_parts_of_a_group_are_added_in_its_own_order(precision):
    """Clients of 20, 31, 25 and 40 samples are a part each; parts of as many samples are trained side by side."""
    rng, sizes, trained = np.random.default_rng(0), [20, 31, 25, 40], []
    x, y = rng.normal(size=(400, 63)), rng.integers(0, CLASSES, 400)
    exp = settings(
        federation(), local__batch_size=100, local__precision=precision, local__keep_last_batch=True, data__clients=6
    )
    for first in (5, *sizes):
        shards = [*torch.arange(sum(sizes)).split(sizes), torch.arange(200, 200 + first), torch.arange(300, 320)]
        data = crfl.FederatedData.from_arrays(x, y, x[:9], y[:9], shards=shards, num_classes=CLASSES)
        for groups in ([np.array([4, 5]), np.arange(4)], [np.arange(4), np.array([4, 5])]):
            models = side_by_side(exp, data, groups)
            trained.append(models[[len(own) for own in groups].index(4)])
    assert all(torch.equal(model, trained[0]) for model in trained)


def test_whether_samples_are_copied_changes_no_bit(monkeypatch):
    """It depends on the samples of all clients. A group of 230 samples is several parts of several pieces."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(460, 63)), rng.integers(0, CLASSES, 460)
    exp = settings(federation(), local__batch_size=100, local__keep_last_batch=True, data__clients=6)
    data = crfl.FederatedData.from_arrays(
        x, y, x[:9], y[:9], shards=[*torch.arange(460).split(79)], num_classes=CLASSES
    )
    monkeypatch.setattr(matmul, "PIECE_BYTES", 2**12)
    expected = side_by_side(exp, data, [np.arange(3), np.arange(3, 6)], chunk_bytes=2**15)
    monkeypatch.setattr(one_step, "COPIED_BYTES", 0)
    assert torch.equal(side_by_side(exp, data, [np.arange(3), np.arange(3, 6)], chunk_bytes=2**15), expected)

"""Many tiny clients: those that take one step step together, and nobody can tell."""

import numpy as np
import pytest
import torch

import crfl
from crfl.aggregation import mean
from crfl.data.federated import FederatedData, Split
from crfl.engines.vectorised import LocalTraining
from crfl.errors import InvalidUpdateWarning
from crfl.models.softmax import SoftmaxRegression
from crfl.run_batch import RunBatch
from crfl.server import RoundAggregator
from tests.training.naive import naive_rounds

CLIENTS = 150
BASE = crfl.Experiment().override(
    {
        "data.name": "custom",
        "data.clients": CLIENTS,
        "local.batch_size": 8,
        "local.learning_rate": 0.5,
        "local.keep_last_batch": True,
        "server.rounds": 3,
        "attack.clients": 4,
        "attack.round": 2,
        "attack.trigger": [[5, 5], [0, 0]],
    }
)


def images(generator):
    """Clients of 1 to 8 images of 6 x 6 pixels."""
    sizes = (torch.arange(CLIENTS) % 8 + 1).tolist()
    x = torch.randint(0, 256, (sum(sizes), 36), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 3, (len(x),), generator=generator)
    shards = torch.randperm(len(x), generator=generator).split(sizes)
    return FederatedData(
        "custom", x, y, shards, Split(x[:9] / 255, y[:9]), 3, 1 / 255, input_shape=(6, 6), domain=(0, 1)
    )


@pytest.fixture(scope="module")
def data():
    return images(torch.Generator().manual_seed(0))


@pytest.fixture
def stepped_together(monkeypatch):
    """How many clients have stepped together so far."""
    count = [0]

    def counted(self, params, clients, weights, round_, _original=LocalTraining.sums):
        count[0] += len(clients)
        return _original(self, params, clients, weights, round_)

    monkeypatch.setattr(LocalTraining, "sums", counted)
    return count


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"server.aggregation": "weighted_mean"},
        {"local.weight_decay": 0.2},
        {"local.learning_rate": [0.01 * (i % 40 + 1) for i in range(CLIENTS)], "local.weight_decay": 0.1},
        {"server.participation": 0.6, "attack.force_participation": True},
        {"local.batch_size": 3},
        {"local.batch_size": 100},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
@pytest.mark.parametrize("memory", [2**12, 2**16])
def test_tiny_clients_equal_the_naive_loop(data, stepped_together, monkeypatch, changes, memory):
    monkeypatch.setattr("crfl.engines.vectorised.CHUNK_BYTES", memory)
    exp = BASE.override(changes)
    params, weights = naive_rounds(exp, data)
    run = crfl.train(exp, data)
    torch.testing.assert_close(run.params, params, rtol=0, atol=4e-6)
    for known, expected in zip(run.record.rounds, weights, strict=True):
        assert known.weights == pytest.approx([expected.get(i, 0.0) for i in range(CLIENTS)], abs=1e-12)
    assert stepped_together[0] >= 100


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_small_steps_of_thousands_of_clients_are_not_lost_to_rounding(stepped_together, monkeypatch, decay):
    """One step of all is one step on their joint gradient, here in float64."""
    monkeypatch.setattr("crfl.engines.vectorised.CHUNK_BYTES", 2**18)
    clients, generator = 8000, torch.Generator().manual_seed(4)
    x, y = torch.rand(2 * clients, 12, generator=generator), torch.randint(0, 3, (2 * clients,), generator=generator)
    data = FederatedData("custom", x, y, torch.arange(len(x)).split(2), Split(x[:9], y[:9]), 3)
    exp = BASE.override(
        {
            "data.clients": clients,
            "local.learning_rate": 0.001,
            "local.weight_decay": decay,
            "attack.round": None,
            "server.rounds": 1,
            "server.clip.start": 1e6,
        }
    )
    model, start = SoftmaxRegression(12, 3), RunBatch((exp,), (False,), data).start().params[0].double()
    expected = -0.001 * (model.gradient(start, x.double(), y) + decay * start)
    moved = crfl.train(exp, data).params.double() - start
    assert stepped_together[0] == clients
    assert float((moved - expected).norm() / expected.norm()) < 1e-3  # the parameters themselves are float32


def test_a_model_of_ones_own_steps_client_by_client(stepped_together, monkeypatch):
    """Its step may be anything: here samples of one batch see each other."""
    monkeypatch.setattr("crfl.engines.vectorised.CHUNK_BYTES", 2**15)
    data = images(torch.Generator().manual_seed(0))
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(36, track_running_stats=False), torch.nn.Linear(36, 3))
    exp = BASE.override({"local.batch_size": 8, "server.rounds": 1, "attack.round": None})
    crfl.train(exp, data, model=module)
    assert stepped_together[0] == 0


@pytest.mark.parametrize(
    "changes", [{"server.aggregation": "median"}, {"server.update_clip": 0.1}, {"local.epochs": 2}]
)
def test_rules_that_need_every_update_get_it(data, stepped_together, monkeypatch, changes):
    monkeypatch.setattr("crfl.engines.vectorised.CHUNK_BYTES", 2**16)
    exp = BASE.override(changes)
    params, _ = naive_rounds(exp, data)
    torch.testing.assert_close(crfl.train(exp, data).params, params, rtol=0, atol=4e-6)
    assert stepped_together[0] == 0


def test_runs_that_weigh_clients_differently_do_not_share_sums(data, stepped_together, monkeypatch):
    monkeypatch.setattr("crfl.engines.vectorised.CHUNK_BYTES", 2**16)
    experiments = [BASE, BASE.override({"server.aggregation": "weighted_mean"})]
    for exp, run in zip(experiments, crfl.train_many(experiments, data), strict=True):
        torch.testing.assert_close(run.params, naive_rounds(exp, data)[0], rtol=0, atol=4e-6)
    assert stepped_together[0] == 0


def test_a_stack_of_runs_that_weigh_alike_equals_its_runs(data, stepped_together, monkeypatch):
    monkeypatch.setattr("crfl.engines.vectorised.CHUNK_BYTES", 2**16)
    experiments = [BASE, BASE.override({"attack.scale": 30.0}), BASE.override({"attack.round": None})]
    together = crfl.train_many(experiments, data)
    assert stepped_together[0] == 3 * CLIENTS - 4
    for exp, run in zip(experiments, together, strict=True):
        torch.testing.assert_close(run.params, crfl.train(exp, data).params, rtol=0, atol=4e-6)


def test_a_tiny_client_whose_update_is_not_finite_is_found_among_the_others(stepped_together, monkeypatch):
    monkeypatch.setattr("crfl.engines.vectorised.CHUNK_BYTES", 2**16)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(CLIENTS * 4, 30, generator=generator), torch.randint(0, 3, (CLIENTS * 4,), generator=generator)
    shards = torch.arange(len(x)).split(4)
    data = FederatedData("custom", x, y, shards, Split(x[:9], y[:9]), 3)
    exp = BASE.override({"attack.round": None, "server.rounds": 1})
    x[4 * 77] = 3e38 * RunBatch((exp,), (False,), data).start().params[0, :30].sign()  # a logit that overflows
    with pytest.warns(InvalidUpdateWarning, match="client 77"):
        run = crfl.train(exp, data)
    assert stepped_together[0] == CLIENTS
    (round_,) = run.record.rounds
    assert [d.client for d in round_.dropped] == [77]
    assert round_.weights[77] == 0
    assert sum(round_.weights) == pytest.approx(1)
    others = FederatedData("custom", x, y, shards[:77] + shards[78:], data.test, 3)
    others = crfl.train(exp.override({"data.clients": CLIENTS - 1}), others)
    torch.testing.assert_close(run.params, others.params, rtol=0, atol=1e-6)


def sparse(generator):
    """Six clients with 9 to 40 samples of 30 features, of which each has only some."""
    sizes = [40, 9, 23, 40, 17, 31]
    has = torch.rand(len(sizes), 30, generator=generator) < 0.5
    x = torch.cat([torch.rand(n, 30, generator=generator) * own for n, own in zip(sizes, has, strict=True)])
    y = torch.randint(0, 3, (len(x),), generator=generator)
    shards = torch.arange(len(x)).split(sizes)
    test = Split(torch.rand(20, 30, generator=generator), torch.randint(0, 3, (20,), generator=generator))
    return FederatedData("custom", x, y, shards, test, 3, input_shape=(5, 6), domain=(0, 1)), has


SPARSE = BASE.override(
    {"data.clients": 6, "local.batch_size": 4, "local.epochs": 2, "attack.trigger": [[0, 0], [1, 1], [4, 5]]}
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"local.keep_last_batch": False, "server.participation": 0.5, "attack.force_participation": True},
        {"server.aggregation": "median", "attack.scale": 3.0},
        {"local.weight_decay": 0.1},
        {"attack.poisoned_per_batch": 0, "attack.update": "sign_flip"},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
@pytest.mark.parametrize("memory", [1, 2**23])
@pytest.mark.parametrize("benign", [False, True])
def test_features_that_a_client_does_not_have_need_no_training(monkeypatch, changes, memory, benign):
    monkeypatch.setattr("crfl.engines.vectorised.CHUNK_BYTES", memory)
    exp, (data, has) = SPARSE.override(changes), sparse(torch.Generator().manual_seed(2))
    training = LocalTraining(RunBatch((exp,), (False,), data).model, data, exp.local, exp.seed)
    if exp.local.weight_decay:
        assert training.narrow is None  # even an unused weight decays
    else:
        width = int(has.sum(1).max())
        assert training.narrow.x.shape == (len(data.y), width)
        trained = torch.zeros_like(has).scatter(1, training.narrow.columns, True)
        assert trained[has].all()
    params, _ = naive_rounds(exp, data, benign=benign)
    torch.testing.assert_close(crfl.train(exp, data, benign=benign).params, params, rtol=0, atol=4e-6)


def test_a_stack_of_sparse_runs_equals_its_runs():
    data, _ = sparse(torch.Generator().manual_seed(2))
    experiments = [SPARSE, SPARSE.override({"attack.scale": 30.0}), SPARSE.override({"attack.round": None})]
    for exp, run in zip(experiments, crfl.train_many(experiments, data), strict=True):
        torch.testing.assert_close(run.params, crfl.train(exp, data).params, rtol=0, atol=4e-6)


def test_a_feature_that_nobody_has_keeps_its_weights_to_the_bit():
    data, _ = sparse(torch.Generator().manual_seed(2))
    data.x[:, 11] = 0.0
    exp = SPARSE.override({"attack.round": None, "server.noise": 0.0, "server.clip.start": 1e6})
    before = RunBatch((exp,), (False,), data).start().params[0, :90].view(3, 30)
    after = crfl.train(exp, data).params[:90].view(3, 30)
    assert torch.equal(after[:, 11], before[:, 11])
    assert not torch.equal(after[:, 12], before[:, 12])


def test_training_again_gives_the_same_bits_whatever_was_trained_before(data):
    first = crfl.train(BASE, data).params
    crfl.train(BASE.override({"seed": 3, "local.batch_size": 4}), data)
    assert torch.equal(crfl.train(BASE, data).params, first)


def test_chunks_of_clients_share_one_piece_of_memory(data, monkeypatch):
    """And a mean keeps only the sum: ten thousand clients need no more memory than a chunk of them."""
    monkeypatch.setattr("crfl.engines.vectorised.CHUNK_BYTES", 2**16)
    stack = RunBatch((BASE,), (False,), data)
    training, sent = LocalTraining(stack.model, data, stack.local, stack.seed), stack.start().params
    found = [(len(rows), updates.data_ptr()) for rows, updates in training.updates(sent, np.arange(CLIENTS), 1)]
    assert sum(count for count, _ in found) == CLIENTS
    assert len(found) == 5
    assert len({where for _, where in found}) == 1
    inbox = RoundAggregator(BASE.server, mean, np.arange(CLIENTS), training.sizes, [], sent[0])
    assert inbox.received.shape == sent.shape

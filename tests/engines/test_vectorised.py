"""What makes the vectorised engine fast changes nothing: chunks, sums of single-step clients, features left out."""

import numpy as np
import pytest
import torch

import crfl
from crfl.data.federated import FederatedData, Split
from crfl.engines import UpdateSums
from crfl.engines.reference import ReferenceEngine
from crfl.engines.vectorised.engine import VectorisedEngine
from crfl.errors import InvalidUpdateWarning
from crfl.models.softmax import SoftmaxRegression
from crfl.run_batch import RunBatch
from tests.engines.test_engines_agree import EXACT, SINGLE, batch_normalised, network, without_distance
from tests.federations import assert_same_run, floats, images, train_in_chunks

CLIENTS = 80
TINY = [i % 8 + 1 for i in range(CLIENTS)]
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


@pytest.fixture(scope="module", params=[images, floats])
def tiny(request):
    """Clients of 1 to 8 samples: under a batch size of 8 all of them take a single step."""
    return request.param(TINY)


def start(exp, data):
    return RunBatch.of([exp], data).start().params[0]


# Single-step clients


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"local.precision": "float32"},
        {"server.aggregation": "weighted_mean"},
        {"server.aggregation": "median"},
        {"server.update_clip": 0.1},
        {"local.epochs": 2},
        {"local.weight_decay": 0.2},
        {"local.learning_rate": [0.01 * (i % 40 + 1) for i in range(CLIENTS)], "local.weight_decay": 0.1},
        {"server.participation": 0.6, "attack.force_participation": True},
        {"local.batch_size": 3},
        {"local.batch_size": 100},
        {"model.bias": False, "attack.update": "sign_flip"},
        {"server.decay": 0.1, "local.schedule": "inverse"},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_tiny_clients(tiny, changes):
    exp = BASE.override(changes)
    expected = crfl.train(exp, tiny, engine="reference")
    for chunk_bytes in (2**12, 2**16, 2**26):
        (found,) = train_in_chunks([exp], tiny, chunk_bytes)
        assert_same_run(found, expected, EXACT if exp.local.precision == "float64" else SINGLE)


@pytest.mark.parametrize("make", [images, floats])
@pytest.mark.parametrize("clip", [{}, {"server.update_clip": 0.1}])
def test_single_steps_that_leave_samples_out(make, clip):
    """Of clients with less than two batches, other samples in every round."""
    data = make([i % 5 + 4 for i in range(CLIENTS)])  # of eight samples two batches
    exp = BASE.override({"local.batch_size": 4, "local.keep_last_batch": False, **clip})
    expected = crfl.train(exp, data, engine="reference")
    for chunk_bytes in (2**12, 2**26):
        assert_same_run(train_in_chunks([exp], data, chunk_bytes)[0], expected, EXACT)


def test_runs_that_weigh_clients_alike_and_runs_that_do_not(tiny):
    alike = [BASE, BASE.override({"attack.scale": 30.0}), BASE.override({"attack.round": None})]
    for experiments in (alike, [*alike, BASE.override({"server.aggregation": "weighted_mean"})]):
        for exp, run in zip(experiments, train_in_chunks(experiments, tiny, 2**16), strict=True):
            assert_same_run(without_distance(run), crfl.train(exp, tiny, engine="reference"), EXACT)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("float64", 1e-11)])
def test_small_steps_of_thousands_of_clients_are_not_lost_to_rounding(decay, precision, tolerance):
    """One step of all is one step on their joint gradient."""
    clients, generator = 8000, torch.Generator().manual_seed(4)
    x, y = torch.rand(2 * clients, 12, generator=generator), torch.randint(0, 3, (2 * clients,), generator=generator)
    data = FederatedData("custom", x, y, torch.arange(len(x)).split(2), Split(x[:9], y[:9]), 3)
    changes = {"data.clients": clients, "local.learning_rate": 0.001, "local.weight_decay": decay}
    exp = BASE.override(changes | {"attack.round": None, "server.rounds": 1, "server.clip.start": 1e6})
    exp = exp.override({"local.precision": precision})
    model, params = SoftmaxRegression(12, 3), start(exp, data).double()
    expected = -0.001 * (model.gradient(params, x.double(), y) + decay * params)
    moved = train_in_chunks([exp], data, 2**18)[0].params.double() - params
    assert float((moved - expected).norm() / expected.norm()) < tolerance


def test_a_tiny_client_whose_update_is_not_finite_is_found_among_the_others():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(CLIENTS * 4, 30, generator=generator), torch.randint(0, 3, (CLIENTS * 4,), generator=generator)
    shards = torch.arange(len(x)).split(4)
    exp = BASE.override({"attack.round": None, "server.rounds": 1, "local.precision": "float32"})

    def federation(rows):
        return FederatedData("custom", x, y, rows, Split(x[:9].clone(), y[:9]), 3)

    x[4 * 77] = 3e38 * start(exp, federation(shards))[:30].sign()  # a logit that overflows
    with pytest.warns(InvalidUpdateWarning, match="client 77"):
        (run,) = train_in_chunks([exp], federation(shards), 2**16)
    (round_,) = run.record.rounds
    assert [d.client for d in round_.dropped] == [77]
    assert round_.weights[77] == 0
    assert sum(round_.weights) == pytest.approx(1)
    others = crfl.train(exp.override({"data.clients": CLIENTS - 1}), federation(shards[:77] + shards[78:]))
    torch.testing.assert_close(run.params, others.params, rtol=0, atol=1e-6)


# Padding


@pytest.mark.parametrize("make", [network, batch_normalised])
@pytest.mark.parametrize(
    "changes", [{}, {"local.keep_last_batch": False}, {"local.epochs": 2, "local.weight_decay": 0.1}]
)
def test_modules_see_real_samples_only(make, changes):
    """Also where the samples of a batch see each other: no batch of such a module is padded."""
    data = images([12, 20, 31, 20, 18, 26, 12])
    exp = BASE.override({"data.clients": 7, "server.participation": 0.8, **changes})
    expected = crfl.train(exp, data, model=make(), engine="reference")
    for chunk_bytes in (1, 2**26):
        (found,) = train_in_chunks([exp], data, chunk_bytes, model=make())
        assert_same_run(found, expected, 1e-12)


def test_no_client_pays_for_the_samples_of_another():
    """A sample whose logits overflow stops its client alone, whoever trains beside it in padded batches."""
    generator = torch.Generator().manual_seed(0)
    sizes = [16, 9, 20, 31]
    x, y = torch.randn(sum(sizes), 30, generator=generator), torch.randint(0, 3, (sum(sizes),), generator=generator)
    data = FederatedData("custom", x, y, torch.arange(len(x)).split(sizes), Split(x[1:9].clone(), y[1:9]), 3)
    exp = BASE.override({"data.clients": 4, "local.precision": "float32", "attack.round": None, "server.rounds": 1})
    x[0] = 3e38 * start(exp, data)[:30].sign()
    for engine in ("vectorised", "reference"):
        with pytest.warns(InvalidUpdateWarning, match="client 0"):
            record = crfl.train(exp, data, engine=engine).record
        assert [d.client for d in record.rounds[0].dropped] == [0]


# Features that a client lacks


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"local.precision": "float32"},
        {"local.keep_last_batch": False, "server.participation": 0.5, "attack.force_participation": True},
        {"server.aggregation": "median", "attack.scale": 3.0},
        {"local.weight_decay": 0.1},
        {"attack.poisoned_per_batch": 0, "attack.update": "sign_flip"},
        {"model.bias": False},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
@pytest.mark.parametrize("benign", [False, True])
def test_clients_without_some_features(changes, benign):
    exp = BASE.override({"data.clients": 6, "local.batch_size": 4, "local.epochs": 2, "attack.clients": 2, **changes})
    data = floats([40, 9, 23, 40, 17, 31])
    expected = crfl.train(exp, data, benign=benign, engine="reference")
    for chunk_bytes in (1, 2**23):
        (found,) = train_in_chunks([exp], data, chunk_bytes, [benign])
        assert_same_run(found, expected, EXACT if exp.local.precision == "float64" else SINGLE)


def test_a_feature_that_nobody_has_keeps_its_weights_to_the_bit():
    data = floats([40, 9, 23, 40, 17, 31])
    changes = {"data.clients": 6, "attack.round": None, "server.noise": 0.0, "server.clip.start": 1e6}
    exp = BASE.override(changes)
    before, after = start(exp, data)[:108].view(3, 36), crfl.train(exp, data).params[:108].view(3, 36)
    assert torch.equal(after[:, 7], before[:, 7])
    assert (after != before).any(0).sum() == 35


# What an engine promises


@pytest.mark.parametrize("chunk_bytes", [1, 2**14, 2**16, 2**26])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_participant_is_trained_once_for_every_run(tiny, chunk_bytes, weighted):
    """The updates, or sums of updates with their weights, add up to the same."""
    batch = RunBatch.of([BASE, BASE.override({"attack.scale": 2.0})], tiny)
    models = batch.start().params + torch.tensor([[0.0], [0.1]])
    plans = [plan.round(2) for plan in batch.plans]
    weights = torch.rand(CLIENTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectorised = VectorisedEngine(batch.model, tiny, batch.local, batch.seed, chunk_bytes)
    reference = ReferenceEngine(batch.model, tiny, batch.local, batch.seed)
    totals = []
    for engine in (vectorised, reference):
        seen, total = np.zeros((2, CLIENTS)), torch.zeros_like(models)
        for block in engine.local_updates(models, 2, (0.2, 0.2), plans, [weights if weighted else None] * 2):
            runs = list(block.runs)
            seen[np.ix_(runs, block.clients)] += 1
            if isinstance(block, UpdateSums):
                total[runs] += block.totals
            else:
                total[runs] += torch.einsum("k,krp->rp", weights[block.clients], block.updates)
        assert (seen == 1).all()
        totals.append(total)
    torch.testing.assert_close(totals[0], totals[1], rtol=0, atol=1e-11)


def test_training_again_gives_the_same_bits_whatever_the_engine_trained_before(tiny):
    batch = RunBatch.of([BASE], tiny)
    engine = VectorisedEngine(batch.model, tiny, batch.local, batch.seed, chunk_bytes=2**16)
    models = batch.start().params

    def updates(t):
        plans = [batch.plans[0].round(t)]
        return [(b.clients, b.updates.clone()) for b in engine.local_updates(models, t, [1.0], plans, [None])]

    first = updates(2)
    updates(1)
    for (clients, found), (expected_clients, expected) in zip(updates(2), first, strict=True):
        assert np.array_equal(clients, expected_clients)
        assert torch.equal(found, expected)


# Groups


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"server.participation": 0.5, "attack.force_participation": True},
        {"server.aggregation": "rfa", "attack.update": "sign_flip"},
        {"local.keep_last_batch": False, "local.weight_decay": 0.1},
        {"server.update_clip": 0.1, "local.precision": "float32"},
        {"attack.clients": [9, 2], "attack.scale": "replace"},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
@pytest.mark.parametrize("make", [images, floats])
def test_groups_of_clients(make, changes):
    """Runs of which each trains on some clients alone, some of them in no group and some in several."""
    exp = BASE.override({"data.clients": 12, **changes})
    data = make([9, 20, 31, 12, 17, 26, 12, 9, 14, 8, 22, 10])
    groups = [np.array(group) for group in ([0, 1, 2], [3, 5, 8], [2, 9], [4, 6, 7, 9], [1])]
    batch = RunBatch.of([exp] * 5, data, groups=groups)
    *_, last = batch.rounds(batch.start(), engine="reference")
    atol = EXACT if exp.local.precision == "float64" else SINGLE
    for chunk_bytes in (1, 2**15, 2**26):
        for found, expected in zip(
            train_in_chunks([exp] * 5, data, chunk_bytes, groups=groups), batch.finish(last), strict=True
        ):
            torch.testing.assert_close(found.params, expected.params, rtol=0, atol=atol)
            assert found.record.client_sizes == expected.record.client_sizes
            for ours, theirs in zip(found.record.rounds, expected.record.rounds, strict=True):
                assert ours.weights == pytest.approx(theirs.weights)
                assert [a.client for a in ours.attackers] == [a.client for a in theirs.attackers]


def test_a_group_does_not_know_the_others():
    """A run on a group is the same whoever is in other groups, and its record speaks of its own clients."""
    exp, data = BASE.override({"data.clients": 6}), images([9, 20, 31, 12, 17, 26])
    group = np.array([1, 3, 4])
    (alone,) = train_in_chunks([exp], data, 2**20, groups=[group])
    *_, beside = train_in_chunks([exp] * 3, data, 2**20, groups=[np.array([0, 5]), np.array([1, 2]), group])
    assert torch.equal(alone.params, beside.params)
    assert alone.record.client_names == ("client 1", "client 3", "client 4")
    assert alone.record.client_sizes == (20, 12, 17)
    assert alone.record.attackers == (0, 1)  # clients 1 and 3 of the attackers 0 to 3
    assert [len(r.weights) for r in alone.record.rounds] == [3, 3, 3]


@pytest.mark.parametrize("chunk_bytes", [1, 2**13, 2**26])
@pytest.mark.parametrize(
    "changes", [{}, {"local.precision": "float32"}, {"local.weight_decay": 0.1}, {"server.update_clip": 0.1}]
)
def test_single_steps_of_a_group_do_not_know_the_others_to_the_bit(changes, chunk_bytes):
    """Groups of equally many samples are trained side by side; each is what it would be in a federation of its own."""
    sizes = [4, 3, 5, 4, 2, 8, 1, 6, 5, 7]
    exp, data = BASE.override({"data.clients": 10, **changes}), floats(sizes)
    groups = [np.array(group) for group in ([0, 1], [2, 4], [5, 6], [7, 8, 9], [3])]  # of 7, 7, 9, 18 and 4 samples
    together = train_in_chunks([exp] * 5, data, chunk_bytes, groups=groups)
    for group, found in zip(groups, together, strict=True):
        (alone,) = train_in_chunks([exp], data, chunk_bytes, groups=[group])
        assert torch.equal(found.params, alone.params)
    first = FederatedData(
        "custom", data.x, data.y, data.shards[:2], data.test, 3, input_shape=(6, 6), domain=(0.0, 1.0)
    )
    (own,) = train_in_chunks([exp.override({"data.clients": 2, "attack.clients": 2})], first, chunk_bytes)
    assert torch.equal(together[0].params, own.params)

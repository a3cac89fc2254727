"""Algorithm 1 against one written by hand, its limits, and what it leaves behind."""

import math

import numpy as np
import pytest
import torch

import crfl
from crfl.aggregation import AGGREGATORS
from crfl.errors import SettingsError, TrainingError
from tests.federations import images
from tests.training import oracle

BASE = crfl.Experiment().override({"server.rounds": 6, "attack.round": 3, "server.clip.start": 1.5})
SIZES = [9, 20, 31, 16, 12]
TINY = BASE.override(
    {
        "data.name": "custom",
        "data.clients": len(SIZES),
        "local.batch_size": 8,
        "local.learning_rate": 0.3,
        "server.rounds": 5,
        "server.clip.start": 1.2,
        "attack.magnitude": 1.0,
        "attack.trigger": [[0, 0], [5, 5], [2, 3]],
    }
)


@pytest.fixture(scope="module")
def data():
    return crfl.load_data(BASE)


@pytest.fixture(scope="module")
def tiny():
    return images(SIZES)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed": 7, "attack.round": None},
        {"attack.round": [2, 5], "attack.scale": 20.0, "attack.poisoned_per_batch": 6},
        {"attack.round": 2, "attack.every": 2, "attack.clients": 2, "attack.scale": "replace"},
        {
            "attack.clients": [3, 1],
            "attack.per_attacker": [{"scale": 20.0, "target": 2}, {"magnitude": 4.0, "trigger": [[0, 0]]}],
        },
        {"attack.clients": ["client 2"], "attack.labels": "keep"},
        {"attack.clients": 2, "attack.random_clients": True},
        {"attack.clients": 2, "attack.distributed": True},
        {"attack.trigger": [], "attack.magnitude": 0.0, "attack.poisoned_per_batch": 8},
        {"attack.per_attacker": [{"update": "sign_flip"}, {}], "attack.clients": 2},
        {"server.participation": 0.5, "attack.round": 1, "attack.every": 1, "attack.clients": 2},
        {"server.participation": 0.3, "attack.clients": [3], "attack.force_participation": True},
        {
            "server.participation": 0.3,
            "attack.clients": 3,
            "attack.force_participation": True,
            "attack.scale": "replace",
        },
        {"server.aggregation": "weighted_mean", "server.participation": 0.8},
        {"local.learning_rate": [0.1, 0.2, 0.3, 0.4, 0.5], "local.weight_decay": 0.05, "local.epochs": 2},
        {"local.keep_last_batch": True, "attack.poisoned_per_batch": 3},
        {"model.bias": False, "local.keep_last_batch": True},
        {"server.noise": 0.2, "server.clip.slope": 0.0, "server.clip.start": 0.7},
        {"server.noise": 0.0, "server.clip.start": math.inf},
        {"server.clip.cap": 1.25},
        {"server.update_clip": 0.1, "server.participation": 0.7},
        {"server.update_clip": {"start": 0.5, "end": 0.01, "decay_rounds": 2.0}, "attack.update": "sign_flip"},
        {"server.decay": 0.3, "local.learning_rate": [0.1, 0.2, 0.3, 0.4, 0.5]},
        {"server.decay": 0.3, "local.schedule": "inverse", "local.schedule_offset": 1.5, "local.keep_last_batch": True},
        *({"server.aggregation": rule, "attack.scale": 20.0} for rule in AGGREGATORS),
        {"server.aggregation": "rfa", "attack.update": "gaussian", "server.update_clip": 0.1},
        {"attack.update": "nan", "attack.clients": [1], "server.aggregation": "weighted_mean"},
        {"local.weight_decay": 0.4, "local.schedule": "inverse", "server.update_clip": {"start": 0.2, "end": 0.02}},
    ],
    ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()) or "plain",
)
@pytest.mark.parametrize("benign", [False, True])
@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
def test_equals_algorithm_1_by_hand(tiny, changes, benign):
    exp = TINY.override(changes)
    run = crfl.train(exp, tiny, benign=benign)
    params, weights, norms = oracle.train(exp, tiny, benign)
    assert run.params.numpy() == pytest.approx(params, abs=1e-12)
    for round_, expected, norm in zip(run.record.rounds, weights, norms, strict=True):
        assert round_.weights == pytest.approx([expected.get(i, 0.0) for i in range(len(SIZES))])
        if exp.server.update_clip is not None:
            assert round_.update_norms == pytest.approx([norm.get(i, 0.0) for i in range(len(SIZES))])
        attacking = set(oracle.attackers_of(exp, tiny, round_.round))
        assert {a.client for a in round_.attackers} == attacking
        assert {a.client for a in round_.attackers if a.weight} == attacking & {c for c, p in expected.items() if p}


# Limits


def fedavg(exp, data):
    """Federated averaging: the mean of what torch.optim.SGD makes of a linear layer, nothing added."""
    start = crfl.train(exp.override({"server.rounds": 1, "local.learning_rate": 1e-300}), data).params
    layer = torch.nn.Linear(64, 10, dtype=torch.float64)
    torch.nn.utils.vector_to_parameters(start, layer.parameters())
    for t in range(1, exp.server.rounds + 1):
        before = [p.detach().clone() for p in layer.parameters()]
        totals = [torch.zeros_like(p) for p in before]
        for i, shard in enumerate(data.shards):
            with torch.no_grad():
                for p, b in zip(layer.parameters(), before, strict=True):
                    p.copy_(b)
            optimizer = torch.optim.SGD(layer.parameters(), lr=exp.local.learning_rate)
            order = crfl.rng.shuffles(crfl.rng.keys(exp.seed, "batches", t, [i]), len(shard))[0]
            for rows in shard[torch.from_numpy(order)].split(exp.local.batch_size):
                if len(rows) == exp.local.batch_size:
                    optimizer.zero_grad()
                    logits = layer(data.features(rows).double())
                    torch.nn.functional.cross_entropy(logits, data.y[rows]).backward()
                    optimizer.step()
            for total, p in zip(totals, layer.parameters(), strict=True):
                total += p.detach() / len(data.shards)
        with torch.no_grad():
            for p, total in zip(layer.parameters(), totals, strict=True):
                p.copy_(total)
    return torch.nn.utils.parameters_to_vector(layer.parameters()).detach()


def test_without_noise_clip_and_attack_it_is_federated_averaging(data):
    """Whichever way the attack is switched off."""
    plain = BASE.override({"server.noise": 0.0, "server.clip.start": math.inf, "server.rounds": 3})
    off = crfl.train(plain.override({"attack.round": None}), data)
    torch.testing.assert_close(off.params, fedavg(plain.override({"attack.round": None}), data), rtol=0, atol=1e-12)
    for switch in ({"attack.clients": 0}, {"attack.poisoned_per_batch": 0, "attack.scale": 1.0}):
        assert torch.equal(crfl.train(plain.override(switch), data).params, off.params)
    benign = crfl.train(plain.override({"attack.scale": 1.0}), data, benign=True)
    assert torch.equal(benign.params, off.params)


def test_float64_and_float32_see_the_same_noise_and_batches(data):
    exact, single = (crfl.train(BASE.override({"local.precision": p}), data) for p in ("float64", "float32"))
    assert (exact.params.dtype, single.params.dtype) == (torch.float64, torch.float32)
    assert (exact.record.precision, single.record.precision) == ("float64", "float32")
    torch.testing.assert_close(exact.params, single.params.double(), rtol=0, atol=2e-6)
    assert not torch.equal(exact.params, single.params.double())


# Repetition


def test_same_seed_same_bits(data):
    first, again, other = (crfl.train(BASE.override({"seed": s}), data) for s in (1, 1, 2))
    assert torch.equal(first.params, again.params)
    assert first.record == again.record
    assert not torch.equal(first.params, other.params)


@pytest.mark.parametrize("update", [None, "gaussian"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_default_dtype_does_not_matter(tiny, update, precision):
    exp = TINY.override({"attack.update": update, "attack.trigger": "full_image", "local.precision": precision})
    expected = crfl.train(exp, tiny)
    try:
        torch.set_default_dtype(torch.float64)
        found = crfl.train(exp, tiny)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.params, expected.params)
    assert found.record == expected.record


def test_training_leaves_global_random_state_alone(data):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    crfl.train(BASE, data)
    assert torch.equal(torch.rand(4), expected)


# What it leaves behind


def test_checkpoints_are_the_final_models_of_shorter_runs(data):
    run = crfl.train(BASE, data, checkpoints=[4, 6])
    short = crfl.train(BASE.override({"server.rounds": 4}), data)
    assert torch.equal(run.checkpoints[4], short.params)
    assert torch.equal(run.checkpoints[6], run.params)


def test_a_checkpoint_is_a_copy(data):
    run = crfl.train(BASE, data, checkpoints=[BASE.server.rounds])
    run.params.zero_()
    assert run.checkpoints[BASE.server.rounds].any()


def test_a_checkpoint_must_be_a_round(data):
    for wrong in (0, -1, BASE.server.rounds + 1, 2.5, "a"):
        with pytest.raises(SettingsError, match=rf"checkpoints: got {wrong!r}, expected rounds 1 to"):
            crfl.train(BASE, data, checkpoints=[wrong])


def test_the_history_has_a_row_a_round(data):
    run = crfl.train(BASE, data)
    assert list(run.history["round"]) == [1, 2, 3, 4, 5, 6]
    logits = run.model.logits(run.params, data.test.x.double())
    last = run.history.iloc[-1]
    assert last["accuracy"] == pytest.approx((logits.argmax(1) == data.test.y).float().mean().item())
    assert last["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, data.test.y).item(), rel=1e-9)
    triggered = run.model.logits(run.params, crfl.backdoored(BASE, data).x.double())
    others = data.test.y != 0
    assert last["attack_success_rate"] == pytest.approx((triggered.argmax(1) == 0)[others].float().mean().item())


def test_models_are_measured_every_so_many_rounds_and_at_the_end(data):
    exp = BASE.override({"server.rounds": 7})
    every, third = (crfl.train(exp.override({"server.evaluate_every": k}), data) for k in (1, 3))
    assert torch.equal(every.params, third.params)
    for name in ("loss", "accuracy", "attack_success_rate"):
        measured = np.isfinite(third.columns[name])
        assert measured.tolist() == [False, False, True, False, False, True, True]
        assert (third.columns[name][measured] == every.columns[name][measured]).all()
    assert (third.columns["pre_clip_norm"] == every.columns["pre_clip_norm"]).all()


@pytest.mark.parametrize("engine", ["vectorised", "reference"])
def test_divergence_is_an_error_that_names_the_round(data, engine):
    diverging = {"local.learning_rate": 1e38, "server.clip.start": math.inf, "local.precision": "float32"}
    with pytest.raises(TrainingError, match=r"round \d+.*local.learning_rate"):
        crfl.train(BASE.override(diverging), data, engine=engine)


def test_an_engine_is_chosen_by_name(data):
    with pytest.raises(SettingsError, match="engine: got 'fast', expected one of: vectorised, reference"):
        crfl.train(BASE, data, engine="fast")

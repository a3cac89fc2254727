"""Algorithm 1 against a hand-written loop, and its limits."""

import math
from dataclasses import replace

import pytest
import torch

import crfl
from crfl.errors import SettingsError, TrainingError
from crfl.runs import record_file
from tests.training.naive import naive_train

BASE = crfl.Experiment().override({"server.rounds": 6, "attack.round": 3, "server.clip.start": 1.5})


@pytest.fixture(scope="module")
def data():
    return crfl.load_data(BASE)


def uneven(data):
    """The same samples in shards of 45, 61, 100, 140 and 20."""
    rows = torch.cat(data.shards)
    return replace(data, shards=rows[:366].split([45, 61, 100, 140, 20]), client_names=tuple("abcde"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attack.clients": 3, "attack.scale": 20.0, "attack.poisoned_per_batch": 7, "attack.magnitude": 3.0},
        {"local.epochs": 3, "local.weight_decay": 0.1, "local.batch_size": 32},
        {"local.keep_last_batch": True, "local.batch_size": 33, "attack.poisoned_per_batch": 20},
        {"attack.round": 6, "seed": 5},
        {"server.noise": 0.2, "server.clip.slope": 0.0, "server.clip.start": 0.7},
    ],
)
@pytest.mark.parametrize("shards", ["even", "uneven"])
@pytest.mark.parametrize("benign", [False, True])
def test_equals_the_naive_loop(data, changes, shards, benign):
    exp = BASE.override(changes)
    if shards == "uneven":
        exp, data = exp.override({"data.clients": 5, "local.batch_size": 20}), uneven(data)
    run = crfl.train(exp, data, benign=benign)
    expected = naive_train(exp, data, benign=benign)
    torch.testing.assert_close(run.params, expected, rtol=0, atol=2e-6)


def test_limits_are_plain_fedavg(data):
    """No noise, no clip and an attack that changes nothing: FedAvg, whichever way the attack is switched off."""
    plain = {"server.noise": 0.0, "server.clip.start": math.inf}
    expected = naive_train(BASE.override(plain), data, defended=False, attacked=False)
    off = crfl.train(BASE.override({**plain, "attack.round": None}), data)
    torch.testing.assert_close(off.params, expected, rtol=0, atol=2e-6)
    for switch in (
        {"attack.clients": 0},
        {"attack.poisoned_per_batch": 0, "attack.scale": 1.0},
    ):
        run = crfl.train(BASE.override({**plain, **switch}), data)
        assert torch.equal(run.params, off.params)
    benign = crfl.train(BASE.override({**plain, "attack.scale": 1.0}), data, benign=True)
    assert torch.equal(benign.params, off.params)


def test_same_seed_same_bits(data):
    first, again, other = (crfl.train(BASE.override({"seed": s}), data) for s in (1, 1, 2))
    assert torch.equal(first.params, again.params)
    assert first.record == again.record
    assert not torch.equal(first.params, other.params)


@pytest.mark.parametrize("update", [None, "gaussian"])
def test_the_default_dtype_does_not_matter(data, update):
    exp = BASE.override({"attack.update": update, "attack.trigger": "full_image", "local.keep_last_batch": True})
    expected = crfl.train(exp, uneven(data))
    try:
        torch.set_default_dtype(torch.float64)
        found = crfl.train(exp, uneven(data))
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


def test_a_stack_equals_its_runs_alone(data):
    sweep = [
        BASE.override(c)
        for c in ({}, {"server.noise": 0.05}, {"attack.scale": 30.0, "attack.clients": 4}, {"attack.round": None})
    ]
    stacked = crfl.train_many([*sweep, BASE], data, benign=[False] * 4 + [True])
    alone = [crfl.train(exp, data) for exp in sweep] + [crfl.train(BASE, data, benign=True)]
    for together, single in zip(stacked, alone, strict=True):
        torch.testing.assert_close(together.params, single.params, rtol=0, atol=1e-5)
        assert [r.attackers for r in together.record.rounds] == [r.attackers for r in single.record.rounds]
    distance = stacked[4].history["distance"]
    assert distance[1] < 1e-5  # before the attack of round 3
    assert distance[2] > 1e-4
    assert distance.iloc[-1] == pytest.approx(float((stacked[4].params - stacked[0].params).norm()), rel=1e-5)


def test_a_stack_must_share_what_it_shares(data):
    with pytest.raises(SettingsError, match="seed"):
        crfl.train_many([BASE, BASE.override({"seed": 1})], data)


def test_what_is_no_stack_and_no_checkpoint(data):
    with pytest.raises(SettingsError, match="experiments: got none"):
        crfl.train_many([], data)
    for wrong in (0, -1, BASE.server.rounds + 1, 2.5, "a"):
        with pytest.raises(SettingsError, match=rf"checkpoints: got {wrong!r}, expected rounds 1 to"):
            crfl.train(BASE, data, checkpoints=[wrong])


def test_a_checkpoint_is_a_copy(data):
    run = crfl.train(BASE, data, checkpoints=[BASE.server.rounds])
    run.params.zero_()
    assert run.checkpoints[BASE.server.rounds].any()


def test_checkpoints_are_the_final_models_of_shorter_runs(data):
    run = crfl.train(BASE, data, checkpoints=[4, 6])
    short = crfl.train(BASE.override({"server.rounds": 4}), data)
    assert torch.equal(run.checkpoints[4], short.params)
    assert torch.equal(run.checkpoints[6], run.params)


def test_client_chunks_change_no_bit_of_a_clients_batches(data, monkeypatch):
    whole = crfl.train(BASE, data)
    monkeypatch.setattr("crfl.engines.vectorised.CHUNK_BYTES", 1)
    torch.testing.assert_close(crfl.train(BASE, data).params, whole.params, rtol=0, atol=2e-6)


def test_record_tells_what_happened(data):
    exp = BASE.override({"attack.clients": 2, "local.keep_last_batch": True, "local.batch_size": 33})
    record = crfl.train(exp, data).record
    assert [r.round for r in record.rounds] == [1, 2, 3, 4, 5, 6]
    assert [r.noise_std for r in record.rounds] == [0.01] * 5 + [0.0]
    assert [r.clip_norm for r in record.rounds] == pytest.approx([1.6, 1.7, 1.8, 1.9, 2.0, 2.1])
    assert all(sum(r.weights) == pytest.approx(1) and len(r.weights) == 10 for r in record.rounds)
    (attacked,) = record.attack_rounds
    assert attacked.round == 3
    assert [a.client for a in attacked.attackers] == [0, 1]
    ratios = attacked.attackers[0].poison_ratios  # 140 samples: four batches of 33 and one of 8
    assert ratios == pytest.approx([1 / 33] * 4 + [1 / 8])
    assert attacked.attackers[0].strength == pytest.approx(0.1 * 5 * 0.05 * (4 / 33 + 1 / 8))
    assert record_file.loads(record_file.dumps(record)) == record


def test_history_has_a_row_a_round(data):
    run = crfl.train(BASE, data)
    assert list(run.history["round"]) == [1, 2, 3, 4, 5, 6]
    logits = run.model.logits(run.params, data.test.x)
    last = run.history.iloc[-1]
    assert last["accuracy"] == pytest.approx((logits.argmax(1) == data.test.y).float().mean().item())
    assert last["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, data.test.y).item(), rel=1e-5)
    triggered = run.model.logits(run.params, crfl.backdoored(BASE, data).x)
    others = data.test.y != 0
    assert last["attack_success_rate"] == pytest.approx((triggered.argmax(1) == 0)[others].float().mean().item())


def test_divergence_is_an_error_that_names_the_round(data):
    with pytest.raises(TrainingError, match=r"round \d+.*local.learning_rate"):
        crfl.train(BASE.override({"local.learning_rate": 1e38, "server.clip.start": math.inf}), data)

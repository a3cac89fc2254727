"""The record: what happened in training, as certificates read it."""

import math

import numpy as np
import pytest
import torch

import crfl
from crfl.attack.triggers import TRIGGERS, Pattern
from crfl.models.softmax import SoftmaxRegression
from tests.federations import floats, images, small_settings

SIZES = [9, 20, 31, 16, 12]
BASE = small_settings(
    SIZES,
    {
        "local.learning_rate": 0.3,
        "server.rounds": 6,
        "server.clip.start": 1.5,
        "attack.round": 3,
        "attack.trigger": [[0, 0], [5, 5]],
        "attack.magnitude": 0.25,
    },
)


@pytest.fixture(scope="module")
def data():
    return images(SIZES)


def record_of(data, changes, **options):
    return crfl.train(BASE.override(changes), data, **options).record


def test_what_a_run_was(data):
    record = record_of(data, {"local.epochs": 2, "local.weight_decay": 0.1})
    assert (record.model, record.num_features, record.num_classes, record.bias) == ("softmax regression", 36, 3, True)
    assert (record.aggregation, record.data_independent_weights, record.optimizer) == ("mean", True, "sgd")
    assert (record.precision, record.weight_decay, record.learning_rates) == ("float64", 0.1, (0.3,) * 5)
    assert (record.batch_size, record.epochs, record.keep_last_batch) == (8, 2, False)
    assert record.client_sizes == tuple(SIZES)
    assert record.max_feature_norm == pytest.approx(max(float(c.x.norm(dim=1).max()) for c in data.clients))
    assert (record.domain, record.norm_bound, record.feature_map, record.lipschitz) == ((0, 1), None, None, 1.0)
    assert (record.attackers, record.benign, record.seed, record.public_samples) == ((0,), False, 0, 0)


def test_every_round_is_told(data):
    record = record_of(data, {"attack.clients": 2, "local.keep_last_batch": True, "attack.poisoned_per_batch": 3})
    assert [r.round for r in record.rounds] == [1, 2, 3, 4, 5, 6]
    assert [r.noise_std for r in record.rounds] == [0.01] * 5 + [0.0]
    assert [r.clip_norm for r in record.rounds] == pytest.approx([1.6, 1.7, 1.8, 1.9, 2.0, 2.1])
    assert all(r.weights == (0.2,) * 5 for r in record.rounds)
    assert all(r.update_clip is None and r.update_norms is None and not r.dropped for r in record.rounds)
    (attacked,) = record.attack_rounds
    assert attacked.round == 3
    assert [a.client for a in attacked.attackers] == [0, 1]
    first, second = attacked.attackers
    assert first.poison_ratios == pytest.approx([3 / 8, 1])  # 9 samples: a batch of 8 and one of 1
    assert second.poison_ratios == pytest.approx([3 / 8, 3 / 8, 3 / 4])
    assert second.strength == pytest.approx(0.2 * 5 * 0.3 * (3 / 8 + 3 / 8 + 3 / 4))


def test_the_norms_of_a_round_are_those_of_its_models(data):
    """Of the start, before round 1's clip and after it; a run of fewer rounds stops in between."""
    exp = BASE.override({"server.rounds": 2, "server.noise": 0.0, "attack.round": None, "server.clip.start": 0.9})
    record = crfl.train(exp, data).record
    first, second = record.rounds
    model = SoftmaxRegression(36, 3)
    start = model.initial(crfl.rng.stream(0, "initial model")).double()
    assert first.start_norm == pytest.approx(float(start.norm()))
    assert first.start_spectral_norm == pytest.approx(float(torch.linalg.matrix_norm(start[:108].view(3, 36), 2)))
    after_one = crfl.train(exp.override({"server.rounds": 1}), data).params
    assert second.start_norm == pytest.approx(float(after_one.norm()))
    assert first.pre_clip_norm > first.clip_norm == pytest.approx(float(after_one.norm()))
    free = crfl.train(exp.override({"server.rounds": 1, "server.clip.start": math.inf}), data).params
    assert first.pre_clip_norm == pytest.approx(float(free.norm()))
    assert record_of(data, {"server.clip.start": math.inf}).rounds[0].clip_norm == math.inf


def test_each_attackers_part(data):
    changes = {
        "attack.clients": [4, 2],
        "attack.per_attacker": [{"scale": 20.0, "labels": "keep"}, {"magnitude": 0.5, "poisoned_per_batch": 3}],
        "local.learning_rate": [0.01 * i for i in range(1, 6)],
    }
    first, second = record_of(data, changes).attack_rounds[0].attackers
    assert (first.client, first.scale, first.label_flip, first.update) == (4, 20.0, False, None)
    assert (second.client, second.scale, second.label_flip) == (2, 5.0, True)
    assert (first.learning_rate, second.learning_rate) == (0.05, 0.03)
    assert (first.poison_ratios, second.poison_ratios) == ((1 / 8,), (3 / 8,) * 3)


def test_the_update_norm_is_what_the_server_saw(data):
    malicious = {"attack.round": 1, "attack.update": "gaussian", "attack.poisoned_per_batch": 0, "attack.scale": 3.0}
    honest = {"attack.round": 1, "attack.poisoned_per_batch": 0, "attack.scale": 1.0, "server.update_clip": 1e6}
    (plain,) = record_of(data, honest).attack_rounds
    (sent,) = record_of(data, malicious).attack_rounds
    assert sent.attackers[0].update == "gaussian"
    assert sent.attackers[0].update_norm == pytest.approx(3 * plain.attackers[0].update_norm, rel=1e-9)
    (clipped,) = record_of(data, malicious | {"server.update_clip": 0.1}).attack_rounds
    assert clipped.attackers[0].update_norm == pytest.approx(0.1, rel=1e-12)
    # The raw norms are those before the clip, and of all clients.
    assert clipped.update_norms[0] == pytest.approx(3 * plain.update_norms[0])
    assert clipped.update_norms[1:] == pytest.approx(plain.update_norms[1:])


# Schedules


def test_schedules_stand_on_record(data):
    """Of tau = 3 steps of the largest client: eta_t, kappa_t and S_t."""
    changes = {
        "local.schedule": "inverse",
        "local.schedule_offset": 2.0,
        "server.decay": 0.4,
        "server.update_clip": {"start": 0.5, "end": 0.1, "decay_rounds": 2.0},
        "attack.every": 1,
    }
    record = record_of(data, changes)
    for t, round_ in enumerate(record.rounds, start=1):
        rate = min(0.3, 1 / (0.4 * 3 * (t + 2)))
        assert round_.learning_rate_cap == pytest.approx(1 / (0.4 * 3 * (t + 2)))
        assert round_.decay == pytest.approx(1 - (1 - rate * 0.4) ** 3)
        assert round_.update_clip == pytest.approx((0.1 + 0.4 / (1 + t / 2) ** 2) * 3 * rate)
        assert all(a.learning_rate == pytest.approx(rate) for a in round_.attackers)
    constant = record_of(data, {"server.update_clip": 0.2}).rounds
    assert {(r.learning_rate_cap, r.decay, r.update_clip) for r in constant} == {(math.inf, 0.0, 0.2)}


def test_a_decay_that_takes_everything_leaves_the_aggregate(data):
    changes = {"server.decay": 4.0, "local.learning_rate": 0.3, "attack.round": None, "server.noise": 0.0}
    exp = BASE.override({**changes, "server.rounds": 1, "server.clip.start": math.inf})
    run, undecayed = crfl.train(exp, data), crfl.train(exp.override({"server.decay": 0.0}), data)
    assert run.record.rounds[0].decay == 1.0
    start = run.model.initial(crfl.rng.stream(0, "initial model")).double()
    torch.testing.assert_close(run.params, undecayed.params - start, rtol=0, atol=1e-13)


# Who was there


@pytest.mark.parametrize("rule", ["mean", "weighted_mean"])
def test_all_attackers_are_on_record_with_the_weight_that_they_would_have(data, rule):
    changes = {"server.participation": 0.4, "attack.clients": [2, 0], "attack.every": 2, "server.aggregation": rule}
    record = record_of(data, changes | {"attack.round": 1, "server.rounds": 12})
    absences = set()
    for round_ in record.rounds:
        weights = np.array(round_.weights)
        present = np.flatnonzero(weights)
        assert len(present) == 2
        expected = []
        for client in (2, 0):
            others = np.delete(present, np.argmax(weights[present]))  # the other one who would be there
            mates = [SIZES[c] if rule == "weighted_mean" else 1 for c in (*others, client)]
            expected.append(weights[client] or mates[-1] / sum(mates))
        assert round_.potential_weights == pytest.approx(expected)
        assert bool(round_.attackers) == (round_.round % 2 == 1)
        for attacker, client, potential in zip(round_.attackers, (2, 0), expected, strict=False):
            assert attacker.client == client
            assert attacker.weight == weights[client]
            assert attacker.potential_weight == pytest.approx(potential)
            assert (attacker.update_norm is None) == (attacker.weight == 0)
        absences.add(sum(a.weight == 0 for a in round_.attackers))
    assert absences == {0, 1, 2}  # rounds with one, with both and with none of them were among these
    assert record.attackers == (2, 0)


def test_an_attack_round_in_which_no_attacker_took_part_is_one(data):
    changes = {"server.participation": 0.2, "attack.clients": [3], "attack.round": 1, "attack.every": 1}
    record = record_of(data, changes | {"attack.scale": "replace"})
    assert len(record.attack_rounds) == 6
    absent = [r.attackers[0] for r in record.rounds if r.weights[3] == 0]
    assert absent
    for attacker in absent:
        assert (attacker.weight, attacker.potential_weight, attacker.update_norm) == (0, 1.0, None)
        assert attacker.scale == 1.0  # one participant, itself
        assert attacker.strength == 0


@pytest.mark.parametrize("rule", ["median", "rfa", "krum"])
def test_weights_that_depend_on_the_updates_have_no_bound_but_1(data, rule):
    record = record_of(
        data, {"server.aggregation": rule, "attack.clients": 2, "server.participation": 0.8, "server.num_byzantine": 0}
    )
    for round_ in record.rounds:
        for client, potential in zip((0, 1), round_.potential_weights, strict=True):
            assert potential == (round_.weights[client] or 1.0)


def test_nobody_attacks(data):
    record = record_of(data, {"attack.round": None, "attack.clients": 2})
    assert record.attackers == ()
    assert record.attack_rounds == ()
    assert all(r.potential_weights == () for r in record.rounds)


# Magnitudes


def table(value, count=20):
    x = torch.full((count, 4), value)
    return crfl.FederatedData.from_arrays(
        [x, x], [torch.arange(count) % 2] * 2, x[:4], torch.tensor([0, 1, 0, 1]), feature_names=list("abcd")
    )


TABLE = BASE.override(
    {"data.clients": 2, "attack.trigger": ["a"], "attack.magnitude": 0.07, "local.learning_rate": 1e-14}
)


@pytest.mark.parametrize(("precision", "moved"), [("float32", 0.125), ("float64", 0.07)])
def test_a_magnitude_is_what_was_really_moved(precision, moved):
    """Near 2^20 float32 has steps of 1/8: a trigger of 0.07 moves a feature by 0.125."""
    exp = TABLE.override({"local.precision": precision})
    magnitude = crfl.train(exp, table(2.0**20)).record.attack_rounds[0].attackers[0].magnitude
    assert magnitude >= moved
    assert magnitude == pytest.approx(moved, rel=1e-6)


def test_a_trigger_that_states_less_than_it_moves_is_not_believed(monkeypatch):
    monkeypatch.setitem(TRIGGERS, "sly", lambda attack, data, g: Pattern(torch.full((4,), 0.0625), 1e-12))
    exp = TABLE.override({"attack.trigger": "sly"})
    magnitude = crfl.train(exp, table(0.5)).record.attack_rounds[0].attackers[0].magnitude
    assert magnitude >= 0.125
    assert magnitude == pytest.approx(0.125, rel=1e-9)


def test_a_trigger_that_states_more_than_it_moves_is_believed(monkeypatch):
    monkeypatch.setitem(TRIGGERS, "careful", lambda attack, data, g: Pattern(torch.full((4,), 0.01), 3.0))
    exp = TABLE.override({"attack.trigger": "careful"})
    assert crfl.train(exp, table(0.5)).record.attack_rounds[0].attackers[0].magnitude == 3.0


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("make", [images, floats])
def test_magnitudes_are_never_less_than_what_moved_in_the_precision_of_training(monkeypatch, precision, make):
    """Features of byte images are no float32 numbers: what turns them white moves them by more than their rounding."""
    monkeypatch.setitem(TRIGGERS, "white", lambda attack, data, g: torch.ones_like)
    data = make(SIZES)
    record = record_of(data, {"attack.trigger": "white", "attack.clients": 5, "local.precision": precision})
    kind = torch.float64 if precision == "float64" else torch.float32
    for attacker, shard in zip(record.attack_rounds[0].attackers, data.shards, strict=True):
        x = data.x[shard].to(kind) * data.scale
        moved = (1 - x.double()).norm(dim=1).max()
        assert attacker.magnitude >= moved
        assert attacker.magnitude == pytest.approx(float(moved), rel=1e-11)

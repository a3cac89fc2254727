"""What malicious clients send, and that no update stops the server or reaches where it should not."""

import math

import numpy as np
import pytest
import torch

import crfl
from crfl.attack.malicious import MALICIOUS, as_update, gaussian, nan, sign_flip
from crfl.errors import InvalidUpdateWarning
from tests.federations import images, small_settings
from tests.training.oracle import local_training
from tests.training.rule_loops import RULES

SIZES = [9, 20, 31, 16, 12, 10, 25]
BASE = small_settings(
    SIZES,
    {
        "local.learning_rate": 0.3,
        "server.rounds": 5,
        "attack.round": 3,
        "attack.trigger": [[0, 0]],
    },
)


@pytest.fixture(scope="module")
def data():
    return images(SIZES)


def test_the_known_ones():
    update, model = torch.arange(1.0, 5.0, dtype=torch.float64), torch.zeros(4)
    assert torch.equal(sign_flip(update, model, torch.Generator()), -update)
    assert nan(update, model, torch.Generator()).isnan().all()
    first, second = (gaussian(update, model, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert first.norm() == pytest.approx(float(update.norm()))
    assert not torch.allclose(first, second)
    assert not gaussian(0 * update, model, torch.Generator()).any()


def test_a_generator_for_each_client_and_round(data, monkeypatch):
    drawn = []
    monkeypatch.setitem(MALICIOUS, "noted", lambda u, w, g: drawn.append(float(torch.rand(1, generator=g))) or u)
    exp = BASE.override({"attack.update": "noted", "attack.clients": 2, "attack.round": [1, 2]})
    crfl.train(exp, data)
    assert len(set(drawn)) == 4
    crfl.train(exp.override({"server.aggregation": "median"}), data)
    assert drawn[:4] == drawn[4:]


def test_invalid_updates_are_dropped_recorded_and_told_once(data):
    exp = BASE.override({"attack.update": "nan", "attack.round": [2, 4], "attack.clients": [3]})
    with pytest.warns(InvalidUpdateWarning, match=r"round 2: .*client 3 \(number 3\): not finite") as caught:
        run = crfl.train(exp, data)
    assert [w.category for w in caught].count(InvalidUpdateWarning) == 1  # not again in round 4
    for round_ in run.record.rounds:
        hit = round_.round in (2, 4)
        assert [(d.client, d.reason) for d in round_.dropped] == ([(3, "not finite")] if hit else [])
        rest = 1 / 6 if hit else 1 / 7
        assert round_.weights == pytest.approx([0.0 if hit and i == 3 else rest for i in range(7)])
    attacker = run.record.rounds[1].attackers[0]
    assert (attacker.weight, attacker.update_norm) == (0, None)
    assert attacker.potential_weight >= 1 / 7
    assert torch.isfinite(run.params).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "send", "reason"),
    [
        ("infinite", lambda u, w, g: u.index_fill(0, torch.tensor([7]), math.inf), "not finite"),
        ("overflowing", lambda u, w, g: u + torch.finfo(u.dtype).max / 2, "not finite"),  # once scaled
        ("enormous", lambda u, w, g: u.double() + 1e200, "not finite"),  # its norm is not
        ("short", lambda u, w, g: u[:-1], "of the wrong shape"),
        ("two", lambda u, w, g: torch.stack([u, u]), "of the wrong shape"),
        ("nothing", lambda u, w, g: None, "of the wrong shape"),
        ("words", lambda u, w, g: np.array(["a"] * len(u)), "of the wrong shape"),
        ("complex", lambda u, w, g: u * 1j, "of the wrong shape"),
    ],
)
def test_no_invalid_update_reaches_any_rule(data, monkeypatch, rule, clip, precision, name, send, reason):
    """The attacked round is that of the other clients, aggregated by hand."""
    monkeypatch.setitem(MALICIOUS, name, send)
    changes = {"server.aggregation": rule, "server.rounds": 1, "attack.round": 1, "attack.update": name}
    exp = BASE.override(changes | {"server.update_clip": clip, "server.clip.start": 1e3, "local.precision": precision})
    with pytest.warns(InvalidUpdateWarning, match=reason):
        run = crfl.train(exp, data)
    start = run.model.initial(crfl.rng.stream(0, "initial model")).double().numpy()
    x, y = data.x.numpy() * data.scale, data.y.numpy()
    updates = [local_training(exp, data, x, y, data.shards[i].numpy(), i, 1, start, 0.3, None) for i in range(1, 7)]
    updates = [torch.from_numpy(u * min(1, (clip or math.inf) / np.linalg.norm(u))) for u in updates]
    aggregate, _ = RULES[rule](updates, SIZES[1:], 1)
    expected = torch.from_numpy(start) + aggregate
    torch.testing.assert_close(run.params.double(), expected, rtol=0, atol=1e-12 if precision == "float64" else 2e-6)
    assert [(d.client, d.reason) for d in run.record.rounds[0].dropped] == [(0, reason)]
    assert run.record.rounds[0].weights[0] == 0


@pytest.mark.parametrize(
    "send",
    [
        lambda u, w, g: (2 * u).to_sparse(),
        lambda u, w, g: 2 * u.requires_grad_(),
        lambda u, w, g: (2 * u).numpy(),
        lambda u, w, g: 2 * u.double(),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_an_update_in_any_dress(data, monkeypatch, send, precision):
    monkeypatch.setitem(MALICIOUS, "plain", lambda u, w, g: 2 * u)
    monkeypatch.setitem(MALICIOUS, "dressed", send)
    exp = BASE.override({"local.precision": precision})
    plain, dressed = (crfl.train(exp.override({"attack.update": name}), data) for name in ("plain", "dressed"))
    assert torch.equal(plain.params, dressed.params)


def test_what_is_an_update():
    like = torch.zeros(3)
    assert torch.equal(as_update([1.0, 2.0, 3.0], like) or like, like)  # a list is none
    assert as_update(np.arange(3), like).tolist() == [0, 1, 2]
    assert as_update(np.array([1, "a", None], dtype=object), like) is None
    assert as_update(torch.empty(3, device="meta"), like) is None


def test_the_clip_of_updates_holds_for_the_largest_numbers(data, monkeypatch):
    monkeypatch.setitem(MALICIOUS, "huge", lambda u, w, g: torch.full_like(u, 3e37))
    for precision in ("float32", "float64"):
        changes = {"attack.update": "huge", "server.update_clip": 1e-4, "local.precision": precision}
        (attacked,) = crfl.train(BASE.override(changes), data).record.attack_rounds
        assert attacked.attackers[0].update_norm == pytest.approx(1e-4, rel=1e-6)
        assert attacked.update_norms[0] == pytest.approx(5 * 3e37 * math.sqrt(111), rel=1e-6)


def test_a_malicious_function_cannot_touch_the_others(data, monkeypatch):
    def meddle(update, model, generator):
        model.fill_(9.0)
        return update.fill_(0.0)

    monkeypatch.setitem(MALICIOUS, "meddle", meddle)
    exp = BASE.override({"attack.update": "meddle"})
    run, silent = crfl.train(exp, data), crfl.train(exp, data, benign=True)
    assert torch.equal(run.params, silent.params)

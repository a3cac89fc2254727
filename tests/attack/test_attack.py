"""Every attacker, rule of participation and hostile update against a hand-written loop or a closed form."""

import math
import warnings
from dataclasses import replace

import pytest
import torch

import crfl
from crfl.attack.malicious import MALICIOUS
from crfl.attack.plan import Plan
from crfl.attack.triggers import TRIGGERS, Pattern, edge_cases, make_trigger
from crfl.data.federated import FederatedData, Split
from crfl.errors import DataError, InvalidUpdateWarning, SettingsError, TrainingError
from crfl.runs import record_file
from crfl.server import project
from tests.interrupted import interrupted
from tests.training.naive import crew_of, naive_rounds

BASE = crfl.Experiment().override({"server.rounds": 6, "attack.round": 3, "server.clip.start": 1.5})
PLACES = [[1, 1], [2, 2], [3, 3], [4, 4], [5, 5]]
STRONG = {"attack.magnitude": 3.0, "attack.poisoned_per_batch": 7}


@pytest.fixture(scope="module")
def data():
    return crfl.load_data(BASE)


@pytest.mark.parametrize(
    "changes",
    [
        {"attack.round": [2, 5]},
        {"attack.round": 2, "attack.every": 2, "attack.clients": 2},
        {
            "attack.clients": [7, 2],
            "attack.per_attacker": [{"scale": 20.0, "target": 5}, {"magnitude": 4.0, "trigger": [[0, 0]]}],
        },
        {"attack.clients": ["client 8", 4]},
        {"attack.clients": 3, "attack.random_clients": True, "attack.scale": "replace"},
        {"attack.clients": 3, "attack.distributed": True, "attack.trigger": PLACES, **STRONG},
        {"attack.trigger": "full_image", **STRONG},
        {"attack.labels": "keep", **STRONG},
        {"attack.magnitude": 0.0, "attack.trigger": [], "attack.poisoned_per_batch": 9},
        {"attack.update": "sign_flip", "attack.clients": 2},
        {"attack.update": "gaussian", "attack.poisoned_per_batch": 0},
        {"attack.per_attacker": [{"update": "sign_flip"}, {}], "attack.clients": 2},
        {"attack.update": "nan", "attack.round": [2, 4]},
        {"server.participation": 0.5, "attack.round": 1, "attack.every": 1, "attack.clients": 4},
        {"server.participation": 0.3, "attack.clients": [9], "attack.force_participation": True},
        {
            "server.participation": 0.2,
            "attack.clients": 5,
            "attack.force_participation": True,
            "attack.scale": "replace",
        },
        {"local.learning_rate": [0.01 * i for i in range(1, 11)], "local.weight_decay": 0.05},
        {"server.update_clip": 0.3, "server.participation": 0.7},
        {"server.update_clip": 0.3, "attack.update": "gaussian", "attack.round": [1, 2]},
    ],
    ids=lambda changes: "-".join(changes),
)
@pytest.mark.parametrize("benign", [False, True])
@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
def test_equals_the_naive_loop(data, changes, benign):
    exp = BASE.override(changes)
    run = crfl.train(exp, data, benign=benign)
    params, weights = naive_rounds(exp, data, benign=benign)
    torch.testing.assert_close(run.params, params, rtol=0, atol=4e-6)
    for round_, expected in zip(run.record.rounds, weights, strict=True):
        assert round_.weights == pytest.approx([expected.get(i, 0.0) for i in range(10)])
        present = {c for c in crew_of(exp, data, round_.round) if c in expected}
        assert {a.client for a in round_.attackers if a.weight} == present


def test_the_record_tells_each_attackers_part(data):
    changes = {
        "attack.clients": [7, 2],
        "attack.per_attacker": [{"scale": 20.0, "labels": "keep"}, {"magnitude": 4.0, "poisoned_per_batch": 3}],
        "local.learning_rate": [0.01 * i for i in range(1, 11)],
    }
    first, second = crfl.train(BASE.override(changes), data).record.attack_rounds[0].attackers
    assert (first.client, first.scale, first.magnitude, first.label_flip) == (7, 20.0, 0.1, False)
    assert (second.client, second.scale, second.magnitude, second.label_flip) == (2, 5.0, 4.0, True)
    assert (first.learning_rate, second.learning_rate) == (0.08, 0.03)
    assert (first.poison_ratios, second.poison_ratios) == ((1 / 20,) * 7, (3 / 20,) * 7)
    assert first.update is None


def test_full_replacement_makes_the_mean_the_attackers_model(data):
    """With gamma = N and one attacker, the aggregate is its update plus the mean of the others' small ones."""
    exp = BASE.override({"attack.scale": "replace", "attack.round": 1, "attack.clients": 1})
    record = crfl.train(exp, data).record.rounds[0].attackers[0]
    assert record.scale == 10
    assert record.weight * record.scale == pytest.approx(1)


def test_the_update_norm_is_what_the_server_saw(data):
    exp = BASE.override({"attack.update": "gaussian", "attack.poisoned_per_batch": 0, "attack.scale": 3.0})
    plain = crfl.train(exp.override({"attack.update": None, "attack.scale": 1.0}), data).record.attack_rounds[0]
    sent = crfl.train(exp, data).record.attack_rounds[0]
    assert sent.attackers[0].update == "gaussian"
    assert sent.attackers[0].update_norm == pytest.approx(3 * plain.attackers[0].update_norm, rel=1e-5)
    clipped = crfl.train(exp.override({"server.update_clip": 0.1}), data).record.attack_rounds[0]
    assert clipped.attackers[0].update_norm == pytest.approx(0.1, rel=1e-6)
    counterpart = crfl.train(exp, data, benign=True).record.attack_rounds[0]
    assert counterpart.attackers[0].update_norm == 0
    assert counterpart.weights == (0.1,) * 10


# Who takes part


def test_participation_is_drawn_anew_and_knows_no_attack(data):
    exp = BASE.override({"server.participation": 0.4, "attack.clients": 3})
    draws = [tuple(Plan(exp, data).participants(t)) for t in range(1, 7)]
    assert all(len(set(draw)) == 4 for draw in draws)
    assert len(set(draws)) == 6
    other = Plan(exp.override({"attack.round": None}), data)
    assert draws == [tuple(other.participants(t)) for t in range(1, 7)]
    forced = Plan(exp.override({"attack.force_participation": True}), data)
    assert {0, 1, 2} < set(forced.participants(3))
    assert len(forced.participants(3)) == 4
    assert [tuple(forced.participants(t)) for t in (1, 2, 4, 5, 6)] == draws[:2] + draws[3:]


def test_absent_attackers_do_not_attack(data):
    exp = BASE.override({"server.participation": 0.1, "attack.round": 1, "attack.every": 1, "attack.clients": [0, 5]})
    record = crfl.train(exp, data).record
    for round_ in record.rounds:
        present = {i for i, p in enumerate(round_.weights) if p}
        assert len(present) == 1
        assert {a.client for a in round_.attackers} == present & {0, 5}


def test_runs_of_a_stack_may_have_different_participants(data):
    base = BASE.override({"server.participation": 0.4, "attack.force_participation": True})
    stack = [base, base.override({"attack.clients": [9]}), base.override({"server.participation": 0.7})]
    for together, exp in zip(crfl.train_many(stack, data), stack, strict=True):
        alone = crfl.train(exp, data)
        torch.testing.assert_close(together.params, alone.params, rtol=0, atol=2e-6)
        assert [r.weights for r in together.record.rounds] == [r.weights for r in alone.record.rounds]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"attack.clients": ["nobody"]}, DataError, r"attack.clients: got 'nobody', expected .*client 3"),
        ({"attack.clients": [3, "client 3"]}, DataError, "different clients"),
        (
            {"attack.per_attacker": [{"target": 10}]},
            DataError,
            r"attack.per_attacker.0.target: got 10, expected 0 to 9",
        ),
        ({"attack.update": "shout"}, SettingsError, r"attack.update: got 'shout'.*sign_flip, gaussian, nan"),
        ({"attack.trigger": "nosuch"}, SettingsError, r"attack.trigger: got 'nosuch'.*full_image"),
        ({"attack.per_attacker": [{"trigger": [[8, 0]]}]}, SettingsError, r"attack.trigger: got pixel \[8, 0\]"),
        ({"server.aggregation": "best"}, SettingsError, r"server.aggregation: got 'best'.*multi_krum"),
    ],
)
def test_what_does_not_fit_is_named(data, changes, error, message):
    with pytest.raises(error, match=message):
        crfl.train(BASE.override(changes), data)


# Triggers


def test_a_distributed_backdoor_shows_whole_on_the_test_set(data):
    exp = BASE.override({"attack.clients": 2, "attack.distributed": True, "attack.trigger": PLACES})
    parts = [make_trigger(a, data, 0) for a in exp.attack.individuals]
    whole = make_trigger(exp.attack, data, 0)
    x = torch.zeros(3, 64)
    torch.testing.assert_close(parts[0](x) + parts[1](x), whole(x))
    assert [int((p(x)[0] > 0).sum()) for p in parts] == [3, 2]
    magnitudes = [p.magnitude(data, 0) for p in parts]
    assert magnitudes == pytest.approx([float(p(x)[0].norm()) for p in parts])
    assert math.hypot(*magnitudes) == pytest.approx(0.1)
    assert torch.equal(crfl.backdoored(exp, data).x, whole(data.test.x))


def test_a_full_image_trigger_has_its_norm_and_comes_from_the_seed(data):
    exp = BASE.override({"attack.trigger": "full_image", "attack.magnitude": 0.5})
    free = replace(data, domain=None)
    change = make_trigger(exp.attack, free, 0)(data.test.x) - data.test.x
    torch.testing.assert_close(change.norm(dim=1), torch.full((len(change),), 0.5), rtol=1e-4, atol=0)
    torch.testing.assert_close(change[0], change[1], rtol=0, atol=1e-6)
    assert not torch.equal(
        make_trigger(exp.attack, free, 1)(data.test.x), make_trigger(exp.attack, free, 0)(data.test.x)
    )
    clamped = make_trigger(exp.attack, data, 0)(data.test.x)
    assert clamped.min() >= 0
    assert clamped.max() <= 1
    assert (clamped - data.test.x).norm(dim=1).max() <= 0.5


def test_edge_cases_replace_samples_by_the_nearest(data, monkeypatch):
    rare = torch.rand(5, 64, generator=torch.Generator().manual_seed(1))
    monkeypatch.setitem(TRIGGERS, "rare", edge_cases(rare))
    trigger = make_trigger(BASE.override({"attack.trigger": "rare"}).attack, data, 0)
    changed = trigger(data.test.x[:20])
    for x, found in zip(data.test.x[:20], changed, strict=True):
        assert torch.equal(found, min(rare, key=lambda r: float((r - x).norm())))
    bound = trigger.magnitude(data, 0)
    assert (changed - data.test.x[:20]).norm(dim=1).max() <= bound <= rare.norm(dim=1).max() + data.max_feature_norm
    monkeypatch.setitem(TRIGGERS, "rare", edge_cases(rare[:, :9].numpy()))
    with pytest.raises(DataError, match=r"edge cases: got shape \(5, 9\), expected \(any, 64\)"):
        make_trigger(BASE.override({"attack.trigger": "rare"}).attack, data, 0)


def test_ones_own_trigger(data, monkeypatch):
    """Clamped to the domain; its magnitude is measured on the attacker's samples; the test set itself stays."""

    def brighter(attack, data, generator):
        return lambda x: x.mul_(1.5)  # in place, to be kept from harm

    monkeypatch.setitem(TRIGGERS, "brighter", brighter)
    exp = BASE.override({"attack.trigger": "brighter", "attack.clients": [4]})
    before = data.test.x.clone()
    run = crfl.train(exp, data)
    assert torch.equal(data.test.x, before)
    x = data.clients[4].x
    expected = float(((1.5 * x).clamp(max=1) - x).norm(dim=1).max())
    assert run.record.attack_rounds[0].attackers[0].magnitude == pytest.approx(expected)
    assert torch.equal(crfl.backdoored(exp, data).x, (1.5 * before).clamp(max=1))
    triggered = run.model.logits(run.params, (1.5 * before).clamp(max=1)).argmax(1) == 0
    assert run.history["attack_success_rate"].iloc[-1] == pytest.approx(
        float(triggered[data.test.y != 0].float().mean())
    )


@pytest.mark.parametrize("wrong", [lambda x: x[:, :3], lambda x: x / 0, lambda x: None])
def test_a_broken_trigger_is_named(data, monkeypatch, wrong):
    monkeypatch.setitem(TRIGGERS, "broken", lambda attack, data, generator: wrong)
    with pytest.raises(DataError, match=r"attack.trigger: 'broken' made .*expected a tensor of the same shape"):
        crfl.train(BASE.override({"attack.trigger": "broken"}), data)


def test_feature_triggers_by_name(data):
    names = tuple(f"f{i}" for i in range(64))
    table = replace(data, input_shape=None, feature_names=names)
    trigger = make_trigger(BASE.override({"attack.trigger": ["f3", "f60"]}).attack, table, 0)
    changed = trigger(torch.zeros(1, 64))[0]
    assert changed.nonzero().flatten().tolist() == [3, 60]
    assert changed.norm() == pytest.approx(0.1)


# Hostile updates


def test_hostile_updates_are_dropped_recorded_and_told(data):
    exp = BASE.override({"attack.update": "nan", "attack.round": [2, 4], "attack.clients": [3]})
    with pytest.warns(InvalidUpdateWarning, match=r"round 2: .*client 3 \(number 3\): not finite") as caught:
        run = crfl.train(exp, data)
    assert len(caught) == 1  # not again in round 4
    for round_ in run.record.rounds:
        hit = round_.round in (2, 4)
        assert [(d.client, d.reason) for d in round_.dropped] == ([(3, "not finite")] if hit else [])
        rest = 1 / 9 if hit else 1 / 10
        assert round_.weights == pytest.approx([0.0 if hit and i == 3 else rest for i in range(10)])
    assert run.record.rounds[1].attackers[0].update_norm is None
    assert torch.isfinite(run.params).all()
    assert record_file.loads(record_file.dumps(run.record)) == run.record


@pytest.mark.parametrize(
    "rule", ["mean", "weighted_mean", "norm_bounded_mean", "rfa", "median", "trimmed_mean", "krum"]
)
@pytest.mark.parametrize(
    ("name", "send", "reason"),
    [
        ("infinite", lambda u, w, g: u.index_fill(0, torch.tensor([7]), math.inf), "not finite"),
        ("overflowing", lambda u, w, g: u + 3e38, "not finite"),  # once scaled
        ("short", lambda u, w, g: u[:-1], "of the wrong shape"),
        ("two", lambda u, w, g: torch.stack([u, u]), "of the wrong shape"),
        ("nothing", lambda u, w, g: None, "of the wrong shape"),
        ("complex", lambda u, w, g: u * 1j, "of the wrong shape"),
    ],
)
def test_no_hostile_update_reaches_any_rule(data, monkeypatch, rule, name, send, reason):
    """The attacked run is that of the other nine."""
    monkeypatch.setitem(MALICIOUS, name, send)
    exp = BASE.override({"server.aggregation": rule, "server.rounds": 1, "attack.round": 1, "attack.update": name})
    with pytest.warns(InvalidUpdateWarning, match=reason):
        run = crfl.train(exp, data)
    rest = replace(data, shards=data.shards[1:], client_names=data.client_names[1:])
    monkeypatch.setattr(
        "crfl.engines.vectorised.rng.keys",
        lambda seed, purpose, t, clients, *more, _original=crfl.rng.keys: _original(
            seed, purpose, t, [c + 1 for c in clients], *more
        ),
    )
    others = crfl.train(exp.override({"data.clients": 9, "attack.round": None}), rest)
    torch.testing.assert_close(run.params, others.params, rtol=0, atol=1e-7)
    assert run.record.rounds[0].dropped[0].reason == reason


@pytest.mark.parametrize(
    "send",
    [
        lambda u, w, g: (2 * u).to_sparse(),
        lambda u, w, g: 2 * u.requires_grad_(),
        lambda u, w, g: (2 * u).numpy(),
        lambda u, w, g: 2 * u.double(),
    ],
)
def test_an_update_in_any_dress(data, monkeypatch, send):
    monkeypatch.setitem(MALICIOUS, "plain", lambda u, w, g: 2 * u)
    monkeypatch.setitem(MALICIOUS, "dressed", send)
    plain, dressed = (crfl.train(BASE.override({"attack.update": name}), data) for name in ("plain", "dressed"))
    assert torch.equal(plain.params, dressed.params)


def test_the_clip_of_updates_holds_for_the_largest_numbers(data, monkeypatch):
    for clip in (1.0, 1e-2, 1e-4, 1e-6):
        for update in (torch.full((7850,), 3e38), torch.randn(7850, generator=torch.Generator().manual_seed(0)) * 7e37):
            assert float(project(update, clip).double().norm()) == pytest.approx(clip, rel=1e-6)
    inside = torch.tensor([1e-45, 1e-40, 0.5])
    assert torch.equal(project(inside, 1.0), inside)
    monkeypatch.setitem(MALICIOUS, "huge", lambda u, w, g: torch.full_like(u, 3e37))
    run = crfl.train(BASE.override({"attack.update": "huge", "server.update_clip": 1e-4}), data)
    assert run.record.attack_rounds[0].attackers[0].update_norm == pytest.approx(1e-4, rel=1e-6)


def test_a_stack_shows_each_run_its_own_backdoor(data, monkeypatch):
    """A trigger may read any setting of the attack."""
    monkeypatch.setitem(
        TRIGGERS, "target", lambda attack, data, g: lambda x: x.index_fill(1, torch.tensor([attack.target]), 1.0)
    )
    runs = [BASE.override({"attack.trigger": "target", "attack.target": t, "attack.scale": 30.0}) for t in range(3)]
    for stacked, exp in zip(crfl.train_many(runs, data), runs, strict=True):
        alone = crfl.train(exp, data).history["attack_success_rate"]
        assert stacked.history["attack_success_rate"].to_numpy() == pytest.approx(alone.to_numpy(), abs=0.02)


@pytest.mark.parametrize("magnitude", [math.nan, math.inf, -1.0, "large"])
def test_a_stated_magnitude_must_be_one(data, monkeypatch, magnitude):
    monkeypatch.setitem(TRIGGERS, "mine", lambda attack, data, g: Pattern(torch.zeros(64), magnitude))
    with pytest.raises(DataError, match=r"attack.trigger: 'mine' states magnitude .* expected a finite number"):
        crfl.train(BASE.override({"attack.trigger": "mine"}), data)


def test_learning_rates_must_fit_the_data_itself(data):
    fewer = replace(data, shards=data.shards[:6], client_names=data.client_names[:6])
    with pytest.raises(DataError, match=r"local.learning_rate: got 10, expected one, or one for each of 6 clients"):
        crfl.train(BASE.override({"local.learning_rate": [0.02] * 10}), fewer)


def test_a_malicious_function_cannot_touch_the_others(data, monkeypatch):
    def meddle(update, model, generator):
        model.fill_(9.0)
        return update.fill_(0.0)

    monkeypatch.setitem(MALICIOUS, "meddle", meddle)
    exp = BASE.override({"attack.update": "meddle"})
    run, silent = crfl.train(exp, data), crfl.train(exp, data, benign=True)
    assert torch.equal(run.params, silent.params)


def test_a_round_without_any_update_fails_and_can_be_resumed(data, tmp_path, monkeypatch):
    exp = BASE.override({"attack.clients": 10, "attack.round": 4, "attack.update": "mine"})
    monkeypatch.setitem(MALICIOUS, "mine", MALICIOUS["nan"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the error says it all
        with pytest.raises(TrainingError, match=r"round 4: no update is left to aggregate, all 10 clients"):
            crfl.train(exp, data, resume_dir=tmp_path)
    assert (tmp_path / "resume" / "manifest.json").exists()
    monkeypatch.setitem(MALICIOUS, "mine", MALICIOUS["sign_flip"])
    resumed = crfl.train(exp, data, resume_dir=tmp_path)
    whole = crfl.train(exp, data)
    assert torch.equal(resumed.params, whole.params)
    assert resumed.record == whole.record


@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
def test_who_was_dropped_survives_an_interruption(data, tmp_path):
    exp = BASE.override({"attack.round": [2, 5], "attack.update": "nan"})
    with interrupted(3):
        crfl.train(exp, data, resume_dir=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told before the interruption
        resumed = crfl.train(exp, data, resume_dir=tmp_path)
    assert resumed.record == crfl.train(exp, data).record


def test_a_pair_is_a_run_and_its_counterpart(data):
    run, benign = crfl.train_pair(BASE, data)
    torch.testing.assert_close(run.params, crfl.train(BASE, data).params, rtol=0, atol=1e-5)
    assert benign.record.benign
    assert not run.record.benign
    distance = run.history["distance"]
    assert distance[1] == 0
    assert distance[2] > 1e-4
    assert distance.iloc[-1] == pytest.approx(float((run.params - benign.params).norm()), rel=1e-6)


def test_a_stack_says_of_each_run_whether_it_is_benign(data):
    with pytest.raises(SettingsError, match="benign: got 1 values, expected one for each of the 2 experiments"):
        crfl.train_many([BASE, BASE], data, benign=[True])


def test_many_small_clients_equal_the_naive_loop(monkeypatch):
    """In chunks of a few clients."""
    monkeypatch.setattr("crfl.engines.vectorised.CHUNK_BYTES", 2**15)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2000, 36), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 3, (2000,), generator=generator)
    shards = torch.randperm(2000, generator=generator).split(20)
    many = FederatedData("many", x, y, shards, Split(x[:9] / 255, y[:9]), 3, 1 / 255, input_shape=(6, 6), domain=(0, 1))
    exp = BASE.override({"data.clients": 100, "local.batch_size": 8, "attack.clients": 30, "server.rounds": 3})
    exp = exp.override({"attack.trigger": [[5, 5], [0, 0]], "server.participation": 0.8})
    params, _ = naive_rounds(exp, many)
    torch.testing.assert_close(crfl.train(exp, many).params, params, rtol=0, atol=4e-6)


def test_the_attack_must_fit_the_data_itself():
    """Settings may speak of more clients or classes than a user's own data has."""
    x, y = torch.rand(12, 3), torch.arange(12) % 4
    data = crfl.FederatedData.from_arrays(x, y, x, y, shards=[range(8), range(8, 12)])
    exp = crfl.Experiment().override(
        {"local.batch_size": 4, "server.rounds": 2, "attack.round": 1, "attack.trigger": "full_image"}
    )
    with pytest.raises(DataError, match=r"attack.clients: got 3, expected 0 to 2"):
        crfl.train(exp.override({"attack.clients": 3}), data)
    with pytest.raises(DataError, match=r"attack.target: got 4, expected 0 to 3"):
        crfl.train(exp.override({"attack.target": 4}), data)
    crfl.train(exp.override({"attack.target": 4, "attack.round": None}), data)

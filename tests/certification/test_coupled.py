"""Budgets of the coupling certificate, and where it is refused."""

import math
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crfl
from crfl.certification import exact_bounds, margin_budget, smoothing_budget
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.refusals import check_clients, check_coupled
from crfl.certification.margin import smoothing_budget_from_logs
from crfl.curvature import batch_smoothness
from crfl.errors import CertificateError
from crfl.record import DroppedRecord
from tests.certification.records import attacker, make_record, make_round


def test_margin_budget_is_the_distance_to_the_boundary():
    """A step of the budget's length along (e_b - e_a) x~^T ties the two classes; no shorter one of any kind does."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        w, x = rng.normal(size=(4, 6)), np.append(rng.normal(size=5), 1.0)
        logits = w @ x
        budget = margin_budget(logits[None], np.linalg.norm(x))[0]
        order = np.argsort(-logits)
        step = np.zeros((4, 6))
        step[order[0]], step[order[1]] = -x, x
        step *= budget / np.linalg.norm(step)
        tied = (w + step) @ x
        assert tied[order[0]] == pytest.approx(tied[order[1]], abs=1e-12)
        for _ in range(50):
            other = rng.normal(size=(4, 6))
            other *= 0.9999 * budget / np.linalg.norm(other)
            assert ((w + other) @ x).argmax() == order[0]


def test_margin_budget_edges():
    found = margin_budget([[1.0, 1.0, 0.0], [3.0, 1.0, 2.0]], [2.0, 2.0])
    np.testing.assert_allclose(found, [0.0, 1 / (2 * math.sqrt(2))])
    with pytest.raises(CertificateError, match="logits"):
        margin_budget([[np.nan, 0.0]], 1.0)
    with pytest.raises(CertificateError, match="feature_norms"):
        margin_budget([[1.0, 0.0]], -1.0)


def test_smoothing_budget_values_and_edges():
    assert smoothing_budget(0.9, 0.1, noise=2.0) == pytest.approx(2 * 1.2815515655446004, rel=1e-14)
    found = smoothing_budget([1.0, 0.5, 0.3, 1.0], [0.0, 0.5, 0.6, 0.2], noise=0.1)
    assert found[:3].tolist() == [np.inf, 0, 0]
    assert found[3] == np.inf
    assert smoothing_budget(1.0, 0.0, noise=0.0) == 0
    assert smoothing_budget_from_logs(-1e6, -1e6, noise=1.0) == pytest.approx(math.sqrt(2e6), rel=1e-5)


@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.001, 1.0))
def test_smoothing_never_beats_the_margin(seed, classes, noise):
    """With exact probabilities they agree for two classes, and the margin is larger for more."""
    rng = np.random.default_rng(seed)
    logits, norms = rng.normal(size=(20, classes)), rng.uniform(1, 10, size=20)
    bounds = exact_bounds(logits, noise * norms)
    smoothing = smoothing_budget_from_logs(bounds.log_not_p_a, bounds.log_p_b, noise=noise)
    margin = margin_budget(logits, norms)
    assert (smoothing <= margin * (1 + 1e-9) + 1e-12).all()
    if classes == 2:
        np.testing.assert_allclose(smoothing, margin, rtol=1e-7, atol=1e-13)


SOUND = make_record([make_round(1, [attacker()])])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"aggregation": "rfa", "data_independent_weights": False}, "server.aggregation is 'rfa'"),
        ({"optimizer": "momentum"}, "optimizer is 'momentum'"),
        ({"learning_rates": (0.02, 0.02, 0.02, 0.1601)}, "above 0.16 = "),
        ({"bias": False, "learning_rates": (0.1667,) * 4}, "the largest norm of x)"),
        ({"weight_decay": 50.0, "learning_rates": (0.03,) * 4}, "local.learning_rate is 0.03"),
        ({"max_feature_norm": math.nan}, "local.learning_rate"),
        ({"rounds": (make_round(1, [attacker()], start_spectral_norm=None),)}, "not softmax regression"),
        ({"rounds": (make_round(1, [attacker()], weights=(0.5, 0.5, 0.5, -0.5)),)}, "weight is negative"),
        ({"rounds": (make_round(1, [attacker()], decay=1.5),)}, "kappa_t lies outside"),
        ({"rounds": (make_round(1, [attacker()], start_norm=math.inf),)}, "not finite"),
        ({"rounds": (make_round(1, [attacker()], dropped=(DroppedRecord(2, "not finite", 0.25),)),)}, "dropped"),
        (
            {
                "rounds": (
                    make_round(1, [attacker()], update_clip=9.0, dropped=(DroppedRecord(2, "not finite", 0.25),)),
                )
            },
            "dropped",
        ),
        ({"rounds": (make_round(1, [attacker()], dropped=(DroppedRecord(0, "not finite", 0.25),)),)}, "dropped"),
        ({"rounds": (make_round(1, [attacker(update="sign_flip")]),)}, "unknown norm"),
        ({"benign": True, "rounds": (make_round(1, [attacker(update="x", update_norm=0.0)]),)}, "unknown norm"),
        ({"norm_bound": 1.0}, "above the bound 1"),
        ({"precision": "bfloat16"}, "nothing is known of its rounding"),
        ({"precision": "float32", "learning_rates": (1e-8,) * 4}, "Train with local.precision: float64"),
    ],
)
def test_refused_with_the_reason(change, reason):
    check_coupled(SOUND)
    with pytest.raises(CertificateError, match=re.escape(reason)):
        check_coupled(replace(SOUND, **change))


def test_all_reasons_at_once():
    with pytest.raises(CertificateError) as error:
        check_coupled(make_record([make_round(1)], aggregation="rfa", data_independent_weights=False, optimizer="adam"))
    assert "rfa" in str(error.value)
    assert "adam" in str(error.value)


def test_step_size_limit_is_allowed():
    """4 / B^2 itself still is non-expansive."""
    check_coupled(make_record([make_round(1)], learning_rates=(0.16,) * 4))
    check_coupled(make_record([make_round(1)], learning_rates=(2 / 14.5,) * 4, weight_decay=1.0))


def test_any_round_knows_one_attack():
    record = make_record([make_round(1, [attacker()]), make_round(2, [attacker()])])
    check_coupled(record)
    with pytest.raises(CertificateError, match="in several"):
        check_coupled(record, any_round=True)


def test_known_norms_of_malicious_updates_are_enough():
    record = make_record([make_round(1, [attacker(update="sign_flip", update_norm=0.3)])])
    check_coupled(record)
    with pytest.raises(CertificateError, match="unknown norm"):
        check_coupled(record, any_round=True)


def test_certain_classes_make_no_noise():
    with np.errstate(all="raise"):
        assert smoothing_budget([1.0, 0.0, 1.0], [1.0, 0.0, 0.0], noise=0.1).tolist() == [0.0, 0.0, np.inf]


def test_a_schedule_may_bring_long_steps_below_the_limit():
    long = make_record([make_round(1, learning_rate_cap=0.16)], learning_rates=(1.0,) * 4)
    check_coupled(long)
    with pytest.raises(CertificateError, match=r"above 0\.16"):
        check_coupled(replace(long, rounds=(*long.rounds, make_round(2, learning_rate_cap=0.2))))


def test_own_rules_with_fixed_weights_and_small_clips_are_covered():
    check_coupled(make_record([make_round(1, [attacker()], update_clip=0.01)], aggregation="mine", weight_decay=0.1))


def test_clients_need_a_clip_in_every_round():
    with pytest.raises(CertificateError, match=r"set server\.update_clip"):
        check_clients(make_record([make_round(1, update_clip=1.0), make_round(2)]))
    check_clients(make_record([make_round(1, update_clip=1.0)]))


def test_the_curvature_of_a_clients_own_batches_decides_how_long_its_steps_may_be():
    flat = make_record([make_round(1)], learning_rates=(0.9, 0.16, 0.16, 0.16), smoothness=(2.0, 12.5, 12.5, 12.5))
    check_coupled(flat)
    check_coupled(replace(flat, smoothness=(2.0, 99.0, 99.0, 99.0)))  # never above B^2 / 2
    with pytest.raises(CertificateError, match="batches of client b"):
        check_coupled(replace(flat, learning_rates=(0.9, 0.17, 0.16, 0.16)))


def overflowing(scale):
    """Two classes, features so small that updates are some 5 long, one full batch; clean data without a bias."""
    rng, y = np.random.default_rng(0), np.arange(10) % 2
    side = 0.1 * np.where(y[:, None] == 1, 1, -1) * np.array([[1.0, 0.5]])
    x = [(side + 0.01 * rng.normal(size=(10, 2))).astype(np.float32) for _ in range(4)]
    data = crfl.FederatedData.from_arrays(x, [y] * 4, rng.normal(size=(400, 2)), np.zeros(400, int), num_classes=2)
    local = {"precision": "float32", "batch_size": 10, "learning_rate": 100.0}
    attack = {"round": 1, "scale": scale, "labels": "keep", "trigger": "full_image", "magnitude": 0.001}
    exp = crfl.Experiment().override(
        {
            "seed": 1,
            "data": {"name": "custom", "clients": 4},
            "model.bias": False,
            "local": local,
            "server": {"rounds": 1, "clip": {"start": 1.0, "slope": 0.0}},
            "attack": {**attack, "poisoned_per_batch": 10},
        }
    )
    return exp, data


@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
def test_scaled_updates_that_may_overflow_are_refused():
    """The clean update times gamma is just a number of float32, the poisoned one is not, and is dropped."""
    exp, data = overflowing(3.4028e38 / (5.631147384643555 * 5.631311416625977) ** 0.5)
    benign, attacked = crfl.train(exp, data, benign=True), crfl.train(exp, data)
    assert [len(r.record.rounds[0].dropped) for r in (benign, attacked)] == [0, 1]
    scenario = CoupledScenario(benign.record, before_clip=False)
    assert float((benign.params - attacked.params).norm()) > 2 * scenario.cost(0.001)
    with pytest.raises(CertificateError, match="may overflow or vanish in float32"):
        crfl.certify(benign, data)
    smaller = crfl.train(exp.override({"attack.scale": 1e10}), data, benign=True)
    check_coupled(smaller.record)


@pytest.mark.parametrize(
    "changes",
    [{"start_norm": 2.0**101}, {"pre_clip_norm": 2.0**101}, {"learning_rate_cap": 1e-40}],
)
def test_numbers_out_of_range_are_refused(changes):
    check_coupled(make_record([make_round(1, start_norm=2.0**99)]))
    with pytest.raises(CertificateError, match="may overflow or vanish in float64"):
        check_coupled(make_record([make_round(1, **changes)]))


@pytest.mark.parametrize("scale", [0.7, 1 / 255, 0.1, 1e-3])
@pytest.mark.parametrize("samples", [1, 4])
def test_curvature_is_that_of_the_features_that_are_trained_on(scale, samples):
    """scale times x in float64: that product rounded to float32 may be less curved."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        stored = rng.integers(0, 256, (2 * samples, 3)).astype(np.uint8)
        y = np.zeros(2 * samples, int)
        data = crfl.FederatedData.from_arrays(
            stored, y, stored, y, scale=scale, num_classes=2, shards=np.arange(2 * samples).reshape(2, -1)
        )
        found = batch_smoothness(data, crfl.Experiment().override({"local.batch_size": samples}).local, bias=False)
        for beta, x in zip(found, stored.reshape(2, samples, 3), strict=True):
            full = [[Fraction(int(v)) * Fraction(scale) for v in row] for row in x]
            gram = sum(np.outer(row, row) for row in np.array(full, dtype=object))
            trace = sum(gram[i, i] for i in range(3))  # the eigenvalue of one sample
            exact = float(trace) if samples == 1 else np.linalg.eigvalsh(gram.astype(float))[-1]
            assert beta >= exact / samples / 2 * (1 - 1e-13)
            assert beta <= exact / samples / 2 * (1 + 1e-8)

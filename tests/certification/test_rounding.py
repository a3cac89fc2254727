"""Rounding: the lemmas against exact arithmetic, and runs that differ by nothing else."""

import math
from dataclasses import replace
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import crfl
from crfl.certification.coupling.arithmetic import FLOAT64_UNIT, Arithmetic, arithmetic, gamma
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.local import LocalTraining
from crfl.certification.coupling.poison import largest_spectral_norms
from crfl.certification.coupling.refusals import check_clients, check_coupled
from crfl.certification.coupling.rounding import Rounding
from crfl.certification.coupling.rounds import Rounds, round_shares
from crfl.certification.margin import lowered_budget, margin_budget
from crfl.errors import CertificateError
from crfl.models.softmax import SoftmaxRegression
from crfl.server import project
from tests.certification.records import attacker, make_record, make_round
from tests.certification.simulation import World, distances, local_update, simulate


def exactly(values):
    """The numbers as mpmath's, with 60 digits."""
    mpmath.mp.dps = 60
    return np.vectorize(mpmath.mpf, otypes=[object])(np.asarray(values, dtype=np.float64))


def norm(values):
    return mpmath.sqrt(sum(v * v for v in np.ravel(values)))


def exact_softmax(logits):
    e = np.vectorize(mpmath.exp, otypes=[object])(logits)
    return e / e.sum(axis=1, keepdims=True)


def exact_update(z, batches, rate, decay, bias):
    """z^(tau) - z without rounding; the batches are (x, y) in float64."""
    z = exactly(z)
    w, rate, decay = z.copy(), mpmath.mpf(rate), mpmath.mpf(decay)
    for x, y in batches:
        x = exactly(np.concatenate([x, np.ones((len(x), 1))], axis=1) if bias else x)
        residual = exact_softmax(x @ w.T)
        residual[np.arange(len(y)), y] -= 1
        w = w - rate * (residual.T @ x / len(y) + decay * w)
    return w - z


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60), st.integers(0, 1000))
def test_gamma_bounds_sums_in_any_order(values, seed):
    values = np.array(values)[np.random.default_rng(seed).permutation(len(values))]
    exact = sum(map(Fraction, values.tolist()))
    found = 0.0
    for v in values.tolist():
        found += v
    for computed in (found, float(values.sum()), float(torch.tensor(values).sum())):
        limit = Fraction(float(gamma(len(values) - 1))) * sum(abs(Fraction(v)) for v in values.tolist())
        assert abs(Fraction(computed) - exact) <= limit


@pytest.mark.parametrize("classes", [2, 3, 10, 50])
def test_softmax_and_log_softmax_are_as_exact_as_claimed(classes):
    """Also where logits are large: the error is absolute, and does not grow with them (Lemma 21)."""
    rng = np.random.default_rng(classes)
    rounding = Rounding(LocalTraining(replace(make_record([make_round(1)]), num_classes=classes, precision="float64")))
    for size in (1e-3, 1.0, 30.0, 1e4):
        logits = rng.normal(size=(20, classes)) * size
        exact = exact_softmax(exactly(logits))
        soft = torch.softmax(torch.tensor(logits), 1).numpy()
        log = torch.log_softmax(torch.tensor(logits), 1).exp().numpy()
        for computed in (soft, log):
            worst = max(norm(row) for row in exactly(computed) - exact)
            assert worst <= rounding.residual(np.zeros(1))[1]


def test_exp_is_as_accurate_as_stated():
    """Relative error at most 4 u, from the smallest normal results to 1."""
    mpmath.mp.dps = 40
    points = np.concatenate([-np.geomspace(1e-12, 708, 4000), [0.0]])
    found = torch.tensor(points).exp().numpy()
    for x, y in zip(points.tolist(), found.tolist(), strict=True):
        exact = mpmath.exp(mpmath.mpf(x))
        assert abs(mpmath.mpf(y) - exact) <= 4 * FLOAT64_UNIT * exact


@pytest.mark.parametrize("seed", range(12))
def test_local_training_is_as_exact_as_claimed(seed):
    rng = np.random.default_rng(seed)
    bias, decay, batch = bool(seed % 2), [0.0, 0.3][seed % 3 == 0], int(rng.integers(1, 4))
    x = rng.normal(size=(3 * batch, 3)) * rng.choice([0.1, 1.0, 4.0])
    y, z = rng.integers(0, 3, len(x)), rng.normal(size=(3, 3 + bias)) * rng.choice([1e-3, 1.0, 20.0])
    rate = 1 / (1 + np.linalg.norm(x, axis=1).max() ** 2)
    world = World([x], [y], 3, 1, np.array([rate]), batch, bias, weight_decay=decay, dtype=np.float64, seed=seed)
    computed = local_update(world, z, 0, 0, layout=np.random.default_rng(seed))
    order = np.random.default_rng([seed, 0, 0]).permutation(len(x)).reshape(-1, batch)
    exact = exact_update(z, [(x[rows], y[rows]) for rows in order], rate, decay, bias)
    record = simulate(world).record
    error, length = Rounding(LocalTraining(record)).clean_training(np.array(record.learning_rates))
    off = norm(exactly(computed) - exact)
    assert off <= error.at(np.linalg.norm(z))[0] <= 1e-11 * (1 + np.linalg.norm(z))
    assert norm(exact) <= length.at(np.linalg.norm(z))[0]


@pytest.mark.parametrize("engine", ["vectorised", "reference"])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_the_engines_are_as_exact_as_claimed(engine, decay):
    """A round of crfl itself against exact arithmetic: two clients of unequal sizes, whole shards as batches."""
    rng = np.random.default_rng(0)
    shards = [rng.normal(size=(n, 4)).astype(np.float32) for n in (5, 9)]
    labels = [rng.integers(0, 3, len(s)) for s in shards]
    data = crfl.FederatedData.from_arrays(shards, labels, shards[0], labels[0])
    exp = crfl.Experiment().override(
        {
            "data": {"name": "custom", "clients": 2},
            "local": {"batch_size": 9, "keep_last_batch": True, "epochs": 3, "weight_decay": decay},
            "server": {"rounds": 1, "aggregation": "weighted_mean", "clip": {"start": 1.0, "slope": 0.0}},
            "local.precision": "float64",
            "attack.round": None,
        }
    )
    model = torch.nn.Linear(4, 3).double()
    torch.nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(0))
    run = crfl.train(exp, data, model=model, engine=engine)
    z = torch.cat([model.weight.detach(), model.bias.detach()[:, None]], 1).float().double().numpy()
    total = exactly(z)
    for x, y in zip(shards, labels, strict=True):
        share = mpmath.mpf(len(x)) / 14
        total = total + share * exact_update(z, [(x.astype(np.float64), y)] * 3, 0.05, decay, True)
    clipped = total * min(mpmath.mpf(1), 1 / norm(total))
    weights, offset = run.model.split(run.params)
    computed = torch.cat([weights, offset[:, None]], 1).numpy()
    off = norm(exactly(computed) - clipped)
    rounding = Rounding(LocalTraining(run.record))
    slope, constant = round_shares(Rounds(rounding, run.record.rounds), [()])[:, 0]
    assert run.record.rounds[0].pre_clip_norm > 1
    assert off <= slope * np.linalg.norm(z) * (1 + 1e-9) + constant + rounding.projection < 1e-12


def test_features_scaled_in_the_products_are_covered():
    """Bytes times 1/255 inside the matrix product, as the engine does, against features that were scaled before."""
    rng = np.random.default_rng(3)
    x, w = rng.integers(0, 256, size=(40, 64)).astype(np.float64), rng.normal(size=(10, 64))
    scale = 1 / 255
    computed = scale * (x @ w.T)
    features = exactly(scale * x)
    exact = features @ exactly(w).T
    bound = float(gamma(64 + 4))
    for k in range(40):
        size = np.linalg.norm(w) * np.linalg.norm(scale * x[k])
        assert norm(exactly(computed[k]) - exact[k]) <= bound * size


@pytest.mark.parametrize("shape", [(3, 40), (10, 4), (2, 2000)])
def test_spectral_norms_are_as_exact_as_claimed(shape):
    """Also where a product W W^T is rounded: weights of one direction, and of many magnitudes."""
    rng = np.random.default_rng(shape[1])
    alike = np.outer(rng.normal(size=shape[0]), rng.normal(size=shape[1]))
    for weights in (
        rng.normal(size=shape),
        alike,
        alike + 1e-9 * rng.normal(size=shape),
        10.0 ** -rng.uniform(0, 9, shape),
    ):
        model = SoftmaxRegression(shape[1], shape[0], bias=False)
        whole = float(np.linalg.norm(weights))
        found = float(model.spectral_norm(torch.tensor(weights).flatten()))
        shorter = exactly(weights if shape[0] < shape[1] else weights.T)
        exact = mpmath.sqrt(max(mpmath.eigsy(mpmath.matrix((shorter @ shorter.T).tolist()), eigvals_only=True)))
        round_ = make_round(1, start_norm=whole, start_spectral_norm=found)
        record = replace(make_record([round_], num_classes=shape[0], bias=False), num_features=shape[1])
        bound = largest_spectral_norms(Rounding(LocalTraining(record)), [round_])[0, 0]
        assert exact <= bound <= exact * (1 + 1e-6)


@pytest.mark.parametrize("change", [{"clip_norm": 1e-200}, {"update_clip": 1e-200}])
def test_clips_of_which_the_square_underflows_are_refused(change):
    """Norms that small are computed as 0, and vectors of that size are clipped or not as it happens."""
    params = torch.full((4,), 1e-180, dtype=torch.float64)
    assert torch.equal(project(params, 1e-200), params)
    record = make_record([make_round(1, **change)])
    with pytest.raises(CertificateError, match=r"between 1e-200 and .* expected 2\^-100 to"):
        check_coupled(record)
    with pytest.raises(CertificateError, match=r"between 1e-200 and .* expected 2\^-100 to"):
        check_clients(replace(record, rounds=(replace(record.rounds[0], update_clip=1e-200),)))


@pytest.mark.parametrize("features", [10, 10**7])
def test_budgets_heed_the_rounding_of_the_norms_that_they_are_made_of(features):
    record = make_record([make_round(1, pre_clip_norm=0.0)], num_features=features)
    largest_error = 1 - float(gamma(features + 4) + gamma(3 * (features + 1) + 4))
    assert lowered_budget(record, np.ones(1))[0] <= largest_error * (1 - 1e-9)


def layouts(world):
    """Two runs of the same data, with all sums in different orders."""
    return simulate(world), simulate(world, layout=np.random.default_rng(5))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clip", [1e-5, 1e-2, 0.1, math.inf])
def test_v1_local_models_far_larger_than_the_global_one(dtype, clip):
    """Tiny models, full batches that pull in opposite directions: rounding goes with the norms of local models."""
    y = np.arange(39) % 3
    x = np.random.default_rng(0).normal(size=(39, 12)) + 4 * np.eye(12)[y]
    rate = 3.9 / (1 + np.linalg.norm(x, axis=1).max() ** 2)
    attack = {"attackers": (0,), "attack_rounds": (0,), "poisoned": 1, "flips": False}
    noise = clip / 100 if math.isfinite(clip) else 0.0
    plan = {"rounds": 6, "rates": np.full(6, rate), "batch": 39, "clip": clip, "noise": noise, "dtype": dtype}
    one, other = layouts(World([x, -x], [y, y], 3, **plan, **attack, start=np.zeros((3, 13))))
    found = distances(one, other)
    for run in (one, other):
        claimed = CoupledScenario(run.record, before_clip=True).distances(0.0)
        assert (found <= claimed).all()
    assert found.max() > 0
    if dtype is np.float64:
        assert claimed.max() < 1e-10


def half_spacings(ulps, farthest, steps=1000, rounds=10):
    """One weight, 1 at first or a spacing more, moves down by so many half spacings of float32 a step.

    Below 1 spacings are half as large as above. The attacker's clean step in the first round takes the weight to 1; a
    client that never takes part has the largest feature.
    """
    start = np.array([[1 + 2 * 2.0**-24, 0.0], [0.0, 0.0]])
    shards = [np.array([[2.0, 0.0]]), np.tile([[1.0, 0.0]], (steps, 1)), np.array([[0.0, farthest]])]
    rate = ulps * 2.0**-24 / (math.e / (1 + math.e))
    present = np.zeros((rounds, 3))
    present[0, 0] = present[1:, 1] = 1.0
    plan = {"rates": np.full(rounds, rate), "batch": 1, "bias": False, "dtype": np.float32, "weights": present}
    attack = {"attackers": (0,), "attack_rounds": (0,), "poisoned": 1, "magnitude": 1.0, "flips": False}
    return World(shards, [np.ones(len(s), dtype=int) for s in shards], 2, rounds, **plan, **attack, start=start)


@pytest.mark.parametrize(("ulps", "farthest"), [(0.55, 9000.0), (0.55, 2000.0), (0.9, 2000.0)])
def test_v2_steps_of_half_a_spacing_are_covered(ulps, farthest):
    """Poison keeps a weight above a power of two, where its steps are lost; below they are rounded up."""
    world = half_spacings(ulps, farthest)
    one, other = simulate(world, poison=lambda w, x, y: (x / 2, y)), simulate(world)
    found = distances(one, other)
    assert found[-1, 0] > 0.9 * 9 * 1000 * 2.0**-24
    for run in (one, other):
        check_coupled(run.record)
        assert (found <= CoupledScenario(run.record, before_clip=True).distances(1.0)).all()


def test_v2_steps_below_a_spacing_are_refused():
    record = simulate(half_spacings(0.2, 1.0, steps=1, rounds=2)).record
    with pytest.raises(CertificateError, match=r"may be lost in rounding.*local.precision: float64"):
        check_coupled(record)
    check_coupled(replace(record, precision="float64"))


@pytest.mark.parametrize("exponent", [-24, -23, -22])
@pytest.mark.parametrize("by_server", [True, False])
def test_v3_decay_that_does_not_contract(exponent, by_server):
    """Decay by a spacing takes the same number of them from both models: no distance shrinks."""
    steps, rounds, size = (1, 200, 30.0) if by_server else (8000, 2, 30.0)
    shards, rate = [np.array([[size]]), np.zeros((steps, 1))], 3.9 / (1 + size**2)
    present = np.zeros((rounds, 2))
    present[0, 0] = present[1:, 1] = 1.0  # the attacker in the first round, the other one later
    decay = {"decay": np.full(rounds, 2.0**exponent)} if by_server else {"weight_decay": 2.0**exponent / rate}
    attack = {"attackers": (0,), "attack_rounds": (0,), "poisoned": 1, "magnitude": 0.0}
    labels = [np.zeros(1, dtype=int), np.arange(steps) % 2]
    plan = {"rates": np.full(rounds, rate), "batch": 1, "dtype": np.float32, "weights": present}
    start = np.array([[1.1, 0.0], [1.1, 0.0]])
    world = World(shards, labels, 2, rounds, **plan, **decay, **attack, start=start)
    one, other = simulate(world, poison=lambda w, x, y: (x, 1 - y)), simulate(world)
    found = distances(one, other)
    if not by_server and exponent == -23:  # beyond what exact arithmetic allows
        exact = CoupledScenario(replace(one.record, precision="float64"), before_clip=True)
        assert found[-1, 1] > 1.0003 * exact.cost(0.0)
    for run in (one, other):
        assert (found <= CoupledScenario(run.record, before_clip=True).distances(0.0)).all()


def test_float64_costs_next_to_nothing_and_float32_little():
    rounds = [make_round(t, [attacker()] if t == 1 else ()) for t in range(1, 61)]
    exact = CoupledScenario(make_record(rounds, precision="float64"), before_clip=True)
    model = CoupledScenario(make_record(rounds, precision="float32"), before_clip=True)
    assert 0 < exact.total_rounding < 1e-10
    assert exact.total_rounding < model.total_rounding < 0.02 * model.cost(0.1)
    assert arithmetic(exact.record) == Arithmetic(2.0**-53, True)


def test_predictions_of_both_runs_are_covered():
    """The computed classes of two models closer than the lowered budget agree, even where ties decide."""
    rng = np.random.default_rng(0)
    record = make_record([make_round(1, pre_clip_norm=1e6)], precision="float64")
    budgets = np.array([0.0, 1e-12, 1e-3, math.inf])
    lowered = lowered_budget(record, budgets)
    assert lowered[0] == lowered[1] == 0
    assert 0.9e-3 < lowered[2] < 1e-3
    assert lowered[3] == math.inf
    record = replace(record, rounds=(replace(record.rounds[0], pre_clip_norm=10.0),), num_features=64)
    for _ in range(300):
        w, x = rng.normal(size=(3, 64)), rng.normal(size=(1, 64)) * 100
        w *= 10 / np.linalg.norm(w)
        w[1] = w[0] + rng.normal() * 1e-13 * x[0] / np.linalg.norm(x[0])
        logits = x @ w.T
        if logits[0].argmax() == 2:
            continue
        budget = lowered_budget(record, margin_budget(logits, np.linalg.norm(x, axis=1)))[0]
        if budget > 0:
            order = rng.permutation(64)
            top = np.array([sum((w[c][order] * x[0][order]).tolist()) for c in range(3)]).argmax()
            assert top == logits[0].argmax()

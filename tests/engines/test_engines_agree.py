"""The vectorised engine trains what the reference engine, a plain loop with torch.optim.SGD, trains."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import crfl
from crfl.aggregation import AGGREGATORS
from crfl.attack.malicious import MALICIOUS
from tests.federations import assert_same_run, floats, images, small_settings, train_in_chunks

SIZES = [9, 20, 31, 40, 17, 26, 12]
BASE = small_settings(
    SIZES,
    {
        "local.learning_rate": 0.3,
        "server.rounds": 4,
        "server.clip.start": 1.2,
        "attack.clients": 2,
        "attack.round": [2, 3],
        "attack.magnitude": 2.0,
        "attack.trigger": [[0, 0], [5, 5]],
    },
)
EXACT, SINGLE = 1e-13, 4e-6
"""Tolerances in float64 and float32."""


@pytest.fixture(scope="module")
def data():
    return images(SIZES)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(36, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 3))


def batch_normalised():
    """A module in which the samples of a batch see each other."""
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(36, track_running_stats=False), nn.Linear(36, 3))


INVERSE = {"local.schedule": "inverse", "local.schedule_offset": 2.0}
CLIP = {"start": 0.5, "end": 0.01, "decay_rounds": 2.0}
CASES = [
    {},
    {"local.precision": "float32"},
    {"attack.round": None},
    {"local.epochs": 2, "local.weight_decay": 0.1},
    {"local.keep_last_batch": True, "attack.poisoned_per_batch": 5},
    {"local.keep_last_batch": True, "local.batch_size": 100},
    {"local.keep_last_batch": True, "local.batch_size": 15, "local.epochs": 3, "local.precision": "float32"},
    {"local.learning_rate": [0.1 * i for i in range(1, 8)], "local.weight_decay": 0.05},
    {"model.bias": False},
    {"local.weight_decay": 0.2, **INVERSE},
    {"server.decay": 0.3, "local.epochs": 2},
    {"server.decay": 0.3, **INVERSE, "local.learning_rate": [0.1 * i for i in range(1, 8)]},
    {"server.update_clip": 0.1},
    {"server.update_clip": CLIP, "server.aggregation": "weighted_mean"},
    {"server.update_clip": CLIP, "server.decay": 0.5, **INVERSE, "local.precision": "float32"},
    {"server.participation": 0.5, "attack.every": 1, "attack.round": 1},
    {"server.participation": 0.3, "attack.clients": [6, 2], "attack.force_participation": True},
    {"server.noise": 0.2, "server.clip.slope": 0.0},
    {"server.noise": 0.0, "server.clip.start": math.inf},
    {"attack.update": "sign_flip", "attack.poisoned_per_batch": 3},
    {"attack.update": "gaussian", "attack.poisoned_per_batch": 0},
    {"attack.update": "nan"},
    {"attack.clients": 3, "attack.scale": "replace", "attack.random_clients": True},
    {"attack.clients": 2, "attack.distributed": True, "attack.poisoned_per_batch": 8},
    {"attack.trigger": "full_image", "attack.labels": "keep"},
    {"attack.trigger": "full_image", "local.precision": "float32"},
    {"attack.per_attacker": [{"update": "sign_flip", "target": 2}, {"trigger": [[1, 1]], "magnitude": 9.0}]},
    *({"server.aggregation": rule, "server.participation": 0.8} for rule in AGGREGATORS),
]


@pytest.mark.parametrize("changes", CASES, ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()) or "-")
@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
def test_engines_agree(data, changes):
    exp = BASE.override(changes)
    for benign in (False, True):
        found, expected = (crfl.train(exp, data, engine=e, benign=benign) for e in ("vectorised", "reference"))
        assert_same_run(found, expected, EXACT if exp.local.precision == "float64" else SINGLE)


SETTINGS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "local.batch_size": st.integers(1, 9),
        "local.epochs": st.integers(1, 2),
        "local.keep_last_batch": st.booleans(),
        "local.weight_decay": st.sampled_from([0.0, 0.1]),
        "local.learning_rate": st.floats(0.01, 0.5),
        "local.precision": st.sampled_from(["float64", "float64", "float32"]),
        "model.bias": st.booleans(),
        "server.rounds": st.integers(1, 3),
        "server.participation": st.sampled_from([1.0, 0.8]),
        "server.aggregation": st.sampled_from(list(AGGREGATORS)),
        "server.clip.start": st.sampled_from([0.5, 1.5, math.inf]),
        "server.update_clip": st.sampled_from([None, None, 0.05, {"start": 0.3, "end": 0.01}]),
        "attack.round": st.just(1),
        "attack.every": st.sampled_from([1, 2]),
        "attack.clients": st.sampled_from([0, 1, 3, (4, 2)]),
        "attack.force_participation": st.booleans(),
        "attack.scale": st.sampled_from([1.0, 20.0, "replace"]),
        "attack.poisoned_per_batch": st.sampled_from([0, 1]),
        "attack.trigger": st.sampled_from(["full_image", ((0, 0), (3, 4))]),
        "attack.update": st.sampled_from([None, None, *MALICIOUS]),
        "attack.labels": st.sampled_from(["target", "keep"]),
    }
)


@given(
    changes=SETTINGS,
    decayed=st.booleans(),
    inverse=st.booleans(),
    make=st.sampled_from([images, floats]),
    sizes=st.lists(st.integers(9, 14), min_size=8, max_size=14),
    chunk_bytes=st.sampled_from([1, 2**14, 2**17, 2**24]),
    several=st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
def test_engines_agree_whatever_the_settings(changes, decayed, inverse, make, sizes, chunk_bytes, several):
    exp = BASE.override({**changes, "data.clients": len(sizes), "server.num_byzantine": 0})
    if decayed and not exp.local.weight_decay:
        exp = exp.override({"server.decay": 0.2})
    if inverse and (exp.local.weight_decay or exp.server.decay):
        exp = exp.override(INVERSE)
    runs = [exp, exp.override({"attack.scale": 3.0, "server.noise": 0.1}), exp] if several else [exp]
    benign = [False, False, True][: len(runs)]
    data = make(sizes, seed=exp.seed)
    together = train_in_chunks(runs, data, chunk_bytes, benign)
    alone = [crfl.train(e, data, engine="reference", benign=b) for e, b in zip(runs, benign, strict=True)]
    exact = exp.local.precision == "float64"
    tied = not exact or exp.server.aggregation in ("median", "trimmed_mean")
    for found, expected in zip(together, alone, strict=True):
        if several:
            found = without_distance(found)
        assert_same_run(found, expected, EXACT if exact else 2e-5, weights=not tied)


def without_distance(run):
    run.columns.pop("distance")
    return run

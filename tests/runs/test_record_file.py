"""The record as JSON: the same record comes back, it is small, and what cannot be is refused."""

import dataclasses
import json
import math
import random

import pytest

from crfl.errors import DamagedFileError, StoreError
from crfl.record import DroppedRecord
from crfl.runs.record_file import dumps, loads
from tests.certification.records import attacker, make_record, make_round


def rich_record():
    """Every field differs from its default, and from round to round."""
    common = {"start_norm": 2.0, "noise_std": 0.01, "learning_rate_cap": 0.015, "decay": 0.1, "update_clip": 1.5}
    rounds = [
        make_round(
            1,
            **common,
            weights=(0.2, 0.3, 0.5, 0.0),
            potential_weights=(0.2, 0.3),
            update_norms=(0.1, 0.7, 1.4, 0.0),
            clip_norm=math.inf,
        ),
        make_round(
            2,
            [
                attacker(0, scale=0.5, learning_rate=0.015, update_norm=0.123456789, update="sign_flip"),
                attacker(3, weight=0.0, potential_weight=1 / 3, learning_rate=0.015, poison_ratios=(0.2, 0.4, 0.2)),
            ],
            **common,
            weights=(0.25, 0.75, 0.0, 0.0),
            potential_weights=(0.25, 1 / 3),
            dropped=(DroppedRecord(2, "not finite", 0.25), DroppedRecord(3, "of the wrong shape", 0.25)),
        ),
        make_round(3, start_norm=1e-30, pre_clip_norm=5e-324, noise_std=0.0, potential_weights=(0.25, 0.25)),
    ]
    rounds[1] = dataclasses.replace(
        rounds[1], attackers=(dataclasses.replace(rounds[1].attackers[0], weight=0.25), rounds[1].attackers[1])
    )
    rounds = [dataclasses.replace(r, start_spectral_norm=None) for r in rounds]
    return make_record(
        rounds,
        bias=False,
        precision="float64",
        learning_rates=(0.02, 0.03, 0.02, 0.02),
        smoothness=(math.inf, 11.0, 12.0, 0.1 + 0.2),
        weight_decay=0.1,
        domain=(-10.0, 10.0),
        norm_bound=5.0,
        feature_map="scattering",
        lipschitz=None,
        public_samples=7,
        attackers=(0, 3),
        benign=True,
        seed=2**80,
    )


def test_the_same_record_comes_back():
    for record in (rich_record(), make_record([make_round(1, noise_std=0.0)])):
        text = dumps(record)
        assert loads(text) == record
        json.loads(text, parse_constant=lambda name: pytest.fail(name))  # strict JSON


def test_weights_come_back_to_the_last_bit():
    random.seed(0)
    sizes = [random.randrange(1, 900) for _ in range(333)]
    rounds = []
    for t in range(1, 41):
        present = [random.random() < 0.3 for _ in sizes]
        if t % 4 == 0:
            own = [s * p for s, p in zip(sizes, present, strict=True)]
            numbers = [n / sum(own) for n in own]
        elif t % 4 == 1:
            numbers = [p / sum(present) for p in present]
        else:
            raw = [p * random.random() for p in present]
            numbers = [n / sum(raw) for n in raw]
        rounds.append(
            make_round(t, weights=tuple(map(float, numbers)), potential_weights=(), noise_std=0.01 * (t < 40))
        )
    names = tuple(map(str, sizes))
    record = make_record(
        rounds,
        client_sizes=tuple(sizes),
        client_names=names,
        learning_rates=(0.02,) * 333,
        smoothness=(12.5,) * 333,
        attackers=(),
    )
    assert loads(dumps(record)) == record


@pytest.mark.parametrize("by_size", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_ten_thousand_clients_over_a_thousand_rounds_take_less_than_five_megabytes(share, by_size):
    random.seed(0)
    n, total = 10_000, 1_000
    sizes = tuple(random.randrange(10, 400) for _ in range(n))
    rounds, weights = [], None
    for t in range(1, total + 1):
        if weights is None or share < 1:
            present = set(random.sample(range(n), int(share * n)))
            samples = sum(sizes[i] for i in present)
            weights = tuple((sizes[i] / samples if by_size else 1 / len(present)) * (i in present) for i in range(n))
        attackers = [attacker(7, weight=weights[7], potential_weight=weights[7] or 1 / (share * n), poison_ratios=())]
        norms = {"start_norm": 2 + random.random() / 3, "pre_clip_norm": 2 + random.random() / 3}
        rounds.append(
            make_round(
                t,
                [] if by_size else attackers,
                weights=weights,
                potential_weights=(attackers[0].potential_weight,),
                clip_norm=2 + t / 1000,
                noise_std=0.01 * (t < total),
                **norms,
            )
        )
    names = tuple(f"client {i}" for i in range(n))
    record = make_record(
        rounds,
        batch_size=1000,  # no client has a step
        client_names=names,
        client_sizes=sizes,
        learning_rates=(0.02,) * n,
        smoothness=(12.5,) * n,
        attackers=(7,),
    )
    text = dumps(record)
    assert len(text) < 5e6
    assert loads(text) == record


WRONG_ROUND = {
    "the rounds' order": {"round": 2},
    "weights that sum to 3": {"weights": (0.75,) * 4},
    "negative weights": {"weights": (1.5, -0.5, 0.0, 0.0)},
    "fewer weights": {"weights": (0.5, 0.5)},
    "a weight that is no number": {"weights": (math.nan, 0.5, 0.5, 0.0)},
    "a negative norm": {"start_norm": -1.0},
    "an endless norm": {"pre_clip_norm": math.inf},
    "no norm": {"start_norm": math.nan},
    "a spectral norm above the norm": {"start_spectral_norm": 2.5},
    "noise after the last round": {"noise_std": 0.01},
    "noise that is no number": {"noise_std": math.nan},
    "a clip norm that is no number": {"clip_norm": math.nan},
    "too many potential weights": {"potential_weights": (0.25,) * 5},
    "a dropped client with a weight": {"dropped": (DroppedRecord(0, "not finite", 0.25),)},
    "a dropped client of too much weight": {
        "weights": (1.0, 0.0, 0.0, 0.0),
        "dropped": (DroppedRecord(2, "not finite", 1.5),),
    },
    "a dropped client that is not there": {"dropped": (DroppedRecord(9, "not finite", 0.25),)},
}
WRONG_ATTACKER = {
    "weight 0": {"weight": 0.0},
    "another potential weight": {"potential_weight": 0.1},
    "no ratios": {"poison_ratios": ()},
    "a ratio above 1": {"poison_ratios": (0.2, 1.2, 0.2)},
    "a negative ratio": {"poison_ratios": (0.2, -0.2, 0.2)},
    "a ratio that is no number": {"poison_ratios": (0.2, math.nan, 0.2)},
    "another learning rate": {"learning_rate": 0.002},
    "a scale that is no number": {"scale": math.nan},
    "a negative magnitude": {"magnitude": -0.1},
    "a client that is none": {"client": 4},
}
WRONG_RECORD = {
    "attackers that are not listed": {"attackers": (1, 2)},
    "clients that are none": {"attackers": (0, 9)},
    "a domain upside down": {"domain": (9.0, 1.0)},
    "features outside the domain": {"domain": (0.0, 0.1)},
    "features outside the ball": {"norm_bound": 1.0},
    "features of no norm": {"max_feature_norm": math.nan},
    "too few names": {"client_names": ("a",)},
    "too few learning rates": {"learning_rates": (0.02,)},
    "no rounds": {"rounds": ()},
    "a precision that is none": {"precision": "float16"},
    "a negative size": {"client_sizes": (15, 15, 15, -15)},
    "a flag that is a number": {"bias": 1},
    "a number that is a word": {"batch_size": "5"},
}


def sound(**changes):
    return dataclasses.replace(make_record([make_round(1, [attacker()], noise_std=0.0)]), **changes)


@pytest.mark.parametrize("name", [*WRONG_ROUND, *WRONG_ATTACKER, *WRONG_RECORD])
def test_what_cannot_be_is_not_written(name):
    if name in WRONG_RECORD:
        record = sound(**WRONG_RECORD[name])
    elif name in WRONG_ROUND:
        record = make_record([dataclasses.replace(sound().rounds[0], **WRONG_ROUND[name])])
    else:
        record = make_record([make_round(1, [attacker(**WRONG_ATTACKER[name])], noise_std=0.0)])
    assert loads(dumps(sound())) == sound()
    with pytest.raises(StoreError, match="the record of the run"):
        dumps(record)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"all":0.25', '"all":0.75'),
        ('"all":0.25', '"all":NaN'),
        ('"all":0.25', '"each":[[1000000000000,0.25]]'),
        ('"all":0.25', '"participants":"4444","all":0.5'),
        ('"poison_ratios":[[3,0.2]]', '"poison_ratios":[]'),
        ('"poison_ratios":[[3,0.2]]', '"poison_ratios":[[1000000000000,0.2]]'),
        ('"epochs":1', '"epochs":1000000000000'),
        ('"client_sizes":[[4,15]]', '"client_sizes":[[1000000000000,15]]'),
        ('"client_sizes":[[4,15]]', '"client_sizes":[[3,15]]'),
        ('"attackers":{"1":', '"attackers":{"2":'),
        ('"attackers":{"1":', '"attackers":{"x":'),
        ('"seed":0', '"seed":0,"more":1'),
        ('"seed":0', '"seed":"0"'),
        ('"seed":0', '"seed":' + "9" * 5000),
        ('"seed":0', '"seed":' + "[" * 100_000),
        ('"format":3', '"format":4'),
        ('"start_norm":[2.0]', '"start_norm":[2.0,2.0]'),
        ('"start_norm":[2.0]', '"start_norm":[]'),
        ('"pre_clip_norm":[2.5]', '"pre_clip_norm":[1e999]'),
        ('"clip_norm":[[1,3.0]]', '"clip_norm":[[1,"-inf"]]'),
        ('"domain":null', '"domain":[9.0,1.0]'),
        ('"domain":null', '"domain":[0.0,1.0,2.0]'),
        ("{", ""),
        ("{", "\ud800{"),
    ],
)
def test_what_cannot_be_is_not_read(old, new):
    text = dumps(sound())
    assert old in text
    with pytest.raises(DamagedFileError, match=r"record\.json"):
        loads(text.replace(old, new, 1).encode("utf-8", "surrogatepass"))

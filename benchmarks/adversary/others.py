"""Attacks other than that on record: in another round, by more attackers, with more poisoned samples (V4, V5)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import crfl
from benchmarks.adversary import draws, layouts, poison
from benchmarks.adversary.outcome import Outcome, exceeded
from benchmarks.adversary.pairs import distances, predictions
from crfl.certification.coupling.distance import CoupledScenario
from crfl.errors import CertificateError


def another_round(rng: np.random.Generator) -> Outcome | None:
    """The attackers may be absent in the round on record, and attack in another one."""
    about, data = draws.federation(rng)
    settings = about | draws.draw(rng, data)
    settings |= {"attack.scale": 1.0, "attack.force_participation": False, "attack.every": None, "attack.update": None}
    settings["server.participation"] = float(rng.choice([0.3, 0.5, 0.7]))
    rounds = settings["server.rounds"]
    settings |= {"attack.clients": int(rng.choice([1, 1, 2])), "attack.random_clients": True}
    recorded, meant = (int(t) for t in rng.integers(1, rounds + 1, size=2))
    start = draws.linear(rng, data, settings["model.bias"]) if rng.random() < 0.5 else None
    exp = crfl.Experiment().override(settings | {"attack.round": recorded})
    [benign] = layouts.train([(exp, True)], data, rng, start)
    poison.aim(benign, meant - 1)
    [attacked] = layouts.train([(exp.override({"attack.round": meant}), False)], data, rng, start)
    attackers = [a for run in (benign, attacked) for r in run.record.attack_rounds for a in r.attackers]
    magnitude = float(rng.choice([max(a.magnitude for a in attackers), math.inf]))
    try:
        cert = crfl.certify(benign, data.test, kind="margin", attack_round="any")
    except CertificateError:
        return None
    claimed = CoupledScenario(benign.record, False, True).distances(magnitude)[:, 1]
    ratio, count = exceeded(distances(attacked, benign), claimed)
    held, differ = (
        ~cert.abstained & (cert.radius >= magnitude),
        np.not_equal(*predictions((attacked, benign), data.test.x)),
    )
    broken = count + int((held & differ).sum())
    return Outcome(
        ratio, broken, float(held.mean()), float(differ.mean()), settings | {"recorded": recorded, "meant": meant}
    )


def other_numbers(rng: np.random.Generator) -> Outcome | None:
    """More attackers than on record, or more poisoned samples; the attackers on record may be absent."""
    seed = int(rng.integers(5))
    data = draws.digits(seed)
    settings: dict[str, Any] = {"seed": seed} | draws.draw(rng, data)
    settings |= {"attack.scale": 1.0, "attack.force_participation": False, "attack.update": None, "attack.every": None}
    settings |= {"server.participation": float(rng.choice([1.0, 0.5, 0.5])), "attack.random_clients": True}
    few = int(rng.choice([1, 1, 2]))
    many = int(rng.integers(few, len(data.shards) + 1))
    q_few, q_many = sorted(int(n) for n in rng.integers(1, settings["local.batch_size"] + 1, size=2))
    by_attackers = bool(rng.integers(2))
    known = {"attack.clients": few, "attack.poisoned_per_batch": q_few}
    real = known | ({"attack.clients": many} if by_attackers else {"attack.poisoned_per_batch": q_many})
    exp = crfl.Experiment().override(settings | known)
    [benign] = layouts.train([(exp, True)], data, rng)
    poison.aim(benign, settings["server.rounds"])
    [attacked] = layouts.train([(exp.override(real), False)], data, rng)
    [round_] = attacked.record.attack_rounds
    magnitude = max(a.magnitude for run in (benign, attacked) for r in run.record.attack_rounds for a in r.attackers)
    try:
        cert = crfl.certify(benign, data.test, kind="margin")
        number = len(round_.attackers) if by_attackers else q_many
        tolerated = cert.max_attackers(magnitude) if by_attackers else cert.max_poisoned(magnitude)
    except CertificateError:
        return None
    asked = {"attackers": number} if by_attackers else {"poisoned": number}
    cost = CoupledScenario(benign.record, False).cost(magnitude, **asked)
    ratio, count = exceeded(distances(attacked, benign)[-1:], np.array([cost]))
    differ = np.not_equal(*predictions((attacked, benign), data.test.x))
    held = tolerated >= number
    broken = count + int((held & differ).sum())
    return Outcome(ratio, broken, float(held.mean()), float(differ.mean()), settings | real | {"known": str(known)})

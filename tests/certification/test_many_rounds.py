"""Bounds that are computed for many rounds at a time, against their definitions for one round and one client."""

import math
from dataclasses import replace

import numpy as np
import pytest

from crfl.certification.coupling.clients import ClientScenario
from crfl.certification.coupling.clipping import clipped_distance
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.expansion import expansions
from crfl.certification.coupling.local import LocalTraining, local_steps
from crfl.certification.coupling.poison import poison
from crfl.certification.coupling.rounding import Rounding
from crfl.certification.coupling.rounds import Rounds, round_shares
from crfl.certification.lipschitz import sharp_lipschitz
from crfl.record import DroppedRecord
from tests.certification.records import attacker, make_record, make_round
from tests.certification.rounds import expansion

SEEDS = range(12)


def random_record(seed, drops=False):
    """Eight rounds of five clients of unequal sizes, rates and smoothness: partial participation, a falling rate."""
    rng = np.random.default_rng(seed)
    sizes, clip = tuple(rng.choice([5, 10, 15], 5).tolist()), float(rng.uniform(0.05, 0.5)) if seed % 2 else None
    attackers, flip, scale = (1, 3), bool(rng.integers(2)), float(rng.choice([0.5, 3.0, -2.0, 20.0]))
    rounds = []
    for t in range(1, 9):
        p = rng.uniform(0.5, 1.5, 5) * (rng.uniform(size=5) < 0.8)
        p = p / p.sum() if p.any() else np.full(5, 0.2)
        lost = ()
        if drops and t % 3 == 0:
            i = int(rng.integers(5))
            lost, p[i] = (DroppedRecord(i, "nan", 0.2),), 0.0
        norm, most = float(rng.uniform(1, 3)), float(p.max())
        found = [
            attacker(i, weight=float(p[i]), potential_weight=most, scale=scale, label_flip=flip)
            for i in (attackers if t in (3, 6) else ())
        ]
        found = [replace(a, poison_ratios=(0.2,) * (sizes[a.client] // 5)) for a in found]
        changes = {
            "start_norm": norm,
            "start_spectral_norm": 0.7 * norm,
            "pre_clip_norm": norm,
            "clip_norm": float(rng.choice([math.inf, 0.9 * norm])),
            "noise_std": 0.0,
            "weights": tuple(p.tolist()),
            "potential_weights": (most, most),
            "learning_rate_cap": 0.05 / t,
            "decay": float(rng.choice([0.0, 0.1])),
            "update_clip": clip,
            "update_norms": tuple(rng.uniform(0, 0.5, 5).tolist()) if clip else None,
            "dropped": lost,
        }
        rounds.append(make_round(t, found, **changes))
    return make_record(
        rounds,
        learning_rates=tuple(rng.choice([0.01, 0.02], 5).tolist()),
        client_sizes=sizes,
        client_names=tuple("abcde"),
        smoothness=tuple(rng.uniform(5, 12.5, 5).tolist()),
        attackers=attackers,
    )


class ByDefinition:
    """The theorems in exact arithmetic, with a loop over the clients."""

    def __init__(self, record):
        self.record, self.steps, self.bound = record, local_steps(record), math.hypot(1, record.max_feature_norm)

    def rate(self, round_, i):
        return min(self.record.learning_rates[i], round_.learning_rate_cap)

    def alpha(self, round_, i):
        a, tau = self.rate(round_, i) * self.record.smoothness[i] / 2, self.steps[i]
        return tau * a / (1 - a + tau * a)

    def may_be_clipped(self, round_, i, distance):
        clip = round_.update_clip
        if clip is None or self.steps[i] * self.rate(round_, i) * math.sqrt(2) * self.bound <= clip:
            return False
        return round_.update_norms[i] + 2 * self.alpha(round_, i) * distance > clip

    def expansion(self, round_, attackers, distance):
        """Theorem 8 and Proposition 9."""
        scales = {a.client: a.scale for a in attackers}
        weights = {a.client: a.weight for a in attackers}
        sums = {"plain": 0.0, "size": 0.0, "averaged": 0.0, "averaged size": 0.0}
        apart = apart_cap = scaled = scaled_cap = 0.0
        for i, p in enumerate(round_.weights):
            p, alpha, gamma = weights.get(i, p), self.alpha(round_, i), scales.get(i, 1.0)
            longest = self.steps[i] * self.rate(round_, i) * math.sqrt(2) * self.bound
            if i in scales and round_.update_clip is not None and abs(gamma) * longest > round_.update_clip:
                scaled, scaled_cap = scaled + 2 * p * abs(gamma) * alpha, scaled_cap + 2 * p * round_.update_clip
            elif i not in scales and self.may_be_clipped(round_, i, distance):
                apart, apart_cap = apart + 2 * p * alpha, apart_cap + 2 * p * round_.update_clip
            else:
                sums["plain"] += p * gamma
                sums["size"] += p * abs(gamma)
                sums["averaged"] += p * gamma * alpha
                sums["averaged size"] += p * abs(gamma) * alpha
        kept = 1 - round_.decay
        first = abs(kept - sums["plain"]) + sums["size"]
        second = abs(kept - sums["averaged"]) + sums["averaged size"]
        return min(first, second) * distance + min(apart * distance, apart_cap) + min(scaled * distance, scaled_cap)

    def poison(self, round_, attackers, magnitude, before):
        """Lemma 5, step by step."""
        poisoned, total = math.hypot(1, self.record.max_feature_norm + magnitude), 0.0
        for a in attackers:
            rate, kappa, moved = self.rate(round_, a.client), round_.start_spectral_norm + before, 0.0
            for q in a.poison_ratios:
                change = sharp_lipschitz(kappa, poisoned) * magnitude + a.label_flip * math.sqrt(2) * self.bound
                moved += rate * q * min(change, math.sqrt(2) * (self.bound + poisoned))
                kappa += rate * math.sqrt(2) * ((1 - q) * self.bound + q * poisoned)
            clip = math.inf if round_.update_clip is None else round_.update_clip
            total += a.weight * min(abs(a.scale) * moved, 2 * clip)
        return total

    def known_rounds(self, attackers, magnitude, attacked):
        """Delta_T before clipping if these attackers attack in the rounds `attacked`."""
        distance = 0.0
        for round_ in self.record.rounds:
            here = attackers[round_.round] if round_.round in attacked else ()
            scaling = here or round_.attackers
            before = self.expansion(round_, scaling, distance) + self.poison(round_, here, magnitude, distance)
            distance = clipped_distance(np.array([before]), round_.pre_clip_norm, round_.clip_norm)[0]
        return before


@pytest.mark.parametrize("seed", SEEDS)
def test_known_rounds_are_those_of_the_definition(seed):
    record = random_record(seed)
    plain, attackers = ByDefinition(record), {r.round: r.attackers for r in record.attack_rounds}
    for magnitude in (0.01, 0.5, 5.0):
        expected = plain.known_rounds(attackers, magnitude, attackers)
        assert CoupledScenario(record, before_clip=True).cost(magnitude) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_unknown_round_is_the_worst_of_all_rounds(seed):
    record = random_record(seed)
    plain, first = ByDefinition(record), record.attack_rounds[0].attackers
    attackers = {r.round: [replace(a, weight=max(r.potential_weights)) for a in first] for r in record.rounds}
    for magnitude in (0.01, 0.5, 5.0):
        expected = max(plain.known_rounds(attackers, magnitude, [r.round]) for r in record.rounds)
        found = CoupledScenario(record, before_clip=True, any_round=True).cost(magnitude)
        assert found == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("num_attackers", [None, 0, 1, 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_many_rounds_are_those_rounds_one_by_one(seed, num_attackers):
    """Clients were dropped, attackers sent malicious updates, and rounds with and without a clip stand side by side."""
    record = random_record(seed, drops=True)
    rounds = [replace(r, update_clip=None, update_norms=None) if r.round % 4 == 1 else r for r in record.rounds]
    bad = attacker(4, scale=-2.0, update="sign_flip", update_norm=0.3)
    attackers = [(*r.attackers, bad) if r.round == 6 and num_attackers is None else r.attackers for r in rounds]
    rounding, distances, magnitudes = Rounding(LocalTraining(record)), np.geomspace(1e-6, 1e3, 40), np.array([0.1, 3.0])
    maps = expansions(Rounds(rounding, rounds), attackers, num_attackers)
    shares, added = (
        round_shares(Rounds(rounding, rounds), attackers, num_attackers),
        poison(rounding, rounds, attackers, num_attackers)(slice(None), magnitudes, np.full((len(rounds), 1), 0.2)),
    )
    for t, (round_, members) in enumerate(zip(rounds, attackers, strict=True)):
        alone = expansion(rounding, round_, members, num_attackers)
        np.testing.assert_array_equal(maps[t](distances), alone(distances))
        np.testing.assert_array_equal(maps[t].split(distances), alone.split(distances))
        assert maps[t](np.array([np.inf])) == alone(np.array([np.inf])) == np.inf
        share = round_shares(Rounds(rounding, [round_]), [members], num_attackers)[:, 0]
        np.testing.assert_array_equal(shares[:, t], share)
        of_round = poison(rounding, [round_], [members], num_attackers)
        np.testing.assert_allclose(added[t], of_round(slice(None), magnitudes, np.array([[0.2]]))[0], rtol=1e-15)


def client_rounds_distance(record, count):
    """Delta_T of Theorem 10 for so many arbitrary updates, with a list of all effects; without clipping of the model."""
    rounding, effects, drift, distance = Rounding(LocalTraining(record)), [], 0.0, 0.0
    for round_ in record.rounds:
        factor, constant = (v[0] for v in expansion(rounding, round_, ()).split(np.array([distance])))
        new = [2 * round_.update_clip * p for p in round_.weights]
        effects = sorted([factor * e for e in effects] + new, reverse=True)[:count]
        drift = factor * drift + constant
        distance = sum(effects) + drift
    return distance


@pytest.mark.parametrize("norm", [0.0, 0.02])
def test_client_rounds_are_counted_one_by_one(norm):
    """The largest count whose distance lies below a budget, of counts that are tried one after the other."""
    changes = {"update_clip": 0.05, "update_norms": (norm,) * 4, "decay": 0.1, "clip_norm": math.inf, "noise_std": 0.0}
    record = make_record([make_round(t, weights=(0.1, 0.2, 0.3, 0.4), **changes) for t in range(1, 31)])
    scenario = CoupledScenario(record, before_clip=True)
    costs = np.array([client_rounds_distance(record, count) for count in range(1, 121)])
    budgets = np.append(0.0, (costs[1:] + costs[:-1]) / 2)
    budgets = budgets[np.append(True, np.diff(costs) > 1e-9 * costs[1:])]
    expected = [(costs < b).sum() for b in budgets]
    assert max(expected) > 100
    np.testing.assert_array_equal(scenario.max_malicious(budgets), expected)
    assert [scenario.max_malicious(np.array([b]))[0] for b in budgets[::20]] == expected[::20]
    assert scenario.max_malicious(np.array([np.inf, 0.0])).tolist() == [120, 0]
    assert scenario.max_malicious(np.array([np.inf, 0.0]), limit=70).tolist() == [70, 0]


def test_clients_are_counted_one_by_one():
    clients = 150
    weights = tuple((np.arange(1, clients + 1) / sum(range(clients + 1))).tolist())
    changes = {"weights": weights, "update_clip": 0.05, "update_norms": (0.01,) * clients, "potential_weights": ()}
    record = make_record(
        [make_round(t, **changes) for t in (1, 2, 3)],
        learning_rates=(0.02,) * clients,
        client_sizes=(15,) * clients,
        client_names=tuple(map(str, range(clients))),
        smoothness=(12.5,) * clients,
        attackers=(),
    )
    scenario = ClientScenario(record)
    costs = [scenario.cost(m) for m in range(1, clients + 1)]
    budgets = np.append(np.linspace(0, 1.2 * costs[-1], 300), costs)
    expected = [sum(cost < b for cost in costs) for b in budgets]
    np.testing.assert_array_equal(scenario.max_clients(budgets), expected)

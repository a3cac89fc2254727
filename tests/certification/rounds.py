"""Shared."""

import math

import numpy as np

from crfl.certification import sharp_lipschitz
from crfl.certification.coupling.expansion import expansions
from crfl.certification.coupling.local import LocalTraining
from crfl.certification.coupling.rounding import Rounding
from crfl.certification.coupling.rounds import Rounds

B = 5.0


def expansion(rounding, round_, attackers, num_attackers=None):
    """What one round multiplies."""
    return expansions(Rounds(rounding, (round_,)), (attackers,), num_attackers)[0]


def expansion_factor(record, round_, attackers, num_attackers=None):
    """Lambda of a round: what becomes of the distance 1."""
    return float(
        expansion(Rounding(LocalTraining(record)), round_, tuple(attackers), num_attackers)(np.array([1.0]))[0]
    )


def by_hand(magnitude, start=1.5, scale=5.0, weight=0.25, ratios=(0.2, 0.2, 0.2), rate=0.02, flip=True, decay=0.0):
    """Sum of p gamma eta q/n min(L_x(kappa_s B') ||delta|| + sqrt(2) B, sqrt(2) (B + B')), step by step."""
    poisoned = math.hypot(1, math.sqrt(24) + magnitude)
    kappa, apart = start, 0.0
    for q in ratios:
        change = float(sharp_lipschitz(kappa, poisoned)) * magnitude + (math.sqrt(2) * B if flip else 0)
        change = min(change, math.sqrt(2) * (B + poisoned))
        apart = (1 - rate * decay) * apart + rate * q * change
        kappa += rate * math.sqrt(2) * ((1 - q) * B + q * poisoned)
    return weight * scale * apart

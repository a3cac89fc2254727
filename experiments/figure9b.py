"""Figure 9b: the published radius over T for several ratios of clip norm to noise, from the formula alone."""

import numpy as np

from crfl.certification import corollary1_radius, lemma1_lipschitz, log_contraction
from crfl.cli import reproduce
from crfl.reproduction import Figure, Lab, Panel, equal, rises

RATIOS = [1, 2, 3, 4, 5]
ATTACK_ROUND, P_A, P_B = 10, 0.7, 0.1
EXPECTED = {(1, 20): 8.666448, (1, 50): 2657.6198, (3, 20): 1.30265, (3, 1000): 4.899286, (5, 1000): 1.285525}
"""(rho / sigma, T) -> radius"""


def radius(ratio: float, rounds: int) -> float:
    """MNIST's base settings, whose noise is 0.01 and whose clip norm in Lemma 1 is 3."""
    later = rounds - ATTACK_ROUND
    return float(
        corollary1_radius(
            P_A,
            P_B,
            strengths=[1 / 20 * 10 * 30 * 1e-3 * 0.05],
            lipschitz=lemma1_lipschitz(3.0),
            noise=0.01,
            log_contraction=log_contraction([ratio * 0.01] * later, [0.01] * later),
        )
    )


def figures(lab: Lab) -> list[Figure]:
    rounds = np.arange(ATTACK_ROUND, 1001, 10)
    curves = {}
    for ratio in RATIOS:
        radii = np.array([radius(ratio, t) for t in rounds])
        shown = radii < 1e6
        curves[f"rho/sigma = {ratio}"] = (rounds[shown].astype(float), radii[None, shown])
    claims = (
        equal("radii of the paper's formula", list(EXPECTED.values()), [radius(*at) for at in EXPECTED], rel=1e-6),
        rises("a small rho/sigma lets the radius grow with T", [radius(1, t) for t in (20, 50, 100)]),
    )
    panel = Panel("class probabilities 0.7 and 0.1", "rounds", "published radius", curves, log=True)
    about = {"attack_round": ATTACK_ROUND, "p_a": P_A, "p_b": P_B, "ratios": RATIOS}
    caption = "Corollary 1 for several ratios of clip norm to noise: the formula alone, no training."
    return [Figure("figure9b", "Figure 9b: published radius over the rounds", (panel,), claims, about, caption)]


if __name__ == "__main__":
    reproduce([__file__])

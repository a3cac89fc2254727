"""Appendix: the attack round hardly matters (two attackers, gamma = 100, T = 45)."""

import numpy as np

from crfl.cli import reproduce
from crfl.reproduction import Claim, Figure, Lab, equal, expected_critical, numbers, sweep_figures
from crfl.sweeps import Sweep

ROUNDS = {"mnist": [10, 20, 40, 43, 44], "digits": [4, 8, 11]}
CLIP_NORM = {"mnist": 3.0, "digits": 2.4}
"""The paper keeps the clip norm of the first value in Lemma 1, whatever the attack round."""


def figures(lab: Lab) -> list[Figure]:
    found = []
    for name in lab.datasets("mnist"):
        strong = {"attack.clients": 2, "attack.scale": 10.0}
        if name == "mnist":
            strong |= {"attack.scale": 100.0, "server.rounds": 45}
        exp = lab.base(name).override(strong)

        def claims(s: Sweep, exp=exp, name=name) -> list[Claim]:
            at = s.certified_accuracy(s.critical[0] / 2).mean(1)
            spread = float(np.ptp(at))
            expected = expected_critical(exp, CLIP_NORM[name])
            return [
                equal("the critical radius is the same for all", [expected] * len(s.values), s.critical),
                Claim("certified accuracy hardly moves (half the radius)", "spread < 0.1", numbers(at), spread < 0.1),
            ]

        found += sweep_figures(
            lab,
            "appendix-attack-round",
            "Appendix: attack round",
            exp,
            "attack.round",
            ROUNDS[name],
            lambda t: f"attack in round {t}",
            claims,
            attack_clip_norm=CLIP_NORM[name],
        )
    return found


if __name__ == "__main__":
    reproduce([__file__])

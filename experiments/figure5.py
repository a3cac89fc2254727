"""Figure 5: the number of attackers under federated averaging."""

from crfl.cli import reproduce
from crfl.reproduction import Claim, Figure, Lab, equal, expected_critical, falls, sweep_figures
from crfl.sweeps import Sweep

ATTACKERS = {"mnist": [1, 2, 3, 4], "emnist": [1, 2, 3, 4], "loan": [1, 2, 3], "digits": [1, 2, 3]}
MNIST_CRITICAL = [1.9858334424610353 / r for r in (1, 2, 3, 4)]
"""Implied by the paper's settings: 1.986, 0.993, 0.662, 0.496."""


def figures(lab: Lab) -> list[Figure]:
    found = []
    for name in lab.datasets("mnist", "emnist", "loan"):
        exp = lab.base(name)

        def claims(s: Sweep, exp=exp, name=name) -> list[Claim]:
            expected = [expected_critical(exp.override({"attack.clients": r})) for r in s.values]
            checks = [
                equal("the critical radius is that of Corollary 1", expected, s.critical),
                falls("more attackers, smaller radius", s.critical),
            ]
            if name == "mnist":
                checks.append(equal("the critical radius is the paper's, 1.986 / R", MNIST_CRITICAL, s.critical))
            return checks

        found += sweep_figures(
            lab,
            "figure5",
            "Figure 5: number of attackers",
            exp,
            "attack.clients",
            ATTACKERS[name],
            lambda r: f"R = {r}",
            claims,
        )
    return found


if __name__ == "__main__":
    reproduce([__file__])

"""Figure 4: the scale of the attackers' update. A stronger attack leaves a smaller radius."""

from crfl.cli import reproduce
from crfl.reproduction import Claim, Figure, Lab, equal, expected_critical, falls, sweep_figures
from crfl.sweeps import Sweep

SCALES = [10.0, 20.0, 30.0, 50.0, 100.0]


def figures(lab: Lab) -> list[Figure]:
    found = []
    for name in lab.datasets("loan", "emnist", "mnist"):
        exp = lab.base(name)

        def claims(s: Sweep, exp=exp) -> list[Claim]:
            expected = [expected_critical(exp.override({"attack.scale": scale})) for scale in s.values]
            return [
                equal("the critical radius is proportional to 1 / gamma", expected, s.critical),
                falls("a larger scale, a smaller radius", s.critical),
            ]

        found += sweep_figures(
            lab,
            "figure4",
            "Figure 4: scale of the attackers' update",
            exp,
            "attack.scale",
            SCALES,
            lambda v: f"gamma = {v:g}",
            claims,
        )
    return found


if __name__ == "__main__":
    reproduce([__file__])

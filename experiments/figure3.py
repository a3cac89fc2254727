"""Figure 3: the share of poisoned samples in a batch. More poison, smaller radius."""

from crfl.cli import reproduce
from crfl.reproduction import Claim, Figure, Lab, equal, expected_critical, falls, sweep_figures
from crfl.sweeps import Sweep

RATIOS = {"mnist": [0.05, 0.1, 0.2, 0.3, 0.5], "loan": [0.025, 0.05, 0.1, 0.15, 0.2], "digits": [0.05, 0.1, 0.2]}


def figures(lab: Lab) -> list[Figure]:
    found = []
    for name in lab.datasets("mnist", "loan"):
        exp = lab.base(name)
        size = exp.local.batch_size
        poisoned = sorted({max(1, round(ratio * size)) for ratio in RATIOS[name]})

        def claims(s: Sweep, exp=exp) -> list[Claim]:
            expected = [expected_critical(exp.override({"attack.poisoned_per_batch": q})) for q in s.values]
            return [
                equal("the critical radius is proportional to 1 / q_B", expected, s.critical),
                falls("more poison, smaller radius", s.critical),
            ]

        found += sweep_figures(
            lab,
            "figure3",
            "Figure 3: poisoned share of a batch",
            exp,
            "attack.poisoned_per_batch",
            poisoned,
            lambda q, size=size: f"{100 * q / size:g} % poisoned",
            claims,
        )
    return found


if __name__ == "__main__":
    reproduce([__file__])

"""Figure 2: training noise. More noise buys radius and costs accuracy."""

import numpy as np

from crfl.cli import reproduce
from crfl.reproduction import Claim, Figure, Lab, equal, expected_critical, falls, numbers, sweep_figures
from crfl.sweeps import Sweep

STDS = [0.005, 0.01, 0.015, 0.02, 0.025]


def figures(lab: Lab) -> list[Figure]:
    found = []
    for name in lab.datasets("mnist", "loan", "emnist"):
        exp = lab.base(name)
        noiseless = lab.cache.train([exp.override({"server.noise": 0.0, "seed": seed}) for seed in lab.seeds])
        plain = float(np.mean([run.history["accuracy"].iloc[-1] for run in noiseless]))

        def claims(s: Sweep, exp=exp, plain=plain) -> list[Claim]:
            expected = [expected_critical(exp.override({"server.noise": std})) for std in s.values]
            last = float(s.accuracy[-1])
            return [
                equal("the critical radius is proportional to sigma", expected, s.critical),
                falls("more noise does not raise the accuracy (to 2 %)", s.accuracy, slack=0.02),
                Claim("noise costs accuracy (to 1 %)", f"at most {plain:.4f}", numbers([last]), last <= plain + 0.01),
            ]

        found += sweep_figures(
            lab,
            "figure2",
            "Figure 2: training noise",
            exp,
            "server.noise",
            STDS,
            lambda std: f"sigma = {std:g}",
            claims,
            rate=name in ("mnist", "digits"),
            levels=lambda s, plain=plain: {
                **{f"sigma = {v:g}": a for v, a in zip(s.values, s.accuracy, strict=True)},
                "no noise": plain,
            },
        )
    return found


if __name__ == "__main__":
    reproduce([__file__])

"""Appendix: the number of noisy models M that vote. More votes, tighter bounds, larger radius."""

from crfl.cli import reproduce
from crfl.reproduction import Claim, Figure, Lab, equal, expected_critical, rises, sweep_figures
from crfl.sweeps import Sweep

SAMPLES = [100, 500, 1000, 2000, 5000]
PAPER = {100: 1.145776936286624, 1000: 1.9858334424610353, 5000: 2.4410367604391863}


def figures(lab: Lab) -> list[Figure]:
    found = []
    for name in lab.datasets("mnist"):
        exp = lab.base(name)

        def claims(s: Sweep, exp=exp, name=name) -> list[Claim]:
            expected = [expected_critical(exp.override({"smoothing.samples": m})) for m in s.values]
            checks = [
                equal("the critical radius is that of M unanimous votes", expected, s.critical),
                rises("more votes, larger radius", s.critical),
            ]
            if name == "mnist":
                at = dict(zip(s.values, s.critical, strict=True))
                checks.append(equal("radii of M = 100, 1000, 5000", list(PAPER.values()), [at[m] for m in PAPER]))
            return checks

        found += sweep_figures(
            lab,
            "appendix-samples",
            "Appendix: number of votes",
            exp,
            "smoothing.samples",
            SAMPLES,
            lambda m: f"M = {m}",
            claims,
            sound=False,
        )
    return found


if __name__ == "__main__":
    reproduce([__file__])

"""Appendix: the failure probability alpha hardly matters."""

from crfl.cli import reproduce
from crfl.reproduction import Claim, Figure, Lab, equal, expected_critical, falls, numbers, sweep_figures
from crfl.sweeps import Sweep

ALPHAS = [1e-2, 1e-3, 1e-4, 1e-5]


def figures(lab: Lab) -> list[Figure]:
    found = []
    for name in lab.datasets("mnist"):
        exp = lab.base(name)

        def claims(s: Sweep, exp=exp) -> list[Claim]:
            expected = [expected_critical(exp.override({"smoothing.alpha": a})) for a in s.values]
            ratio = float(s.critical.min() / s.critical.max())
            return [
                equal("the critical radius is that of Corollary 1", expected, s.critical),
                falls("a smaller alpha, a smaller radius", s.critical),
                Claim("a thousandth of alpha keeps most of the radius", "> 0.6", numbers([ratio]), ratio > 0.6),
            ]

        found += sweep_figures(
            lab,
            "appendix-alpha",
            "Appendix: failure probability of the bounds",
            exp,
            "smoothing.alpha",
            ALPHAS,
            lambda a: f"alpha = {a:g}",
            claims,
            sound=False,
        )
    return found


if __name__ == "__main__":
    reproduce([__file__])

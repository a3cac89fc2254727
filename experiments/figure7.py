"""Figure 7: the number of clients. One attacker among many weighs little."""

from crfl.cli import reproduce
from crfl.reproduction import Claim, Figure, Lab, equal, expected_critical, rises, sweep_figures
from crfl.sweeps import Sweep

CLIENTS = {"mnist": [20, 40, 60, 80, 100], "loan": [10, 20, 30, 40, 50], "digits": [2, 4, 6, 8, 10]}
SAMPLE_CLIENTS = [5, 10, 15, 20]
"""For a sample of the loans in which only so many states fill a batch."""


def figures(lab: Lab) -> list[Figure]:
    found = []
    for name in lab.datasets("mnist", "loan"):
        exp = lab.base(name)
        values = SAMPLE_CLIENTS if name == "loan" and exp.local.batch_size < 800 else CLIENTS[name]

        def claims(s: Sweep, exp=exp) -> list[Claim]:
            expected = [expected_critical(exp.override({"data.clients": n})) for n in s.values]
            return [
                equal("the critical radius is that of Corollary 1", expected, s.critical),
                rises("more clients, larger radius", s.critical),
            ]

        found += sweep_figures(
            lab, "figure7", "Figure 7: number of clients", exp, "data.clients", values, lambda n: f"N = {n}", claims
        )
    return found


if __name__ == "__main__":
    reproduce([__file__])

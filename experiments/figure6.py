"""Figure 6: the number of attackers under RFA, whose weights for them come from each run's own record."""

from crfl.cli import reproduce
from crfl.errors import CertificateError
from crfl.reproduction import Claim, Figure, Lab, falls, numbers, sweep_figures
from crfl.sweeps import Sweep, dataset

ATTACKERS = {"mnist": [1, 2, 3, 4], "emnist": [1, 2, 3, 4], "loan": [1, 2, 3], "digits": [1, 2, 3]}


def figures(lab: Lab) -> list[Figure]:
    found = []
    for name in lab.datasets("mnist", "emnist", "loan"):
        exp = lab.base(name).override({"server.aggregation": "rfa"})
        average = lab.sweep(lab.base(name), "attack.clients", ATTACKERS[name], kind="published")

        def claims(s: Sweep, exp=exp, average=average, name=name) -> list[Claim]:
            run = s.runs[0][0]
            weights = [max(a.weight for a in group[0].record.attack_rounds[0].attackers) for group in s.runs]
            uniform = 1 / len(run.record.client_sizes)
            gain = s.critical / average.critical
            try:
                lab.cache.certify(run, dataset(exp).test, kind="margin")
                refused = "issued"
            except CertificateError as error:
                refused = str(error)
            checks = [
                falls("more attackers, smaller radius", s.critical),
                Claim(
                    "RFA gives attackers less than 1/N", f"< {uniform:.4g}", numbers(weights), max(weights) < uniform
                ),
                Claim("margin refuses a rule that is no average", "refused", refused, refused != "issued"),
            ]
            if name in ("mnist", "emnist"):
                tens = Claim("the radius is tens of times that of FedAvg", "> 10 times", numbers(gain), min(gain) > 10)
                checks.append(tens)
            return checks

        found += sweep_figures(
            lab,
            "figure6",
            "Figure 6: number of attackers under RFA",
            exp,
            "attack.clients",
            ATTACKERS[name],
            lambda r: f"R = {r}",
            claims,
            sound=False,
        )
    return found


if __name__ == "__main__":
    reproduce([__file__])

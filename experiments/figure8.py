"""Figure 8: the number of rounds. Accuracy rises with T, the radius does not."""

import numpy as np

from crfl.cli import reproduce
from crfl.reproduction import DATA_TITLES, Figure, Lab, equal, rises, sweep_panel
from crfl.sweeps import Sweep, dataset, prefix

ROUNDS = {"loan": [30, 50, 60, 80], "emnist": [20, 50, 70, 100, 130, 150], "digits": [4, 6, 8, 12]}


def figures(lab: Lab) -> list[Figure]:
    found = []
    for name in lab.datasets("loan", "emnist"):
        rounds = ROUNDS[name]
        exp = lab.base(name).override({"server.rounds": rounds[-1]})
        seeds = [exp.override({"seed": s}) for s in lab.seeds]
        runs = lab.cache.train(seeds, checkpoints=rounds)
        stops = tuple(tuple(prefix(run, t) for run in runs) for t in rounds)

        tests = [dataset(run.experiment).test for run in runs]

        def certified(kind: str, rounds=rounds, stops=stops, tests=tests) -> Sweep:
            certificates = tuple(
                tuple(lab.certify(r, t, kind=kind) for r, t in zip(group, tests, strict=True)) for group in stops
            )
            return Sweep(tuple(rounds), stops, certificates, (tuple(t.y.numpy() for t in tests),) * len(rounds))

        published, margin = certified("published"), certified("margin")
        panels = [sweep_panel(s, lambda t: f"T = {t}") for s in (published, margin)]
        claims = (
            rises("accuracy rises with T (to 1 %)", published.accuracy, slack=0.01),
            equal("the critical radius does not", np.full(len(rounds), published.critical[0]), published.critical),
        )
        about = {"base": exp.to_dict(), "swept": "server.rounds", "values": rounds, "seeds": list(lab.seeds)}
        title = f"Figure 8: number of rounds, {DATA_TITLES[name]}"
        caption = "The paper's certificate after several numbers of rounds of one training."
        sound = "The same runs under the certificate of the margins, which is sound."
        found += [
            Figure(f"figure8-{name}", title, (panels[0],), claims, about, caption),
            Figure(f"figure8-{name}-sound", f"{title}: sound certificate", (panels[1],), (), about, sound),
        ]
    return found


if __name__ == "__main__":
    reproduce([__file__])

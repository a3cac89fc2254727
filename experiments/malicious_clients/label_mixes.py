"""Ensembles of clients whose label mixes differ: Dirichlet, two labels a client; and loans by state beside loans mixed."""

from crfl.cli import reproduce
from crfl.config import Experiment
from crfl.reproduction import Figure, Lab, Panel, certified_ensembles, clients_panel, two_labels

SIZES = {"local.batch_size": 100_000, "local.keep_last_batch": True}
"""The whole shard, whatever its size."""
SMOKE = {"data.clients": 20, "features.public": 300, "features.whiten": 60}
MIXES = {
    "equal": {},
    "Dirichlet 1.0": {"data.partition": "dirichlet", "data.dirichlet_alpha": 1.0},
    "Dirichlet 0.3": {"data.partition": "dirichlet", "data.dirichlet_alpha": 0.3},
}
TWO_LABELS = "two labels"
STATES = 40


def figures(lab: Lab) -> list[Figure]:
    exp = lab.recipe("mnist-ensemble", SMOKE | {"ensemble.groups": 10}).override(SIZES)
    panels = [_mixes(lab, exp.override({"ensemble.groups": g})) for g in ((5, 10) if lab.smoke else (50, 200, 400))]
    settings = {"base": exp.to_dict(), "seeds": list(lab.seeds)}
    caption = "The same recipe for clients whose labels are mixed in other ways."
    found = [Figure(f"label-mixes-{exp.data.name}", "Unequal label mixes", tuple(panels), (), settings, caption)]
    return found + _states(lab) if lab.datasets("loan") == ("loan",) else found


def _mixes(lab: Lab, exp: Experiment) -> Panel:
    curves = {label: certified_ensembles(lab, exp.override(changes)) for label, changes in MIXES.items()}
    curves[TWO_LABELS] = certified_ensembles(lab, exp, deal=two_labels)
    return clients_panel(f"{exp.ensemble.groups} groups of {exp.data.clients} clients", curves)


def _states(lab: Lab) -> list[Figure]:
    """Loans: a client holds those of one state, or as many of any."""
    shorter = {"server.rounds": 150, "server.evaluate_every": 150, "server.decay": 1.5e-3, "local.learning_rate": 10.0}
    changes = {"data.clients": STATES, "attack.round": None, "server.update_clip": None, **shorter}
    exp = lab.recipe("loan", {}).override(changes)
    panels = []
    for groups in (10, 20):
        own = exp.override({"ensemble.groups": groups})
        curves = {
            "mixed": certified_ensembles(lab, own),
            "by state": certified_ensembles(lab, own.override({"data.partition": "natural"})),
        }
        panels.append(clients_panel(f"{groups} groups of {STATES} clients", curves))
    settings = {"base": exp.to_dict(), "seeds": list(lab.seeds)}
    caption = "Loans of LendingClub, whose clients are states, beside clients of equal size with loans of all states."
    return [Figure("states-loan", "Loans by state", tuple(panels), (), settings, caption)]


if __name__ == "__main__":
    reproduce([__file__])

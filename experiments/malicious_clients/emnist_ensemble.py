"""Ensembles of client groups on EMNIST, of 47 classes: certified accuracy over the number of malicious clients."""

from crfl.cli import reproduce
from crfl.reproduction import Figure, Lab, at_least, certified_ensembles, clients_panel

EXPECTED = {100: {2: 0.76, 10: 0.70}}
SMOKE = {"data.clients": 60, "features.public": 300, "features.whiten": 60}


def figures(lab: Lab) -> list[Figure]:
    exp = lab.recipe("emnist-ensemble", SMOKE | {"ensemble.groups": 20})
    numbers = (10, 20) if lab.smoke else (100, 200)
    found = {groups: certified_ensembles(lab, exp.override({"ensemble.groups": groups})) for groups in numbers}
    claims = [at_least(f"{g} groups", found[g], EXPECTED[g]) for g in numbers if g in EXPECTED]
    panel = clients_panel(f"{exp.data.clients} clients", {f"{g} groups": some for g, some in found.items()})
    settings = {"base": exp.to_dict(), "groups": list(numbers), "seeds": list(lab.seeds)}
    caption = "A linear model on whitened scattering features for each group of clients; the models vote."
    name = "ensemble-digits-as-emnist" if lab.smoke else "ensemble-emnist"
    return [Figure(name, "Ensembles of client groups, 47 classes", (panel,), tuple(claims), settings, caption)]


if __name__ == "__main__":
    reproduce([__file__])

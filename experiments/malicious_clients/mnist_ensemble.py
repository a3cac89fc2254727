"""Ensembles of client groups on MNIST: certified accuracy over the number of malicious clients, by number of groups."""

from crfl.cli import reproduce
from crfl.reproduction import Figure, Lab, at_least, certified_ensembles, clients_panel

EXPECTED = {200: {20: 0.945, 50: 0.90}, 400: {100: 0.86}}
SMOKE = {"data.clients": 60, "features.public": 300, "features.whiten": 60, "local.batch_size": 18}


def figures(lab: Lab) -> list[Figure]:
    exp = lab.recipe("mnist-ensemble", SMOKE | {"ensemble.groups": 20})
    numbers = (6, 20) if lab.smoke else (50, 200, 400, 1000)
    found = {groups: certified_ensembles(lab, exp.override({"ensemble.groups": groups})) for groups in numbers}
    claims = [at_least(f"{g} groups", found[g], EXPECTED[g]) for g in numbers if g in EXPECTED]
    panel = clients_panel(f"{exp.data.clients} clients", {f"{g} groups": some for g, some in found.items()})
    settings = {"base": exp.to_dict(), "groups": list(numbers), "seeds": list(lab.seeds)}
    caption = "A linear model on whitened scattering features for each group of clients; the models vote."
    name = f"ensemble-{exp.data.name}"
    return [Figure(name, "Ensembles of client groups", (panel,), tuple(claims), settings, caption)]


if __name__ == "__main__":
    reproduce([__file__])

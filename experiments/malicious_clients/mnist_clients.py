"""One linear model that forgets, under update clips: certified accuracy over the number of malicious clients."""

import crfl
from crfl.cli import reproduce
from crfl.reproduction import Figure, Lab, at_least, clients_panel
from crfl.sweeps import dataset

EXPECTED = {1: 0.945, 5: 0.86, 10: 0.67}
SMOKE = {
    "data.clients": 120,
    "features.public": 300,
    "features.whiten": 60,
    "local.batch_size": 9,
    "server.rounds": 40,
    "local.learning_rate": 10.0,
}


def figures(lab: Lab) -> list[Figure]:
    exp = lab.recipe("mnist-clients", SMOKE)
    seeds = [exp.override({"seed": seed}) for seed in lab.seeds]
    found = []
    for own, run in zip(seeds, lab.cache.train(seeds), strict=True):
        test = dataset(own).test
        found.append((crfl.certify(run, test, kind="clients"), test.y))
    claims = () if lab.smoke else (at_least("one model", found, EXPECTED),)
    panel = clients_panel(f"{exp.data.clients} clients", {"one model": found})
    caption = (
        "A linear model on whitened scattering features. The server clips updates and shrinks the model every round."
    )
    settings = {"base": exp.to_dict(), "seeds": list(lab.seeds)}
    return [Figure(f"clients-{exp.data.name}", "One model", (panel,), claims, settings, caption)]


if __name__ == "__main__":
    reproduce([__file__])

"""Ensembles of convolutional networks on MNIST. The network stands for any model: the certificate knows nothing of it."""

import math

import torch
from torch import nn

import crfl
from crfl.cli import reproduce
from crfl.reproduction import Figure, Lab, at_least, certified_ensembles, clients_panel

EXPECTED = {0: 0.95, 2: 0.94, 5: 0.92}


def network(side: int) -> nn.Module:
    """Two convolutions and a linear layer, for images of so many pixels a side."""
    torch.manual_seed(0)
    kernel, stride = (5, 2) if side == 28 else (3, 1)
    layers = [nn.Conv2d(1, 8, kernel, stride), nn.ReLU(), nn.Conv2d(8, 16, kernel, stride), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(nn.Unflatten(1, (1, side, side)), *layers, nn.Linear(256, 10))


def figures(lab: Lab) -> list[Figure]:
    exp = crfl.Experiment().override(
        {
            "data.name": "digits" if lab.smoke else "mnist",
            "data.root": None if lab.root is None else str(lab.root),
            "data.clients": 20 if lab.smoke else 100,
            "local.batch_size": 10 if lab.smoke else 50,
            "local.learning_rate": 0.2,
            "local.precision": "float32",
            "server.rounds": 5 if lab.smoke else 30,
            "server.noise": 0.0,
            "server.clip": {"start": math.inf},
            "attack.round": None,
            "ensemble.groups": 5 if lab.smoke else 20,
        }
    )
    found = certified_ensembles(lab, exp, model=network(8 if lab.smoke else 28))
    claims = () if lab.smoke else (at_least("20 groups", found, EXPECTED),)
    panel = clients_panel(f"{exp.data.clients} clients", {f"{exp.ensemble.groups} groups": found})
    settings = {"base": exp.to_dict(), "seeds": list(lab.seeds)}
    caption = "A small convolutional network for each group of clients, trained by plain federated averaging."
    name = f"ensemble-cnn-{exp.data.name}"
    return [Figure(name, "Ensembles of convolutional networks", (panel,), claims, settings, caption)]


if __name__ == "__main__":
    reproduce([__file__])

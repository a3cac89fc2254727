"""Certified votes of convolutional networks on MNIST, in one command: python examples/cnn_ensemble/run.py

The network stands for any model: the certificate of an ensemble knows nothing of it.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import crfl


def network() -> nn.Module:
    """Two convolutions and a linear layer: 5,994 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def settings(clients: int, rounds: int) -> crfl.Experiment:
    """Plain federated averaging; nobody attacks."""
    return crfl.Experiment().override(
        {
            "data.name": "mnist",
            "data.clients": clients,
            "local.batch_size": 50,
            "local.learning_rate": 0.2,
            "local.precision": "float32",
            "server.rounds": rounds,
            "server.evaluate_every": rounds,
            "server.noise": 0.0,
            "server.clip": {"start": float("inf")},
            "attack.round": None,
        }
    )


def main() -> None:
    """Train, certify, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--groups", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()

    exp = settings(given.clients, given.rounds)
    data = crfl.load_data(exp)
    ensemble = crfl.train_ensemble(exp, data, groups=given.groups, model=network(), device=given.device, progress=True)
    cert = crfl.certify(ensemble, data.test, device=given.device)
    print(cert)
    counts = range(given.groups // 2 + 1)
    for count, share in zip(counts, cert.certified_accuracy(data.test.y, list(counts)), strict=True):
        print(f"{count:3d} malicious clients of {given.clients}: certified accuracy {share:.4f}")


if __name__ == "__main__":
    main()

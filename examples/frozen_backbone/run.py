"""Certified CIFAR-10 on a frozen ImageNet network, in one command: python examples/frozen_backbone/run.py

The features are computed once, in some minutes, and kept beside the data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from backbone import Backbone

import crfl
from crfl.config.shipped import find_settings
from crfl.data.cifar import CLASSES, INPUT_SHAPE, load_cifar10
from crfl.data.load import data_root


def load(exp: crfl.Experiment, train: int, test: int, size: int) -> crfl.FederatedData:
    """The first `train` and `test` images of CIFAR-10, mapped by the network."""
    x, y, held_out = load_cifar10(data_root(exp))
    pixels = (held_out.x[:test] * 255).round().byte()
    return crfl.FederatedData.from_arrays(
        x[:train].view(-1, *INPUT_SHAPE),
        y[:train],
        pixels.view(-1, *INPUT_SHAPE),
        held_out.y[:test],
        clients=exp.data.clients,
        partition=exp.data.partition,
        seed=exp.seed,
        features=Backbone(size),
        public=exp.features.public,
        whiten=exp.features.whiten,
        norm=exp.features.norm,
        cache=data_root(exp) / "features",
        class_names=CLASSES,
        progress=True,
    )


def main() -> None:
    """Train, certify, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=find_settings("certified/cifar10-backbone"))
    parser.add_argument("--train", type=int, default=10_000, help="images to train on, those of the server included")
    parser.add_argument("--test", type=int, default=2_500, help="images to certify")
    parser.add_argument("--size", type=int, default=128, help="pixels a side that images are enlarged to")
    given = parser.parse_args()

    exp = crfl.Experiment.from_yaml(given.config)
    data = load(exp, given.train, given.test, given.size)
    run = crfl.train(exp, data, progress=True)
    cert = crfl.certify(run, data.test, attack_round="any")
    labels = data.test.y.numpy()
    anything = (cert.prediction == labels) & (cert.max_malicious() >= 1)
    print(cert)
    print(f"accuracy {run.score(data.test):.4f}")
    print(f"certified, any image and label in the poisoned places: {cert.certified_accuracy(labels, np.inf):.4f}")
    print(f"certified, one client that sends anything in one unknown round: {anything.mean():.4f}")


if __name__ == "__main__":
    main()

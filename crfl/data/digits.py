"""scikit-learn's bundled UCI digits: 1,797 real 8x8 images. The embedded default: no network, no files."""

from __future__ import annotations

import torch
from torch import Tensor

from crfl.data.federated import Split
from crfl.rng import permutation, stream

TRAIN_SAMPLES = 1400
SCALE = 1 / 16
"""Pixels are 0 .. 16; features are pixel / 16."""
IMAGE_SHAPE = (8, 8)


def load_digits() -> tuple[Tensor, Tensor, Split]:
    """Training pixels (1400, 64) uint8 and labels (1400,), and the test split of the other 397, in [0, 1].

    The split is one fixed shuffle, whatever the experiment's seed, so that results of different seeds share a test set.
    """
    from sklearn import datasets  # here, because it is slow to import

    pixels, labels = datasets.load_digits(return_X_y=True)
    x, y = torch.from_numpy(pixels).to(torch.uint8), torch.from_numpy(labels).to(torch.int64)
    order = permutation(len(y), stream(0, "digits split"))
    train, test = order[:TRAIN_SAMPLES], order[TRAIN_SAMPLES:]
    return x[train], y[train], Split(x[test].float() * SCALE, y[test])

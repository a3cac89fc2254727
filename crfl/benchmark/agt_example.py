"""The example of abstract gradient training on MNIST, and the coupling bound beside it, on the same samples.

Label flips; the first 32 principal components of the pixels and a bias; one linear layer. AGT (psosnin/
AbstractGradientTraining, notebooks/MNIST - Poisoning.ipynb) takes two full-batch steps with rates 5 and 2.5 from torch's
initial weights of seed 0, and looks at the first 1,000 test images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from crfl.benchmark.methods.interval import (
    FloatArray,
    IntArray,
    Poison,
    gradient_descent,
    interval_training,
    predictions_that_stand,
)
from crfl.config import Experiment
from crfl.data.images import load_mnist
from crfl.data.load import data_root

if TYPE_CHECKING:
    from pandas import DataFrame

COMPONENTS, RATES, SHOWN = 32, (5.0, 2.5), slice(0, 1000)
COUPLED_STEPS, COUPLED_RATE = 50, 0.07
"""As `choose` finds them on held-out training images; AGT's settings are its authors'."""
TRIED = tuple((steps, rate) for steps in (10, 50) for rate in (0.02, 0.04, 0.07, 0.15, 0.3))
FLIPS = (0, 10, 50, 100)
HELD_OUT = 10_000


@dataclass(frozen=True, eq=False)
class AgtExample:
    """Features with a one at their end: x (n, 33) and x_test (m, 33); labels; the weights (10, 33) at the start."""

    x: FloatArray
    y: IntArray
    x_test: FloatArray
    y_test: IntArray
    start: FloatArray

    @classmethod
    def load(cls, root: str | Path | None = None) -> AgtExample:
        """From MNIST under `root`, $CRFL_DATA_DIR or ./data."""
        from sklearn.decomposition import PCA  # here, because it is slow to import

        folder = data_root(Experiment()) if root is None else Path(root)
        pixels, y, test = load_mnist(folder, download=True)
        inputs = pixels.flatten(1).numpy() / 255.0, test.x.flatten(1).numpy().astype(np.float64)
        pca = PCA(COMPONENTS).fit(inputs[0])
        x, x_test = (np.pad(pca.transform(a).astype(np.float32), ((0, 0), (0, 1)), constant_values=1) for a in inputs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layer = torch.nn.Linear(COMPONENTS, 10)
        start = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().double().numpy()
        return cls(x.astype(np.float64), y.numpy(), x_test.astype(np.float64), test.y.numpy(), start)

    def accuracy(self, steps: int = 2, images: slice = SHOWN, clip: float = np.inf) -> float:
        """Of AGT's training without an attack."""
        weights = gradient_descent(self.x, self.y, self.start, RATES[:steps], clip)
        return float(np.mean((self.x_test[images] @ weights.T).argmax(axis=1) == self.y_test[images]))

    def certified(self, flips: int, steps: int = 2, images: slice = SHOWN, clip: float = np.inf) -> float:
        """AGT's certified accuracy: test images that are right whatever labels `flips` training samples have."""
        weights = interval_training(self.x, self.y, self.start, RATES[:steps], Poison(flips), clip)
        return float(np.mean(predictions_that_stand(weights, self.x_test[images], self.y_test[images])))

    def coupled(
        self, flips: int, steps: int = COUPLED_STEPS, images: slice = SHOWN, rate: float = COUPLED_RATE
    ) -> float:
        """Certified accuracy by the coupling bound: gradient descent from zero whose steps do not expand.

            Delta = sum_t eta sqrt(2) / n (sum of the k largest ||x~_i||),  right if every margin exceeds sqrt(2) ||x~|| Delta

        for k flips (sections 5 and 10 of the theory): the loss is convex and lambda_max(mean x~ x~^T) / 2 smooth, whatever
        the labels, so with eta <= 2 / beta a step brings two models no further apart; a flipped label adds at most
        sqrt(2) ||x~||. Rounding is not accounted for.
        """
        smoothness = float(np.linalg.eigvalsh(self.x.T @ self.x / len(self.x))[-1]) / 2
        rate = min(rate, 2 / smoothness)
        weights = gradient_descent(self.x, self.y, np.zeros_like(self.start), [rate] * steps)
        largest = np.sort(np.linalg.norm(self.x, axis=1))[len(self.x) - flips :].sum()
        distance = steps * rate * np.sqrt(2) * largest / len(self.x)
        x, y = self.x_test[images], self.y_test[images]
        logits, rows = x @ weights.T, np.arange(len(y))
        own = logits[rows, y].copy()
        logits[rows, y] = -np.inf
        return float(np.mean(own - logits.max(axis=1) > np.sqrt(2) * np.linalg.norm(x, axis=1) * distance))

    def choose(self) -> tuple[int, float]:
        """Steps and rate of the coupling bound whose mean certified accuracy on the last 10,000 training images is largest."""
        cut = slice(0, len(self.x) - HELD_OUT), slice(len(self.x) - HELD_OUT, None)
        part = replace(self, x=self.x[cut[0]], y=self.y[cut[0]], x_test=self.x[cut[1]], y_test=self.y[cut[1]])
        whole = slice(0, None)
        return max(TRIED, key=lambda tried: sum(part.coupled(k, tried[0], whole, tried[1]) for k in FLIPS))

    def table(self, flips: tuple[int, ...] = FLIPS) -> DataFrame:
        """Certified accuracy on the first 1,000 test images: a row a method, a column a number of flipped labels."""
        from pandas import DataFrame

        rows = {f"AGT, clip {clip:g}": [self.certified(k, clip=clip) for k in flips] for clip in (np.inf, 0.2, 0.1)}
        rows[f"coupling, {COUPLED_STEPS} steps"] = [self.coupled(k) for k in flips]
        return DataFrame.from_dict(rows, orient="index", columns=list(flips))

"""Draws docs/images/ensembles-mnist.png and prints its numbers: python docs/draw_ensembles.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import crfl
from crfl.certification.ensembles.certificate import count_grid
from crfl.plots.style import look

PARTITIONS = {"equal label mixes": None, "Dirichlet 1.0": 1.0, "Dirichlet 0.3": 0.3}
GROUPS = (50, 200, 400, 1000)
SHOWN = (0, 1, 5, 10, 20, 50, 100, 200)


def settings(alpha: float | None) -> crfl.Experiment:
    """The recipe, for clients of any size."""
    exp = crfl.Experiment.named("certified/mnist-ensemble")
    exp = exp.override({"local.batch_size": 100_000, "local.keep_last_batch": True})
    return exp if alpha is None else exp.override({"data.partition": "dirichlet", "data.dirichlet_alpha": alpha})


def main() -> None:
    """Measure and draw."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.8), sharey=True, layout="constrained")
    for ax, (title, alpha) in zip(axes, PARTITIONS.items(), strict=True):
        exp = settings(alpha)
        data = crfl.load_data(exp)
        y = data.test.y.numpy()
        for i, groups in enumerate(GROUPS):
            ensemble = crfl.train_ensemble(exp, data, groups=groups)
            cert, votes = crfl.certify(ensemble, data.test), ensemble.votes(data.test)
            counts = count_grid(cert)
            style = {**look(i), "drawstyle": "steps-post", "label": f"{groups} groups"}
            ax.plot(counts, cert.certified_accuracy(y, counts), **style)
            shares = [round(float(share), 4) for share in cert.certified_accuracy(y, list(SHOWN))]
            print(title, groups, f"one group {np.mean(votes == y[:, None]):.3f}", dict(zip(SHOWN, shares, strict=True)))
        ax.set(title=title, xlim=(0, 210), ylim=(0, 1))
        ax.grid(alpha=0.3)
    crfl.plots.share_legend(figure)
    axes[0].set_ylabel("certified accuracy")
    axes[1].set_xlabel("malicious clients of 1,000, in every round")
    figure.savefig(Path(__file__).parent / "images" / "ensembles-mnist.png", dpi=130)


if __name__ == "__main__":
    main()

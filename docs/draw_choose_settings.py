"""Draws docs/images/choose-settings.png: python docs/draw_choose_settings.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import crfl
from crfl.errors import CertificateError
from crfl.plots.style import look
from crfl.tune import rehearse

PANELS: dict[str, tuple[str, list[Any]]] = {
    "lambda": ("server.decay", [3e-4, 1e-3, 3e-3, 1e-2, 3e-2]),
    "rounds T": ("server.rounds", [20, 50, 100, 300]),
    "clients N": ("data.clients", [5, 10, 20, 40]),
    "batch size": ("local.batch_size", [5, 11, 1000]),
    "whitened dimensions": ("features.whiten", [10, 20, 40, 80, 160]),
    "learning rate": ("local.learning_rate", [2.0, 5.0, 10.0, 20.0, 40.0]),
}


def measure(changes: dict[str, Any]) -> tuple[float, float]:
    """Accuracy, and certified accuracy against one client-round of anything, on the digits' test set."""
    base = crfl.Experiment.named("certified/digits").override({"attack.round": None, "server.rounds": 100})
    exp = base.override({"server.decay": 3e-3, "server.evaluate_every": 1000, **changes})
    if exp.local.batch_size < 50:  # the curvature of small batches is bounded by 1 / 2 alone
        exp = exp.override({"local.learning_rate": 0.5})
    data = crfl.load_data(exp)
    try:
        exp = rehearse(exp, data)
        run = crfl.train(exp, data)
        cert = crfl.certify(run, data.test, attack_round="any")
        held = (cert.prediction == data.test.y.numpy()) & (cert.max_malicious() >= 1)
        return run.score(data.test), float(held.mean())
    except CertificateError as error:
        print(changes, error)
        return float("nan"), 0.0


def main() -> None:
    """Measure and draw."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), sharey=True, layout="constrained")
    for ax, (title, (key, values)) in zip(axes.flat, PANELS.items(), strict=True):
        found = [measure({key: value}) for value in values]
        print(title, values, found, flush=True)
        for i, name in enumerate(("accuracy", "certified, one client-round of anything")):
            ax.plot(values, [pair[i] for pair in found], label=name, **{**look(i), "markevery": 1})
        ax.set(xscale="log", xlabel=title, ylim=(0.8, 1))
        ax.minorticks_off()
        labels = ["all" if key == "local.batch_size" and v == 1000 else f"{v:g}" for v in values]
        ax.set_xticks(values, labels)
        ax.grid(alpha=0.3)
    crfl.plots.share_legend(figure)
    figure.supylabel("share of the test set")
    figure.savefig(Path(__file__).parent / "images" / "choose-settings.png", dpi=150)


if __name__ == "__main__":
    main()

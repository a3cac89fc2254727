"""One page about one run: what was asked, what happened, what is certified, on which assumptions, and examples."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from crfl import plots
from crfl.certification.certificate import Certificate
from crfl.certification.certify import certify
from crfl.data.federated import FederatedData
from crfl.errors import CertificateError
from crfl.pages import page, table
from crfl.run import TrainingRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("published", "smoothing", "margin")
GALLERY = 10
"""Samples shown in each row of the gallery."""


def run_report(run: TrainingRun, data: FederatedData) -> str:
    """A self-contained HTML page on a run and its certificates of every kind on the clean test set."""
    certificates, refused = {}, {}
    for kind in KINDS:
        try:
            certificates[kind] = certify(run, data.test, kind=kind)
        except CertificateError as error:
            refused[kind] = str(error)
    labels = data.test.y.numpy()
    pictures = {"training": _png(plots.training(run.history, [r.round for r in run.record.attack_rounds]))}
    parts = [
        "# A crfl run",
        _summary(run, data),
        "## Training",
        "![training](training)",
    ]
    if certificates:
        pictures["certified"] = _png(plots.certified_accuracy({k: (c, labels) for k, c in certificates.items()}))
        parts += [
            "## Certified accuracy",
            "![certified accuracy](certified)",
            table(_radii(certificates, labels)),
            "Radii are l2 norms of the backdoor's change of a training sample. Certified accuracy at r: share of test "
            "samples predicted correctly that no backdoor of norm up to r could have changed, as far as what the "
            "certificate rests on holds: see below.",
        ]
    shown = next((k for k in ("margin", "published") if k in certificates), None)
    if shown is not None and data.input_shape is not None:
        pictures["gallery"] = _gallery(certificates[shown], data, labels)
        parts += [f"## Samples under `{shown}`", "![samples](gallery)"]
    parts.append("## What the certificates rest on")
    for kind, certificate in certificates.items():
        parts += [f"### {kind}", *(f"- {s}" for s in certificate.assumptions)]
        parts += [f"- **Warning:** {s}" for s in certificate.warnings]
    parts += [f"### {kind}\n\nRefused: {reason}" for kind, reason in refused.items()]
    parts += ["## Settings", "\n".join("    " + line for line in run.experiment.to_yaml().splitlines())]
    return page("crfl: one run", "\n\n".join(parts).replace("\n\n- ", "\n- ").replace("\n- ", "\n\n- ", 1), pictures)


def _summary(run: TrainingRun, data: FederatedData) -> str:
    last, attack = run.history.iloc[-1], run.experiment.attack
    rows = {
        "data": f"{data.name}: {sum(data.sizes)} training samples, {len(data.shards)} clients, {len(data.test)} tests",
        "rounds": str(len(run.record.rounds)),
        "accuracy at the end": f"{last['accuracy']:.4f}",
    }
    if attack.active:
        success = run.attack_success["attack_success_rate"]
        rounds = ", ".join(str(r.round) for r in run.record.attack_rounds)
        rows["attack"] = f"{attack.count} client(s) in round {rounds}, gamma = {attack.scale}"
        rows["attack success rate"] = f"{success.max():.4f} at most, {success.iloc[-1]:.4f} at the end"
    if run.record.benign:
        rows["benign counterpart"] = "the attackers' data stayed clean"
    return table(pd.DataFrame({"": list(rows), " ": list(rows.values())}))


def _radii(certificates: Mapping[str, Certificate], labels: npt.NDArray[np.int64]) -> pd.DataFrame:
    """Certified accuracy of each kind at a few radii, and how many samples it abstains on."""
    finite = [c.radius[np.isfinite(c.radius)].max(initial=0.0) for c in certificates.values()]
    radii = (max(finite, default=0.0) or 1.0) * np.array([0.0, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75])
    rows = []
    for kind, certificate in certificates.items():
        values = certificate.certified_accuracy(labels, radii)
        row: dict[str, object] = {"certificate": kind, "critical radius": certificate.critical_radius}
        row |= {f"r = {r:.3g}": float(v) for r, v in zip(radii, values, strict=True)}
        rows.append(row | {"abstained": float(certificate.abstained.mean())})
    return pd.DataFrame(rows)


def _gallery(certificate: Certificate, data: FederatedData, labels: npt.NDArray[np.int64]) -> bytes:
    """Rows of images: the largest radii, the smallest, abstained from, and certified though wrong."""
    from matplotlib import pyplot

    right = certificate.prediction == labels[certificate.indices]
    order = np.argsort(-certificate.radius, kind="stable")
    certified = order[~certificate.abstained[order]]
    rows = {
        "largest radius": certified[right[certified]][:GALLERY],
        "smallest radius": certified[right[certified]][::-1][:GALLERY],
        "abstained": order[certificate.abstained[order]][:GALLERY],
        "certified, wrong": certified[~right[certified]][:GALLERY],
    }
    rows = {name: chosen for name, chosen in rows.items() if len(chosen)}
    _, axes = pyplot.subplots(len(rows), GALLERY, figsize=(GALLERY, 1.45 * len(rows)), squeeze=False)
    for line, (name, chosen) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.axis("off")
        line[0].text(-0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
        for ax, i in zip(line, chosen, strict=False):
            row = int(certificate.indices[i])
            ax.imshow(data.test_inputs[row].numpy().reshape(data.input_shape), cmap="gray_r")
            said, true = data.class_names[certificate.prediction[i]], data.class_names[labels[row]]
            radius = "" if certificate.abstained[i] else f"\nr = {certificate.radius[i]:.3g}"
            ax.set_title(said + ("" if right[i] else f" (is {true})") + radius, fontsize=8)
    return _png(axes[0][0])


def _png(ax: Axes) -> bytes:
    """The figure of `ax` as PNG; closes it."""
    from matplotlib import pyplot

    figure = ax.get_figure(root=True)
    assert figure is not None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    pyplot.close(figure)
    return buffer.getvalue()

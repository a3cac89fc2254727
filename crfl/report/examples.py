"""Examples for a report: the trigger, and samples with the largest and the smallest strength."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from crfl.attack.triggers import make_trigger
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.errors import CrflError
from crfl.pages import Block, Gallery, Heading, Paragraph, Table
from crfl.report.images import sample_png
from crfl.report.saved import SavedCertificate
from crfl.wording import amount

GALLERY = 10
"""Samples in each row of the gallery."""
EXAMPLES = 3
"""Samples that show the trigger."""
NAME = 24
"""Letters of a class name under a picture."""


def trigger_blocks(exp: Experiment, data: FederatedData) -> list[Block]:
    """The trigger on a few test samples: before, after and the change; a table where the samples are no images."""
    if not exp.attack.active:
        return []
    heading = Heading("Trigger")
    try:
        trigger = make_trigger(exp.attack, data, exp.seed)
    except CrflError as error:
        return [heading, Paragraph(f"Not shown: {error}")]
    clean = data.test_inputs.double().numpy()
    after = trigger(data.test_inputs).double().numpy()
    norms = np.linalg.norm(after - clean, axis=1)
    told = Paragraph(
        f"On test samples the trigger has an l2 norm of {norms.mean():.4g} on average, {norms.max():.4g} at most."
    )
    if data.input_shape is None:
        return [heading, told, Table(_changes(after - clean, data))]
    samples = []
    for i in np.flatnonzero(data.test.y.numpy() != exp.attack.target)[:EXAMPLES]:
        samples.append((sample_png(clean[i], data.input_shape, data.domain), "clean"))
        samples.append((sample_png(after[i], data.input_shape, data.domain), "with the trigger"))
        samples.append((sample_png(after[i] - clean[i], data.input_shape, signed=True), "change, enlarged"))
    return [heading, told, Gallery(samples)]


def sample_gallery(certificate: SavedCertificate, data: FederatedData) -> dict[str, list[tuple[bytes, str]]]:
    """By row: the largest strengths, the smallest, abstained from, and certified though wrong."""
    strength, abstained, right = certificate.strength, certificate.abstained, certificate.correct
    order = np.argsort(-strength, kind="stable")
    certified = order[~abstained[order]]
    rows = {
        "Strongest certificates": certified[right[certified]][:GALLERY],
        "Weakest certificates": certified[right[certified]][::-1][:GALLERY],
        "Abstained": order[abstained[order]][:GALLERY],
        "Certified, but wrong": certified[~right[certified]][:GALLERY],
    }
    return {name: [_sample(certificate, data, int(i)) for i in chosen] for name, chosen in rows.items() if len(chosen)}


def _sample(certificate: SavedCertificate, data: FederatedData, i: int) -> tuple[bytes, str]:
    row = certificate.frame.iloc[i]
    said, true = (_name(data, int(row[key])) for key in ("prediction", "label"))
    lines = [said if said == true else f"{said} (is {true})"]
    if not certificate.abstained[i]:
        value = certificate.strength[i]
        noun = {"malicious_clients": "client", "poisoned_samples": "sample"}.get(certificate.strength_name)
        if noun is not None:
            lines.append(amount(int(value), noun))
        else:
            lines.append("any content" if np.isinf(value) else f"{certificate.strength_name[0]} = {value:.3g}")
    assert data.input_shape is not None
    return sample_png(data.test_inputs[int(row["index"])].numpy(), data.input_shape, data.domain), "\n".join(lines)


def _name(data: FederatedData, label: int) -> str:
    text = " ".join(data.class_names[label].split())
    return text if len(text) <= NAME else text[: NAME - 1] + "\u2026"


def _changes(change: npt.NDArray[np.float64], data: FederatedData) -> pd.DataFrame:
    """The features that the trigger changes most."""
    mean = change.mean(0)
    order = np.argsort(-np.abs(mean), kind="stable")[:GALLERY]
    order = order[mean[order] != 0]
    names = data.feature_names or tuple(f"feature {i}" for i in range(data.num_inputs))
    return pd.DataFrame({"feature": [names[i] for i in order], "mean change": mean[order]})

"""The page about a run."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from crfl import plots
from crfl.data.federated import FederatedData
from crfl.ensemble_run import EnsembleRun
from crfl.pages import Block, Bullets, Code, Gallery, Heading, Paragraph, Picture, Table, page
from crfl.report.examples import sample_gallery, trigger_blocks
from crfl.report.images import plot_png
from crfl.report.saved import SavedCertificate
from crfl.run import TrainingRun
from crfl.wording import amount

RADII = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Radii of the tables, on the screen and in the report."""
DISTANCES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Distances of parameters of the tables."""
COUNTS = (0, 1, 2, 5, 10, 20, 50)
"""Numbers of malicious clients of the tables."""
SAMPLES = (0, 1, 10, 50, 100, 500, 1000)
"""Numbers of poisoned samples of the tables."""


def run_report(
    run: TrainingRun | EnsembleRun,
    data: FederatedData,
    certificates: Sequence[SavedCertificate] = (),
    *,
    name: str = "",
    when: datetime.datetime | None = None,
    versions: Mapping[str, str] | None = None,
) -> str:
    """A self-contained HTML page on a run and the certificates that were issued for it.

    Args:
        run: The run, or an ensemble.
        data: The data that it was trained on.
        certificates: What to show; nothing is certified here.
        name: Name of the run, e.g. of its folder.
        when: When the run was finished.
        versions: Versions of the software that made it.

    Returns:
        HTML. Names, labels and settings appear as text, whatever they hold, and nothing is loaded from elsewhere.

    Example:
        >>> import crfl
        >>> from crfl.report import run_report
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
        >>> data = crfl.load_data(exp)
        >>> html = run_report(crfl.train(exp, data), data, name="demo")
        >>> "<title>crfl run demo</title>" in html
        True
    """
    title = f"crfl run {name}".strip()
    made = [f"{package} {number}" for package, number in (versions or {}).items()]
    about = ", ".join([*([f"finished {when:%Y-%m-%d %H:%M}"] if when else []), *made])
    blocks: list[Block] = [Heading(title, 1)]
    blocks += [Paragraph(f"{about[0].upper()}{about[1:]}.")] if about else []
    blocks += _trained_groups(run, data) if isinstance(run, EnsembleRun) else _trained(run, data)
    blocks += trigger_blocks(run.experiment, data)
    blocks += _certified(certificates)
    shown = next((c for c in certificates if c.split == "clean" and not c.warnings), None)
    shown = shown or next((c for c in certificates if c.split == "clean"), None)
    if shown is not None and data.input_shape is not None:
        blocks.append(Heading(f"Samples under {shown.title}"))
        for row, samples in sample_gallery(shown, data).items():
            blocks += [Heading(row, 3), Gallery(samples)]
    blocks += _grounds(certificates)
    blocks += [Heading("Settings"), Code(run.experiment.to_yaml())]
    return page(title, blocks)


def _trained(run: TrainingRun, data: FederatedData) -> list[Block]:
    """What came of one model."""
    drawn = plots.training(run.history, [r.round for r in run.record.attack_rounds])
    picture = Picture(plot_png(drawn), "Accuracy and attack success rate over the rounds")
    return [Table(_summary(run, data)), Heading("Training"), picture]


def _trained_groups(run: EnsembleRun, data: FederatedData) -> list[Block]:
    """What came of an ensemble."""
    scores = run.group_scores(data.test)
    rows = {
        **_data_rows(data),
        "ensemble": run.dealing,
        "rounds": str(run.experiment.server.rounds),
        "accuracy of the vote": f"{run.score(data.test):.4f} {_majority(data)}",
        "accuracy of one group": f"{scores.mean():.4f} on average, {scores.min():.4f} to {scores.max():.4f}",
    }
    return [Table(_two_columns(rows))]


def _data_rows(data: FederatedData) -> dict[str, str]:
    counted = [amount(sum(data.sizes), "training sample"), amount(len(data.shards), "client")]
    return {"data": f"{data.name}: {', '.join(counted)}, {amount(len(data.test), 'test sample')}"}


def _majority(data: FederatedData) -> str:
    return f"(always the most frequent class: {data.test.majority_accuracy:.4f})"


def _two_columns(rows: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame({"": list(rows), " ": list(rows.values())})


def _summary(run: TrainingRun, data: FederatedData) -> pd.DataFrame:
    last, attack = run.history.iloc[-1], run.experiment.attack
    rows = {
        **_data_rows(data),
        "rounds": str(len(run.record.rounds)),
        "accuracy at the end": f"{last['accuracy']:.4f} {_majority(data)}",
        "most frequent prediction": f"{last['top_prediction_share']:.4f} of the test samples",
    }
    if attack.active and run.record.attack_rounds:
        success = run.history_since_attack["attack_success_rate"]
        rounds = [r.round for r in run.record.attack_rounds]
        told = f"round {rounds[0]}" if len(rounds) == 1 else f"{len(rounds)} rounds from {rounds[0]} to {rounds[-1]}"
        rows["attack"] = f"{amount(attack.count, 'attacker')} in {told}, update scaled by {attack.scale}"
        rows["attack success rate"] = (
            f"{success.iloc[-1]:.4f} at the end, {success.max():.4f} in the worst round from the first attack on"
        )
    if run.record.benign:
        rows["benign counterpart"] = "the attackers' data stayed clean"
    return _two_columns(rows)


def _certified(certificates: Sequence[SavedCertificate]) -> list[Block]:
    """Pictures and tables of certified accuracy: radii apart from numbers of clients and of samples."""
    blocks: list[Block] = [Heading("Certified accuracy")]
    if not certificates:
        return [*blocks, Paragraph("No certificate was saved with this run; the command crfl certify makes one.")]
    shown = {"radius": RADII, "malicious_clients": COUNTS, "poisoned_samples": SAMPLES, "distance": DISTANCES}
    for strength, at in shown.items():
        mine = [c for c in certificates if c.strength_name == strength]
        if mine:
            blocks += [_picture(mine), Table(_table(mine, at))]
    return [
        *blocks,
        Paragraph(
            "Certified accuracy: share of test samples that are predicted correctly and whose prediction no attack of "
            "that strength could have changed, as far as what the certificate rests on holds. Certified rate: the same, "
            "right or wrong; at 0 it counts all samples. A radius bounds the l2 norm of the change that a trigger makes to a training sample; "
            '"any" says that the poisoned samples may hold anything.'
        ),
    ]


def _picture(certificates: Sequence[SavedCertificate]) -> Picture:
    """Those of the clean test set; the backdoored one hardly differs, and is in the table."""
    clean = [c for c in certificates if c.split == "clean"] or certificates
    curves = {plots.plain(_label(c)): (c, c.labels) for c in clean}
    return Picture(plot_png(plots.certified_accuracy(curves)), "Certified accuracy")


def _table(certificates: Sequence[SavedCertificate], strengths: Sequence[float]) -> pd.DataFrame:
    rows = []
    for c in certificates:
        for curve, values in (
            ("accuracy", c.certified_accuracy(c.labels, strengths)),
            ("rate", c.certified_rate(strengths)),
        ):
            about = {"certificate": _label(c), "test set": c.split}
            row: dict[str, object] = {**about, "certified": curve}
            sign = {"radius": "r", "distance": "d"}.get(c.strength_name, "n")
            row |= {f"{sign} = {s:g}": float(v) for s, v in zip(strengths, values, strict=True)}
            if c.strength_name == "radius":
                row["any"] = float((np.isinf(c.strength) & (c.correct if curve == "accuracy" else True)).mean())
            largest = float(c.strength.max(initial=0.0))
            rows.append(row | {"largest": largest, "abstained": float(c.abstained.mean())})
    return pd.DataFrame(rows)


def _label(certificate: SavedCertificate) -> str:
    """The name, which tells the options, and whether it is a guarantee."""
    broken = "not a guarantee" in certificate.label and "not a guarantee" not in certificate.title
    return f"{certificate.title} (not a guarantee here)" if broken else certificate.title


def _grounds(certificates: Sequence[SavedCertificate]) -> list[Block]:
    """What each certificate says and rests on, said once for all of its test sets."""
    blocks: list[Block] = [Heading("What the certificates rest on")] if certificates else []
    for title in dict.fromkeys(c.title for c in certificates):
        mine = [c for c in certificates if c.title == title]
        blocks.append(Heading(title, 3))
        blocks += [Paragraph(mine[0].statement)] if mine[0].statement else []
        blocks += [Paragraph(text, warning=True) for text in dict.fromkeys(w for c in mine for w in c.warnings)]
        blocks.append(Bullets(list(dict.fromkeys(a for c in mine for a in c.assumptions))))
    return blocks

"""The comparison as one self-contained page: a table and curves for each threat."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from crfl import __version__, plots
from crfl.benchmark.entry import THREATS, Entry
from crfl.benchmark.harness import Comparison
from crfl.benchmark.result import Result
from crfl.benchmark.table import short_table, threat_table
from crfl.pages import Block, Bullets, Heading, Paragraph, Picture, Table, page
from crfl.plots.style import FloatArray, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["comparison_page", "draw_threat"]

LEGEND = (
    "Certified at s: share of the test samples that are predicted correctly and whose prediction no attack of strength s "
    "can change, says the method. Attacked at s: share that stayed correct under every attack of at most that strength "
    "that was tried, each sample under the one that hurt it most; an upper bound of what can be certified. To abstain "
    "counts as an error. Sound: a theorem that holds for this run. Statistical: true with confidence 1 - alpha. As "
    "printed: the paper's formula, whose assumptions this run breaks. Contradicted: how many certified predictions an "
    "attack changed. Values are means over seeds, with the 95 % interval of Student's t. Empty: not covered, or not "
    "attacked."
)


def comparison_page(found: Comparison) -> str:
    """One HTML page of everything that was compared; nothing in it is loaded from elsewhere."""
    blocks: list[Block] = [Heading("Certified defences for federated learning, threat by threat", 1)]
    blocks += [Paragraph(f"crfl {__version__}."), Paragraph(LEGEND)]
    blocks += [Paragraph(text, warning=True) for text in (*found.contradicted, *found.failures)]
    for threat in THREATS.values():
        table = threat_table(found, threat.name)
        if not len(table):
            continue
        blocks += [Heading(threat.name[0].upper() + threat.name[1:]), Paragraph(threat.text)]
        blocks.append(Table(short_table(table, threat.name), bold=("yes",)))
        for data_name in dict.fromkeys(table["data"]):
            ax = draw_threat(found, threat.name, data_name)
            blocks.append(Picture(_png(ax), f"Certified accuracy against {threat.name}, {data_name}"))
        blocks += [Heading("Assumptions and sources", 3), Bullets(_about(found, threat.name))]
        blocks += [Heading("Commands", 3), Bullets(list(table["command"]))]
    return page("crfl compare", blocks)


def draw_threat(found: Comparison, threat: str, data_name: str, ax: Axes | None = None) -> Axes:
    """Certified accuracy of every method over the strength of the attack: mean over seeds, band from worst to best.

    Crosses in a method's colour: accuracy under the best attack found.

    Args:
        found: What `compare` returned.
        threat: A key of THREATS.
        data_name: The data set.
        ax: Where to draw; a new figure without it.

    Returns:
        The axes.
    """
    rows = [(e, r) for e in found.entries if e.threat == threat and (r := found.results_of(e, data_name))]
    largest = 1.25 * max(THREATS[threat].strengths)
    whole = THREATS[threat].strengths[0] >= 1
    grid = np.arange(0, largest + 1) if whole else np.linspace(0, largest, 400)
    lines: dict[str, tuple[FloatArray, FloatArray]] = {
        plots.plain(_label(e)): (grid, np.stack([r.certified_accuracy(grid) for r in results])) for e, results in rows
    }
    ax = plots.curves(lines, THREATS[threat].unit, "certified accuracy", ax, top=1.0)
    for i, (_, results) in enumerate(rows):
        for s in THREATS[threat].strengths:
            heights = [h for r in results if (h := r.attacked_accuracy(s)) is not None]
            if heights:
                ax.plot([s], [np.mean(heights)], marker="x", linestyle="none", color=look(i)["color"], markersize=6)
    ax.set_title(f"{threat}, {data_name} (x: under the best attack found)", fontsize="medium")
    return ax


def _label(entry: Entry) -> str:
    return entry.name if entry.guarantee == "sound" else f"{entry.name} ({entry.guarantee})"


def _about(found: Comparison, threat: str) -> list[str]:
    done: list[Result] = list(found.results)
    known = {r.method for r in done if r.threat == threat}
    entries = [e for e in found.entries if e.threat == threat and e.name in known]
    return [f"{e.name} ({e.paper}): {' '.join(e.assumptions)}" for e in entries]


def _png(ax: Axes) -> bytes:
    from matplotlib import pyplot

    figure = ax.get_figure(root=True)
    assert figure is not None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    pyplot.close(figure)
    return buffer.getvalue()

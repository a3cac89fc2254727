"""Draws the comparison: tables and pictures of docs/comparison.md, and README's table, from benchmarks/results/*.csv.

Run: python docs/draw_comparison.py; or python docs/draw_comparison.py FOLDER, which first makes the CSVs of what `crfl
compare --out FOLDER` has done so far, by the same code. Text between a line `<!-- table: ... -->` and
`<!-- end -->` is replaced; a test holds the pages to the CSVs.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from crfl.benchmark.entry import THREATS
from crfl.benchmark.federations import DATA_SETS
from crfl.benchmark.harness import gather
from crfl.benchmark.methods import load_entries
from crfl.benchmark.table import threat_table
from crfl.plots.style import legend_below, look, new_axes

SEEDS = 5
TITLES = {
    "mnist": "MNIST",
    "digits": "Digits",
    "loan": "LOAN",
    "emnist": "EMNIST, a part",
    "cifar10": "CIFAR-10, a part",
}
"""In the order of the pages."""
COLUMNS = 3
"""Of a picture."""
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "docs" / "comparison.md", ROOT / "README.md")
MARK = re.compile(r"(<!-- table: (?P<what>[^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read(threat: str) -> pd.DataFrame:
    """The table of a threat."""
    return pd.read_csv(RESULTS / f"{threat.replace(' ', '-')}.csv")


def share(row: pd.Series, name: str) -> str:
    """A share as it stands in a table: mean and half of the interval; empty if it was not measured."""
    mean, high = row[name], row[f"{name}_high"]
    if np.isnan(mean):
        return ""
    return f"{mean:.3f}" if np.isnan(high) else f"{mean:.3f} ± {high - mean:.3f}"


def threat_lines(threat: str, data_name: str) -> str:
    """The table of one threat on one data set, in Markdown; "certified / attacked" in each column of a strength."""
    table = read(threat)
    table = table[table["data"] == data_name]
    strengths = [f"{s:g}" for s in THREATS[threat].strengths]
    head = ["method", "guarantee", "accuracy", *strengths, "median", "abstains", "models", "CPU s", "seeds"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for _, row in table.iterrows():
        cells = [row["method"], guarantee(row), share(row, "accuracy")]
        for s in strengths:
            attacked = "" if np.isnan(row[f"attacked@{s}"]) else f" / {row[f'attacked@{s}']:.3f}"
            cells.append(share(row, f"certified@{s}") + attacked)
        median = row["median_strength"]
        cells.append("" if median < 0 else "any" if np.isinf(median) else f"{median:.3g}")
        cells += [
            f"{row['abstain_rate']:.3f}",
            f"{row['models_trained']:g}",
            f"{row['cpu_seconds']:.3g}",
            f"{row['seeds']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def all_lines(threat: str) -> str:
    """The tables of one threat on all data sets, each under its name."""
    known = set(read(threat)["data"])
    return "\n\n".join(
        f"**{title}**\n\n{threat_lines(threat, name)}" for name, title in TITLES.items() if name in known
    )


def guarantee(row: pd.Series) -> str:
    """With what attacks found out."""
    wrong = str(row["contradicted"])
    return f"{row['guarantee']}, **contradicted: {wrong[5:]}**" if wrong.startswith("yes") else row["guarantee"]


def summary_lines(data_name: str) -> str:
    """For each threat the method that certifies most at the second strength, ours, and what attacks leave."""
    lines = ["| threat | at | certified most | crfl's own | clean accuracy of the two |", "|---|---|---|---|---|"]
    for threat in THREATS.values():
        if not (RESULTS / f"{threat.name.replace(' ', '-')}.csv").is_file():
            continue
        table = read(threat.name)
        table = table[(table["data"] == data_name) & (table["guarantee"] != "as printed")].reset_index(drop=True)
        if not len(table):
            continue
        s = f"{threat.strengths[1]:g}"
        ours = table[table["paper"].str.startswith("this project")]
        best = table.loc[table[f"certified@{s}"].idxmax()]
        found = [f"{best['method']}: {share(best, f'certified@{s}')}", "none", f"{best['accuracy']:.3f}"]
        if len(ours):
            own = ours.loc[ours[f"certified@{s}"].idxmax()]
            found[1] = f"{own['method']}: {share(own, f'certified@{s}')}"
            found[2] += f"; {own['accuracy']:.3f}"
        lines.append(f"| {threat.name} | {s} | {' | '.join(found)} |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """A page whose tables are those of the CSVs."""

    def table(found: re.Match[str]) -> str:
        threat, _, data_name = found["what"].partition(", ")
        lines = summary_lines(data_name) if threat == "summary" else all_lines(threat)
        return f"{found[1]}{lines}\n{found[3]}"

    return MARK.sub(table, text)


def draw(threat: str, data_names: list[str]) -> None:
    """docs/images/comparison-<threat>.png: certified accuracy over strength, crosses under the best attack found."""
    from matplotlib import pyplot

    columns = min(COLUMNS, len(data_names))
    rows = -(-len(data_names) // columns)
    size = (5.6 * columns, 4.4 * rows)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for ax in axes.flat[len(data_names) :]:
        ax.remove()
    table, strengths = read(threat), [0.0, *THREATS[threat].strengths]
    methods = list(dict.fromkeys(table["method"]))
    for ax, data_name in zip(axes.flat, data_names, strict=False):
        new_axes(ax, THREATS[threat].unit, "certified accuracy")
        for _, row in table[table["data"] == data_name].iterrows():
            style = {**look(methods.index(row["method"])), "markevery": 1}
            names = [f"certified@{s:g}" for s in strengths[1:]]
            heights = np.array([row["accuracy"], *(row[name] for name in names)])
            label = row["method"] if row["guarantee"] == "sound" else f"{row['method']} ({row['guarantee']})"
            ax.plot(strengths, heights, label=label, **style)
            low = np.array([row["accuracy_low"], *(row[f"{name}_low"] for name in names)])
            high = np.array([row["accuracy_high"], *(row[f"{name}_high"] for name in names)])
            ax.fill_between(strengths, low, high, color=style["color"], alpha=0.15, linewidth=0)
            attacked = [row[f"attacked@{s:g}"] for s in strengths[1:]]
            ax.plot(strengths[1:], attacked, linestyle="none", marker="x", color=style["color"], markersize=5)
        ax.set_xscale("symlog", linthresh=strengths[1])
        ax.set_xticks(strengths, [f"{s:g}" for s in strengths])
        ax.set(title=TITLES[data_name], ylim=(-0.02, 1.02))
        ax.grid(alpha=0.3)
        legend_below(ax)
    figure.savefig(ROOT / "docs" / "images" / f"comparison-{threat.replace(' ', '-')}.png", dpi=110)
    pyplot.close(figure)


def collect(folder: str) -> None:
    """The CSVs of all results that are there."""
    found = gather(load_entries(), tuple(DATA_SETS), range(SEEDS), folder)
    for text in found.contradicted:
        print("CONTRADICTED", text)
    for threat in THREATS:
        if len(table := threat_table(found, threat)):
            table.to_csv(RESULTS / f"{threat.replace(' ', '-')}.csv", index=False)


def main(*folders: str) -> None:
    """Everything."""
    matplotlib.use("Agg")
    for folder in folders:
        collect(folder)
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    for threat in THREATS:
        if (RESULTS / f"{threat.replace(' ', '-')}.csv").is_file():
            known = set(read(threat)["data"])
            draw(threat, [name for name in TITLES if name in known])


if __name__ == "__main__":
    main(*sys.argv[1:])

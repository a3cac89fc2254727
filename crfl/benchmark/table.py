"""Tables of the comparison: a row for each method and data set, means and intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from crfl import __version__
from crfl.benchmark.entry import THREATS, Entry
from crfl.benchmark.federations import DATA_SETS
from crfl.benchmark.harness import Comparison
from crfl.benchmark.result import Result

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["LEVEL", "short_table", "student_interval", "threat_table"]

LEVEL = 0.95
"""Of the intervals over seeds."""


def student_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float, float]:
    """Mean of independent values, and the interval of Student's t around it.

        mean -+ t_{(1 + level) / 2, n - 1} s / sqrt(n),   s the sample's standard deviation

    Args:
        values: n values.
        level: Probability that the interval holds the expectation, if the values are normal.

    Returns:
        Mean, lower and upper end; the ends are NaN for n = 1, which has no interval.

    Example:
        >>> [round(value, 4) for value in student_interval([0.90, 0.92, 0.94])]
        [0.92, 0.8703, 0.9697]
    """
    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean())
    if len(found) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf((1 + level) / 2, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found)))
    return mean, mean - half, mean + half


def threat_table(found: Comparison, threat: str) -> DataFrame:
    """All that is known of a threat: a row for each method and data set, in the order of the entries.

    Args:
        found: What `compare` returned.
        threat: A key of THREATS.

    Returns:
        Columns data, method, paper, guarantee, seeds, clients, accuracy, certified@s and attacked@s for each strength s of
        the threat, median_strength, abstain_rate, contradicted, assumptions, models_trained, cpu_seconds,
        trusted_samples, command, version. Those with several values have their mean, and columns _low and _high with
        the interval over seeds. What was not measured is NaN.
    """
    import pandas as pd

    rows = [
        _row(entry, data_name, results)
        for data_name in DATA_SETS
        for entry in found.entries
        if entry.threat == threat and (results := found.results_of(entry, data_name))
    ]
    return pd.DataFrame(rows)


def short_table(table: DataFrame, threat: str) -> DataFrame:
    """What of a `threat_table` fits a page: shares as "mean ± half the interval", certified and attacked side by side."""
    import pandas as pd

    rows = []
    for _, row in table.iterrows():
        short = {name: row[name] for name in ("data", "method", "guarantee")}
        short["accuracy"] = _with_interval(row, "accuracy")
        for s in THREATS[threat].strengths:
            short[f"certified at {s:g}"] = _with_interval(row, f"certified@{s:g}")
        for s in THREATS[threat].strengths:
            short[f"attacked at {s:g}"] = _with_interval(row, f"attacked@{s:g}")
        median = row["median_strength"]
        short["median strength"] = "" if median < 0 else "any" if np.isinf(median) else f"{median:.3g}"
        short["abstains"] = f"{row['abstain_rate']:.3f}"
        short["contradicted"] = row["contradicted"]
        short |= {"models": f"{row['models_trained']:g}", "CPU s": f"{row['cpu_seconds']:.1f}"}
        short |= {"trusted": f"{row['trusted_samples']:g}", "seeds": row["seeds"]}
        rows.append(short)
    return pd.DataFrame(rows)


def _row(entry: Entry, data_name: str, results: Sequence[Result]) -> dict[str, Any]:
    strengths = THREATS[entry.threat].strengths
    row: dict[str, Any] = {
        "data": data_name,
        "method": entry.name,
        "paper": entry.paper,
        "guarantee": entry.guarantee,
        "seeds": len(results),
        "clients": results[0].num_clients,
    }
    row |= _over_seeds("accuracy", [r.accuracy for r in results])
    for s in strengths:
        row |= _over_seeds(f"certified@{s:g}", [float(r.certified_accuracy(s)) for r in results])
    for s in strengths:
        row |= _over_seeds(f"attacked@{s:g}", [r.attacked_accuracy(s) for r in results])
    row["median_strength"] = float(np.median([r.median_strength for r in results]))
    row["abstain_rate"] = float(np.mean([r.abstain_rate for r in results]))
    row["contradicted"] = _verdict(results)
    row["assumptions"] = " ".join(entry.assumptions)
    row["models_trained"] = float(np.mean([r.models_trained for r in results]))
    row["cpu_seconds"] = float(np.mean([r.cpu_seconds for r in results]))
    row["trusted_samples"] = float(np.mean([r.trusted_samples for r in results]))
    row["command"] = (
        f'crfl compare --threat "{entry.threat}" --method "{entry.name}" --data {data_name} --seeds {len(results)}'
    )
    row["version"] = __version__
    return row


def _over_seeds(name: str, found: Sequence[float | None]) -> dict[str, float]:
    """Mean and interval of what was measured; NaN if nothing was."""
    values = [value for value in found if value is not None]
    if not values:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), float("nan"))
    return dict(zip((name, f"{name}_low", f"{name}_high"), student_interval(values), strict=True))


def _verdict(results: Sequence[Result]) -> str:
    """Whether attacks contradict the certificates: "", "no", or how many predictions."""
    if not any(r.attacked for r in results):
        return ""
    broken = sum(int(r.contradicted().sum()) for r in results)
    return "no" if broken == 0 else f"yes: {broken} of {sum(len(r.labels) for r in results)}"


def _with_interval(row: Any, name: str) -> str:
    mean, high = row[name], row[f"{name}_high"]
    if np.isnan(mean):
        return ""
    return f"{mean:.3f}" if np.isnan(high) else f"{mean:.3f} ± {high - mean:.3f}"

"""Side by side in one process, alternating: medians and ratios, printed as one table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One claim: what was measured, and what it should be."""

    claim: str
    measured: float | None
    """None: there is no GPU to measure it on."""
    target: float | None = None
    """None: a number to compare with, not a claim."""
    unit: str = ""
    at_least: bool = False
    """Whether more is better."""

    @property
    def verdict(self) -> str:
        """Target and whether it is met, as cells of the table."""
        if self.target is None:
            return "| |"
        if self.measured is None:
            return f"| {'>=' if self.at_least else '<='} {self.target:g} {self.unit} | not measured |"
        met = self.measured >= self.target if self.at_least else self.measured <= self.target
        return f"| {'>=' if self.at_least else '<='} {self.target:g} {self.unit} | {'yes' if met else '**no**'} |"


TURN = 0.2
"""Seconds for which a job has its turn, so that it runs as in earnest: again and again, its data in the cache."""


def alternate(*jobs: Callable[[], object], repeats: int = 7) -> list[float]:
    """Median seconds of each job, the jobs taking turns, after one turn that does not count."""
    times: list[list[float]] = [[] for _ in jobs]
    for turn in range(repeats + 1):
        for job, found in zip(jobs, times, strict=True):
            start, count = time.perf_counter(), 0
            while not count or time.perf_counter() - start < TURN:
                job()
                count += 1
            if turn:
                found.append((time.perf_counter() - start) / count)
    return [statistics.median(t) for t in times]


def show(rows: list[Row]) -> None:
    """The rows as a Markdown table."""
    print("| claim | measured | target | met |\n|---|---|---|---|")
    for row in rows:
        measured = "no GPU here" if row.measured is None else f"{row.measured:.3g} {row.unit}"
        print(f"| {row.claim} | {measured} {row.verdict}")

"""A standing adversary: a search for certificates that another run contradicts, family by family, and how tight they are.

Run: python benchmarks/falsify.py [--seconds 60] [--seed 0] [--out FILE.csv] [--only NAME ...]. Families take turns; each
attempt draws data and settings at random. Runs are computed by either engine, with other chunks and
threads, and other runs in the same batch. A violation is a distance above Delta, a certified prediction that differs, a
false statement that is believed; it is printed when it is found, and the search ends with an error. The table is
printed every minute, and when the search is interrupted. FILE gets a row an attempt.
"""

from __future__ import annotations

import argparse
import functools
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `python benchmarks/falsify.py`

from benchmarks.adversary import claims, clients, ensembles, others, pairs, poison
from benchmarks.adversary.outcome import Outcome
from crfl.errors import DataError, InvalidUpdateWarning, SettingsError, TrainingError

Family = Callable[[np.random.Generator], Outcome | None]
FAMILIES: dict[str, Family] = {
    "anything": pairs.pair,
    "tiny clips": functools.partial(pairs.pair, change=pairs.tiny_clips),
    "short steps": functools.partial(pairs.pair, change=pairs.short_steps),
    "layouts alone": functools.partial(pairs.pair, change=pairs.layouts_alone),
    "any content": functools.partial(pairs.pair, change=pairs.contents),
    "update clips, decay": functools.partial(pairs.pair, change=pairs.updates_clipped),
    "extremes": functools.partial(pairs.pair, change=pairs.extremes),
    "another round": others.another_round,
    "more attackers or poison": others.other_numbers,
    "malicious clients": clients.throughout,
    "malicious client-rounds": clients.client_rounds,
    "ensembles, malicious": ensembles.malicious,
    "ensembles, poison": ensembles.poisoned,
    "false domains": claims.domains,
    "edited folders": claims.folders,
}
"""Ways to attack certificates: an attempt from a generator; None if there was nothing to break, as all is refused."""


class Search:
    """Attempts so far."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.refused: Counter[str] = Counter()
        self.start = time.perf_counter()

    def attempt(self, name: str, seed: tuple[int, int]) -> Outcome | None:
        """One attempt of a family; what it broke is printed."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InvalidUpdateWarning)
                outcome = FAMILIES[name](np.random.default_rng(seed))
        except (SettingsError, DataError, TrainingError):  # settings drawn at random need not fit together
            outcome = None
        if outcome is None:
            self.refused[name] += 1
            return None
        precision = outcome.about.get("local.precision", "float64")
        found = {k: getattr(outcome, k) for k in ("ratio", "violations", "certified", "changed")}
        self.rows.append(
            {"family": name, "precision": precision, "seed": str(seed), **found, "about": str(outcome.about)}
        )
        if outcome.violations:
            print(f"VIOLATION in {name!r}, seed {seed}: {found} {outcome.about}", flush=True)
        return outcome

    def table(self) -> pd.DataFrame:
        """A row a family: pairs of runs, tightest ratio of distance and Delta in each precision, violations."""
        all_rows = pd.DataFrame(
            self.rows, columns=["family", "precision", "ratio", "violations", "certified", "changed"]
        )
        found = []
        for name in FAMILIES:
            rows = all_rows[all_rows.family == name]
            double = rows.precision == "float64"
            found.append(
                {
                    "family": name,
                    "pairs": len(rows),
                    "refused": self.refused[name],
                    "ratio, float64": rows.ratio[double].max(),
                    "ratio, float32": rows.ratio[~double].max(),
                    "certified": rows.certified.mean(),
                    "changed": rows.changed.mean(),
                    "violations": int(rows.violations.sum()),
                }
            )
        return pd.DataFrame(found).set_index("family")

    def show(self) -> None:
        """Print the table."""
        table, took = self.table(), f"{time.perf_counter() - self.start:.0f} s ({time.process_time():.0f} s of CPU)"
        print(f"\nafter {took}: {len(self.rows)} pairs, {self.refused.total()} refused")
        print(table.to_string(float_format=lambda v: f"{v:.6f}", na_rep="-"), flush=True)


def main() -> None:
    """Search, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=None)
    parser.add_argument("--only", nargs="*", choices=list(FAMILIES), default=list(FAMILIES), help="families")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a search that is ended shows what it found
    search, number, shown = Search(), 0, time.perf_counter()
    with poison.registered():
        try:
            while time.perf_counter() - search.start < options.seconds or not search.rows:
                search.attempt(options.only[number % len(options.only)], (options.seed, number))
                number += 1
                if time.perf_counter() - shown > 60:
                    search.show()
                    shown = time.perf_counter()
        except KeyboardInterrupt:
            print("interrupted")
    search.show()
    if options.out:
        pd.DataFrame(search.rows).to_csv(options.out, index=False)
    violations = sum(row["violations"] for row in search.rows)
    print(f"violations: {violations}")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()

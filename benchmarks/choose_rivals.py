"""The settings of the comparison's methods, chosen on held-out training samples: python benchmarks/choose_rivals.py mnist

Every fifth sample of each client is held out; the method trains on the others and is scored on those. For every group of
entries that share their settings it prints the score of each of the grid. The winners stand in the methods' modules, as
`chosen`. Test samples have no say. (LOAN splits its rows anew for each seed: there, what is a training row here is a test
row of another seed.)
"""

from __future__ import annotations

import sys
import time
from functools import lru_cache

from crfl.benchmark.choice import Choice, held_out, scores
from crfl.benchmark.entry import Entry, Task
from crfl.benchmark.federations import MANY_CLIENTS, load_task
from crfl.benchmark.methods import load_entries

SEEDS = {"digits": (0, 1), "loan": (0, 1)}
"""Of the federations that are averaged; of larger data one, the first."""


def together(names: list[str]) -> list[list[tuple[Entry, Choice]]]:
    """Entries with a choice, those that share their settings together; names may be the beginnings of names."""
    found: dict[int, dict[int, tuple[Entry, Choice]]] = {}
    for entry in load_entries():
        asked = not names or any(entry.name.startswith(name) for name in names)
        if isinstance(entry.run, Choice) and asked:
            found.setdefault(id(entry.run.chosen), {}).setdefault(id(entry.run), (entry, entry.run))
    groups = [list(group.values()) for group in found.values()]
    return sorted(groups, key=lambda group: group[0][0].threat in MANY_CLIENTS)


@lru_cache(maxsize=1)
def held_out_tasks(data_name: str, many: bool) -> list[Task]:
    """The federations of few or of many clients, a part of their training samples held out."""
    threat = MANY_CLIENTS[0] if many else "trigger"
    return [held_out(load_task(data_name, threat, seed)) for seed in SEEDS.get(data_name, (0,))]


def main(data_name: str, *names: str) -> None:
    """Print the scores of all settings on a data set, of all methods or of those named."""
    for group in together(list(names)):
        entry = group[0][0]
        start = time.process_time()
        tasks = held_out_tasks(data_name, entry.threat in MANY_CLIENTS)
        print(f"{entry.name}, {', '.join(e.threat for e, _ in group)}, {data_name}:", flush=True)
        table = scores([(choice, e.threat) for e, choice in group], tasks, lambda line: print("   ", line, flush=True))
        seconds = time.process_time() - start
        print(f"  chosen: {table[table.chosen].settings.iloc[0]}  ({seconds:.0f} CPU s)", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

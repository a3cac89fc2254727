"""Settings of methods by data set, chosen on training samples that are held out: no test sample has a say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crfl.benchmark.entry import THREATS, Outcome, Task
from crfl.benchmark.federations import spread
from crfl.data.mapped import judged_on
from crfl.errors import CrflError

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Choice", "held_out", "score", "scores"]

EVERY, MOST = 5, 1000
"""Every fifth sample of each client is held out; of those at most so many are predicted."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What an entry runs: a function of a federation and settings, and which settings it has on which data set.

    Example:
        >>> choice = Choice(lambda task, size: size, grid=(1, 2, 5), chosen={"digits": 5}, default=2)
        >>> choice.of("digits"), choice.of("data of my own")
        (5, 2)
    """

    func: Callable[[Task, Any], Outcome]
    grid: tuple[Any, ...]
    """The settings that were tried."""
    chosen: Mapping[str, Any]
    """By data set: those with the largest score on held-out samples, as benchmarks/choose_rivals.py prints them."""
    default: Any
    """For other data."""

    def of(self, data_name: str) -> Any:
        """The settings on a data set."""
        return self.chosen.get(data_name, self.default)

    def __call__(self, task: Task) -> Outcome:
        """What the method says of a federation."""
        return self.func(task, self.of(task.data_name))


def held_out(task: Task) -> Task:
    """The federation whose test samples are every fifth sample of each client, which nobody trains on.

    At most 1,000 of them.

    Example:
        >>> from crfl.benchmark.federations import load_task
        >>> held_out(load_task("digits", "clients", 0)).data
        FederatedData 'digits': 900 training samples of 100 clients, 300 public samples, 200 test samples, 80 features (scattering of 64 inputs), 10 classes
    """
    data, last = task.data, EVERY - 1
    kept = tuple(rows[torch.arange(len(rows)) % EVERY != last] for rows in data.shards)
    rows = torch.cat([rows[last::EVERY] for rows in data.shards])
    rows = rows[spread(len(rows), min(MOST, len(rows)))]
    return replace(task, data=judged_on(replace(data, shards=kept), rows))


def score(outcome: Outcome, labels: np.ndarray, threat: str) -> float:
    """What settings are chosen by: the mean of accuracy and of certified accuracy at the strengths of the threat's table."""
    right = outcome.prediction == labels
    return float(np.mean([(right & (outcome.strength >= s)).mean() for s in (0, *THREATS[threat].strengths)]))


def scores(
    choices: Sequence[tuple[Choice, str]], tasks: Sequence[Task], told: Callable[[str], None] = lambda _: None
) -> DataFrame:
    """The score of all settings of a grid on federations whose test samples are held out.

    Args:
        choices: Entries that have the same settings, each with its threat.
        tasks: Of `held_out`; several seeds of small data.
        told: Is told a line for each of the settings.

    Returns:
        A row for each of the settings, in the order of the grid: settings, score (mean over tasks and entries; NaN if the
        method refuses), chosen (whether the score is the largest).
    """
    from pandas import DataFrame  # here, because it is slow to import

    grid, found = choices[0][0].grid, []
    for settings in grid:
        try:
            each = [
                score(choice.func(task, settings), task.data.test.y.numpy(), threat)
                for task in tasks
                for choice, threat in choices
            ]
        except CrflError as error:
            each = [float("nan")]
            told(f"{settings}: {error}")
        found.append(float(np.mean(each)))
        told(f"{settings}: {found[-1]:.4f}")
    best = int(np.nanargmax(found))
    rows = [(settings, value, i == best) for i, (settings, value) in enumerate(zip(grid, found, strict=True))]
    return DataFrame(rows, columns=["settings", "score", "chosen"])

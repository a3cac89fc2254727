"""LOAN: LendingClub's loans, one client a US state, 80 % of a state's rows for training and the rest for the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crfl.data.loan.cache import load_table
from crfl.data.loan.schema import ATTACKING_STATES, FEATURES, KNOWN_AFTERWARDS, LABELS, STATES
from crfl.data.loan.table import LoanTable
from crfl.errors import DataError
from crfl.rng import permutation, stream

FILES = ("loan.csv", "accepted_2007_to_2018Q4.csv")
"""Names that the CSV may have in the data folder; the first that is there is read."""

__all__ = ["FEATURES", "FILES", "KNOWN_AFTERWARDS", "LABELS", "choose_states", "load_loans", "split", "states_of"]


def load_loans(root: Path) -> LoanTable:
    """All loans of a CSV, preprocessed once and cached beside it.

    Args:
        root: The folder of the CSV, which has one of the names `FILES`.

    Returns:
        The loans as they are in the CSV, all states together.

    Raises:
        DataError: If there is no such file, or it cannot be read; says where to get it.

    Example:
        >>> load_loans(Path("nowhere"))
        Traceback (most recent call last):
        crfl.errors.DataError: loan: nowhere has no loan.csv or accepted_2007_to_2018Q4.csv. Download ...
    """
    try:
        found = next((root / name for name in FILES if (root / name).is_file()), None)
    except OSError as error:  # such as a folder that may not be searched
        raise DataError(f"loan: {root} cannot be read: {error.strerror}") from None
    if found is not None:
        return load_table(found)
    raise DataError(
        f"loan: {root} has no {' or '.join(FILES)}. Download LendingClub's loans (Kaggle: wendykan/"
        "lending-club-loan-data or wordsforthewise/lending-club), unpack them there, and name the folder by the "
        "setting data.root or the environment variable CRFL_DATA_DIR (default ./data)."
    )


def choose_states(table: LoanTable, clients: int | Sequence[str]) -> list[str]:
    """The states that take part, in client order.

    Args:
        table: The loans.
        clients: A number N means N states: the attackers' states CT, MO and TN first, because the first clients attack,
            then the states with the most loans. Names mean these states in this order.

    Returns:
        Their two letters.

    Raises:
        DataError: If the data has no such states, or not as many.

    Example:
        >>> table = LoanTable(np.zeros((4, 90), np.float32), np.zeros(4, np.uint8), np.array([0, 0, 1, 1], np.uint8), 0)
        >>> choose_states(table, states_of(table))
        ['AK', 'AL']
    """
    counts = np.bincount(table.state, minlength=len(STATES))
    present = states_of(table)
    if isinstance(clients, int):
        if clients > len(present):
            raise DataError(f"data.clients: got {clients}, expected 1 to {len(present)}, the states in the data")
        largest = sorted(present, key=lambda state: -counts[STATES.index(state)])
        first = [state for state in ATTACKING_STATES if state in present]
        return [*first, *(state for state in largest if state not in first)][:clients]
    wrong = [state for state in clients if state not in present]
    if wrong or len(set(clients)) < len(clients):
        raise DataError(
            f"data.clients: got {', '.join(wrong) or 'a state twice'}, expected a number, or names among "
            f"{', '.join(present)}"
        )
    return list(clients)


def states_of(table: LoanTable) -> list[str]:
    """The states that have loans.

    Args:
        table: The loans.

    Returns:
        Their two letters, in alphabetical order.

    Example:
        >>> states_of(LoanTable(np.zeros((2, 90), np.float32), np.zeros(2, np.uint8), np.array([1, 0], np.uint8), 0))
        ['AK', 'AL']
    """
    return [STATES[number] for number in np.unique(table.state)]


def split(table: LoanTable, states: Sequence[str], seed: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """Training and test rows: each state is shuffled by a stream of its own, whoever else takes part, and 80 % of its rows,
    rounded down, train.

    Args:
        table: The loans.
        states: Who takes part.
        seed: Of the shuffles.

    Returns:
        The training rows of each state, (n_i,), and the test rows of all of them, (m,), all rising.

    Example:
        >>> table = LoanTable(np.zeros((10, 90), np.float32), np.zeros(10, np.uint8), np.zeros(10, np.uint8), 0)
        >>> (rows,), test_rows = split(table, ["AK"], seed=0)
        >>> len(rows), len(test_rows)
        (8, 2)
    """
    training, is_test = [], np.zeros(len(table.state), dtype=bool)
    for number in map(STATES.index, states):
        rows = np.flatnonzero(table.state == number)
        rows = rows[permutation(len(rows), stream(seed, "loan split", number)).numpy()]
        cut = len(rows) * 4 // 5
        training.append(torch.from_numpy(np.sort(rows[:cut])))
        is_test[rows[cut:]] = True
    return tuple(training), torch.from_numpy(np.flatnonzero(is_test))

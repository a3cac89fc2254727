"""LendingClub's CSV -> 90 features in [0, 1], 9 labels and the state of every loan.

Missing values become 0; numbers are scaled by their minimum and maximum over the whole table; a word becomes k / K if
it is the k-th (from 0) of its column's K values in order of appearance, a missing word counting as a value of its own.
A number that is the same everywhere becomes 0. Source: the preprocessing of Xie et al. 2021 (LOAN).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crfl.data.loan.csv import BLOCK_BYTES, NO_LOANS, LoanReader, read_header
from crfl.data.loan.schema import ANY_WORD, CATEGORICAL, CLIENT, FEATURES, LABEL, LABELS, NUMERIC, STATES, WORDS
from crfl.errors import DataError

MAX_VALUES = 64
"""Most values that a column of words may have; the real maximum is 35, of sub_grade."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LoanTable:
    """All loans of a file: x (n, 90) float32 in [0, 1], y (n,) uint8 labels, state (n,) uint8 numbers in STATES."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.uint8]
    state: npt.NDArray[np.uint8]
    footers: int
    """Lines of text between the loans, skipped."""


def read_table(path: Path, block_bytes: int = BLOCK_BYTES) -> LoanTable:
    """Read and preprocess a CSV of loans.

    Args:
        path: The file.
        block_bytes: How much of it is read at a time; no row may be longer.

    Raises:
        DataError: It names the file, the row (the header is row 1) and the column.
    """
    reader = LoanReader(path, read_header(path), block_bytes)
    numbers: list[Array] = []
    words: list[Array] = []
    labels: list[Array] = []
    states: list[Array] = []
    values: dict[str, dict[str, int]] = {name: {} for name in FEATURES if name in CATEGORICAL}
    for batch in reader.batches():
        labels.append(reader.codes(batch, LABEL, _label))
        states.append(reader.codes(batch, CLIENT, _state))
        numbers.append(reader.numbers(batch))
        words.append(np.stack([reader.codes(batch, n, _category(n, v)) for n, v in values.items()], axis=1))
    if not labels:
        raise DataError(f"{path}: {NO_LOANS}")
    reader.check_quotes(sum(map(len, labels)))
    sizes = np.array([len(v) for v in values.values()])
    x = _scale(path, numbers, words, sizes)
    return LoanTable(x, np.concatenate(labels), np.concatenate(states), reader.footers)


def _scale(path: Path, numbers: list[Array], words: list[Array], sizes: Array) -> npt.NDArray[np.float32]:
    """The features of all batches; the batches are given back to memory one by one."""
    low = np.min([block.min(axis=0) for block in numbers], axis=0)
    high = np.max([block.max(axis=0) for block in numbers], axis=0)
    for name, least, most in zip(NUMERIC, low.tolist(), high.tolist(), strict=True):
        if most - least == np.inf:
            raise DataError(f"{path}, column {name}: got {least} to {most}, expected a finite range")
    span = high - low
    span[span == 0] = 1.0
    is_word = np.array([name in CATEGORICAL for name in FEATURES])
    x = np.empty((sum(map(len, numbers)), len(FEATURES)), dtype=np.float32)
    end = len(x)
    while numbers:
        block, codes = numbers.pop(), words.pop()
        rows = x[end - len(block) : end]
        rows[:, ~is_word] = (block - low) / span
        rows[:, is_word] = codes / sizes
        end -= len(block)
    return x


def _label(status: str) -> int:
    if status not in LABELS:
        raise ValueError(f"one of {', '.join(LABELS)}")
    return LABELS.index(status)


def _state(state: str) -> int:
    if state not in STATES:
        raise ValueError("one of the 50 states or DC, by its two letters")
    return STATES.index(state)


def _category(name: str, values: dict[str, int]) -> Callable[[str], int]:
    """Numbers the words of a column in order of appearance."""
    pattern = re.compile(WORDS.get(name, ANY_WORD))

    def code(word: str) -> int:
        if word and not pattern.fullmatch(word):
            raise ValueError(f"words like {pattern.pattern}; are the columns named rightly?")
        if len(values) == MAX_VALUES and word not in values:
            raise ValueError(f"at most {MAX_VALUES} different words; are the columns named rightly?")
        return values.setdefault(word, len(values))

    return code

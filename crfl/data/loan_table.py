"""LendingClub's CSV -> 90 features in [0, 1], 9 labels and the state of every loan.

Missing values become 0; numbers are scaled by their minimum and maximum over the whole table; a word becomes k / K if
it is the k-th (from 0) of its column's K values in order of appearance, a missing word counting as a value of its own.
A number that is the same everywhere becomes 0. Source: the preprocessing of Xie et al. 2021 (LOAN).
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crfl.data.loan_schema import (
    ANY_WORD,
    CATEGORICAL,
    CLIENT,
    FEATURES,
    FOOTERS,
    LABEL,
    LABELS,
    NUMERIC,
    STATES,
    WORDS,
)
from crfl.errors import DataError

MAX_VALUES = 64
"""Most values that a column of words may have; the real maximum is 35, of sub_grade."""
_MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A", "<NA>"]
_BLOCK = 1 << 22
"""Bytes read at a time."""
_ASCII = bytes(range(128)) + 128 * b"?"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LoanTable:
    """All loans of a file: x (n, 90) float32 in [0, 1], y (n,) uint8 labels, state (n,) uint8 numbers in STATES."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.uint8]
    state: npt.NDArray[np.uint8]
    footers: int
    """Lines of text between the loans, skipped."""


def read_table(path: Path) -> LoanTable:
    """Read and preprocess the CSV at `path`. DataError names the file, row (the header is row 1) and column."""
    reader = _Reader(path, _header(path))
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
        raise DataError(f"{path}: holds no loans; get the file anew")
    reader.check_quotes(sum(map(len, labels)))
    sizes = np.array([len(v) for v in values.values()])
    x = _scale(numbers, words, sizes)
    return LoanTable(x, np.concatenate(labels), np.concatenate(states), reader.footers)


def _scale(numbers: list[Array], words: list[Array], sizes: Array) -> npt.NDArray[np.float32]:
    """The features of all batches; the batches are given back to memory one by one."""
    low = np.min([block.min(axis=0) for block in numbers], axis=0)
    span = np.max([block.max(axis=0) for block in numbers], axis=0) - low
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


def _header(path: Path) -> list[str]:
    """Column names of the file, checked. DataError if it is empty, not UTF-8 or lacks a column that is needed."""
    try:
        with path.open("rb") as file:
            line = re.split(b"[\r\n]", file.read(1 << 16), maxsplit=1)[0]  # text further on may be in any encoding
        line.decode("utf-8")
        text = line.removeprefix(BOM_UTF8).translate(_ASCII).decode("ascii")  # as _Source gives it
        names = next(csv.reader([text], strict=True), [])
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is not a CSV file in UTF-8 ({error}); get the file anew") from None
    if not any(names):
        raise DataError(f"{path}: the first line is empty, allowed: column names; get the file anew")
    needed = (LABEL, CLIENT, *FEATURES)
    missing = [name for name in needed if name not in names]
    if missing:
        spare = [name for name in names if name not in needed]
        close = {name: difflib.get_close_matches(name, spare, n=1) for name in missing}
        said = ", ".join(name + (f" (is it {close[name][0]!r}?)" if close[name] else "") for name in missing)
        raise DataError(f"{path}: column missing: {said}; found {len(names)} columns. Rename them or get the file anew")
    twice = sorted({name for name in needed if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column given more than once: {', '.join(twice)}; keep one of each")
    return names


class _Source(io.RawIOBase):
    """The bytes of a file, with "?" for all beyond ASCII, which no column that is read may hold; counts line ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        if self._file.read(len(BOM_UTF8)) != BOM_UTF8:
            self._file.seek(0)
        self._feeds = self._returns = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._feeds += block.count(b"\n")
        self._returns += block.count(b"\r")
        return block.translate(_ASCII)

    def close(self) -> None:
        self._file.close()
        super().close()

    @property
    def line_ends(self) -> int:
        """Line ends of what was read so far, be they \\n, \\r or both."""
        return max(self._feeds, self._returns)


@dataclass
class _Reader:
    """Streams the file and knows where in it a batch came from."""

    path: Path
    header: list[str]
    footers: int = 0
    _start: int = 0
    """Records before the current batch, footers of the right width included."""
    _kept: Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Positions in the current batch that are loans."""
    _skipped: list[int] = field(default_factory=list)
    """Row numbers of footers of another width."""
    _line_ends: int = 0
    _bad: str = ""

    def batches(self) -> Iterator[Any]:
        """Record batches of the needed columns, less the footers."""
        import pyarrow as pa  # here, because it is slow to import

        first = "id" if "id" in self.header else self.header[0]
        columns = dict.fromkeys((first, LABEL, CLIENT, *FEATURES))
        types = {name: pa.float64() if name in NUMERIC else pa.string() for name in columns}
        for batch in self._stream(types):
            loans = self._loans(batch, first)
            self._kept = np.flatnonzero(loans)
            self.footers += len(batch) - len(self._kept)
            if len(self._kept):
                yield batch if len(self._kept) == len(batch) else batch.filter(pa.array(loans))
            self._start += len(batch)
        self.footers += len(self._skipped)

    def codes(self, batch: Any, name: str, code: Callable[[str], int]) -> npt.NDArray[np.uint8]:
        """Code of every word of a column; `code` raises ValueError with what is allowed instead of the word."""
        encoded = batch.column(name).dictionary_encode(null_encoding="encode")
        indices = encoded.indices.to_numpy()
        codes = []
        for index, word in enumerate(encoded.dictionary.to_pylist()):
            try:
                codes.append(code(" ".join((word or "").split())))
            except ValueError as error:
                row = self._row(int(np.argmax(indices == index)))
                found = "nothing" if word is None else repr(word)
                raise DataError(f"{self.path}, row {row}, column {name}: found {found}, allowed: {error}") from None
        return np.array(codes, dtype=np.uint8)[indices]

    def numbers(self, batch: Any) -> npt.NDArray[np.float64]:
        """Values of the numeric columns, (rows, 78), missing ones 0."""
        values = np.empty((len(batch), len(NUMERIC)))
        for column, name in enumerate(NUMERIC):
            values[:, column] = batch.column(name).fill_null(0.0).to_numpy()
        if not np.isfinite(values).all():
            index, column = np.argwhere(~np.isfinite(values))[0]
            where = f"{self.path}, row {self._row(index)}, column {NUMERIC[column]}"
            raise DataError(f"{where}: found {values[index, column]}, allowed: a finite number or nothing")
        return values

    def check_quotes(self, loans: int) -> None:
        """DataError if a quote that is never closed, or closed rows later, swallowed rows into one of its fields."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._line_ends <= loans + self.footers + 1:
            return  # no field holds a line end
        self._start, self._skipped = 0, []
        for batch in self._stream({name: pa.binary() for name in self.header if name not in NUMERIC}):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if (pc.max(pc.binary_length(column)).as_py() or 0) < len(self.header):
                    continue  # too short for a row
                rows = pc.greater_equal(pc.count_substring(column, b","), len(self.header) - 1)
                rows = pc.and_(rows, pc.match_substring_regex(column, "[\r\n]")).fill_null(False)
                swallowed = np.flatnonzero(rows.to_numpy(zero_copy_only=False))
                if len(swallowed):
                    self._kept = np.arange(len(batch))
                    row = self._row(int(swallowed[0]))
                    raise DataError(
                        f"{self.path}, row {row}, column {name}: a quote swallows the rows after it; mend it"
                    )
            self._start += len(batch)

    def _stream(self, types: dict[str, Any]) -> Iterator[Any]:
        from pyarrow import ArrowException, csv

        try:
            source = _Source(self.path)
            yield from csv.open_csv(
                source,
                csv.ReadOptions(use_threads=False, block_size=_BLOCK),  # one thread, so that rows have numbers
                csv.ParseOptions(newlines_in_values=True, invalid_row_handler=self._invalid),
                csv.ConvertOptions(
                    column_types=types, include_columns=list(types), null_values=_MISSING, strings_can_be_null=True
                ),
            )
            self._line_ends = source.line_ends
        except (ArrowException, OSError) as error:
            raise DataError(self._bad or self._explain(str(error))) from None

    def _loans(self, batch: Any, first: str) -> npt.NDArray[np.bool_]:
        """Which rows are loans: all but lines of text without a state and a label."""
        import pyarrow.compute as pc

        blank = pc.and_(batch.column(LABEL).is_null(), batch.column(CLIENT).is_null())
        text = batch.column(first)
        footer = pc.starts_with(text, FOOTERS[0])
        for start in FOOTERS[1:]:
            footer = pc.or_(footer, pc.starts_with(text, start))
        return ~pc.and_(blank, footer.fill_null(False)).to_numpy(zero_copy_only=False)

    def _invalid(self, row: Any) -> str:
        """Skips a footer of another width than the header; any other such row is an error."""
        if str(row.text).lstrip('"').startswith(FOOTERS):
            self._skipped.append(row.number)
            return "skip"
        self._bad = (
            f"{self.path}, row {row.number}: found {row.actual_columns} fields, allowed: {row.expected_columns} as in "
            f"the header. Is the file cut off, or a quote or comma stray? The row begins {row.text[:60]!r}"
        )
        return "error"

    def _row(self, index: int) -> int:
        """Number in the file of the row at `index` of the current batch; the header is row 1."""
        row = self._start + int(self._kept[index]) + 2
        for skipped in self._skipped:
            row += skipped <= row
        return row

    def _explain(self, message: str) -> str:
        """Arrow's message with the column's name in place of its number."""
        match = re.search(r"CSV column #(\d+): Row #(\d+): .*?(invalid .*)", message)
        if "straddling" in message:
            return f"{self.path}: found a row longer than {_BLOCK} bytes. Is a quote never closed?"
        if not match:
            return f"{self.path}: {message}"
        where = f"{self.path}, row {match[2]}, column {self.header[int(match[1])]}"
        return f"{where}: found {match[3]}, allowed: a number or nothing"

"""Reading LendingClub's CSV: a stream of record batches, every doubt an error that names file, row and column.

Rows are numbered as a spreadsheet shows them: the header is row 1.
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

from crfl.data.loan.schema import CLIENT, FEATURES, FOOTERS, LABEL, NUMERIC
from crfl.errors import DataError
from crfl.progress import bar

NO_LOANS = "holds no loans; get the file anew"
_MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A", "<NA>"]
BLOCK_BYTES = 1 << 22
"""Read at a time; no row may be longer."""
_ASCII = bytes(range(128)) + 128 * b"?"


def read_header(path: Path) -> list[str]:
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
        raise DataError(f"{path}: the first line is empty, expected column names; get the file anew")
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
    """The bytes of a file, with "?" for all beyond ASCII, which no column that is read may hold; counts line ends.

    On a terminal, a progress bar shows once reading has taken two seconds.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        size = path.stat().st_size
        self._bar = bar(total=size, desc=path.name, unit="B", unit_scale=True, delay=2, leave=False)
        if self._file.read(len(BOM_UTF8)) != BOM_UTF8:
            self._file.seek(0)
        self._line_ends, self._last = 0, b"\n"

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._bar.update(len(block))
        split = self._last == b"\r" and block.startswith(b"\n")  # one line end in two blocks
        self._line_ends += block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n") - split
        self._last = block[-1:] or self._last
        return block.translate(_ASCII)

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        super().close()

    @property
    def lines(self) -> int:
        """Lines of what was read so far, whether they end in \\n, \\r or both, or with the file."""
        return self._line_ends + (self._last not in b"\r\n")


@dataclass
class LoanReader:
    """Streams the file at `path` with the checked `header`, and knows where in it a batch came from."""

    path: Path
    header: list[str]
    block_bytes: int = BLOCK_BYTES
    footers: int = 0
    _start: int = 0
    """Records before the current batch, footers of the right width included."""
    _kept: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Positions in the current batch that are loans."""
    _skipped: list[int] = field(default_factory=list)
    """Row numbers of footers of another width."""
    _blank: int = 0
    """Blank lines, skipped."""
    _lines: int = 0
    _bad: str = ""

    def batches(self) -> Iterator[Any]:
        """Record batches of the needed columns, less the footers."""
        import pyarrow as pa  # here, because it is slow to import

        first = "id" if "id" in self.header else self.header[0]
        columns = dict.fromkeys((first, LABEL, CLIENT, *FEATURES))
        types = {name: pa.float64() if name in NUMERIC else pa.string() for name in columns}
        for batch in self._stream(types):
            footers, blank = self._footers(batch, first), _blank(batch)
            loans = ~(footers | blank)
            self._kept = np.flatnonzero(loans)
            self.footers += int(footers.sum())
            self._blank += int(blank.sum())
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
                raise DataError(f"{self.path}, row {row}, column {name}: got {found}, expected {error}") from None
        return np.array(codes, dtype=np.uint8)[indices]

    def numbers(self, batch: Any) -> npt.NDArray[np.float64]:
        """Values of the numeric columns, (rows, 78), missing ones 0."""
        values = np.empty((len(batch), len(NUMERIC)))
        for column, name in enumerate(NUMERIC):
            values[:, column] = batch.column(name).fill_null(0.0).to_numpy()
        if not np.isfinite(values).all():
            index, column = np.argwhere(~np.isfinite(values))[0]
            where = f"{self.path}, row {self._row(index)}, column {NUMERIC[column]}"
            raise DataError(f"{where}: got {values[index, column]}, expected a finite number or nothing")
        return values

    def check_quotes(self, loans: int) -> None:
        """DataError if a quote that is never closed, or closed rows later, swallowed rows into one of its fields."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._lines <= loans + self.footers + self._blank + 1:
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
                csv.ReadOptions(
                    use_threads=False, block_size=self.block_bytes
                ),  # one thread, so that rows have numbers
                csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=self._invalid),
                csv.ConvertOptions(
                    column_types=types, include_columns=list(types), null_values=_MISSING, strings_can_be_null=True
                ),
            )
            self._lines = source.lines
        except (ArrowException, OSError) as error:
            raise DataError(self._bad or self._explain(str(error))) from None

    def _footers(self, batch: Any, first: str) -> npt.NDArray[np.bool_]:
        """Which rows are no loans but lines of text, without a state and a label."""
        import pyarrow.compute as pc

        unlabelled = pc.and_(batch.column(LABEL).is_null(), batch.column(CLIENT).is_null())
        text = batch.column(first)
        footer = pc.starts_with(text, FOOTERS[0])
        for start in FOOTERS[1:]:
            footer = pc.or_(footer, pc.starts_with(text, start))
        return pc.and_(unlabelled, footer.fill_null(False)).to_numpy(zero_copy_only=False)

    def _invalid(self, row: Any) -> str:
        """Skips a footer of another width than the header; any other such row is an error."""
        if str(row.text).lstrip('"').startswith(FOOTERS):
            self._skipped.append(row.number)
            return "skip"
        self._bad = (
            f"{self.path}, row {row.number}: got {row.actual_columns} fields, expected {row.expected_columns} as in "
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
            return f"{self.path}: got a row longer than {self.block_bytes} bytes. Is a quote never closed?"
        if "Empty CSV file" in message:
            return f"{self.path}: {NO_LOANS}"
        if not match:
            return f"{self.path}: {message}"
        where = f"{self.path}, row {match[2]}, column {self.header[int(match[1])]}"
        return f"{where}: got {match[3]}, expected a number or nothing"


def _blank(batch: Any) -> npt.NDArray[np.bool_]:
    """Which rows have nothing in any column, as an empty line."""
    found = batch.column(0).is_null().to_numpy(zero_copy_only=False)
    for column in batch.columns[1:]:
        if not found.any():
            break
        found &= column.is_null().to_numpy(zero_copy_only=False)
    return found

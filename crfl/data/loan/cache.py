"""The preprocessed loans in a binary file beside their CSV, so that the CSV is parsed once.

The file is named after the CSV and holds a key: the hash of the CSV's content and of the code that preprocesses it. A
cache with another key, or a damaged one, is made anew. It appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from crfl.data.loan import csv as loan_csv
from crfl.data.loan import schema as loan_schema
from crfl.data.loan import table as loan_table
from crfl.data.loan.table import LoanTable, read_table
from crfl.errors import DataError

_BLOCK, _PIECE = 1 << 24, 1 << 17
"""Bytes that are hashed by themselves, and that are read at a time."""
_LAYOUT = b"2"
"""Of the cache file; a change of it makes old caches stale."""


def load_table(path: Path) -> LoanTable:
    """The loans of the CSV at `path`, from its cache if that is current. DataError as of `read_table`."""
    key = _key(path)
    cache = path.with_name(path.name + ".cache.safetensors")
    table = _read(cache, key)
    if table is None:
        table = read_table(path)
        if _key(path) != key:
            raise DataError(f"{path}: changed while it was read; start again when it is complete")
        _write(path, cache, key, table)
    return table


def _key(path: Path) -> str:
    """Hash of the file's content and of the code that turns it into a table; blocks are hashed in parallel."""
    try:
        code = [Path(str(module.__file__)).read_bytes() for module in (loan_schema, loan_csv, loan_table)]
        with ThreadPoolExecutor() as pool:
            blocks = list(pool.map(partial(_digest, path), range(0, path.stat().st_size, _BLOCK)))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return hashlib.sha256(b"".join([_LAYOUT, *map(_hash, code), *blocks])).hexdigest()


def _digest(path: Path, start: int) -> bytes:
    """Hash of one block of the file, read in pieces: threads keep what they once allocated."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        for _ in range(_BLOCK // _PIECE):
            found.update(file.read(_PIECE))
    return found.digest()


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _read(cache: Path, key: str) -> LoanTable | None:
    """The cached table, or None if there is none with this key.

    The features stay in the file, mapped into memory: they are there at once, and processes share them. Caches are
    replaced, never written over, so that a mapped one does not change.
    """
    try:
        with cache.open("rb") as file:  # safetensors: length of the header, header in JSON, tensors
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            start = file.tell()
        if header["__metadata__"]["key"] != key:
            return None
        about, arrays = header["__metadata__"], {}
        for name, dtype in (("x", np.float32), ("y", np.uint8), ("state", np.uint8)):
            shape, (first, last) = tuple(header[name]["shape"]), header[name]["data_offsets"]
            if _checksum(cache, start + first, start + last) != int(about[name]):
                return None
            arrays[name] = np.memmap(cache, dtype, mode="c", offset=start + first, shape=shape)
        if not len(arrays["x"]) == len(arrays["y"]) == len(arrays["state"]):
            return None
        return LoanTable(**arrays, footers=int(about["footers"]))
    except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError):
        return None  # missing, damaged or of another layout


def _checksum(path: Path, start: int, end: int) -> int:
    """CRC-32 of a part of the file, read piece by piece: what is mapped would count as memory once it is looked at."""
    found = 0
    with path.open("rb") as file:
        file.seek(start)
        while start < end:
            piece = file.read(min(_PIECE, end - start))
            if not piece:
                return -1
            found, start = zlib.crc32(piece, found), start + len(piece)
    return found


def _write(csv: Path, cache: Path, key: str, table: LoanTable) -> None:
    """Write the cache, or warn that it cannot be written."""
    partial_file = cache.with_name(f"{cache.name}.{os.getpid()}.partial")
    tensors: dict[str, Any] = {"x": table.x, "y": table.y, "state": table.state}
    try:
        checksums = {name: str(zlib.crc32(values)) for name, values in tensors.items()}
        save_file(tensors, partial_file, {"key": key, "footers": str(table.footers), **checksums})
        with partial_file.open("rb") as file:
            os.fsync(file.fileno())
        partial_file.chmod(0o600 | csv.stat().st_mode)  # whoever may read the CSV may read its cache
        partial_file.replace(cache)
    except (OSError, SafetensorError) as error:
        warnings.warn(f"{cache}: cannot be written ({error}); the CSV will be parsed again next time", stacklevel=3)
    finally:
        with contextlib.suppress(OSError):  # in a folder that may not be written to
            partial_file.unlink(missing_ok=True)

"""Files that are written whole or not at all, that notice damage, and that are named where they cannot be read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load, save
from torch import Tensor

from crfl.errors import DamagedFileError, StoreError
from crfl.matmul import aligned

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STALE_SECONDS = 24 * 3600
"""Age from which a partial file belongs to a writer that was killed, whatever its lock says."""


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: beside it first, then renamed over it, then the folder itself.

    Any number of threads, processes and machines may write the same path: the last one to finish wins.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_atomic(Path(folder) / "note.txt", "whole")
        ...     [p.name for p in Path(folder).iterdir()]
        ['note.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)
    while not _write(path, content):
        pass  # another machine, which does not see our locks, took the partial file for stale
    _sync_folder(path.parent)


def remove_stale(folder: Path, seconds: float = STALE_SECONDS) -> None:
    """Remove the partial files in a folder whose writers were killed, or that were written so many seconds ago.

    A writer locks its partial file, and the lock ends with its process. Age decides where the system knows no locks.
    """
    with os.scandir(folder) as entries:
        partial = [entry.path for entry in entries if entry.name.startswith(".") and entry.name.endswith(".partial")]
    for path in partial:
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - os.stat(path).st_mtime >= seconds:
                os.unlink(path)
            else:
                _remove_unlocked(path)


def digest(content: bytes) -> str:
    """blake2b of a file's content, 32 hexadecimal digits.

    Example:
        >>> digest(b"abc")
        'cf4ab791c62b8d2b2109c90275287816'
    """
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        DamagedFileError: if it is missing.
        StoreError: if it cannot be read; it may be good all the same.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DamagedFileError(f"{path}: is missing") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read now ({error.strerror}); what it holds may be good") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **about: Any) -> None:
    """Write a safetensors file with what is to be known about it. Equal contents give equal bytes."""
    write_atomic(path, pack_tensors(tensors, **about))


def pack_tensors(tensors: Mapping[str, Tensor], **about: Any) -> bytes:
    """Tensors and what is to be known about them as safetensors, with a digest of both."""
    text = json.dumps(about)
    # One entry: several would come in random order.
    return save(dict(tensors), {"about": json.dumps({"digest": _tensor_digest(tensors, text), "about": text})})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote; see `unpack_tensors`."""
    return unpack_tensors(read_bytes(path), path)


def unpack_tensors(content: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `pack_tensors` packed. DamagedFileError, which names the file `path`, if it is not that to the last bit."""
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        known = json.loads(header["__metadata__"]["about"])
        text = known["about"]
        whole = known["digest"] == _tensor_digest(tensors, text)
        about = json.loads(text)
    except Exception as error:  # safetensors has no public error class
        raise DamagedFileError(f"{path}: is damaged, or no file of crfl ({_short(error)})") from None
    if not whole:
        raise DamagedFileError(f"{path}: is damaged: its content does not match its digest")
    # A product's bits depend on where its factors begin; resumed training is to have those of one that never stopped.
    return {name: aligned(tensor) for name, tensor in tensors.items()}, about


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """The object in the JSON file `path` with this content; DamagedFileError if it holds none."""
    try:
        found = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path}: is damaged: no valid JSON ({_short(error)})") from None
    if not isinstance(found, dict):
        raise DamagedFileError(f"{path}: got {type(found).__name__}, expected a JSON object")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; DamagedFileError if it holds none."""
    return parse_json(read_bytes(path), path)


def format_columns(columns: Mapping[str, npt.NDArray[Any]]) -> str:
    """Columns of numbers as CSV, to the last bit."""
    lines = [columns, *zip(*(column.tolist() for column in columns.values()), strict=True)]
    return "".join(",".join(map(str, line)) + "\n" for line in lines)


def parse_columns(content: bytes, path: Path) -> dict[str, npt.NDArray[Any]]:
    """The columns of the CSV file `path` with this content, the rounds as integers; DamagedFileError if it is none."""
    try:
        names, *rows = (line.split(",") for line in content.decode().splitlines())
        columns = dict(zip(names, np.array(rows, dtype=np.float64).T, strict=True))
        return columns | {"round": columns["round"].astype(np.int64)}
    except (ValueError, KeyError) as error:
        raise DamagedFileError(f"{path}: is damaged: no columns of numbers ({_short(error)})") from None


def save_plot(folder: str | Path, name: str, ax: Axes) -> Path:
    """Write plots/<name>.png and .pdf of the figure that holds `ax`, and close it; returns the PNG's path."""
    import io

    from matplotlib import pyplot

    figure = ax.get_figure(root=True)
    assert figure is not None

    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # lay it out once, not once a format
        figure.set_layout_engine("none")
    for suffix in ("png", "pdf"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=150)
        write_atomic(Path(folder) / "plots" / f"{name}.{suffix}", buffer.getvalue())
    pyplot.close(figure)
    return Path(folder) / "plots" / f"{name}.png"


def _write(path: Path, content: str | bytes) -> bool:
    """Write beside `path` and rename; False if somebody removed the partial file meanwhile."""
    partial, lock = _new_partial(path)
    try:
        with partial.open("wb") as sink:
            sink.write(content.encode() if isinstance(content, str) else content)
            sink.flush()
            os.fsync(sink.fileno())
        partial.replace(path)
    except FileNotFoundError:
        if path.parent.exists():
            return False
        raise
    finally:
        partial.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)
    return True


def _new_partial(path: Path) -> tuple[Path, int | None]:
    """A new file beside `path`, and the descriptor that holds its lock, if there are locks."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        number = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is None:
            os.close(number)
            return partial, None
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(number, fcntl.LOCK_EX)
        if partial.exists():
            return partial, number
        os.close(number)  # somebody took it for stale before it was locked


def _remove_unlocked(path: str) -> None:
    """Remove a file unless somebody has it locked; OSError if so, or if the system cannot tell."""
    if fcntl is None:
        return
    number = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)  # while it is locked: a writer that waits for the lock sees that its file is gone
    finally:
        os.close(number)


def _tensor_digest(tensors: Mapping[str, Tensor], about: str) -> str:
    """Digest of names, types, shapes and bytes of tensors, and of what is known about them."""
    found = hashlib.blake2b(about.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        found.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Have the disk note which files the folder holds, so that a rename outlives a power cut."""
    if os.name != "posix":
        return  # Windows knows no such thing
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot
            raise
    finally:
        os.close(number)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."

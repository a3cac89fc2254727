"""One writer a folder: who comes second is told who was first.

The lock is the operating system's (flock) on the file `.lock`, so it ends with its process, however that ends. It works
between threads, processes and containers of a machine. On a disk that machines share it works as far as the file system
passes such locks on: NFS since version 4 does, Lustre does when mounted with `flock`. Where the system or the file system
knows no locks there is none, and two writers do what any two writers do: each file is whole, and the last one wins.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crfl.errors import FolderBusyError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


@contextmanager
def folder_lock(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder, which is made if need be.

    Args:
        folder: The folder to write to.
        wait: Seconds to wait for another writer to finish.

    Raises:
        FolderBusyError: if another writer holds the lock after that time; it says which process on which machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    path, deadline = folder / NAME, time.monotonic() + wait
    while (number := _try_to_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise FolderBusyError(f"{folder}: {_holder(path)} is writing here; wait until it is done, or stop it")
        time.sleep(0.05)
    try:
        yield
    finally:
        with suppress(OSError):  # somebody removed the folder
            path.unlink()  # while the lock is held: who waits for this file sees that it is gone
        os.close(number)


def _try_to_lock(path: Path) -> int | None:
    """A descriptor of the file, locked; None if another has it locked."""
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _still_there(number, path):
            os.close(number)
            return None
    except BlockingIOError:
        os.close(number)
        return None
    except OSError:
        pass  # a file system without locks
    os.truncate(number, 0)
    os.write(number, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return number


def _still_there(number: int, path: Path) -> bool:
    """Whether the open file is the one that lies at `path`: its last holder may have removed it."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(number), found)


def _holder(path: Path) -> str:
    """Who says in the file that it holds the lock."""
    try:
        return path.read_text(encoding="utf-8")[:200] or "another process"
    except (OSError, ValueError):
        return "another process"

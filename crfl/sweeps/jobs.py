"""Jobs side by side through joblib, whose back ends reach from threads to clusters.

A job leaves its result in a folder. So it does not matter which worker does it, how often it is begun, and whether the
worker lives to tell: what has no result is done again.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from crfl.errors import FolderBusyError
from crfl.progress import bar

Place = tuple[str, int]
"""A machine and a process on it."""

MOST_LOSSES = 3
"""How often in a row workers may die without any job having been done meanwhile."""
WORKER = "LokyProcess"
"""So begin the names of the processes that joblib starts on this machine."""
POLL_SECONDS = 0.5
"""Time between two looks at what is done, and at whether the sweep still lives."""


def work_off(
    tasks: Mapping[Path, Callable[[], object]], is_done: Callable[[Path], bool], workers: int, *, label: str = "runs"
) -> None:
    """Do all tasks, those of killed workers again; wait for those that another process is at.

    Args:
        tasks: By the folder of its result, what to do; can be pickled.
        is_done: Whether a folder has its result.
        workers: How many at a time. One works in this process; several are workers of joblib's back end, and compute
            with one thread each, so that the bits are the same on all of them.
        label: What the tasks are, for the progress bar.

    Raises:
        Exception: the first error of a task, after the other tasks were done.
    """
    left = {folder: task for folder, task in tasks.items() if not is_done(folder)}
    errors: list[Exception] = []
    losses = 0
    with _progress(list(left), is_done, label):
        while left:
            try:
                ends = _attempts(left, workers)
            except Exception:  # not of a task: the back end lost a worker, or could not start one
                losses += 1
                if losses >= MOST_LOSSES or workers == 1:
                    raise
                ends = [None] * len(left)
            failed = {folder for folder, end in zip(left, ends, strict=True) if end is not None}
            errors += [end for end in ends if end is not None]
            done = {folder for folder in left if is_done(folder)}
            left = {folder: task for folder, task in left.items() if folder not in done | failed}
            losses = 0 if done else losses
            if left and not done:
                time.sleep(POLL_SECONDS)  # others are at them
    if errors:
        raise errors[0]


def _attempts(tasks: Mapping[Path, Callable[[], object]], workers: int) -> list[Exception | None]:
    """Begin each task; its error, if it came to an end with one."""
    from joblib import Parallel, delayed
    from joblib.parallel import get_active_backend

    home = _here()
    local = type(get_active_backend()[0]).__name__ == "LokyBackend"
    watching = {"initializer": _end_with, "initargs": (home,)} if local else {}
    count = 1 if workers == 1 else max(2, min(workers, len(tasks)))  # one would be this process
    # A list, not a generator: joblib's back end for Ray knows no generators.
    return list(
        Parallel(n_jobs=count, batch_size=1, **watching)(delayed(_attempt)(task, home) for task in tasks.values())
    )


def _attempt(task: Callable[[], object], home: Place) -> Exception | None:
    """Do a task here; `home` is the process that wants it done."""
    if _here() != home:
        torch.set_num_threads(1)
        _end_with(home)
    try:
        task()
    except FolderBusyError:
        return None  # comes again, unless who is at it finishes it
    except Exception as error:
        return error
    return None


def _here() -> Place:
    return socket.gethostname(), os.getpid()


@lru_cache(maxsize=1)  # once a process
def _end_with(home: Place) -> None:
    """End this process when its parent does, if that is the sweep: a killed sweep leaves no workers behind."""
    parent = os.getppid()
    if (socket.gethostname(), parent) != home:
        if multiprocessing.current_process().name.startswith(WORKER):
            os._exit(1)  # the sweep was killed while this worker started
        return  # a worker of a cluster, which looks after it

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _progress(folders: list[Path], is_done: Callable[[Path], bool], label: str) -> Iterator[None]:
    """A bar of how many folders have their result, whoever works at them, wherever."""
    shown: Any = bar(total=len(folders), desc=label, unit="run", leave=False, shown=bool(folders))
    if shown.disable:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        left = folders
        while True:
            last = over.wait(POLL_SECONDS)
            still = [folder for folder in left if not is_done(folder)]
            shown.update(len(left) - len(still))
            left = still
            if last:
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        shown.close()

"""The comparison: each method trains, certifies and is attacked on the same federations."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crfl import files, fingerprint
from crfl.benchmark.entry import THREATS, Entry, Outcome, Task
from crfl.benchmark.federations import DATA_SETS, MANY_CLIENTS, federation, load_task
from crfl.benchmark.result import Result, read_result, result_path, write_result
from crfl.errors import CrflError, DamagedFileError, SettingsError
from crfl.progress import bar

__all__ = ["Comparison", "code_digest", "compare", "gather", "judge"]


@dataclass(frozen=True)
class Comparison:
    """What came of a comparison."""

    entries: tuple[Entry, ...]
    results: tuple[Result, ...]
    failures: tuple[str, ...]
    """Methods that failed, each with its error."""

    def results_of(self, entry: Entry, data_name: str) -> list[Result]:
        """One a seed."""
        wanted = (entry.threat, entry.name, data_name)
        return [r for r in self.results if (r.threat, r.method, r.data_name) == wanted]

    @property
    def contradicted(self) -> tuple[str, ...]:
        """What an attack proved wrong of entries that call themselves sound: a sentence each."""
        sound = {(e.threat, e.name) for e in self.entries if e.guarantee == "sound"}
        return tuple(
            f"{r.threat}: {r.method} on {r.data_name}, seed {r.seed}: an attack changed {int(r.contradicted().sum())} "
            "certified predictions"
            for r in self.results
            if (r.threat, r.method) in sound and r.contradicted().any()
        )


def compare(
    entries: Sequence[Entry],
    data_names: Sequence[str],
    seeds: Iterable[int],
    out: str | Path,
    *,
    smoke: bool = False,
    progress: bool = False,
) -> Comparison:
    """Train, certify and attack every entry on every data set that it covers, with every seed.

    Results are files of `out`. Those that are there already are taken as they are, if crfl's code, the settings
    of the federation, the strengths and the method's source are the same. Several processes may fill the same folder.

    Args:
        entries: Methods, from `load_entries` or of your own.
        data_names: Keys of DATA_SETS.
        seeds: Each deals the samples out anew and draws the server's own samples anew.
        out: Folder of the results.
        smoke: Whether entries are to be quick.
        progress: Show a bar.

    Returns:
        All results, and which entries failed and why.

    Raises:
        SettingsError: Two entries have the same name and threat, a threat or data set is unknown.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from crfl.benchmark.methods import load_entries
        >>> margin = [e for e in load_entries() if e.name == "CRFL margin" and e.threat == "client-rounds"]
        >>> with TemporaryDirectory() as out:
        ...     found = compare(margin, ["digits"], [0], out, smoke=True)
        >>> bool(found.results[0].certified_accuracy(1) > 0.9)
        True
    """
    jobs, results, failures, loaded = _jobs(entries, data_names, seeds), [], [], _Loaded(smoke)
    with bar(total=len(jobs), desc="comparison", unit="result", shown=progress) as shown:
        for entry, data_name, seed in jobs:
            shown.set_postfix_str(f"{entry.name}, {data_name}, seed {seed}")
            try:
                results.append(_result(entry, data_name, seed, Path(out), loaded))
            except CrflError as error:
                failures.append(f"{entry.threat}: {entry.name} on {data_name}, seed {seed}: {error}")
            shown.update()
    return Comparison(tuple(entries), tuple(results), tuple(failures))


def gather(entries: Sequence[Entry], data_names: Sequence[str], seeds: Iterable[int], out: str | Path) -> Comparison:
    """What `compare` has made so far, in the same folder and by the same code; nothing is trained.

    Args:
        entries, data_names, seeds, out: As for `compare`.

    Returns:
        The results that are there.

    Raises:
        SettingsError: As `compare` does.
        DamagedFileError: A result is not what was written.

    Example:
        >>> gather([], ["digits"], range(5), "nowhere").results
        ()
    """
    jobs = _jobs(entries, data_names, seeds)
    found = [
        read_result(
            result_path(Path(out), entry.threat, entry.name, data_name, seed), _key(entry, data_name, seed, False)
        )
        for entry, data_name, seed in jobs
    ]
    return Comparison(tuple(entries), tuple(r for r in found if r is not None), ())


def _jobs(entries: Sequence[Entry], data_names: Sequence[str], seeds: Iterable[int]) -> list[tuple[Entry, str, int]]:
    """Each entry on each data set that it covers with each seed, those that share a federation together."""
    _check(entries, data_names)
    return [
        (entry, data_name, seed)
        for data_name, seed in product(data_names, seeds)
        for entry in sorted(entries, key=lambda e: e.threat in MANY_CLIENTS)
        if entry.data is None or data_name in entry.data
    ]


def judge(entry: Entry, task: Task) -> Result:
    """Train and certify one entry on one federation, and attack it at every strength of its threat's table.

    Raises:
        CrflError: What the entry raises; or what it returns is not what an entry returns.
    """
    start = time.process_time()
    outcome = entry.run(task)
    seconds = time.process_time() - start
    labels = task.data.test.y.cpu().numpy().astype(np.int64)
    _check_outcome(entry, outcome, labels, task.data.num_classes)
    strengths = THREATS[entry.threat].strengths
    attacked = {
        float(s): found
        for s in (strengths[2:3] if task.smoke else strengths)
        if (found := _attacked(entry, task, s)) is not None
    }
    return Result(
        threat=entry.threat,
        method=entry.name,
        data_name=task.data_name,
        seed=task.seed,
        labels=labels,
        prediction=np.asarray(outcome.prediction, dtype=np.int64),
        strength=np.asarray(outcome.strength, dtype=np.float64),
        attacked=attacked,
        models_trained=int(outcome.models_trained),
        trusted_samples=int(outcome.trusted_samples),
        cpu_seconds=seconds if outcome.cpu_seconds is None else float(outcome.cpu_seconds),
        num_clients=len(task.data.shards),
    )


def _attacked(entry: Entry, task: Task, strength: float) -> npt.NDArray[np.int64] | None:
    """Predictions (k, m) under attack; None if the entry tries none. CrflError if they are not such."""
    found = None if entry.attack is None else entry.attack(task, strength)
    if found is None:
        return None
    rows, size = np.atleast_2d(np.asarray(found, dtype=np.int64)), len(task.data.test)
    if rows.ndim != 2 or rows.shape[1] != size or not len(rows):
        raise CrflError(f"attack: got predictions of shape {rows.shape}, expected ({size},) or (k, {size})")
    return rows


class _Loaded:
    """The federation that was loaded last: the next entry most often wants the same."""

    key: tuple[str, bool, int] | None = None
    last: Task | None = None

    def __init__(self, smoke: bool) -> None:
        self.smoke = smoke

    def task(self, data_name: str, threat: str, seed: int) -> Task:
        """The federation on which a threat is tried."""
        key = (data_name, threat in MANY_CLIENTS, seed)
        if self.last is None or self.key != key:
            self.last = None  # before the next one takes memory
            self.key, self.last = key, load_task(data_name, threat, seed, self.smoke)
        return self.last


def _check(entries: Sequence[Entry], data_names: Sequence[str]) -> None:
    unknown = [e.threat for e in entries if e.threat not in THREATS]
    if unknown:
        raise SettingsError([f"threat: got {unknown[0]!r}, expected one of {', '.join(THREATS)}"])
    missing = [name for name in data_names if name not in DATA_SETS]
    if missing:
        raise SettingsError([f"data: got {missing[0]!r}, expected one of {', '.join(DATA_SETS)}"])
    names = [(e.threat, e.name) for e in entries]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SettingsError(
            [f"entries: got {twice[0][1]!r} twice for the threat {twice[0][0]!r}, expected different names"]
        )


def _check_outcome(entry: Entry, outcome: Outcome, labels: Any, classes: int) -> None:
    """CrflError unless there is one class for each test sample."""
    found = np.asarray(outcome.prediction)
    if found.shape != labels.shape:
        raise CrflError(f"prediction: got shape {found.shape}, expected {labels.shape}, one for each test sample")
    if len(found) and not (found.min() >= 0 and found.max() < classes):
        raise CrflError(f"prediction: got classes {found.min()} to {found.max()}, expected 0 to {classes - 1}")


def _result(entry: Entry, data_name: str, seed: int, out: Path, loaded: _Loaded) -> Result:
    """The result that is there already, else a new one; a damaged file is as good as none."""
    path = result_path(out, entry.threat, entry.name, data_name, seed)
    key = _key(entry, data_name, seed, loaded.smoke)
    with suppress(DamagedFileError):
        if (known := read_result(path, key)) is not None:
            return known
    result = judge(entry, loaded.task(data_name, entry.threat, seed))
    write_result(path, result, key)
    return result


@cache
def code_digest(folder: Path) -> str:
    """Name of the code in a folder: every Python file, by its place and content.

    Example:
        >>> len(code_digest(Path(__file__).parents[1]))  # of crfl, as it was when it was first asked for
        32
    """
    parts = [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in sorted(folder.rglob("*.py"))]
    return files.digest(repr(parts).encode())


def _key(entry: Entry, data_name: str, seed: int, smoke: bool) -> str:
    """Name of all that a result depends on: data, settings, the method's module, and all of crfl's own code."""
    function: Any = entry.run
    while hasattr(function, "func"):  # a Choice, a partial, or one of the other
        function = function.func
    module = sys.modules.get(function.__module__)
    try:
        source = "" if module is None else inspect.getsource(module)
    except (OSError, TypeError):
        source = ""
    about = {
        "crfl": code_digest(Path(__file__).parents[1]),
        "federation": federation(data_name, entry.threat, seed).to_dict(),
        "strengths": list(THREATS[entry.threat].strengths),
        "smoke": smoke,
        "method": fingerprint.digest([entry.run, entry.attack]),
        "source": source,
    }
    return hashlib.blake2b(json.dumps(about, default=str).encode(), digest_size=16).hexdigest()

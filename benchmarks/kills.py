"""Kill runs and sweeps over and over, with plots and reports under way: what was kept must not be lost, nor anything stay.

    python -m benchmarks.kills [kills] [seed]

A round is a job in a new folder, killed several times and begun again after each kill, then left to finish. Some are
killed (SIGKILL) just before a file operation, some at a random time. After a kill nothing that was complete may be
lost or damaged. In the end the folder holds the files of a run that was never killed, to the byte, and no others. Of a
sweep, processes are looked for, too. Needs /proc.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process that forks must have no threads

import torch

import crfl
from crfl.cli import main as crfl_command
from crfl.errors import CrflError
from crfl.run_batch import RunBatch
from crfl.runs import manifest
from crfl.runs.certificates import load_certificates
from crfl.runs.resume import train_in
from crfl.runs.verify import verify

CHANGES = {"server.rounds": 24, "attack.round": 3, "smoothing.samples": 50, "smoothing.test_samples": 30}
CHECKPOINTS = (2, 16)
SET = [part for key, value in CHANGES.items() for part in ("--set", f"{key}={value}")]
KILLS_A_ROUND = 10
"""At most: then the job is left to finish."""
ENDINGS = {".png": b"IEND\xaeB`\x82", ".pdf": b"%%EOF\n", ".html": b"</html>\n"}
"""How files end that are drawn anew each time."""
MARK = "CRFL_KILLED"
"""A variable of the environment by which processes are found."""
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
PATIENCE = 30.0
"""Seconds that workers may take to end after the sweep was killed: some are still importing torch."""

Job = Callable[[Path], None]


def one_run(folder: Path) -> None:
    """`crfl run`, resumed, saved often, with its certificates and plots; then a report."""
    exp = crfl.Experiment().override(CHANGES)
    train_in(folder, RunBatch.of([exp], crfl.load_data(exp), checkpoints=CHECKPOINTS), save_seconds=0.01)
    kept = [part for round_ in CHECKPOINTS for part in ("--checkpoint", str(round_))]
    _crfl("run", "digits", *SET, *kept, "--out", str(folder))
    _crfl("report", str(folder))


def one_ensemble(folder: Path) -> None:
    """The same of an ensemble."""
    groups = ["--set", "data.clients=12", "--set", "ensemble.groups=4"]
    _crfl("run", "digits", *SET, *groups, "--out", str(folder))
    _crfl("plot", str(folder))
    _crfl("report", str(folder))


def one_sweep(folder: Path) -> None:
    """`crfl sweep` with two workers."""
    _crfl("sweep", "digits", *SET, "--set", "attack.scale=1,5", "--jobs", "2", "--out", str(folder))


def _crfl(*args: str) -> None:
    crfl_command(list(args), standalone_mode=False)


def begin(job: Job, folder: Path, die_at: int | None = None, count: Path | None = None) -> int:
    """Fork a process that does the job in a folder and, if told, kills itself before file operation number `die_at`.

    `count`: a file outside the folder that gets the number of its file operations.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(os.devnull, os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(os.open(folder.parent / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        os.environ[MARK] = str(folder.parent)
        seen = _watch(folder, die_at)
        job(folder)
        if count is not None:
            count.write_text(str(len(seen)))
        status = 0
    except BaseException as error:
        print(f"{job.__name__}: {error!r}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def _watch(folder: Path, die_at: int | None) -> list[None]:
    """A list that grows by one before each operation on files in a folder; at `die_at` the process is killed."""
    seen: list[None] = []

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event not in FILE_EVENTS or not args or not str(args[0]).startswith(str(folder)):
            return
        seen.append(None)
        if die_at is not None and len(seen) >= die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen


def wait(child: int, seconds: float | None = None) -> int | None:
    """The exit status of a process, None if it was killed; after some seconds it is."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else None
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            deadline = None
        time.sleep(0.005)


def kept(folder: Path) -> dict[str, float]:
    """What a folder has of a run: the rounds done, whether it is complete, its certificates. CrflError if damaged."""
    if not (folder / manifest.NAME).exists():
        state = folder / "resume" / manifest.NAME
        return {"rounds": json.loads(state.read_text())["round"] if state.exists() else 0}
    crfl.load_run(folder)
    return {"rounds": float("inf"), **dict.fromkeys(load_certificates(folder), 1.0)}


def losses(before: dict[str, float], folder: Path) -> tuple[dict[str, float], list[str]]:
    """What a folder has after a kill, and what it lost by it."""
    try:
        now = kept(folder)
    except (CrflError, ValueError) as error:
        return before, [f"damaged: {error}"]
    lost = [f"{name}: had {had}, has {now.get(name, 0)}" for name, had in before.items() if now.get(name, 0) < had]
    lost += [f"cut: {path}" for path in folder.rglob("*") if _is_cut(path)]
    return now, lost


def _is_cut(path: Path) -> bool:
    end = ENDINGS.get(path.suffix)
    return end is not None and not path.read_bytes().endswith(end)


def differences(folder: Path, whole: Path) -> list[str]:
    """How a folder differs from that of a job that was never killed."""
    mine, theirs = (
        {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()} for place in (folder, whole)
    )
    found = [f"left over: {name}" for name in sorted(mine - theirs)] + [f"lost: {n}" for n in sorted(theirs - mine)]
    for name in sorted(mine & theirs):
        drawn = Path(name).suffix in ENDINGS
        if _is_cut(folder / name) if drawn else (folder / name).read_bytes() != (whole / name).read_bytes():
            found.append(f"differs: {name}")
    places = {p.parent for p in folder.rglob(manifest.NAME)}
    return found + [text for place in sorted(places) for text in verify(place)]


def processes(mark: Path) -> list[int]:
    """The processes, but zombies, whose environment has the mark."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            alive = (place / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
            if alive and wanted in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
    return found


def one_round(job: Job, whole: Path, operations: int, seconds: float, kills: int, random_: random.Random) -> list[str]:
    """Kill a job several times, let it finish; what was lost or left over."""
    place = whole.parent.parent / "killed"
    folder, wrong = place / "run", list[str]()
    place.mkdir()
    before: dict[str, float] = {"rounds": 0}
    for _ in range(kills):
        at_file = job is not one_sweep and random_.random() < 0.5
        if at_file:
            ended = wait(begin(job, folder, die_at=random_.randint(1, operations)))
        else:
            ended = wait(begin(job, folder), random_.uniform(0, seconds))
        if ended not in (None, 0):
            wrong.append(f"ended with {ended}: {(place / 'errors').read_text()[-500:]}")
        if job is one_sweep:
            wrong += _survivors(place)
        elif folder.exists():
            before, lost = losses(before, folder)
            wrong += lost
    if wait(begin(job, folder)) != 0:
        wrong.append(f"did not finish: {(place / 'errors').read_text()[-500:]}")
    wrong += differences(folder, whole)
    shutil.rmtree(place)
    return [f"{job.__name__}: {text}" for text in wrong]


def _survivors(place: Path) -> list[str]:
    deadline = time.monotonic() + PATIENCE
    while (alive := processes(place)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [f"process {pid} outlived its sweep by {PATIENCE:g} s" for pid in alive]


def campaign(
    kills: int, seed: int, jobs: tuple[Job, ...] = (one_run, one_ensemble, one_sweep, one_run, one_ensemble, one_run)
) -> list[str]:
    """Kill so many times, the jobs in turn; what was lost or left over, a sentence each."""
    random_, wrong = random.Random(seed), list[str]()
    with tempfile.TemporaryDirectory() as place:
        known = {}
        for job in dict.fromkeys(jobs):
            whole, count = Path(place) / job.__name__ / "run", Path(place) / f"{job.__name__}.count"
            whole.parent.mkdir()
            began = time.monotonic()
            if wait(begin(job, whole, count=count)) != 0:
                raise SystemExit((whole.parent / "errors").read_text())
            known[job] = whole, int(count.read_text()), time.monotonic() - began
            print(f"{job.__name__}: {known[job][1]} file operations, {known[job][2]:.1f} s", flush=True)
        a_round = min(KILLS_A_ROUND, -(-kills // len(known)))  # of few kills, some for each job
        for i in range(-(-kills // a_round)):
            left = min(a_round, kills - i * a_round)
            found = one_round(jobs[i % len(jobs)], *known[jobs[i % len(jobs)]], left, random_)
            print(*found, sep="\n", end="\n" if found else "", flush=True)
            wrong += found
            print(f"{min((i + 1) * a_round, kills)} kills, {len(wrong)} losses and leftovers", flush=True)
    return wrong


def main() -> None:
    """As many kills as the command line says."""
    numbers = [int(text) for text in sys.argv[1:]]
    kills, seed = (*numbers, *(200, 0)[len(numbers) :])
    torch.set_num_threads(1)
    began = time.monotonic()
    wrong = campaign(kills, seed)
    print(f"{kills} kills, seed {seed}: {len(wrong)} losses and leftovers, {time.monotonic() - began:.0f} s")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()

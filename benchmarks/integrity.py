"""Damage every file of a run folder, over and over: a change that nobody notices is a bug, a foreign error too.

    python -m benchmarks.integrity [tries]

Each try flips a bit, cuts the file, swaps two bytes, or repeats or drops some, at a random place; then the folder is
verified, and read as a user would read it. (`benchmarks/kills.py` kills what writes.)
"""

from __future__ import annotations

import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import crfl
from crfl.ensemble_run import choose_groups
from crfl.errors import CrflError
from crfl.run_batch import RunBatch
from crfl.runs.certificates import load_certificate_votes, load_certificates, save_certificate
from crfl.runs.resume import load_state, save_state
from crfl.runs.verify import verify

EXP = crfl.Experiment().override(
    {"server.rounds": 6, "attack.round": 3, "smoothing.samples": 50, "smoothing.test_samples": 30}
)

ENSEMBLE = EXP.override(
    {"data.clients": 12, "ensemble.groups": 4, "server.update_clip": 0.5, "server.decay": 0.1, "server.rounds": 4}
)


def damages(content: bytes, random_: random.Random) -> list[bytes]:
    """The content after a flip, a cut, a swap, a repetition and a gap, at random places; those that change it."""
    at, other = random_.randrange(len(content)), random_.randrange(len(content))
    flipped = bytearray(content)
    flipped[at] ^= 1 << random_.randrange(8)
    swapped = bytearray(content)
    swapped[at], swapped[other] = swapped[other], swapped[at]
    first, last = sorted((at, other))
    found = (
        bytes(flipped),
        content[:at],
        bytes(swapped),
        content[:last] + content[first:],
        content[:first] + content[last:],
    )
    return [changed for changed in found if changed != content]


def complete_run(folder: Path) -> None:
    """A run with checkpoints, certificates and votes."""
    data = crfl.load_data(EXP)
    run = crfl.train(EXP, data, checkpoints=[2, 5], resume_dir=folder)
    for kind in ("smoothing", "margin"):
        save_certificate(folder, kind, crfl.certify(run, data.test, kind=kind), data.test.y, EXP)


def complete_ensemble(folder: Path) -> None:
    """An ensemble with its certificates, plain and priced."""
    data = crfl.load_data(ENSEMBLE)
    ensemble = crfl.train_ensemble(ENSEMBLE, data, resume_dir=folder)
    for prices in (None, "clients"):
        certificate = crfl.certify(ensemble, data.test, kind="ensemble", prices=prices)
        save_certificate(folder, f"ensemble-{prices}", certificate, data.test.y, ENSEMBLE)


def unfinished_run(folder: Path) -> None:
    """The state after some rounds, in several chunks."""
    _leave(RunBatch.of([EXP], crfl.load_data(EXP), checkpoints=(2,)), folder)


def unfinished_ensemble(folder: Path) -> None:
    """The same of an ensemble."""
    data = crfl.load_data(ENSEMBLE)
    groups = choose_groups(data.client_names, ENSEMBLE.ensemble, ENSEMBLE.seed)
    _leave(RunBatch.of([ENSEMBLE] * len(groups), data, groups=groups), folder)


def _leave(batch: RunBatch, folder: Path) -> None:
    for state in batch.rounds(batch.start()):
        if state.round in (2, 4):
            save_state(folder / "resume", state, {})


def read_complete(folder: Path) -> object:
    """All that a user can read from the files of a complete run."""
    run = crfl.load_run(folder)
    frames = {name: (frame.to_csv(), about) for name, (frame, about) in load_certificates(folder).items()}
    votes = load_certificate_votes(folder, "smoothing")
    kept = {t: params.tolist() for t, params in run.checkpoints.items()}
    history = run.history.to_csv()
    return run.params.tolist(), run.record, run.experiment, kept, history, frames, votes.counts.tolist(), votes.noise


def read_ensemble(folder: Path) -> object:
    """The same of an ensemble."""
    ensemble = crfl.load_run(folder)
    assert isinstance(ensemble, crfl.EnsembleRun)
    frames = {name: (frame.to_csv(), about) for name, (frame, about) in load_certificates(folder).items()}
    groups = [clients.tolist() for clients in ensemble.groups]
    records = [ensemble.record(group) for group in range(len(groups))]
    return ensemble.params.tolist(), groups, ensemble.client_names, ensemble.experiment, records, frames


def read_unfinished(folder: Path) -> object:
    """All that training goes on from."""
    state = load_state(folder / "resume")
    assert state is not None
    return {name: str(tensor.tolist()) for name, tensor in state.to_tensors().items()}


CASES = (
    (complete_run, read_complete),
    (unfinished_run, read_unfinished),
    (complete_ensemble, read_ensemble),
    (unfinished_ensemble, read_unfinished),
)
"""How to make a folder, and how to read it."""


def attack(
    make: Callable[[Path], None], read: Callable[[Path], object], tries: int, seed: int = 0
) -> tuple[Counter[str], list[str]]:
    """Damage each file of a folder `tries` times in every way; how many ended how, and what went wrong."""
    random_, outcomes, wrong = random.Random(seed), Counter[str](), []
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(place) / "run"
        make(folder)
        whole = read(folder)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            content = path.read_bytes()
            for damaged in (d for _ in range(tries) for d in damages(content, random_)):
                path.write_bytes(damaged)
                outcome = _outcome(folder, path.name, read, whole)
                outcomes[outcome] += 1
                if outcome not in ("harmless", "refused"):
                    wrong.append(f"{path.relative_to(folder)}: {outcome}")
            path.write_bytes(content)
    return outcomes, wrong


def _outcome(folder: Path, name: str, read: Callable[[Path], object], whole: object) -> str:
    """How reading the folder ends while the file of that name is damaged."""
    try:
        found = any(name in text for text in verify(folder))
        same = read(folder) == whole
    except CrflError as error:
        return "refused" if name in str(error) else f"refused without its name: {error}"
    except Exception as error:
        return f"foreign error: {error!r}"
    if not same:
        return "silent change"
    return "harmless" if found else "not found by verify"


def main() -> None:
    """Attack complete and unfinished runs and ensembles."""
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    for make, read in CASES:
        outcomes, wrong = attack(make, read, tries)
        print(make.__name__, dict(outcomes))
        print(*wrong, sep="\n")
        if wrong:
            raise SystemExit(1)


if __name__ == "__main__":
    main()

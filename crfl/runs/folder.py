"""Run folders: what a run was asked, what it did and what came of it, in files that outlive the process.

    settings.yaml           the experiment
    record.json             what happened in training, for certification; of an ensemble records.jsonl, a line a group
    ensemble.json           of an ensemble: which clients are in which group
    history.csv             a row a round; not of an ensemble
    params.safetensors      the final model, or those of all groups
    checkpoints/            the models of the rounds asked for
    certificates/           per certificate a CSV (a row a test sample), a JSON (what it rests on) and its votes
    versions.json           of crfl, Python and the packages that compute
    training.json           digests of all that the training depended on, if it was trained in this folder
    manifest.json           the digest of every file above; written last: its presence says that training is complete
    resume/                 how far training is, while it is not complete
    plots/, report.html     pictures of all that

Every file is written whole or not at all, and no file is believed that the manifest does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from crfl.config import Experiment
from crfl.ensemble_run import EnsembleRun
from crfl.errors import StoreError
from crfl.files import digest
from crfl.models.base import Model
from crfl.run import TrainingRun
from crfl.runs import claim, ensemble_files, manifest, one_model
from crfl.runs.lock import folder_lock
from crfl.runs.manifest import Manifest

WAIT = 60.0
"""Seconds to wait for another process that writes to a folder."""


def save_run(folder: str | Path, run: TrainingRun | EnsembleRun) -> None:
    """Write a run or an ensemble: settings, record, history, checkpoints, parameters and, last, the manifest.

    Args:
        folder: Where to; made if need be.
        run: What to write.

    Raises:
        StoreError: if the folder holds another run, or one that was left unfinished.
        FolderBusyError: if somebody else writes there.

    Example:
        >>> import crfl, tempfile
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
        >>> run = crfl.train(exp, crfl.load_data(exp))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     crfl.save_run(folder, run)
        ...     crfl.load_run(folder).record == run.record
        True
    """
    folder, files = Path(folder), run_files(run)
    with folder_lock(folder, wait=WAIT):
        if not (folder / manifest.NAME).exists() and (folder / claim.NAME).exists():
            raise StoreError(f"{folder}: a training that is not complete lies here; choose another folder")
        write_run(folder, files)


def run_files(run: TrainingRun | EnsembleRun) -> dict[str, bytes]:
    """The files of a run.

    Args:
        run: A run or an ensemble.

    Returns:
        Their content by their path in the folder. Equal runs have equal files.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
        >>> sorted(run_files(crfl.train(exp, crfl.load_data(exp))))[:3]
        ['history.csv', 'params.safetensors', 'record.json']
    """
    return ensemble_files.run_files(run) if isinstance(run, EnsembleRun) else one_model.run_files(run)


def write_run(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a run, then their manifest; of a run that is there already, the files that were damaged.

    Args:
        folder: Where to; the caller holds its lock.
        files: As `run_files` returns them.

    Raises:
        StoreError: The folder holds another run. Nothing is written then.
    """
    if not (folder / manifest.NAME).exists():
        manifest.write_files(folder, files)
        return
    known = manifest.load(folder)
    for name, content in files.items():
        if name in ("settings.yaml", "versions.json"):
            continue
        if digest(content) not in known.digests.get(name, ()):
            raise StoreError(
                f"{folder}: holds another run: {name} differs. A run is the same to the last bit on the same machine "
                "with the same versions and number of threads only. Choose another folder"
            )
    known.restore(files)


def load_run(
    folder: str | Path, exp: Experiment | None = None, *, model: Model | nn.Module | None = None
) -> TrainingRun | EnsembleRun:
    """The finished run, or ensemble, in a folder.

    Args:
        folder: Where it lies.
        exp: Settings to certify it under, other than its own in `smoothing` alone.
        model: What was trained, if not softmax regression.

    Returns:
        The run, equal to the last bit to what was saved; an EnsembleRun if that is what lies there.

    Raises:
        StoreError: if the folder holds no finished run of that model.
        DamagedFileError: if a file is not what was written, or the files contradict one another.

    Example:
        >>> import crfl, tempfile
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
        >>> run = crfl.train(exp, crfl.load_data(exp))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     crfl.save_run(folder, run)
        ...     bool((crfl.load_run(folder).params == run.params).all())
        True
    """
    files = open_run(Path(folder))
    load = ensemble_files.load_ensemble if is_ensemble(files) else one_model.load_one
    return load(files, exp, model)


def load_one_model(
    folder: str | Path, exp: Experiment | None = None, *, model: Model | nn.Module | None = None
) -> TrainingRun:
    """`load_run` where one model is expected.

    Args:
        folder: Where it lies.
        exp: Settings to certify it under, other than its own in `smoothing` alone.
        model: What was trained, if not softmax regression.

    Returns:
        The run.

    Raises:
        StoreError: The folder holds an ensemble, or no finished run of that model.
        DamagedFileError: As `load_run`.

    Example:
        >>> load_one_model("nowhere")
        Traceback (most recent call last):
        crfl.errors.StoreError: nowhere: no finished run here; `crfl run` makes one
    """
    files = open_run(Path(folder))
    if is_ensemble(files):
        raise StoreError(f"{folder}: holds an ensemble, expected a run of one model")
    return one_model.load_one(files, exp, model)


def is_ensemble(files: Manifest) -> bool:
    """Whether a folder holds an ensemble.

    Args:
        files: The manifest of its run.

    Returns:
        False for a run of one model.
    """
    return ensemble_files.NAME in files.digests


def check_run(files: Manifest) -> None:
    """Read all files of a run and hold them against each other.

    Args:
        files: The manifest of the run.

    Raises:
        DamagedFileError: A file is not what was written, or contradicts another.
    """
    if is_ensemble(files):
        ensemble_files.check_ensemble(files)
    else:
        one_model.check_one(files)


def is_complete(folder: Path) -> bool:
    """Whether a finished run lies in a folder, damaged or not.

    Args:
        folder: It need not exist.

    Returns:
        Whether there is a manifest, which is written last.

    Example:
        >>> is_complete(Path("nowhere"))
        False
    """
    return (folder / manifest.NAME).exists()


def open_run(folder: Path) -> Manifest:
    """The manifest of a finished run.

    Args:
        folder: Of the run.

    Returns:
        The manifest, through which its files are read and checked.

    Raises:
        StoreError: There is no finished run.

    Example:
        >>> import crfl, tempfile
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     crfl.save_run(folder, crfl.train(exp, crfl.load_data(exp)))
        ...     files = open_run(Path(folder))
        ...     check_run(files)  # raises if there is anything wrong
        ...     is_ensemble(files), is_complete(Path(folder))
        (False, True)
    """
    if is_complete(folder):
        return manifest.load(folder)
    if (folder / "params.safetensors").exists():
        raise StoreError(
            f"{folder}: has no manifest.json, so nobody can tell whether its files are whole: its run was interrupted, "
            "or is of an older crfl. Train it again: `crfl run` with its settings.yaml, into the same folder if it was "
            "this version, else into another"
        )
    raise StoreError(f"{folder}: no finished run here; `crfl run` makes one")

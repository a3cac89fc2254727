"""What is wrong with a run folder, in sentences."""

from __future__ import annotations

from pathlib import Path

from crfl.errors import CrflError, DamagedFileError, StoreError
from crfl.runs import manifest
from crfl.runs.certificates import PLACE as CERTIFICATES
from crfl.runs.folder import check_run, is_complete, open_run
from crfl.runs.resume import PLACE as RESUME
from crfl.runs.resume import load_state

FORESEEN = ("plots/", "report.html", ".lock", manifest.NAME, f"{RESUME}/")
"""Files that no manifest lists: pictures can be drawn again."""


def verify(folder: str | Path) -> list[str]:
    """Check every file of a run folder.

    Args:
        folder: Of a run, complete or not.

    Returns:
        What is wrong, a sentence each; [] if every file is what was written and none contradicts another.

    Example:
        >>> from crfl.runs.verify import verify
        >>> verify("no-such-folder")
        ['no-such-folder: no run here']
    """
    folder = Path(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return [f"{folder}: no run here"]
    if not is_complete(folder) and (folder / RESUME).exists():
        return _unfinished(folder)
    try:
        files = open_run(folder)
    except StoreError as error:
        return [str(error)]
    problems = files.problems()
    found = {name: str(error) for name, error in problems.items()}
    if not found:
        try:
            check_run(files)
        except CrflError as error:
            found[""] = str(error)
    strange = sorted(
        name
        for path in folder.rglob("*")
        if path.is_file() and (name := path.relative_to(folder).as_posix()) not in files.digests
        if not name.startswith(FORESEEN)
    )
    found |= {name: f"{folder / name}: is not listed in {manifest.NAME}" for name in strange}
    advice = []
    if not all(isinstance(error, DamagedFileError) for error in problems.values()):
        pass  # what cannot be read now may be good
    elif any(not name.startswith(f"{CERTIFICATES}/") for name in found):
        advice.append(f"To make the run whole again, train it again in place: crfl run SETTINGS --out {folder}")
    elif found:
        advice.append(f"To make a certificate whole again, issue it again: crfl certify {folder} --kind KIND")
    return [*found.values(), *advice]


def _unfinished(folder: Path) -> list[str]:
    try:
        state = load_state(folder / RESUME)
    except StoreError as error:
        return [str(error)]
    done = 0 if state is None else state.round
    return [f"{folder}: training is not complete, {done} rounds are kept; `crfl run` with the same settings goes on"]

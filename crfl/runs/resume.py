"""Training in a folder: it starts, goes on where it stopped, to the same bits, or loads what is complete.

While training is not complete, resume/ holds its state. What does not change any more, the measurements and checkpoints
of the rounds done, is appended in chunks; the parameters are written anew. resume/manifest.json switches from one state
to the next.
"""

from __future__ import annotations

import io
import time
import warnings
import zipfile
from pathlib import Path
from shutil import rmtree

import numpy as np
import torch
from torch import Tensor, nn

from crfl.config import Experiment
from crfl.engines import EngineName
from crfl.ensemble_run import EnsembleRun
from crfl.errors import DamagedFileError, StoreError
from crfl.files import digest, pack_tensors, remove_stale, unpack_tensors, write_atomic
from crfl.models.base import Model
from crfl.run import TrainingRun
from crfl.run_batch import RunBatch
from crfl.runs import claim, manifest
from crfl.runs.folder import is_complete, load_run, run_files, write_run
from crfl.runs.lock import folder_lock
from crfl.runs.manifest import Manifest
from crfl.state import TrainingState

PLACE = "resume"
SAVE_SECONDS = 5.0
"""Time between two saves of an unfinished run."""


def train_in(
    folder: str | Path,
    batch: RunBatch,
    *,
    model: Model | nn.Module | None = None,
    engine: EngineName = "vectorised",
    device: str | torch.device = "cpu",
    progress: bool = False,
    save_seconds: float = SAVE_SECONDS,
) -> TrainingRun | EnsembleRun:
    """Train a batch of one run, or of groups, in a folder: what `resume_dir=` does in `crfl.train` and `train_ensemble`.

    A run that is interrupted or killed goes on from its last saved round when it is trained again. A complete run of
    which a file is damaged or lost is trained again and made whole, if that gives the same bits.

    Args:
        folder: Where to; made if need be, and left out if training fails in the first round.
        batch: What to train: one run, or the groups of an ensemble.
        model: The module that it trains, if not softmax regression.
        engine: What trains.
        device: Where to train.
        progress: Whether to show a bar.
        save_seconds: Time between two saves.

    Returns:
        The run or the ensemble, equal to the last bit to one that was trained without interruption on the same machine
        with the same versions and number of threads. A UserWarning says if they are others than before.

    Raises:
        StoreError: if the folder holds another training.
        FolderBusyError: if another process trains there.
    """
    folder, exp = Path(folder), batch.experiments[0]
    key = claim.training_key(exp, batch.data, batch.benign[0], batch.checkpoints, model, batch.groups)
    if engine != "vectorised":
        key["engine"] = engine
    run = _load_complete(folder, exp, key, model)
    if run is not None:
        return run
    made = not folder.exists()
    try:
        with folder_lock(folder):
            run = _load_complete(folder, exp, key, model, warn=True)  # somebody may have finished it meanwhile
            if run is None:
                return _train(folder, batch, key, engine, str(device), progress, save_seconds)
            return run
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _load_complete(
    folder: Path, exp: Experiment, key: dict[str, str], model: Model | nn.Module | None, *, warn: bool = False
) -> TrainingRun | EnsembleRun | None:
    """The run, if it is complete and whole; None if there is something to train. StoreError if it is another one."""
    if not claim.is_claimed(folder, key) or not is_complete(folder):
        return None
    try:
        known = manifest.load(folder)
        wrong = {name: error for name, error in known.problems().items() if not name.startswith("certificates/")}
        for error in wrong.values():
            if not isinstance(error, DamagedFileError):
                raise error  # it cannot be read now, and may be good
        if wrong:
            raise DamagedFileError("; ".join([str(error) for error in wrong.values()][:5]))
        run = load_run(folder, exp, model=model)
    except DamagedFileError as error:
        if warn:
            warnings.warn(f"{error}. The run is trained again, to make it whole", stacklevel=4)
        return None
    settings = exp.to_yaml()
    if digest(settings.encode()) not in known.digests["settings.yaml"]:  # its smoothing is another
        with folder_lock(folder, wait=60.0):
            manifest.load(folder).restore({"settings.yaml": settings})
    if (folder / PLACE).exists():  # the process was killed after its last word
        rmtree(folder / PLACE, ignore_errors=True)
    return run


def _train(
    folder: Path,
    batch: RunBatch,
    key: dict[str, str],
    engine: EngineName,
    device: str,
    progress: bool,
    save_seconds: float,
) -> TrainingRun | EnsembleRun:
    for place in (folder, folder / PLACE, folder / "checkpoints"):
        if place.exists():
            remove_stale(place, 0.0)  # nobody else writes here: they are of a training that was killed
    fresh = not (folder / claim.NAME).exists() and not is_complete(folder)
    if fresh:
        write_atomic(folder / "settings.yaml", batch.experiments[0].to_yaml())
        write_atomic(folder / claim.NAME, claim.dumps(key))
    here = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device}
    state = None if is_complete(folder) else load_state(folder / PLACE, here)
    if state is None:
        state = batch.start()
    saved = time.monotonic()
    rounds = batch.rounds(state, device, engine, progress)
    try:
        for state in rounds:
            if time.monotonic() - saved > save_seconds:
                save_state(folder / PLACE, state, here)
                saved = time.monotonic()
    except BaseException:  # Ctrl-C above all: keep what was done, then let it through
        if state.round:
            save_state(folder / PLACE, state, here)
        elif fresh:
            for name in ("settings.yaml", claim.NAME):
                (folder / name).unlink(missing_ok=True)
        raise
    run = batch.finish_ensemble(state) if batch.groups else batch.finish(state)[0]
    _write_whole(folder, {**run_files(run), claim.NAME: claim.dumps(key).encode()})
    rmtree(folder / PLACE, ignore_errors=True)
    return run


def save_state(folder: Path, state: TrainingState, here: dict[str, object]) -> None:
    """Append what the folder does not have yet of a state, and switch to it.

    Args:
        folder: resume/ of a run.
        state: What to save.
        here: On what it was computed.
    """
    known = _known(folder) or Manifest(folder, {}, {"round": 0})
    since = int(known.about["round"])
    if state.round == since:
        return
    tensors = state.to_tensors(since)
    params = f"params-{state.round:07d}.safetensors"
    chunk = f"rounds-{since + 1:07d}.npz"
    content = pack_tensors({"params": tensors.pop("params")})
    written = {params: content, chunk: _pack(tensors)}
    for name, part in written.items():
        write_atomic(folder / name, part)
    old = [name for name in known.digests if name.startswith("params-")]
    listed = {name: (digest(part),) for name, part in written.items()}
    Manifest(folder, {**known.without(old).digests, **listed}, {"round": state.round, "computed with": here}).write()
    for name in old:
        (folder / name).unlink(missing_ok=True)


def load_state(folder: Path, here: dict[str, object] | None = None) -> TrainingState | None:
    """The state that was saved last; None if there is none.

    Args:
        folder: resume/ of a run.
        here: On what training will go on; a UserWarning says if it differs.

    Raises:
        DamagedFileError: if a file is not what was written.
    """
    try:
        known = _known(folder)
        return None if known is None else _read_state(known, here)
    except DamagedFileError as error:
        raise DamagedFileError(
            f"{error}. To start from the first round, move the folder {folder} away; nothing else is lost with it"
        ) from None


def _read_state(known: Manifest, here: dict[str, object] | None) -> TrainingState:
    before = known.about.get("computed with")
    if here is not None and before != here:
        warnings.warn(
            f"{known.folder.parent}: training goes on with {here}, so far it used {before}: the bits will differ from "
            "those of a run that was not interrupted",
            stacklevel=2,
        )
    parts = [name for name in sorted(known.digests) if name.startswith("rounds-")]
    chunks = [_unpack(known.read(name), known.folder / name) for name in parts]
    try:
        (params,) = (name for name in known.digests if name.startswith("params-"))
        last = unpack_tensors(known.read(params), known.folder / params)[0]
        return TrainingState.from_tensors([{**chunk, **last} for chunk in chunks])
    except (KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, StoreError):
            raise
        raise DamagedFileError(f"{known.folder}: does not hold the state of a run ({error})") from None


def _known(folder: Path) -> Manifest | None:
    """The manifest of saved states; None if there is none yet."""
    if not (folder / manifest.NAME).exists():
        return None
    found = manifest.load(folder)
    if not isinstance(found.about.get("round"), int):
        raise DamagedFileError(
            f"{folder / manifest.NAME}: got round {found.about.get('round')!r}, expected the number of a round"
        )
    return found


def _pack(tensors: dict[str, Tensor]) -> bytes:
    """Tensors as a compressed npz: what is alike for all clients takes no room."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: tensor.numpy() for name, tensor in tensors.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpack(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DamagedFileError(f"{path}: holds no rounds of a run ({error})") from None


def _write_whole(folder: Path, files: dict[str, bytes]) -> None:
    """Write the files of a complete run; if its manifest is damaged, write another."""
    try:
        write_run(folder, files)
    except DamagedFileError:
        (folder / manifest.NAME).unlink()
        write_run(folder, files)

"""Training an ensemble in a folder: it starts, goes on where it stopped, to the same bits, or is found complete.

settings.yaml           the experiment
training.json           digests of all that the training depends on, the groups among it
resume/                 the models of all groups and what happened, up to the last round that was saved
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from crfl.engines import EngineName
from crfl.files import write_atomic
from crfl.models.base import Model
from crfl.progress import bar
from crfl.run_batch import RunBatch
from crfl.runs import claim
from crfl.runs.lock import folder_lock
from crfl.runs.resume import PLACE, SAVE_SECONDS, load_state, save_state
from crfl.state import TrainingState


def train_groups_in(
    folder: str | Path,
    batch: RunBatch,
    *,
    model: Model | nn.Module | None = None,
    engine: EngineName = "vectorised",
    device: str | torch.device = "cpu",
    progress: bool = False,
    save_seconds: float = SAVE_SECONDS,
) -> TrainingState:
    """Train a batch of groups in a folder; what `crfl.train_ensemble(resume_dir=...)` does.

    Args:
        folder: Where to; made if need be, and left out if training fails in the first round.
        batch: What to train.
        model: The module that it trains, if not softmax regression.
        engine: What trains.
        device: Where to train.
        progress: Whether to show a bar.
        save_seconds: Time between two saves.

    Returns:
        The state after the last round, equal to the last bit to one of a training without interruption on the same
        machine with the same versions and number of threads. A UserWarning says if they are others than before.

    Raises:
        StoreError: if the folder holds another training.
        FolderBusyError: if another process trains there.
    """
    folder = Path(folder)
    key = claim.training_key(batch.experiments[0], batch.data, model=model, groups=batch.groups)
    if engine != "vectorised":
        key["engine"] = engine
    if claim.is_claimed(folder, key):
        state = load_state(folder / PLACE)
        if state is not None and state.round == batch.num_rounds:
            return state
    made = not folder.exists()
    try:
        with folder_lock(folder):
            return _train(folder, batch, key, engine, str(device), progress, save_seconds)
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _train(
    folder: Path,
    batch: RunBatch,
    key: dict[str, str],
    engine: EngineName,
    device: str,
    progress: bool,
    save_seconds: float,
) -> TrainingState:
    fresh = not claim.is_claimed(folder, key)
    if fresh:
        write_atomic(folder / "settings.yaml", batch.experiments[0].to_yaml())
        write_atomic(folder / claim.NAME, claim.dumps(key))
    here = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device}
    state = load_state(folder / PLACE, here) or batch.start()
    saved = time.monotonic()
    left = batch.rounds(state, device, engine)
    rounds = bar(left, initial=state.round, total=batch.num_rounds, desc="training", unit="round", shown=progress)
    try:
        for state in rounds:
            if time.monotonic() - saved > save_seconds:
                save_state(folder / PLACE, state, here)
                saved = time.monotonic()
    finally:  # also after Ctrl-C: what was done is kept
        if state.round:
            save_state(folder / PLACE, state, here)
        elif fresh:
            for name in ("settings.yaml", claim.NAME):
                (folder / name).unlink(missing_ok=True)
    return state

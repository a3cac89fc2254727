"""Training that stops and goes on: the state as tensors, and back."""

import warnings

import numpy as np
import pytest
import torch

from crfl.errors import InvalidUpdateWarning, TrainingError
from crfl.run_batch import RunBatch
from crfl.state import TrainingState
from tests.federations import images, small_settings

SIZES = [9, 20, 31, 16, 12]
EXP = small_settings(
    SIZES,
    {
        "server.rounds": 7,
        "attack.clients": 2,
        "attack.round": [2, 5],
        "attack.trigger": [[0, 0], [5, 5]],
    },
)


@pytest.fixture(scope="module")
def data():
    return images(SIZES)


def trained(batch, state=None, engine="vectorised"):
    """The states after each round, from the start or from a state."""
    return list(batch.rounds(state or batch.start(), engine=engine))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"local.precision": "float32"},
        {"server.participation": 0.6, "server.aggregation": "weighted_mean"},
        {"server.update_clip": 0.1, "server.evaluate_every": 3},
        {"attack.update": "nan"},
        {"server.aggregation": "median", "attack.update": "sign_flip"},
        {"attack.round": None},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
@pytest.mark.parametrize("engine", ["vectorised", "reference"])
@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
def test_what_goes_on_from_files_is_what_never_stopped_to_the_bit(data, changes, engine):
    """Several parts, each what came after the one before, among them one without a new round."""
    experiments = [EXP.override(changes), EXP.override({**changes, "attack.scale": 2.0, "server.noise": 0.05})]
    batch = RunBatch.of(experiments, data, [False, True], checkpoints=[3, 4, 6])
    states = trained(batch, engine=engine)
    whole = batch.finish(states[-1])
    parts, done = [], 0
    for stop in (2, 3, 3, 6):
        resumed = (
            trained(batch, TrainingState.from_tensors(parts), engine)[stop - done - 1] if parts else states[stop - 1]
        )
        resumed = TrainingState.from_tensors(parts) if stop == done else resumed
        parts.append({name: tensor.clone() for name, tensor in resumed.to_tensors(since=done).items()})
        done = stop
    for run, expected in zip(
        batch.finish(trained(batch, TrainingState.from_tensors(parts), engine)[-1]), whole, strict=True
    ):
        assert torch.equal(run.params, expected.params)
        assert run.record == expected.record
        assert run.checkpoints.keys() == expected.checkpoints.keys() == {3, 4, 6}
        assert all(torch.equal(run.checkpoints[t], expected.checkpoints[t]) for t in run.checkpoints)
        assert run.columns.keys() == expected.columns.keys()
        for name, column in run.columns.items():
            np.testing.assert_array_equal(column, expected.columns[name])


def test_the_tensors_of_a_file_share_no_memory(data):
    batch = RunBatch.of([EXP], data, checkpoints=[7])
    tensors = trained(batch)[-1].to_tensors()
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)
    assert all(tensor.is_contiguous() for tensor in tensors.values())


def test_weights_that_stay_are_written_once(data):
    """Else the file of a run of ten thousand clients would hold nothing but weights."""
    state = trained(RunBatch.of([EXP], data))[-1]
    assert sum(name.startswith("weights") for name in state.to_tensors()) == 1


def test_who_was_dropped_is_told_once_also_after_an_interruption(data):
    batch = RunBatch.of([EXP.override({"attack.update": "nan"})], data)
    with pytest.warns(InvalidUpdateWarning, match=r"round 2: .*client 0 \(number 0\): not finite") as caught:
        states = trained(batch)
    assert len(caught) == 1  # not again in round 5
    resumed = TrainingState.from_tensors([states[2].to_tensors()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert batch.finish(trained(batch, resumed)[-1])[0].record == batch.finish(states[-1])[0].record


def test_a_round_without_any_update_fails_and_the_rounds_before_stand(data):
    batch = RunBatch.of([EXP.override({"attack.clients": 5, "attack.round": 4, "attack.update": "nan"})], data)
    done = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the error says it all
        with pytest.raises(TrainingError, match=r"round 4: no update is left to aggregate, 5 of 5 clients"):
            done.extend(state.round for state in batch.rounds(batch.start()))
    rounds = batch.rounds(batch.start())
    assert [next(rounds).round for _ in range(3)] == [1, 2, 3]


def test_what_is_no_state_is_a_key_error():
    for parts in ([], [{}], [{"params": torch.zeros(1, 3), "loss": torch.zeros(1, 1)}]):
        with pytest.raises(KeyError):
            TrainingState.from_tensors(parts)

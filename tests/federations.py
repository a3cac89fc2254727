"""Small federations to train on, and ways to train."""

import numpy as np
import pytest
import torch

from crfl.algorithm import training_rounds
from crfl.config import Experiment
from crfl.data.federated import FederatedData, Split
from crfl.engines.vectorised.engine import VectorisedEngine
from crfl.evaluation import Evaluation
from crfl.run_batch import RunBatch

CLASSES = 3
SIDE = 6


def small_settings(sizes, changes):
    """Settings of clients of so many samples, in batches of 8."""
    own = {"data.name": "custom", "data.clients": len(sizes), "local.batch_size": 8}
    return Experiment().override(own | changes)


def images(sizes, seed=0):
    """Clients of so many images of 6 x 6 bytes, and 20 test images."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (sum(sizes) + 5, SIDE * SIDE), dtype=torch.uint8, generator=generator)
    test = torch.randint(0, 256, (20, SIDE * SIDE), generator=generator) / 255
    return _federation(x, sizes, Split(test, _labels(20, generator)), generator, scale=1 / 255)


def floats(sizes, seed=0):
    """Clients of so many samples of 36 numbers in [0, 1], of which each client lacks about half."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(sum(sizes) + 5, SIDE * SIDE, generator=generator)
    has = torch.rand(len(sizes), SIDE * SIDE, generator=generator) < 0.5
    has[:, 7] = False  # a feature that nobody has
    x[: sum(sizes)] *= has.repeat_interleave(torch.tensor(sizes), dim=0)
    test = torch.rand(20, SIDE * SIDE, generator=generator)
    return _federation(x, sizes, Split(test, _labels(20, generator)), generator, shuffled=False)


def _federation(x, sizes, test, generator, scale=1.0, shuffled=True):
    rows = torch.randperm(len(x), generator=generator) if shuffled else torch.arange(len(x))
    shards = rows[: sum(sizes)].split(list(sizes))  # five rows are nobody's
    return FederatedData(
        "custom",
        x,
        _labels(len(x), generator),
        shards,
        test,
        CLASSES,
        scale,
        input_shape=(SIDE, SIDE),
        domain=(0.0, 1.0),
    )


def _labels(count, generator):
    return torch.randint(0, CLASSES, (count,), generator=generator)


def train_in_chunks(experiments, data, chunk_bytes, benign=None, model=None, groups=None):
    """The runs, trained with so much memory for the clients that train together."""
    batch = RunBatch.of(experiments, data, benign, model, groups=groups)
    engine = VectorisedEngine(batch.model, data, batch.local, batch.seed, chunk_bytes=chunk_bytes)
    *_, last = training_rounds(batch, batch.start(), engine, Evaluation(batch.model, data, batch.experiments))
    return batch.finish(last)


def assert_same_run(found, expected, atol, weights=True):
    """The same models and record, up to rounding. `weights`: compare also what rounding may decide between ties."""
    torch.testing.assert_close(found.params, expected.params, rtol=0, atol=atol)
    for name in found.columns:
        if name != "accuracy" and name != "attack_success_rate":  # which a sample at the border decides
            assert found.columns[name] == pytest.approx(
                expected.columns[name], rel=10 * atol, abs=10 * atol, nan_ok=True
            )
    assert len(found.record.rounds) == len(expected.record.rounds)
    for ours, theirs in zip(found.record.rounds, expected.record.rounds, strict=True):
        assert ours.dropped == theirs.dropped
        assert [a.client for a in ours.attackers] == [a.client for a in theirs.attackers]
        if weights:
            assert ours.weights == pytest.approx(theirs.weights, rel=1e-4, abs=atol)
        for mine, other in zip(ours.attackers, theirs.attackers, strict=True):
            assert mine.magnitude == other.magnitude
            assert (mine.update_norm is None) == (other.update_norm is None)
            if other.update_norm is not None:
                assert mine.update_norm == pytest.approx(other.update_norm, rel=10 * atol, abs=10 * atol)
        if ours.update_norms is not None:
            assert np.array(ours.update_norms) == pytest.approx(
                np.array(theirs.update_norms), rel=10 * atol, abs=10 * atol
            )

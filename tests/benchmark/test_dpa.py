"""Deep partition aggregation: a sample spoils one vote, and what is certified stands under attack."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from crfl.benchmark.methods import dpa
from crfl.benchmark.union import flip_labels, norm_bound, union
from crfl.errors import CrflError
from tests.benchmark.tasks import assert_votes_stand, replaced, small_task


def test_partitions_hold_every_sample_once():
    data = small_task().data
    parts = dpa.deal_samples(data, 7, seed=3)
    assert torch.equal(torch.cat(parts.shards).sort().values, torch.cat(data.shards).sort().values)
    assert set(parts.sizes) <= {600 // 7, 600 // 7 + 1}
    assert not torch.equal(parts.shards[0], dpa.deal_samples(data, 7, seed=4).shards[0])


def test_a_replaced_sample_changes_one_model():
    """To the last bit the others stay as they are, whatever the samples become."""
    data = small_task().data
    rows = torch.randperm(600)[:5]
    before, after = (dpa.train_partitions(d, 12, seed=0) for d in (data, replaced(data, rows)))
    changed = torch.nonzero((before.params != after.params).any(dim=1)).flatten()
    owners = {p for p, shard in enumerate(dpa.deal_samples(data, 12, 0).shards) for r in rows if r in shard}
    assert {int(before.groups[group][0]) for group in changed} == owners


def test_what_is_certified_stands():
    outcome = assert_votes_stand(dpa.ENTRIES)
    assert outcome.models_trained == 20


def test_the_number_is_the_papers():
    """Theorem 1 of the paper: (n_c - max_b (n_b + [b < c])) / 2 rounded down, for the class c of most votes."""
    task = small_task(samples=1000, spread=1.0)
    outcome = dpa.ENTRIES[0].run(task)
    votes = dpa.trained(task, dpa.CHOICE.of(task.data_name))[0].votes(task.data.test)
    for row, label, strength in zip(votes, outcome.prediction, outcome.strength, strict=True):
        counts = np.bincount(row, minlength=3)
        assert counts[label] == counts.max()
        assert strength == (counts[label] - max(counts[b] + (b < label) for b in range(3) if b != label)) // 2
    assert len(set(outcome.strength)) > 3


def test_flips_change_labels_alone():
    data = small_task().data
    for count in (0, 3, 300):
        flipped = flip_labels(data, count)
        assert int((flipped.y != data.y).sum()) == count
        assert flipped.x is data.x
    with pytest.raises(CrflError, match="count"):
        flip_labels(data, 601)


def test_flips_hurt_more_than_random_ones():
    task = small_task(samples=1000, spread=0.6)

    def wrong(data):
        x, y = union(data)
        weights = np.linalg.lstsq(x, np.eye(3)[y], rcond=None)[0]
        return float(np.mean((task.data.test.x.double().numpy() @ weights).argmax(axis=1) != task.data.test.y.numpy()))

    random = []
    for seed in range(10):
        rows = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:100]
        y = task.data.y.clone()
        y[rows] = (y[rows] + 1) % 3
        random.append(wrong(replace(task.data, y=y)))
    assert wrong(flip_labels(task.data, 100)) > max(random)


def test_step_needs_a_bound():
    data = small_task().data
    assert norm_bound(data) == pytest.approx(6**0.5)
    with pytest.raises(CrflError, match=r"features\.norm"):
        dpa.train_partitions(replace(data, domain=None), 3, seed=0)

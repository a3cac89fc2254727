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


def test_flips_change_labels_alone():
    data = small_task().data
    for count in (0, 3, 300, 10_000):
        flipped = flip_labels(data, count)
        changed = int((flipped.y != data.y).sum())
        sizes = np.bincount(union(data)[1])
        assert changed == count if count <= sizes.min() else changed <= np.sort(sizes)[1:].sum()
        assert flipped.x is data.x


def test_step_needs_a_bound():
    data = small_task().data
    assert norm_bound(data) == pytest.approx(6**0.5)
    with pytest.raises(CrflError, match=r"features\.norm"):
        dpa.train_partitions(replace(data, domain=None), 3, seed=0)

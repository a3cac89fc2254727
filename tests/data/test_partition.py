"""Partitions: who owns which rows."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crfl.data.partition import dirichlet, iid, natural
from crfl.errors import DataError
from crfl.rng import stream


@given(st.integers(1, 200), st.data(), st.integers(0, 5))
def test_iid_deals_equal_disjoint_shards_and_drops_only_the_remainder(samples, data, seed):
    clients = data.draw(st.integers(1, samples))
    shards = iid(samples, clients, stream(seed, "partition"))
    rows = torch.cat(shards)
    assert [len(s) for s in shards] == [samples // clients] * clients
    assert len(rows.unique()) == len(rows) == samples - samples % clients
    assert int(rows.min()) >= 0
    assert int(rows.max()) < samples


def test_iid_depends_on_the_seed_alone_and_mixes():
    a, b, c = (iid(1000, 4, stream(seed, "partition")) for seed in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0], c[0])
    assert abs(float(a[0].double().mean()) - 499.5) < 60  # 3.3 standard errors of the mean of 250 rows


@given(st.lists(st.integers(0, 4), min_size=1, max_size=120), st.data(), st.floats(1e-4, 1e4))
def test_dirichlet_gives_every_sample_one_owner(labels, data, alpha):
    clients = data.draw(st.integers(1, len(labels)))
    shards = dirichlet(torch.tensor(labels), clients, alpha, stream(0, "partition"))
    assert len(shards) == clients
    assert torch.cat(shards).sort().values.tolist() == list(range(len(labels)))
    assert all(torch.equal(rows, rows.sort().values) for rows in shards)


def test_dirichlet_concentration():
    y = torch.arange(10).repeat(1000)
    spread = {}
    for alpha in (0.01, 100.0):
        shards = dirichlet(y, 5, alpha, stream(3, "partition"))
        counts = np.stack([np.bincount(y[rows], minlength=10) for rows in shards])
        spread[alpha] = counts.max(axis=0) / counts.sum(axis=0)  # largest share of each label
    assert spread[0.01].mean() > 0.9  # nearly every label lives with one client
    assert spread[100.0].max() < 0.35  # nearly a fifth each


def test_dirichlet_shares_have_the_right_mean_and_variance():
    clients, alpha = 4, 0.5
    y = torch.zeros(2000, dtype=torch.int64)
    shares = np.array([[len(s) / 2000 for s in dirichlet(y, clients, alpha, stream(i, "d"))] for i in range(400)])
    variance = (clients - 1) / (clients**2 * (clients * alpha + 1))
    assert np.abs(shares.mean(axis=0) - 1 / clients).max() < 4 * np.sqrt(variance / 400)
    assert np.abs(shares.var(axis=0) / variance - 1).max() < 0.3  # 4 standard errors of a variance are about 0.28


def test_natural_partition_follows_the_keys():
    keys = ["b", "a", "c", "a", "b", "a"]
    assert [s.tolist() for s in natural(keys)] == [[1, 3, 5], [0, 4], [2]]
    assert [s.tolist() for s in natural(keys, ["c", "a"])] == [[2], [1, 3, 5]]
    assert [s.tolist() for s in natural(np.array([7, 3, 7]))] == [[1], [0, 2]]


def test_partitions_refuse_what_cannot_be_dealt_out():
    with pytest.raises(DataError, match=r"data\.clients: got 11, expected 1 to .* 10"):
        iid(10, 11, stream(0, "partition"))
    with pytest.raises(DataError, match=r"data\.clients: got 0"):
        dirichlet(torch.zeros(3, dtype=torch.int64), 0, 1.0, stream(0, "partition"))
    with pytest.raises(DataError, match="got client 'z', expected a key that a sample has"):
        natural(["a"], ["a", "z"])
    with pytest.raises(DataError, match="every key once"):
        natural(["a"], ["a", "a"])


def test_dirichlet_at_its_extremes():
    y = np.repeat(np.arange(3), 100)  # NumPy's labels do, too
    for alpha in (1e20, 1e300, 1e308):
        shards = dirichlet(y, 4, alpha, stream(0, "partition"))
        assert all(np.bincount(y[rows]).tolist() == [25, 25, 25] for rows in shards)
    assert sum(len(rows) > 0 for rows in dirichlet(y, 40, 1e-300, stream(0, "partition"))) <= 3
    for alpha in (0, -1, np.inf, np.nan):
        with pytest.raises(DataError, match="alpha: got"):
            dirichlet(y, 4, alpha, stream(0, "partition"))


def test_what_is_no_partition():
    with pytest.raises(DataError, match="keys that cannot be sorted"):
        natural(["a", None])
    with pytest.raises(DataError, match=r"data.clients: got 2\.0"):
        iid(5, 2.0, stream(0, "partition"))

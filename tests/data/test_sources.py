"""A user's own data in the forms that it comes in, and how it is dealt out."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from crfl.data import FederatedData, dirichlet, iid
from crfl.errors import DataError
from crfl.rng import stream

RANDOM = np.random.default_rng(0)
X = RANDOM.random((90, 4), dtype=np.float32)
Y = RANDOM.integers(0, 3, 90)
TEST = X[:20], Y[:20]


def rows(data):
    return [shard.tolist() for shard in data.shards]


def test_a_number_of_clients():
    even = FederatedData.from_arrays(X, Y, *TEST, seed=5)
    assert rows(even) == [s.tolist() for s in iid(90, 30, stream(5, "partition"))]
    assert even.partition == "iid"
    uneven = FederatedData.from_arrays(X, Y, *TEST, clients=4, partition="dirichlet", dirichlet_alpha=2.0, seed=5)
    assert rows(uneven) == [s.tolist() for s in dirichlet(Y, 4, 2.0, stream(5, "partition"))]
    assert (uneven.partition, uneven.dirichlet_alpha) == ("dirichlet", 2.0)


def test_the_client_of_every_sample():
    owners = np.array(list("cab"))[np.arange(90) % 3]
    data = FederatedData.from_arrays(X, Y, *TEST, clients=owners)
    assert data.client_names == ("a", "b", "c")
    assert rows(data) == [list(range(start, 90, 3)) for start in (1, 2, 0)]
    assert data.partition == "natural"
    public = FederatedData.from_arrays(X, Y, *TEST, clients=owners, public=30, norm=9.0)
    assert [set(own) for own in rows(public)] == [set(own) - set(public.public_rows.tolist()) for own in rows(data)]
    assert [own == sorted(own) for own in rows(public)] == [True] * 3
    with pytest.raises(DataError, match=r"clients: got shape .80,., expected one client for each of 90 samples"):
        FederatedData.from_arrays(X, Y, *TEST, clients=owners[:80])


@pytest.mark.parametrize(
    "options", [{"partition": "natural"}, {"partition": "fair"}, {"partition": "iid", "clients": Y}]
)
def test_partitions_that_are_none(options):
    with pytest.raises(DataError, match="partition: got"):
        FederatedData.from_arrays(X, Y, *TEST, **options)


def test_public_samples_leave_the_shards_that_are_given():
    shards = [np.arange(0, 50), np.arange(50, 90)]
    data = FederatedData.from_arrays(X, Y, *TEST, shards=shards, public=25, norm=9.0)
    public = set(data.public_rows.tolist())
    assert [set(own) for own in rows(data)] == [set(own.tolist()) - public for own in shards]
    assert len(public) == 25
    assert sum(data.sizes) == 65


def test_bytes_are_scaled_by_themselves():
    pixels = RANDOM.integers(0, 256, (90, 4), dtype=np.uint8)
    data = FederatedData.from_arrays(pixels, Y, pixels, Y, clients=3)
    assert (data.scale, data.domain, data.x.dtype) == (1 / 255, (0.0, 1.0), torch.uint8)
    np.testing.assert_allclose(data.test.x, pixels / 255, rtol=1e-6)
    counts = FederatedData.from_arrays(pixels, Y, pixels, Y, clients=3, scale=1)
    assert (counts.scale, counts.domain) == (1.0, None)
    np.testing.assert_array_equal(counts.test.x, pixels)
    assert FederatedData.from_arrays(pixels, Y, pixels, Y, clients=3, domain=(-1, 2)).domain == (-1.0, 2.0)
    with pytest.raises(DataError, match="expected bytes in both or in neither, or a scale"):
        FederatedData.from_arrays(pixels, Y, pixels / 255, Y, clients=3)


def test_images_of_no_known_layout():
    with pytest.raises(DataError, match=r"x: got .* of shape \(6, 4, 5, 2\), expected numbers .* or \(n, 3, h, w\)"):
        FederatedData.from_arrays(np.zeros((6, 4, 5, 2)), Y[:6], np.zeros((6, 4, 5, 2)), Y[:6])


def test_torch_datasets():
    train, test = (TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)) for _ in range(2))
    data = FederatedData.from_dataset(train, test, clients=5)
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.y, Y)
    assert len(data.shards) == 5


class Pictures(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        from PIL import Image

        return Image.fromarray(np.full((5, 6, 3), 20 * i, dtype=np.uint8)), i % 3


class Ragged(Pictures):
    def __getitem__(self, i):
        return torch.zeros(i), 0


def test_datasets_of_pictures():
    data = FederatedData.from_dataset(Pictures(), Pictures(), clients=2)
    assert data.input_shape == (5, 6, 3)
    assert data.x.dtype == torch.uint8
    assert data.x[:, 0].tolist() == list(range(0, 240, 20))
    with pytest.raises(DataError, match=r"train: .*samples of one shape"):
        FederatedData.from_dataset(Ragged(), Ragged())


def frame():
    columns = {name: X[:, i] for i, name in enumerate("pqrs")}
    words = np.array(["maybe", "no", "yes"])
    return pd.DataFrame({**columns, "answer": words[Y], "site": [f"site {i % 4}" for i in range(90)]})


def test_frames():
    table = frame()
    data = FederatedData.from_frame(table.iloc[:70], table.iloc[70:], label="answer", client="site")
    assert data.client_names == tuple(f"site {i}" for i in range(4))
    assert data.class_names == ("maybe", "no", "yes")
    assert data.feature_names == tuple("pqrs")
    np.testing.assert_array_equal(data.test.x, X[70:])
    np.testing.assert_array_equal(data.test.y, Y[70:])
    shared = FederatedData.from_frame(table.drop(columns="site"), 0.1, label="answer", clients=3, seed=2)
    assert (len(shared.test), len(shared.x)) == (9, 81)
    both = np.concatenate([shared.x, shared.test.x])
    np.testing.assert_array_equal(np.sort(both[:, 0]), np.sort(X[:, 0]))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"label": "price"}, "column 'price' is missing, expected one of: p, q, r, s, answer, site"),
        ({}, {"label": "answer", "client": "state"}, "column 'state' is missing"),
        ({}, {"label": "answer"}, "column 'site': got (str|object), expected numbers; encode it, or leave it out"),
        ({"p": np.nan}, {"label": "answer", "client": "site"}, "x: got nan at row 0, feature 0, expected finite"),
        ({}, {"label": "answer", "test": 1.5}, "test: got 1.5, expected a share between 0 and 1"),
    ],
)
def test_frames_that_do_not_fit(change, options, message):
    with pytest.raises(DataError, match=message):
        FederatedData.from_frame(frame().assign(**change), **options)


def test_files(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y, x_test=X[:9], y_test=Y[:9], clients=np.arange(90) % 7)
    data = FederatedData.from_file(tmp_path / "a.npz")
    assert (len(data.shards), len(data.test)) == (7, 9)
    frame().to_csv(tmp_path / "a.csv", index=False)
    frame().to_parquet(tmp_path / "a.parquet")
    expected = FederatedData.from_frame(frame(), label="answer", client="site").digest
    for name in ("a.csv", "a.parquet"):
        assert FederatedData.from_file(tmp_path / name, label="answer", client="site").digest == expected
    (tmp_path / "a.txt").write_text("1")
    (tmp_path / "b.npz").write_bytes(b"nonsense")
    np.savez(tmp_path / "c.npz", x=np.array([None]), y=Y)
    for name, message in (
        ("a.txt", "got a file of kind '.txt', expected .npz, .csv or .parquet"),
        ("b.npz", "b.npz: cannot be read"),
        ("c.npz", "c.npz: cannot be read"),  # a pickle is not opened
        ("missing.csv", "missing.csv: cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            FederatedData.from_file(tmp_path / name)

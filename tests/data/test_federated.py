"""FederatedData of one's own arrays: what is kept, measured and refused."""

import copy
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from crfl.config import Experiment
from crfl.data import FederatedData, Split, check_fits, iid
from crfl.data.federated import RowSplit
from crfl.errors import DataError
from crfl.rng import stream

X = np.random.default_rng(0).random((12, 3), dtype=np.float32)
Y = np.arange(12) % 4


def make(**changes):
    arguments = {"x": X, "y": Y, "x_test": X[:5], "y_test": Y[:5], "shards": [range(0, 8), range(8, 12)]} | changes
    given = [arguments.pop(name) for name in ("x", "y", "x_test", "y_test")]
    return FederatedData.from_arrays(*given, **arguments)


def test_arrays_with_shards():
    data = make(domain=(0, 1), feature_names=["a", "b", "c"], client_names=["left", "right"])
    assert (data.num_features, data.num_classes, data.sizes) == (3, 4, (8, 4))
    assert data.clients[1].name == "right"
    np.testing.assert_array_equal(data.clients[1].x, X[8:])
    np.testing.assert_array_equal(data.clients[1].y, Y[8:])
    np.testing.assert_array_equal(data.test.x, X[:5])
    assert data.x.data_ptr() == X.ctypes.data  # float32 is not copied
    largest = np.linalg.norm(X.astype(np.float64), axis=1).max()
    assert math.isclose(data.max_feature_norm, largest, rel_tol=1e-12)


def test_arrays_per_client_torch_or_numpy_and_a_partition():
    parts = FederatedData.from_arrays([X[:8], torch.from_numpy(X[8:])], [Y[:8], torch.from_numpy(Y[8:])], X, Y)
    np.testing.assert_array_equal(parts.x, X)
    assert [rows.tolist() for rows in parts.shards] == [list(range(8)), list(range(8, 12))]
    dealt = make(x=torch.from_numpy(X).double(), shards=iid(12, 3, stream(0, "partition")))
    assert dealt.sizes == (4, 4, 4)
    assert dealt.x.dtype == torch.float32


def test_images_stay_bytes_and_carry_their_shape():
    pixels = np.random.default_rng(1).integers(0, 256, (6, 4, 5), dtype=np.uint8)
    for x, y, shards in ((pixels, Y[:6], [[0, 1, 2], [3, 4, 5]]), ([pixels[:3], pixels[3:]], [Y[:3], Y[3:6]], None)):
        data = FederatedData.from_arrays(x, y, pixels, Y[:6], shards=shards, scale=1 / 255, domain=(0, 1))
        assert data.x.dtype == torch.uint8
        assert data.input_shape == (4, 5)
        np.testing.assert_allclose(data.clients[1].x, pixels[3:].reshape(3, 20) / 255, rtol=1e-6)
        np.testing.assert_allclose(data.test.x, pixels.reshape(6, 20) / 255, rtol=1e-6)


def test_a_split_of_rows_is_the_split_of_a_copy():
    x, rows = torch.from_numpy(X), torch.tensor([1, 4, 5, 9, 11])
    lazy, plain = RowSplit.of(x, rows, torch.from_numpy(Y)[rows]), Split(x[rows], torch.from_numpy(Y)[rows])
    data = make(x_test=plain.x, y_test=plain.y)
    assert replace(data, test=lazy).digest == data.digest
    for split in (lazy, plain):
        blocks = list(split.blocks(2))
        assert [len(block) for block in blocks] == [2, 2, 1]
        assert torch.equal(torch.cat([block.x for block in blocks]), plain.x)
        assert torch.equal(torch.cat([block.y for block in blocks]), plain.y)
        assert split.to("cpu") is split
        assert split.to("meta").x.shape == (5, 3)
    fresh = RowSplit.of(x, rows, plain.y)
    assert len(fresh) == 5
    assert list(fresh.blocks(5))
    assert "x" not in vars(fresh)
    assert torch.equal(fresh.x, plain.x)
    assert fresh.x is fresh.x
    fresh.x[0] = 7.0  # blocks show what x is
    assert float(next(fresh.blocks(5)).x[0, 0]) == 7.0
    fresh = RowSplit.of(x, rows, plain.y)
    for same in (pickle.loads(pickle.dumps(fresh)), copy.deepcopy(fresh), fresh.take(range(5))):
        assert type(same) is Split
        assert torch.equal(same.x, plain.x)
        assert torch.equal(same.y, plain.y)
    changed = replace(fresh, y=plain.y + 1)
    for split in (
        changed,
        replace(changed, x=changed.x),
        changed.take(range(5)),
        *changed.blocks(5),
        changed.to("cpu"),
    ):
        assert torch.equal(split.x, plain.x)
        assert torch.equal(split.y, plain.y + 1)


def test_images_of_different_shapes_are_refused():
    images = [np.zeros((4, 2, 3), np.uint8), np.zeros((4, 3, 2), np.uint8)]
    y = [np.arange(4) % 2] * 2
    with pytest.raises(DataError, match=r"x\[1\]: got images of shape \(3, 2\), expected \(2, 3\)"):
        FederatedData.from_arrays(images, y, images[0], y[0])
    with pytest.raises(DataError, match=r"x_test: got images of shape \(1, 6\), expected \(2, 3\)"):
        FederatedData.from_arrays([images[0]] * 2, y, images[0].reshape(4, 1, 6), y[0])
    assert FederatedData.from_arrays([images[0]] * 2, y, images[0].reshape(4, 6), y[0]).input_shape == (2, 3)


@pytest.mark.parametrize("high", [0.1, 0.3, 0.001, 1.0, 7.0])
def test_features_at_the_bounds_of_the_domain(high):
    """As float64, and rounded to float32, which may be beyond a bound that float32 does not have."""
    data = make(x=np.full((12, 3), high), x_test=np.full((5, 3), -high), domain=(-high, high))
    assert data.domain[0] <= -high
    assert high <= data.domain[1] <= high * (1 + 1e-7)
    assert float(data.x.max()) <= data.domain[1]


def test_numbers_may_be_tensors():
    data = make(scale=torch.tensor(0.5), num_classes=torch.tensor(5))
    assert (data.scale, data.num_classes) == (0.5, 5)
    with pytest.raises(DataError, match="scale: got True"):
        make(scale=True)


def test_rows_of_any_integer_type():
    for dtype in (np.uint8, np.uint16, np.int32, np.uint64):
        data = make(shards=[np.arange(8, dtype=dtype), np.arange(8, 12, dtype=dtype)])
        assert [rows.tolist() for rows in data.shards] == [list(range(8)), list(range(8, 12))]


def test_label_counts():
    counts = make(class_names=list("wxyz")).label_counts()
    assert counts.loc["client 0"].to_dict() == {"w": 2, "x": 2, "y": 2, "z": 2}
    assert counts.loc["client 1"].tolist() == [1, 1, 1, 1]
    assert counts.to_numpy().sum() == 12


def changed(array, index, value):
    array = array.astype(np.float64) if array.dtype == np.float32 else array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": changed(X, (3, 2), np.nan)}, "x: got nan at row 3, feature 2"),
        ({"x_test": changed(X[:5], (1, 0), 1e39)}, "test.x: got inf at row 1, feature 0"),
        ({"x": changed(X, (7, 1), 1.5), "domain": (0, 1)}, "x: got 1.5 at row 7, feature 1, expected 0.0 to 1.0"),
        ({"x_test": changed(X[:5], (4, 2), -0.5), "domain": (0, 1)}, "test.x: got -0.5 at row 4, feature 2"),
        ({"domain": (1, 0)}, "domain: got"),
        ({"domain": (0, math.nan)}, "domain: got"),
        ({"scale": math.nan}, "scale: got nan"),
        ({"y": changed(Y, 2, -1)}, "y: got label -1 at row 2"),
        ({"num_classes": 3}, "y: got label 3 at row 3, expected 0 to 2"),
        ({"y": Y.astype(float)}, "y: got torch.float64"),
        ({"y": Y[:11]}, "expected 12 integers"),
        ({"x_test": X[:5, :2]}, "x_test: got 2 features, expected 3"),
        ({"x": X[:, 0]}, r"x: got torch.float32 of shape \(12,\)"),
        ({"x": np.full((12, 3), "a")}, "x: .*expected a NumPy array or torch tensor"),
        ({"shards": [range(0, 8), range(8, 13)]}, r"shards\[1\]: got row 12, expected 0 to 11"),
        ({"shards": [range(0, 9), range(8, 12)]}, "shards: got row 8 2 times"),
        ({"shards": [range(0, 8), []]}, r"shards\[1\]"),
        ({"shards": []}, "shards: got no clients"),
        ({"shards": None}, "data.clients: got 30, expected 1 to the number of training samples = 12"),
        ({"client_names": ["a"]}, "client_names: got 1"),
        ({"class_names": ["a", "a", "b", "c"]}, "class_names: got 4 .3 different"),
        ({"feature_names": ["a"]}, "feature_names"),
        *(({"input_shape": shape}, "input_shape") for shape in ((2, 2), (-1, -3), (1.0, 3.0), (3,))),
        ({"y": changed(Y, 2, 2**31 - 1)}, "y: got label 2147483647, expected below 65536 unless num_classes"),
        *(({"num_classes": n}, "num_classes: got") for n in (0, -1, 2.5, "3", True)),
        *(({"scale": scale}, "scale: got") for scale in ("1", 0, -1.0, math.inf)),
        ({"scale": 1e39}, "x: got 9.7.*e.38 at row 4, feature 2, expected finite numbers"),
        *(({"domain": domain}, "domain: got") for domain in ((0,), (0, 1, 2), 5, "ab", (0, math.inf))),
        ({"x": np.ma.masked_array(X, mask=X > 0.5)}, "x: got masked values"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        make(**changes)


def test_data_must_fit_the_settings():
    exp = Experiment(local={"batch_size": 4}, data={"name": "custom", "clients": 2})
    check_fits(exp, make())
    with pytest.raises(DataError, match=r"client 1 has 4 training samples.* lower local.batch_size.*data.clients"):
        check_fits(exp.override({"local.batch_size": 5}), make())
    with pytest.raises(DataError, match=r"client 0 has 8 .*so have 1 other"):
        check_fits(exp.override({"local.batch_size": 9}), make())
    check_fits(exp.override({"local.batch_size": 9, "local.keep_last_batch": True}), make())

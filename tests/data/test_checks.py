"""FederatedData checks itself, however it is made, and quickly."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from crfl.data import FederatedData, Split
from crfl.data.splits import RowSplit
from crfl.errors import DataError

X = torch.linspace(0, 1, 36).view(12, 3)
Y = torch.arange(12) % 4
SHARDS = (torch.arange(0, 8), torch.arange(8, 12))


def make(**changes):
    arguments = {"name": "custom", "x": X, "y": Y, "shards": SHARDS, "test": Split(X[:5], Y[:5]), "num_classes": 4}
    return FederatedData(**arguments | changes)


def with_value(value, row=3, column=2):
    x = X.clone()
    x[row, column] = value
    return x


CASES = [
    (
        {"x": with_value(1.5), "domain": (0, 1)},
        "x: got 1.5 at row 3, feature 2, expected 0.0 to 1.0, the declared domain",
    ),
    ({"test": Split(with_value(-0.25), Y), "domain": (0, 1)}, r"test.x: got -0.25 at row 3, feature 2"),
    ({"domain": (0.1, 1)}, "x: got 0.0 at row 0, feature 0, expected 0.1"),
    ({"scale": 2.0, "domain": (0, 1)}, "x: got 2.0 at row 11, feature 2, expected 0.0 to 1.0"),
    ({"domain": (1, 0)}, "domain: got"),
    ({"domain": (0, math.nan)}, "domain: got"),
    ({"x": with_value(math.nan)}, "x: got nan at row 3, feature 2, expected finite numbers"),
    ({"x": with_value(-math.inf)}, "x: got -inf at row 3, feature 2, expected finite numbers"),
    ({"test": Split(with_value(math.inf), Y)}, "test.x: got inf at row 3, feature 2"),
    ({"scale": 1e39}, r"x: got 1e\+39 at row 11, feature 2, expected finite numbers"),
    ({"scale": 0.0}, "scale: got 0.0, expected a positive number"),
    ({"scale": math.nan}, "scale: got nan"),
    (
        {"x": X.double()},
        r"x: got torch.float64 of shape \(12, 3\), expected a tensor .samples, features. of uint8 or float32",
    ),
    ({"x": X.numpy()}, "x: got ndarray, expected a tensor"),
    ({"x": X[:, :0]}, "x: got torch.float32 of shape"),
    ({"test": Split(X[:5].double(), Y[:5])}, "test.x: got torch.float64"),
    ({"test": Split(X[:5, :2], Y[:5])}, "test.x: got 2 features, expected 3"),
    ({"test": (X, Y)}, "test: got tuple, expected a Split"),
    ({"test": Split(X, Y[:5])}, "test.y: got torch.int64 of shape .5,., expected 12 labels"),
    ({"test": RowSplit.of(X, torch.tensor([3, 12]), Y[:2])}, "test.rows: got rows 3 to 12, expected 0 to 11"),
    ({"y": Y.int()}, "y: got torch.int32"),
    ({"y": Y[:-1]}, "y: got torch.int64 of shape .11,., expected 12 labels"),
    ({"num_classes": 3}, "y: got label 3 at row 3, expected 0 to 2"),
    ({"y": Y - 1}, "y: got label -1 at row 0, expected 0 to 3"),
    ({"num_classes": 0}, "num_classes: got 0"),
    ({"shards": ()}, "shards: got no clients"),
    ({"shards": (torch.arange(0),)}, "shards: got clients without any sample"),
    ({"shards": ([0, 1],)}, r"shards\[0\]: got list, expected row numbers"),
    ({"shards": (SHARDS[0], torch.arange(8, 13))}, r"shards\[1\]: got row 12, expected 0 to 11"),
    ({"shards": (torch.arange(-1, 3), SHARDS[1])}, r"shards\[0\]: got row -1, expected 0 to 11"),
    ({"shards": (SHARDS[0], torch.arange(7, 12))}, "shards: got row 7 2 times"),
    ({"public_rows": torch.tensor([5])}, "public_rows: got row 5 with a client or twice"),
    ({"public_rows": torch.tensor([12])}, "public_rows: got rows 12 to 12, expected 0 to 11"),
    ({"client_names": ("a", "a")}, "client_names: got 2 .1 different., expected 2 different"),
    ({"class_names": ("a",)}, "class_names: got 1"),
    ({"feature_names": ("a",)}, "feature_names: got 1 .1 different., expected 3"),
    ({"input_shape": (2, 2)}, r"input_shape: got \(2, 2\)"),
]


@pytest.mark.parametrize(("changes", "message"), CASES, ids=[m[:40] for _, m in CASES])
def test_nothing_wrong_is_made(changes, message):
    with pytest.raises(DataError, match=message):
        make(**changes)
    with pytest.raises(DataError, match=message):
        replace(make(), **changes)


def test_a_domain_is_a_promise_about_every_input():
    """A domain that some inputs lie outside of would clamp poisoned samples by more than the trigger's magnitude."""
    data = make(domain=(0, 1))
    with pytest.raises(DataError, match=r"x: got 1.0 at row 11, feature 2, expected 0.0 to 0.5"):
        replace(data, domain=(0, 0.5))
    assert replace(data, domain=None).domain is None


def test_the_domain_is_checked_in_real_units_without_rounding():
    x = torch.tensor([[2**24 + 2.0], [0.0]])
    y, shards = torch.tensor([0, 1]), (torch.tensor([0, 1]),)
    test = Split(torch.zeros(1, 1), y[:1])
    scale = 2.0**-24
    FederatedData("custom", x, y, shards, test, 2, scale, domain=(0, 1 + 2.0**-23))
    with pytest.raises(DataError, match=r"x: got 1\.0000001"):
        FederatedData("custom", x, y, shards, test, 2, scale, domain=(0, 1))
    bytes_ = torch.tensor([[255], [0]], dtype=torch.uint8)
    assert FederatedData("custom", bytes_, y, shards, test, 2, 1 / 255, domain=(0, 1)).domain == (0.0, 1.0)


def test_clients_without_samples_may_be():
    assert make(shards=(torch.arange(0, 8), torch.arange(0))).sizes == (8, 0)
    assert make(shards=(torch.arange(0, 8), torch.arange(0))).max_feature_norm == pytest.approx(
        float(X[:8].norm(dim=1).max())
    )


def test_what_it_holds_does_not_flood_the_screen():
    data = make(shards=tuple(torch.arange(12).split(1)))
    assert repr(data) == (
        "FederatedData 'custom': 12 training samples of 12 clients, 5 test samples, 3 features, 4 classes"
    )
    assert (data == replace(data)) is False
    assert data in {data}


@pytest.mark.parametrize("how", ["given", "iid", "natural", "public"])
def test_a_hundred_thousand_clients(how):
    clients, each = 100_000, 6
    x, y = torch.rand(clients * each, 5), torch.arange(clients * each) % 3
    options = {
        "given": {"shards": list(torch.randperm(len(x)).split(each))},
        "iid": {"clients": clients},
        "natural": {"clients": np.arange(len(x)) // each},
        "public": {"clients": clients - 100, "public": 600},
    }[how]
    start = time.process_time()
    data = FederatedData.from_arrays(x, y, x[:100], y[:100], **options)
    assert set(data.sizes) == {each}
    assert time.process_time() - start < 5
    start = time.process_time()
    data.to("cpu")
    assert time.process_time() - start < 0.1

"""FederatedData: the training samples once, the client that owns each, and the test split."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from crfl.data import arrays
from crfl.devices import resolve_device
from crfl.errors import DataError

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Split:
    """Labelled samples: features `x` (m, d) float32 and labels `y` (m,) int64."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Sequence[int] | Tensor) -> Split:
        """The samples at the given rows."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return Split(self.x[index], self.y[index])

    def blocks(self, size: int) -> Iterator[Split]:
        """The samples in order, `size` at a time."""
        return map(Split, self.x.split(size), self.y.split(size))

    def to(self, device: str | torch.device) -> Split:
        """The same samples with their tensors on `device`."""
        return self if self.y.device == torch.device(device) else Split(self.x.to(device), self.y.to(device))


class RowSplit(Split):
    """The given rows of a matrix as a split: `x` is copied when it is first asked for, `blocks` copy as they go."""

    matrix: Tensor
    rows: Tensor

    @classmethod
    def of(cls, matrix: Tensor, rows: Tensor, y: Tensor) -> RowSplit:
        """`matrix` (n, d); `rows` (m,) int64; `y` (m,) int64, the labels of these rows."""
        split = cls.__new__(cls)
        vars(split).update(matrix=matrix, rows=rows, y=y)  # frozen
        return split

    @cached_property
    def x(self) -> Tensor:
        """(m, d)"""
        return self.matrix[self.rows]

    def blocks(self, size: int) -> Iterator[Split]:
        """The samples in order, `size` at a time."""
        if "x" in vars(self):
            return super().blocks(size)
        return (Split(self.matrix[rows], y) for rows, y in zip(self.rows.split(size), self.y.split(size), strict=True))

    def take(self, rows: Sequence[int] | Tensor) -> Split:
        """The samples at the given rows."""
        if "x" in vars(self):
            return super().take(rows)
        index = torch.as_tensor(rows, dtype=torch.int64)
        return Split(self.matrix[self.rows[index]], self.y[index])

    def __reduce__(self) -> tuple[type[Split], tuple[Tensor, Tensor]]:
        """Copies and pickles hold the samples, not the matrix."""
        return Split, (self.x, self.y)


@dataclass(frozen=True)
class Client:
    """One client's shard, as a copy in real units: `x` (n_i, d) float32, `y` (n_i,) int64."""

    name: str
    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class FederatedData:
    """Training samples in one matrix, dealt to clients by row number, and a test split.

    The features are `scale * x`: images stay in their bytes (scale = 1/255) and are never copied per client.
    """

    name: str
    x: Tensor
    """(n, d) uint8 or float32: stored features. Rows that no client owns are not trained on."""
    y: Tensor
    """(n,) int64: labels."""
    shards: tuple[Tensor, ...]
    """For each client the rows of `x` that it owns, (n_i,) int64."""
    test: Split
    num_classes: int
    scale: float = 1.0
    client_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    image_shape: tuple[int, int] | None = None
    """(height, width) if the features are the pixels of an image, row by row."""
    domain: tuple[float, float] | None = None
    """Declared bounds of every feature, e.g. (0, 1); poisoned samples are clamped to them."""
    notes: tuple[str, ...] = ()
    """What the loader has to say of the data, e.g. how many footer rows it skipped."""

    def __post_init__(self) -> None:
        if not self.client_names:
            object.__setattr__(self, "client_names", tuple(f"client {i}" for i in range(len(self.shards))))
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(map(str, range(self.num_classes))))
        self._check_names()

    def _check_names(self) -> None:
        for what, names, count in (
            ("client_names", self.client_names, len(self.shards)),
            ("class_names", self.class_names, self.num_classes),
            ("feature_names", self.feature_names, self.num_features if self.feature_names else 0),
        ):
            if len(names) != count or len(set(names)) < count:
                raise DataError(f"{what}: got {len(names)} ({len(set(names))} different), expected {count} different")
        sides = self.image_shape
        if sides is not None and (
            len(sides) != 2
            or not all(isinstance(n, (int, np.integer)) and n > 0 for n in sides)
            or math.prod(sides) != self.num_features
        ):
            raise DataError(f"image_shape: got {sides}, expected (height, width) of {self.num_features} pixels")

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        test_x: Any,
        test_y: Any,
        *,
        shards: Sequence[Any] | None = None,
        name: str = "custom",
        num_classes: int | None = None,
        scale: float = 1.0,
        domain: tuple[float, float] | None = None,
        client_names: Sequence[str] = (),
        class_names: Sequence[str] = (),
        feature_names: Sequence[str] = (),
        image_shape: tuple[int, int] | None = None,
    ) -> FederatedData:
        """Federated data from NumPy arrays or torch tensors.

        x, y: either a list of one array for each client, or one array each with `shards`, the rows of each client, as
        `crfl.data.iid`, `dirichlet` and `natural` deal them out. Features are (n, d), or images (n, height, width);
        labels are (n,) integers from 0. num_classes: C; default the largest label + 1. scale: the features are
        scale * x, also for the test samples, so that images can stay bytes. domain: declared bounds of every feature,
        widened to the nearest float32 numbers. Arrays of uint8 or float32 are used as they are: do not change them
        afterwards. DataError if something does not fit, among it features outside the declared domain.
        """
        if shards is None:
            x, y, shards, image_shape = _per_client(x, y, image_shape)
        train_x, shape = arrays.features(x, "x", image_shape)
        held_out, _ = arrays.features(test_x, "test_x", shape)
        train_y, held_out_y = arrays.labels(y, len(train_x), "y"), arrays.labels(test_y, len(held_out), "test_y")
        if held_out.shape[1] != train_x.shape[1]:
            raise DataError(f"test_x: got {held_out.shape[1]} features, expected {train_x.shape[1]} as in x")
        classes = arrays.number_of_classes(num_classes, train_y, held_out_y)
        domain = None if domain is None else arrays.interval(domain)
        scale = arrays.factor(scale, train_x, held_out)
        for what, features, labels in (("x", train_x, train_y), ("test_x", held_out, held_out_y)):
            arrays.check_labels(labels, classes, what.replace("x", "y"))
            if domain is not None:
                arrays.check_domain(features, scale, domain, what)
        test = Split(held_out.float() * scale if scale != 1.0 else held_out.float(), held_out_y)
        rows = arrays.row_sets(shards, len(train_x))
        names = tuple(client_names), tuple(class_names), tuple(feature_names)
        return cls(name, train_x, train_y, rows, test, classes, scale, *names, shape, domain)

    feature_map: Any = field(default=None, init=False)
    norm_bound: float | None = field(default=None, init=False)
    public_samples: int = field(default=0, init=False)

    def label_counts(self) -> DataFrame:
        """How many training samples of which label every client has: a row a client, a column a class."""
        from pandas import DataFrame  # here, because it is slow to import

        counts = [np.bincount(self.y[rows].numpy(), minlength=self.num_classes) for rows in self.shards]
        return DataFrame(np.stack(counts), index=list(self.client_names), columns=list(self.class_names))

    @property
    def num_features(self) -> int:
        """d"""
        return self.x.shape[1]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """n_i: samples of each client."""
        return tuple(len(rows) for rows in self.shards)

    @property
    def clients(self) -> tuple[Client, ...]:
        """The clients' shards as copies in real units; training reads `x` and `shards` instead."""
        return tuple(
            Client(name, self.features(rows), self.y[rows])
            for name, rows in zip(self.client_names, self.shards, strict=True)
        )

    def features(self, rows: Tensor) -> Tensor:
        """Features of the given training rows in real units, (k, d) float32."""
        return self.x[rows].float() * self.scale

    def to(self, device: str | torch.device) -> FederatedData:
        """The same data with its tensors on `device`; the shards' row numbers stay on the CPU.

        SettingsError if PyTorch cannot use the device.
        """
        device = resolve_device(device)
        return replace(self, x=self.x.to(device), y=self.y.to(device), test=self.test.to(device))

    @cached_property
    def digest(self) -> str:
        """Name of the content: equal for equal samples, shards and test split."""
        found = hashlib.blake2b(repr((self.scale, self.domain, self.num_classes)).encode(), digest_size=16)

        def add(shape: tuple[int, ...], parts: Iterable[Tensor]) -> None:
            found.update(repr(shape).encode())
            for part in parts:
                found.update(part.cpu().contiguous().numpy().data)

        for tensor in (self.x, self.y, *self.shards):
            add(tuple(tensor.shape), [tensor])
        add((len(self.test), self.num_features), (block.x for block in self.test.blocks(8192)))
        add((len(self.test),), [self.test.y])
        return found.hexdigest()

    @cached_property
    def max_feature_norm(self) -> float:
        """Largest ||x|| among the clients' training samples, in float64."""
        largest = 0.0
        for rows in self.shards:
            for block in rows.split(1024):
                largest = max(largest, float(self.x[block].double().square().sum(1).max()))
        return self.scale * math.sqrt(largest)


def _per_client(
    x: Any, y: Any, image_shape: tuple[int, int] | None
) -> tuple[Tensor, Tensor, list[Tensor], tuple[int, int] | None]:
    """One array a client -> all samples in one, the rows of each client, and the image shape if they are images."""
    if not isinstance(x, (list, tuple)) or not isinstance(y, (list, tuple)) or len(x) != len(y) or not x:
        raise DataError("x, y: expected two lists of equal length, one array for each client; or arrays and shards")
    xs = []
    for i, values in enumerate(x):
        client_x, image_shape = arrays.features(values, f"x[{i}]", image_shape)
        xs.append(client_x)
    ys = [arrays.labels(values, len(xs[i]), f"y[{i}]") for i, values in enumerate(y)]
    widths = {values.shape[1] for values in xs}
    if len(widths) > 1:
        raise DataError(f"x: got clients with {sorted(widths)} features, expected the same number for all")
    ends = np.cumsum([len(labels) for labels in ys])
    shards = [torch.arange(int(end) - len(labels), int(end)) for end, labels in zip(ends, ys, strict=True)]
    return torch.cat(xs), torch.cat(ys), shards, image_shape

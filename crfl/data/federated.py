"""FederatedData: the training samples once, the client that owns each, and the test split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from crfl.data import checks, constructors
from crfl.data.content import content_digest
from crfl.data.splits import Client, Inputs, RowSplit, Split
from crfl.devices import resolve_device
from crfl.features import FittedMap

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Client", "FederatedData", "Inputs", "RowSplit", "Split"]


@dataclass(frozen=True, eq=False, repr=False)
class FederatedData:
    """Training samples in one matrix, dealt to clients by row number, and a test split.

    The features are `scale * x`: images stay in their bytes (scale = 1/255) and are never copied per client. With a
    feature map, `x` and `test` hold what it makes of the inputs, where triggers go.

    Raises:
        DataError: The parts do not fit together; it says which and how.

    Example:
        >>> import torch
        >>> x, y = torch.rand(6, 2), torch.arange(6) % 2
        >>> shards = (torch.arange(0, 3), torch.arange(3, 6))
        >>> data = FederatedData("custom", x, y, shards, Split(x, y), num_classes=2)
        >>> data
        FederatedData 'custom': 6 training samples of 2 clients, 6 test samples, 2 features, 2 classes
        >>> data.features(data.shards[1]).shape, data.input_features(data.shards[1]).shape
        (torch.Size([3, 2]), torch.Size([3, 2]))
        >>> torch.equal(data.map_inputs(x), x), data.to("cpu").x.device  # no feature map
        (True, device(type='cpu'))
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
    """Of the inputs."""
    input_shape: tuple[int, ...] | None = None
    """(height, width), or (height, width, 3) for colours, if the inputs are the pixels of an image, row by row."""
    domain: tuple[float, float] | None = None
    """Declared bounds of every input, e.g. (0, 1); all inputs lie in it, and poisoned ones are clamped to it."""
    notes: tuple[str, ...] = ()
    """What the loader has to say of the data, e.g. how many footer rows it skipped."""
    partition: str | None = None
    """How the samples were dealt out: "iid", "dirichlet" or "natural"; None: by whoever made the shards."""
    dirichlet_alpha: float | None = None
    """Concentration of the dirichlet partition."""
    public_rows: Tensor | None = None
    """Rows of `x` that belong to the server, (p,) int64: they set the feature map, and no client owns them."""
    feature_map: FittedMap | None = None
    """The map from inputs to features; None: the inputs are the features."""
    origin: Inputs | None = None
    """What `feature_map` was applied to."""

    def __post_init__(self) -> None:
        """Fill in names and check everything. DataError says what does not fit."""
        vars(self).update(checks.completed(self))  # frozen
        checks.check_data(self)

    def __repr__(self) -> str:
        mapped = f" ({self.feature_map.name} of {self.num_inputs} inputs)" if self.feature_map else ""
        server = f", {self.public_samples} public samples" if self.public_samples else ""
        return (
            f"FederatedData {self.name!r}: {sum(self.sizes)} training samples of {len(self.shards)} clients{server}, "
            f"{len(self.test)} test samples, {self.num_features} features{mapped}, {self.num_classes} classes"
        )

    from_arrays = classmethod(constructors.from_arrays)
    from_dataset = classmethod(constructors.from_dataset)
    from_frame = classmethod(constructors.from_frame)
    from_file = classmethod(constructors.from_file)

    def label_counts(self) -> DataFrame:
        """How many training samples of which label every client has: a row a client, a column a class."""
        from pandas import DataFrame  # here, because it is slow to import

        counts = [np.bincount(self.y[rows], minlength=self.num_classes) for rows in self.shards]
        return DataFrame(np.stack(counts), index=list(self.client_names), columns=list(self.class_names))

    @property
    def num_features(self) -> int:
        """d"""
        return self.x.shape[1]

    @property
    def num_inputs(self) -> int:
        """d_in"""
        return self.inputs.shape[1]

    @property
    def inputs(self) -> Tensor:
        """(n, d_in) uint8 or float32: stored inputs of the training samples; `x` without a feature map."""
        return self.x if self.origin is None else self.origin.x

    @property
    def input_scale(self) -> float:
        """The inputs in real units are input_scale * inputs."""
        return self.scale if self.origin is None else self.origin.scale

    @property
    def test_inputs(self) -> Tensor:
        """(m, d_in) float32: inputs of the test samples in real units; `test.x` without a feature map."""
        return self.test.x if self.origin is None else self.origin.test.x

    @property
    def norm_bound(self) -> float | None:
        """A bound on the l2 norm of every possible feature vector, rounding included; None: no bound is known."""
        return None if self.feature_map is None else self.feature_map.norm_bound

    @property
    def public_samples(self) -> int:
        """How many training samples belong to the server."""
        return 0 if self.public_rows is None else len(self.public_rows)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """n_i: samples of each client."""
        return tuple(len(rows) for rows in self.shards)

    @property
    def clients(self) -> tuple[Client, ...]:
        """The clients' shards as copies in real units; training reads `x` and `shards` instead."""
        owners = zip(self.client_names, self.shards, strict=True)
        return tuple(Client(name, self.features(rows), self.y[rows]) for name, rows in owners)

    def features(self, rows: Tensor) -> Tensor:
        """Features of some training samples, in real units: scale * x.

        Args:
            rows: Of `x`, (k,) int64.

        Returns:
            (k, d) float32.
        """
        return self.x[rows].float() * self.scale

    def input_features(self, rows: Tensor) -> Tensor:
        """Inputs of some training samples, in real units: what a trigger is planted in.

        Args:
            rows: Of `inputs`, (k,) int64; they are those of `x`.

        Returns:
            (k, d_in) float32.
        """
        return self.inputs[rows].float() * self.input_scale

    def map_inputs(self, inputs: Tensor) -> Tensor:
        """Features of any inputs, such as those with a trigger; without a feature map the inputs themselves.

        Args:
            inputs: (m, d_in), in real units.

        Returns:
            (m, d) float32.

        Raises:
            DataError: If the feature map makes NaN or infinity of an input.
        """
        return inputs if self.feature_map is None else self.feature_map(inputs)

    def to(self, device: str | torch.device) -> FederatedData:
        """The same data on another device. The shards' row numbers stay on the CPU.

        Args:
            device: Such as "cuda".

        Returns:
            The data; these very tensors where they are on the device already.

        Raises:
            SettingsError: If PyTorch cannot use the device.
        """
        device, same = resolve_device(device), object.__new__(type(self))  # it was checked already
        moved = {name: getattr(self, name) for name in ("x", "y", "test", "feature_map", "origin")}
        vars(same).update(vars(self) | {k: None if v is None else v.to(device) for k, v in moved.items()})
        return same

    @cached_property
    def digest(self) -> str:
        """Name of the content: equal for equal samples, shards, test split and feature map."""
        return content_digest(self)

    @cached_property
    def max_feature_norm(self) -> float:
        """Largest l2 norm ||x|| of a client's training sample, in units of the features, in float64."""
        blocks = torch.cat(self.shards).split(8192)
        return self.scale * math.sqrt(max(float(self.x[rows].double().square().sum(1).max()) for rows in blocks))

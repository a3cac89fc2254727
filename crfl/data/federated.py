"""FederatedData: the training samples once, the client that owns each, and the test split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from crfl import sanity
from crfl.config import Features
from crfl.data import arrays, checks, own, sources
from crfl.data.content import content_digest
from crfl.data.deal import deal
from crfl.data.splits import Client, Inputs, RowSplit, Split
from crfl.devices import resolve_device
from crfl.features import FeatureMap, FittedMap

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Client", "FederatedData", "Inputs", "RowSplit", "Split"]


@dataclass(frozen=True, eq=False, repr=False)
class FederatedData:
    """Training samples in one matrix, dealt to clients by row number, and a test split.

    The features are `scale * x`: images stay in their bytes (scale = 1/255) and are never copied per client. With a
    feature map, `x` and `test` hold what it makes of the inputs, where triggers go. DataError says what does not fit.

    Example:
        >>> import torch
        >>> x, y = torch.rand(6, 2), torch.arange(6) % 2
        >>> shards = (torch.arange(0, 3), torch.arange(3, 6))
        >>> FederatedData("custom", x, y, shards, Split(x, y), num_classes=2)
        FederatedData 'custom': 6 training samples of 2 clients, 6 test samples, 2 features, 2 classes
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

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        x_test: Any,
        y_test: Any,
        *,
        clients: Any = 30,
        partition: str | None = None,
        dirichlet_alpha: float = 0.5,
        shards: Sequence[Any] | None = None,
        seed: int = 0,
        scale: float | None = None,
        domain: tuple[float, float] | None = None,
        features: str | Features | FeatureMap | None = None,
        public: int = 0,
        whiten: int | None = None,
        norm: float | None = None,
        cache: str | Path | None = None,
        name: str = "custom",
        num_classes: int | None = None,
        client_names: Sequence[str] = (),
        class_names: Sequence[str] = (),
        feature_names: Sequence[str] = (),
        input_shape: tuple[int, ...] | None = None,
        progress: bool = False,
    ) -> FederatedData:
        """Federated data from NumPy arrays or torch tensors.

        Args:
            x: Rows (n, d), or images (n, height, width), (n, height, width, 3) or (n, 3, height, width); or a list of
                one such array for each client. Arrays of bytes or float32 are used as they are: do not change them
                afterwards.
            y: Labels (n,), integers from 0; or a list of one such array for each client.
            x_test, y_test: The test samples likewise.
            clients: Number of clients; or the client of every sample, (n,) numbers or words.
            partition: "iid", "dirichlet" or "natural"; by default iid for a number of clients, else natural.
            dirichlet_alpha: Concentration of the dirichlet partition.
            shards: The rows of each client, in place of a partition.
            seed: Of the partition and of the choice of public samples.
            scale: Inputs are scale * x, also those of x_test; by default 1/255 for bytes, then with domain (0, 1), and
                1 for other numbers.
            domain: Declared bounds of every input, widened to the nearest float32 numbers.
            features: A feature map: a name in crfl.features.FEATURE_MAPS, a module, a function, or whole settings.
            public: Samples that the server keeps for the statistics of the feature map.
            whiten: Dimensions that features are whitened to.
            norm: Radius of the ball that features are projected on.
            cache: Folder in which features are kept from one time to the next.
            progress: Whether to show a bar on a terminal while features are made.
            name, num_classes, client_names, class_names, feature_names, input_shape: See the class.

        Raises:
            DataError: If something does not fit, such as an input outside the declared domain.
            SettingsError: If the settings of the feature map do not fit.

        Warns:
            SanityWarning: Labels that do not start at 0, or have gaps, unless num_classes is given.

        Example:
            >>> import numpy as np
            >>> random = np.random.default_rng(0)
            >>> x, y = random.random((300, 4)), random.integers(0, 3, 300)
            >>> FederatedData.from_arrays(x[:200], y[:200], x[200:], y[200:], clients=10)
            FederatedData 'custom': 200 training samples of 10 clients, 100 test samples, 4 features, 3 classes
        """
        from crfl.data.mapped import map_features  # here, because it needs this class

        x, y, shards = (own.joined(x, y) if shards is None else None) or (x, y, shards)
        inputs, held_out, shape = own.samples(x, x_test, input_shape)
        labels, test_labels = arrays.labels(y, len(inputs), "y"), arrays.labels(y_test, len(held_out), "y_test")
        factor, domain = own.scaling(scale, domain, inputs, held_out)
        if num_classes is None:
            num_classes = arrays.number_of_classes(labels, test_labels)  # refuses labels too large to count below
            sanity.warn(sanity.empty_classes(labels.numpy(), test_labels.numpy()))
        settings, function = own.feature_settings(features, public, whiten, norm)
        dealt = deal(labels, clients, partition, dirichlet_alpha, shards, settings.public, seed)
        data = cls(
            name,
            inputs,
            labels,
            dealt.shards,
            Split(held_out.float() * factor, test_labels),
            num_classes,
            factor,
            tuple(client_names) or dealt.names,
            tuple(class_names),
            tuple(feature_names),
            shape,
            domain,
            partition=dealt.partition,
            dirichlet_alpha=dirichlet_alpha if dealt.partition == "dirichlet" else None,
            public_rows=dealt.public,
        )
        return map_features(data, settings, function, None if cache is None else Path(cache), progress)

    @classmethod
    def from_dataset(cls, train: Any, test: Any, **options: Any) -> FederatedData:
        """Federated data from two torch Datasets of (sample, label); each sample is read once, transforms applied.

        `options` are those of `from_arrays`. DataError if a dataset is not of (sample, label), or samples differ in shape.
        """
        return cls.from_arrays(*sources.from_dataset(train, "train"), *sources.from_dataset(test, "test"), **options)

    @classmethod
    def from_frame(
        cls, frame: DataFrame, test: DataFrame | float = 0.2, *, label: str, client: str | None = None, **options: Any
    ) -> FederatedData:
        """Federated data from a pandas frame of numbers, a row a sample; `options` are those of `from_arrays`.

        Args:
            frame: The training samples.
            test: The test samples; or the share of the rows of `frame` that are to be it, drawn from the seed.
            label: Column of the labels; words become classes in alphabetical order.
            client: Column that says whose the sample is; None: dealt out as `from_arrays` does.
        """
        arguments, found = sources.from_frame(frame, test, label, client, options.get("seed", 0))
        return cls.from_arrays(*arguments, **found | options)

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> FederatedData:
        """Federated data from a file, with options of `from_arrays` or `from_frame`.

        `path`: an NPZ file whose arrays are arguments of `from_arrays` (x, y, x_test, y_test, perhaps clients); or a CSV or
        Parquet file, which `from_frame` takes. DataError if it cannot be read, or something in it does not fit.
        """
        found = sources.from_file(Path(path))
        return cls.from_arrays(**found | options) if isinstance(found, dict) else cls.from_frame(found, **options)

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
        """Features of the given training rows in real units, (k, d) float32."""
        return self.x[rows].float() * self.scale

    def input_features(self, rows: Tensor) -> Tensor:
        """Inputs of the given training rows in real units, (k, d_in) float32: what a trigger is planted in."""
        return self.inputs[rows].float() * self.input_scale

    def map_inputs(self, inputs: Tensor) -> Tensor:
        """Features (m, d) float32 of inputs (m, d_in) in real units; the inputs themselves without a feature map."""
        return inputs if self.feature_map is None else self.feature_map(inputs)

    def to(self, device: str | torch.device) -> FederatedData:
        """The same data on `device`, the shards' row numbers on the CPU. SettingsError if PyTorch cannot use it."""
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
        """Largest ||x|| among the clients' training samples, in float64."""
        blocks = torch.cat(self.shards).split(8192)
        return self.scale * math.sqrt(max(float(self.x[rows].double().square().sum(1).max()) for rows in blocks))

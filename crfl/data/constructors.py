"""The ways to make FederatedData: from arrays, torch Datasets, a pandas frame or a file.

They are class methods of `FederatedData`, which lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crfl import sanity
from crfl.config import Features
from crfl.data import arrays, own, sources
from crfl.data.deal import deal
from crfl.data.splits import Split
from crfl.features import FeatureMap

if TYPE_CHECKING:
    from pandas import DataFrame

    from crfl.data.federated import FederatedData


def from_arrays(
    cls: type[FederatedData],
    /,
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

    Returns:
        The data, checked, with features where there is a map.

    Raises:
        DataError: If something does not fit, such as an input outside the declared domain.
        SettingsError: If the settings of the feature map do not fit.

    Warns:
        SanityWarning: Labels that do not start at 0, or have gaps, unless num_classes is given.

    Example:
        >>> import numpy as np
        >>> import crfl
        >>> random = np.random.default_rng(0)
        >>> x, y = random.random((300, 4)), random.integers(0, 3, 300)
        >>> crfl.FederatedData.from_arrays(x[:200], y[:200], x[200:], y[200:], clients=10)
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


def from_dataset(cls: type[FederatedData], /, train: Any, test: Any, **options: Any) -> FederatedData:
    """Federated data from two torch Datasets of (sample, label); each sample is read once, transforms applied.

    Args:
        train: The training samples, such as a dataset of torchvision.
        test: The test samples.
        options: Those of `from_arrays`.

    Returns:
        The data.

    Raises:
        DataError: If a dataset is not of (sample, label), or samples differ in shape; else as `from_arrays`.

    Example:
        >>> import crfl, torch
        >>> from torch.utils.data import TensorDataset
        >>> dataset = TensorDataset(torch.rand(40, 4), torch.arange(40) % 2)
        >>> crfl.FederatedData.from_dataset(dataset, dataset, clients=4)
        FederatedData 'custom': 40 training samples of 4 clients, 40 test samples, 4 features, 2 classes
    """
    return cls.from_arrays(*sources.from_dataset(train, "train"), *sources.from_dataset(test, "test"), **options)


def from_frame(
    cls: type[FederatedData],
    /,
    frame: DataFrame,
    test: DataFrame | float = 0.2,
    *,
    label: str,
    client: str | None = None,
    **options: Any,
) -> FederatedData:
    """Federated data from a pandas frame of numbers, a row a sample.

    Args:
        frame: The training samples.
        test: The test samples; or the share of the rows of `frame` that are to be it, drawn from the seed.
        label: Column of the labels; words become classes in alphabetical order.
        client: Column that says whose the sample is; None: dealt out as `from_arrays` does.
        options: Those of `from_arrays`.

    Returns:
        The data. The remaining columns are the features.

    Raises:
        DataError: If a column is missing or holds anything but numbers; else as `from_arrays`.

    Example:
        >>> import pandas as pd
        >>> import crfl
        >>> frame = pd.DataFrame({"income": range(50), "debt": range(50), "state": ["CT", "MO"] * 25})
        >>> frame["paid"] = ["yes", "no", "no", "yes", "yes"] * 10
        >>> crfl.FederatedData.from_frame(frame, label="paid", client="state")
        FederatedData 'custom': 40 training samples of 2 clients, 10 test samples, 2 features, 2 classes
    """
    arguments, found = sources.from_frame(frame, test, label, client, options.get("seed", 0))
    return cls.from_arrays(*arguments, **found | options)


def from_file(cls: type[FederatedData], /, path: str | Path, **options: Any) -> FederatedData:
    """Federated data from a file.

    Args:
        path: An NPZ file whose arrays are arguments of `from_arrays` (x, y, x_test, y_test, perhaps clients); or a CSV
            or Parquet file, which `from_frame` takes.
        options: Those of `from_arrays` or `from_frame`.

    Returns:
        The data.

    Raises:
        DataError: If the file cannot be read; else as `from_arrays` or `from_frame`.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import crfl
        >>> x, y = np.random.default_rng(0).random((40, 4)), np.arange(40) % 2
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(Path(folder) / "mine.npz", x=x, y=y, x_test=x, y_test=y)
        ...     crfl.FederatedData.from_file(Path(folder) / "mine.npz", clients=4)
        FederatedData 'custom': 40 training samples of 4 clients, 40 test samples, 4 features, 2 classes
    """
    found = sources.from_file(Path(path))
    return cls.from_arrays(**found | options) if isinstance(found, dict) else cls.from_frame(found, **options)

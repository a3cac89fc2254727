"""What a server that sees no client's samples knows of them: their number and a bound on their norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from crfl.data.federated import FederatedData, Split
from crfl.errors import DataError


@dataclass(frozen=True, eq=False, repr=False)
class DeclaredData(FederatedData):
    """Federated data whose training samples stay with the clients: placeholders that nobody trains on.

    Make it by `DeclaredData.of`.
    """

    declared_norm: float = math.nan
    """Bound on the norm of every clean training sample."""

    @classmethod
    def of(
        cls,
        test: Split,
        sizes: Sequence[int],
        *,
        max_feature_norm: float,
        num_classes: int,
        name: str = "custom",
        domain: tuple[float, float] | None = None,
        client_names: Sequence[str] = (),
        feature_names: Sequence[str] = (),
        input_shape: tuple[int, ...] | None = None,
    ) -> DeclaredData:
        """The server's view of a federation.

        Args:
            test: The server's own test samples.
            sizes: n_i, how many training samples each client says it has; fixed before training.
            max_feature_norm: A bound on ||x|| of every clean training sample, as agreed with the clients.
            num_classes: C.
            name: Of the data set, as in the settings.
            domain: Declared bounds of every feature, clean or poisoned.
            client_names, feature_names, input_shape: See FederatedData.

        Raises:
            DataError: If something does not fit.

        Example:
            >>> split = Split(torch.rand(5, 3), torch.tensor([0, 1, 0, 1, 0]))
            >>> data = DeclaredData.of(split, [40, 60], max_feature_norm=1.8, num_classes=2)
            >>> data.sizes, data.max_feature_norm
            ((40, 60), 1.8)
        """
        if not 0 < max_feature_norm < math.inf:
            raise DataError(f"max_feature_norm: got {max_feature_norm!r}, expected a positive number")
        wrong = [size for size in sizes if isinstance(size, bool) or int(size) != size or size < 1]
        if wrong or not len(sizes):
            raise DataError(f"sizes: got {list(sizes)[:10]}, expected a whole number of at least 1 for each client")
        count = sum(int(size) for size in sizes)
        inside = 0.0 if domain is None else min(max(0.0, domain[0]), domain[1])
        return cls(
            name,
            torch.full((1, test.x.shape[1]), inside, dtype=torch.float32).expand(count, -1),
            torch.zeros(1, dtype=torch.int64).expand(count),
            torch.arange(count).split([int(size) for size in sizes]),
            test,
            num_classes,
            client_names=tuple(client_names),
            feature_names=tuple(feature_names),
            input_shape=input_shape,
            domain=domain,
            declared_norm=float(max_feature_norm),
        )

    @property
    def max_feature_norm(self) -> float:  # type: ignore[override]
        """The declared bound."""
        return self.declared_norm

    def smoothness(self, bias: bool) -> npt.NDArray[np.float64]:
        """beta_i = B^2 / 2 of each client, (N,): what follows from the bound alone, B that of (x, 1) or x."""
        largest = math.hypot(1.0, self.declared_norm) if bias else self.declared_norm
        return np.full(len(self.shards), largest**2 / 2)

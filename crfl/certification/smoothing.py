"""Algorithm 2: noisy copies of the trained model vote on every test sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crfl.certification._checks import IntArray, nonnegative, positive_int
from crfl.certification._content import Content
from crfl.errors import CertificateError
from crfl.models.base import Model
from crfl.progress import bar

if TYPE_CHECKING:
    import pandas as pd

BLOCK_SAMPLES = 512
"""Test samples that a block of models judges at once."""
BLOCK_ROWS = 1024
"""Models times classes in a block; so a block of logits takes 2 MiB, which the cache holds."""
BLOCK_BYTES = 2**26
"""Memory for the parameters of a block of models."""
LANES = 16
"""torch.randn fills 16 numbers at a time; whole multiples give the same numbers however the draws are split."""


@dataclass(frozen=True, repr=False, eq=False)
class VoteCounts(Content):
    """Votes of noisy models on m test samples. `smooth` counts them.

    Example:
        >>> import numpy as np
        >>> VoteCounts(np.array([[90, 10], [45, 55]]), samples=100, noise=0.01).to_frame().shape
        (2, 2)
    """

    counts: IntArray
    """(m, C): how many models predict each class."""
    samples: int
    """M: the number of models."""
    noise: float
    """sigma_T: standard deviation of the noise on every parameter."""

    def to_frame(self) -> pd.DataFrame:
        """A row for each sample, a column for each class."""
        import pandas as pd

        return pd.DataFrame(self.counts)


def smooth(
    model: Model,
    params: Tensor,
    x: Tensor,
    *,
    noise: float,
    samples: int,
    generator: torch.Generator,
    progress: bool = False,
) -> VoteCounts:
    """Algorithm 2: M noisy models N(params, noise^2 I), drawn once, predict every sample.

    The draws depend neither on the test samples nor on the blocks in which the work is done. Memory, whatever M and m
    are: BLOCK_BYTES for the models and a few MiB for logits; for modules the activations of a few models on
    BLOCK_SAMPLES samples.

    Args:
        model: Softmax regression or any other, e.g. the ModuleModel of an nn.Module.
        params: The flat vector (P,); the work is done on its device, in its precision.
        x: Features (m, d).
        noise: sigma_T, on every coordinate.
        samples: M
        generator: On the CPU, where the noise is drawn.
        progress: Show a bar if it takes more than two seconds.

    Returns:
        Votes (m, C). Of classes that tie, the lowest gets the vote.

    Raises:
        CertificateError: parameters or samples are not finite, logits overflow, or a number is out of its range.

    Example:
        >>> from crfl.models import SoftmaxRegression
        >>> model = SoftmaxRegression(num_features=2, num_classes=2)
        >>> params, x = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])
        >>> votes = smooth(model, params, x, noise=0.1, samples=100, generator=torch.Generator().manual_seed(0))
        >>> votes.counts.sum(axis=1), int(votes.counts[0].argmax())
        (array([100, 100]), 0)
    """
    noise, samples = float(nonnegative("noise", noise)), positive_int("samples", samples)
    for name, tensor in (("params", params), ("x", x)):
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():  # a sum alone may overflow
            raise CertificateError(f"{name}: got infinite or NaN entries, expected finite numbers")
    x = x.to(params.device, params.dtype)
    counts = torch.zeros(model.num_classes, len(x), dtype=torch.int64, device=params.device)
    per_block = max(1, min(model.models_per_block(BLOCK_ROWS), BLOCK_BYTES // (params.element_size() * params.numel())))
    blocks = _noisy_models(params, noise, samples, per_block, generator)
    # The bar waits for two seconds: most votes are done by then.
    drawn = bar(blocks, "votes", -(-samples // per_block), unit="block", leave=False, delay=2, shown=progress)
    for models in drawn:
        for start in range(0, len(x), BLOCK_SAMPLES):
            rows = slice(start, start + BLOCK_SAMPLES)
            counts[:, rows] += _votes(model.noisy_logits(models, x[rows]))
    return VoteCounts(counts.t().contiguous().cpu().numpy(), samples, noise)


def _noisy_models(
    params: Tensor, noise: float, samples: int, per_block: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """The models in blocks (k, P). Each takes a whole number of LANES from the generator, the surplus unused."""
    size = params.numel()
    width = -(-size // LANES) * LANES
    for start in range(0, samples, per_block):
        draw = torch.randn(min(per_block, samples - start), width, generator=generator, dtype=torch.float32)[:, :size]
        yield draw.to(params).mul_(noise).add_(params)


def _votes(logits: Tensor) -> Tensor:
    """Votes (C, m) from logits (C, k, m)."""
    # Numbers instead of booleans: compared and summed five times as fast, and exact for so few models.
    wins = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    torch.eq(logits, logits.amax(dim=0), out=wins)
    if (wins.sum(dim=0) == 1).all():
        return wins.sum(dim=1).long()
    if not torch.isfinite(logits).all():
        raise CertificateError(
            "logits: got infinite or NaN entries, expected finite numbers: the model or the samples are too large"
        )
    first = wins * (wins.cumsum(dim=0) == 1)  # ties: the lowest class
    return first.sum(dim=1).long()

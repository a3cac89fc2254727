"""Algorithm 2: noisy copies of the trained model vote on every test sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from crfl import matmul as products
from crfl.certification._checks import IntArray, nonnegative, positive_int
from crfl.errors import CertificateError
from crfl.models.base import Model
from crfl.models.softmax import SoftmaxRegression
from crfl.progress import bar

BLOCK_SAMPLES = 512
"""Test samples that a block of models judges at once."""
BLOCK_ROWS = 1024
"""Models times classes in a block; so a block of logits takes 2 MiB, which the cache holds."""
BLOCK_MODULES = 16
"""Models in a block if they are not linear and have activations of unknown size."""
BLOCK_BYTES = 2**26
"""Memory for the parameters of a block of models."""
LANES = 16
"""torch.randn fills 16 numbers at a time; whole multiples give the same numbers however the draws are split."""


@dataclass(frozen=True)
class VoteCounts:
    """Votes of noisy models on m test samples."""

    counts: IntArray
    """(m, C): how many models predict each class."""
    samples: int
    """M: the number of models."""
    noise: float
    """sigma_T: standard deviation of the noise on every parameter."""


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
    """Algorithm 2: M = `samples` models N(params, noise^2 I), drawn once, predict every sample of x (m, d).

    `model` is softmax regression or any other, e.g. the ModuleModel of an nn.Module.
    Noise is drawn on the CPU from `generator`, on every coordinate of the flat vector `params` (P,); the work is done
    on the device of `params`. The draws do not depend on the number of test samples nor on the blocks in which the
    work is done. Memory, whatever M and m are: BLOCK_BYTES for the models and a few MiB for logits; for modules the
    activations of BLOCK_MODULES models on BLOCK_SAMPLES samples. Of classes that tie, the lowest is voted for.
    CertificateError if parameters or samples are not finite, or if logits overflow.
    """
    noise, samples = float(nonnegative("noise", noise)), positive_int("samples", samples)
    for name, tensor in (("params", params), ("x", x)):
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():  # a sum alone may overflow
            raise CertificateError(f"{name}: got infinite or NaN entries, expected finite numbers")
    x = x.to(params.device, params.dtype)
    classes = model.logits(params, x[:1]).shape[-1]
    linear = isinstance(model, SoftmaxRegression)
    ballot: Ballot = _linear_ballot if linear else _ballot
    counts = torch.zeros(classes, len(x), dtype=torch.int64, device=params.device)
    most = BLOCK_ROWS // classes if linear else BLOCK_MODULES
    per_block = max(1, min(most, BLOCK_BYTES // (4 * params.numel())))
    blocks = _noisy_models(params, noise, samples, per_block, generator)
    # The bar waits for two seconds: most votes are done by then.
    drawn = bar(blocks, "votes", -(-samples // per_block), unit="block", leave=False, delay=2, shown=progress)
    for models in drawn:
        for start in range(0, len(x), BLOCK_SAMPLES):
            counts[:, start : start + BLOCK_SAMPLES] += ballot(model, models, x[start : start + BLOCK_SAMPLES])
    return VoteCounts(counts.t().contiguous().cpu().numpy(), samples, noise)


Ballot = Callable[[Model, Tensor, Tensor], Tensor]
"""Votes (C, m) of models (k, P) on samples (m, d)."""


def _noisy_models(
    params: Tensor, noise: float, samples: int, per_block: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """The models in blocks (k, P). Each takes a whole number of LANES from the generator, the surplus unused."""
    size = params.numel()
    width = -(-size // LANES) * LANES
    for start in range(0, samples, per_block):
        draw = torch.randn(min(per_block, samples - start), width, generator=generator, dtype=torch.float32)[:, :size]
        yield draw.to(params).mul_(noise).add_(params)


def _linear_ballot(model: Model, models: Tensor, x: Tensor) -> Tensor:
    """All logits by one large product. Class-major, so that the maximum over classes is elementwise."""
    assert isinstance(model, SoftmaxRegression)
    weights, bias = (part.transpose(0, 1).flatten(0, 1) for part in model.split(models))
    logits = products.inner(weights, x).add_(bias.unsqueeze(1))
    return _votes(logits.view(model.num_classes, len(models), len(x)))


def _ballot(model: Model, models: Tensor, x: Tensor) -> Tensor:
    return _votes(model.logits(models, x).permute(2, 0, 1))


def _votes(logits: Tensor) -> Tensor:
    """Votes (C, m) from logits (C, k, m)."""
    # Numbers instead of booleans: compared and summed five times as fast, and exact for so few models.
    wins = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    torch.eq(logits, logits.amax(dim=0), out=wins)
    if (wins.sum(dim=0) == 1).all():
        return wins.sum(dim=1).long()
    if not torch.isfinite(logits).all():
        raise CertificateError("logits: got infinite or NaN entries; the model or the samples are too large")
    first = wins * (wins.cumsum(dim=0) == 1)  # ties: the lowest class
    return first.sum(dim=1).long()

"""The server: which updates it uses, and its defence: projection on a ball and Gaussian noise (Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crfl import rng
from crfl.aggregation import SHARES, Aggregate, Aggregator, checked
from crfl.config import Server
from crfl.devices import to_device

IntArray = npt.NDArray[np.int64]

NOT_FINITE, WRONG_SHAPE = 1, 2
REASONS = {NOT_FINITE: "not finite", WRONG_SHAPE: "of the wrong shape"}
"""Why an update was dropped, by code; 0 means that it was not."""


class RoundAggregator:
    """The updates of one run that reach the server in a round: unusable ones are dropped, the others aggregated.

    Under a rule of SHARES they are summed up as they come in and then forgotten: ten thousand clients need no more
    memory than those that are trained together. Other rules get all of them, in the order of the clients.
    """

    def __init__(
        self,
        server: Server,
        rule: Aggregator,
        clients: IntArray,
        sizes: IntArray,
        watched: Sequence[int],
        like: Tensor,
    ) -> None:
        """`clients` (n,): who takes part, rising; `sizes` (n,): their samples; `watched`: whose norms to note; `like`
        (P,): an update."""
        self.server, self.rule, self.clients, self.sizes = server, rule, clients, torch.from_numpy(sizes)
        self.codes, self.norms = np.zeros(len(clients), dtype=np.int64), np.zeros(len(clients))
        """Why the update of a client was dropped, by code, and the norms of the watched ones as aggregated, (n,)."""
        self.watched = np.isin(clients, watched)
        shares = next((shares(self.sizes) for known, shares in SHARES.items() if known is rule), None)
        self.linear = shares is not None
        """Whether the rule is a weighted sum, with weights known beforehand."""
        self.weights = torch.ones(len(clients), dtype=torch.float64) if shares is None else shares / shares.sum()
        """(n,); all 1 where the rule finds its weights itself."""
        self.received = like.new_zeros(1 if self.linear else len(clients), len(like))
        """The weighted sum of the updates, (1, P), or all of them, (n, P)."""

    @property
    def takes_sums(self) -> bool:
        """Whether a weighted sum of updates does as well as the updates."""
        return self.linear and self.server.update_clip is None

    def weighs_like(self, other: RoundAggregator) -> bool:
        """Whether the same clients have the same weights here and there."""
        return np.array_equal(self.clients, other.clients) and torch.equal(self.weights, other.weights)

    def refuse(self, client: int, code: int) -> None:
        """Drop whatever comes from a client."""
        self.codes[np.searchsorted(self.clients, client)] = code

    def add(self, clients: IntArray, updates: Tensor) -> None:
        """Take the updates (k, P) of some of the clients."""
        rows, clip = np.searchsorted(self.clients, clients), self.server.update_clip
        used = updates if clip is None else project(updates, clip)
        total = self._total(rows, used)
        if self.codes[rows].any() or not torch.isfinite(total.sum()):  # else every update is finite
            good = finite(used).cpu().numpy()
            self.codes[rows[~good & (self.codes[rows] == 0)]] = NOT_FINITE
            good = self.codes[rows] == 0
            rows, used = rows[good], used[good]
            total = self._total(rows, used)
        if self.linear:
            self.received += total
        else:
            self.received[rows] = used
        watched = self.watched[rows]
        if watched.any():
            self.norms[rows[watched]] = norm(used[watched]).cpu()

    def _total(self, rows: IntArray, updates: Tensor) -> Tensor:
        return to_device(self.weights[rows].to(updates.dtype), updates.device) @ updates

    def aggregate(self) -> Aggregate:
        """The aggregate of all that came in, with weights (n,) of which those dropped have 0.

        TrainingError if the rule returns something else than it should. At least one update must have been taken.
        """
        kept = torch.from_numpy(self.codes == 0)
        weights = torch.zeros(len(kept), dtype=torch.float64)
        if self.linear:
            weights[kept] = self.weights[kept]
            total = 1.0 if kept.all() else float(weights.sum())
            return Aggregate(self.received[0] / total, weights / total)
        updates = self.received if kept.all() else self.received[kept]
        found = self.rule(updates, self.sizes[kept].to(updates.device), self.server)
        found = checked(found, updates, self.server.aggregation)
        weights[kept] = found.weights.double().cpu()
        return Aggregate(found.update.to(updates.dtype), weights)


def norm(params: Tensor) -> Tensor:
    """l2 norm over the last dimension, in float64: params (..., P) -> (...)."""
    return torch.linalg.vector_norm(params, dim=-1, dtype=torch.float64)


def finite(updates: Tensor) -> Tensor:
    """Which of the updates (n, P) have only finite entries, (n,) bool."""
    found = torch.isfinite(updates.sum(1))  # one pass; a NaN or an infinity spoils the sum, but so may overflow
    if not found.all():
        suspects = (~found).nonzero().flatten()
        found[suspects] = torch.isfinite(updates[suspects]).all(1)
    return found


def project(params: Tensor, clip_norm: float) -> Tensor:
    """The nearest vector of norm at most `clip_norm` (rho): params (..., P) times min(1, rho / ||params||).

    An exact projection; a vector inside the ball keeps its bits, and an infinite `clip_norm` keeps all.
    """
    if math.isinf(clip_norm):
        return params
    factor = (clip_norm / norm(params)).clamp(max=1.0)  # 0 / 0 cannot be: clip norms are positive
    mantissa, exponent = torch.frexp(factor)  # a factor for an update of 1e38 is too small for float32
    half = torch.div(exponent - 1, 2, rounding_mode="floor")
    for part in (torch.exp2(half.double()), torch.exp2((exponent - 1 - half).double()), 2 * mantissa):
        params = params * part.to(params.dtype).unsqueeze(-1)
    return params


def perturb(params: Tensor, noise_std: float, seed: int, round_: int) -> Tensor:
    """Parameters (P,) plus N(0, sigma^2) on every coordinate, from the stream of the round that just ended."""
    if noise_std == 0:
        return params
    draw = torch.randn(params.shape[-1], generator=rng.stream(seed, "noise", round_), dtype=params.dtype)
    return params + noise_std * to_device(draw, params.device)

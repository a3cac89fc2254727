"""Where a batch of runs stands after a round: enough to go on from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Generic, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from crfl.aggregator import NO_AGGREGATE, NOT_FINITE, WRONG_SHAPE, ClientStats

REASONS = (NOT_FINITE, WRONG_SHAPE, NO_AGGREGATE)


@dataclass(frozen=True)
class RoundMetrics:
    """What was measured in one round of S runs; every tensor is (S,) float64, on the training device."""

    start_norm: Tensor
    """||z_t||: the global model as it was sent out."""
    start_spectral_norm: Tensor
    """||W||_2 of its weights; NaN if the model is not linear."""
    pre_clip_norm: Tensor
    """||v_t||: before clipping."""
    distance: Tensor
    """||w_t - w_t of the first run||, after clipping."""
    loss: Tensor
    """Mean cross entropy on the test set; NaN in a round without evaluation."""
    accuracy: Tensor
    attack_success_rate: Tensor
    """NaN where nobody attacks."""
    top_prediction_share: Tensor
    """Share of the test set that gets the most frequent prediction."""


METRICS = tuple(f.name for f in fields(RoundMetrics))


T = TypeVar("T")


class Rounds(Sequence[T], Generic[T]):
    """What each round left, in order. One more takes no longer after many: it goes into the list that both share.

    Example:
        >>> first = Rounds("ab")
        >>> longer, other = first.and_then("c"), first.and_then("d")
        >>> "".join(first), "".join(longer), "".join(other)
        ('ab', 'abc', 'abd')
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        """Rounds that are done."""
        self._items = list(items)
        self._length = len(self._items)

    def and_then(self, item: T) -> Rounds[T]:
        """These rounds and one more."""
        longer: Rounds[T] = Rounds()
        longer._items = self._items if len(self._items) == self._length else self._items[: self._length]
        longer._items.append(item)
        longer._length = self._length + 1
        return longer

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        places = range(self._length)[index]
        return self._items[places] if isinstance(places, int) else tuple(self._items[i] for i in places)


@dataclass(frozen=True)
class TrainingState:
    """Where S runs stand after a round, and what was measured until then. Everything else follows from the settings.

    The parameters are those after clipping and before noise: the next round begins by drawing the noise of this one,
    so a run of fewer rounds is a prefix of a longer one.
    """

    params: Tensor
    """w_t, (S, P)"""
    metrics: Rounds[RoundMetrics] = field(default_factory=Rounds)
    """One a round."""
    clients: Rounds[tuple[ClientStats, ...]] = field(default_factory=Rounds)
    """For each round one a run."""
    checkpoints: Mapping[int, Tensor] = field(default_factory=dict)
    """Parameters (S, P) after the rounds asked for."""

    @property
    def round(self) -> int:
        """Rounds done."""
        return len(self.metrics)

    def to(self, device: str | torch.device) -> TrainingState:
        """The same state with its parameters and metrics on `device`."""
        kept = {round_: params.to(device) for round_, params in self.checkpoints.items()}
        metrics = Rounds(RoundMetrics(*(getattr(m, name).to(device) for name in METRICS)) for m in self.metrics)
        return TrainingState(self.params.to(device), metrics, self.clients, kept)

    def to_tensors(self, since: int = 0) -> dict[str, Tensor]:
        """The parameters, and what the rounds after `since` left, as tensors on the CPU that share no memory."""
        rounds, clients = self.metrics[since:], self.clients[since:]
        tensors = {"params": self.params.clone()}
        tensors |= {f"checkpoint {t}": params for t, params in self.checkpoints.items() if t > since}
        tensors |= {name: torch.stack([getattr(m, name) for m in rounds]) for name in METRICS if rounds}
        for t, stats in enumerate(clients, start=since + 1):
            for run, own in enumerate(stats):
                tensors |= _client_tensors(f"{t} {run}", own, self._before(t, run))
        return {name: t.cpu().contiguous() for name, t in tensors.items()}

    @classmethod
    def from_tensors(cls, parts: Sequence[Mapping[str, Tensor]]) -> TrainingState:
        """The state that several `to_tensors` described, each going on where the one before ended."""
        state: TrainingState | None = None
        for tensors in parts:
            state = _extended(state, tensors)
        if state is None:
            raise KeyError("params")
        return state

    def _before(self, round_: int, run: int) -> ClientStats | None:
        return self.clients[round_ - 2][run] if round_ > 1 else None


def _client_tensors(key: str, stats: ClientStats, before: ClientStats | None) -> dict[str, Tensor]:
    """The stats of a run in a round by name; weights that are those of the round before are left out."""
    tensors = {}
    if before is None or not np.array_equal(stats.weights, before.weights):
        tensors[f"weights {key}"] = torch.from_numpy(stats.weights)
    if stats.update_norms is not None:
        tensors[f"norms {key}"] = torch.from_numpy(stats.update_norms)
    if stats.dropped:
        tensors[f"dropped {key}"] = torch.tensor([[c, REASONS.index(why)] for c, why in sorted(stats.dropped.items())])
    if stats.attacker_norms:
        clients, norms = zip(*sorted(stats.attacker_norms.items()), strict=True)
        tensors[f"attackers {key}"] = torch.tensor(clients)
        tensors[f"attacker norms {key}"] = torch.tensor(norms, dtype=torch.float64)
    return tensors


def _extended(state: TrainingState | None, tensors: Mapping[str, Tensor]) -> TrainingState:
    """The state after the rounds that `tensors` describe."""
    params = tensors["params"]
    state = state or TrainingState(params)
    columns = {name: tensors[name] for name in METRICS if name in tensors}
    new = len(columns[METRICS[0]]) if columns else 0
    metrics = tuple(RoundMetrics(*(columns[name][i] for name in METRICS)) for i in range(new))
    clients = list(state.clients)
    for t in range(state.round + 1, state.round + new + 1):
        before = clients[-1] if clients else (None,) * len(params)
        clients.append(tuple(_client_stats(f"{t} {run}", tensors, before[run]) for run in range(len(params))))
    kept = {int(name.split()[1]): t for name, t in tensors.items() if name.startswith("checkpoint ")}
    return TrainingState(params, Rounds([*state.metrics, *metrics]), Rounds(clients), {**state.checkpoints, **kept})


def _client_stats(key: str, tensors: Mapping[str, Tensor], before: ClientStats | None) -> ClientStats:
    weights, norms = tensors.get(f"weights {key}"), tensors.get(f"norms {key}")
    if weights is None and before is None:
        raise KeyError(f"weights {key}")
    dropped = tensors.get(f"dropped {key}", torch.empty(0, 2, dtype=torch.int64)).tolist()
    attackers = tensors.get(f"attackers {key}", torch.empty(0)).tolist()
    attacker_norms = tensors.get(f"attacker norms {key}", torch.empty(0)).tolist()
    return ClientStats(
        weights=before.weights if weights is None and before is not None else weights.numpy(),  # type: ignore[union-attr]
        dropped={client: REASONS[code] for client, code in dropped},
        update_norms=None if norms is None else norms.numpy(),
        attacker_norms=dict(zip(attackers, attacker_norms, strict=True)),
    )

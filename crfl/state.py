"""Where a stack of runs stands after a round: a handful of tensors, enough to go on from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class TrainingState:
    """Where S runs stand after a round, and what was measured until then. Everything else follows from the settings.

    The parameters are those after clipping and before noise: the next round begins by drawing the noise of this one,
    so a run of fewer rounds is a prefix of a longer one.
    """

    params: Tensor
    """(S, P) float32"""
    measures: tuple[Tensor, ...] = ()
    """For each round (S, 7) float64: NORMS, then MEASURES."""
    facts: tuple[Tensor, ...] = ()
    """For each round (S, 3, N) float64 on the CPU: FACTS of every client."""
    checkpoints: dict[int, Tensor] = field(default_factory=dict)
    """Parameters (S, P) after the rounds asked for."""

    @property
    def round(self) -> int:
        """Rounds done."""
        return len(self.measures)

    def to(self, device: str | torch.device) -> TrainingState:
        """The same state on `device`; the facts stay on the CPU."""
        kept = {round_: params.to(device) for round_, params in self.checkpoints.items()}
        return TrainingState(self.params.to(device), tuple(m.to(device) for m in self.measures), self.facts, kept)

    def to_tensors(self, since: int = 0) -> dict[str, Tensor]:
        """The parameters, and the measurements and checkpoints of the rounds after `since`, on the CPU, by name.

        What was said of the rounds until then never changes: the tensors of several calls, but for "params", are put
        together one after the other (`torch.cat`).
        """
        tensors = {"params": self.params}
        if self.round > since:
            tensors["measures"] = torch.stack(self.measures[since:])
            tensors["facts"] = torch.stack(self.facts[since:])
        kept = {f"checkpoint {t}": params for t, params in self.checkpoints.items() if t > since}
        return {name: t.cpu().contiguous() for name, t in (tensors | kept).items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> TrainingState:
        """The state that `to_tensors` described."""
        kept = {int(name.split()[1]): t for name, t in tensors.items() if name.startswith("checkpoint ")}
        return cls(tensors["params"], tensors["measures"].unbind(), tensors["facts"].unbind(), kept)

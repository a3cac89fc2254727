"""What changes from round to round by plan: learning rates, noise, clip norms, decay. All of it is fixed beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass

from crfl.config import Experiment, UpdateClip


@dataclass(frozen=True)
class Schedule:
    """The plan of one run for the rounds t = 1 .. T."""

    experiment: Experiment
    max_steps: int
    """tau: local steps a round of the largest client."""

    def learning_rate_cap(self, round_: int) -> float:
        """1 / (lambda tau (t + t_0)) under the inverse schedule, else infinite: eta_{i,t} = min(eta_i, this)."""
        local, server = self.experiment.local, self.experiment.server
        if local.schedule == "constant":
            return math.inf
        return 1 / ((local.weight_decay or server.decay) * self.max_steps * (round_ + local.schedule_offset))

    def learning_rate(self, round_: int) -> float:
        """eta_t: the largest of the clients' learning rates."""
        rates = self.experiment.local.learning_rate
        return min(max(rates) if isinstance(rates, tuple) else rates, self.learning_rate_cap(round_))

    def decay(self, round_: int) -> float:
        """kappa_t = 1 - (1 - eta_t lambda)^tau: the share of the model that the server takes away."""
        product = self.learning_rate(round_) * self.experiment.server.decay
        if product >= 1:
            return 1.0
        return -math.expm1(self.max_steps * math.log1p(-product))

    def update_clip(self, round_: int) -> float | None:
        """S_t, to which the server clips every update; None if it does not."""
        clip = self.experiment.server.update_clip
        if isinstance(clip, UpdateClip):
            return clip.factor(round_) * self.max_steps * self.learning_rate(round_)
        return clip

    def clip_norm(self, round_: int) -> float:
        """rho_t, to which the server projects the model."""
        return self.experiment.server.clip.norm(round_)

    def noise_std(self, round_: int) -> float:
        """sigma_t of the noise after round t: none before the first and none after the last round, which only clips."""
        return self.experiment.server.noise if 0 < round_ < self.experiment.server.rounds else 0.0

    def evaluates(self, round_: int) -> bool:
        """Whether the model of the round is measured on the test set."""
        server = self.experiment.server
        return round_ % server.evaluate_every == 0 or round_ == server.rounds

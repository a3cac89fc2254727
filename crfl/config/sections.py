"""The groups of settings: what each value means and may be. The defaults are configs/digits.yaml."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    import torch

DataName = Literal["digits", "mnist", "emnist", "cifar10", "loan", "custom"]
PartitionName = Literal["iid", "dirichlet", "natural"]


def _number(value: object) -> object:
    other = type(value).__name__ in ("bool", "bool_", "bytes") or getattr(value, "shape", ()) != ()
    if other or value != value or str(value).lower().strip("+-.") == "nan":
        raise ValueError("a number")
    return value


Count = Annotated[int, BeforeValidator(_number), Field(ge=0)]
PositiveInt = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Nonnegative = Annotated[float, BeforeValidator(_number), Field(ge=0)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0)]
Share = Annotated[float, BeforeValidator(_number), Field(gt=0, le=1)]
Place = str | tuple[Count, Count]
Trigger = str | tuple[Place, ...]
Scale = Positive | Literal["replace"]
Labels = Literal["target", "keep"]


class Section(BaseModel):
    """A group of settings: frozen, without room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _in_order(cls, value: object) -> object:
        if isinstance(value, (set, frozenset)):
            raise ValueError("a list: a set has no order")
        return value


class Data(Section):
    """What is learnt from, and how it is dealt out to the clients."""

    name: DataName = "digits"
    clients: PositiveInt | Annotated[tuple[str, ...], Field(min_length=1)] = 10
    """N, or the clients' names where the data has natural clients (LOAN: states)."""
    partition: PartitionName = "iid"
    dirichlet_alpha: Positive = 0.5
    """Concentration of the dirichlet partition: small means unequal label mixes."""
    root: Path | None = None
    """Folder of the data; default $CRFL_DATA_DIR, else ./data."""

    @property
    def num_clients(self) -> int:
        """N"""
        return self.clients if isinstance(self.clients, int) else len(self.clients)


class Features(Section):
    """The fixed map from samples to the features that the clients learn from; no client can influence it."""

    map: str = "none"
    """"none", "scattering", or a name in crfl.features.FEATURE_MAPS."""
    public: Count = 0
    """Training samples that belong to the server: they set mean, scale and whitening, and no client trains on them."""
    whiten: PositiveInt | None = None
    """Project on so many leading directions of the public samples and equalise their scale; null: do not whiten."""
    norm: Positive | None = None
    """Project every feature vector on the ball of this radius; null: do not."""


class ModelSettings(Section):
    """The model."""

    bias: bool = True
    """Whether logits are W x + b, or W x."""


class Local(Section):
    """Local training of each client: plain SGD."""

    batch_size: PositiveInt = 20
    """n_B"""
    epochs: PositiveInt = 1
    """Passes over the shard a round; tau = epochs * floor(n_i / n_B) steps."""
    learning_rate: Positive | tuple[Positive, ...] = 0.05
    """eta, or eta_i of every client in their order."""
    schedule: Literal["constant", "inverse"] = "constant"
    """"inverse": eta_t = min(learning_rate, 1 / (lambda tau (t + schedule_offset))), lambda being weight_decay or
    server.decay and tau the steps a round of the largest client."""
    schedule_offset: Nonnegative = 0.0
    """t_0 of the inverse schedule."""
    weight_decay: Nonnegative = 0.0
    """lambda, of the penalty (lambda / 2) ||w||^2."""
    precision: Literal["float32", "float64"] = "float64"
    """Training in float64 makes the margin certificate a theorem about the computed models, rounding included."""
    keep_last_batch: bool = False
    """Keep the incomplete last batch of an epoch. It holds as many poisoned samples as a whole one."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of numbers that training computes with."""
        import torch  # here, because settings are read without it

        return torch.float64 if self.precision == "float64" else torch.float32

    def learning_rates(self, clients: int) -> tuple[float, ...]:
        """eta_i of each of N clients."""
        rate = self.learning_rate
        return rate if isinstance(rate, tuple) else (rate,) * clients


class Clip(Section):
    """Clip norm of round t: min(start + slope * t, cap). start = .inf means no clipping."""

    model_config = ConfigDict(allow_inf_nan=True)

    start: Positive = 2.0
    slope: Nonnegative = 0.1
    cap: Positive = math.inf

    def norm(self, round_: int) -> float:
        """rho_t for the round t = 1 .. T."""
        return min(self.start + self.slope * round_, self.cap)


class UpdateClip(Section):
    """Clip norm of the clients' updates as a schedule: S_t = s_t tau eta_t, s_t = end + (start - end) / (1 + t / half).

    It follows the learning rates, so that it can be about as small as honest updates are.
    """

    start: Positive
    """s_0"""
    end: Positive
    """s_infinity"""
    half: Positive = 1.0
    """The round in which s_t is halfway."""

    def factor(self, round_: int) -> float:
        """s_t for the round t = 1 .. T."""
        return self.end + (self.start - self.end) / (1 + round_ / self.half)


class Server(Section):
    """Algorithm 1's server: choose who takes part, aggregate, clip, perturb."""

    rounds: PositiveInt = 60
    """T"""
    evaluate_every: PositiveInt = 1
    """Rounds from one evaluation on the test set to the next; the last round always has one."""
    participation: Share = 1.0
    """Share of the clients that take part in a round, drawn anew for each round from the seed."""
    aggregation: str = "mean"
    """A name in crfl.aggregation.AGGREGATORS."""
    num_byzantine: Count = 1
    """f: how many malicious clients trimmed_mean, krum and multi_krum are to withstand."""
    clip: Clip = Clip()
    """rho_t"""
    noise: Nonnegative = 0.01
    """sigma_t: standard deviation of the noise added in rounds 1 .. T-1."""
    decay: Nonnegative = 0.0
    """lambda of the server's own shrinking: it adds the aggregate to (1 - eta_t lambda)^tau times the model, tau being
    the steps a round of the largest client."""
    update_clip: Positive | UpdateClip | None = None
    """S_t: the server clips every client's update to this norm before aggregating; null means that it does not."""

    def participants(self, clients: int) -> int:
        """How many of N clients take part in a round; at least one."""
        return max(1, round(self.participation * clients))


class AttackerChanges(Section):
    """What one attacker does otherwise than `attack` says of all; null means: the same."""

    scale: Scale | None = None
    poisoned_per_batch: Count | None = None
    magnitude: Nonnegative | None = None
    target: Count | None = None
    labels: Labels | None = None
    trigger: Trigger | None = None
    update: str | None = None


class Attack(Section):
    """The backdoor: who attacks, when, how strongly."""

    round: PositiveInt | Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = 10
    """t_adv, or several rounds; null means that nobody attacks."""
    every: PositiveInt | None = None
    """Attack again every so many rounds, from attack.round to the last; null means that they do not."""
    clients: Count | tuple[Count | str, ...] = 1
    """R: the first R clients attack; or a list of the attackers, by number (from 0) or name."""
    random_clients: bool = False
    """Draw the R attackers from the seed instead."""
    force_participation: bool = False
    """Whether the attackers take part in attack rounds whatever server.participation draws."""
    scale: Scale = 5.0
    """gamma: factor on the attackers' updates in the attack round; "replace": N / R, of those that take part."""
    poisoned_per_batch: Count = 1
    """q_B: the first q_B samples of each batch are poisoned."""
    magnitude: Nonnegative = 0.1
    """||delta||: l2 norm of the trigger before clamping to the domain; 0 leaves the change of labels alone."""
    target: Count = 0
    """y_target: label of the poisoned samples."""
    labels: Labels = "target"
    """"keep" leaves the poisoned samples their labels (clean-label attack)."""
    trigger: Trigger = ((5, 7), (6, 6), (7, 5), (7, 7))
    """Pixels [row, column] or feature names that share the magnitude evenly, or a name in
    crfl.attack.triggers.TRIGGERS."""
    distributed: bool = False
    """DBA: the trigger's places are dealt out among the attackers; the backdoored test set carries them all."""
    update: str | None = None
    """A name in crfl.attack.malicious.MALICIOUS that says what attackers send instead of what they learnt."""
    per_attacker: tuple[AttackerChanges, ...] = ()
    """What each attacker does otherwise, in the order of attack.clients; empty, or one entry an attacker."""

    @property
    def active(self) -> bool:
        """Whether anybody attacks at all."""
        return self.round is not None and self.count > 0

    @property
    def count(self) -> int:
        """R"""
        return self.clients if isinstance(self.clients, int) else len(self.clients)

    def rounds(self, last: int) -> tuple[int, ...]:
        """The attack rounds up to the last round T, in order; () if nobody attacks."""
        if self.round is None or not self.active:
            return ()
        given = (self.round,) if isinstance(self.round, int) else self.round
        if self.every is not None:
            given = tuple(range(given[0], last + 1, self.every))
        return tuple(sorted(t for t in given if t <= last))

    @property
    def individuals(self) -> tuple[Attack, ...]:
        """The settings of each of the R attackers: their own values, and under `distributed` their own places."""
        changes = [{k: v for k, v in own if v is not None} for own in self.per_attacker] or [
            {} for _ in range(self.count)
        ]
        if self.distributed and not isinstance(self.trigger, str):
            for i, own in enumerate(changes):
                own["trigger"] = self.trigger[i :: self.count]
                own["magnitude"] = self.magnitude * math.sqrt(len(own["trigger"]) / len(self.trigger))
        return tuple(self.model_copy(update=own) for own in changes)


class Smoothing(Section):
    """Test-time parameter smoothing and certification (Algorithm 2)."""

    noise: Nonnegative = 0.01
    """sigma_T: standard deviation of the test-time noise."""
    samples: PositiveInt = 1000
    """M: number of noisy models that vote."""
    alpha: Annotated[float, BeforeValidator(_number), Field(gt=0, lt=1)] = 0.001
    """Failure probability that each confidence bound spends."""
    test_samples: PositiveInt | None = None
    """How many test samples are certified, drawn from the seed; null means all."""

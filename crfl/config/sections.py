"""The groups of settings: what each value means and may be. The defaults are configs/digits.yaml."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from crfl.config.section import Section, section
from crfl.config.values import (
    Attackers,
    ClientNames,
    Count,
    DataName,
    Folder,
    Labels,
    Many,
    Nonnegative,
    PartitionName,
    Positive,
    PositiveInt,
    PositiveOrInfinite,
    Probability,
    Rates,
    Rounds,
    Scale,
    Share,
    Trigger,
    Word,
)

if TYPE_CHECKING:
    import torch


@section
class Data(Section):
    """The data set, and how it is dealt out to the clients."""

    name: DataName = "digits"
    """Which data set; "custom" is data of your own, which you give to `crfl.train`."""
    clients: Many | ClientNames = 10
    """N, or the clients' names where the data has natural clients (LOAN: states)."""
    partition: PartitionName = "iid"
    """Equal shards at random, unequal label mixes (dirichlet), or the data's own clients (natural)."""
    dirichlet_alpha: Positive = 0.5
    """Concentration of the dirichlet partition: small means unequal label mixes."""
    root: Folder | None = None
    """Folder of the data; default $CRFL_DATA_DIR, else ./data."""

    @property
    def num_clients(self) -> int:
        """N"""
        return self.clients if isinstance(self.clients, int) else len(self.clients)


@section
class Features(Section):
    """The fixed map from samples to the features that the clients learn from; no client can influence it."""

    map: Word = "none"
    """"none", "scattering", or a name in crfl.features.FEATURE_MAPS."""
    scattering_scales: Annotated[PositiveInt, Field(le=16)] | None = None
    """J of a scattering map: it is invariant to shifts of up to 2^J pixels; null: as the map has it, 2."""
    scattering_angles: Annotated[PositiveInt, Field(le=64)] | None = None
    """L of a scattering map: orientations of its wavelets; null: as the map has it, 6."""
    public: Count = 0
    """Training samples that belong to the server: they set mean, scale and whitening, and no client trains on them."""
    whiten: PositiveInt | None = None
    """Project on this many leading directions of the public samples and equalise their scale; null: do not whiten."""
    norm: Positive | None = None
    """Project every feature vector on the ball of this radius; null: do not."""


@section
class ModelSettings(Section):
    """The model."""

    bias: bool = True
    """Whether logits are W x + b, or W x."""


@section
class Local(Section):
    """Local training of each client: plain SGD."""

    batch_size: PositiveInt = 20
    """n_B: samples a batch."""
    epochs: Many = 1
    """Passes over the shard a round; tau = epochs * floor(n_i / n_B) steps."""
    learning_rate: Positive | Rates = 0.05
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


@section
class Clip(Section):
    """Clip norm of round t: rho_t = min(start + slope * t, cap)."""

    start: PositiveOrInfinite = 2.0
    """Of rho_t; .inf means no clipping."""
    slope: Nonnegative = 0.1
    """How much rho_t grows a round."""
    cap: PositiveOrInfinite = math.inf
    """rho_t never exceeds it."""

    def norm(self, round_: int) -> float:
        """rho_t for the round t = 1 .. T."""
        return min(self.start + self.slope * round_, self.cap)


@section
class UpdateClip(Section):
    """Clip norm of the clients' updates as a schedule: S_t = s_t tau eta_t.

    s_t = end + (start - end) / (1 + t / decay_rounds)^2.

    It follows the learning rates, so that it can be about as small as honest updates are.
    """

    start: Positive
    """s_0: at the start."""
    end: Positive
    """s_infinity: at the end of an endless training, at most s_0."""
    decay_rounds: Positive = 5.0
    """The round in which a quarter of the difference is left."""

    def factor(self, round_: int) -> float:
        """s_t for the round t = 1 .. T."""
        slowed = 1 + round_ / self.decay_rounds
        return self.end + (self.start - self.end) / (slowed * slowed)  # a power would raise where this is infinite


@section
class Server(Section):
    """Algorithm 1's server: choose who takes part, aggregate, clip, perturb."""

    rounds: Many = 60
    """T: rounds of training."""
    evaluate_every: Many = 1
    """Rounds from one evaluation on the test set to the next; the last round always has one."""
    participation: Share = 1.0
    """Share of the clients that take part in a round, drawn anew for each round from the seed."""
    aggregation: Word = "mean"
    """How the updates become one: a name in crfl.aggregation.AGGREGATORS."""
    num_byzantine: Count = 1
    """f: how many malicious clients trimmed_mean, krum and multi_krum are to withstand."""
    clip: Clip = Clip()
    """rho_t"""
    noise: Nonnegative = 0.01
    """sigma_t: standard deviation of the noise added in rounds 1 .. T-1."""
    decay: Nonnegative = 0.0
    """lambda of the server's own shrinking: it adds the aggregate to (1 - eta_t lambda)^tau times the model, tau being
    the steps a round of the largest client."""
    update_clip: Positive | Annotated[UpdateClip, "a group of start, end and decay_rounds"] | None = None
    """S_t: the server clips every client's update to this norm before aggregating; null means that it does not."""

    def participants(self, clients: int) -> int:
        """How many of N clients take part in a round; at least one."""
        return max(1, round(self.participation * clients))


@section
class AttackerChanges(Section):
    """Settings of one attacker that differ from those of `attack`; null means: as in `attack`."""

    scale: Scale | None = None
    """gamma of this attacker."""
    poisoned_per_batch: Count | None = None
    """q_B of this attacker."""
    magnitude: Nonnegative | None = None
    """||delta|| of this attacker's trigger."""
    target: Count | None = None
    """y_target of this attacker."""
    labels: Labels | None = None
    """"target" or "keep", as in attack.labels."""
    trigger: Trigger | None = None
    """This attacker's trigger."""
    update: Word | None = None
    """What this attacker sends in place of its trained update, by name."""

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that are not null."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


@section
class Attack(Section):
    """The backdoor: who attacks, when, how strongly."""

    round: Many | Rounds | None = 10
    """t_adv, or several rounds; null means that nobody attacks."""
    every: Many | None = None
    """Attack again in every k-th round from attack.round on; null means that they do not."""
    clients: Count | Attackers = 1
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
    update: Word | None = None
    """What attackers send in place of their trained updates: a name in crfl.attack.malicious.MALICIOUS."""
    per_attacker: tuple[AttackerChanges, ...] = ()
    """Settings of each attacker that differ, in the order of attack.clients; empty, or one entry an attacker."""

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
        changes = [own.changes for own in self.per_attacker] or [{} for _ in range(self.count)]
        if self.distributed and not isinstance(self.trigger, str):
            for i, own in enumerate(changes):
                own["trigger"] = self.trigger[i :: self.count]
                own["magnitude"] = self.magnitude * math.sqrt(len(own["trigger"]) / len(self.trigger))
        return tuple(replace(self, **own) for own in changes)


@section
class Smoothing(Section):
    """Test-time parameter smoothing and certification (Algorithm 2)."""

    noise: Nonnegative = 0.01
    """sigma_T: standard deviation of the test-time noise."""
    samples: PositiveInt = 1000
    """M: number of noisy models that vote."""
    alpha: Probability = 0.001
    """Failure probability that each confidence bound spends."""
    test_samples: PositiveInt | None = None
    """How many test samples are certified, drawn from the seed; null means all."""


@section
class Ensemble(Section):
    """Groups of clients that train a model each and vote: `crfl.train_ensemble`."""

    groups: Many | None = None
    """G; null means one model of all clients."""
    clients_per_group: Many | None = None
    """k: each group is drawn at random, independently of the others; null means that every client is in one group."""

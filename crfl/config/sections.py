"""The groups of settings: what each value means and may be. The defaults are configs/digits.yaml."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from crfl.config.section import Section, section
from crfl.config.values import (
    ClientNames,
    Count,
    DataName,
    Folder,
    Many,
    Nonnegative,
    PartitionName,
    Positive,
    PositiveInt,
    PositiveOrInfinite,
    Probability,
    Rates,
    Share,
    Word,
)

if TYPE_CHECKING:
    import torch


@section
class Data(Section):
    """The data set, and how it is dealt out to the clients.

    Example:
        >>> Data(name="mnist", clients=20).num_clients
        20
    """

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
    """The fixed map from samples to the features that the clients learn from; no client can influence it.

    Example:
        >>> Features(map="scattering", public=300, whiten=40, norm=1.0).norm
        1.0
    """

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
    """The model.

    Example:
        >>> ModelSettings(bias=False)
        ModelSettings(bias=False)
    """

    bias: bool = True
    """Whether logits are W x + b, or W x."""


@section
class Local(Section):
    """Local training of each client: plain SGD.

    Example:
        >>> Local(learning_rate=0.1).learning_rates(3), Local(precision="float32").dtype
        ((0.1, 0.1, 0.1), torch.float32)
    """

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
        """eta_i of every client, before the schedule.

        Args:
            clients: N

        Returns:
            N learning rates.
        """
        rate = self.learning_rate
        return rate if isinstance(rate, tuple) else (rate,) * clients


@section
class Clip(Section):
    """Clip norm of round t: rho_t = min(start + slope * t, cap).

    Example:
        >>> Clip(start=2.0, slope=0.5, cap=4.0).norm(3)
        3.5
    """

    start: PositiveOrInfinite = 2.0
    """Of rho_t; .inf means no clipping."""
    slope: Nonnegative = 0.1
    """How much rho_t grows a round."""
    cap: PositiveOrInfinite = math.inf
    """rho_t never exceeds it."""

    def norm(self, round_: int) -> float:
        """The clip norm of a round.

        Args:
            round_: t = 1 .. T

        Returns:
            rho_t, in l2 norm over all parameters; infinite where nothing is clipped.
        """
        return min(self.start + self.slope * round_, self.cap)


@section
class UpdateClip(Section):
    """Clip norm of the clients' updates as a schedule: S_t = s_t tau eta_t.

    s_t = end + (start - end) / (1 + t / decay_rounds)^2.

    It follows the learning rates, so that it can be about as small as honest updates are.

    Example:
        >>> UpdateClip(start=4.0, end=1.0, decay_rounds=5.0).factor(5)
        1.75
    """

    start: Positive
    """s_0: at the start."""
    end: Positive
    """s_infinity: at the end of an endless training, at most s_0."""
    decay_rounds: Positive = 5.0
    """The round in which a quarter of the difference is left."""

    def factor(self, round_: int) -> float:
        """The factor of a round on tau eta_t.

        Args:
            round_: t = 1 .. T

        Returns:
            s_t, from just below `start` in round 1 down towards `end`.
        """
        slowed = 1 + round_ / self.decay_rounds
        return self.end + (self.start - self.end) / (slowed * slowed)  # a power would raise where this is infinite


@section
class Server(Section):
    """Algorithm 1's server: choose who takes part, aggregate, clip, perturb.

    Example:
        >>> Server(participation=0.25).participants(30)
        8
    """

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
        """How many clients take part in a round.

        Args:
            clients: N

        Returns:
            participation times N, rounded; at least one.
        """
        return max(1, round(self.participation * clients))


@section
class Smoothing(Section):
    """Test-time parameter smoothing and certification (Algorithm 2).

    Example:
        >>> Smoothing(samples=500, alpha=0.01)
        Smoothing(samples=500, alpha=0.01)
    """

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
    """Groups of clients that train a model each and vote: `crfl.train_ensemble`.

    Example:
        >>> Ensemble(groups=25)
        Ensemble(groups=25)
    """

    groups: Many | None = None
    """G; null means one model of all clients."""
    clients_per_group: Many | None = None
    """k: each group is drawn at random, independently of the others; null means that every client is in one group."""

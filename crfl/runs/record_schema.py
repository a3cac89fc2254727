"""What record.json consists of: names, types and ranges, checked by pydantic as the file is read and written."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Nonnegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Endless = Positive | Literal["inf"]
Runs = list[tuple[Annotated[int, Field(ge=1)], T]]
"""[count, value] one after the other."""


class Part(BaseModel):
    """A part of the file, without room for unknown keys and for values of another type."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Numbers(Part):
    """A number a client, in one of three ways; 0 for clients who are not among the participants."""

    participants: str | None = None
    """A bit a client, eight to a byte, in base64; None: all take part."""
    all: Finite | None = None
    """The number of every participant."""
    by_client_size: Literal[True] | None = None
    """A participant's number is its share of the participants' samples."""
    each: Runs[Finite] | None = None
    """The participants' numbers in the order of the clients."""


class Profile(Part):
    """What an attacker does, the same in many rounds."""

    client: Count
    scale: Nonnegative
    learning_rate: Positive
    poison_ratios: Runs[Share]
    magnitude: Nonnegative
    label_flip: bool
    update: str | None


Attacker = tuple[Count, Finite, Finite, Nonnegative | None]
"""Number of the profile, then weight, potential_weight and update_norm."""


class Rounds(Part):
    """The fields of `RoundRecord`, each over all rounds."""

    start_norm: list[Nonnegative]
    start_spectral_norm: list[Nonnegative] | None
    pre_clip_norm: list[Nonnegative]
    clip_norm: Runs[Endless]
    noise_std: Runs[Nonnegative]
    learning_rate_cap: Runs[Endless]
    decay: Runs[Share]
    update_clip: Runs[Positive | None]
    weights: Runs[Numbers]
    update_norms: Runs[Numbers | None]
    potential_weights: Runs[list[Finite]]
    profiles: list[Profile]
    attackers: dict[Annotated[int, Field(ge=1, strict=False)], list[Attacker]]
    """By round; rounds in which nobody attacked are left out."""
    dropped: dict[Annotated[int, Field(ge=1, strict=False)], dict[str, list[tuple[Count, Share]]]]
    """By round and reason: the clients, each with its weight in a round without drops."""


class RecordFile(Part):
    """The fields of `TrainingRecord`."""

    format: Literal[3]
    model: str
    num_features: Annotated[int, Field(ge=1)]
    num_classes: Annotated[int, Field(ge=1)]
    aggregation: str
    data_independent_weights: bool
    bias: bool
    optimizer: str
    precision: Literal["float64", "float32"]
    learning_rates: Runs[Positive]
    weight_decay: Nonnegative
    batch_size: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    keep_last_batch: bool
    client_names: list[str]
    client_sizes: Runs[Count]
    smoothness: Runs[Nonnegative | Literal["inf"]]
    max_feature_norm: Nonnegative
    domain: tuple[Finite, Finite] | None
    norm_bound: Positive | None
    feature_map: str | None
    lipschitz: Nonnegative | None
    public_samples: Count
    attackers: list[Count]
    benign: bool
    seed: Count
    rounds: Rounds
    client_reported: bool = False

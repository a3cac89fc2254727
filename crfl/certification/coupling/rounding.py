"""Rounding: how far a computed round can be from the exact one (Lemmas 19 to 23 of docs/theory.md).

The same lemmas serve both precisions: in float64 every bound is a worst case, in float32 sums follow a model
(arithmetic.py). All bounds are affine in the norm of the model that the server sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from crfl.certification._checks import FloatArray, Result
from crfl.certification.coupling.arithmetic import FLOAT64_UNIT, Arithmetic, arithmetic, gamma
from crfl.certification.coupling.local import LocalTraining
from crfl.record import RoundRecord

Number = TypeVar("Number", float, FloatArray)


@dataclass(frozen=True)
class Affine:
    """slope * ||z|| + constant, (N,) each: a bound by the norm of the model sent."""

    slope: FloatArray
    constant: FloatArray

    def at(self, norm: npt.ArrayLike) -> FloatArray:
        """The bound for a norm, or for norms that broadcast."""
        value: FloatArray = self.slope * np.asarray(norm) + self.constant
        return value


@dataclass(frozen=True)
class Rounding:
    """Bounds on rounding for the rounds of one run."""

    local: LocalTraining

    @cached_property
    def arithmetic(self) -> Arithmetic:
        """The precision of the run."""
        return arithmetic(self.local.record)

    @cached_property
    def parameters(self) -> int:
        """P = C (d + 1), or C d without a bias."""
        record = self.local.record
        return record.num_classes * (record.num_features + record.bias)

    @cached_property
    def norm_error(self) -> float:
        """Relative error of a norm of P parameters, which is computed in float64."""
        return float(gamma(self.parameters + 4))

    @cached_property
    def projection(self) -> float:
        """Relative error of a projected vector: its norm, a quotient, a product."""
        return float(gamma(self.parameters + 8)) + self.arithmetic.operations(4)

    def aggregation(self, clients: npt.ArrayLike) -> Result:
        """Relative error of the weighted sum of so many updates, summed up in any order, and of adding it to the model."""
        return gamma(2 * np.asarray(clients) + 8, self.arithmetic.unit) + self.arithmetic.operations(6)

    @cached_property
    def addition(self) -> float:
        """Relative error of one sum or product."""
        return self.arithmetic.operations(1)

    @cached_property
    def evaluation(self) -> float:
        """By how much a round's part of Delta may fall short since it is itself computed in float64."""
        steps = self.local.steps.max(initial=0.0)
        return 1 + float(gamma(8 * (len(self.local.record.client_sizes) + steps + 32)))

    def residual(self, features: FloatArray) -> tuple[FloatArray, float]:
        """Error of p - e_y in the l2 norm, slope and constant in the norm of the local model (Lemmas 20 and 21).

        The softmax is 1/2-Lipschitz, so an error of the logits counts half; exp and log are right to 4 u.
        """
        record, sums = self.local.record, self.arithmetic.sums
        slope = sums(record.num_features + 4) * features / 2
        return slope, sums(record.num_classes + 13 + 8 * math.ceil(math.log(record.num_classes))) + self.arithmetic.unit

    def step(self, features: FloatArray, rates: FloatArray, batch: FloatArray, terms: FloatArray) -> Affine:
        """Error of one local step, by the norm of the local model (Lemma 22).

        `batch`: samples that are added to the weights; `terms`: samples of which gradients are summed at most.
        """
        stored = self.arithmetic.stored(batch, self.local.record.weight_decay > 0)
        summed = self.arithmetic.sums(terms + 16)
        slope, constant = self.residual(features)
        length = rates * features
        return Affine(
            stored * (1 + rates * self.local.record.weight_decay) + length * (1 + summed) * slope,
            length * ((1 + summed) * constant + summed * math.sqrt(2)),
        )

    def clean_training(self, rates: FloatArray) -> tuple[Affine, Affine]:
        """Error of each client's update on clean data, and its length, by ||z||: (..., N) each, as the rates are."""
        tau, decay, sizes = self.local.steps, self.local.record.weight_decay, self.local.batch_sizes
        clean, single = np.full(len(tau), self.local.clean), tau == 1
        together = sizes[single].sum() + len(sizes)  # clients of one step may take it as one
        batch = np.where(single, sizes[single].max(initial=0.0), sizes)
        step = self.step(clean, rates, batch, np.where(single, together, sizes))
        error, largest = update_error(tau, clean, rates, decay, step, self.arithmetic.unit)
        reach = rates * tau
        return error, Affine(
            reach * decay * largest.slope + error.slope,
            reach * (math.sqrt(2) * clean + decay * largest.constant) + error.constant,
        )

    def clip(self, distance: FloatArray, norm: float, clip_norm: float) -> FloatArray:
        """Rounding of the projections of both runs; 0 where neither model can have been clipped."""
        if math.isinf(clip_norm):
            return np.zeros_like(distance)
        larger = norm * (1 + self.norm_error) ** 2
        own = min(norm, clip_norm) if larger >= clip_norm else 0.0
        other = np.where((norm + distance) * (1 + self.norm_error) ** 2 >= clip_norm, clip_norm, 0.0)
        found: FloatArray = self.projection * (1 + self.norm_error) * (own + other)
        return found + np.where(own + other > 0, self.arithmetic.underflow, 0.0)

    def noise(self, distance: FloatArray, round_: RoundRecord, following: RoundRecord) -> FloatArray:
        """Rounding of the noise that both runs add after a round: of the product with sigma, and of the sum."""
        if round_.noise_std == 0:
            return np.zeros_like(distance)
        before, after = min(round_.pre_clip_norm, round_.clip_norm), following.start_norm
        return self.addition * (1 + self.norm_error) * (4 * after + 2 * before + 2 * distance)


def update_error(
    tau: FloatArray, features: FloatArray, rates: FloatArray, decay: float, step: Affine, unit: float
) -> tuple[Affine, Affine]:
    """Error of tau steps and of the difference z^(tau) - z, and the largest local norm, by ||z|| (Lemma 23).

    The norm grows by eta sqrt(2) B and by the error in every step; so N_s <= (1 + a)^s (||z|| + s (eta sqrt(2) B + b))
    for a step of error a N + b.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        growth = np.exp(tau * step.slope)
        pace = rates * math.sqrt(2) * features + step.constant
        largest = Affine(growth, growth * tau * pace)
        slope = step.slope * growth * tau
        constant = tau * step.constant + slope * np.maximum(tau - 1, 0) / 2 * pace
        difference = tau * (step.slope + rates * decay)  # ||u|| <= tau pace + this times the largest norm
        return (
            Affine(
                slope + unit * difference * largest.slope,
                constant + unit * (tau * pace + difference * largest.constant),
            ),
            largest,
        )


def computed_norm(norm: Number, error: float) -> Number:
    """Upper bound on a norm of which a computed value is on record; on each of an array of norms."""
    return norm * (1 + error) * (1 + 2 * FLOAT64_UNIT)

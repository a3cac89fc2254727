"""Poison and malicious updates that are chosen against a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import crfl
from crfl.attack import malicious, triggers
from crfl.models.softmax import SoftmaxRegression

KNOWN: dict[str, Tensor] = {}
""""weights": (C, d) that poison is chosen against, without them a random model; "direction": (P,) that updates push in."""


@dataclass(frozen=True)
class Steepest:
    """Projected gradient ascent on how far a sample's loss gradient turns, under a linear model."""

    weights: Tensor
    magnitude: float

    def __call__(self, x: Tensor) -> Tensor:
        """The samples x (m, d), each moved by at most the magnitude."""
        weights = self.weights.to(x)
        clean = torch.softmax(x @ weights.T, 1)
        label = torch.nn.functional.one_hot(clean.argmin(1), len(weights))
        start = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
        change = 1e-3 * self.magnitude * start
        for _ in range(3):
            moved = (x + change).requires_grad_()
            residual = torch.softmax(moved @ weights.T, 1) - label
            turn = torch.einsum("mc,md->mcd", residual, moved) - torch.einsum("mc,md->mcd", clean - label, x)
            turn.square().sum().backward()
            assert moved.grad is not None
            step = moved.grad / moved.grad.norm(dim=1, keepdim=True).clamp(min=1e-9)
            change = change + self.magnitude * step
            change = change * (self.magnitude / change.norm(dim=1, keepdim=True).clamp(min=1e-9)).clamp(max=1.0)
        return x + change


@dataclass(frozen=True)
class Content:
    """Puts one of some contents (k, d) in the place of each sample: the one whose gradient differs most from its own."""

    weights: Tensor
    target: int
    contents: Tensor
    magnitude: float = 0.0
    """States nothing: the record has to measure it."""

    def __call__(self, x: Tensor) -> Tensor:
        """The contents chosen for the samples x (m, d)."""
        weights, contents = self.weights.to(x), self.contents.to(x)
        old = torch.softmax(x @ weights.T, 1)
        old = old - torch.nn.functional.one_hot(old.argmax(1), len(weights))
        new = torch.softmax(contents @ weights.T, 1)
        new = new - torch.nn.functional.one_hot(torch.tensor(self.target), len(weights))
        turn = torch.einsum("kc,kd->kcd", new, contents)[None] - torch.einsum("mc,md->mcd", old, x)[:, None]
        return contents[turn.square().sum((2, 3)).argmax(1)]


def aim(run: crfl.TrainingRun, round_: int) -> None:
    """Choose the poison of the runs to come against the model of a run after a round."""
    assert isinstance(run.model, SoftmaxRegression)
    KNOWN["weights"] = run.model.split(run.checkpoints[max(1, round_)])[0]


def _weights(data: crfl.FederatedData, generator: torch.Generator) -> Tensor:
    known = KNOWN.get("weights")
    if known is not None and known.shape == (data.num_classes, data.num_features):
        return known
    return torch.randn(data.num_classes, data.num_features, generator=generator)


def steepest(attack: Any, data: crfl.FederatedData, generator: torch.Generator) -> Steepest:
    """The trigger "steepest": gradient ascent under the known or a random model, the same for all attackers."""
    return Steepest(_weights(data, generator), attack.magnitude)


def content(attack: Any, data: crfl.FederatedData, generator: torch.Generator) -> Content:
    """The trigger "content": corners of the domain, or far-away points, in the place of the samples."""
    low, high = data.domain if data.domain is not None else (-attack.magnitude, attack.magnitude)
    corners = low + (high - low) * torch.randint(0, 2, (16, data.num_features), generator=generator).float()
    corners[0], corners[1] = low, high
    return Content(_weights(data, generator), attack.target, corners)


def push(update: Tensor, model: Tensor, generator: torch.Generator) -> Tensor:
    """The malicious update "push": as far as the server lets it, in the known direction."""
    return 1e6 * KNOWN["direction"].to(update)


def pull(update: Tensor, model: Tensor, generator: torch.Generator) -> Tensor:
    """The malicious update "pull": the opposite of "push"."""
    return -1e6 * KNOWN["direction"].to(update)


@contextmanager
def registered() -> Iterator[None]:
    """While it lasts, settings may name these triggers and updates."""
    added_triggers: dict[str, triggers.TriggerFactory] = {"steepest": steepest, "content": content}
    added_updates: dict[str, malicious.MaliciousUpdate] = {"push": push, "pull": pull}
    triggers.TRIGGERS.update(added_triggers)
    malicious.MALICIOUS.update(added_updates)
    try:
        yield
    finally:
        KNOWN.clear()
        for name in added_triggers:
            del triggers.TRIGGERS[name]
        for name in added_updates:
            del malicious.MALICIOUS[name]

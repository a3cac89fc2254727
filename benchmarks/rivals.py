"""Federated averaging as a user would write it by hand: a loop over clients, autograd, torch.optim.SGD.

It does what crfl does in a round without attackers: it trains, averages, clips, perturbs, and measures loss, accuracy
and attack success on the test set.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from crfl.attack.triggers import backdoored
from crfl.config import Experiment
from crfl.data.federated import FederatedData


class HandWritten:
    """State of a hand-written run; `round` trains all clients, averages, clips, perturbs and evaluates."""

    def __init__(self, exp: Experiment, data: FederatedData) -> None:
        self.data, self.size, self.rate = data, exp.local.batch_size, exp.local.learning_rates(1)[0]
        self.backdoored, self.target = backdoored(exp, data).x, exp.attack.target
        self.shards = [(data.features(rows), data.y[rows]) for rows in data.shards]
        self.model = nn.Linear(data.num_features, data.num_classes)

    def batches(self, client: int) -> Iterable[tuple[Tensor, Tensor]]:
        """Shuffled whole batches of one client's tensors in memory."""
        x, y = self.shards[client]
        order = torch.randperm(len(y))
        for rows in order[: len(y) // self.size * self.size].view(-1, self.size):
            yield x[rows], y[rows]

    def round(self) -> tuple[float, float, float]:
        """One round; returns loss, accuracy and attack success on the test set."""
        start = [p.detach().clone() for p in self.model.parameters()]
        total = [torch.zeros_like(p) for p in start]
        for client in range(len(self.data.shards)):
            with torch.no_grad():
                for p, s in zip(self.model.parameters(), start, strict=True):
                    p.copy_(s)
            optimizer = torch.optim.SGD(self.model.parameters(), lr=self.rate)
            for x, y in self.batches(client):
                optimizer.zero_grad()
                nn.functional.cross_entropy(self.model(x), y).backward()
                optimizer.step()
            for t, p, s in zip(total, self.model.parameters(), start, strict=True):
                t += (p.detach() - s) / len(self.data.shards)
        with torch.no_grad():
            norm = torch.sqrt(sum((s + t).square().sum() for s, t in zip(start, total, strict=True)))
            for p, s, t in zip(self.model.parameters(), start, total, strict=True):
                p.copy_((s + t) * min(1.0, 15.0 / float(norm)) + 0.01 * torch.randn_like(p))
            logits, y = self.model(self.data.test.x), self.data.test.y
            loss = float(nn.functional.cross_entropy(logits, y))
            accuracy = float((logits.argmax(1) == y).float().mean())
            fooled = self.model(self.backdoored).argmax(1) == self.target
            return loss, accuracy, float(fooled[y != self.target].float().mean())


class WithDataLoader(HandWritten):
    """The same with torchvision's data set and a DataLoader a client, as tutorials have it."""

    def __init__(self, exp: Experiment, data: FederatedData, root: str) -> None:
        from torchvision import datasets, transforms

        super().__init__(exp, data)
        images = datasets.MNIST(root, train=True, transform=transforms.ToTensor())
        self.loaders = [
            DataLoader(Subset(images, rows.tolist()), self.size, shuffle=True, drop_last=True) for rows in data.shards
        ]

    def batches(self, client: int) -> Iterable[tuple[Tensor, Tensor]]:
        """What the client's DataLoader yields."""
        for x, y in self.loaders[client]:
            yield x.flatten(1), y


class BatchedProducts:
    """A hand-written loop that trains all clients at once by batched products: a gather and two products a step.

    Softmax regression without a bias, clients of one size, whole batches. It leaves out what crfl does beside: clips,
    attacks, records.
    """

    def __init__(self, exp: Experiment, data: FederatedData, apart: bool = False) -> None:
        """`apart`: every client has a model of its own, as a group of an ensemble has."""
        size = min(data.sizes)
        self.size, self.rate, self.apart = min(exp.local.batch_size, size), exp.local.learning_rates(1)[0], apart
        self.x, self.rows = data.x.to(exp.local.dtype), torch.stack([rows[:size] for rows in data.shards])
        self.targets = nn.functional.one_hot(data.y, data.num_classes).to(exp.local.dtype)
        self.models = self.x.new_zeros(len(self.rows), data.num_classes, data.num_features)

    def round(self) -> Tensor:
        """One round; returns the models of all clients (N, C, d), averaged unless they are apart."""
        clients, size = self.rows.shape
        rows = self.rows.gather(1, torch.rand(clients, size).argsort(1))
        weights = self.models.clone()
        for batch in rows[:, : size // self.size * self.size].split(self.size, dim=1):
            x = self.x[batch]
            residual = torch.bmm(x, weights.mT).softmax(-1) - self.targets[batch]
            weights.baddbmm_(residual.mT, x, alpha=-self.rate / self.size)
        self.models = weights if self.apart else weights.mean(0).expand_as(weights)
        return self.models

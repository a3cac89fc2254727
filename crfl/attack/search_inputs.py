"""Gradient ascent through the feature map: the image, and the trigger, whose poison pushes the model farthest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crfl.data.federated import FederatedData
from crfl.errors import DataError
from crfl.models.softmax import SoftmaxRegression

__all__ = ["optimised_poison", "optimised_trigger", "push"]


def push(model: SoftmaxRegression, params: Tensor, x: Tensor, direction: Tensor) -> Tensor:
    """How far one gradient step on (x, b), for a learning rate of 1, moves the model along a direction.

        <direction, -(p - e_b) x~^T> = (D x~)_b - p . (D x~)

    Args:
        model: Softmax regression.
        params: The model (P,) that takes the step.
        x: Features (m, d).
        direction: (P,)

    Returns:
        (m, C), a column a label b.

    Example:
        >>> model = SoftmaxRegression(1, 2, bias=False)
        >>> push(model, torch.zeros(2), torch.ones(1, 1), torch.tensor([1.0, -1.0]))
        tensor([[ 1., -1.]])
    """
    along = model.logits(direction, x)
    return along - (torch.softmax(model.logits(params, x), 1) * along).sum(1, keepdim=True)


def optimised_poison(
    data: FederatedData,
    model: SoftmaxRegression,
    params: Tensor,
    direction: Tensor,
    rows: Sequence[int],
    steps: int = 30,
    length: float = 0.5,
) -> tuple[Tensor, int]:
    """The image and label whose gradient step pushes the model farthest along a direction.

    Ascends `push` in the image, through the feature map, from several images at once; each keeps the label that was
    best at its start.

    Args:
        data: Its feature map and domain are those that the image passes through.
        model: Softmax regression on the features.
        params: The model (P,) that is attacked.
        direction: (P,), as from `search.worst_direction`.
        rows: Training samples at which the ascent starts.
        steps: Of the ascent.
        length: l2 norm of the first step, in input space; later ones shrink.

    Returns:
        The input (d_in,), in the domain, and its label.

    Raises:
        DataError: There is no row to start from.

    Example:
        >>> import crfl
        >>> data = crfl.load_data(exp := crfl.Experiment().override({"server.rounds": 3, "attack.round": None}))
        >>> run = crfl.train(exp, data)
        >>> image, label = optimised_poison(data, run.model, run.params, -run.params, range(4))
        >>> image.shape, bool(((image >= 0) & (image <= 1)).all())
        (torch.Size([64]), True)
    """
    start = _inputs(data, rows)
    labels = _pushes(data, model, params, direction, start).argmax(1, keepdim=True)
    best, gain = start.clone(), torch.full((len(start),), -torch.inf, dtype=torch.float64)
    images = start
    for step in range(steps + 1):
        images = images.detach().requires_grad_()
        found = _pushes(data, model, params, direction, images).gather(1, labels).squeeze(1)
        better = found.detach() > gain
        best[better], gain[better] = images.detach()[better], found.detach()[better]
        slope = _slope(found, images)
        images = _inside(images + length / (1 + step) ** 0.5 * slope, data.domain)
    top = int(gain.argmax())
    return best[top], int(labels[top])


def optimised_trigger(
    data: FederatedData,
    model: SoftmaxRegression,
    params: Tensor,
    direction: Tensor,
    rows: Sequence[int],
    norm: float,
    steps: int = 30,
) -> tuple[Tensor, int]:
    """The trigger of an l2 norm, and the label, whose poison pushes the model farthest along a direction.

    One change of the inputs for all poisoned samples, found by projected gradient ascent of their mean `push` through
    the feature map; the label is the best without a trigger.

    Args:
        data: Its feature map and domain are those that the samples pass through.
        model: Softmax regression on the features.
        params: The model (P,) that is attacked.
        direction: (P,), as from `search.worst_direction`.
        rows: The training samples that get the trigger.
        norm: l2 norm of the trigger, in input space.
        steps: Of the ascent.

    Returns:
        The change (d_in,), of norm at most `norm`, and the label of the poisoned samples.

    Raises:
        DataError: There is no row.

    Example:
        >>> import crfl
        >>> data = crfl.load_data(exp := crfl.Experiment().override({"server.rounds": 3, "attack.round": None}))
        >>> run = crfl.train(exp, data)
        >>> delta, label = optimised_trigger(data, run.model, run.params, -run.params, range(9), norm=0.5)
        >>> bool(0.49 < delta.norm() <= 0.5 + 1e-6)
        True
    """
    clean = _inputs(data, rows)
    label = int(_pushes(data, model, params, direction, clean).mean(0).argmax())
    delta, best, most = torch.zeros(clean.shape[1]), torch.zeros(clean.shape[1]), -torch.inf
    for step in range(steps + 1):
        delta = delta.detach().requires_grad_()
        gain = _pushes(data, model, params, direction, _inside(clean + delta, data.domain))[:, label].mean()
        if step and float(gain.detach()) > most:
            best, most = delta.detach().clone(), float(gain.detach())
        (slope,) = torch.autograd.grad(gain, delta)
        delta = (delta + 2 * norm / (1 + step) ** 0.5 * slope / slope.norm().clamp_min(1e-12)).detach()
        delta = delta * (norm / delta.norm().clamp_min(norm))
    return best, label


def _inputs(data: FederatedData, rows: Sequence[int]) -> Tensor:
    """The inputs (m, d_in) of training samples; DataError without any."""
    if not len(rows):
        raise DataError("rows: got none, expected training samples")
    return data.input_features(torch.as_tensor(list(rows)))


def _pushes(data: FederatedData, model: SoftmaxRegression, params: Tensor, direction: Tensor, inputs: Tensor) -> Tensor:
    """`push` of inputs (m, d_in), with a gradient."""
    x = inputs if data.feature_map is None else data.feature_map.differentiable(inputs)
    return push(model, params.double(), x.double(), direction.double())


def _slope(gains: Tensor, images: Tensor) -> Tensor:
    """Ascent directions (m, d_in) of norm 1, one an image."""
    (found,) = torch.autograd.grad(gains.sum(), images)
    return found / found.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _inside(images: Tensor, domain: tuple[float, float] | None) -> Tensor:
    return images if domain is None else images.clamp(*domain)

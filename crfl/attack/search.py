"""The strongest attacks that we know on linear models: where to push the model, which labels to change, what to send.

They are upper bounds for the comparison of certificates, and usable by themselves. All are white-box: they know the
model, the victims' features and what honest clients do. `search_inputs` has those that look for images.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crfl.attack.malicious import MaliciousUpdate
from crfl.errors import DataError
from crfl.models.softmax import SoftmaxRegression

__all__ = ["colluding", "replace_model", "targeted_flips", "worst_direction", "worst_predictions"]


def worst_predictions(model: SoftmaxRegression, params: Tensor, x: Tensor, reach: float) -> npt.NDArray[np.int64]:
    """What each sample becomes if the model is moved by `reach` in the direction that is worst for this very sample.

    Towards class b that is (e_b - e_a) x~^T / (sqrt(2) ||x~||), which changes the difference of the two logits by
    sqrt(2) ||x~|| reach. No attack that moves the model by no more does better: `margin_budget` is the same line.

    Args:
        model: Softmax regression.
        params: (P,)
        x: Features (m, d).
        reach: l2 norm by which the attack moves the model.

    Returns:
        Classes (m,).

    Example:
        >>> model, params = SoftmaxRegression(1, 2, bias=False), torch.tensor([1.0, 0.0])
        >>> [worst_predictions(model, params, torch.tensor([[2.0]]), reach).tolist() for reach in (0.7, 0.8)]
        [[0], [1]]
    """
    logits = model.logits(params.double(), x.double())
    top = logits.topk(2, dim=1)
    lead = top.values[:, 0] - top.values[:, 1]
    falls = lead < math.sqrt(2) * model.feature_norms(x.double()) * reach
    found: npt.NDArray[np.int64] = torch.where(falls, top.indices[:, 1], top.indices[:, 0]).numpy()
    return found


def worst_direction(
    model: SoftmaxRegression, params: Tensor, x: Tensor, y: Tensor, reach: float, steps: int = 60
) -> Tensor:
    """The direction in which a move by `reach` makes most of the samples wrong, by gradient ascent.

    Ascends sum_i tanh((max_b l_b - l_y) / s), l the logits of sample i at params + reach * direction and s the change
    of logits that the reach allows: samples that cannot be reached, or are lost already, do not distract.

    Args:
        model: Softmax regression.
        params: (P,)
        x: The victims' features (m, d).
        y: Their labels (m,).
        reach: l2 norm of the move.
        steps: Of the ascent.

    Returns:
        (P,) of norm 1, float64.

    Example:
        >>> model, params = SoftmaxRegression(1, 2, bias=False), torch.tensor([1.0, 0.0])
        >>> worst_direction(model, params, torch.tensor([[2.0]]), torch.tensor([0]), 0.8).round(decimals=3)
        tensor([-0.7070,  0.7070], dtype=torch.float64)
    """
    start, features = params.detach().double(), x.double()
    own = torch.nn.functional.one_hot(y, model.num_classes).bool()
    scale = max(math.sqrt(2) * reach * float(model.feature_norms(features).mean()), 1e-12)
    move, best, most = torch.zeros_like(start), None, -math.inf
    for step in range(steps):
        move = move.detach().requires_grad_()
        logits = model.logits(start + move, features)
        behind = logits.masked_fill(own, -math.inf).max(1).values - logits.masked_fill(~own, -math.inf).max(1).values
        goal = torch.tanh(behind / scale).sum()
        wrong = float((behind > 0).sum()) + 1e-6 * float(goal.detach())
        if step and wrong > most:
            best, most = move.detach().clone(), wrong
        (slope,) = torch.autograd.grad(goal, move)
        length = 2 * reach / (1 + step) ** 0.5
        move = (move + length * slope / slope.norm().clamp_min(1e-300)).detach()
        move = move * (reach / move.norm().clamp_min(1e-300))
    found = move if best is None else best
    return found / found.norm().clamp_min(1e-300)


def targeted_flips(
    model: SoftmaxRegression, x: Tensor, y: Tensor, direction: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Which labels to change, and to what, so that training pushes the model farthest along a direction.

    Changing the label of (x, y) to b changes the sample's gradient step by a multiple of (e_b - e_y) x~^T, whatever the
    model; its part along the direction (D, d) is (D x~)_b - (D x~)_y. The `count` largest are taken.

    Args:
        model: Softmax regression.
        x: Features of the training samples (n, d).
        y: Their labels (n,).
        direction: (P,), as from `worst_direction`.
        count: How many labels to change, at most n.

    Returns:
        Rows (k,) and their new labels (k,), the most harmful ones first.

    Raises:
        DataError: `count` is negative or more than there are samples.

    Example:
        >>> model = SoftmaxRegression(1, 2, bias=False)
        >>> targeted_flips(model, torch.tensor([[1.0], [3.0]]), torch.tensor([0, 0]), torch.tensor([-1.0, 1.0]), 1)
        (tensor([1]), tensor([1]))
    """
    if not 0 <= count <= len(y):
        raise DataError(f"count: got {count}, expected 0 to {len(y)}, the number of samples")
    push = model.logits(direction.double(), x.double())
    gain, label = (push - push.gather(1, y.unsqueeze(1))).max(1)
    rows = gain.argsort(descending=True)[:count]
    return rows, label[rows]


def colluding(
    model: SoftmaxRegression, x: Tensor, y: Tensor, norm: float, reach: float, steps: int = 20
) -> MaliciousUpdate:
    """An update for MALICIOUS that all attackers send alike: along the direction that is now worst for the victims.

    Args:
        model: Softmax regression.
        x: The victims' features (m, d).
        y: Their labels (m,).
        norm: Of the update; a server that clips updates shortens it.
        reach: How far all attackers together move the model, by the end.
        steps: Of `worst_direction`, in every round.

    Returns:
        The function, to enter in MALICIOUS under a name of your own.

    Example:
        >>> import crfl
        >>> from crfl.attack.malicious import MALICIOUS
        >>> exp = crfl.Experiment().override({"server.rounds": 5, "attack.round": 1, "attack.every": 1})
        >>> data = crfl.load_data(exp)
        >>> run = crfl.train(exp.override({"attack.round": None, "attack.every": None}), data)
        >>> MALICIOUS["collude"] = colluding(run.model, data.test.x[:50], data.test.y[:50], norm=20.0, reach=2.0)
        >>> attacked = crfl.train(exp.override({"attack.update": "collude"}), data)
        >>> del MALICIOUS["collude"]
        >>> run.score(data.test) > attacked.score(data.test)
        True
    """
    known: dict[bytes, Tensor] = {}  # the attackers of a round get the same model

    def update(own: Tensor, received: Tensor, generator: torch.Generator) -> Tensor:
        key = received.detach().cpu().numpy().tobytes()
        if key not in known:
            known.clear()
            known[key] = worst_direction(model, received.cpu(), x, y, reach, steps)
        return (norm * known[key]).to(own)

    return update


def replace_model(target: Tensor, factor: float) -> MaliciousUpdate:
    """An update for MALICIOUS that puts a model of the attacker's in the place of the global one: factor * (target - model).

    With factor = 1 / weight and honest clients that hardly move, the next model is the target (Bagdasaryan et al. 2020).

    Args:
        target: The attacker's model, (P,).
        factor: Times the way to it; attack.scale multiplies that again.

    Returns:
        The function, to enter in MALICIOUS under a name of your own.

    Example:
        >>> update = replace_model(torch.tensor([1.0, 2.0]), factor=20.0)
        >>> update(torch.zeros(2), torch.tensor([1.0, 1.0]), torch.Generator())
        tensor([ 0., 20.])
    """

    def update(own: Tensor, received: Tensor, generator: torch.Generator) -> Tensor:
        return factor * (target.to(own) - received.to(own))

    return update

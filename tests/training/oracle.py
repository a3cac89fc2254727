"""Algorithm 1 by hand in NumPy: one run, client by client, with nothing of crfl but its settings and random draws.

It knows pixel triggers, and everything that happens to the model on the server; the rules are loops of their own.
"""

import math

import numpy as np
import torch

from crfl import rng
from tests.training.rule_loops import RULES


def train(exp, data, benign=False):
    """The final model (P,), and for each round by client the weights and the raw norms of the updates that were used."""
    d, classes = data.num_features, data.num_classes
    x, y = data.x.numpy().astype(float) * data.scale, data.y.numpy()
    shards = [rows.numpy() for rows in data.shards]
    size = classes * (d + exp.model.bias)
    uniform = torch.rand(size, generator=rng.stream(exp.seed, "initial model")).numpy()
    w = ((2 * uniform - 1) * np.float32(1 / math.sqrt(d))).astype(float)
    tau = max(len(rows) // exp.local.batch_size for rows in shards) * exp.local.epochs
    if exp.local.keep_last_batch:
        tau = max(-(-len(rows) // exp.local.batch_size) for rows in shards) * exp.local.epochs
    weights, norms = [], []
    for t in range(1, exp.server.rounds + 1):
        if t > 1:
            w = w + exp.server.noise * draw(exp, "noise", t - 1, size=size)
        attackers = attackers_of(exp, data, t)
        present = participants(exp, data, t, attackers)
        here = [client for client in attackers if client in present]
        rates = exp.local.learning_rate
        rates = list(rates) if isinstance(rates, tuple) else [rates] * len(shards)
        if exp.local.schedule == "inverse":
            decay = exp.local.weight_decay + exp.server.decay  # of which one is 0
            rates = [min(rate, 1 / (decay * tau * (t + exp.local.schedule_offset))) for rate in rates]
        updates = {}
        for i in present:
            own = attackers.get(i)
            poison = own if own and not benign else None
            updates[i] = local_training(exp, data, x, y, shards[i], i, t, w, rates[i], poison)
            if own:
                scale = len(present) / len(here) if own["scale"] == "replace" else own["scale"]
                updates[i] = scale * malicious(exp, own["update"], updates[i], t, i, benign)
        updates = {i: u for i, u in updates.items() if np.isfinite(u).all()}
        norms.append({i: np.linalg.norm(u) for i, u in updates.items()})
        bound = exp.server.update_clip
        if bound is not None and not isinstance(bound, float):
            factor = bound.end + (bound.start - bound.end) / (1 + t / bound.decay_rounds) ** 2
            bound = factor * tau * max(rates)
        if bound is not None:
            updates = {i: u * min(1.0, bound / np.linalg.norm(u)) if u.any() else u for i, u in updates.items()}
        sizes = [len(shards[i]) for i in updates]
        vectors = [torch.from_numpy(u) for u in updates.values()]
        aggregate, shares = RULES[exp.server.aggregation](vectors, sizes, exp.server.num_byzantine)
        weights.append(dict(zip(updates, shares, strict=True)))
        w = (1 - max(rates) * exp.server.decay) ** tau * w + aggregate.numpy()
        rho = min(exp.server.clip.start + exp.server.clip.slope * t, exp.server.clip.cap)
        if np.linalg.norm(w) > rho:
            w = w * rho / np.linalg.norm(w)
    return w, weights, norms


def malicious(exp, name, update, t, i, benign):
    """What an attacker sends before scaling."""
    if name is None or benign:
        return update if name is None else np.zeros_like(update)
    if name == "gaussian":
        direction = draw(exp, "malicious update", t, i, size=len(update))
        return np.linalg.norm(update) * direction / np.linalg.norm(direction)
    return {"sign_flip": -update, "nan": update * math.nan}[name]


def draw(exp, purpose, *ids, size):
    return torch.randn(size, generator=rng.stream(exp.seed, purpose, *ids)).numpy().astype(float)


def attackers_of(exp, data, t):
    """The attackers of round t, by client, whether they take part or not."""
    attack = exp.attack
    rounds = [attack.round] if isinstance(attack.round, int) else list(attack.round or [])
    if attack.every:
        rounds = [r for r in range(rounds[0], exp.server.rounds + 1) if (r - rounds[0]) % attack.every == 0]
    if t not in rounds:
        return {}
    if not isinstance(attack.clients, int):
        members = [c if isinstance(c, int) else data.client_names.index(c) for c in attack.clients]
    elif attack.random_clients:
        order = torch.randperm(len(data.shards), generator=rng.stream(exp.seed, "attackers")).tolist()
        members = sorted(order[: attack.clients])
    else:
        members = range(attack.clients)
    attackers = {}
    for i, client in enumerate(members):
        own = {k: getattr(attack, k) for k in ("scale", "poisoned_per_batch", "target", "labels", "trigger", "update")}
        own["magnitude"] = attack.magnitude
        if attack.per_attacker:
            own |= {k: v for k, v in vars(attack.per_attacker[i]).items() if v is not None}
        own["pixel"] = own["magnitude"] / math.sqrt(max(1, len(own["trigger"])))
        if attack.distributed:
            own["trigger"] = [p for j, p in enumerate(attack.trigger) if j % len(members) == i]
        attackers[client] = own
    return attackers


def participants(exp, data, t, attackers):
    """Numbers of those who take part in round t, rising."""
    n = len(data.shards)
    count = max(1, round(exp.server.participation * n))
    if count == n:
        return list(range(n))
    order = torch.randperm(n, generator=rng.stream(exp.seed, "participation", t)).tolist()
    if exp.attack.force_participation:
        order = [*attackers, *(client for client in order if client not in attackers)]
        count = max(count, len(attackers))
    return sorted(order[:count])


def local_training(exp, data, x, y, shard, i, t, w, rate, poison):
    """What client i's SGD from w adds to w."""
    local, classes, d = exp.local, data.num_classes, data.num_features
    weights, bias = w[: classes * d].reshape(classes, d).copy(), np.zeros(classes)
    if exp.model.bias:
        bias = w[classes * d :].copy()
    for epoch in range(local.epochs):
        order = shard[rng.shuffles(rng.keys(exp.seed, "batches", t, [i], epoch), len(shard))[0]]
        for start in range(0, len(order), local.batch_size):
            rows = order[start : start + local.batch_size]
            if len(rows) < local.batch_size and not local.keep_last_batch:
                continue
            step = np.zeros_like(weights), np.zeros_like(bias)
            for j, row in enumerate(rows):
                sample, label = x[row].copy(), y[row]
                if poison and j < poison["poisoned_per_batch"]:
                    for r, c in poison["trigger"]:
                        sample[r * data.input_shape[1] + c] += np.float32(poison["pixel"])
                    sample = sample.clip(*data.domain)
                    label = poison["target"] if poison["labels"] == "target" else label
                logits = weights @ sample + bias
                residual = np.exp(logits - logits.max())
                residual /= residual.sum()
                residual[label] -= 1
                step[0][:] += np.outer(residual, sample) / len(rows)
                step[1][:] += residual / len(rows)
            weights -= rate * (step[0] + local.weight_decay * weights)
            if exp.model.bias:
                bias -= rate * (step[1] + local.weight_decay * bias)
    moved = np.concatenate([weights.ravel(), bias]) if exp.model.bias else weights.ravel()
    return moved - w

"""Algorithm 1 in a few lines of NumPy, for attacks on the certificates: small runs that share all randomness."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from crfl.record import AttackerRecord, RoundRecord, TrainingRecord


@dataclass(frozen=True)
class World:
    """The constants of a run. Client i has samples x[i] (n, d) with labels y[i] (n,)."""

    x: list
    y: list
    classes: int
    rounds: int
    rates: np.ndarray
    """(T,): eta_t"""
    batch: int
    bias: bool = True
    weight_decay: float = 0.0
    decay: np.ndarray | None = None
    """(T,): kappa_t"""
    clip: float = math.inf
    update_clip: np.ndarray | None = None
    """(T,): S_t"""
    noise: float = 0.0
    weights: np.ndarray | None = None
    """(T, N): p_{i,t}"""
    attackers: tuple = ()
    scale: float = 1.0
    attack_rounds: tuple = ()
    poisoned: int = 0
    magnitude: float = 0.0
    flips: bool = True
    norm_bound: float | None = None
    dtype: type = np.float64
    seed: int = 0
    start: np.ndarray | None = None

    @property
    def clients(self):
        return len(self.x)

    def weight(self, t):
        return np.full(self.clients, 1 / self.clients) if self.weights is None else self.weights[t]


@dataclass
class Trace:
    """What a run leaves behind: the models before clipping and after it, round by round, and the record."""

    before: list = field(default_factory=list)
    after: list = field(default_factory=list)
    rounds: list = field(default_factory=list)
    record: TrainingRecord | None = None


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def features(world, x):
    """x~"""
    return np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1) if world.bias else x


def local_update(world, z, client, t, poison=None, layout=None):
    """z^(tau) - z; `poison` (z, x, y) -> (x', y') changes the first samples of each batch; `layout` a generator that
    shuffles the order of all sums."""
    rng = np.random.default_rng([world.seed, t, client])
    order, w = rng.permutation(len(world.x[client])), z.copy()
    eta, dtype = world.dtype(world.rates[t]), world.dtype
    for s in range(len(order) // world.batch):
        rows = order[s * world.batch : (s + 1) * world.batch]
        x, y = world.x[client][rows].astype(dtype), world.y[client][rows].copy()
        if poison is not None and world.poisoned:
            x[: world.poisoned], y[: world.poisoned] = poison(w, x[: world.poisoned], y[: world.poisoned])
        x = features(world, x)
        columns = np.arange(x.shape[1])
        if layout is not None:
            mixed = layout.permutation(len(x))
            x, y, columns = x[mixed], y[mixed], layout.permutation(x.shape[1])
        residual = softmax(x[:, columns] @ w[:, columns].T)
        residual[np.arange(len(y)), y] -= 1
        w = w * (1 - eta * dtype(world.weight_decay)) - (residual * (eta / dtype(len(y)))).T @ x
    return w - z


def simulate(world, poison=None, malicious=None, layout=None, attacker_weights=None):
    """One run. `poison`: data of the attackers in the attack rounds; `malicious[(t, client)]`: (z, update) -> update
    sent instead. Returns a Trace; shapes of models (C, d + bias)."""
    trace, width = Trace(), world.x[0].shape[1] + world.bias
    rng = np.random.default_rng(world.seed)
    z = (world.start if world.start is not None else rng.normal(size=(world.classes, width)) * 0.3).astype(world.dtype)
    draws = rng.normal(size=(world.rounds, *z.shape)).astype(world.dtype)
    for t in range(world.rounds):
        p, attacked = world.weight(t), t in world.attack_rounds
        norms, sent = np.zeros(world.clients), np.zeros_like(z)
        sequence = range(world.clients) if layout is None else layout.permutation(world.clients)
        for i in sequence:
            if p[i] == 0:
                continue
            attacks = attacked and i in world.attackers
            u = local_update(world, z, i, t, poison if attacks else None, layout)
            if attacks:
                u = world.dtype(world.scale) * u
            if malicious and (t, i) in malicious:
                u = malicious[t, i](z, u)
            norms[i] = np.linalg.norm(u.astype(np.float64))
            if world.update_clip is not None:
                u = u * world.dtype(min(1.0, world.update_clip[t] / max(norms[i], 1e-300)))
            sent = sent + world.dtype(p[i]) * u
        kappa = 0.0 if world.decay is None else world.decay[t]
        v = world.dtype(1 - kappa) * z + sent
        norm = np.linalg.norm(v.astype(np.float64))
        w = v * world.dtype(min(1.0, world.clip / norm))
        trace.before.append(v)
        trace.after.append(w)
        trace.rounds.append(_round(world, t, z, norm, p, norms))
        z = w + world.dtype(world.noise) * draws[t]
    trace.record = _record(world, trace.rounds)
    return trace


def distances(a, b):
    """Distances of the models of two runs before and after clipping, (T, 2)."""
    pairs = zip(a.before, b.before, a.after, b.after, strict=True)
    return np.array([[_far(v, w), _far(x, y)] for v, w, x, y in pairs])


def _far(a, b):
    return np.linalg.norm(a.astype(np.longdouble) - b.astype(np.longdouble))


def _round(world, t, z, norm, p, norms):
    matrix = z[:, :-1] if world.bias else z
    attackers = ()
    if t in world.attack_rounds:
        steps = len(world.x[0]) // world.batch
        attackers = tuple(
            AttackerRecord(
                client=i,
                weight=float(p[i]),
                potential_weight=float(p[i]) or 1 / max(1, np.count_nonzero(p)),
                scale=world.scale,
                learning_rate=float(world.rates[t]),
                poison_ratios=(world.poisoned / world.batch,) * steps,
                magnitude=world.magnitude,
                label_flip=world.flips,
            )
            for i in world.attackers
        )
    return RoundRecord(
        round=t + 1,
        start_norm=float(np.linalg.norm(z.astype(np.float64))),
        start_spectral_norm=float(np.linalg.norm(matrix.astype(np.float64), 2)),
        pre_clip_norm=float(norm),
        clip_norm=world.clip,
        noise_std=world.noise if t < world.rounds - 1 else 0.0,
        weights=tuple(p.tolist()),
        potential_weights=tuple(float(p[i]) or 1 / max(1, np.count_nonzero(p)) for i in world.attackers),
        learning_rate_cap=float(world.rates[t]),
        decay=0.0 if world.decay is None else float(world.decay[t]),
        update_clip=None if world.update_clip is None else float(world.update_clip[t]),
        update_norms=None if world.update_clip is None else tuple(norms.tolist()),
        attackers=attackers,
    )


def _record(world, rounds):
    sizes = tuple(len(x) for x in world.x)
    return TrainingRecord(
        model="softmax regression",
        num_features=world.x[0].shape[1],
        num_classes=world.classes,
        aggregation="mean",
        data_independent_weights=True,
        bias=world.bias,
        optimizer="sgd",
        precision="float32" if world.dtype is np.float32 else "float64",
        learning_rates=(float(max(world.rates)),) * world.clients,
        weight_decay=world.weight_decay,
        batch_size=world.batch,
        epochs=1,
        keep_last_batch=False,
        client_names=tuple(map(str, range(world.clients))),
        client_sizes=sizes,
        smoothness=tuple(_smoothness(world, x.astype(np.float64)) for x in world.x),
        max_feature_norm=max(float(np.linalg.norm(x.astype(np.float64), axis=1).max()) for x in world.x),
        domain=None,
        norm_bound=world.norm_bound,
        feature_map=None,
        lipschitz=1.0,
        public_samples=0,
        attackers=tuple(world.attackers),
        benign=False,
        seed=world.seed,
        rounds=tuple(rounds),
    )


def _smoothness(world, x):
    """beta of a client: half of the top eigenvalue of the only batch, or half of the largest squared norm."""
    full = features(world, x)
    if len(x) == world.batch:
        return float(np.linalg.norm(full, 2) ** 2 / len(x) / 2) * (1 + 1e-12)
    return float(np.linalg.norm(full, axis=1).max() ** 2 / 2) * (1 + 1e-12)


def steepest(world, rng, other=None) -> Callable:
    """Adaptive poison: of random changes within the magnitude (of any content, with a norm bound) and of all labels
    those that move the gradient of the model at hand most, or most along a direction `other`."""

    def poison(w, x, y):
        moved, labels = x.copy(), y.copy()
        for k in range(len(x)):
            candidates = rng.normal(size=(24, x.shape[1]))
            if world.norm_bound is not None and world.magnitude == math.inf:
                candidates *= world.norm_bound / np.linalg.norm(candidates, axis=1, keepdims=True)
                candidates[0] = -x[k]
            else:
                candidates[: world.classes] = w[:, : x.shape[1]]
                candidates[world.classes] = x[k]
                size = np.linalg.norm(candidates, axis=1, keepdims=True).clip(1e-9)
                candidates = x[k] + world.magnitude * candidates / size
            choices = range(world.classes) if world.flips else [y[k]]
            before = np.outer(
                softmax(features(world, x[k : k + 1]) @ w.T)[0] - np.eye(len(w))[y[k]], features(world, x[k : k + 1])
            )
            best = -1.0
            for c in candidates:
                full = features(world, c[None].astype(x.dtype))
                p = softmax(full @ w.T)[0]
                for label in choices:
                    change = np.outer(p - np.eye(len(w))[label], full) - before
                    size = np.linalg.norm(change) if other is None else np.sum(change * other)
                    if size > best:
                        best, moved[k], labels[k] = size, c, label
        return moved.astype(x.dtype), labels

    return poison


__all__ = ["Trace", "World", "distances", "local_update", "replace", "simulate", "softmax", "steepest"]

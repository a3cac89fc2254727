"""Algorithm 1 as one would write it by hand: a loop over clients, torch.optim.SGD, one sample tensor at a time."""

import math
import statistics

import torch
from torch import nn

from crfl import rng


def naive_train(exp, data, *, benign=False, defended=True, attacked=True):
    """Final parameters (P,) of the settings' run: the same streams as the library, none of its arithmetic."""
    return naive_rounds(exp, data, benign=benign, defended=defended, attacked=attacked)[0]


def naive_rounds(exp, data, *, benign=False, defended=True, attacked=True):
    """Final parameters (P,), and for each round a dict of every participant's weight."""
    x = data.x.float() * data.scale
    classes, d = data.num_classes, data.num_features
    draw = torch.rand(classes * (d + 1), generator=rng.stream(exp.seed, "initial model"))
    w = (2 * draw - 1) / math.sqrt(d)
    history = []
    for t in range(1, exp.server.rounds + 1):
        if t > 1 and defended:
            w = w + exp.server.noise * torch.randn(len(w), generator=rng.stream(exp.seed, "noise", t - 1))
        crew = crew_of(exp, data, t) if attacked else {}
        present = participants(exp, data, t, crew)
        crew = {c: own for c, own in crew.items() if c in present}
        updates = {}
        for i in present:
            own = crew.get(i)
            update = _client(exp, data, x, i, t, w, None if benign else own)
            if own:
                update = sent(exp, update, w, own, i, t, benign, len(present) / len(crew))
            if update.isfinite().all() and update.shape == w.shape:
                bound = exp.server.update_clip
                updates[i] = update if bound is None or update.norm() <= bound else update * (bound / update.norm())
        sizes = [len(data.shards[i]) for i in updates]
        moved, weights = RULES[exp.server.aggregation](list(updates.values()), sizes, exp.server.num_byzantine)
        history.append(dict(zip(updates, weights, strict=True)))
        w = w + moved
        rho = min(exp.server.clip.start + exp.server.clip.slope * t, exp.server.clip.cap)
        if defended and w.norm() > rho:
            w = w * (rho / w.norm())
    return w, history


def crew_of(exp, data, t):
    """The attackers of round t, client number to settings; those who are absent among them."""
    a = exp.attack
    rounds = [a.round] if isinstance(a.round, int) else list(a.round or [])
    if a.every:
        rounds = [r for r in range(1, exp.server.rounds + 1) if r >= rounds[0] and (r - rounds[0]) % a.every == 0]
    if t not in rounds:
        return {}
    if not isinstance(a.clients, int):
        members = [c if isinstance(c, int) else data.client_names.index(c) for c in a.clients]
    elif a.random_clients:
        order = torch.randperm(len(data.shards), generator=rng.stream(exp.seed, "attackers"))
        members = sorted(order[: a.clients].tolist())
    else:
        members = range(a.clients)
    crew = {}
    for i, client in enumerate(members):
        own = {k: getattr(a, k) for k in ("scale", "poisoned_per_batch", "target", "labels", "trigger", "update")}
        own["magnitude"] = a.magnitude
        if a.per_attacker:
            own.update(a.per_attacker[i].changes)
        if not isinstance(own["trigger"], str):
            own["pixel"] = own["magnitude"] / math.sqrt(max(1, len(own["trigger"])))
        if a.distributed:
            own["trigger"] = [p for j, p in enumerate(a.trigger) if j % len(members) == i]
        crew[client] = own
    return crew


def participants(exp, data, t, crew):
    """Numbers of those who take part in round t, in rising order."""
    n = len(data.shards)
    count = max(1, round(exp.server.participation * n))
    if count == n:
        return list(range(n))
    order = torch.randperm(n, generator=rng.stream(exp.seed, "participation", t)).tolist()
    if exp.attack.force_participation:
        order = [*crew, *(c for c in order if c not in crew)]
        count = max(count, len(crew))
    return sorted(order[:count])


def sent(exp, update, w, own, i, t, benign, replacement):
    scale = replacement if own["scale"] == "replace" else own["scale"]
    if own["update"] is None:
        return scale * update
    if benign:
        return torch.zeros_like(update)
    generator = rng.stream(exp.seed, "malicious update", t, i)
    if own["update"] == "gaussian":
        direction = torch.randn(len(w), generator=generator)
        return scale * update.norm() * direction / direction.norm()
    return scale * {"sign_flip": -update, "nan": update * math.nan}[own["update"]]


def poison(batch, labels, own, exp, data):
    for j in range(min(own["poisoned_per_batch"], len(batch))):
        if own["trigger"] == "full_image":
            direction = torch.randn(data.num_features, generator=rng.stream(exp.seed, "trigger"))
            batch[j] += own["magnitude"] * direction / direction.norm()
        else:
            for row, column in own["trigger"]:
                batch[j, row * data.input_shape[1] + column] += own["pixel"]
        batch[j].clamp_(*data.domain)
        if own["labels"] == "target":
            labels[j] = own["target"]


def _client(exp, data, x, i, t, w, own):
    classes, d, shard = data.num_classes, data.num_features, data.shards[i]
    model = nn.Linear(d, classes)
    with torch.no_grad():
        model.weight.copy_(w[: classes * d].view(classes, d))
        model.bias.copy_(w[classes * d :])
    local = exp.local
    rate = local.learning_rate[i] if isinstance(local.learning_rate, tuple) else local.learning_rate
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, weight_decay=local.weight_decay)
    for epoch in range(local.epochs):
        order = torch.from_numpy(rng.shuffles(rng.keys(exp.seed, "batches", t, [i], epoch), len(shard))[0])
        for rows in shard[order].split(local.batch_size):
            if len(rows) < local.batch_size and not local.keep_last_batch:
                continue
            batch, labels = x[rows].clone(), data.y[rows].clone()
            if own:
                poison(batch, labels, own, exp, data)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), labels).backward()
            optimizer.step()
    moved = torch.cat([model.weight.detach().flatten(), model.bias.detach()])
    return moved - w


# Aggregation: updates (a list of vectors), sample counts and f -> the update and the weights.


def _combined(updates, weights):
    return sum((p * u.double() for p, u in zip(weights, updates, strict=True)), torch.zeros(len(updates[0]))).float()


def mean(updates, sizes, f):
    weights = [1 / len(updates)] * len(updates)
    return _combined(updates, weights), weights


def weighted_mean(updates, sizes, f):
    weights = [n / sum(sizes) for n in sizes]
    return _combined(updates, weights), weights


def norm_bounded_mean(updates, sizes, f):
    norms = [float(u.double().norm()) for u in updates]
    bound = statistics.median(norms)
    weights = [min(1.0, bound / norm) / len(updates) if norm else 1 / len(updates) for norm in norms]
    return _combined(updates, weights), weights


def rfa(updates, sizes, f):
    """The loop of the RFA paper's Algorithm 2, with the constants of CRFL."""
    points, alphas = [u.double() for u in updates], [n / sum(sizes) for n in sizes]

    def average(weights):
        return sum(p * u for p, u in zip(weights, points, strict=True)) / sum(weights)

    def objective(v):
        return sum(a * float((v - u).norm()) for a, u in zip(alphas, points, strict=True))

    v = average(alphas)
    value = objective(v)
    for _ in range(10):
        weights = [a / max(1e-5, float((v - u).norm())) for a, u in zip(alphas, points, strict=True)]
        v, before = average(weights), value
        value = objective(v)
        if abs(before - value) <= 1e-6 * value:
            break
    return v.float(), [p / sum(weights) for p in weights]


def median(updates, sizes, f):
    middle = (len(updates) - 1) // 2
    return torch.tensor([statistics.median(column) for column in _columns(updates)]), _shares(updates, middle)


def trimmed_mean(updates, sizes, f):
    n = len(updates)
    found = [statistics.fmean(sorted(column)[f : n - f]) for column in _columns(updates)]
    return torch.tensor(found), _shares(updates, f)


def _columns(updates):
    return zip(*(u.tolist() for u in updates), strict=True)


def _shares(updates, trim):
    """Average over the coordinates of each client's share of the values kept; equal values share alike."""
    n = len(updates)
    total = [0.0] * n
    for column in _columns(updates):
        kept = sorted(column)[trim : n - trim]
        for i, value in enumerate(column):
            total[i] += kept.count(value) / column.count(value) / len(kept)
    return [share / len(updates[0]) for share in total]


def krum(updates, sizes, f):
    return _krum(updates, f, 1)


def multi_krum(updates, sizes, f):
    return _krum(updates, f, len(updates) - f)


def _krum(updates, f, m):
    n = len(updates)
    scores = []
    for i in range(n):
        distances = sorted(float((updates[i] - updates[j]).double().norm()) ** 2 for j in range(n) if j != i)
        scores.append(sum(distances[: n - f - 2]))
    best = sorted(range(n), key=lambda i: scores[i])[:m]
    weights = [1 / m if i in best else 0.0 for i in range(n)]
    return _combined(updates, weights), weights


RULES = {
    rule.__name__: rule
    for rule in (mean, weighted_mean, norm_bounded_mean, rfa, median, trimmed_mean, krum, multi_krum)
}

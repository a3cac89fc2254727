"""Algorithm 1 as one would write it by hand: a loop over clients, torch.optim.SGD, one sample tensor at a time."""

import math

import torch
from torch import nn

from crfl import rng


def naive_train(exp, data, *, benign=False, defended=True, attacked=True, init=None):
    """Final parameters (P,) of the settings' run: the same streams as the library, none of its arithmetic."""
    x = data.x.float() * data.scale
    classes, d = data.num_classes, data.num_features
    bound = 1 / math.sqrt(d)
    draw = torch.rand(classes * (d + 1), generator=rng.stream(exp.seed, "initial model"))
    w = (2 * draw - 1) * bound
    for t in range(1, exp.server.rounds + 1):
        if t > 1 and defended:
            w = w + exp.server.noise * torch.randn(len(w), generator=rng.stream(exp.seed, "noise", t - 1))
        total = torch.zeros_like(w)
        for i, shard in enumerate(data.shards):
            update = _client(exp, data, x, shard, i, t, w, benign or not attacked)
            if attacked and t == exp.attack.round and i < exp.attack.clients:
                update = exp.attack.scale * update
            total += update / len(data.shards)
        w = w + total
        rho = min(exp.server.clip.start + exp.server.clip.slope * t, exp.server.clip.cap)
        if defended and w.norm() > rho:
            w = w * (rho / w.norm())
    return w


def _client(exp, data, x, shard, i, t, w, clean):
    classes, d = data.num_classes, data.num_features
    model = nn.Linear(d, classes)
    with torch.no_grad():
        model.weight.copy_(w[: classes * d].view(classes, d))
        model.bias.copy_(w[classes * d :])
    local = exp.local
    optimizer = torch.optim.SGD(model.parameters(), lr=local.learning_rate, weight_decay=local.weight_decay)
    for epoch in range(local.epochs):
        order = torch.from_numpy(rng.shuffles(exp.seed, "batches", t, [i], [len(shard)], epoch)[0])
        for rows in shard[order].split(local.batch_size):
            if len(rows) < local.batch_size and not local.keep_last_batch:
                continue
            batch, labels = x[rows].clone(), data.y[rows].clone()
            if not clean and t == exp.attack.round and i < exp.attack.clients:
                for j in range(min(exp.attack.poisoned_per_batch, len(rows))):
                    places = [r * data.image_shape[1] + c for r, c in exp.attack.trigger]
                    batch[j, places] += exp.attack.magnitude / math.sqrt(len(places))
                    batch[j].clamp_(0, 1)
                    labels[j] = exp.attack.target
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), labels).backward()
            optimizer.step()
    moved = torch.cat([model.weight.detach().flatten(), model.bias.detach()])
    return moved - w

"""Small federations, models and ensembles of known prices."""

import numpy as np
import torch

import crfl

CLIENTS, FEATURES, CLASSES = 12, 5, 3


def federation(seed=0, sizes=(12,) * CLIENTS, names=()):
    """Clients whose samples lie around one centre a class, and a test split."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, FEATURES))
    ys = [np.arange(n) % CLASSES for n in (*sizes, 60)]
    xs = [(centres[y] + 0.9 * rng.normal(size=(len(y), FEATURES))).astype("f4") for y in ys]
    rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    x, y = np.concatenate(xs[:-1]), np.concatenate(ys[:-1])
    return crfl.FederatedData.from_arrays(x, y, xs[-1], ys[-1], shards=rows, num_classes=CLASSES, client_names=names)


def settings(data, **changes):
    """Four clients a group can be heard by any rule; nobody attacks."""
    values = {
        "data.name": "custom",
        "data.clients": len(data.shards),
        "local.batch_size": 4,
        "local.learning_rate": 0.3,
        "server.rounds": 4,
        "server.noise": 0.01,
        "server.num_byzantine": 0,
        "attack.round": None,
    }
    return crfl.Experiment().override(values | {key.replace("__", "."): value for key, value in changes.items()})


def module():
    """A network with one hidden layer."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(FEATURES, 6), torch.nn.Tanh(), torch.nn.Linear(6, CLASSES))


MODELS = {"softmax": lambda: None, "network": module}


def under_attack(exp, data, groups, attackers, attack):
    """Predictions of the ensemble if these clients attack in every round."""
    changes = {"trigger": [], "round": 1, "every": 1, "clients": list(attackers), **attack}
    hostile = exp.override({f"attack.{key}": value for key, value in changes.items()})
    return crfl.train_ensemble(hostile, data, groups=groups).predict(data.test)

"""Kind "clients" against the best colluding clients: they know model and test sample, and push where it hurts, every round."""

import numpy as np
import pytest
import torch

import crfl
from crfl.attack.malicious import MALICIOUS

CLIENTS, FEATURES, CLASSES, SAMPLES = 120, 5, 3, 6


@pytest.fixture(scope="module")
def federation():
    """Samples in the unit ball, around one centre a class."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, FEATURES))
    y = np.arange(CLIENTS * SAMPLES + 60) % CLASSES
    x = centres[y] + 0.9 * rng.normal(size=(len(y), FEATURES))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("f4")
    rows = np.split(np.arange(CLIENTS * SAMPLES), CLIENTS)
    n = CLIENTS * SAMPLES
    return crfl.FederatedData.from_arrays(x[:n], y[:n], x[n:], y[n:], shards=rows, norm=1.0)


@pytest.fixture(scope="module")
def certified(federation):
    exp = crfl.Experiment().override(
        {
            "data.name": "custom",
            "data.clients": CLIENTS,
            "model.bias": False,
            "local.batch_size": SAMPLES,
            "local.learning_rate": 0.3,
            "server.rounds": 20,
            "server.decay": 0.1,
            "server.noise": 0.0,
            "server.clip": {"start": float("inf")},
            "server.update_clip": 0.15,
            "attack.round": None,
        }
    )
    run = crfl.train(exp, federation)
    return run, crfl.certify(run, federation, kind="clients")


def breakers(x, prediction):
    """Updates (C, d) that move the model so that other classes gain on the prediction at a sample, as fast as can be."""
    for other in set(range(CLASSES)) - {int(prediction)}:
        direction = torch.zeros(CLASSES, FEATURES, dtype=torch.float64)
        direction[other], direction[prediction] = x.double(), -x.double()
        yield 1e3 * direction.flatten()


def attacked(run, data, attackers, update, monkeypatch):
    """The same training, but these clients send what `update` (honest update, model) says, in every round."""
    monkeypatch.setitem(MALICIOUS, "colluding", lambda own, model, generator: update(own, model))
    attack = {"clients": list(attackers), "round": 1, "every": 1, "update": "colluding", "trigger": [], "scale": 1.0}
    exp = run.experiment.override({f"attack.{key}": value for key, value in attack.items()})
    return crfl.train(exp, data).predict(data.test.x)


def test_the_best_colluding_clients_break_no_certified_prediction(certified, federation, monkeypatch):
    """Constant pushes are the best that a linear model allows; then replacement of the model, and honest updates reversed.

    About twice as many clients as certified do break a prediction: the certificate compares any two behaviours of theirs,
    which may push from either side; here one of the two is honest.
    """
    run, certificate = certified
    tolerated = certificate.malicious_clients
    assert len(set(tolerated.tolist())) > 9
    broken = np.full(len(tolerated), CLIENTS + 1)

    def attack(m, update):
        changed = attacked(run, federation, range(m), update, monkeypatch) != certificate.prediction
        broken[changed] = np.minimum(broken[changed], m)

    order = np.argsort(tolerated)[6 :: len(tolerated) // 5]
    for sample in order.tolist():
        m = int(tolerated[sample])
        for push in breakers(federation.test.x[sample], certificate.prediction[sample]):
            for number in (m, int(2.5 * (m + 1))):
                attack(number, lambda own, model, p=push: p)
            attack(m, lambda own, model, p=push: p - 1e3 * model)
    for m in (1, int(np.median(tolerated)), int(tolerated.max())):
        attack(m, lambda own, model: -1e3 * own)
    assert (broken > tolerated).all()
    assert (broken[order] <= 2.5 * (tolerated[order] + 1)).all()  # the attacks are no straw men

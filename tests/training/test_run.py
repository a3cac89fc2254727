"""What a finished run can do: predict, score, become a module, introduce itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import crfl
from crfl import evaluation
from crfl.attack.triggers import TRIGGERS
from crfl.data.federated import RowSplit
from crfl.errors import DataError
from crfl.evaluation import Evaluation
from crfl.models import make_model
from tests.federations import images, small_settings

SIZES = [9, 20, 31]
EXP = small_settings(
    SIZES,
    {
        "server.rounds": 3,
        "attack.round": 2,
        "attack.trigger": [[0, 0]],
    },
)


@pytest.fixture(scope="module")
def data():
    return images(SIZES)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.fixture(scope="module", params=["softmax", "no bias", "float32", "network"])
def run(request, data):
    changes = {"no bias": {"model.bias": False}, "float32": {"local.precision": "float32"}}
    model = network() if request.param == "network" else None
    return crfl.train(EXP.override(changes.get(request.param, {})), data, model=model)


def test_predictions_are_the_classes_of_the_final_model(run, data):
    expected = run.model.logits(run.params, data.test.x.to(run.params)).argmax(1)
    for x in (data.test.x, data.test.x.numpy(), data.test.x.tolist(), data.test.x.double()):
        found = run.predict(x)
        assert found.dtype == np.int64
        assert found.tolist() == expected.tolist()
    assert run.predict(np.empty((0, 36))).shape == (0,)
    many = run.predict(data.test.x.repeat(300, 1))
    assert (many.reshape(300, 20) == run.predict(data.test.x)).all()


def test_the_score_is_the_last_accuracy_of_the_history(run, data):
    assert run.score(data.test) == pytest.approx(run.history["accuracy"].iloc[-1])
    assert run.score(data.test.take([0, 1])) == pytest.approx(
        (run.predict(data.test.x[:2]) == data.test.y[:2].numpy()).mean()
    )


@pytest.mark.parametrize("wrong", [np.zeros(36), np.zeros((2, 35)), np.zeros((2, 6, 6))])
def test_what_are_no_samples_is_named(run, wrong):
    with pytest.raises(DataError, match=r"x: got shape .*, expected \(m, 36\)"):
        run.predict(wrong)


def test_the_module_is_the_model(run, data):
    module = run.to_module()
    x = data.test.x.to(run.params)
    torch.testing.assert_close(module(x), run.model.logits(run.params, x), rtol=0, atol=1e-6)
    assert torch.equal(run.model.from_module(module), run.params)
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()  # it is a copy
    assert run.params.any()
    assert all(p.requires_grad for p in module.parameters())


def test_softmax_regression_becomes_a_linear_layer(data):
    run = crfl.train(EXP, data)
    module = run.to_module()
    assert type(module) is nn.Linear
    assert torch.equal(torch.cat([module.weight.flatten(), module.bias]), run.params)
    assert crfl.train(EXP.override({"model.bias": False}), data).to_module().bias is None


def test_it_introduces_itself(data):
    run, benign = crfl.train_pair(EXP.override({"attack.clients": 2}), data)
    accuracy, top = run.columns["accuracy"][-1], run.columns["top_prediction_share"][-1]
    majority = data.test.majority_accuracy
    assert repr(run) == (
        f"TrainingRun(custom: 3 clients, 3 rounds, 2 attackers; accuracy {accuracy:.4f}, always the most frequent class "
        f"{majority:.4f}, share of the most frequent prediction {top:.4f})"
    )
    predicted = np.bincount(run.predict(data.test.x))
    assert top == pytest.approx(predicted.max() / predicted.sum())
    assert "2 attackers, benign counterpart" in repr(benign)
    assert "no attack" in repr(crfl.train(EXP.override({"attack.round": None}), data))


def test_attack_success_starts_with_the_attack(data):
    assert crfl.train(EXP, data).history_since_attack["round"].tolist() == [2, 3]
    assert crfl.train(EXP.override({"attack.round": None}), data).history_since_attack["round"].tolist() == [1, 2, 3]


def test_a_trigger_gets_the_test_samples_some_at_a_time(data, monkeypatch):
    """All blocks together would be a copy of a test set that is rows of one large file."""
    taken, seen = [], []

    class Counted(RowSplit):
        def blocks(self, size):
            for block in super().blocks(size):
                taken.append(len(block))
                yield block

    def bright(x):
        seen.append(len(taken))
        return x.clamp(min=0.5)

    monkeypatch.setattr(evaluation, "TRIGGERED", 5)
    monkeypatch.setitem(TRIGGERS, "bright", lambda attack, data, generator: bright)
    rows = torch.arange(len(data.test))
    lazy = replace(data, test=Counted.of(data.test.x, rows, data.test.y))
    Evaluation(make_model(None, 36, 3, True), lazy, [EXP.override({"attack.trigger": "bright"})])
    assert len(rows) == 20
    assert np.diff(seen).tolist() == [1] * 7  # four blocks twice: which columns change, and by how much

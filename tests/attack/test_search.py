"""Searches for the strongest attack: what they find is what they promise, and hurts."""

import numpy as np
import pytest
import torch

import crfl
from crfl.attack.search import targeted_flips, worst_direction
from crfl.attack.search_inputs import optimised_poison, optimised_trigger, push
from crfl.models.softmax import SoftmaxRegression


@pytest.fixture(scope="module")
def trained():
    settings = {"server.rounds": 20, "attack.round": None, "local.learning_rate": 0.1, "server.evaluate_every": 20}
    features = {"features.map": "scattering", "features.public": 100, "features.whiten": 30, "features.norm": 1.0}
    exp = crfl.Experiment().override({**settings, **features, "data.clients": 10, "model.bias": False})
    data = crfl.load_data(exp)
    return crfl.train(exp, data), data


def wrong(run, params, split):
    return float((run.model.logits(params, split.x.double()).argmax(1) != split.y).double().mean())


def test_the_worst_direction_is_worse_than_random_ones(trained):
    run, data = trained
    reach = 1.0
    found = worst_direction(run.model, run.params, data.test.x, data.test.y, reach)
    assert float(found.norm()) == pytest.approx(1)
    hurt = wrong(run, run.params + reach * found, data.test)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        move = torch.randn(run.params.shape, generator=generator, dtype=torch.float64)
        assert wrong(run, run.params + reach * move / move.norm(), data.test) < hurt
    assert hurt > wrong(run, run.params, data.test) + 0.05


def test_flipped_labels_move_the_gradient_most_along_the_direction():
    """Against all single flips, one by one, through the model's own gradient."""
    generator = torch.Generator().manual_seed(1)
    model = SoftmaxRegression(4, 3, bias=True)
    x, y = torch.randn(12, 4, generator=generator).double(), torch.randint(0, 3, (12,), generator=generator)
    params, direction = (torch.randn(15, generator=generator).double() for _ in range(2))
    before = float(direction @ model.gradient(params, x, y))
    gains = {}
    for row in range(12):
        for label in range(3):
            flipped = y.clone()
            flipped[row] = label
            gains[row, label] = before - float(direction @ model.gradient(params, x, flipped))
    rows, labels = targeted_flips(model, x, y, direction, 3)
    best = sorted((max(gains[row, b] for b in range(3)) for row in range(12)), reverse=True)
    found = [gains[int(row), int(label)] for row, label in zip(rows, labels, strict=True)]
    assert found == pytest.approx(best[:3])


def test_push_is_what_a_gradient_step_moves():
    generator = torch.Generator().manual_seed(2)
    model = SoftmaxRegression(5, 4, bias=True)
    x = torch.randn(6, 5, generator=generator).double()
    params, direction = (torch.randn(24, generator=generator).double() for _ in range(2))
    found = push(model, params, x, direction)
    for row in range(6):
        for label in range(4):
            step = -model.gradient(params, x[row : row + 1], torch.tensor([label]))
            assert float(found[row, label]) == pytest.approx(float(direction @ step))


@pytest.fixture(scope="module")
def direction(trained):
    run, data = trained
    return worst_direction(run.model, run.params, data.test.x, data.test.y, 1.0)


def test_an_optimised_image_pushes_more_than_any_sample(trained, direction):
    run, data = trained
    rows = data.shards[0][:20]
    image, label = optimised_poison(data, run.model, run.params, direction, rows.tolist())
    features = data.map_inputs(image[None]).double()
    found = float(push(run.model, run.params, features, direction)[0, label])
    assert found > float(push(run.model, run.params, data.features(rows).double(), direction).max())
    assert 0 <= float(image.min()) <= float(image.max()) <= 1


def test_an_optimised_trigger_pushes_more_than_random_ones_of_its_norm(trained, direction):
    run, data = trained
    rows = data.shards[0][:20].tolist()
    clean = data.input_features(torch.tensor(rows))
    delta, label = optimised_trigger(data, run.model, run.params, direction, rows, norm=1.0)
    assert float(delta.norm()) <= 1 + 1e-6

    def gain(change):
        x = data.map_inputs((clean + change).clamp(0, 1)).double()
        return float(push(run.model, run.params, x, direction)[:, label].mean())

    generator = torch.Generator().manual_seed(0)
    others = torch.randn(30, clean.shape[1], generator=generator)
    assert gain(delta) > max(gain(change / change.norm()) for change in others)
    assert gain(delta) > gain(torch.zeros_like(delta))


def test_nothing_to_start_from_is_an_error(trained, direction):
    run, data = trained
    for search in (optimised_poison, lambda *args: optimised_trigger(*args, norm=1.0)):
        with pytest.raises(crfl.errors.DataError, match="rows"):
            search(data, run.model, run.params, direction, [])


def test_too_many_flips_are_an_error():
    with pytest.raises(crfl.errors.DataError, match="count"):
        targeted_flips(SoftmaxRegression(1, 2), torch.ones(3, 1), torch.zeros(3).long(), torch.ones(4), 4)


def test_a_feature_with_a_gradient_is_the_feature(trained):
    _, data = trained
    inputs = data.test_inputs[:10]
    found = data.feature_map.differentiable(inputs)
    np.testing.assert_allclose(found, data.map_inputs(inputs), atol=1e-5)

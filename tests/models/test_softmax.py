"""Softmax regression: its closed-form gradient and fast paths against autograd and plain products."""

import math

import pytest
import torch
from torch import nn

from crfl import rng
from crfl.models import SoftmaxRegression, make_model

D, C = 5, 3


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def model(request):
    return SoftmaxRegression(D, C, request.param)


def parts(model, params):
    weights = params[: C * D].view(C, D)
    return weights, params[C * D :] if model.bias else torch.zeros(C).double()


def test_parameters_are_weights_and_then_biases(model):
    params = normal(2, model.num_params)
    weights, bias = model.split(params)
    assert model.num_params == C * D + C * model.bias
    for i in range(2):
        assert torch.equal(weights[i], parts(model, params[i])[0])
        assert torch.equal(bias[i], parts(model, params[i])[1])
    assert torch.equal(model.join(weights, bias), params)


def test_it_starts_like_a_linear_layer_of_torch(model):
    start = SoftmaxRegression(100, 50, model.bias).initial(rng.stream(0, "initial model"))
    assert start.dtype == torch.float32
    assert start.abs().max() <= 0.1
    assert float(start.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.05)
    assert not torch.equal(start, SoftmaxRegression(100, 50, model.bias).initial(rng.stream(1, "initial model")))


def test_the_gradient_is_that_of_autograd(model):
    params, x, y = normal(model.num_params).requires_grad_(), normal(8, D, seed=1), torch.arange(8) % C
    weights, bias = parts(model, params)
    nn.functional.cross_entropy(x @ weights.T + bias, y).backward()
    torch.testing.assert_close(model.gradient(params.detach(), x, y), params.grad)


def test_logits_in_every_layout(model):
    params, x = normal(4, model.num_params), normal(9, D, seed=1)
    expected = torch.stack([x @ parts(model, p)[0].T + parts(model, p)[1] for p in params])
    torch.testing.assert_close(model.logits(params, x), expected)
    torch.testing.assert_close(model.logits(params.view(2, 2, -1), x), expected.view(2, 2, 9, C))
    torch.testing.assert_close(model.class_logits(params, x), expected.mT)
    torch.testing.assert_close(model.noisy_logits(params, x), expected.permute(2, 0, 1))
    torch.testing.assert_close(model.to_module(params[0])(x), expected[0])


def test_logits_of_changed_samples(model):
    params, x, columns = normal(model.num_params), normal(9, D, seed=1), torch.tensor([3, 1])
    change = normal(9, 2, seed=2)
    moved = x.clone()
    moved[:, [3, 1]] += change
    found = model.changed_logits(params, model.logits(params, x).mT, x, columns, change)
    torch.testing.assert_close(found, model.logits(params, moved).mT)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_the_spectral_norm_is_the_largest_singular_value(shape):
    classes, features = shape
    model = SoftmaxRegression(features, classes)
    params = normal(6, model.num_params)
    expected = torch.linalg.matrix_norm(model.split(params)[0], 2)
    torch.testing.assert_close(model.spectral_norm(params), expected)
    assert model.spectral_norm(torch.zeros(model.num_params)) == 0


def test_feature_norms_count_the_bias_as_a_feature(model):
    x = normal(9, D)
    expected = (x.square().sum(1) + model.bias).sqrt()
    torch.testing.assert_close(model.feature_norms(x), expected)


# A linear layer as the model


@pytest.mark.parametrize("wrap", [lambda layer: layer, lambda layer: nn.Sequential(nn.Sequential(layer))])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_softmax_regression_that_starts_at_its_parameters(wrap, bias):
    torch.manual_seed(0)
    layer = nn.Linear(D, C, bias=bias)
    model = make_model(wrap(layer), D, C)
    assert model == SoftmaxRegression(D, C, bias)
    assert model.name == "softmax regression"
    start = model.initial(rng.stream(0, "initial model"))
    assert torch.equal(start, nn.utils.parameters_to_vector(layer.parameters()))
    start.zero_()
    assert model.initial(rng.stream(0, "initial model")).any()


def test_what_is_more_than_a_linear_layer_stays_a_module():
    class Own(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    for module in (
        Own(D, C),
        nn.Sequential(nn.Linear(D, C), nn.Tanh()),
        nn.Sequential(nn.Linear(D, D), nn.Linear(D, C)),
    ):
        assert not make_model(module, D, C).linear

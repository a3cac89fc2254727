"""Modules that are refused, each by the part that does not fit."""

import math

import pytest
import torch
from torch import nn

import crfl
from crfl.errors import DataError
from crfl.models.softmax import SoftmaxRegression
from tests.models.base import BASE


@pytest.mark.parametrize(
    "module", [nn.Linear(63, 10), nn.Linear(64, 9), nn.Sequential(nn.Linear(64, 10), nn.Flatten(0))]
)
def test_a_module_that_does_not_fit_is_named(data, module):
    with pytest.raises(DataError, match=rf"model: got {type(module).__name__}, .*expected logits \(3, 10\)"):
        crfl.train(BASE, data, model=module)


@pytest.mark.parametrize("model", ["abc", SoftmaxRegression(64, 9), SoftmaxRegression(63, 10)])
def test_a_model_that_does_not_fit_is_named(data, model):
    with pytest.raises(DataError, match=r"model: got .* expected a torch.nn.Module, or a model of 64"):
        crfl.train(BASE, data, model=model)
    with pytest.raises(DataError, match="no parameters to train"):
        crfl.train(BASE, data, model=nn.Identity())


def headed(*layers):
    """Any layers of 64 features, then a linear one."""
    torch.manual_seed(0)
    return nn.Sequential(*layers, nn.Linear(64, 10))


def with_tensor(kind, tensor):
    module = headed()
    getattr(module, f"register_{kind}")("extra", tensor)
    return module


class Counting(nn.Module):
    """Writes to a buffer, in place or by a new tensor."""

    def __init__(self, in_place):
        super().__init__()
        self.layer, self.in_place = nn.Linear(64, 10), in_place
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.in_place:
            self.calls += 1
        else:
            self.calls = self.calls + x.mean().detach()
        return self.layer(x)


class Function(nn.Module):
    """Logits of a linear layer, changed by a function."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(64, 10), function

    def forward(self, x):
        return self.function(self.layer(x))


def lazy():
    return nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 10))


def complex_linear():
    return nn.Linear(64, 10, dtype=torch.complex64)


def with_nan():
    layer = nn.Linear(64, 10)
    layer.weight.data[0, 0] = math.nan
    return layer


def quantised():
    return torch.ao.quantization.quantize_dynamic(headed(nn.ReLU()), {nn.Linear})


REFUSED = {
    "complex": (complex_linear, r"Linear, whose parameter 'weight' is of torch.complex64, expected real"),
    "complex inside": (
        lambda: with_tensor("parameter", nn.Parameter(torch.zeros(2, dtype=torch.complex64))),
        r"Sequential, whose parameter 'extra' is of torch.complex64, expected real",
    ),
    "lazy": (lazy, r"whose parameter '0.weight' has no shape yet, expected .* as module\(torch.zeros\(2, 64\)\)"),
    "lazy buffer": (lambda: headed(nn.LazyBatchNorm1d()), "'0.weight' has no shape yet"),
    "meta": (lambda: nn.Linear(64, 10, device="meta"), "whose parameter 'weight' is on the device meta"),
    "meta buffer": (
        lambda: with_tensor("buffer", torch.zeros(2, device="meta")),
        "buffer 'extra' is on the device meta",
    ),
    "script": (lambda: torch.jit.script(headed(nn.ReLU())), "which is compiled by torch.jit, expected a plain"),
    "traced part": (
        lambda: nn.Sequential(torch.jit.trace(nn.Linear(64, 8), torch.zeros(2, 64)), nn.Linear(8, 10)),
        "whose part '0' is compiled by torch.jit",
    ),
    "compiled": (lambda: torch.compile(headed(nn.ReLU())), "which is compiled by torch.compile"),
    "quantised": (quantised, r"whose part '1' is quantised \(Linear\)"),
    "quantised tensor": (
        lambda: with_tensor("buffer", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)),
        r"buffer 'extra' is quantised \(torch.qint8\)",
    ),
    "sparse": (lambda: with_tensor("buffer", torch.eye(3).to_sparse()), "buffer 'extra' is nested or sparse"),
    "not finite": (with_nan, "whose parameter 'weight' has numbers that are not finite"),
    "too large": (
        lambda: with_tensor("parameter", nn.Parameter(torch.full((2,), 1e300, dtype=torch.float64))),
        "not finite in float32",
    ),
    "writes in place": (lambda: Counting(True), "whose buffer 'calls' changes when it is called in eval mode"),
    "writes anew": (lambda: Counting(False), "whose buffer 'calls' changes when it is called in eval mode"),
    "chance": (lambda: Function(lambda y: y + torch.rand_like(y)), "Function, .*without random numbers in eval mode"),
    "numbers read": (lambda: Function(lambda y: y * y.sum().item()), r"cannot differentiate .*by \.item\(\)"),
    "complex logits": (lambda: Function(lambda y: y + 1j), "makes logits of torch.complex64"),
    "several outputs": (lambda: Function(lambda y: (y, y)), r"expected logits \(3, 10\)"),
    "no copies": (lambda: nn.utils.weight_norm(nn.Linear(64, 10)), "which copy.deepcopy cannot copy"),
}


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Lazy modules", "ignore:.*nested"
)
@pytest.mark.parametrize("engine", ["vectorised", "reference"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_function_of_real_parameters_is_refused_by_name(data, case, engine):
    make, message = REFUSED[case]
    with pytest.raises(DataError, match=rf"^model: got .*{message}") as found:
        crfl.train(BASE, data, model=make(), engine=engine)
    assert len(str(found.value)) < 600


def test_a_linear_layer_is_softmax_regression_only_if_it_is_trained_whole(data):
    """A frozen weight stays, with the bias trained alone; a hook is heard."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 10)
    layer.weight.requires_grad_(False)
    run = crfl.train(BASE, data, model=layer)
    assert len(run.params) == 10
    assert torch.equal(run.to_module().weight.float(), layer.weight)
    assert not torch.equal(run.params.float(), layer.bias)
    with pytest.raises(DataError, match="got Linear, which has no parameters to train"):
        crfl.train(BASE, data, model=layer.requires_grad_(False))
    layer.requires_grad_(True)
    layer.register_forward_hook(lambda module, inputs, output: output * 0)
    run = crfl.train(BASE.override({"server.noise": 0.0, "server.clip.start": math.inf}), data, model=layer)
    assert torch.equal(run.params.float(), nn.utils.parameters_to_vector(layer.parameters()))

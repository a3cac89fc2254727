"""Any nn.Module: the same as softmax regression where it is one, and as a hand-written loop where it is not."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import crfl
from crfl import rng
from crfl.errors import CertificateError, DataError, StoreError
from crfl.models.softmax import SoftmaxRegression

BASE = crfl.Experiment().override({"server.rounds": 4, "attack.round": 3, "attack.clients": 2, "attack.magnitude": 2.0})


@pytest.fixture(scope="module")
def data():
    return crfl.load_data(BASE)


def network():
    """Convolution, batch normalisation and dropout."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    return nn.Sequential(first, nn.Flatten(), nn.Dropout(0.5), nn.Linear(108, 10))


@pytest.mark.parametrize("benign", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"local.weight_decay": 0.1, "local.keep_last_batch": True, "local.batch_size": 33},
        {"server.aggregation": "rfa", "server.participation": 0.5, "local.epochs": 2},
        {"server.decay": 0.1, "local.schedule": "inverse", "server.update_clip": 0.1},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_a_module_that_is_linear_in_effect_is_softmax_regression(data, changes, bias, benign):
    """What crfl differentiates with torch.func against its closed form, for the model that a linear layer is."""
    exp = BASE.override(changes)
    torch.manual_seed(0)
    layer = nn.Linear(64, 10, bias=bias)
    module = crfl.train(exp, data, model=nn.Sequential(layer, nn.Identity()), benign=benign)
    softmax = crfl.train(exp, data, model=layer, benign=benign)
    assert (softmax.record.model, softmax.record.bias) == ("softmax regression", bias)
    torch.testing.assert_close(module.params, softmax.params, rtol=0, atol=1e-13)
    shared = ["loss", "accuracy", "attack_success_rate", "pre_clip_norm"]
    assert module.history[shared].to_numpy() == pytest.approx(softmax.history[shared].to_numpy())
    assert module.record.rounds[0].start_spectral_norm is None
    assert module.record.model == "module Sequential"


def test_a_linear_layer_is_trained_from_its_parameters(data):
    torch.manual_seed(0)
    layer = nn.Linear(64, 10)
    exp = BASE.override({"server.rounds": 1, "attack.round": None, "local.learning_rate": 1e-300})
    run = crfl.train(exp.override({"server.clip.start": 1e3}), data, model=layer)
    assert torch.equal(run.params.float(), nn.utils.parameters_to_vector(layer.parameters()))
    assert type(run.to_module()) is nn.Linear


def test_one_round_of_a_network_equals_autograd(data):
    """One step of each client is the gradient of the mean loss, here by plain autograd."""
    exp = BASE.override({"server.rounds": 1, "attack.round": None, "server.clip.start": math.inf})
    exp = exp.override({"local.batch_size": 140, "data.clients": 10})
    model = network().eval().double()  # of parameters that float32 holds
    run = crfl.train(exp, data, model=model)
    losses = []
    for shard in data.shards:
        rows = shard[torch.from_numpy(rng.shuffles(rng.keys(0, "batches", 1, [0]), len(shard))[0])]
        x, y = data.features(rows).double(), data.y[rows]
        losses.append(nn.functional.cross_entropy(model(x), y))
    sum(losses).backward()
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(run.params, start - 0.05 * gradient / 10, rtol=0, atol=1e-13)


def test_a_network_learns_and_is_left_alone(data):
    model = network().train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    exp = BASE.override({"server.clip.start": 50.0, "server.noise": 0.0, "server.rounds": 12})
    run, benign = crfl.train_many([exp, exp], data, benign=[False, True], model=model)
    assert model.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert run.history["accuracy"].iloc[-1] > 0.75
    assert benign.history["distance"].iloc[-1] > 0


def test_logits_are_those_of_the_module(data):
    model = network()
    wrapped = crfl.train(BASE.override({"server.rounds": 1, "attack.round": None}), data, model=model).model
    params = torch.randn(2, 3, wrapped.num_params, generator=torch.Generator().manual_seed(1))
    assert wrapped.logits(params, data.test.x[:0]).shape == (2, 3, 0, 10)
    logits = wrapped.logits(params, data.test.x[:7])
    assert logits.shape == (2, 3, 7, 10)
    nn.utils.vector_to_parameters(params[1, 2], model.parameters())
    torch.testing.assert_close(logits[1, 2], model.eval()(data.test.x[:7]))


@pytest.mark.parametrize(
    "module", [nn.Linear(63, 10), nn.Linear(64, 9), nn.Sequential(nn.Linear(64, 10), nn.Flatten(0))]
)
def test_a_module_that_does_not_fit_is_named(data, module):
    with pytest.raises(DataError, match=rf"model: got {type(module).__name__}, .*expected logits \(3, 10\)"):
        crfl.train(BASE, data, model=module)


def test_a_module_may_work_in_place(data):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            x -= 0.3
            x /= 0.35
            return self.linear(x)

    torch.manual_seed(0)
    model, before = InPlace(), data.test.x.clone()
    copies = nn.Sequential(Affine(), model.linear)
    runs = [crfl.train(BASE, data, model=m) for m in (model, copies)]
    for run in runs:
        crfl.smooth(run.model, run.params, data.test.x, noise=0.1, samples=3, generator=torch.Generator())
    assert torch.equal(data.test.x, before)
    assert runs[0].columns["loss"] == pytest.approx(runs[1].columns["loss"], rel=1e-5)


class Affine(nn.Module):
    def forward(self, x):
        return (x - 0.3) / 0.35


@pytest.mark.parametrize("engine", ["vectorised", "reference"])
def test_frozen_parameters_stay(data, engine):
    model = nn.Sequential(network()[0], nn.Flatten(), nn.Linear(108, 10))
    model[0].requires_grad_(False)
    run = crfl.train(BASE, data, model=model, engine=engine)
    assert len(run.params) == 1090
    trained = run.to_module()
    for name, parameter in trained.named_parameters():
        frozen = name.startswith("0")
        assert torch.equal(parameter.float(), model.get_parameter(name)) == frozen
        assert parameter.requires_grad != frozen
    with pytest.raises(DataError, match="no parameters to train"):
        crfl.train(BASE, data, model=model.requires_grad_(False))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_precision_of_a_module_and_of_torch_does_not_matter(data, precision):
    exp = BASE.override({"local.precision": precision})
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    expected = crfl.train(exp, data, model=model)
    assert torch.equal(crfl.train(exp, data, model=model.double()).params, expected.params)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(crfl.train(exp, data, model=model).params, expected.params)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("model", ["abc", SoftmaxRegression(64, 9), SoftmaxRegression(63, 10)])
def test_a_model_that_does_not_fit_is_named(data, model):
    with pytest.raises(DataError, match=r"model: got .* expected a torch.nn.Module, or a model of 64"):
        crfl.train(BASE, data, model=model)
    with pytest.raises(DataError, match="no parameters to train"):
        crfl.train(BASE, data, model=nn.Identity())


def test_a_network_in_a_run_folder(data, tmp_path):
    model = network()
    run = crfl.train(BASE, data, model=model)
    crfl.save_run(tmp_path, run)
    loaded = crfl.load_run(tmp_path, model=network())
    assert torch.equal(loaded.params, run.params)
    assert loaded.record == run.record
    assert (loaded.predict(data.test.x) == run.predict(data.test.x)).all()
    for wrong in (None, nn.Linear(64, 10)):
        with pytest.raises(StoreError, match="expected that of the run, 'module Sequential'"):
            crfl.load_run(tmp_path, model=wrong)


def test_votes_but_no_certificate(data):
    run = crfl.train(BASE, data, model=network())
    x = data.test.x[:20]
    votes = crfl.smooth(run.model, run.params, x, noise=1e-6, samples=5, generator=rng.stream(0, "votes"))
    assert votes.counts.argmax(1).tolist() == run.model.logits(run.params, x.double()).argmax(1).tolist()
    with pytest.raises(CertificateError, match="softmax regression"):
        crfl.certify(run, replace(data.test, x=x, y=data.test.y[:20]), kind="margin")


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


@pytest.mark.parametrize("engine", ["vectorised", "reference"])
def test_frozen_complex_and_integer_state_is_kept_whole(data, engine):
    class Rotated(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)
            self.turn = nn.Parameter(torch.tensor(0.6 + 0.8j), requires_grad=False)
            self.register_buffer("order", torch.arange(10).flip(0))

        def forward(self, x):
            return (self.layer(x) * self.turn).imag[:, self.order]

    torch.manual_seed(0)
    model = Rotated()
    run = crfl.train(BASE.override({"local.learning_rate": 0.1}), data, model=model, engine=engine)
    trained = run.to_module()
    assert trained.turn.item() == model.turn.item()
    assert run.predict(data.test.x).tolist() == trained(data.test.x.double()).argmax(1).tolist()
    assert not torch.equal(run.params.float(), nn.utils.parameters_to_vector(model.layer.parameters()))


def test_shared_and_parametrised_parameters_are_trained_as_by_the_reference(data):
    torch.manual_seed(0)
    shared = nn.Linear(64, 64)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(64, 10))
    tied = nn.Linear(64, 64)
    tied.weight = shared.weight
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), tied, normed)
    runs = [crfl.train(BASE, data, model=model, engine=engine) for engine in ("vectorised", "reference")]
    torch.testing.assert_close(runs[0].params, runs[1].params, rtol=0, atol=1e-12)
    trained = runs[0].to_module()
    assert trained[4].weight is trained[2].weight is trained[0].weight
    logits = runs[0].model.logits(runs[0].params, data.test.x.double())
    torch.testing.assert_close(trained(data.test.x.double()), logits, rtol=0, atol=1e-12)

"""Any nn.Module as the model: it trains as the reference trains, and keeps its state."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import crfl
from crfl import rng
from crfl.errors import CertificateError, DataError, StoreError
from tests.models.base import BASE


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

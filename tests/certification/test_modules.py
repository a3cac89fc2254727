"""Votes of any nn.Module: against a loop that loads each noisy model."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import crfl
from crfl.certification import clopper_pearson, smoothing_budget
from crfl.certification.smoothing import smooth
from crfl.errors import CertificateError
from crfl.models.module import ModuleModel
from crfl.models.softmax import SoftmaxRegression


def networks():
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 3))
    mlp[1].running_mean.normal_()
    convolution = nn.Sequential(
        nn.Unflatten(1, (1, 3, 3)), nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
    )
    return {"mlp": (mlp, torch.randn(40, 6)), "convolution": (convolution, torch.randn(40, 9))}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["mlp", "convolution"])
def test_votes_equal_a_loop(name):
    module, x = networks()[name]
    model = ModuleModel(module, x.shape[1], 3)
    found = smooth(model, model.start, x, noise=0.3, samples=60, generator=generator())
    loop, g = np.zeros((40, 3), dtype=np.int64), generator()
    width = -(-model.num_params // 16) * 16
    noisy = copy.deepcopy(module).eval()
    for _ in range(60):
        draw = 0.3 * torch.randn(width, generator=g)[: model.num_params]
        nn.utils.vector_to_parameters(model.start + draw, noisy.parameters())
        with torch.no_grad():
            choice = noisy(x).argmax(dim=1)
        loop[np.arange(40), choice.numpy()] += 1
    np.testing.assert_array_equal(found.counts, loop)


def test_samples_in_pieces():
    """Several blocks of samples and of models give the votes of each by itself."""
    module, _ = networks()["mlp"]
    model, x = ModuleModel(module, 6, 3), torch.randn(1100, 6, generator=generator(2))
    whole = smooth(model, model.start, x, noise=0.3, samples=40, generator=generator())
    for rows in (slice(0, 3), slice(510, 514), slice(1024, 1100)):
        part = smooth(model, model.start, x[rows], noise=0.3, samples=40, generator=generator())
        np.testing.assert_array_equal(whole.counts[rows], part.counts)


def test_a_linear_module_is_softmax_regression():
    torch.manual_seed(1)
    module, x = nn.Linear(6, 4), torch.randn(25, 6)
    model, same = ModuleModel(module, 6, 4), SoftmaxRegression(6, 4)
    assert model.num_params == same.num_params
    votes = [smooth(m, model.start, x, noise=0.5, samples=80, generator=generator()) for m in (model, same)]
    np.testing.assert_array_equal(votes[0].counts, votes[1].counts)


def test_the_module_stays_as_it_was():
    module, x = networks()["mlp"]
    before = {k: v.clone() for k, v in module.state_dict().items()}
    model = ModuleModel(module, 6, 3)
    smooth(model, model.start, x, noise=0.3, samples=5, generator=generator())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_budget_holds_for_a_network():
    """No model closer than the budget votes otherwise: tried in random directions and along the weights."""
    module, x = networks()["mlp"]
    model = ModuleModel(module, 6, 3)
    votes = smooth(model, model.start, x, noise=0.3, samples=3000, generator=generator())
    selection = smooth(model, model.start, x, noise=0.3, samples=200, generator=generator(1))
    bounds = clopper_pearson(selection.counts, votes.counts, 0.001)
    budget = smoothing_budget(bounds.p_a, bounds.p_b, noise=0.3)
    assert (budget > 0.04).sum() > 5
    for trial in range(5):
        step = torch.randn(model.num_params, generator=generator(trial)) if trial else model.start
        moved = model.start + 0.04 * step / step.norm()
        other = smooth(model, moved, x, noise=0.3, samples=3000, generator=generator(9))
        assert (other.counts.argmax(axis=1) == bounds.prediction)[budget > 0.04].all()


@pytest.fixture(scope="module")
def trained():
    exp = crfl.Experiment().override({"server.rounds": 10, "smoothing.samples": 2000, "smoothing.test_samples": 100})
    data = crfl.load_data(exp)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))
    return crfl.train(exp, data, model=network), data


def test_a_network_has_a_distance_in_one_call(trained):
    run, data = trained
    cert = crfl.certify(run, data, kind="distance")
    assert cert.votes.samples == 2000
    accuracy = cert.certified_accuracy(data.test.y, [0.0, cert.critical / 2, cert.critical * 1.01])
    assert accuracy[0] >= accuracy[1] > accuracy[2] == 0
    expected = smoothing_budget(cert.bounds.p_a, cert.bounds.p_b, noise=0.01)
    np.testing.assert_allclose(cert.distance, np.where(cert.abstained, 0, expected), rtol=1e-6)
    axes = crfl.plots.certified_accuracy({"network": (cert, data.test.y)})
    assert "distance" in axes.get_xlabel()
    assert "train_ensemble" in cert.guarantee.statement


def test_no_closer_network_votes_otherwise(trained):
    """Tried along the gradient of the margin, which is the worst direction of a nearly linear model."""
    run, data = trained
    cert = crfl.certify(run, data, kind="distance")
    certified = np.flatnonzero(cert.distance > 0.5 * cert.critical)[:10]
    for i in certified:
        x = data.test.x[cert.indices[i]][None].to(run.params)
        params = run.params.clone().requires_grad_(True)
        logits = run.model.logits(params, x)[0]
        others = [c for c in range(10) if c != cert.prediction[i]]
        (gradient,) = torch.autograd.grad(logits[cert.prediction[i]] - logits[others].max(), params)
        moved = run.params - 0.99 * cert.distance[i] * gradient / gradient.norm()
        votes = smooth(run.model, moved, x, noise=0.01, samples=2000, generator=generator(9))
        assert votes.counts.argmax() == cert.prediction[i]


def test_what_a_network_has_not(trained):
    run, data = trained
    with pytest.raises(CertificateError, match=r"train_ensemble.*kind='distance'"):
        crfl.certify(run, data)
    with pytest.raises(CertificateError, match="softmax regression only"):
        crfl.certify(run, data, kind="distance", bounds="exact")

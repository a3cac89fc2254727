"""Fitted maps: the pipeline against its formula, its bounds, and what is refused."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from crfl.config import Features
from crfl.errors import DataError, SettingsError
from crfl.features import FEATURE_MAPS, Scattering, find_map, fit_map
from crfl.features.whitening import whitening

RANDOM = np.random.default_rng(0)
PUBLIC = torch.from_numpy(RANDOM.random((60, 144))).float()
SHAPE = (12, 12)


def leading_directions(z, k):
    """Mean, and eigenvectors of the covariance by a decomposition of the samples, over their damped deviations."""
    mean = z.mean(axis=0)
    _, values, rows = np.linalg.svd(z - mean, full_matrices=False)
    deviations = values[:k] / np.sqrt(len(z))
    return mean, rows[:k].T / (deviations + 0.1 * deviations[0]), deviations


@pytest.mark.parametrize(("samples", "width"), [(50, 8), (12, 30), (20, 20)])
def test_whitening(samples, width):
    z = RANDOM.normal(size=(samples, width)) * np.linspace(0.1, 2.0, width)
    k = min(samples - 1, width) - 1
    mean, directions = whitening(z, k)
    expected_mean, expected, deviations = leading_directions(z, k)
    np.testing.assert_allclose(mean, expected_mean)
    np.testing.assert_allclose(np.abs(directions), np.abs(expected), rtol=1e-6, atol=1e-9)
    white = (z - mean) @ directions
    np.testing.assert_allclose(
        white.T @ white / samples, np.diag((deviations / (deviations + 0.1 * deviations[0])) ** 2), atol=1e-9
    )


def test_the_pipeline_is_its_formula():
    """Map, standardise, unit norm, minus the public mean, whiten, unit norm (Section 10 of the theory)."""
    k, inputs = 9, torch.from_numpy(RANDOM.random((25, 144))).float()
    found = fit_map(Features(map="scattering", public=60, whiten=k, norm=0.1), PUBLIC, SHAPE)(inputs)

    def raw(x):
        return Scattering()(x.view(-1, 1, *SHAPE)).flatten(1).double().numpy()

    def unit(z):
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    public = raw(PUBLIC)
    mean, scale = public.mean(axis=0), public.std(axis=0) + 1e-3
    centre, directions, _ = leading_directions(unit((public - mean) / scale), k)
    expected = 0.1 * unit((unit((raw(inputs) - mean) / scale) - centre) @ directions)
    signs = np.sign((expected * found.numpy()).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=3e-6)


def test_every_step_is_optional():
    x = torch.from_numpy(RANDOM.normal(size=(7, 5))).float()
    nothing = torch.empty(0, 5)
    inside = fit_map(Features(norm=0.5), nothing, (5,))(x)
    torch.testing.assert_close(inside, x * (0.5 / x.norm(dim=1, keepdim=True).clamp_min(0.5)), rtol=1e-6, atol=0)
    public = torch.from_numpy(RANDOM.normal(size=(40, 5))).float()
    standard = fit_map(Features(public=40), public, (5,))
    torch.testing.assert_close(standard(x), (x - public.mean(0)) / (public.std(0, correction=0) + 1e-3))
    assert standard.norm_bound is None
    assert fit_map(Features(map="scattering"), torch.empty(0, 64), (8, 8))(torch.rand(3, 64)).shape == (3, 196)


@pytest.mark.parametrize("norm", [1.0, 3.0, 0.1, 1e-20])
def test_no_feature_leaves_the_ball(norm):
    """Also after rounding to float32, for inputs of any size."""
    inputs = torch.from_numpy(RANDOM.normal(size=(4000, 144))).float()
    inputs = torch.cat([inputs * factor for factor in (1e-38, 1e-6, 1e-1, 1.0, 1e6, 1e30)])
    plain = fit_map(Features(norm=norm), PUBLIC[:0], (144,))
    white = fit_map(Features(public=60, whiten=20, norm=norm), PUBLIC, (144,))
    for fitted in (plain, white):
        norms = fitted(inputs).double().norm(dim=1)
        assert float(norms.max()) <= fitted.norm_bound == norm
    assert float(plain(inputs).double().norm(dim=1).max()) >= norm * (1 - 1e-6)


@pytest.mark.parametrize(
    "settings",
    [Features(norm=0.7), Features(public=60), Features(public=60, whiten=12, norm=2.0), Features(public=60, whiten=3)],
)
def test_the_lipschitz_constant_holds(settings):
    public = PUBLIC if settings.public else PUBLIC[:0]
    fitted = fit_map(settings, public, (144,))
    x = torch.from_numpy(RANDOM.normal(size=(400, 144)) * 2).float()
    largest = 0.0
    for size in (1e-1, 1.0, 30.0):
        y = x + size * torch.from_numpy(RANDOM.normal(size=x.shape)).float() / 12
        moved = (fitted(x).double() - fitted(y).double()).norm(dim=1)
        largest = max(largest, float((moved / (x.double() - y.double()).norm(dim=1)).max()))
    assert 0 < largest <= fitted.lipschitz * (1 + 1e-5)  # features are rounded to float32
    assert settings != Features(norm=0.7) or fitted.lipschitz == 1.0


def test_only_a_known_map_has_a_lipschitz_constant():
    assert fit_map(
        Features(map="scattering", norm=1.0), torch.empty(0, 64), (8, 8)
    ).lipschitz == Scattering().lipschitz(8, 8)
    assert fit_map(Features(map="mine", norm=1.0), torch.empty(0, 64), (64,), function=torch.sin).lipschitz is None


class Network(nn.Module):
    """A small convolutional network with what must be switched off."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))

    def forward(self, images):
        return self.net(images).mean((2, 3))


def test_a_module_is_frozen():
    torch.manual_seed(0)
    network = Network()
    shape = (6, 5, 3)
    public = torch.rand(30, 90)
    fitted = fit_map(Features(map="network", public=30, norm=1.0), public, shape, function=network)
    assert network.training
    before, x = fitted(public), public.clone()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(fitted(x), before, rtol=0, atol=0)
    assert not before.requires_grad
    copy = pickle.loads(pickle.dumps(fitted))
    torch.testing.assert_close(copy(x), before, rtol=0, atol=0)
    assert copy.settings == fitted.settings
    assert copy.lipschitz is None
    assert fitted.to("cpu").function is not network


def test_images_come_as_networks_expect_them():
    seen = []

    def look(images):
        seen.append(images)
        return images.flatten(1)

    x = torch.arange(2 * 4 * 5 * 3, dtype=torch.float32).view(2, -1)
    fit_map(Features(map="look"), x[:0], (4, 5, 3), function=look)(x)
    torch.testing.assert_close(seen[-1], x.view(2, 4, 5, 3).permute(0, 3, 1, 2))
    fit_map(Features(map="look"), x[:0], (60,), function=look)(x)
    torch.testing.assert_close(seen[-1], x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x - x.mean(0), "maps a sample otherwise with others than alone"),
        (lambda x: x[:1], "expected a tensor of as many rows"),
        (lambda x: x.sum(1), "expected a tensor of as many rows"),
        (lambda x: "features", "made str"),
        (lambda x: x / 0, "NaN or infinity"),
    ],
)
def test_maps_that_are_none(function, message):
    with pytest.raises(DataError, match=message):
        fit_map(Features(map="mine", public=60), PUBLIC, (144,), function=function)


def test_numbers_that_are_none_are_found_wherever_they_come():
    fitted = fit_map(Features(map="log", norm=1.0), PUBLIC[:0], (144,), function=torch.log)
    with pytest.raises(DataError, match="'log' made NaN or infinity of a sample"):
        fitted(torch.zeros(1, 144))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            Features(map="mystery", public=60),
            "features.map: got 'mystery', expected one of: none, scattering, scattering_yuv",
        ),
        (Features(public=60, whiten=60), "features.whiten: got 60, expected at most 59, with 60 public samples of 144"),
        (Features(public=50), "features.public: got 50, expected 60"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(SettingsError, match=message):
        fit_map(settings, PUBLIC, (144,))


def test_whitening_needs_public_samples_that_differ():
    with pytest.raises(SettingsError, match=r"features.public: got 0, expected more than features.whiten = 4"):
        fit_map(Features(whiten=4), PUBLIC[:0], (144,))
    with pytest.raises(DataError, match="all alike"):
        fit_map(Features(public=60, whiten=4), torch.ones(60, 144), (144,))


def test_a_registered_map_is_found_by_name(monkeypatch):
    monkeypatch.setitem(FEATURE_MAPS, "halves", lambda x: x / 2)
    fitted = fit_map(Features(map="halves"), PUBLIC[:0], (144,))
    torch.testing.assert_close(fitted(PUBLIC), PUBLIC / 2)
    assert fitted.name == "halves"


def test_scales_and_angles_of_a_scattering_are_settings():
    images = torch.rand(4, 144)
    fitted = fit_map(Features(map="scattering", scattering_scales=1, scattering_angles=8), images[:0], (12, 12))
    assert fitted.function == Scattering(scales=1, angles=8)
    torch.testing.assert_close(fitted(images), Scattering(1, 8)(images.view(4, 1, 12, 12)).flatten(1))
    assert find_map(Features(map="scattering_yuv", scattering_angles=3)) == Scattering(angles=3, yuv=True)
    assert find_map(Features(map="scattering")) == Scattering()


def test_a_scattering_of_ones_own_keeps_what_the_settings_leave_open(monkeypatch):
    monkeypatch.setitem(FEATURE_MAPS, "coarse", Scattering(scales=3, angles=4))
    assert find_map(Features(map="coarse")) == Scattering(3, 4)
    assert find_map(Features(map="coarse", scattering_angles=2)) == Scattering(3, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            Features(map="scattering", scattering_scales=4),
            "features.scattering_scales: got 4, expected at most 3 with images of 12 pixels a side",
        ),
        (Features(scattering_angles=4), "features.scattering_angles: got 4, expected null with features.map = 'none'"),
    ],
)
def test_scales_and_angles_that_do_not_fit(settings, message):
    with pytest.raises(SettingsError, match=message):
        fit_map(settings, PUBLIC[:0], (12, 12))

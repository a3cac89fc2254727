"""Scattering: against kymatio, against sums written out, and by the properties that it is known for."""

import math

import numpy as np
import pytest
import torch

from crfl.errors import SettingsError
from crfl.features import Scattering
from crfl.features.filters import filter_bank, littlewood_paley

GENERATOR = torch.Generator().manual_seed(0)


def images(*shape, dtype=torch.float32):
    return torch.rand(*shape, generator=GENERATOR, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(
    ("shape", "scales", "angles"),
    [((28, 28), 2, 6), ((28, 28), 2, 8), ((32, 20), 3, 4), ((8, 8), 1, 8), ((4, 4), 2, 3), ((37, 50), 3, 5)],
)
def test_coefficients_are_those_of_kymatio(shape, scales, angles):
    frontend = pytest.importorskip("kymatio.scattering2d.frontend.torch_frontend")
    x = images(3, 1, *shape)
    theirs = frontend.ScatteringTorch2D(scales, shape, angles)(x[:, 0])
    filters = [1] + [2] * (scales * angles)  # that were applied; theirs take 3.1415 for pi in each
    filters += [3] * (theirs.shape[1] - len(filters))
    theirs = theirs * ((3.1415 / math.pi) ** torch.tensor(filters, dtype=torch.float32))[:, None, None]
    ours = Scattering(scales, angles)(x)
    torch.testing.assert_close(ours, theirs, rtol=5e-6, atol=1e-6)  # both in float32


def padded_convolution(x, psi):
    """x * psi, circular, by its definition."""
    height, width = x.shape
    found = np.zeros(x.shape, dtype=psi.dtype)
    for i in range(height):
        for j in range(width):
            found += x[i, j] * np.roll(psi, (i, j), axis=(0, 1))
    return found


def test_a_path_of_each_order_is_what_the_definition_says():
    """Convolutions summed in space over the padded image."""
    scales, angles, size, padded = 2, 3, 12, 20
    x = images(1, 1, size, size, dtype=torch.float64)
    bank = filter_bank(padded, padded, scales, angles)
    low = np.fft.ifft2(np.outer(bank.rows[0], bank.columns[0])).real
    waves = [np.fft.ifft2(bank.psi[j][0]) for j in range(scales)]
    whole = np.pad(x[0, 0].numpy(), 4, mode="reflect")

    def averaged(values):
        return padded_convolution(values, low)[::4, ::4][1:-1, 1:-1]

    fine = np.abs(padded_convolution(whole, waves[0][1]))
    found = Scattering(scales, angles)(x)[0].numpy()
    assert found.shape == (1 + 6 + 9, 3, 3)
    np.testing.assert_allclose(found[0], averaged(whole), rtol=1e-12)
    np.testing.assert_allclose(found[1 + 1], averaged(fine), rtol=1e-12)
    deeper = np.abs(padded_convolution(fine, waves[1][2]))[::2, ::2]  # sampled before it is averaged
    coarse_low = np.fft.ifft2(np.outer(bank.rows[1], bank.columns[1])).real
    averaged_deeper = padded_convolution(deeper, coarse_low)[::2, ::2][1:-1, 1:-1]
    np.testing.assert_allclose(found[1 + 6 + 1 * 3 + 2], averaged_deeper, rtol=1e-11)


def test_shapes_orders_and_channels():
    x = images(2, 3, 17, 30)
    whole = Scattering()(x)
    assert whole.shape == (2, 3 * 49, 4, 7)
    assert Scattering().paths == 49
    assert Scattering(angles=8)(x).shape == (2, 3 * 81, 4, 7)
    assert Scattering(scales=3, angles=2).paths == Scattering(scales=3, angles=2)(x).shape[1] // 3
    for channel in range(3):
        alone = Scattering()(x[:, channel : channel + 1])
        torch.testing.assert_close(whole[:, channel * 49 : (channel + 1) * 49], alone)
    torch.testing.assert_close(Scattering(order=0)(x[:, :1]), whole[:, :1])
    torch.testing.assert_close(Scattering(order=1)(x[:, :1]), whole[:, :13])


def test_colours_as_brightness_and_differences():
    gray = images(2, 1, 16, 16)
    found = Scattering(yuv=True)(gray.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found[:, :49], Scattering()(gray))
    assert float(found[:, 49:].abs().max()) < 1e-5  # no colour
    torch.testing.assert_close(Scattering(yuv=True)(gray), Scattering()(gray))


def test_a_sample_does_not_depend_on_its_company():
    x = images(150, 1, 16, 16)
    whole = Scattering()(x)
    torch.testing.assert_close(whole, torch.cat([Scattering()(one) for one in x.split(1)]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole.double(), Scattering()(x.double()), rtol=1e-5, atol=1e-6)


def test_a_shift_by_the_sampling_step_shifts_the_coefficients():
    x = torch.zeros(1, 1, 48, 48, dtype=torch.float64)
    x[..., 20:28, 20:28] = images(1, 1, 8, 8, dtype=torch.float64)
    moved = torch.roll(x, (4, -8), dims=(2, 3))
    there, here = Scattering()(moved), Scattering()(x)
    torch.testing.assert_close(there[..., 1:, :-2], here[..., :-1, 2:], rtol=1e-9, atol=1e-9)


def test_a_constant_image_has_no_waves():
    found = Scattering()(torch.full((1, 1, 28, 28), 0.7, dtype=torch.float64))
    torch.testing.assert_close(found[:, 0], torch.full((1, 7, 7), 0.7, dtype=torch.float64))
    assert float(found[:, 1:].abs().max()) < 1e-12


@pytest.mark.parametrize(("size", "angles"), [(28, 6), (28, 8), (32, 8), (64, 4)])
def test_no_layer_adds_energy(size, angles):
    bank = filter_bank(size + 8, size + 8, 2, angles)
    assert littlewood_paley(bank).max() <= 1 + 1e-12
    assert littlewood_paley(bank, 0, first_scale=1).max() <= 1 + 1e-12


@pytest.mark.parametrize(
    "settings", [Scattering(), Scattering(1, 8), Scattering(3, 4), Scattering(2, 6, order=1), Scattering(yuv=True)]
)
def test_distances_grow_by_no_more_than_stated(settings):
    """Random pairs, and pairs made to be far apart by gradient ascent."""
    bound = settings.lipschitz(16, 16)
    x = images(8, 3 if settings.yuv else 1, 16, 16, dtype=torch.float64)
    change = torch.randn(x.shape, generator=GENERATOR, dtype=torch.float64).requires_grad_()
    largest = 0.0
    for _ in range(20):
        ratio = (settings(x + change) - settings(x)).flatten(1).norm(dim=1) / change.flatten(1).norm(dim=1)
        largest = max(largest, float(ratio.detach().max()))
        (slope,) = torch.autograd.grad(ratio.sum(), change)
        with torch.no_grad():
            change += (
                0.5
                * change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                * slope
                / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            )
    assert 0.05 * bound < largest <= bound


@pytest.mark.parametrize("changes", [{"scales": 0}, {"angles": 0}, {"order": 3}, {"scales": 1.5}, {"angles": True}])
def test_settings_that_make_no_sense(changes):
    with pytest.raises(SettingsError, match="scattering"):
        Scattering(**changes)


@pytest.mark.parametrize("shape", [(2, 64), (2, 1, 3, 8), (2, 8, 8)])
def test_what_is_no_image(shape):
    with pytest.raises(SettingsError, match="expected images"):
        Scattering()(torch.zeros(shape))

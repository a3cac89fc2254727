"""Morlet wavelets and the Gaussian low-pass of a 2D scattering transform, sampled in the Fourier domain.

The family is that of Bruna and Mallat (2013) with the constants of kymatio (Andreux et al. 2020), so that the
coefficients agree with the literature's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_IMAGES = 5
"""Copies of a filter that are summed to make it periodic, in each direction: from two before to two after."""


@dataclass(frozen=True, eq=False)
class FilterBank:
    """Filters for real images of a padded size (height, width), both divisible by 2^scales."""

    psi: tuple[tuple[Array, ...], ...]
    """psi[j][r], (angles, height / 2^r, width / 2^r): the wavelets of scale j in Fourier, for images at resolution r,
    that is sampled every 2^r pixels."""
    rows: tuple[Array, ...]
    """rows[r], (height / 2^r,): the low-pass along a column in Fourier at resolution r; it is separable."""
    columns: tuple[Array, ...]
    """columns[r], (width / 2^r,): the low-pass along a row."""


def filter_bank(height: int, width: int, scales: int, angles: int) -> FilterBank:
    """Wavelets psi_{j, theta}, j = 0 .. J - 1, theta = L angles in [0, pi), and the low-pass phi_J.

    psi_{j, theta}(u) = g(u) (exp(i xi_j <u, n_theta>) - beta) with a Gaussian g of width 0.8 * 2^j along n_theta and
    L / 4 times that across it, xi_j = 3 pi / 4 / 2^j, and beta such that psi sums to 0. phi_J is a round Gaussian
    of width 0.8 * 2^(J - 1) that sums to 1.

    Args:
        height, width: Size of the padded image, both divisible by 2^J.
        scales: J, 1 or more.
        angles: L, 1 or more.

    Returns:
        The bank, in float64.
    """
    psi = []
    for j in range(scales):
        thetas = [(int(angles / 2 - 1) - k) * math.pi / angles for k in range(angles)]
        waves = np.stack([_morlet(height, width, 0.8 * 2**j, t, 0.75 * math.pi / 2**j, 4 / angles) for t in thetas])
        psi.append(tuple(_reduced(_reduced(waves, r, -1), r, -2) for r in range(min(j + 1, max(scales - 1, 1)))))
    lines = [_gaussian(n, 0.8 * 2 ** (scales - 1)) for n in (height, width)]
    rows, columns = (tuple(_reduced(line, r, -1) for r in range(scales)) for line in lines)
    return FilterBank(tuple(psi), rows, columns)


def littlewood_paley(bank: FilterBank, resolution: int = 0, first_scale: int = 0) -> Array:
    """|phi^|^2 + sum of |psi_j^|^2 over j >= first_scale and all angles, at each frequency (height, width).

    |psi_j^|^2 is averaged with its value at the opposite frequency, which has the same energy in a real image. The
    maximum bounds what a layer of the transform does to the energy of real images at this resolution (Mallat 2012).
    """
    found = np.outer(bank.rows[resolution], bank.columns[resolution]) ** 2
    for levels in bank.psi[first_scale:]:
        energy = (levels[resolution] ** 2).sum(axis=0)
        found = found + (energy + np.roll(energy[::-1, ::-1], (1, 1), axis=(0, 1))) / 2
    return found


def _morlet(height: int, width: int, sigma: float, theta: float, xi: float, slant: float) -> Array:
    """One wavelet in Fourier: real, since psi(-u) is the conjugate of psi(u)."""
    y, x = (np.arange(-2 * n, 3 * n, dtype=np.float64) for n in (height, width))
    along = y[:, None] * math.cos(theta) + x * math.sin(theta)
    across = x * math.cos(theta) - y[:, None] * math.sin(theta)
    envelope = np.exp(-(along**2 + slant**2 * across**2) / (2 * sigma**2)) * slant / (2 * math.pi * sigma**2)
    wave, low = _periodic(envelope * np.exp(1j * xi * along)), _periodic(envelope)
    found: Array = np.fft.fft2(wave - wave.sum() / low.sum() * low).real
    return found


def _gaussian(size: int, sigma: float) -> Array:
    """The low-pass along one direction, in Fourier."""
    u = np.arange(-2 * size, 3 * size, dtype=np.float64)
    line = np.exp(-(u**2) / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)
    found: Array = np.fft.fft(line.reshape(_IMAGES, size).sum(axis=0)).real
    return found


def _periodic(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Sum of the copies of a filter that was sampled beyond its grid."""
    height, width = (n // _IMAGES for n in values.shape)
    return values.reshape(_IMAGES, height, _IMAGES, width).sum(axis=(0, 2))


def _reduced(spectrum: Array, resolution: int, axis: int) -> Array:
    """A filter for signals sampled every 2^r pixels along an axis: its high frequencies dropped, the others folded."""
    found = np.moveaxis(spectrum, axis, -1).copy()
    size = found.shape[-1]
    found[..., size >> (resolution + 1) : size - (size >> resolution) + (size >> (resolution + 1))] = 0
    folded = found.reshape(*found.shape[:-1], 2**resolution, size >> resolution).sum(axis=-2)
    return np.moveaxis(folded, -1, axis)

"""The scattering transform of images (Bruna and Mallat 2013): fixed wavelets, nothing learnt, orders 0 to 2."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crfl.errors import SettingsError
from crfl.features.filters import Array, FilterBank, filter_bank, littlewood_paley

IntArray = npt.NDArray[np.int64]

YUV = ((0.299, 0.587, 0.114), (-0.147, -0.289, 0.436), (0.615, -0.515, -0.1))
_THREADS = threading.Lock()
"""Held by whoever changes torch's number of threads."""
WORKSPACE = 2**21
"""Numbers of the largest intermediate of a batch: 8 MB in float32, about what a processor's cache holds."""


@dataclass(frozen=True)
class Scattering:
    """Scattering coefficients of images, gray or with several channels, each channel by itself.

        S_0 = x * phi_J,    S_1 = |x * psi_a| * phi_J,    S_2 = ||x * psi_a| * psi_b| * phi_J,    scale(a) < scale(b),

    sampled every 2^J pixels. Images are padded by reflection to height + 2^(J+1) (rounded up to a multiple of 2^J),
    and the margin is cut off afterwards, as kymatio does.

    Example:
        >>> import torch
        >>> from crfl.features import Scattering
        >>> Scattering()(torch.zeros(2, 1, 28, 28)).shape  # 49 paths of 7 x 7
        torch.Size([2, 49, 7, 7])
    """

    scales: int = 2
    """J: invariance to shifts of up to 2^J pixels."""
    angles: int = 6
    """L: orientations of the wavelets."""
    order: int = 2
    """Largest order: 0, 1 or 2."""
    yuv: bool = False
    """Whether red, green and blue become brightness and two differences of colour first (ITU-R BT.601). One linear
    layer on top then predicts CIFAR-10 better, by 2 to 3 points."""

    def __post_init__(self) -> None:
        for name, least, most in (("scales", 1, 16), ("angles", 1, 64), ("order", 0, 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise SettingsError([f"scattering.{name}: got {value!r}, expected {least} to {most}"])

    @property
    def paths(self) -> int:
        """Coefficients per channel and position: 1 + J L + J (J - 1) / 2 L^2 up to order 2."""
        counts = (1, self.scales * self.angles, self.scales * (self.scales - 1) // 2 * self.angles**2)
        return sum(counts[: self.order + 1])

    def __call__(self, images: Tensor) -> Tensor:
        """The transform.

        Args:
            images: (m, channels, height, width), float32 or float64; the transform computes in the same.

        Returns:
            Coefficients (m, channels * paths, height / 2^J, width / 2^J).

        Raises:
            SettingsError: If the images are smaller than 2^J pixels, or not images.
        """
        if images.dim() != 4 or min(images.shape[2:]) < 2**self.scales or min(images.shape[2:]) < 2:
            raise SettingsError(
                [
                    f"scattering: got samples of shape {tuple(images.shape[1:])}, expected images (channels, height, "
                    f"width) of at least 2^{self.scales} = {2**self.scales} pixels a side"
                ]
            )
        if self.yuv and images.shape[1] == 3:
            images = torch.einsum("cd,ndhw->nchw", images.new_tensor(YUV), images)
        planes = images.flatten(0, 1)
        transform = _transform(self, (images.shape[2], images.shape[3]), images.dtype, images.device)
        found = torch.cat(_each(transform, planes.split(transform.at_once)))
        return found.reshape(len(images), -1, *found.shape[2:])

    def lipschitz(self, height: int, width: int) -> float:
        """A Lipschitz constant of the transform in l2 norms (of exact arithmetic).

        A layer expands distances by at most the root of its Littlewood-Paley maximum, since moduli and sampling do not
        expand them, and padding by at most the root of how often it repeats a pixel (Mallat 2012).

        Args:
            height: Of the images, in pixels.
            width: Likewise.

        Returns:
            The constant, for images of this size.

        Example:
            >>> 1.0 < Scattering().lipschitz(28, 28) < 4.0
            True
        """
        bank, pads = _bank(self, height, width)
        energy = [1.0]
        if self.order == 2:
            energy += [float(littlewood_paley(bank, r, first_scale=r + 1).max()) for r in range(self.scales - 1)]
        layers = max(energy) * float(littlewood_paley(bank).max())
        copies = math.prod(int(np.bincount(pad).max()) for pad in pads)
        colours = max(1.0, float(np.linalg.norm(YUV, 2))) if self.yuv else 1.0
        return colours * math.sqrt(layers * copies) * (1 + 1e-9)


class _Transform:
    """The filters for images of one size, and what they do."""

    def __init__(self, settings: Scattering, size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        bank, pads = _bank(settings, *size)
        self.order, self.scales = settings.order, settings.scales
        self.pads = [torch.from_numpy(pad).to(device) for pad in pads]
        # Filters are real: each number stands twice, for the real and the imaginary part of what it multiplies.
        self.psi = [[torch.from_numpy(f.repeat(2, axis=-1)).to(device, dtype) for f in levels] for levels in bank.psi]
        self.low_pass = [
            [
                torch.from_numpy(_low_pass(line, 2 ** (self.scales - r))).to(device, dtype)
                for r, line in enumerate(lines)
            ]
            for lines in (bank.rows, bank.columns)
        ]
        widest = settings.angles ** min(self.order, 2, self.scales)
        self.at_once = max(1, WORKSPACE // (2 * len(pads[0]) * len(pads[1]) * max(1, widest)))
        """Images whose largest intermediate fits into the workspace."""

    def __call__(self, planes: Tensor) -> Tensor:
        """Coefficients (m, paths, h, w) of images (m, height, width)."""
        padded = planes.index_select(1, self.pads[0]).index_select(2, self.pads[1])[:, None]
        first, second = [self._average(padded, 0)], []
        spectrum = torch.fft.fft2(padded)
        for j in range(self.scales if self.order else 0):
            moduli = _moduli(spectrum, self.psi[j][0], j)
            first.append(self._average(moduli, j))
            if self.order == 2 and j + 1 < self.scales:
                inner = torch.fft.fft2(moduli)[:, :, None]
                deeper = [self._average(_moduli(inner, self.psi[k][j], k - j), k) for k in range(j + 1, self.scales)]
                second.append(torch.cat(deeper, dim=2).flatten(1, 2))
        return torch.cat(first + second, dim=1)

    def _average(self, values: Tensor, resolution: int) -> Tensor:
        """values * phi_J, sampled, without the margin: a product from either side, as the low-pass is separable."""
        rows, columns = (lines[resolution] for lines in self.low_pass)
        return rows @ values @ columns.mT


def _each(transform: _Transform, parts: Sequence[Tensor]) -> list[Tensor]:
    """The transform of every part: several at a time on a processor, each by one thread.

    Its operations are so short that threads which share one operation wait for each other most of the time.
    """
    if len(parts) == 1 or not parts[0].is_cpu:
        return [transform(part) for part in parts]
    grad = torch.is_grad_enabled()

    def alone(part: Tensor) -> Tensor:
        with torch.set_grad_enabled(grad):  # each thread has its own mode
            return transform(part)

    with _THREADS:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads) as pool:
                return list(pool.map(alone, parts))
        finally:
            torch.set_num_threads(threads)


def _moduli(spectrum: Tensor, psi: Tensor, octaves: int) -> Tensor:
    """|x * psi| sampled every 2^octaves pixels, (..., angles, h, w), of spectra (..., 1, height, width)."""
    pairs = torch.view_as_real(spectrum).flatten(-2) * psi
    if octaves:  # sampling sums what lies 1 / 2^octaves of the spectrum apart
        step = 2**octaves
        height, width = pairs.shape[-2] // step, pairs.shape[-1] // step
        pairs = pairs.unflatten(-1, (step, width)).sum(-2).unflatten(-2, (step, height)).sum(-3) / step**2
    return torch.fft.ifft2(torch.view_as_complex(pairs.unflatten(-1, (-1, 2)).contiguous())).abs()


def _low_pass(line: Array, step: int) -> Array:
    """The low-pass along one direction as a matrix (outputs, n): circular, sampled, without the margin."""
    impulse = np.fft.ifft(line).real
    shifts = np.arange(0, len(line), step)[1:-1, None] - np.arange(len(line))
    return impulse[shifts % len(line)]


@lru_cache(maxsize=8)
def _transform(settings: Scattering, size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> _Transform:
    return _Transform(settings, size, dtype, device)


@lru_cache(maxsize=8)
def _bank(settings: Scattering, height: int, width: int) -> tuple[FilterBank, tuple[IntArray, IntArray]]:
    """The filters for padded images, and for both directions the pixels that padding takes, one by one."""
    step = 2**settings.scales
    sizes = [((n + step) // step + 1) * step for n in (height, width)]
    pads = [
        np.pad(np.arange(n), ((size - n) // 2, (size - n + 1) // 2), mode="reflect")
        for n, size in zip((height, width), sizes, strict=True)
    ]
    return filter_bank(sizes[0], sizes[1], settings.scales, settings.angles), (pads[0], pads[1])

"""Samples as pictures: rows of features to PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def sample_png(
    values: npt.ArrayLike, shape: Sequence[int], bounds: tuple[float, float] | None = None, signed: bool = False
) -> bytes:
    """One sample as a picture, a pixel a value: ink on white, or in colour if it has three channels.

    Args:
        values: The features, in the order of the image's values.
        shape: (height, width), (height, width, channels) or (channels, height, width).
        bounds: Which values are white and black; default: the smallest and the largest.
        signed: Whether to show a change: blue below 0, white at 0, red above.
    """
    from matplotlib.image import imsave

    image: npt.NDArray[Any] = np.asarray(values, dtype=np.float64).reshape(tuple(shape))
    if image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] not in (1, 3):
        image = image.transpose(1, 2, 0)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if signed:
        image = image.mean(-1) if image.ndim == 3 else image
        size = float(np.abs(image).max()) or 1.0
        return _save(imsave, image, cmap="bwr", vmin=-size, vmax=size)
    low, high = bounds or (float(image.min()), float(image.max()))
    if image.ndim == 3:
        return _save(imsave, np.clip((image - low) / ((high - low) or 1.0), 0, 1))
    return _save(imsave, image, cmap="gray_r", vmin=low, vmax=high if high > low else low + 1)


def plot_png(ax: Axes) -> bytes:
    """The figure of `ax` as PNG; closes it."""
    from matplotlib import pyplot

    figure = ax.get_figure(root=True)
    assert figure is not None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    pyplot.close(figure)
    return buffer.getvalue()


def _save(imsave: object, image: npt.NDArray[np.float64], **options: object) -> bytes:
    buffer = io.BytesIO()
    imsave(buffer, image, format="png", **options)  # type: ignore[operator]
    return buffer.getvalue()

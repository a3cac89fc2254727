"""Statistics of public samples: standardising and whitening. NumPy and SciPy, float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from crfl.errors import DataError

Array = npt.NDArray[np.float64]

MIN_SCALE = 1e-3
"""Added to every standard deviation: what hardly varies among the public samples is not blown up."""
DAMPING = 0.1
"""Share of the largest deviation that is added to all of them: noise in small directions is not blown up."""


def standardisation(samples: Array) -> tuple[Array, Array]:
    """Mean and standard deviation + 1e-3 of each number over the samples.

    Args:
        samples: (m, d).

    Returns:
        (d,) and (d,); features are standardised as (x - mean) / scale.

    Example:
        >>> import numpy as np
        >>> mean, scale = standardisation(np.array([[0.0], [2.0]]))
        >>> mean.tolist(), scale.tolist()
        ([1.0], [1.001])
    """
    return samples.mean(axis=0), samples.std(axis=0) + MIN_SCALE


def whitening(samples: Array, dimensions: int) -> tuple[Array, Array]:
    """Mean, and the k leading directions v_i of the covariance, each divided by s_i + 0.1 s_1.

    s_i is the standard deviation along v_i. The damping leaves the weak directions smaller than the strong ones.
    The smaller of the covariance and the Gram matrix is decomposed.

    Args:
        samples: (m, d), not all equal.
        dimensions: k, at most min(m - 1, d).

    Returns:
        (d,) and (d, k): features are whitened as (x - mean) @ directions.

    Raises:
        DataError: If all samples are alike.

    Example:
        >>> import numpy as np
        >>> mean, directions = whitening(np.array([[3.0, 1.0], [-3.0, 1.0], [0.0, 1.0]]), 1)
        >>> mean.tolist(), (directions * 6**0.5 * 1.1).round(9).tolist()
        ([0.0, 1.0], [[1.0], [0.0]])
    """
    mean = samples.mean(axis=0)
    centred = samples - mean
    m, d = centred.shape
    matrix = centred.T @ centred if d <= m else centred @ centred.T
    last = len(matrix) - 1
    variances, vectors = eigh(matrix / m, subset_by_index=(last + 1 - dimensions, last), overwrite_a=True)
    deviations, vectors = np.sqrt(np.maximum(variances[::-1], 0)), vectors[:, ::-1]
    if d > m:
        vectors = centred.T @ vectors
        vectors /= np.maximum(np.linalg.norm(vectors, axis=0), np.finfo(np.float64).tiny)
    if not deviations[0] > 0:
        raise DataError("features.whiten: the public samples are all alike, expected samples that differ")
    signs = np.sign(
        vectors[np.abs(vectors).argmax(axis=0), np.arange(dimensions)]
    )  # eigenvectors have none of their own
    return mean, vectors * signs / (deviations + DAMPING * deviations[0])

"""How fast a sample's gradient can change with the sample: the paper's Lemma 1 and the sharp constant.

Both are for softmax regression with cross entropy, whose gradient in (W, b) is (p - e_y) x~^T with x~ = (x, 1).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crfl.certification._checks import Result, nonnegative


def lemma1_lipschitz(rho: npt.ArrayLike) -> Result:
    """L_Z = sqrt(2 + 2 rho + rho^2) (Lemma 1 of the paper), for parameters of norm at most rho.

    Bounds ||g(x', y) - g(x, y)|| / ||x' - x|| where every input has ||x|| <= 1 and where the label stays. It holds up
    to ||x~|| <= 2, beyond that not for every rho (raw MNIST images have norms up to 17).

    Args:
        rho: Bound on the norm of the parameters, a number or an array.

    Returns:
        L_Z of the shape of `rho`; infinite for an infinite `rho`.

    Raises:
        CertificateError: a `rho` is negative or NaN.

    Example:
        >>> float(lemma1_lipschitz(3.0).round(4))
        4.1231
    """
    rho = nonnegative("rho", rho)
    return np.hypot(1.0, 1.0 + rho)


def sharp_lipschitz(spectral_norm: npt.ArrayLike, feature_norm: npt.ArrayLike) -> Result:
    """L_x(c), c = kappa B, with ||g(x', y) - g(x, y)|| <= L_x ||x' - x|| (docs/theory.md, section 4).

    L_x(c) = sqrt(2) for c <= 1 / sqrt(2), else c / 2 + 1 / sqrt(2) + 1 / (4 c). No smaller constant depends on c alone;
    the maximum over the class probabilities is reached with two classes.

    Args:
        spectral_norm: kappa, bound on ||W||_2.
        feature_norm: B, bound on ||x~|| of both samples; broadcasts against `spectral_norm`.

    Returns:
        L_x of the broadcast shape; infinite if either bound is infinite.

    Raises:
        CertificateError: a bound is negative or NaN.

    Example:
        >>> sharp_lipschitz([0.5, 2.0], 1.0).round(4)
        array([1.4142, 1.8321])
    """
    kappa, bound = nonnegative("spectral_norm", spectral_norm), nonnegative("feature_norm", feature_norm)
    with np.errstate(invalid="ignore", over="ignore"):
        c = kappa * bound
    c = np.maximum(np.where(np.isnan(c), np.inf, c), np.sqrt(0.5))  # at 1 / sqrt(2) the two branches meet
    return c / 2 + np.sqrt(0.5) + 0.25 / c

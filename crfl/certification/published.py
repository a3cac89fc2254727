"""The certificate as published: Theorems 1 to 3 and Corollary 1 of Xie et al., CRFL, ICML 2021.

These are the paper's formulas as printed. What they rest on, and where that does not hold, stands in docs/theory.md and
in every certificate's `assumptions`.

Each formula takes numbers or arrays, which broadcast, and returns a number for numbers.

Symbols: strengths are s_i = p_i gamma_i tau_i eta_i q_i / n_i, one an attacker (AttackerRecord.strength); `lipschitz`
is L_Z of Lemma 1; `noise` is sigma of the attack round; `log_contraction` is the log of the product over later rounds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from crfl.certification._checks import BoolArray, FloatArray, Result, finite, nonnegative, probability


def log_contraction(clip_norms: npt.ArrayLike, noise_stds: npt.ArrayLike) -> Result:
    """log prod_t (2 Phi(rho_t / sigma_t) - 1) over the rounds t after the attack (Theorem 2).

    Summed in logs: 1000 rounds of rho = sigma give -382, and beyond rho / sigma = 8.3 a factor differs from 1 by less
    than float64 can hold in the product.

    Args:
        clip_norms: rho_t (..., rounds), 0 or more; inf where nothing was clipped.
        noise_stds: sigma_t (..., rounds), 0 or more. The last factor, that of round T, has the test-time noise.

    Returns:
        (...,), at most 0. No rounds: 0 (the product is 1). A round without noise or with an infinite clip norm
        contributes 0.

    Raises:
        CertificateError: a number is negative or NaN.

    Example:
        >>> float(log_contraction([1.0, 2.0], 1.0).round(4))
        -0.4283
    """
    rho, sigma = np.broadcast_arrays(nonnegative("clip_norms", clip_norms), nonnegative("noise_stds", noise_stds))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(sigma > 0, rho / (sigma * np.sqrt(2.0)), np.inf)
        factors = np.where(z < 1, np.log(special.erf(z)), np.log1p(-special.erfc(z)))
    return np.atleast_1d(factors).sum(axis=-1)


def kl_budget(p_a: npt.ArrayLike, p_b: npt.ArrayLike) -> Result:
    """eps(pA, pB) = -log(1 - (sqrt(pA) - sqrt(pB))^2) (Theorem 3): KL divergence that cannot change the vote.

    Args:
        p_a: Lower bound of the top class's probability, 0 to 1.
        p_b: Upper bound of every other class's probability, 0 to 1.

    Returns:
        Broadcast shape, 0 or more: 0 where pA <= pB, inf at pA = 1, pB = 0, never NaN.

    Raises:
        CertificateError: a number is outside 0 to 1.

    Example:
        >>> float(kl_budget(0.7, 0.1).round(4))
        0.3159
    """
    p_a, p_b = probability("p_a", p_a), probability("p_b", p_b)
    with np.errstate(divide="ignore"):
        return kl_budget_from_logs(np.log1p(-p_a), np.log(p_b))


def kl_budget_from_logs(log_not_p_a: npt.ArrayLike, log_p_b: npt.ArrayLike) -> Result:
    """`kl_budget` from logarithms: right also where pA rounds to 1 and pB to 0 (exact probabilities).

    Args:
        log_not_p_a: log(1 - pA).
        log_p_b: log pB.

    Returns:
        Broadcast shape: eps, as `kl_budget` has it.

    Example:
        >>> float(kl_budget_from_logs(np.log(0.1), np.log(0.1)).round(6) == kl_budget(0.9, 0.1).round(6))
        1.0
    """
    log_not_p_a, log_p_b = np.asarray(log_not_p_a, np.float64), np.asarray(log_p_b, np.float64)
    root_a, root_b = np.sqrt(-np.expm1(log_not_p_a)), np.exp(log_p_b / 2)
    difference = root_a - root_b
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        close = -np.log1p(-np.square(difference))
        # 1 - (a - b)^2 = (1 - a + b) (1 + a - b) with 1 - a = (1 - pA) / (1 + a): no cancellation near a = 1, b = 0.
        # The first factor is b + (1 - a), kept in logs.
        log_first = np.logaddexp(log_p_b / 2, log_not_p_a - np.log1p(root_a))
        budget = np.where(difference < 0.5, close, -log_first - np.log1p(difference))
    return np.where(difference > 0, np.maximum(budget, 0.0), 0.0)[()]


def theorem2_kl_bound(
    strengths: npt.ArrayLike,
    magnitudes: npt.ArrayLike,
    *,
    lipschitz: npt.ArrayLike,
    noise: npt.ArrayLike,
    log_contraction: npt.ArrayLike = 0.0,
) -> Result:
    """2 R sum_i (s_i L_Z ||delta_i||)^2 / sigma^2 times the product (Theorem 2): bound on the KL divergence.

    Args:
        strengths: s_i = p_i gamma_i tau_i eta_i q_i / n_i, (..., R); a number for one attacker.
        magnitudes: ||delta_i|| (..., R), or one number for all attackers; inf is allowed.
        lipschitz: L_Z of Lemma 1 (`lemma1_lipschitz`).
        noise: sigma of the attack round.
        log_contraction: Log of the product over the later rounds (`log_contraction`).

    Returns:
        (...,): 0 if no attacker changes anything, also without noise; otherwise inf at noise 0 or an infinite
        Lipschitz constant.

    Raises:
        CertificateError: a strength is not finite, or another number is negative or NaN.

    Example:
        >>> float(theorem2_kl_bound(7.5e-4, 0.1, lipschitz=17**0.5, noise=0.01).round(6))
        0.001913
    """
    strengths, magnitudes = np.atleast_1d(finite("strengths", strengths)), nonnegative("magnitudes", magnitudes)
    effects = _product(strengths, magnitudes)
    attackers = effects.shape[-1]
    lipschitz, noise = nonnegative("lipschitz", lipschitz), nonnegative("noise", noise)
    total = attackers * np.square(effects).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        bound = 2 * total * np.square(lipschitz / noise) * np.exp(np.asarray(log_contraction, np.float64))
    bound = np.where((noise == 0) | np.isinf(lipschitz), np.inf, bound)
    return np.where(total == 0, 0.0, bound)[()]


def theorem1_certified(
    p_a: npt.ArrayLike,
    p_b: npt.ArrayLike,
    *,
    strengths: npt.ArrayLike,
    magnitudes: npt.ArrayLike,
    lipschitz: npt.ArrayLike,
    noise: npt.ArrayLike,
    log_contraction: npt.ArrayLike = 0.0,
) -> BoolArray:
    """Whether Theorem 1 certifies attackers of different strengths and magnitudes: KL bound <= eps(pA, pB).

    Args:
        p_a: As for `kl_budget`; broadcasts against the leading axes of `strengths`.
        p_b: As for `kl_budget`.
        strengths: As for `theorem2_kl_bound`, and so the other arguments.
        magnitudes: ||delta_i||
        lipschitz: L_Z
        noise: sigma
        log_contraction: Log of the product.

    Returns:
        Booleans; False wherever pA <= pB, where no class is decided.

    Raises:
        CertificateError: a number is out of its range.

    Example:
        >>> theorem1_certified([0.9, 0.5], 0.1, strengths=7.5e-4, magnitudes=1.0, lipschitz=17**0.5, noise=0.01)
        array([ True, False])
    """
    budget = kl_budget(p_a, p_b)
    bound = theorem2_kl_bound(strengths, magnitudes, lipschitz=lipschitz, noise=noise, log_contraction=log_contraction)
    return np.asarray((budget > 0) & (bound <= budget))


def corollary1_radius(
    p_a: npt.ArrayLike,
    p_b: npt.ArrayLike,
    *,
    strengths: npt.ArrayLike,
    lipschitz: npt.ArrayLike,
    noise: npt.ArrayLike,
    log_contraction: npt.ArrayLike = 0.0,
    logs: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
) -> Result:
    """RAD = sqrt(eps(pA, pB) sigma^2 / (2 R L_Z^2 sum_i s_i^2 prod)): the largest common magnitude (Corollary 1).

    Args:
        p_a: pA (m,) or a number, as for `kl_budget`.
        p_b: pB (m,) or a number.
        strengths: s_i = p_i gamma_i tau_i eta_i q_i / n_i, (..., R); a number for one attacker.
        lipschitz: L_Z of Lemma 1 (`lemma1_lipschitz`).
        noise: sigma of the attack round.
        log_contraction: Log of the product over the later rounds (`log_contraction`).
        logs: log(1 - pA) and log pB where they are known: right also where pA rounds to 1 and pB to 0.

    Returns:
        Radii in units of the features. Edge cases, in this order: 0 where pA <= pB (nothing is decided); inf without
        attackers or if every strength is 0 (no poison, scale 0); 0 at noise 0 or an infinite Lipschitz constant (an
        infinite rho).

    Raises:
        CertificateError: a number is out of its range.

    Example:
        >>> float(corollary1_radius(0.94, 0.06, strengths=7.5e-4, lipschitz=17**0.5, noise=0.01).round(3))
        1.973
    """
    budget = kl_budget(p_a, p_b) if logs is None else kl_budget_from_logs(*logs)
    strengths = np.atleast_1d(finite("strengths", strengths))
    lipschitz, noise = nonnegative("lipschitz", lipschitz), nonnegative("noise", noise)
    total = np.sqrt(strengths.shape[-1]) * np.linalg.norm(strengths, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        unit = noise / (lipschitz * total) * np.exp(-np.asarray(log_contraction, np.float64) / 2)
        radius = np.sqrt(budget / 2) * unit
    radius = np.where((noise == 0) | np.isinf(lipschitz), 0.0, radius)
    radius = np.where(total == 0, np.inf, radius)
    return np.where(budget > 0, radius, 0.0)[()]


def _product(a: FloatArray, b: FloatArray) -> FloatArray:
    """a * b where 0 times infinity is 0: an attacker without strength changes nothing, however large its trigger."""
    with np.errstate(invalid="ignore"):
        return np.where(a == 0, 0.0, a * b)

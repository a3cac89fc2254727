"""Certificates: their formulas, in float64 and without PyTorch.

`certify` and `smooth`, which need a model, are in crfl itself.
"""

from crfl.certification.bounds.exact import exact_bounds
from crfl.certification.bounds.votes import ProbabilityBounds, clopper_pearson, hoeffding, min_samples
from crfl.certification.lipschitz import lemma1_lipschitz, sharp_lipschitz
from crfl.certification.margin import margin_budget, smoothing_budget
from crfl.certification.metrics import certified_accuracy, certified_rate
from crfl.certification.published import (
    corollary1_radius,
    kl_budget,
    log_contraction,
    theorem1_certified,
    theorem2_kl_bound,
)

__all__ = [
    "ProbabilityBounds",
    "certified_accuracy",
    "certified_rate",
    "clopper_pearson",
    "corollary1_radius",
    "exact_bounds",
    "hoeffding",
    "kl_budget",
    "lemma1_lipschitz",
    "log_contraction",
    "margin_budget",
    "min_samples",
    "sharp_lipschitz",
    "smoothing_budget",
    "theorem1_certified",
    "theorem2_kl_bound",
]

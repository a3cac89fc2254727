"""Certificates: their formulas, in float64 and without PyTorch, and the functions that certify a run.

`crfl.certify` calls the function of a kind: `certify_margin`, `certify_smoothing`, `certify_published`,
`certify_clients`, `certify_distance`, `certify_ensemble`. Those need a model, so they and PyTorch are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from crfl.certification.bounds.exact import exact_bounds
from crfl.certification.bounds.votes import ProbabilityBounds, clopper_pearson, hoeffding, min_samples
from crfl.certification.certificate import Certificate, ClientCertificate, Guarantee
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
from crfl.certification.radius import RadiusCertificate

if TYPE_CHECKING:
    from crfl.certification.certify import (
        certify_clients,
        certify_distance,
        certify_ensemble,
        certify_margin,
        certify_published,
        certify_smoothing,
    )

__all__ = [
    "Certificate",
    "ClientCertificate",
    "Guarantee",
    "ProbabilityBounds",
    "RadiusCertificate",
    "certified_accuracy",
    "certified_rate",
    "certify_clients",
    "certify_distance",
    "certify_ensemble",
    "certify_margin",
    "certify_published",
    "certify_smoothing",
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


def __getattr__(name: str) -> object:
    if name.startswith("certify_") and name in __all__:
        return getattr(import_module("crfl.certification.certify"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""What a certificate says of itself: summaries, equality, tables, spaces, and the strengths it holds at."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

import crfl
from crfl.certification.certificate import Certificate, ClientCertificate, Guarantee
from crfl.certification.radius import RadiusCertificate
from crfl.errors import CertificateError
from tests.certification.records import attacker, make_record, make_round


class Line:
    """Attacks cost their magnitude, for each attacker and each poisoned sample."""

    def __init__(self, **changes):
        self.record = make_record([make_round(1), make_round(2, [attacker()])], **changes)

    def certifies(self, budget, cost):
        return cost < budget

    def cost(self, magnitude, *, poisoned=None, attackers=None):
        return magnitude * (poisoned or 1) * (attackers or 1)

    def max_malicious(self, budget, silent, limit):
        return np.full(len(budget), min(limit, 2 if silent else 1))


def radius_certificate(radius, abstained=None, guarantee=None, notes=(), **record):
    radius = np.array(radius, dtype=float)
    off = np.zeros(len(radius), dtype=bool) if abstained is None else np.array(abstained)
    return RadiusCertificate(
        kind="margin",
        prediction=np.arange(len(radius)) % 3,
        abstained=off,
        indices=np.arange(len(radius)),
        test_size=len(radius),
        guarantee=guarantee or Guarantee("nothing changes", ("the earth is round",), rounding="proved"),
        notes=notes,
        radius=radius,
        budget=radius.copy(),
        scenario=Line(**record),
    )


def client_certificate(counts, abstained=None):
    counts = np.array(counts)
    return ClientCertificate(
        kind="clients",
        prediction=np.zeros(len(counts), dtype=int),
        abstained=np.zeros(len(counts), dtype=bool) if abstained is None else np.array(abstained),
        indices=np.arange(len(counts)),
        test_size=len(counts),
        guarantee=Guarantee("nothing changes", ()),
        notes=(),
        malicious_clients=counts,
    )


def test_any_poison_is_what_stands_at_infinity():
    cert = radius_certificate([0.0, 0.2, np.inf, np.inf], [True, False, False, False])
    assert cert.any_poison.tolist() == [False, False, True, True]
    y = np.array([0, 1, 2, 1])
    assert cert.certified_accuracy(y, np.inf) == 0.25
    np.testing.assert_array_equal(cert.certified_accuracy(y, [0.0, 0.2, 0.3, np.inf]), [0.5, 0.5, 0.25, 0.25])
    assert "0.5 for any content, abstained 0.25" in cert.summary()
    assert cert.critical_radius == np.inf


def test_spaces():
    inputs = radius_certificate([0.0, 0.2, np.inf])
    assert inputs.radius_space == "input"
    np.testing.assert_array_equal(inputs.input_radius, inputs.radius)
    assert inputs.strength_label == "radius $r$ (l2 norm of the trigger)"
    features = radius_certificate([0.0, 0.2, np.inf], feature_map="scattering", lipschitz=4.0)
    assert features.radius_space == "feature"
    np.testing.assert_array_equal(features.input_radius, [0.0, 0.05, np.inf])
    assert "feature space" in features.strength_label
    assert "in feature space" in features.summary()
    unknown = radius_certificate([0.2], feature_map="backbone", lipschitz=None)
    assert unknown.input_radius is None


def test_counts_are_a_strength():
    cert = client_certificate([0, 0, 3, 12], [True, False, False, False])
    assert isinstance(cert, Certificate)
    np.testing.assert_array_equal(cert.certified_accuracy([0, 0, 0, 1], [0, 1, 3, 4]), [0.5, 0.25, 0.25, 0])
    np.testing.assert_array_equal(cert.certified_rate([1, 4]), [0.5, 0.25])
    assert list(cert.to_frame().columns) == ["index", "prediction", "malicious_clients", "abstained"]
    text = cert.summary()
    assert "0.75 without any, 0.5 at 1, 0.5 at 2, 0.25 at 5, 0.25 at 10, abstained 0.25" in text
    assert cert.strength.tolist() == [0, 0, 3, 12]


def test_summary_is_short_and_says_everything():
    guarantee = Guarantee("nothing changes", ("a", "b"), ("b fails", "a fails"), alpha=0.001)
    cert = radius_certificate([0.0, 0.05, 0.2], [True, False, False], guarantee, notes=("few votes",))
    text = cert.summary()
    assert repr(cert) == text
    assert len(text.splitlines()) <= 10
    for part in (
        "margin (not a guarantee here): certificate of 3 test samples",
        "claim: nothing changes",
        "0.6667 at radius 0, 0.3333 at 0.1 (on record), 0 for any content, abstained 0.3333",
        "not known without labels",
        "rounding: ignored",
        "probability at most 0.001",
        "b fails (and 1 more: .warnings)",
        "note: few votes",
        "2 assumptions",
    ):
        assert part in text
    assert cert.warnings == ("b fails", "a fails", "few votes")
    large = radius_certificate(np.linspace(0, 1, 100_000))
    assert len(repr(large)) < 1500
    unproved = radius_certificate([1.0], guarantee=Guarantee("nothing changes", (), alpha=None))
    assert "no level is proved" in unproved.summary()


def test_html_is_escaped():
    cert = radius_certificate([1.0], guarantee=Guarantee("1 < 2 & <b>", ()))
    page = cert._repr_html_()
    assert "1 &lt; 2 &amp; &lt;b&gt;" in page
    assert page.count("<tr>") == len(cert.summary().splitlines()) - 1


def test_equality_is_by_content_and_never_raises():
    cert = radius_certificate([0.1, 0.2])
    assert (cert == replace(cert, radius=cert.radius.copy(), prediction=cert.prediction.copy())) is True
    different = (
        replace(cert, radius=np.array([0.1, 0.3])),
        replace(cert, radius=np.array([0.1, 0.2, 0.3])),
        replace(cert, radius=np.array([0.1, 0.2], dtype=np.float32)),
        replace(cert, kind="smoothing"),
        replace(cert, guarantee=Guarantee("another", ())),
        client_certificate([1, 2]),
        None,
        cert.radius,
        "margin",
    )
    for other in different:
        assert (cert == other) is False
        assert (cert != other) is True
    with pytest.raises(TypeError):
        hash(cert)
    with pytest.raises(FrozenInstanceError):
        cert.kind = "published"


def test_no_samples():
    cert = radius_certificate([])
    assert cert.critical_radius == 0
    assert cert.summary().startswith("margin: certificate of 0 test samples")
    assert len(cert.to_frame()) == 0
    with pytest.raises(CertificateError, match="got no samples"):
        cert.certified_rate(0.0)


def test_labels_of_the_whole_test_set_or_of_the_rows():
    cert = replace(radius_certificate([0.1, 0.2]), indices=np.array([3, 4]), test_size=6)
    y = np.array([9, 9, 9, 0, 5, 9])
    assert cert.certified_accuracy(y, 0.1) == cert.certified_accuracy(y[[3, 4]], 0.1) == 0.5
    assert "2 of 6 test samples" in cert.summary()
    with pytest.raises(CertificateError, match=r"y: got shape \(3,\), expected lengths 2 or 6"):
        cert.certified_accuracy(y[:3], 0.1)


def test_levels_count_what_the_budget_certifies():
    cert = radius_certificate([0.0, 0.1, 0.35, np.inf])
    assert cert.max_poisoned(0.1).tolist() == [0, 0, 3, 5]  # strictly; at most the batch size
    assert cert.max_attackers(0.1).tolist() == [0, 0, 3, 4]  # at most all clients
    assert cert.max_malicious().tolist() == [1] * 4
    assert cert.max_malicious(silent=True).tolist() == [2] * 4


def test_public_name():
    assert crfl.Certificate is Certificate
    with pytest.raises(TypeError):
        Certificate("margin", np.zeros(1), np.zeros(1), np.zeros(1), 1, Guarantee("", ()), ())

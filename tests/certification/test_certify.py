"""Certificates of a run: by hand where that can be, and against each other."""

import math
from dataclasses import replace

import numpy as np
import pytest

import crfl
from crfl.certification import corollary1_radius, exact_bounds, lemma1_lipschitz, margin_budget
from crfl.certification.certify import certify_margin
from crfl.certification.smoothing import smooth
from crfl.errors import CertificateError, SettingsError
from crfl.rng import stream
from tests.certification.records import attacker
from tests.certification.trained import EXP, changed, with_rounds


def test_published_by_hand(run, data):
    cert = crfl.certify(run, data.test, kind="published")
    assert (cert.kind, cert.bounds.method) == ("published", "hoeffding")
    votes = smooth(run.model, run.params, data.test.x, noise=0.01, samples=300, generator=stream(0, "votes"))
    np.testing.assert_array_equal(cert.votes.counts, votes.counts)
    h = math.sqrt(math.log(1000) / 600)
    top = np.sort(votes.counts, axis=1) / 300
    p_a, p_b = top[:, -1] - h, top[:, -2] + h
    strength = 0.1 * 5 * 0.05 * 7 * 1 / 20  # p gamma eta tau q/n: 143 or 144 samples a client, batches of 20
    expected = corollary1_radius(
        np.maximum(p_a, 0), np.minimum(p_b, 1), strengths=[strength], lipschitz=lemma1_lipschitz(2.4), noise=0.01
    )
    np.testing.assert_allclose(cert.radius, expected, rtol=1e-12)
    np.testing.assert_array_equal(cert.abstained, p_a <= p_b)
    np.testing.assert_array_equal(cert.prediction, votes.counts.argmax(axis=1))
    assert cert.critical_radius == cert.radius.max()


def test_kinds_compared(run, data):
    """Margin and exact smoothing nearly agree; more votes' worth of certainty is never worse."""
    certs = {
        (kind, bounds): crfl.certify(run, data.test, kind=kind, bounds=bounds)
        for kind in ("published", "smoothing")
        for bounds in ("hoeffding", "clopper_pearson", "exact")
    }
    margin = crfl.certify(run, data.test, kind="margin")
    assert (certs["smoothing", "exact"].radius <= margin.radius * (1 + 1e-6)).all()
    np.testing.assert_array_equal(certs["smoothing", "exact"].prediction, margin.prediction)
    for kind in ("published", "smoothing"):
        exact = certs[kind, "exact"]
        assert exact.bounds.alpha == 0
        assert exact.votes is None
        assert exact.certified_rate(0.05) >= certs[kind, "clopper_pearson"].certified_rate(0.05)
        for bounds in ("hoeffding", "clopper_pearson"):
            sampled = certs[kind, bounds]
            agree = (sampled.prediction == exact.prediction) & ~sampled.abstained
            assert ((sampled.p_a <= exact.p_a + 1e-12) | ~agree).mean() > 0.99
    assert margin.p_a is None
    assert margin.bounds is None


def test_margin_by_hand(run, data):
    cert = crfl.certify(run, data.test, kind="margin")
    w = run.params.double().numpy()
    x = data.test.x.double().numpy()
    logits = x @ w[:640].reshape(10, 64).T + w[640:]
    last = run.record.rounds[-1]
    budget = margin_budget(logits, np.sqrt(1 + (x**2).sum(axis=1))) * max(1, last.pre_clip_norm / last.clip_norm)
    np.testing.assert_allclose(cert.budget, budget, rtol=1e-8)
    assert (cert.budget < budget).all()
    certified = cert.radius > 0
    assert certified.any()
    for i in np.flatnonzero(certified)[:20]:
        assert cert.scenario.cost(float(cert.radius[i])) < cert.budget[i]
    assert (cert.abstained == (cert.budget <= cert.scenario.cost(0.0))).all()


def test_margin_before_the_last_clip(run, data):
    """A last clip that bites scales the model and its margins down; the certificate is taken before it."""
    tight = crfl.train(EXP.override({"server.clip.start": 0.5, "server.clip.slope": 0.0}), data)
    last = tight.record.rounds[-1]
    assert last.pre_clip_norm > last.clip_norm
    cert = crfl.certify(tight, data.test, kind="margin")
    after = crfl.certify(tight, data.test, kind="smoothing", bounds="exact")
    assert (cert.radius >= after.radius * (1 - 1e-6)).all()
    assert cert.certified_rate(0.05) > after.certified_rate(0.05)


def test_levels(run, data):
    for kind in ("published", "smoothing", "margin"):
        cert = crfl.certify(run, data.test, kind=kind, bounds=None if kind == "margin" else "exact")
        for delta in (0.0, 0.05, 0.3):
            poisoned, attackers = cert.max_poisoned(delta), cert.max_attackers(delta)
            # One sample a batch and one attacker are what is on record.
            held = ~cert.abstained & (cert.radius >= delta)
            np.testing.assert_array_equal(poisoned >= 1, held)
            np.testing.assert_array_equal(attackers >= 1, held)
            assert poisoned.max() <= 20
            assert attackers.max() <= 10
        assert (cert.max_poisoned(0.05) >= cert.max_poisoned(0.3)).all()
    published = crfl.certify(run, data.test, kind="published", bounds="exact")
    expected = np.minimum(np.floor(published.radius / 0.05), 20)
    np.testing.assert_array_equal(published.max_poisoned(0.05), expected)
    np.testing.assert_array_equal(published.max_attackers(0.05), np.minimum(expected, 10))


def test_levels_match_a_run_with_that_attack(run, data):
    cert = crfl.certify(run, data.test, kind="margin")
    stronger = changed(
        run,
        record=replace(
            run.record,
            rounds=tuple(
                replace(
                    r,
                    attackers=tuple(
                        replace(a, client=i, poison_ratios=(3 / 20,) * 7) for a in r.attackers for i in range(2)
                    ),
                )
                for r in run.record.rounds
            ),
        ),
    )
    twice = crfl.certify(stronger, data.test, kind="margin")
    assert twice.scenario.cost(0.1) == pytest.approx(cert.scenario.cost(0.1, poisoned=3, attackers=2), rel=1e-6)


def test_subset_of_the_test_set(run, data):
    whole = crfl.certify(run, data.test, kind="published")
    some = crfl.certify(changed(run, smoothing__test_samples=50), data.test, kind="published")
    assert len(some.indices) == len(some.radius) == 50
    assert (np.diff(some.indices) > 0).all()
    np.testing.assert_array_equal(some.radius, whole.radius[some.indices])
    radii = np.linspace(0, 0.3, 7)
    picked = some.certified_accuracy(data.test.y[some.indices], radii)
    np.testing.assert_array_equal(some.certified_accuracy(data.test.y, radii), picked)
    with pytest.raises(CertificateError, match="y: got"):
        some.certified_accuracy(data.test.y[:10], radii)
    beyond = crfl.certify(changed(run, smoothing__test_samples=10**6), data.test, kind="published")
    assert len(beyond.indices) == len(data.test)


def test_votes_are_reused(run, data):
    first = crfl.certify(run, data.test, kind="published")
    again = crfl.certify(run, data.test, kind="published", votes=first.votes, bounds="clopper_pearson")
    assert again.votes is first.votes
    few = changed(run, smoothing__test_samples=50)
    some = crfl.certify(few, data.test, kind="published", votes=first.votes)
    np.testing.assert_array_equal(some.votes.counts, first.votes.counts[some.indices])
    np.testing.assert_array_equal(crfl.certify(few, data.test, kind="published", votes=some.votes).radius, some.radius)
    with pytest.raises(CertificateError, match="votes: got noise"):
        crfl.certify(changed(run, smoothing__noise=0.02), data.test, kind="published", votes=first.votes)
    with pytest.raises(CertificateError, match="votes: got 10 test samples"):
        crfl.certify(run, data.test, kind="published", votes=replace(first.votes, counts=first.votes.counts[:10]))


def test_simultaneous_bounds(run, data):
    alone = crfl.certify(run, data.test, kind="published", bounds="clopper_pearson")
    together = crfl.certify(
        run, data.test, kind="published", bounds="clopper_pearson", simultaneous=True, votes=alone.votes
    )
    assert together.bounds.alpha == pytest.approx(0.001 / len(data.test))
    assert together.critical_radius < alone.critical_radius
    assert any("over all samples" in text for text in together.assumptions)
    assert any("that sample alone" in text for text in alone.assumptions)
    for options in ({"kind": "published"}, {"kind": "smoothing", "bounds": "exact"}, {}):
        with pytest.raises(CertificateError, match="simultaneous"):
            crfl.certify(run, data.test, simultaneous=True, **options)


@pytest.mark.parametrize("kind", ["published", "smoothing", "margin"])
def test_no_test_samples(run, data, kind):
    cert = crfl.certify(run, data.test.take([]), kind=kind)
    assert cert.critical_radius == 0
    assert len(cert.to_frame()) == len(cert.max_poisoned(0.1)) == 0


def test_selection_votes_are_drawn_apart(run, data):
    cert = crfl.certify(changed(run, smoothing__noise=0.3), data.test, kind="published", bounds="clopper_pearson")
    assert (cert.prediction != cert.votes.counts.argmax(axis=1)).any()  # hard cases: 100 other models may differ
    wrong = cert.prediction != cert.votes.counts.argmax(axis=1)
    assert cert.abstained[wrong].all()


def test_frame_and_curves(run, data):
    cert = crfl.certify(run, data.test, kind="published")
    frame = cert.to_frame()
    assert list(frame.columns) == [
        "index", "prediction", "radius", "abstained", "p_a", "p_b", "estimate_a", "estimate_b",
    ]  # fmt: skip
    assert len(frame) == len(data.test)
    correct = cert.prediction == data.test.y.numpy()
    expected = [(correct & ~cert.abstained & (cert.radius >= r)).mean() for r in (0.0, 0.1)]
    np.testing.assert_allclose(cert.certified_accuracy(data.test.y, [0.0, 0.1]), expected)
    assert list(crfl.certify(run, data.test, kind="margin").to_frame().columns) == list(frame.columns)[:4]


def test_published_uses_the_rounds_after_the_attack(run, data):
    """The product over rounds t_adv + 1 .. T, its last factor with the test-time noise; sigma of the attack round."""
    noisy = with_rounds(run, lambda r: replace(r, clip_norm=0.02, noise_std=0.01 * (1 + r.round % 3)))
    noisy = changed(noisy, record=noisy.record, smoothing__noise=0.013)
    cert = crfl.certify(noisy, data.test, kind="published", bounds="exact")
    from crfl.certification import log_contraction

    stds = [0.01 * (1 + t % 3) for t in range(5, 12)] + [0.013]
    assert cert.scenario.log_contraction == pytest.approx(float(log_contraction([0.02] * 8, stds)), rel=1e-12)
    assert cert.scenario.noise == pytest.approx(0.02)
    assert cert.scenario.lipschitz == pytest.approx(float(lemma1_lipschitz(0.02)))
    rho = crfl.certify(noisy, data.test, kind="published", bounds="exact", attack_clip_norm=7.0)
    assert rho.scenario.lipschitz == pytest.approx(float(lemma1_lipschitz(7.0)))


def test_attack_in_the_last_round(data):
    last = crfl.train(EXP.override({"attack.round": 12, "smoothing.noise": 0.04}), data)
    cert = crfl.certify(last, data.test, kind="published", bounds="exact")
    assert cert.scenario.log_contraction == 0
    assert cert.scenario.noise == 0.04


@pytest.mark.parametrize("kind", ["published", "smoothing", "margin"])
@pytest.mark.parametrize("switch", [{"attack.round": None}, {"attack.clients": 0}, {"attack.poisoned_per_batch": 0}])
def test_no_attack_no_limit(data, kind, switch):
    quiet = crfl.train(EXP.override({**switch, "server.rounds": 4}), data)
    cert = crfl.certify(quiet, data.test, kind=kind, bounds=None if kind == "margin" else "exact")
    assert np.isinf(cert.radius[~cert.abstained]).all()
    assert not cert.abstained.any()
    assert any("Nobody attacked" in text for text in cert.assumptions) == (not quiet.record.attack_rounds)
    if not quiet.record.attack_rounds:
        assert (cert.max_poisoned(1.0) == 20).all()
        with pytest.raises(CertificateError, match="nobody attacked"):
            cert.max_attackers(1.0)


def test_benign_counterpart_has_the_same_scenario(run, data):
    """The certificate is symmetric: from the benign run's record it bounds the same attack."""
    benign = crfl.train(EXP, data, benign=True)
    ours = crfl.certify(benign, data.test, kind="margin")
    theirs = crfl.certify(run, data.test, kind="margin")
    assert ours.scenario.cost(0.1) == pytest.approx(theirs.scenario.cost(0.1), rel=0.02)


def test_any_round(run, data):
    known = crfl.certify(run, data.test, kind="margin")
    unknown = crfl.certify(run, data.test, kind="margin", attack_round="any")
    assert (unknown.radius <= known.radius).all()
    assert unknown.certified_rate(0.05) > 0
    assert any("whichever it was" in text for text in unknown.assumptions)


def test_any_round_knows_who_would_take_part(run, data):
    """Attackers who bring themselves in take part in another round than on record."""
    drawn = changed(run, server__participation=0.5)
    crfl.certify(drawn, data.test, kind="margin", attack_round="any")
    with pytest.raises(CertificateError, match=r"attack_round: got 'any'.* attack\.force_participation"):
        crfl.certify(changed(drawn, attack__force_participation=True), data.test, kind="margin", attack_round="any")
    crfl.certify(changed(drawn, attack__force_participation=True), data.test, kind="margin")


def test_attackers_that_differ(data):
    """Theorem 1's strength, which ignores labels, does not say who is the strongest."""
    each = [{"labels": "keep", "poisoned_per_batch": 20}, {"poisoned_per_batch": 19}]
    changes = {"attack.round": 12, "attack.clients": 2, "attack.scale": 30.0, "attack.magnitude": 0.001}
    mixed, benign = crfl.train_pair(EXP.override({**changes, "attack.per_attacker": each}), data)
    cert = crfl.certify(mixed, data.test, kind="margin")
    other = benign.predict(data.test.x)
    assert (other != cert.prediction).mean() > 0.3
    assert not ((cert.max_attackers(0.001) >= 2) & (other != cert.prediction)).any()


def test_hardly_any_noise_is_no_more_than_the_margin(run, data):
    for noise in (1e-100, 1e-150, 1e-160, 1e-300):
        faint = changed(run, smoothing__noise=noise, smoothing__test_samples=None)
        smoothing = crfl.certify(faint, data.test, kind="smoothing", bounds="exact")
        margin = crfl.certify(faint, data.test, kind="margin")
        assert (smoothing.radius <= margin.radius * (1 + 1e-8)).all()


def test_only_labels_that_may_change_are_said_to(run, data):
    """Of two attackers one keeps the labels of its poisoned samples: its cost has no label change in it."""
    text = crfl.certify(run, data).guarantee.statement
    assert "whatever triggers of norm up to its radius, and whatever labels, the poisoned samples of 1 attacker" in text
    assert "round 4" in text

    def said(*flips):
        attackers = tuple(attacker(i, weight=0.1, label_flip=flip) for i, flip in enumerate(flips))
        mixed = with_rounds(run, lambda r: replace(r, attackers=attackers if r.attackers else ()))
        return crfl.certify(mixed, data).guarantee.statement

    assert "and of 1 of them labels, the poisoned samples of 2 attackers" in said(True, False)
    assert "labels" not in said(False, False)
    assert "whatever labels" in said(True, True)


def test_the_default_is_the_margin(run, data):
    assert crfl.certify(run, data.test).kind == "margin"
    assert crfl.certify(run, data.test) == certify_margin(run, data.test)


@pytest.mark.parametrize("kind", ["published", "smoothing", "margin"])
def test_the_device_does_not_matter(run, data, kind):
    assert crfl.certify(run, data.test, kind=kind, device="cpu") == crfl.certify(run, data.test, kind=kind)
    with pytest.raises(SettingsError, match="device: got 'abacus'"):
        crfl.certify(run, data.test, kind=kind, device="abacus")


def test_rounding_is_called_what_it_is(run, data):
    assert run.record.precision == "float64"
    proved = crfl.certify(run, data.test)
    assert proved.guarantee.rounding == "proved"
    assert "rounding: proved" in proved.summary()
    single = crfl.train(EXP.override({"local.precision": "float32"}), data)
    modelled = crfl.certify(single, data.test)
    assert modelled.guarantee.rounding == "modelled"
    assert "a model of float32 checked by measurement, not a proof" in modelled.summary()
    assert any("not by proof" in text for text in modelled.assumptions)


def test_exact_probabilities_of_a_run(run, data):
    cert = crfl.certify(changed(run, smoothing__noise=0.2), data.test, kind="published", bounds="exact")
    logits = run.model.logits(run.params.double(), data.test.x.double()).numpy()
    norms = np.hypot(1.0, data.test.x.double().norm(dim=1).numpy())
    expected = exact_bounds(logits, 0.2 * norms)
    np.testing.assert_allclose(cert.p_a, expected.p_a, rtol=1e-10)
    votes = smooth(run.model, run.params, data.test.x, noise=0.2, samples=2000, generator=stream(7, "check"))
    share = votes.counts[np.arange(len(norms)), cert.prediction] / 2000
    assert np.abs(share - cert.p_a).max() < 0.06

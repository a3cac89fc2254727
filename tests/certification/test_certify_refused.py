"""Runs, models and test sets that a certificate does not hold for, and what is said of them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import crfl
from crfl.certification import exact_bounds, margin_budget
from crfl.errors import CertificateError, CertificateWarning
from tests.certification.records import attacker
from tests.certification.trained import EXP, changed, with_rounds


def test_published_warns_where_it_is_broken(run, data):
    cert = crfl.certify(run, data.test, kind="published")
    text = " ".join(cert.warnings)
    assert "norm 4.906" in text  # 4.806 and the trigger's 0.1
    assert "labels" in text
    assert "Lemma 1" in text
    assert "benign counterpart" in cert.assumptions[0]
    meek = changed(
        with_rounds(run, lambda r: replace(r, attackers=tuple(replace(a, label_flip=False) for a in r.attackers)))
    )
    meek = changed(meek, record=replace(meek.record, max_feature_norm=0.89))
    assert crfl.certify(meek, data.test, kind="published").warnings == ()
    hasty = changed(meek, record=replace(meek.record, learning_rates=(2.3,) * 10))
    assert "local.learning_rate is 2.3" in crfl.certify(hasty, data.test, kind="published").warnings[0]
    outside = with_rounds(run, lambda r: replace(r, start_norm=2.9))
    assert any("has norm 2.9" in w for w in crfl.certify(outside, data.test, kind="published").warnings)


def test_too_few_votes_are_named(run, data):
    cert = crfl.certify(changed(run, smoothing__samples=10), data.test, kind="published")
    assert cert.abstained.all()
    assert any("at least 14" in w for w in cert.warnings)
    assert cert.critical_radius == 0


def test_smoothing_says_why_nothing_is_certified(run, data):
    cert = crfl.certify(run, data.test, kind="smoothing")
    assert cert.abstained.all()
    assert any("even at magnitude 0" in w for w in cert.warnings)
    silent = crfl.certify(changed(run, smoothing__noise=0.0), data.test, kind="smoothing", bounds="exact")
    assert any("smoothing.noise is 0" in w for w in silent.warnings)


def test_refusals_name_the_reason(run, data):
    def refused(match, run=run, **options):
        with pytest.raises(CertificateError, match=match):
            crfl.certify(run, data.test, **options)

    refused("kind: got 'sharp', expected 'margin'", kind="sharp")
    refused("bounds: got 'bayes', expected 'hoeffding'", kind="smoothing", bounds="bayes")
    refused("attack_round: got 3, expected 'any'", attack_round=3)
    votes = crfl.certify(run, data.test, kind="published").votes
    for option in ({"bounds": "exact"}, {"votes": votes}, {"simultaneous": True}, {"attack_clip_norm": 3.0}):
        refused(f"kind 'margin': got {next(iter(option))}, expected attack_round", **option)
    refused("kind 'published': got attack_round", kind="published", attack_round="any")
    refused("kind 'smoothing': got attack_clip_norm", kind="smoothing", attack_clip_norm=3.0)
    refused(
        "kind 'clients': got attack_round, votes|kind 'clients': got votes, attack_round",
        kind="clients",
        votes=votes,
        attack_round="any",
    )
    refused("votes: got votes with bounds 'exact'", kind="smoothing", bounds="exact", votes=votes)
    fewer = replace(votes, counts=np.pad(votes.counts[:, :9], ((0, 0), (0, 0))))
    refused(r"votes: got counts of shape \(397, 9\), expected 10 classes", kind="smoothing", votes=fewer)
    rfa = changed(run, record=replace(run.record, aggregation="rfa", data_independent_weights=False))
    refused("server.aggregation is 'rfa'", run=rfa, kind="margin")
    refused("server.aggregation is 'rfa'", run=rfa, kind="smoothing")
    assert crfl.certify(rfa, data.test, kind="published").certified_rate(0.01) > 0  # the paper does
    twice = with_rounds(run, lambda r: replace(r, attackers=(attacker(weight=0.1),)) if r.round > 10 else r)
    refused("got attacks in rounds 4, 11, 12, expected one attack round", run=twice, kind="published")
    assert crfl.certify(twice, data.test, kind="margin").radius.shape == (len(data.test),)
    bad = with_rounds(
        run, lambda r: replace(r, attackers=tuple(replace(a, update="nan", update_norm=1.0) for a in r.attackers))
    )
    refused("got attackers that sent malicious updates, expected poisoned samples alone", run=bad, kind="published")
    with pytest.raises(CertificateError, match="test: got x of shape"):
        crfl.certify(run, SimpleNamespace(x=torch.zeros(3, 5)))


@pytest.mark.parametrize("kind", ["published", "smoothing", "margin", "clients"])
def test_other_models_are_refused_with_what_holds_for_them(run, data, kind):
    module = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    other = crfl.train(EXP.override({"server.rounds": 1, "attack.round": 1}), data, model=module)
    with pytest.raises(
        CertificateError, match=r"the model is module Sequential.*softmax regression only.*train_ensemble.*'distance'"
    ):
        crfl.certify(other, data.test, kind=kind)


class Own:
    """A user's own softmax regression: no subclass, and only what certification asks of a model."""

    name, linear = "own", True

    def __init__(self, model):
        self.num_classes, self.num_params, self.bias = model.num_classes, model.num_params, model.bias
        self.logits, self.feature_norms = model.logits, model.feature_norms

    def noisy_logits(self, models, x):
        return self.logits(models, x).permute(2, 0, 1)

    def models_per_block(self, limit):
        return 7


@pytest.mark.parametrize("kind", ["published", "smoothing", "margin"])
def test_any_linear_model_will_do(run, data, kind):
    options = {} if kind == "margin" else {"bounds": "clopper_pearson"}
    known = crfl.certify(run, data.test, kind=kind, **options)
    own = crfl.certify(replace(run, model=Own(run.model)), data.test, kind=kind, **options)
    np.testing.assert_array_equal(own.prediction, known.prediction)
    np.testing.assert_allclose(own.radius, known.radius, rtol=1e-9)


def test_a_linear_module_is_certified(data):
    torch.manual_seed(0)
    run = crfl.train(EXP, data, model=torch.nn.Linear(64, 10))
    assert crfl.certify(run, data.test).certified_rate(0.02) > 0.3


def test_without_bias_a_sample_is_as_long_as_its_features(data):
    """x~ = x: the logits move by at most ||x|| Delta, and their noise has deviation sigma ||x||."""
    bare = crfl.train(EXP.override({"model.bias": False}), data)
    w, x = bare.params.double().numpy().reshape(10, 64), data.test.x.double().numpy()
    logits, norms = x @ w.T, np.linalg.norm(x, axis=1)
    last = bare.record.rounds[-1]
    expected = margin_budget(logits, norms) * max(1, last.pre_clip_norm / last.clip_norm)
    np.testing.assert_allclose(crfl.certify(bare, data.test).budget, expected, rtol=1e-8)
    exact = crfl.certify(bare, data.test, kind="smoothing", bounds="exact").bounds
    np.testing.assert_allclose(exact.p_a, exact_bounds(logits, 0.01 * norms).p_a, rtol=1e-9)
    with pytest.raises(CertificateError, match="model: got bias False, expected True"):
        crfl.certify(replace(bare, record=replace(bare.record, bias=True)), data.test)


def test_data_in_place_of_its_test_split(run, data):
    assert crfl.certify(run, data) == crfl.certify(run, data.test)
    assert crfl.certify(run, data).test_size == len(data.test)


@pytest.mark.parametrize("wrong", [lambda d: d.test.x, lambda d: d.test.x.numpy(), lambda d: (d.test.x, d.test.y)])
def test_what_is_no_split_gets_a_sentence(run, data, wrong):
    with pytest.raises(
        CertificateError, match=r"test: got (Tensor|ndarray|tuple).*expected a split .* such as data\.test"
    ):
        crfl.certify(run, wrong(data))


def test_what_is_no_run_gets_a_sentence(run, data):
    for kind in ("margin", "published", "clients"):
        with pytest.raises(CertificateError, match="run: got FederatedData, expected a TrainingRun"):
            crfl.certify(data, run, kind=kind)


def test_published_warns_with_a_class_of_its_own(run, data, recwarn):
    with pytest.warns(CertificateWarning, match="kind 'published' is no guarantee.*norm 4.906"):
        cert = crfl.certify(run, data.test, kind="published")
    assert (cert.kind, cert.label, cert.guarantee.holds) == ("published", "published (not a guarantee here)", False)
    assert "claim: as printed" in cert.summary()
    recwarn.clear()
    sound = crfl.certify(run, data.test)
    assert (sound.label, sound.guarantee.holds) == ("margin", True)
    assert not recwarn.list

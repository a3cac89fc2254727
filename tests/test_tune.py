"""Tuning: the fitted clip is sound and tight, the search keeps off the test set, optimised poison breaks nothing."""

import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import crfl
from benchmarks.poison_search import search
from crfl.cli import main
from crfl.config.shipped import named_settings
from crfl.data.federated import Split
from crfl.errors import CertificateError, SettingsError
from crfl.schedule import Schedule
from crfl.tune import fit_update_clip, rehearse, tune

SHORT = {"server.rounds": 40, "attack.round": 20, "server.decay": 5e-3, "features.whiten": 30}


@pytest.fixture(scope="module")
def exp():
    return crfl.Experiment.named("certified/digits").override(SHORT)


@pytest.fixture(scope="module")
def data(exp):
    return crfl.load_data(exp)


@pytest.fixture(scope="module")
def record(exp, data):
    return crfl.train(exp.override({"attack.round": None, "server.update_clip": 1e9}), data).record


@pytest.mark.parametrize("client_rounds", [1, 3])
def test_the_fitted_clip_certifies_so_many_client_rounds_of_an_attacked_run(exp, data, client_rounds):
    run = crfl.train(rehearse(exp, data, client_rounds), data)
    certified = crfl.certify(run, data.test, attack_round="any").max_malicious()
    assert (certified >= client_rounds).mean() > 0.5


def test_the_fitted_clip_touches_no_honest_update_and_is_no_looser_than_it_must_be(exp, record):
    clip = fit_update_clip(record)
    schedule = Schedule(exp.override({"server.update_clip": clip.to_dict()}), 1)
    clips = np.array([schedule.update_clip(r.round) for r in record.rounds])
    norms = np.array([max(r.update_norms) for r in record.rounds])
    assert (norms < clips).all()
    assert (norms / clips).max() > 0.8


def test_more_client_rounds_need_a_looser_clip(record):
    one, three = fit_update_clip(record, 1), fit_update_clip(record, 3)
    sizes = [np.mean([clip.factor(t) for t in range(1, 41)]) for clip in (one, three)]
    assert sizes[0] < sizes[1]


def test_no_schedule_withstands_more_than_honest_updates_can_bear(record):
    with pytest.raises(CertificateError, match="fewer client-rounds"):
        fit_update_clip(record, 10**6)


def test_a_record_without_norms_is_refused(exp, data):
    run = crfl.train(exp.override({"server.update_clip": None, "server.rounds": 2, "attack.round": None}), data)
    with pytest.raises(CertificateError, match="norms of updates"):
        fit_update_clip(run.record)


def test_tuning_finds_the_best_of_its_trials_and_their_frontier(exp, data):
    found = tune(exp, data, decays=[5e-3, 0.3], rounds=[10, 40])
    assert len(found.trials) == 4
    assert found.best in found.frontier
    assert found.best.certified == max(t.certified for t in found.trials)
    assert found.best.experiment.server.decay == found.best.decay


def test_tuning_neither_judges_nor_maps_the_test_set(exp, data):
    """The other test images are white, and its map refuses those."""

    def refusing(images):
        assert images.mean() < 0.9, "mapped a test image"
        return data.feature_map.function(images)

    white = Split(torch.ones_like(data.origin.test.x), data.test.y)
    other = replace(
        data,
        test=Split(data.test.x.flip(0), data.test.y),
        origin=replace(data.origin, test=white),
        feature_map=replace(data.feature_map, function=refusing),
    )
    assert tune(exp, data, [5e-3]).best == tune(exp, other, [5e-3]).best


def test_tuning_needs_a_decay(exp, data):
    plain = exp.override({"server.decay": 0.0, "local.schedule": "constant"})
    with pytest.raises(SettingsError, match="what tune varies"):
        tune(plain, data)


def test_the_command_writes_settings_that_it_can_read(tmp_path):
    out = tmp_path / "best.yaml"
    changes = [f"--set={key}={value}" for key, value in SHORT.items()]
    arguments = ["tune", "certified/digits", *changes, "--decay", "5e-3", "--out", str(out)]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert crfl.Experiment.from_yaml(out).server.decay == 5e-3


@pytest.mark.parametrize("name", [n for n in named_settings() if n.startswith("certified/")])
def test_recipes_are_valid_and_say_what_they_certify(name):
    exp = crfl.Experiment.from_yaml(named_settings()[name])
    assert exp.local.precision == "float64"
    assert "ertif" in named_settings()[name].read_text().split("seed:")[0]


needs_data = [
    pytest.mark.data,
    pytest.mark.skipif("CRFL_DATA_DIR" not in os.environ, reason="CRFL_DATA_DIR is not set"),
]


@pytest.mark.parametrize("name", ["digits", pytest.param("loan", marks=needs_data)])
def test_a_recipe_reaches_what_it_says(name):
    """Accuracy and certified accuracy for one client-round, as its comment has them; one sample may round otherwise."""
    comment = named_settings()[f"certified/{name}"].read_text().split("seed:")[0]
    stated = [float(re.search(pattern, comment)[1]) for pattern in (r"accuracy (0\.\d+)", r"client-round (0\.\d+)")]
    exp = crfl.Experiment.named(f"certified/{name}")
    data = crfl.load_data(exp)
    run = crfl.train(exp, data)
    cert = crfl.certify(run, data.test, attack_round="any")
    held = (cert.prediction == data.test.y.numpy()) & (cert.max_malicious() >= 1)
    assert [run.score(data.test), held.mean()] == pytest.approx(stated, abs=1 / len(data.test) + 5e-5)


def test_optimised_poison_breaks_no_certificate():
    found = search(runs=8, seed=1)
    assert not found.broken.any()
    assert 0.05 < found.ratio.max() <= 1

"""What is allowed but hardly meant is said: once, where it is, and not where all is well."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import crfl
from crfl.config.shipped import named_settings
from crfl.errors import SanityWarning
from crfl.sweeps import Cache, sweep

SHORT = {"server.rounds": 12, "attack.round": 4}


def arrays(classes=4, first=0, scale=1.0, seed=0):
    """Separable rows: 300 for training, 100 for testing."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, 400)
    x = (0.2 * random.random((400, 8)) + np.eye(8)[y]) * scale
    return x[:300], y[:300] + first, x[300:], y[300:] + first


def custom(**changes):
    return crfl.Experiment().override({**SHORT, "data.name": "custom", "attack.trigger": [[0, 1]], **changes})


def pixels(*given, **options):
    return crfl.FederatedData.from_arrays(*given, clients=10, input_shape=(2, 4), **options)


def said(act):
    """Texts of the warnings that `act` gives, and what it returns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = act()
    assert all(issubclass(w.category, SanityWarning) for w in caught)
    return [str(w.message) for w in caught], found


@pytest.fixture(scope="module")
def good():
    return pixels(*arrays(), domain=(0, 1.2))


def test_nothing_is_said_of_a_sound_run(good):
    texts, run = said(lambda: crfl.train(custom(**{"local.learning_rate": 0.5}), good))
    assert texts == []
    assert said(lambda: crfl.certify(run, good))[0] == []


def test_a_constant_predictor_is_told_by_training_and_by_its_certificate(good):
    bias = nn.Linear(8, 4)
    with torch.no_grad():
        bias.weight.zero_()
        bias.bias.copy_(torch.tensor([0.0, 0.0, 1.5, 0.0]))
    exp = custom(**{"local.learning_rate": 1e-6, "server.noise": 0.0, "smoothing.noise": 0.01})
    texts, run = said(lambda: crfl.train(exp, good, model=bias))
    assert len(texts) == 1
    assert texts[0].startswith("constant predictor")
    assert run.columns["top_prediction_share"][-1] == 1
    assert "share of the most frequent prediction 1.0000" in repr(run)
    texts, cert = said(lambda: crfl.certify(run, good))
    assert len(texts) == 1
    assert cert.notes == tuple(texts)
    assert cert.any_poison.all()  # perfectly certified, and worth nothing
    share = (good.test.y == 2).double().mean()
    assert f"right for {share:.4g}" in texts[0]
    assert "the most frequent prediction makes up 1" in cert.summary()


def test_few_samples_or_one_class_may_well_get_one_prediction(good):
    run = crfl.train(custom(**{"local.learning_rate": 0.5}), good)
    of_class_2 = good.test.take(torch.nonzero(good.test.y == 2).flatten())
    assert len(of_class_2) > 20
    assert said(lambda: crfl.certify(run, of_class_2))[0] == []
    assert said(lambda: crfl.certify(run, good.test.take([int((good.test.y == 2).nonzero()[0])])))[0] == []


def test_less_than_always_the_most_frequent_class():
    data = pixels(*arrays())
    wrong = nn.Linear(8, 4)
    with torch.no_grad():
        wrong.weight.copy_(-torch.eye(8)[:4])
    texts, run = said(lambda: crfl.train(custom(**{"local.learning_rate": 1e-6}), data, model=wrong))
    majority = float(data.test.y.bincount().max()) / 100
    assert len(texts) == 1
    assert f"is below {majority:.4g}" in texts[0]
    texts, cert = said(lambda: crfl.certify(run, data))
    assert texts == []  # training said it
    assert f"always the most frequent class {majority:.4g}" in cert.summary()
    assert any("is below" in note for note in cert.notes)


def test_labels_from_1_and_gaps():
    texts, _ = said(lambda: pixels(*arrays(first=1)))
    assert len(texts) == 1
    assert "start at 1, so the model has 1 class without any sample; subtract 1" in texts[0]
    assert said(lambda: pixels(*arrays(first=1), num_classes=5))[0] == []
    x, y, x_test, y_test = arrays()
    texts, _ = said(lambda: pixels(x, np.where(y == 3, 7, y), x_test, np.where(y_test == 3, 7, y_test)))
    assert len(texts) == 1
    assert "no sample has label 3, 4, 5, 6" in texts[0]
    texts, _ = said(lambda: pixels(x, np.minimum(y, 2), x_test, y_test))
    assert texts == ["y_test: label 3 is in no training sample of y"]


@pytest.mark.parametrize(("scale", "advice"), [(255, "divide them by 255"), (1e4, "scale every feature")])
def test_features_that_are_not_normalised(scale, advice):
    x, y, x_test, y_test = arrays(scale=scale)
    data = pixels(np.floor(np.minimum(x, scale)), y, np.floor(np.minimum(x_test, scale)), y_test)
    texts, _ = said(lambda: crfl.train(custom(**{"local.learning_rate": 1e-6, "server.noise": 0.0}), data))
    about = [text for text in texts if text.startswith("features are not normalised")]
    assert len(about) == 1
    assert advice in about[0]


def test_bytes_are_scaled_by_themselves_and_nothing_is_said():
    x, y, x_test, y_test = arrays(scale=200)
    data = pixels(x.clip(0, 255).astype(np.uint8), y, x_test.clip(0, 255).astype(np.uint8), y_test)
    assert said(lambda: crfl.train(custom(**{"local.learning_rate": 0.5}), data))[0] == []


def test_layers_in_eval_mode(good):
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 4))
    texts, _ = said(lambda: crfl.train(custom(**{"local.learning_rate": 0.5}), good, model=network))
    assert [text.split(":")[0] for text in texts] == ["model (0)", "model (3)"]
    plain = nn.Sequential(nn.GroupNorm(2, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    assert said(lambda: crfl.train(custom(**{"local.learning_rate": 0.5}), good, model=plain))[0] == []
    texts, _ = said(lambda: crfl.train_ensemble(custom(**{"attack.round": None}), good, groups=5, model=network))
    assert len(texts) == 2


@pytest.mark.parametrize(
    ("changes", "shards", "key"),
    [
        ({"data.dirichlet_alpha": 0.1}, False, "data.dirichlet_alpha"),
        ({"data.partition": "dirichlet"}, True, "data.partition"),
        ({"local.schedule_offset": 3.0}, False, "local.schedule_offset"),
    ],
)
def test_settings_without_effect(changes, shards, key):
    rows = {"shards": np.arange(300).reshape(10, 30)} if shards else {}
    data = pixels(*arrays(), **rows)
    texts, _ = said(lambda: crfl.train(custom(**{"local.learning_rate": 0.5, **changes}), data))
    assert [text.split(" is ")[0] for text in texts] == [key]


def test_a_sweep_says_it_once(tmp_path):
    base = crfl.Experiment().override({"server.rounds": 2, "attack.round": 1, "local.learning_rate": 1e-6})
    texts, _ = said(lambda: sweep(Cache(tmp_path), base, "attack.scale", [1.0, 2.0, 3.0], seeds=[3]))
    assert len(texts) == 1
    assert texts[0].startswith("3 of 3 runs: ")


def test_a_warning_points_at_the_users_line(good):
    with pytest.warns(SanityWarning) as caught:
        crfl.train(custom(**{"data.dirichlet_alpha": 0.1, "local.learning_rate": 0.5}), good)
    assert {w.filename for w in caught} == {__file__}


@pytest.mark.parametrize("name", ["digits", "certified/digits"])
def test_shipped_settings_have_nothing_to_say(name):
    exp = crfl.Experiment.from_yaml(named_settings()[name])
    assert said(lambda: crfl.certify(crfl.train(exp, data := crfl.load_data(exp)), data))[0] == []

"""Settings that do not go together."""

import pytest

import crfl
from crfl.errors import SettingsError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"server.aggregation": "meen"}, "server.aggregation: got 'meen', expected mean, weighted_mean"),
        ({"attack.update": "flip"}, "attack.update: got 'flip', expected sign_flip"),
        ({"attack.per_attacker": [{"update": "flip"}]}, "attack.per_attacker.0.update: got 'flip'"),
        (
            {"local.schedule": "inverse"},
            "local.schedule: got 'inverse', expected 'constant' unless local.weight_decay or",
        ),
        (
            {"local.weight_decay": 0.1, "server.decay": 0.1},
            "server.decay: got 0.1, expected 0 where local.weight_decay",
        ),
        ({"server.update_clip": {"start": 1, "end": 2}}, "server.update_clip.start: got 1, expected at least"),
        (
            {"server.aggregation": "krum", "server.num_byzantine": 0, "server.participation": 0.2},
            "server.aggregation: got krum, which needs 3 clients a round, expected a rule for 2",
        ),
        ({"features.whiten": 50}, "features.whiten: got 50, expected null, or fewer than features.public = 0"),
        ({"features.whiten": 50, "features.public": 50}, "features.whiten: got 50"),
    ],
)
def test_settings_that_do_not_go_together(changes, message):
    with pytest.raises(SettingsError) as caught:
        crfl.Experiment().override(changes)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "changes",
    [
        {"local.schedule": "inverse", "local.weight_decay": 0.1},
        {"local.schedule": "inverse", "server.decay": 0.1},
        {"server.update_clip": {"start": 2, "end": 2}},
        {"server.update_clip.start": 2, "server.update_clip.end": 1},
        {"features.whiten": 49, "features.public": 50},
        {"attack.per_attacker": [{"update": "nan"}], "attack.update": "sign_flip", "server.aggregation": "rfa"},
    ],
)
def test_settings_that_go_together(changes):
    assert crfl.Experiment().override(changes) != crfl.Experiment()


def test_own_rules_and_updates_are_known_once_they_are_added(monkeypatch):
    from crfl.aggregation import AGGREGATORS, Rule, mean
    from crfl.attack.malicious import MALICIOUS

    monkeypatch.setitem(AGGREGATORS, "my rule", Rule(mean, min_clients=lambda server: 3))
    monkeypatch.setitem(MALICIOUS, "my update", lambda update, model, generator: update)
    exp = crfl.Experiment().override({"server.aggregation": "my rule", "attack.update": "my update"})
    assert exp.server.aggregation == "my rule"

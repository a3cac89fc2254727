"""A record that the settings of its run do not bear out is refused."""

from dataclasses import replace

import pytest

import crfl
from crfl.errors import DamagedFileError
from crfl.runs import manifest, record_file
from crfl.runs.plausibility import contradictions

EXP = crfl.Experiment().override(
    {
        "server.rounds": 5,
        "attack.round": 3,
        "attack.clients": 2,
        "server.decay": 0.1,
        "local.schedule": "inverse",
        "server.update_clip": {"start": 2.0, "end": 0.5},
    }
)


@pytest.fixture(scope="module")
def record():
    return crfl.train(EXP, crfl.load_data(EXP)).record


def changed(record, t, **changes):
    rounds = list(record.rounds)
    rounds[t - 1] = replace(rounds[t - 1], **changes)
    return replace(record, rounds=tuple(rounds))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"server.clip.start": 3.0}, "round 1: got clip norm"),
        ({"server.noise": 0.02}, "round 1: got noise"),
        ({"server.decay": 0.2}, "round 1: got learning rate cap"),
        ({"local.schedule_offset": 1.0}, "round 1: got learning rate cap"),
        ({"server.update_clip": None}, "round 1: got update clip"),
        ({"server.update_clip": 0.5}, "round 1: got update clip"),
        ({"local.learning_rate": 0.04}, r"local.learning_rate: got"),
        ({"local.batch_size": 10}, "local.batch_size: got 20, expected 10"),
        ({"local.precision": "float32"}, "local.precision"),
        ({"server.aggregation": "weighted_mean"}, "server.aggregation"),
        ({"server.rounds": 6}, "server.rounds: got 5, expected 6"),
        ({"seed": 1}, "seed"),
        ({"attack.clients": 3}, "attackers: got 2, expected 3"),
        ({"attack.round": 4}, "round 3: got attackers, expected none"),
        ({"attack.round": [3, 4]}, "round 4: got the attackers"),
    ],
)
def test_other_settings_are_noticed(record, change, named):
    assert contradictions(record, EXP) == []
    found = contradictions(record, EXP.override(change))
    assert any(text.startswith(named) for text in found), found


def test_an_attacker_that_is_left_out_is_noticed(record):
    for attackers in ((), record.rounds[2].attackers[:1]):
        assert "round 3: got the attackers" in contradictions(changed(record, 3, attackers=attackers), EXP)[0]


def test_such_a_record_is_not_loaded_though_the_manifest_lists_it(tmp_path):
    run = crfl.train(EXP, crfl.load_data(EXP))
    crfl.save_run(tmp_path, run)
    harmless = changed(run.record, 3, attackers=())
    manifest.load(tmp_path).restore({"record.json": record_file.dumps(harmless)})
    with pytest.raises(DamagedFileError, match="round 3: got the attackers set"):
        crfl.load_run(tmp_path)

"""Settings in YAML: what is written is read, and what is no settings is refused in a sentence."""

import pytest

import crfl
from crfl.errors import SettingsError
from tests.config.shipped import CONFIGS


def test_defaults_are_the_digits_config():
    assert crfl.Experiment.from_yaml(CONFIGS / "digits.yaml") == crfl.Experiment()


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_yaml_round_trip(path, tmp_path):
    exp = crfl.Experiment.from_yaml(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(exp.to_yaml())
    assert crfl.Experiment.from_yaml(copy) == exp


def test_new_settings_survive_yaml(tmp_path):
    changes = {
        "attack.round": [3, 9],
        "attack.clients": ["client 3", 4],
        "attack.scale": "replace",
        "attack.per_attacker": [{"trigger": [[0, 1]], "update": "sign_flip"}, {"scale": 3.0}],
        "local.learning_rate": [0.1] * 10,
        "server.participation": 0.5,
    }
    exp = crfl.Experiment().override(changes)
    path = tmp_path / "copy.yaml"
    path.write_text(exp.to_yaml())
    assert crfl.Experiment.from_yaml(path) == exp


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: [", "not valid YAML"),
        ("[" * 2000, "not valid YAML"),
        (f"seed: {'9' * 5000}", "not valid YAML"),
        *((text, "groups of settings") for text in ("- 1", "[]", "0", "false")),
        ("seed: 1\nseed: 2", "seed given twice"),
        ("server: {yes: 2}", "server.True: unknown setting"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        crfl.Experiment.from_yaml(path)
    assert str(path) in str(caught.value)


def test_merged_and_empty_files(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text("local: &rate {learning_rate: 0.5}\n")
    half = crfl.Experiment.from_yaml(path)
    path.write_text("local: {<<: {learning_rate: 0.25, epochs: 2}, learning_rate: 0.5}\n")
    assert crfl.Experiment.from_yaml(path) == half.override({"local.epochs": 2})
    path.write_text("# nothing yet\n")
    assert crfl.Experiment.from_yaml(path) == crfl.Experiment()


def test_missing_file():
    with pytest.raises(SettingsError, match="cannot be read"):
        crfl.Experiment.from_yaml("nowhere.yaml")


def test_numbers_without_a_point_are_numbers(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("local: {learning_rate: 1e-3}")  # a string to YAML 1.1
    assert crfl.Experiment.from_yaml(path).local.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]", "repeats another value"),
        ("attack: &a {per_attacker: [*a]}", "repeats another value"),
        ("seed: " + "1" * 3_000_000, "longer than 1,048,576 characters"),
        ("seed: " + "1" * 5000, "more than 100 digits"),
        ("seed: " + "1:" * 5000 + "1", "more than 100 digits"),
        ("{" + "".join(f"k{i}: 1, " for i in range(2000)) + "}", "more than 1000 keys"),
        ("seed: !!bool maybe", "does not fit its tag"),
        ("seed: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("seed: " + "[" * 100_000, "nested too deeply"),
        ("seed: 2020-13-45", "seed: got '2020-13-45', expected a whole number"),
        ("seed: " + "[" * 100 + "]" * 100, "16 deep"),
        ("seed: \udcff", "codec"),
        ("{" + "x" * 1000 + ": 1}", r"xxx\.\.\.: unknown setting"),
        ("[" + "x, " * 20_000 + "]", "groups of settings"),
    ],
    ids=range(14),
)
def test_hostile_files_are_refused_in_a_short_sentence(tmp_path, text, message):
    path = tmp_path / "hostile.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError, match=message) as caught:
        crfl.Experiment.from_yaml(path)
    assert len(str(caught.value)) < 1000

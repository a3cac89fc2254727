"""The settings that ship with crfl, and the page that explains every one."""

from pathlib import Path

import pytest
import yaml

import crfl
from crfl.config.reference import all_settings, settings_page
from crfl.errors import SettingsError
from tests.config.shipped import CONFIGS


def test_settings_that_ship_with_crfl_have_names():
    assert crfl.Experiment.named("digits") == crfl.Experiment()
    assert crfl.Experiment.named("mnist") == crfl.Experiment.from_yaml(CONFIGS / "mnist.yaml")
    for name in ("mnits", "../configs/mnist", "/etc/passwd", ""):
        with pytest.raises(SettingsError, match=r"name: got .*, expected .*digits, .*mnist"):
            crfl.Experiment.named(name)


def test_every_setting_has_its_kind_default_and_meaning():
    settings = {setting.key: setting for setting in all_settings()}
    nested = crfl.Experiment().to_dict()

    def leaves(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    for key, value in leaves(nested):
        assert yaml.safe_load(settings[key].default) == value
    assert settings["server.rounds"].kind == "a whole number from 1 to 10^6"
    assert settings["attack.scale"].meaning.startswith("gamma: factor on the attackers' updates")
    assert {"server.update_clip.decay_rounds", "attack.per_attacker.N.scale"} <= settings.keys()
    assert all(setting.meaning for setting in settings.values())


def test_the_page_of_settings_is_up_to_date():
    page = Path(crfl.__file__).parents[1] / "docs" / "settings.md"
    assert page.read_text() == settings_page(), "crfl settings --markdown > docs/settings.md"

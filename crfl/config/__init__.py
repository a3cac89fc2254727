"""Settings of one experiment: frozen, validated where they are made, YAML in and out, overrides by dotted key.

The symbols of the paper stand in the docstrings; the defaults are configs/digits.yaml (a test holds them equal).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from crfl.config.conflicts import conflicts
from crfl.config.files import merged, plain, read_yaml, text_keys
from crfl.config.problems import inside, value_problems, without
from crfl.config.sections import (
    Attack,
    AttackerChanges,
    Clip,
    Count,
    Data,
    Features,
    Local,
    ModelSettings,
    Section,
    Server,
    Smoothing,
    UpdateClip,
)
from crfl.errors import SettingsError

__all__ = [
    "Attack",
    "AttackerChanges",
    "Clip",
    "Data",
    "Experiment",
    "Features",
    "Local",
    "ModelSettings",
    "Server",
    "Smoothing",
    "UpdateClip",
]


class Experiment(Section):
    """All settings of one run. Frozen; `override` returns a changed copy."""

    seed: Count = 0
    data: Data = Data()
    features: Features = Features()
    model: ModelSettings = ModelSettings()
    local: Local = Local()
    server: Server = Server()
    attack: Attack = Attack()
    smoothing: Smoothing = Smoothing()

    def __init__(self, **settings: Any) -> None:
        """Validate; SettingsError names every wrong key, what was found and what is allowed."""
        problems: dict[str, str] = {}
        try:
            super().__init__(**settings)
        except ValidationError as error:
            problems = value_problems(error, Experiment)
            try:
                super().__init__(**without(settings, problems))  # the sound rest, to look for conflicts in it
            except ValidationError:
                raise SettingsError([*problems.values()]) from None
        found = [text for keys, text in conflicts(self) if not any(inside(k, p) for k in keys for p in problems)]
        if problems or found:
            raise SettingsError([*problems.values(), *found])

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], source: str = "settings") -> Experiment:
        """Validate nested settings; what they leave out keeps its default. Errors speak of them as `source`."""
        if not isinstance(settings, Mapping):
            raise SettingsError([f"got {settings!r}, expected groups of settings"], source)
        try:
            return cls(**text_keys(settings))
        except SettingsError as error:
            raise SettingsError(error.problems, source) from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> Experiment:
        """Read settings from a YAML file. SettingsError if it is missing, malformed or has wrong settings."""
        return cls.from_dict(read_yaml(Path(path)), str(path))

    def to_dict(self) -> dict[str, Any]:
        """The settings as nested plain values."""
        settings: dict[str, Any] = plain(self.model_dump())
        return settings

    def to_yaml(self) -> str:
        """The settings as YAML text, which `from_yaml` reads back to an equal experiment."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None)

    def override(self, changes: Mapping[str, Any]) -> Experiment:
        """A copy with the values of dotted keys replaced, e.g. {"attack.scale": 50.0, "server.noise": 0.02}.

        A group, as in {"attack": {"scale": 50.0}}, replaces what it names and leaves its other settings as they are.
        """
        if not isinstance(changes, Mapping):
            raise SettingsError([f"got {changes!r}, expected values by dotted key"], "override")
        settings = self.to_dict()
        for key, value in changes.items():
            *groups, leaf = str(key).split(".")
            section = settings
            for depth, group in enumerate(groups, start=1):
                section = section.setdefault(group, {})
                if not isinstance(section, dict):
                    whole = ".".join(groups[:depth])
                    raise SettingsError([f"{key}: unknown setting ({whole} is set as a whole)"], "override")
            section[leaf] = merged(section.get(leaf), value)
        return Experiment.from_dict(settings, "override")

"""Settings of one experiment: frozen, validated where they are made, YAML in and out, overrides by dotted key.

The symbols of the paper stand in the docstrings; the defaults are configs/digits.yaml (a test holds them equal).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from crfl.config.attack import Attack, AttackerChanges
from crfl.config.conflicts import conflicts
from crfl.config.files import merged, read_yaml
from crfl.config.problems import Conflict, cut, shown
from crfl.config.section import Section, section
from crfl.config.sections import (
    Clip,
    Data,
    Ensemble,
    Features,
    Local,
    ModelSettings,
    Server,
    Smoothing,
    UpdateClip,
)
from crfl.config.shipped import find_settings
from crfl.config.values import Seed
from crfl.errors import SettingsError

__all__ = [
    "Attack",
    "AttackerChanges",
    "Clip",
    "Data",
    "Ensemble",
    "Experiment",
    "Features",
    "Local",
    "ModelSettings",
    "Server",
    "Smoothing",
    "UpdateClip",
]


@section
class Experiment(Section):
    """All settings of one run. Frozen; `override` returns a changed copy.

    SettingsError names every wrong setting at once: the key, what it got, what is expected.

    Example:
        >>> Experiment(server={"rounds": 20}, attack={"scale": 10})
        Experiment(server=Server(rounds=20), attack=Attack(scale=10.0))
        >>> Experiment(seed=-1)
        Traceback (most recent call last):
        crfl.errors.SettingsError: seed: got -1, expected a whole number from 0 to 10^18
    """

    seed: Seed = 0
    """Of every random draw."""
    data: Data = Data()
    features: Features = Features()
    model: ModelSettings = ModelSettings()
    local: Local = Local()
    server: Server = Server()
    attack: Attack = Attack()
    smoothing: Smoothing = Smoothing()
    ensemble: Ensemble = Ensemble()

    def _conflicts(self) -> Iterable[Conflict]:
        return conflicts(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], source: str = "settings") -> Experiment:
        """Validate nested settings; what they leave out keeps its default.

        Args:
            settings: Groups of settings, each a mapping or an object such as `Local`.
            source: Where they come from, for errors.

        Returns:
            The settings.

        Raises:
            SettingsError: Names every wrong setting.

        Example:
            >>> Experiment.from_dict({"server": {"rounds": 20}})
            Experiment(server=Server(rounds=20))
        """
        if not isinstance(settings, Mapping):
            raise SettingsError([f"got {shown(settings)}, expected groups of settings"], source)
        try:
            return cls(**{str(key): value for key, value in settings.items()})
        except SettingsError as error:
            raise SettingsError(error.problems, source) from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> Experiment:
        """Read settings from a YAML file.

        Args:
            path: The file. What it leaves out keeps its default.

        Returns:
            The settings.

        Raises:
            SettingsError: The file is missing, malformed, too large, uses aliases, or has wrong settings.

        Example:
            >>> import pathlib, tempfile
            >>> path = pathlib.Path(tempfile.mkdtemp()) / "mine.yaml"
            >>> _ = path.write_text("server: {rounds: 20}")
            >>> Experiment.from_yaml(path)
            Experiment(server=Server(rounds=20))
        """
        return cls.from_dict(read_yaml(Path(path)), cut(str(path)))

    @classmethod
    def named(cls, name: str) -> Experiment:
        """The settings of this name that ship with crfl.

        Args:
            name: That of configs/<name>.yaml.

        Returns:
            The settings.

        Raises:
            SettingsError: There are none of that name; lists those that there are.

        Example:
            >>> Experiment.named("mnist").server.rounds
            100
        """
        return cls.from_yaml(find_settings(name))

    def to_yaml(self) -> str:
        """The settings as YAML text, which `from_yaml` reads back to an equal experiment."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None)

    def override(self, changes: Mapping[str, Any]) -> Experiment:
        """A copy with the values of dotted keys replaced.

        Args:
            changes: Values by key. A group, as in {"attack": {"scale": 50.0}}, replaces what it names and leaves its other
                settings as they are.

        Returns:
            The changed settings.

        Raises:
            SettingsError: Names every key that is unknown and every value that is wrong.

        Example:
            >>> Experiment().override({"attack.scale": 50, "server.noise": 0.02})
            Experiment(server=Server(noise=0.02), attack=Attack(scale=50.0))
        """
        if not isinstance(changes, Mapping):
            raise SettingsError([f"got {shown(changes)}, expected values by dotted key"])
        settings = self.to_dict()
        for key, value in changes.items():
            *groups, leaf = str(key).split(".", maxsplit=_MOST_DOTS)
            section_ = settings
            for depth, group in enumerate(groups, start=1):
                if section_.get(group) is None:
                    section_[group] = {}
                section_ = section_[group]
                if not isinstance(section_, dict):
                    whole = ".".join(groups[:depth])
                    raise SettingsError([f"{cut(key)}: got a part of {whole}, expected {whole} as a whole"])
            section_[leaf] = merged(section_.get(leaf), value)
        return Experiment.from_dict(settings)


_MOST_DOTS = 4
"""In the key of a setting, and one more."""

"""What ships with crfl beside its code: settings (configs/) and figure scripts (experiments/)."""

from __future__ import annotations

from pathlib import Path

from crfl.config.problems import cut, listed
from crfl.errors import SettingsError


def shipped(folder: str) -> Path:
    """Where configs/ or experiments/ lies: in an installed package, or beside it in a clone."""
    package = Path(__file__).parents[1]
    inside = package / folder
    return inside if inside.is_dir() else package.parent / folder


def named_settings() -> dict[str, Path]:
    """The files of settings that ship with crfl by name: "mnist" is configs/mnist.yaml, recipes are "certified/..."."""
    root = shipped("configs")
    found = sorted(root.glob("*.yaml")) + sorted(root.glob("*/*.yaml"))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in found}


def find_settings(name: str) -> Path:
    """The file of settings of this name; SettingsError if none ships with crfl."""
    known = named_settings()
    if name not in known:
        raise SettingsError([f"name: got {cut(name)!r}, expected {listed(known)}"])
    return known[name]

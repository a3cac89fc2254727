"""Settings as plain values and as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from crfl.errors import SettingsError


def plain(value: Any) -> Any:
    """Tuples to lists and paths to strings, all the way down."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(k) for k in keys if keys.count(k) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The settings of a file; SettingsError if it cannot be read or is not a group of settings in YAML."""
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader) or {}
    except OSError as error:
        raise SettingsError([f"cannot be read: {error.strerror}"], str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError([f"is not valid YAML: {error}"], str(path)) from None
    if not isinstance(settings, dict):
        raise SettingsError([f"found {settings!r}, allowed: groups of settings such as 'server:'"], str(path))
    return {str(key): value for key, value in settings.items()}

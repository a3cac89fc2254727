"""Settings as plain values and as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from crfl.errors import SettingsError


def plain(value: Any) -> Any:
    """Tuples to lists and paths to strings, all the way down."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def text_keys(value: Any) -> Any:
    """Mappings with their keys as text, all the way down: YAML reads some words, such as `yes`, as something else."""
    return {str(k): text_keys(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def merged(old: Any, new: Any) -> Any:
    """`new`, but where both are groups of settings: `old` with what `new` names replaced."""
    new = new.model_dump() if isinstance(new, BaseModel) else new
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given = (key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge")
        keys = [self.construct_object(key, deep=True) for key in given]
        twice = sorted({str(k) for k in keys if keys.count(k) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The settings of a file; SettingsError if it cannot be read or is not a group of settings in YAML."""
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except OSError as error:
        raise SettingsError([f"cannot be read: {error.strerror}"], str(path)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a number too long
        raise SettingsError([f"is not valid YAML: {error}"], str(path)) from None
    if settings is None:
        return {}  # an empty file
    if not isinstance(settings, dict):
        raise SettingsError([f"got {settings!r}, expected groups of settings such as 'server:'"], str(path))
    return settings

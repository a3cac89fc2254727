"""Settings as plain values and as YAML, whoever wrote it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from crfl.config.problems import cut, listed, shown
from crfl.errors import SettingsError

LARGEST_FILE = 2**20
"""In characters."""
MOST_KEYS = 1000
"""In one group of settings."""
DEEPEST = 16
"""Groups and lists inside each other; settings need four."""


def plain(value: Any) -> Any:
    """Tuples to lists and paths to strings, all the way down."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def prepared(value: Any, depth: int = 0) -> Any:
    """Nested settings for the validator: keys as text (YAML reads some words, such as `yes`, as something else), arrays
    as lists. SettingsError where they are nested too deeply."""
    if depth > DEEPEST:
        raise SettingsError([f"got groups or lists {DEEPEST} deep and deeper, expected groups of settings"])
    if isinstance(value, Mapping):
        return {_text(k): prepared(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [prepared(v, depth + 1) for v in value]
    with contextlib.suppress(Exception):  # a foreign object may raise anything; then the validator refuses it
        if value.shape != ():
            value = value.tolist()
    return value


def _text(key: object) -> str:
    return (key if isinstance(key, str) else shown(key)).encode("utf-8", "backslashreplace").decode()


def merged(old: Any, new: Any) -> Any:
    """`new`, but where both are groups of settings: `old` with what `new` names replaced."""
    if dataclasses.is_dataclass(new) and not isinstance(new, type):
        new = dataclasses.asdict(new)
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses what settings do not need and what could grow or mislead: aliases, long numbers, a key
    given twice (YAML would silently keep the last). Dates are words."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"*{cut(event.anchor)} repeats another value; write the value itself", event.start_mark
            )
        if isinstance(parent, yaml.MappingNode) and len(parent.value) > MOST_KEYS:
            raise yaml.composer.ComposerError(None, None, f"more than {MOST_KEYS} keys", parent.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known: set[Hashable] = set()
        twice: set[Hashable] = set()
        for key_node, _ in node.value:
            key = None if key_node.tag == "tag:yaml.org,2002:merge" else self.construct_object(key_node, deep=True)
            if key is not None and isinstance(key, Hashable):
                (twice if key in known else known).add(key)
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"{listed(sorted(map(str, twice)))} given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """An integer or a float, of a length that no typing error makes slow."""
        if len(node.value) > 100:
            raise yaml.constructor.ConstructorError(None, None, "a number of more than 100 digits", node.start_mark)
        if node.tag.endswith(":int"):
            return self.construct_yaml_int(node)
        return self.construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)


def parse_yaml(text: str) -> Any:
    """The value that YAML text stands for; ValueError, with a sentence, if settings could not have it."""
    if len(text) > LARGEST_FILE:
        raise ValueError(f"it is longer than {LARGEST_FILE:,} characters")
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(cut(" ".join(str(error).split()), 400)) from None
    except Exception as error:  # PyYAML lets a tag that does not fit, such as in `!!bool maybe`, end in any error
        raise ValueError(f"a value does not fit its tag ({cut(repr(error))})") from None


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The settings of a file; SettingsError if it cannot be read or is not a group of settings in YAML."""
    try:
        with path.open(encoding="utf-8") as source:
            text = source.read(LARGEST_FILE + 1)
        settings = parse_yaml(text)
    except OSError as error:
        raise SettingsError([f"cannot be read: {error.strerror}"], cut(str(path))) from None
    except ValueError as error:  # not UTF-8, or a path with a NUL
        raise SettingsError([f"is not valid YAML: {error}"], cut(str(path))) from None
    if settings is None:
        return {}  # an empty file
    if not isinstance(settings, dict):
        raise SettingsError([f"got {shown(settings)}, expected groups of settings such as 'server:'"], str(path))
    return settings

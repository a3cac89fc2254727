"""A group of settings: a frozen dataclass whose values are validated where they are made."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, ValidationError, field_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs
from typing_extensions import dataclass_transform

from crfl.config.files import plain, prepared
from crfl.config.problems import Conflict, inside, shown, value_problems, without
from crfl.errors import SettingsError

CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, repr=False, config=CONFIG)
class Section:
    """What all groups of settings can do."""

    @field_validator("*", mode="before")
    @classmethod
    def _in_order(cls, value: object) -> object:
        if isinstance(value, (set, frozenset)):
            raise ValueError("a set has no order")
        return value

    def to_dict(self) -> dict[str, Any]:
        """The settings as nested plain values: what JSON and YAML can hold, and infinity."""
        settings: dict[str, Any] = plain(dataclasses.asdict(self))
        return settings

    def _conflicts(self) -> Iterable[Conflict]:
        """Values that are sound alone but not together."""
        return ()

    def __repr__(self) -> str:
        """What differs from the defaults."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        changed = [
            f"{k}={v!r}" if isinstance(v, Section) else f"{k}={shown(v)}" for k, v in values.items() if v != defaults[k]
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


@dataclass_transform(frozen_default=True, kw_only_default=True)
def section(cls: type[T]) -> type[T]:
    """Make a subclass of Section a frozen dataclass that raises SettingsError for every wrong value at once."""
    made: Any = dataclass(frozen=True, kw_only=True, repr=False, config=CONFIG)(cls)
    made.__init__, made.__setattr__, made.__delattr__ = _validate, _refuse, _refuse
    kinds = get_type_hints(made)  # without the validators
    made.__signature__ = inspect.Signature(
        [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if f.default is dataclasses.MISSING else f.default,
                annotation=kinds[f.name],
            )
            for f in dataclasses.fields(made)
        ]
    )
    return made


def _validate(self: Any, /, *unnamed: object, **settings: Any) -> None:
    """Validate; SettingsError names every wrong key, what was given and what is expected."""
    if unnamed:
        name, key = type(self).__name__, next(iter(get_type_hints(type(self))))
        raise SettingsError([f"{name}: got {shown(unnamed[0])} without a name, expected e.g. {name}({key}=...)"])
    settings, validator = prepared(settings), type(self).__pydantic_validator__
    problems: dict[str, str] = {}
    try:
        validator.validate_python(ArgsKwargs((), settings), self_instance=self)
    except ValidationError as error:
        problems = value_problems(error, type(self))
        try:  # the sound rest, to look for conflicts in it
            validator.validate_python(ArgsKwargs((), without(settings, problems)), self_instance=self)
        except ValidationError:
            raise SettingsError([*problems.values()]) from None
    found = [text for keys, text in self._conflicts() if not any(inside(k, p) for k in keys for p in problems)]
    if problems or found:
        raise SettingsError([*problems.values(), *found])


def _refuse(self: object, name: str, *value: object) -> None:
    raise SettingsError([f"{name}: settings are frozen; use override, which returns a changed copy of the experiment"])

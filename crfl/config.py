"""Settings of one experiment: frozen, validated where they are made, YAML in and out, overrides by dotted key.

The symbols of the paper stand in the docstrings; the defaults are configs/digits.yaml (a test holds them equal).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from crfl.errors import SettingsError

DataName = Literal["digits", "mnist", "emnist", "loan", "custom"]
PartitionName = Literal["iid", "dirichlet", "natural"]


def _number(value: object) -> object:
    if isinstance(value, bool) or value != value or str(value).lower().strip("+-.") == "nan":
        raise ValueError("a number")
    return value


Count = Annotated[int, BeforeValidator(_number), Field(ge=0)]
PositiveInt = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Nonnegative = Annotated[float, BeforeValidator(_number), Field(ge=0)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(_Section):
    """What is learnt from, and how it is dealt out to the clients."""

    name: DataName = "digits"
    clients: PositiveInt | tuple[str, ...] = 10
    """N, or the clients' names where the data has natural clients (LOAN: states)."""
    partition: PartitionName = "iid"
    dirichlet_alpha: Positive = 0.5
    """Concentration of the dirichlet partition: small means unequal label mixes."""
    root: Path | None = None
    """Folder of the data; default $CRFL_DATA_DIR, else ./data."""


class Local(_Section):
    """Local training of each client: plain SGD."""

    batch_size: PositiveInt = 20
    """n_B"""
    epochs: PositiveInt = 1
    """Passes over the shard a round; tau = epochs * floor(n_i / n_B) steps."""
    learning_rate: Positive = 0.05
    """eta"""
    weight_decay: Nonnegative = 0.0
    """lambda, of the penalty (lambda / 2) ||w||^2."""
    keep_last_batch: bool = False
    """Keep the incomplete last batch of an epoch. It holds as many poisoned samples as a whole one."""


class Clip(_Section):
    """Clip norm of round t: min(start + slope * t, cap). start = .inf means no clipping."""

    model_config = ConfigDict(allow_inf_nan=True)

    start: Positive = 2.0
    slope: Nonnegative = 0.1
    cap: Positive = math.inf

    def norm(self, round_: int) -> float:
        """rho_t for the round t = 1 .. T."""
        return min(self.start + self.slope * round_, self.cap)


class Server(_Section):
    """Algorithm 1's server: aggregate, clip, perturb."""

    rounds: PositiveInt = 60
    """T"""
    aggregation: str = "mean"
    clip: Clip = Clip()
    """rho_t"""
    noise: Nonnegative = 0.01
    """sigma_t: standard deviation of the noise added in rounds 1 .. T-1."""
    update_clip: Positive | None = None
    """S: the server clips every client's update to this norm before aggregating; null means that it does not."""


class Attack(_Section):
    """The backdoor: who attacks, when, how strongly."""

    round: PositiveInt | None = 10
    """t_adv; null means that nobody attacks."""
    clients: Count = 1
    """R: the first R clients attack."""
    scale: Positive = 5.0
    """gamma: factor on the attackers' updates in the attack round."""
    poisoned_per_batch: Count = 1
    """q_B: the first q_B samples of each batch are poisoned."""
    magnitude: Nonnegative = 0.1
    """||delta||: l2 norm of the trigger before clamping to the domain."""
    target: Count = 0
    """y_target: label of the poisoned samples."""
    trigger: str | tuple[str | tuple[Count, Count], ...] = ((5, 7), (6, 6), (7, 5), (7, 7))
    """Pixels [row, column] or feature names that share the magnitude evenly, or a trigger's name."""

    @property
    def active(self) -> bool:
        """Whether anybody attacks at all."""
        return self.round is not None and self.clients > 0


class Smoothing(_Section):
    """Test-time parameter smoothing and certification (Algorithm 2)."""

    noise: Nonnegative = 0.01
    """sigma_T: standard deviation of the test-time noise."""
    samples: PositiveInt = 1000
    """M: number of noisy models that vote."""
    alpha: Annotated[float, BeforeValidator(_number), Field(gt=0, lt=1)] = 0.001
    """Failure probability that each confidence bound spends."""
    test_samples: PositiveInt | None = None
    """How many test samples are certified, drawn from the seed; null means all."""


class Experiment(_Section):
    """All settings of one run. Frozen; `override` returns a changed copy."""

    seed: Count = 0
    data: Data = Data()
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
            problems = _value_problems(error)
            super().__init__(**_without(settings, problems))  # the sound rest, to look for conflicts in it
        conflicts = [text for keys, text in _conflicts(self) if not any(_inside(k, p) for k in keys for p in problems)]
        if problems or conflicts:
            raise SettingsError([*problems.values(), *conflicts])

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], source: str = "settings") -> Experiment:
        """Validate nested settings; what they leave out keeps its default. Errors speak of them as `source`."""
        try:
            return cls(**settings)
        except SettingsError as error:
            raise SettingsError(error.problems, source) from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> Experiment:
        """Read settings from a YAML file. SettingsError if it is missing, malformed or has wrong settings."""
        return cls.from_dict(_read_yaml(Path(path)), str(path))

    def to_dict(self) -> dict[str, Any]:
        """The settings as nested plain values."""
        plain: dict[str, Any] = _plain(self.model_dump())
        return plain

    def to_yaml(self) -> str:
        """The settings as YAML text, which `from_yaml` reads back to an equal experiment."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None)

    def override(self, changes: Mapping[str, Any]) -> Experiment:
        """A copy with the values of dotted keys replaced, e.g. {"attack.scale": 50.0, "server.noise": 0.02}."""
        settings = self.to_dict()
        for key, value in changes.items():
            *groups, leaf = key.split(".")
            section = settings
            for group in groups:
                section = section.setdefault(group, {}) if isinstance(section, dict) else {}
            if not isinstance(section, dict):
                raise SettingsError([f"{key}: unknown setting ({'.'.join(groups)} has no settings inside)"], "override")
            section[leaf] = value.model_dump() if isinstance(value, BaseModel) else value
        return Experiment.from_dict(settings, "override")


def _conflicts(e: Experiment) -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings that are sound alone but not together: the keys involved, and a sentence."""
    clients = e.data.clients if isinstance(e.data.clients, int) else len(e.data.clients)
    if e.attack.round is not None and e.attack.round > e.server.rounds:
        yield (
            ("attack.round", "server.rounds"),
            f"attack.round: found {e.attack.round}, allowed: 1 to server.rounds = {e.server.rounds}, or null",
        )
    if e.attack.clients > clients:
        yield (
            ("attack.clients", "data.clients"),
            f"attack.clients: found {e.attack.clients}, allowed: 0 to the number of data.clients = {clients}",
        )
    if e.attack.poisoned_per_batch > e.local.batch_size:
        yield (
            ("attack.poisoned_per_batch", "local.batch_size"),
            f"attack.poisoned_per_batch: found {e.attack.poisoned_per_batch}, "
            f"allowed: 0 to local.batch_size = {e.local.batch_size}",
        )


def _value_problems(error: ValidationError) -> dict[str, str]:
    """A sentence for each wrong key: what was found and what is allowed."""
    problems: dict[str, str] = {}
    for detail in error.errors():
        key, section = _locate(detail["loc"])
        if detail["type"] == "extra_forbidden":
            leaf = key.rsplit(".", 1)[-1]
            close = difflib.get_close_matches(leaf, section, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            problems[key] = f"{key}: unknown setting; {hint}allowed: {', '.join(section)}"
            continue
        allowed = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if key in problems:  # the other members of a union
            problems[key] += f" or {allowed}"
        else:
            problems[key] = f"{key}: found {detail['input']!r}, allowed: {allowed}"
    return problems


def _locate(loc: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """Dotted key of an error's place, and the names that its section allows."""
    model: type[BaseModel] = Experiment
    names: list[str] = []
    for part in loc:
        names.append(str(part))
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return ".".join(names), list(model.model_fields)


def _inside(key: str, problem: str) -> bool:
    return key == problem or key.startswith(problem + ".")


def _without(settings: Mapping[str, Any], keys: Iterable[str], prefix: str = "") -> dict[str, Any]:
    """The nested settings less those at the dotted keys."""
    kept = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if key not in keys:
            kept[name] = _without(value, keys, f"{key}.") if isinstance(value, Mapping) else value
    return kept


def _plain(value: Any) -> Any:
    """Tuples to lists and paths to strings, all the way down."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(k) for k in keys if keys.count(k) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader) or {}
    except OSError as error:
        raise SettingsError([f"cannot be read: {error.strerror}"], str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError([f"is not valid YAML: {error}"], str(path)) from None
    if not isinstance(settings, dict):
        raise SettingsError([f"found {settings!r}, allowed: groups of settings such as 'server:'"], str(path))
    return {str(key): value for key, value in settings.items()}

"""record.json: the training record as compact JSON. What is alike over clients or rounds is stored once.

Ten thousand clients over a thousand rounds are ten million weights; under `mean` the file says "all: 0.0001" once. A
list of pairs [count, value] is a run-length encoding; "inf" stands for infinity. Types, ranges and lengths are checked
as the file is read, and `plausibility.problems` has the last word.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from crfl.errors import DamagedFileError, StoreError
from crfl.record import AttackerRecord, DroppedRecord, RoundRecord, TrainingRecord
from crfl.runs import plausibility
from crfl.runs.record_schema import Attacker, Numbers, Profile, RecordFile, Rounds

T = TypeVar("T")
IntArray = npt.NDArray[np.int64]

MAX_STEPS = 10**7
"""Local steps a round of one attacker that a file may have."""
SHARED = ("client_names", "client_sizes", "learning_rates", "smoothness", "attackers", "rounds")
"""Fields of TrainingRecord that the file writes in another way."""


def dumps(record: TrainingRecord) -> str:
    """The record as JSON text.

    Raises:
        StoreError: if it contradicts itself; nobody could read it back.
    """
    plain = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in SHARED}
    try:
        found = RecordFile(
            format=3,
            **plain,
            client_names=list(record.client_names),
            client_sizes=_encode(record.client_sizes),
            learning_rates=_encode(record.learning_rates),
            smoothness=_encode(map(_named, record.smoothness)),
            attackers=list(record.attackers),
            rounds=_write_rounds(record),
        )
    except ValidationError as error:
        raise StoreError(f"the record of the run cannot be written: {_first(error)}") from None
    wrong = plausibility.problems(record)
    if wrong:
        raise StoreError(f"the record of the run contradicts itself: {'; '.join(wrong[:5])}")
    return found.model_dump_json(exclude_defaults=True) + "\n"


def loads(content: str | bytes, path: Path = Path("record.json")) -> TrainingRecord:
    """The record that `dumps` wrote.

    Args:
        content: Of the file.
        path: Its name, for errors.

    Raises:
        DamagedFileError: if it is no record, or one that contradicts itself.
    """
    try:
        file = RecordFile.model_validate_json(content)
        record = _read(file)
    except ValidationError as error:
        raise DamagedFileError(f"{path}: is not the record of a run: {_first(error)}") from None
    except ValueError as error:
        raise DamagedFileError(f"{path}: is not the record of a run: {error}") from None
    wrong = plausibility.problems(record)
    if wrong:
        raise DamagedFileError(f"{path}: contradicts itself: {'; '.join(wrong[:5])}")
    return record


def _write_rounds(record: TrainingRecord) -> Rounds:
    rounds, sizes = record.rounds, np.array(record.client_sizes, dtype=np.int64)
    profiles: dict[AttackerRecord, int] = {}
    attackers = {r.round: [_write_attacker(a, profiles) for a in r.attackers] for r in rounds if r.attackers}
    spectral = [r.start_spectral_norm for r in rounds]
    return Rounds(
        start_norm=[r.start_norm for r in rounds],
        start_spectral_norm=None if None in spectral else [s for s in spectral if s is not None],
        pre_clip_norm=[r.pre_clip_norm for r in rounds],
        clip_norm=_encode(_named(r.clip_norm) for r in rounds),
        noise_std=_encode(r.noise_std for r in rounds),
        learning_rate_cap=_encode(_named(r.learning_rate_cap) for r in rounds),
        decay=_encode(r.decay for r in rounds),
        update_clip=_encode(r.update_clip for r in rounds),
        weights=[(n, _numbers(w, sizes)) for n, w in _encode(r.weights for r in rounds)],
        update_norms=[
            (n, None if u is None else _numbers(u, sizes)) for n, u in _encode(r.update_norms for r in rounds)
        ],
        potential_weights=[(n, list(w)) for n, w in _encode(r.potential_weights for r in rounds)],
        profiles=[_write_profile(p) for p in profiles],
        attackers=attackers,
        dropped={r.round: _write_dropped(r.dropped) for r in rounds if r.dropped},
    )


def _read(file: RecordFile) -> TrainingRecord:
    num_clients = len(file.client_names)
    sizes = _decode(file.client_sizes, num_clients, "client_sizes")
    plain = {f.name: getattr(file, f.name) for f in fields(TrainingRecord) if f.name not in SHARED}
    return TrainingRecord(
        **plain,
        client_names=tuple(file.client_names),
        client_sizes=sizes,
        learning_rates=_decode(file.learning_rates, num_clients, "learning_rates"),
        smoothness=_decode([(n, float(v)) for n, v in file.smoothness], num_clients, "smoothness"),
        attackers=tuple(file.attackers),
        rounds=_read_rounds(file, np.array(sizes, dtype=np.int64)),
    )


def _read_rounds(whole: RecordFile, sizes: IntArray) -> tuple[RoundRecord, ...]:
    file = whole.rounds
    total = len(file.start_norm)
    strange = [t for t in (*file.attackers, *file.dropped) if t > total]
    if strange:
        raise ValueError(f"got round {strange[0]}, expected 1 to {total}")
    profiles = [_read_profile(p, whole, sizes.tolist()) for p in file.profiles]
    weights = [(n, _tuple(w, sizes)) for n, w in file.weights]
    norms = [(n, None if u is None else _tuple(u, sizes)) for n, u in file.update_norms]
    columns: dict[str, Sequence[Any]] = {
        "round": range(1, total + 1),
        "start_norm": file.start_norm,
        "start_spectral_norm": [None] * total if file.start_spectral_norm is None else file.start_spectral_norm,
        "pre_clip_norm": file.pre_clip_norm,
        "clip_norm": _decode([(n, float(v)) for n, v in file.clip_norm], total, "clip_norm"),
        "noise_std": _decode(file.noise_std, total, "noise_std"),
        "learning_rate_cap": _decode([(n, float(v)) for n, v in file.learning_rate_cap], total, "learning_rate_cap"),
        "decay": _decode(file.decay, total, "decay"),
        "update_clip": _decode(file.update_clip, total, "update_clip"),
        "weights": _decode(weights, total, "weights"),
        "update_norms": _decode(norms, total, "update_norms"),
        "potential_weights": _decode([(n, tuple(w)) for n, w in file.potential_weights], total, "potential_weights"),
        "attackers": [
            tuple(_read_attacker(a, profiles) for a in file.attackers.get(t, ())) for t in range(1, total + 1)
        ],
        "dropped": [_read_dropped(file.dropped.get(t, {})) for t in range(1, total + 1)],
    }
    for name, column in columns.items():
        if len(column) != total:
            raise ValueError(f"{name}: got {len(column)} rounds, expected {total}")
    return tuple(RoundRecord(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))


def _encode(values: Iterable[T]) -> list[tuple[int, T]]:
    """Equal neighbours as [count, value]."""
    return [(sum(1 for _ in group), value) for value, group in itertools.groupby(values)]


def _decode(runs: Sequence[tuple[int, T]], length: int, name: str) -> tuple[T, ...]:
    """The values that `_encode` encoded; ValueError if they are not as many."""
    if sum(count for count, _ in runs) != length:  # before any memory is taken
        raise ValueError(f"{name}: got {sum(count for count, _ in runs)} values, expected {length}")
    return tuple(itertools.chain.from_iterable(itertools.repeat(value, count) for count, value in runs))


def _named(value: float) -> float | Literal["inf"]:
    return "inf" if math.isinf(value) else value


def _numbers(values: Sequence[float], sizes: IntArray) -> Numbers:
    """The shortest way to write a number (N,) for each client."""
    array = np.array(values, dtype=np.float64)
    present = array != 0
    bits = None if present.all() else base64.b64encode(np.packbits(present).tobytes()).decode()
    given = array[present]
    if len(given) and (given == given[0]).all():
        return Numbers(participants=bits, all=float(given[0]))
    if len(given) and np.array_equal(given, sizes[present] / sizes[present].sum()):
        return Numbers(participants=bits, by_client_size=True)
    return Numbers(participants=bits, each=_encode(given.tolist()))


def _tuple(numbers: Numbers, sizes: IntArray) -> tuple[float, ...]:
    """The numbers (N,) that `_numbers` wrote."""
    present = np.ones(len(sizes), dtype=bool)
    if numbers.participants is not None:
        packed = np.frombuffer(base64.b64decode(numbers.participants, validate=True), dtype=np.uint8)
        if len(packed) != -(-len(sizes) // 8):
            raise ValueError(f"participants: got {8 * len(packed)} bits, expected one for each of {len(sizes)} clients")
        present = np.unpackbits(packed, count=len(sizes)).astype(bool)
    found = np.zeros(len(sizes))
    if numbers.all is not None:
        found[present] = numbers.all
    elif numbers.by_client_size:
        found[present] = sizes[present] / max(1, sizes[present].sum())
    else:
        found[present] = _decode(numbers.each or [], int(present.sum()), "each")
    return tuple(found.tolist())


def _write_attacker(attacker: AttackerRecord, profiles: dict[AttackerRecord, int]) -> Attacker:
    profile = replace(attacker, weight=0.0, potential_weight=0.0, update_norm=None)
    number = profiles.setdefault(profile, len(profiles))
    return number, attacker.weight, attacker.potential_weight, attacker.update_norm


def _write_profile(profile: AttackerRecord) -> Profile:
    plain = {name: getattr(profile, name) for name in Profile.model_fields}
    return Profile(**{**plain, "poison_ratios": _encode(profile.poison_ratios)})


def _read_profile(profile: Profile, file: RecordFile, sizes: Sequence[int]) -> dict[str, Any]:
    if profile.client >= len(sizes):
        raise ValueError(f"attackers: got client {profile.client}, expected 0 to {len(sizes) - 1}")
    steps = plausibility.local_steps(sizes[profile.client], file.batch_size, file.epochs, file.keep_last_batch)
    if steps > MAX_STEPS:
        raise ValueError(f"poison_ratios: got {steps} local steps, expected at most {MAX_STEPS}")
    return {**dict(profile), "poison_ratios": _decode(profile.poison_ratios, steps, "poison_ratios")}


def _read_attacker(found: Attacker, profiles: Sequence[dict[str, Any]]) -> AttackerRecord:
    number, weight, potential_weight, update_norm = found
    if number >= len(profiles):
        raise ValueError(f"attackers: got profile {number}, expected 0 to {len(profiles) - 1}")
    return AttackerRecord(**profiles[number], weight=weight, potential_weight=potential_weight, update_norm=update_norm)


def _write_dropped(dropped: Sequence[DroppedRecord]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for one in dropped:
        found.setdefault(one.reason, []).append((one.client, one.weight))
    return found


def _read_dropped(dropped: dict[str, list[tuple[int, float]]]) -> tuple[DroppedRecord, ...]:
    found = sorted((client, reason, weight) for reason, some in dropped.items() for client, weight in some)
    return tuple(DroppedRecord(*one) for one in found)


def _first(error: ValidationError) -> str:
    """The first thing that pydantic found, in a sentence."""
    found = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, found["loc"]))
    got = repr(found["input"])
    return f"{where}: got {got if len(got) <= 60 else got[:57] + '...'} ({found['msg'][:120]})"

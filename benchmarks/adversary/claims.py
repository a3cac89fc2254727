"""False statements: data outside its domain, run folders whose record or settings were edited."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import crfl
from benchmarks.adversary import draws
from benchmarks.adversary.outcome import Outcome
from crfl.errors import CrflError, DataError
from crfl.runs import manifest


def domains(rng: np.random.Generator) -> Outcome | None:
    """A feature just outside the stated domain, of clients, of the test set, by any way to make the data: refused."""
    width, low = int(rng.integers(1, 6)), float(rng.normal())
    high = low + float(np.exp(rng.normal()))
    x, t = (rng.uniform(low, high, (12, width)).astype(np.float32) for _ in range(2))
    x, t = x.clip(np.float32(low), np.float32(high)), t.clip(np.float32(low), np.float32(high))
    y, scale = np.arange(12) % 3, float(rng.choice([1.0, 0.5, 3.0]))
    bad = x if rng.random() < 0.6 else t
    beyond = float(rng.choice([1e-6, 1e-3, 1.0, 1e6, math.inf, math.nan])) * (1 + abs(low) + abs(high))
    bad[rng.integers(12), rng.integers(width)] = np.float32(rng.choice([low - beyond, high + beyond]))
    stored, tested = torch.from_numpy((x / scale).astype(np.float32)), torch.from_numpy(t)
    shards, labels = (torch.arange(0, 6), torch.arange(6, 12)), torch.from_numpy(y)
    far = (float(np.nextafter(np.float32(3e38), np.float32(0))), -3e38)

    def made() -> crfl.FederatedData:
        split = crfl.data.federated.Split(tested, labels)
        return crfl.FederatedData("custom", stored, labels, shards, split, 3, scale, domain=(low, high))

    def replaced() -> crfl.FederatedData:
        split = crfl.data.federated.Split(tested, labels)
        wide = crfl.FederatedData("custom", stored, labels, shards, split, 3, scale, domain=(far[1], far[0]))
        return replace(wide, domain=(low, high))

    def rescaled() -> crfl.FederatedData:
        split = crfl.data.federated.Split(tested, labels)
        wide = crfl.FederatedData("custom", stored / 2, labels, shards, split, 3, scale, domain=(far[1], far[0]))
        return replace(wide, scale=2 * scale, domain=(low, high))

    def from_arrays() -> crfl.FederatedData:
        arrays = (x / scale).astype(np.float32), y, (t / scale).astype(np.float32), y
        return crfl.FederatedData.from_arrays(*arrays, scale=scale, domain=(low, high), clients=2)

    ways: list[Callable[[], crfl.FederatedData]] = [made, replaced, rescaled, from_arrays]
    way = ways[rng.integers(len(ways))]
    try:
        data = way()
    except DataError:
        return Outcome(math.nan, 0, about={"way": way.__name__})
    return Outcome(math.nan, _outside(data), about={"way": way.__name__, "low": low, "high": high, "beyond": beyond})


def _outside(data: crfl.FederatedData) -> int:
    """How many features of accepted data lie outside its domain."""
    assert data.domain is not None
    seen = torch.cat([data.x.double() * data.scale, data.test.x.double()])
    return int((~((seen >= data.domain[0]) & (seen <= data.domain[1]))).sum())


def folders(rng: np.random.Generator) -> Outcome | None:
    """A number in the record or the settings of a run folder is edited, with the manifest made to fit or not.

    It must be refused, or nothing more may be certified. With a fitting manifest only settings are edited: a record
    that contradicts nobody is believed, as is said of manifests.
    """
    data = draws.digits(0)
    settings: dict[str, Any] = draws.draw(rng, data) | {"seed": 0, "server.rounds": 3, "attack.round": 2}
    exp = crfl.Experiment().override(settings | {"attack.every": None})
    run = crfl.train(exp, data)
    try:
        honest = crfl.certify(run, data.test, kind="margin")
    except CrflError:
        return None
    fitting = bool(rng.random() < 0.4)
    name = "settings.yaml" if fitting or rng.random() < 0.4 else "record.json"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        crfl.save_run(folder, run)
        text = (folder / name).read_text()
        tree = yaml.safe_load(text) if name == "settings.yaml" else json.loads(text)
        where = _edit(tree, rng)
        changed = yaml.safe_dump(tree) if name == "settings.yaml" else json.dumps(tree)
        if fitting:
            manifest.load(folder).restore({name: changed})
        else:
            (folder / name).write_text(changed)
        try:
            found = crfl.certify(crfl.load_run(folder), data.test, kind="margin")
        except CrflError:
            return Outcome(math.nan, 0, about={"file": name, "fitting": fitting, "where": where})
    if not fitting:
        return Outcome(math.nan, 1, about=settings | {"file": name, "fitting": fitting, "where": where})
    mine, more = honest.radius[found.indices], found.radius
    return Outcome(
        math.nan, int((more > mine).sum()), about=settings | {"file": name, "fitting": fitting, "where": where}
    )


def _edit(tree: Any, rng: np.random.Generator) -> str:
    """Change one number, word, list or truth value of a tree of settings, in place; says which."""
    leaves = list(_leaves(tree))
    path, holder, key = leaves[rng.integers(len(leaves))]
    value = holder[key]
    if isinstance(value, bool):
        holder[key] = not value
    elif isinstance(value, (int, float)):
        options = [value / 2, 0, -value, value * 2, value + 1, value * (1 - 1e-6), math.inf]
        options = [type(value)(o) for o in options if isinstance(value, float) or math.isfinite(o)]
        holder[key] = options[rng.integers(len(options))]
        if holder[key] == value:
            holder[key] = value + 1
    elif isinstance(value, str):
        words = ["mean", "rfa", "sgd", "adam", "float32", "keep", "constant", "full_image", "x"]
        holder[key] = words[rng.integers(len(words))]
        if holder[key] == value:
            holder[key] = value + "x"
    else:
        holder[key] = 1.0
    return f"{path}: {value!r} -> {holder[key]!r}"


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Path, container and key of every value that is no container."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, (dict, list)) and value:
            yield from _leaves(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", tree, key

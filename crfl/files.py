"""Files that are written whole or not at all, and, where they cannot be read, named."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from crfl.errors import StoreError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: beside it first, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as sink:
            sink.write(content.encode() if isinstance(content, str) else content)
            sink.flush()
            os.fsync(sink.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: dict[str, Tensor], **about: Any) -> None:
    """Write a safetensors file with what is to be known about it. Equal contents give equal bytes."""
    write_atomic(path, save(tensors, {"about": json.dumps(about)}))  # several entries would come in random order


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote; StoreError if the file is not of that kind."""
    try:
        with safe_open(path, framework="pt") as source:
            about = (source.metadata() or {}).get("about", "{}")
            return {name: source.get_tensor(name) for name in source.keys()}, json.loads(about)  # noqa: SIM118
    except Exception as error:  # safetensors has no public error class
        raise StoreError(f"{path}: cannot be read as safetensors ({error}); delete it to start anew") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; StoreError if it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise StoreError(f"{path}: got {type(found).__name__}, expected a JSON object")
    return found


def write_columns(path: Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write columns of numbers as CSV, to the last bit."""
    lines = [columns, *zip(*(column.tolist() for column in columns.values()), strict=True)]
    write_atomic(path, "".join(",".join(map(str, line)) + "\n" for line in lines))


def read_columns(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The columns of a CSV file of numbers, the rounds as integers; StoreError if it is not one."""
    try:
        names, *rows = (line.split(",") for line in path.read_text(encoding="utf-8").splitlines())
        columns = dict(zip(names, np.array(rows, dtype=np.float64).T, strict=True))
        return columns | {"round": columns["round"].astype(np.int64)}
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{path}: cannot be read as columns of numbers ({error})") from None


def save_plot(folder: str | Path, name: str, ax: Axes) -> Path:
    """Write plots/<name>.png and .pdf of the figure that holds `ax`, and close it; returns the PNG's path."""
    import io

    from matplotlib import pyplot

    figure = ax.get_figure(root=True)
    assert figure is not None

    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # lay it out once, not once a format
        figure.set_layout_engine("none")
    for suffix in ("png", "pdf"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=150)
        write_atomic(Path(folder) / "plots" / f"{name}.{suffix}", buffer.getvalue())
    pyplot.close(figure)
    return Path(folder) / "plots" / f"{name}.png"

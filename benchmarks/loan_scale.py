"""LOAN at full size: seconds and peak memory of the first load, of the cache and of training.

Run: python benchmarks/loan_scale.py [FOLDER] [--rows N]. A synthetic loan.csv is written to FOLDER (default: a
temporary one, deleted afterwards) unless one is there; with its cache it takes 2.1 GB. Every stage
runs in a process of its own, so that its peak is its own; the limits are those that the library promises on 2 cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from synthetic_loan import ROWS, write_loans

LIMITS = {"first load": (120.0, 8.0), "from cache": (3.0, 8.0), "training": (None, 1.5)}
"""Seconds and GB of the whole process."""


def stage(name: str, folder: Path) -> None:
    """Do one stage in this process and print its seconds and peak memory, and whether it keeps its limits."""
    import torch  # noqa: F401

    torch_alone = peak()
    from crfl import Experiment, load_data, train

    exp = Experiment.from_yaml(Path(__file__).parents[1] / "configs" / "loan.yaml")
    exp = exp.override({"data.root": str(folder), "data.clients": 50})
    start = time.perf_counter()
    data = load_data(exp)
    if name == "training":
        start = time.perf_counter()
        train(exp, data)
    seconds = time.perf_counter() - start
    whole = peak()
    most, memory = LIMITS[name]
    kept = whole <= memory and (most is None or seconds <= most)
    print(
        f"{name:12} {seconds:6.1f} s  peak {whole:.2f} GB, {whole - torch_alone:.2f} GB above import torch  "
        f"(limit {f'{most:.0f} s, ' if most else ''}{memory} GB: {'kept' if kept else 'BROKEN'}; "
        f"{sum(data.sizes):,} training rows, {len(data.shards)} states)"
    )


def peak() -> float:
    """Peak memory of this process alone, in GB: ru_maxrss begins at the parent's."""
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 2**20


def main() -> None:
    """Write the file if there is none, then run the stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--stage", choices=LIMITS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        stage(arguments.stage, arguments.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        file = folder / "loan.csv"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            start = time.perf_counter()
            write_loans(file, arguments.rows)
            print(f"{'written':12} {time.perf_counter() - start:8.1f} s  {file.stat().st_size / 2**30:.2f} GB")
        file.with_name(file.name + ".cache.safetensors").unlink(missing_ok=True)
        for name in LIMITS:
            subprocess.run([sys.executable, __file__, str(folder), "--stage", name], check=True)


if __name__ == "__main__":
    main()

"""Peak memory above `import torch`, and the time that imports take: each in a process of its own."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.table import Row

ROOT = Path(__file__).parents[1]
PEAK = """
import torch
def peak():  # of this process alone: ru_maxrss begins at the parent's
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
before = peak()
import crfl
exp = crfl.Experiment.from_yaml("configs/mnist.yaml").override({"server.rounds": 12})
crfl.train(exp, crfl.load_data(exp))
print(peak() - before)
"""


def rows() -> list[Row]:
    memory = float(_python(PEAK))
    torch_s, crfl_s = _seconds("import torch"), _seconds("import torch, crfl; crfl.train, crfl.certify")
    return [
        Row("MNIST training: peak memory above import torch", memory, 250, "MB"),
        Row("import crfl, above import torch", _seconds("import torch, crfl") - torch_s, 0.3, "s"),
        Row("the same with train and certify loaded", crfl_s - torch_s, 0.6, "s"),
        Row(
            "crfl --help",
            _seconds("import sys; sys.argv = ['crfl', '--help']; from crfl.cli import main; main()"),
            0.5,
            "s",
        ),
    ]


def _seconds(code: str) -> float:
    """Median wall time of a Python process that runs `code`."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        _python(code)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return done.stdout

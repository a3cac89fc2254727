"""Peak memory above `import torch`, and the time that imports take: each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.table import Row

ROOT = Path(__file__).parents[1]
PEAK = """
import torch
from benchmarks.footprint import resident
before = resident("VmHWM")  # of this process alone: ru_maxrss begins at the parent's
import crfl
exp = crfl.Experiment.from_yaml("configs/mnist.yaml").override({"server.rounds": 12})
crfl.train(exp, crfl.load_data(exp))
print(resident("VmHWM") - before)
"""
VOTES = """
import sys, torch, crfl
from benchmarks.footprint import resident
from crfl.certification.smoothing import smooth
from crfl.models.softmax import SoftmaxRegression
model, x = SoftmaxRegression(784, 10), torch.rand(10_000, 784)
params = model.initial(torch.Generator().manual_seed(0))
def vote(samples):
    smooth(model, params, x, noise=0.01, samples=samples, generator=torch.Generator().manual_seed(1))
vote(10)  # what the first call loads does not count
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = resident("VmRSS")
vote(int(sys.argv[1]))
print(resident("VmHWM") - before)
"""


def resident(field: str) -> float:
    """MB of this process alone: now (VmRSS) or at its peak (VmHWM)."""
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) / 1024


def rows() -> list[Row]:
    memory, few, many = float(_python(PEAK)), float(_python(VOTES, "1000")), float(_python(VOTES, "8000"))
    loaded = _import_seconds("import crfl; crfl.train, crfl.certify")
    show_help = "import sys; sys.argv = ['crfl', '--help']; from crfl.cli import main; main()"
    return [
        Row("MNIST training: peak memory above import torch", memory, 250, "MB"),
        Row("votes: memory of M = 1000 on 10,000 images", few, 80, "MB"),
        Row("votes: memory of M = 8000", many, 80, "MB"),
        Row("import crfl, above import torch", _import_seconds("import crfl"), 0.3, "s"),
        Row("the same with train and certify loaded", loaded, 0.6, "s"),
        Row("crfl --help", _seconds(show_help), 0.5, "s"),
    ]


def _import_seconds(code: str) -> float:
    """Least time that `code` takes in a fresh process once torch is imported."""
    clock = "import time, torch; start = time.perf_counter()"
    return min(float(_python(f"{clock}; {code}; print(time.perf_counter() - start)")) for _ in range(5))


def _seconds(code: str) -> float:
    """Least wall time of a Python process that runs `code`: what else the machine does can only add to it."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        _python(code)
        times.append(time.perf_counter() - start)
    return min(times)


def _python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return done.stdout

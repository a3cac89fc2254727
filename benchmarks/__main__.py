"""The whole table: python -m benchmarks. Needs MNIST, EMNIST and the loans under CRFL_DATA_DIR."""

import platform

import torch

from benchmarks import certification, footprint, small_features, training
from benchmarks.table import show

if __name__ == "__main__":
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}\n")
    for part in (
        training.machine,
        training.rows,
        small_features.rows,
        certification.rows,
        footprint.rows,
        training.on_gpu,
    ):
        show(part())
        print()

"""Constants that concern speed and memory only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

CHUNK_BYTES = 12 * 2**20
"""Memory for the batches and models of the clients that train together on a CPU: about what its cache holds. An
accelerator, which needs more work at a time, gets 32 times as much."""
COPIED_BYTES = 512 * 2**20
"""Samples of single-step clients that take no more are copied into the order of the clients."""
SUPPORTED_SHARE = 0.9
"""Share of the features up to which it pays to leave out those that a client does not have."""

SMALL_STEP = 2**21
"""Multiplications of a step up to which a second thread gains nothing, and costs a lot where it has to be waited for."""


@contextmanager
def threads_for(multiplications: int) -> Iterator[None]:
    """One thread, if a step has so few multiplications; else as many as there are."""
    threads = torch.get_num_threads()
    if threads == 1 or multiplications > SMALL_STEP:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def chunk_memory(models: Tensor, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Bytes for the clients that train together, on the device of `models`."""
    return chunk_bytes if models.device.type == "cpu" else 32 * chunk_bytes


def clients_at_once(samples: int, features: int, models: Tensor, chunk_bytes: int = CHUNK_BYTES) -> int:
    """How many clients train together if each has so many samples in a batch and starts at `models` (S, P)."""
    count = chunk_memory(models, chunk_bytes) // (models.dtype.itemsize * (samples * features + 2 * models.numel()))
    return max(1, count - count % 8 if count > 8 else count)  # 2, 4 or 8 threads share them evenly

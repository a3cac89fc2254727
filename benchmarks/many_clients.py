"""Time and memory of a round with few large or many small clients: 60,000 images in all, in the last case ten times as many.

python benchmarks/many_clients.py [--threads 2] [--rounds 8]
"""

import argparse
import resource
import time

import torch

import crfl
from crfl.run_batch import RunBatch

CASES = [
    (20, 3000, 100),
    (20, 3000, 20),
    (1000, 60, 20),
    (20, 3000, 60),
    (1000, 60, 60),
    (10_000, 6, 6),
    (100_000, 6, 6),
]
"""Clients, samples of each, batch size."""


def images(clients: int, samples: int) -> crfl.FederatedData:
    """Clients of random images of MNIST's size; the time does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (clients * samples, 784), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 10, (len(x),), generator=generator)
    shards = torch.randperm(len(x), generator=generator).split(samples)
    return crfl.FederatedData.from_arrays(
        x, y, x[:1000], y[:1000], shards=shards, scale=1 / 255, input_shape=(28, 28), domain=(0.0, 1.0)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("clients  samples  batch  seconds to make  seconds a round  peak MiB so far")
    for clients, samples, batch_size in CASES:
        changes = {"data.name": "custom", "data.clients": clients, "local.batch_size": batch_size}
        changes |= {"local.learning_rate": 0.001, "server.rounds": options.rounds, "attack.round": 2}
        changes |= {"local.precision": "float32"}
        began = time.perf_counter()
        data = images(clients, samples)
        loaded = time.perf_counter() - began
        batch = RunBatch.of([crfl.Experiment().override(changes)], data)
        seconds, before = [], time.perf_counter()
        for _ in batch.rounds(batch.start()):
            now = time.perf_counter()
            seconds.append(now - before)
            before = now
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{clients:7}  {samples:7}  {batch_size:5}  {loaded:15.2f}  {min(seconds):15.3f}  {peak:15.0f}", flush=True
        )


if __name__ == "__main__":
    main()

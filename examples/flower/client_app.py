"""A client: it loads its own part of the digits, and trains on it."""

import torch
from settings import EXP

import crfl
from crfl.flower import client_app


def load_partition(number):
    """Client `number`'s samples alone."""
    data = crfl.load_data(EXP)
    rows = data.shards[number]
    return crfl.FederatedData.from_arrays(
        data.x[rows],
        data.y[rows],
        data.x[rows[:1]],
        data.y[rows[:1]],
        shards=[torch.arange(len(rows))],
        scale=data.scale,
        domain=data.domain,
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        name=data.name,
    )


app = client_app(EXP, load_partition)

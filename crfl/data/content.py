"""Name of what federated data holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

from crfl.data.splits import Split

if TYPE_CHECKING:
    from crfl.data.federated import FederatedData

BLOCK = 8192
"""Test samples that are read at a time."""


def content_digest(data: FederatedData) -> str:
    """Name of the content: equal for equal samples, shards, test split, public samples and feature map."""
    found = hashlib.blake2b(repr((data.scale, data.domain, data.num_classes)).encode(), digest_size=16)

    def add(shape: tuple[int, ...], parts: Iterable[Tensor]) -> None:
        found.update(repr(shape).encode())
        for part in parts:
            found.update(part.cpu().contiguous().numpy().data)

    def add_split(split: Split, columns: int) -> None:
        add((len(split), columns), (block.x for block in split.blocks(BLOCK)))
        add((len(split),), [split.y])

    for tensor in (data.x, data.y, *data.shards):
        add(tuple(tensor.shape), [tensor])
    add_split(data.test, data.num_features)
    if data.public_rows is not None:
        add((len(data.public_rows),), [data.public_rows])
    if data.origin is not None and data.feature_map is not None:
        found.update(repr((data.origin.scale, data.feature_map.settings, data.input_shape)).encode())
        add(tuple(data.origin.x.shape), [data.origin.x])
        add_split(data.origin.test, data.num_inputs)
    return found.hexdigest()

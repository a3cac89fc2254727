"""A pretended accelerator, for machines without one.

Its tensors are computed on the CPU, but say that they lie on another device ("lazy", which needs no driver) and refuse
to be mixed with tensors of the CPU, as those of a real one do. It notes where the library waits for the device.
"""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import crfl

DEVICE = "lazy"
LIBRARY = Path(crfl.__file__).parent
ops = torch.ops.aten
CROSSING = {ops.copy_.default, ops._to_copy.default}
INDEXING = {ops.index.Tensor, ops.index_put_.default, ops._index_put_impl_.default, ops._unsafe_index.Tensor}
TO_NUMBERS = {ops._local_scalar_dense.default, ops.equal.default}
WAITING = TO_NUMBERS | {ops.nonzero.default, ops.masked_select.default, ops._linalg_eigh.default}


class OnDevice(torch.Tensor):
    """A tensor that pretends to lie on the device."""

    @staticmethod
    def __new__(cls, inner):
        self = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), dtype=inner.dtype, device=DEVICE, dispatch_sizes_strides_policy="sizes"
        )
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} was called on the device outside of the mode")

    def __repr__(self, *, tensor_contents=None):
        return f"OnDevice({self.inner})"


class Accelerator(TorchDispatchMode):
    """While it is active, "lazy" is a device that computes at once."""

    def __init__(self):
        super().__init__()
        self.waits = Counter()
        """How often each place of the library waited for the device: (file, function)."""
        self.operations = set()
        """Names of the operations that ran on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        there = [t for t in tensors if isinstance(t, OnDevice)]
        here = [t for t in tensors if not isinstance(t, OnDevice)]
        if func is ops._pin_memory.default:
            return args[0]
        device = kwargs.get("device")
        goes = bool(there) if device is None else torch.device(device).type == DEVICE
        if there or (goes and here):
            self.operations.add(str(func))
            self.check(func, args, kwargs, there, here, goes)
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        found = func(*tree_map(bare, args), **tree_map(bare, kwargs))
        if func in TO_NUMBERS or not goes:
            return found
        known = {id(bare(t)): t for t in tensors}  # what is written in place is the same tensor afterwards

        def wrapped(value):
            return known[id(value)] if id(value) in known else OnDevice(value)

        return tree_map(lambda value: wrapped(value) if isinstance(value, torch.Tensor) else value, found)

    def check(self, func, args, kwargs, there, here, goes):
        """RuntimeError for an operation that a real device would refuse; a note if it has to be waited for."""
        indices = [t for t in tree_leaves(args[1]) if t is not None] if func in INDEXING else []
        strangers = [t for t in here if t.dim() > 0 and not any(t is index for index in indices)]
        if strangers and func not in CROSSING:
            raise RuntimeError(f"{func}: got tensors on the device and, of shape {strangers[0].shape}, on the CPU")
        between = func in CROSSING and (bool(here) or not goes)
        patient = func is ops._to_copy.default and goes and kwargs.get("non_blocking")
        looked_at = any(t.dtype == torch.bool or not isinstance(t, OnDevice) for t in indices)
        if func in WAITING or (between and not patient) or looked_at:
            calls = [call for call in traceback.extract_stack() if Path(call.filename).is_relative_to(LIBRARY)]
            if calls:
                self.waits[Path(calls[-1].filename).name, calls[-1].name] += 1


def bare(value):
    """The tensor behind one on the device; other values as they are."""
    return value.inner if isinstance(value, OnDevice) else value

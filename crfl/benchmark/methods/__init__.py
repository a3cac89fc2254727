"""Certified defences, a module for each method; each names its entries in `ENTRIES`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from crfl.benchmark.entry import Entry

__all__ = ["load_entries"]


def load_entries() -> tuple[Entry, ...]:
    """The entries of all modules of this folder, in the order of the modules' names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(entry for name in names for entry in import_module(f"{__name__}.{name}").ENTRIES)

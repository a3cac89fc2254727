"""Families of attempts to break certificates, for `benchmarks/falsify.py`."""

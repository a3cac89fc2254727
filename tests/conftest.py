"""Which tests are slow: `make check` leaves them out."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("crfl", deadline=None)  # how long an example takes says nothing of it
settings.load_profile("crfl")

SLOW = (
    "certification/test_falsification.py",
    "certification/test_mnist.py",
    "runs/test_integrity.py",
    "test_notebooks.py",
    "test_packaging.py",
    "test_reproduction.py",
    "test_site.py",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.path).as_posix().endswith(SLOW):
            item.add_marker(pytest.mark.slow)

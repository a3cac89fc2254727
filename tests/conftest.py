"""Which tests are slow: `make check` leaves them out."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("crfl", deadline=None)  # how long an example takes says nothing of it
settings.load_profile("crfl")

TESTS = Path(__file__).parent
SLOW = (TESTS / "slow.txt").read_text().split()
"""Files of tests, and tests of other files, that take a second or more (file::test, all its parameters)."""


def pytest_collection_modifyitems(items):
    for item in items:
        path = Path(item.path)
        file = path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""
        if file in SLOW or f"{file}::{getattr(item, 'originalname', item.name)}" in SLOW:
            item.add_marker(pytest.mark.slow)

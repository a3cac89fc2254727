"""The digits."""

import pytest

import crfl
from tests.models.base import BASE


@pytest.fixture(scope="module")
def data():
    return crfl.load_data(BASE)

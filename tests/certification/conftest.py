"""A run on the digits, of which most modules here ask for certificates."""

import pytest

import crfl
from tests.certification.trained import EXP


@pytest.fixture(scope="module")
def data():
    return crfl.load_data(EXP)


@pytest.fixture(scope="module")
def run(data):
    return crfl.train(EXP, data)

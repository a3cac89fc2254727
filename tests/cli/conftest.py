"""The command line called in place, settings that train in a second, and a run that has them."""

import pytest
from click.testing import CliRunner

import crfl
from crfl.cli import main
from tests.cli.commands import SMALL


@pytest.fixture
def call(monkeypatch):
    def call(*args):
        return CliRunner().invoke(main, [str(a) for a in args])

    return call


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(crfl.Experiment().to_yaml())
    return path


@pytest.fixture
def finished(call, config, tmp_path):
    out = tmp_path / "run"
    assert call("run", config, *SMALL, "--out", out).exit_code == 0
    return out

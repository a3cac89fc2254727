"""The wheel: what it holds, and that it works without a clone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "crfl", "configs", "experiments")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the sources, so that nothing of an older build gets in."""
    source = tmp_path_factory.mktemp("source")
    for name in TOP:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "-q", "-w", target]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = target.glob("*.whl")
    return found


@pytest.fixture
def installed(wheel, tmp_path):
    """A function that runs the installed command line in an empty folder, which it returns with the output."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", site, wheel]
    subprocess.run(command, check=True, capture_output=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def call(*args):
        environment = {**os.environ, "PYTHONPATH": str(site)}
        command = [sys.executable, "-m", "crfl.cli", *args]
        return subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)

    call.site, call.scratch = site, scratch
    return call


def test_the_wheel_holds_all_modules_settings_and_figures(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern in (("crfl", "*.py"), ("configs", "*.yaml"), ("experiments", "*.py")):
        for path in (ROOT / folder).rglob(pattern):
            name = path.relative_to(ROOT).as_posix()
            assert (name if folder == "crfl" else f"crfl/{name}") in names
    assert "crfl/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "configs/", "experiments/"))]


def test_it_runs_outside_the_clone(installed):
    where = "import crfl, sys; print(crfl.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed.site)}
    command = [sys.executable, "-c", where]
    found = subprocess.run(command, cwd=installed.scratch, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(installed.site))
    result = installed("run", "digits", "--set", "server.rounds=3", "--set", "attack.round=2", "--out", "demo")
    assert result.returncode == 0, result.stderr
    assert (installed.scratch / "demo" / "params.safetensors").exists()
    figure = installed("reproduce", "9b", "--smoke")
    assert figure.returncode == 0, figure.stderr
    assert "claims hold" in (installed.scratch / "runs" / "reproduction" / "report.md").read_text()

"""Imports point one way; what need not be loaded is not."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import crfl

PACKAGE = Path(crfl.__file__).parent
ORDER = [
    "errors",
    "wording",
    "sanity",
    "rng",
    "devices",
    "progress",
    "matmul",
    "aggregation",
    "groups",
    "files",
    "fingerprint",
    "config",
    "features",
    "data",
    "curvature",
    "models",
    "attack",
    "schedule",
    "server",
    "aggregator",
    "record",
    "state",
    "run",
    "finish",
    "ensemble_run",
    "evaluation",
    "engines",
    "algorithm",
    "run_batch",
    "certification",
    "plots",
    "pages",
    "runs",
    "training",
    "ensemble",
    "tune_clip",
    "tune",
    "flower",
    "benchmark",
    "sweeps",
    "reproduction",
    "report",
    "cli",
]
"""From the bottom to the top: a module imports only from itself and from those before it."""
FORMULAS = [
    "lipschitz",
    "margin",
    "published",
    "radius",
    "metrics",
    "bounds.votes",
    "bounds.exact",
    "coupling.expansion",
    "coupling.poison",
    "coupling.recursion",
    "coupling.rounding",
    "ensembles.plurality",
    "ensembles.prices",
    "ensembles.random_groups",
    "ensembles.run_off",
    "privacy",
]


def imports(path):
    """Modules that the file imports when it runs, not those for the type checker alone."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(module):
    return ORDER.index(module.split(".")[1])


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    here = ".".join(("crfl", *path.relative_to(PACKAGE).with_suffix("").parts))
    for name in imports(path):
        if name.startswith("crfl.") and name != "crfl.__version__":
            assert place(name) <= place(here), f"{here} imports {name}"


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.is_relative_to(PACKAGE / "certification")], ids=lambda p: p.stem
)
def test_certification_knows_of_training_its_record_and_models_only(path):
    known = {"certification", "config", "devices", "errors", "models", "progress", "record", "rng", "sanity", "wording"}
    assert {name.split(".")[1] for name in imports(path) if name.startswith("crfl.")} <= known


def test_only_engines_know_how_they_work():
    for path in FILES:
        if not path.is_relative_to(PACKAGE / "engines"):
            assert not any(name.startswith("crfl.engines.vectorised") for name in imports(path)), path


@pytest.mark.parametrize("name", ["config", *(f"certification.{name}" for name in FORMULAS)])
def test_settings_and_formulas_know_no_torch(name):
    code = f"import sys, crfl.{name}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["aggregation", "attack.malicious"])
def test_what_settings_are_checked_against_needs_no_settings(name):
    code = f"import sys, crfl.{name}; assert 'crfl.config' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_needs_no_torch():
    code = "import sys, crfl.cli; assert not {'torch', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


GLOBAL_STATE = """
import random, numpy, torch
def state():
    return torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(), random.getstate()
before = state()
import crfl
for name in crfl.__all__:
    getattr(crfl, name)
assert state() == before
assert not torch.cuda.is_initialized()
"""


def test_import_touches_no_global_state():
    subprocess.run([sys.executable, "-c", GLOBAL_STATE], check=True)


def test_public_names_exist():
    for name in crfl.__all__:
        assert getattr(crfl, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        crfl.nonsense  # noqa: B018


def test_the_slow_tests_exist():
    tests = Path(__file__).parent
    for entry in (tests / "slow.txt").read_text().split():
        file, _, name = entry.partition("::")
        assert f"def {name}" in (tests / file).read_text(), entry

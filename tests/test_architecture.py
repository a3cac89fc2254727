"""Imports point down the house; the top of it stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import crfl

PACKAGE = Path(crfl.__file__).parent
FLOORS = [
    "errors",
    "config",
    "rng",
    "groups",
    "devices",
    "progress",
    "files",
    "matmul",
    "features",
    "data",
    "models",
    "attack",
    "aggregation",
    "server",
    "record",
    "evaluation",
    "engines",
    "state",
    "run",
    "algorithm",
    "certification",
    "plots",
    "pages",
    "runs",
    "training",
    "flower",
    "sweeps",
    "reproduction",
    "report",
    "cli",
]
"""From the bottom to the top: a room imports only from its own floor and from those below."""
NO_TORCH = [
    "lipschitz",
    "published",
    "coupled",
    "bounds.votes",
    "bounds.exact",
    "metrics",
    "ensembles.plurality",
    "ensembles.prices",
    "ensembles.random_groups",
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


def floor(module):
    return FLOORS.index(module.split(".")[1])


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = ".".join(("crfl", *path.relative_to(PACKAGE).with_suffix("").parts))
    for name in imports(path):
        if name.startswith("crfl.") and name != "crfl.__version__":
            assert floor(name) <= floor(here), f"{here} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "certification").glob("*.py")), ids=lambda p: p.stem)
def test_certification_knows_only_the_model_and_the_record_of_training(path):
    allowed = ("crfl.models.softmax", "crfl.record", "crfl.run")
    for name in imports(path):
        assert not name.startswith("crfl.training") or name.startswith(allowed), name


@pytest.mark.parametrize("name", NO_TORCH)
def test_formulas_know_no_torch(name):
    code = f"import sys, crfl.certification.{name}; assert 'torch' not in sys.modules"
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

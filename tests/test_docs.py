"""What the README and the documentation show is what happens."""

import re
from pathlib import Path

import matplotlib
import pytest

from crfl.aggregation import AGGREGATORS
from crfl.attack.malicious import MALICIOUS
from crfl.attack.triggers import TRIGGERS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [
    pytest.param(code, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_python_example_runs(code, tmp_path, monkeypatch):
    matplotlib.use("Agg")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    known = [set(r) for r in (TRIGGERS, AGGREGATORS, MALICIOUS)]
    try:
        exec(compile(code, "example", "exec"), {})
    finally:
        for registry, names in zip((TRIGGERS, AGGREGATORS, MALICIOUS), known, strict=True):
            for name in set(registry) - names:
                del registry[name]
    assert list(tmp_path.glob("*.png")) or "savefig" not in code


def test_there_are_examples_in_the_readme():
    assert any(example.id.startswith("README") for example in EXAMPLES)


def test_own_trigger_and_rule_take_under_15_lines():
    for name in ("own-attack-0", "own-attack-1", "own-attack-2"):
        (code,) = (example.values[0] for example in EXAMPLES if example.id == name)
        defined = code.split("def ")[1].split("exp =")[0]
        assert len(defined.strip().splitlines()) < 15

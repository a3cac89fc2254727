"""What the README and the documentation show is what happens."""

import re
from pathlib import Path

import matplotlib
import pytest

from crfl.aggregation import AGGREGATORS
from crfl.attack.malicious import MALICIOUS
from crfl.attack.triggers import TRIGGERS
from crfl.features import FEATURE_MAPS

REGISTRIES = (TRIGGERS, AGGREGATORS, MALICIOUS, FEATURE_MAPS)
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [
    pytest.param(code, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("code", EXAMPLES)
@pytest.mark.filterwarnings("ignore::crfl.errors.CertificateWarning")
def test_python_example_runs(code, tmp_path, monkeypatch):
    matplotlib.use("Agg")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    known = [set(r) for r in REGISTRIES]
    try:
        exec(compile(code, "example", "exec"), {})
    finally:
        for registry, names in zip(REGISTRIES, known, strict=True):
            for name in set(registry) - names:
                del registry[name]
    assert list(tmp_path.glob("*.png")) or "savefig" not in code


NUMBER = re.compile(r"-?\d+\.\d+")


def test_the_readme_shows_what_its_example_prints(tmp_path, monkeypatch, capsys):
    """The same words, and numbers that differ by less than another machine's rounding can make of one training."""
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "README.md").read_text()
    code, shown = re.search(r"```python\n([^`]*)```\n\nIt prints:\n\n```text\n(.*?)```", page, re.DOTALL).groups()
    exec(compile(code, "example", "exec"), {})
    printed = capsys.readouterr().out
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split()
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (printed, shown)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.02)


def test_there_are_examples_in_the_readme():
    assert any(example.id.startswith("README") for example in EXAMPLES)


def test_the_architecture_says_where_the_six_formulas_stand():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `([^`]+):(\d+)` \| `([^`]+)` \|$", page, re.MULTILINE)
    assert len(rows) == 6
    for file, number, line in rows:
        lines = (ROOT / file).read_text().splitlines()
        found = [i for i, text in enumerate(lines, start=1) if text.startswith(line)]
        assert found == [int(number)], f"docs/architecture.md: {file}: {line!r} stands in line {found}"

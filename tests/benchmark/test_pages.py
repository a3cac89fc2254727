"""The tables of the documentation are those of the CSVs, and the CSVs say what they must."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from crfl.benchmark.entry import THREATS
from crfl.benchmark.methods import load_entries

ROOT = Path(__file__).parents[2]
TABLES = sorted((ROOT / "benchmarks" / "results").glob("*.csv"))


@pytest.fixture(scope="module")
def drawing():
    spec = importlib.util.spec_from_file_location("draw_comparison", ROOT / "docs" / "draw_comparison.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_show_what_the_tables_hold(drawing):
    for page in drawing.PAGES:
        text = page.read_text(encoding="utf-8")
        assert drawing.MARK.search(text), page
        assert drawing.filled(text) == text, f"{page.name}: run python docs/draw_comparison.py"


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_a_row_says_all_that_a_reader_needs(path):
    table = pd.read_csv(path)
    threat = next(t for t in THREATS.values() if t.name.replace(" ", "-") == path.stem)
    known = {e.name: e for e in load_entries() if e.threat == threat.name}
    assert set(table["method"]) <= set(known)
    assert not table.duplicated(["data", "method"]).any()
    for _, row in table.iterrows():
        assert row["guarantee"] == known[row["method"]].guarantee
        assert row["command"].startswith("crfl compare --threat")
        assert len(row["assumptions"]) > 20
        assert row["models_trained"] >= 1
        certified = [row["accuracy"], *(row[f"certified@{s:g}"] for s in threat.strengths)]
        assert certified == sorted(certified, reverse=True)


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_no_sound_row_is_contradicted_or_above_what_an_attack_leaves(path):
    table = pd.read_csv(path)
    sound = table[table["guarantee"] == "sound"]
    assert not sound["contradicted"].astype(str).str.startswith("yes").any()
    for name in (c for c in table.columns if c.startswith("attacked@") and not c.endswith(("_low", "_high"))):
        both = sound.dropna(subset=[name])
        assert (both[name.replace("attacked", "certified")] <= both[name] + 1e-12).all()


def test_every_threat_has_a_table():
    assert {path.stem for path in TABLES} == {name.replace(" ", "-") for name in THREATS}

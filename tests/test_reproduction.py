"""Figures check their claims, and a claim that fails is shown as failed."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from crfl.cli import main
from crfl.reproduction import Claim, Figure, Panel, equal, falls, report, rises


def figure(*claims, name="toy"):
    x = np.array([0.0, 1.0, 2.0])
    curves = {
        "one": (x, np.array([[1.0, 0.5, 0.0], [0.8, 0.4, 0.0]])),
        "two": (x, np.array([[0.3, 0.2, 0.1]])),
    }
    panel = Panel("left", "x", "y", curves, levels={"one": 0.9})
    return Figure(name, "A toy", (panel,), claims, {"clip": float("inf")}, "What it shows.")


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        (equal("", [1.0, 2.0], [1.0, 2.0]), True),
        (equal("", [1.0, 2.0], [1.0, 2.1]), False),
        (equal("", [1.0], [1.0, 2.0]), False),
        (equal("", [1.0], [float("nan")]), False),
        (rises("", [1.0, 2.0, 3.0]), True),
        (rises("", [1.0, 1.0]), False),
        (rises("", [1.0, 0.995], slack=0.01), True),
        (rises("", [1.0, float("nan")]), False),
        (falls("", [3.0, 2.0]), True),
        (falls("", [2.0, 3.0]), False),
        (falls("", [2.0, 2.005], slack=0.01), True),
    ],
)
def test_claims(claim, holds):
    assert claim.holds is holds


def test_a_figure_keeps_its_numbers(tmp_path):
    toy = figure(Claim("true", "1", "1", True))
    toy.save(tmp_path)
    assert (tmp_path / "plots" / "toy.png").stat().st_size > 5000
    assert (tmp_path / "plots" / "toy.pdf").exists()
    frame = pd.read_csv(tmp_path / "curves" / "toy.csv")
    assert len(frame.query("curve != 'one (level)'")) == 9
    assert frame.query("curve == 'one (level)'")["y"].tolist() == [0.9, 0.9]
    assert frame.query("curve == 'one' and seed == 1")["y"].tolist() == [0.8, 0.4, 0.0]
    about = json.loads((tmp_path / "curves" / "toy.json").read_text(), parse_constant=pytest.fail)
    assert about["claims"][0]["holds"] is True


def test_the_report_shows_what_fails(tmp_path):
    toy = figure(Claim("good", "1", "1", True), Claim("a < b", "1", "2", False))
    toy.save(tmp_path)
    text, page = report([toy], tmp_path, "about")
    assert "1 of 2 claims hold" in text
    assert "**Warning:** A claim fails. toy: a \\< b (expected 1, measured 2)" in text
    assert "| a \\< b | 1 | 2 | **FAILS** |" in text
    assert "a &lt; b" in page
    assert "What it shows." in page
    assert "data:image/png;base64," in page
    assert 'src="plots' not in page


def test_the_appendix_comes_last(tmp_path):
    found = [figure(name=name) for name in ("appendix-alpha", "figure2", "figure9b")]
    for one in found:
        one.save(tmp_path)
    text, _ = report(found, tmp_path, "about")
    order = [text.index(f"plots/{name}.png") for name in ("figure2", "figure9b", "appendix-alpha")]
    assert order == sorted(order)


def test_reproduce_one_figure(tmp_path):
    args = ["reproduce", "9b", "appendix_alpha", "--smoke", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert "holds  figure9b" in result.output
    for name in ("figure9b", "appendix-alpha-digits"):
        assert (tmp_path / "plots" / f"{name}.png").exists()
        curves = (tmp_path / "curves" / f"{name}.csv").read_text()
        assert not {"$", "\\"} & set(curves)
    assert "claims hold" in (tmp_path / "report.md").read_text()


def test_unknown_figures_are_named():
    result = CliRunner().invoke(main, ["reproduce", "77"])
    assert result.exit_code == 2
    assert "77" in result.output
    assert "figure9b" in result.output

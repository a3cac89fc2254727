"""The page about one run, as a reader opens it."""

import re
import shutil
import subprocess

import matplotlib
import numpy as np
import pytest

import crfl
from crfl.pages import page, table
from crfl.report import run_report

matplotlib.use("Agg")
EXP = crfl.Experiment().override({"server.rounds": 10, "attack.round": 4, "smoothing.samples": 200})
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def report():
    data = crfl.load_data(EXP)
    return run_report(crfl.train(EXP, data), data)


def test_the_page_is_self_contained(report):
    assert not re.search(r'(src|href)="(?!data:)', report)
    assert report.count("data:image/png;base64,") == 3


def test_the_page_says_what_is_certified_and_on_what_it_rests(report):
    data = crfl.load_data(EXP)
    run = crfl.train(EXP, data)
    for kind in ("published", "smoothing", "margin"):
        certificate = crfl.certify(run, data.test, kind=kind)
        assert f"{certificate.critical_radius:.4g}" in report
        assert len(certificate.assumptions) > 2
        for sentence in certificate.warnings:
            assert sentence.split("<")[0].split(">")[0][:40] in report
    assert "<strong>Warning:</strong>" in report


def test_what_is_refused_is_said():
    exp = EXP.override({"server.aggregation": "rfa"})
    data = crfl.load_data(exp)
    text = run_report(crfl.train(exp, data), data)
    assert "Refused: " in text
    assert "rfa" in text


def test_pages_escape():
    assert "&lt;script&gt;" in page("t", "<script>", {})
    import pandas as pd

    assert table(pd.DataFrame({"a|b": [1.23456], "c": ["x|y"]})).splitlines()[2] == "| 1.235 | x\\|y |"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_shows_it(report, tmp_path):
    place, shot = tmp_path / "report.html", tmp_path / "shot.png"
    place.write_text(report)
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
    where = [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,2600", f"--screenshot={shot}"]
    subprocess.run([BROWSER, "--headless", *quiet, *where, place.as_uri()], check=True, timeout=60, capture_output=True)
    pixels = matplotlib.image.imread(shot)[..., :3]
    lines = np.flatnonzero((pixels < 0.5).any(axis=(1, 2)))
    assert pixels.shape[:2] == (2600, 1000)
    assert lines.max() > 2000  # something dark down to the last third: the pictures take their room

"""The page about one run, as a reader opens it."""

import datetime
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

import crfl
from crfl.errors import StoreError
from crfl.pages import Bullets, Code, Heading, Paragraph, Picture, Table, markdown, page
from crfl.report import RADII, SavedCertificate, read_certificates, run_report
from crfl.report.images import sample_png
from crfl.runs.certificates import save_certificate

matplotlib.use("Agg")
EXP = crfl.Experiment().override({"server.rounds": 10, "attack.round": 4, "smoothing.samples": 200})
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = (
    '<script>alert("x")</script>',
    "![x](http://example.com/x.png)",
    "[c](javascript:alert(1))",
    '" onload="alert(1)',
    "http://example.com www.example.com a@example.com",
    "`x` **b** $\\frac | x",
    "</style><img src=//example.com/y>",
)


@pytest.fixture(scope="module")
def trained():
    data = crfl.load_data(EXP)
    return crfl.train(EXP, data), data


@pytest.fixture(scope="module")
def saved(trained):
    run, data = trained
    with pytest.warns(UserWarning, match="guarantee"):
        published = crfl.certify(run, data.test, kind="published")
    margin = crfl.certify(run, data.test, kind="margin")
    found = {"published-clean": published, "margin-clean": margin}
    return [SavedCertificate.of(name, certificate, data.test.y) for name, certificate in found.items()]


@pytest.fixture(scope="module")
def report(trained, saved):
    return run_report(
        *trained, saved, name="demo", when=datetime.datetime(2026, 11, 24, 16, 20), versions={"crfl": "0.1.0"}
    )


class Seen(HTMLParser):
    """What a browser makes of a page: its elements, what they load, and the text of each."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], [""]
        self.feed(html)
        self.texts = [text.strip() for text in self.texts if text.strip()]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.texts.append("")

    def handle_endtag(self, tag):
        self.texts.append("")

    def handle_data(self, data):
        self.texts[-1] += data

    @property
    def loads(self):
        """Addresses outside the page."""
        found = [v for k, v in self.attributes if k in ("src", "href", "srcset", "action", "data", "background")]
        return [address for address in found if not address.startswith("data:image/png;base64,")]


def test_the_page_is_self_contained(report):
    assert not Seen(report).loads
    assert "@import" not in report
    assert not re.search(r"url\(", report)
    assert "default-src 'none'" in report


def test_the_title_says_which_run_when_and_with_what(report):
    assert "<title>crfl run demo</title>" in report
    assert "Finished 2026-11-24 16:20, crfl 0.1.0." in report


def test_the_page_shows_the_certificates_that_it_was_given_and_no_other(trained, saved, report):
    assert "published (not a guarantee here)" in report
    assert "<h3>smoothing</h3>" not in report
    texts = set(Seen(report).texts)
    for certificate in saved:
        for value in certificate.certified_accuracy(certificate.labels, RADII):
            assert f">{value:.4g}<" in report
        assert {*certificate.assumptions, *certificate.warnings} <= texts
    assert "No certificate was saved" in run_report(*trained)


def test_numbers_agree_with_their_nouns(trained, report):
    assert "1 attacker in round 4" in report
    assert "10 clients" in report
    _, data = trained
    exp = EXP.override({"attack.clients": 2, "attack.round": [3, 5]})
    assert "2 attackers in 2 rounds from 3 to 5" in run_report(crfl.train(exp, data), data)


def test_the_trigger_is_a_picture(trained, report):
    run, data = trained
    clean, after = data.test.x[1].numpy(), crfl.backdoored(EXP, data).x[1].numpy()
    assert "<h2>Trigger</h2>" in report
    assert sample_png(clean, (8, 8), (0, 1)) != sample_png(after, (8, 8), (0, 1))
    nobody = EXP.override({"attack.round": None})
    assert "<h2>Trigger</h2>" not in run_report(replace(run, experiment=nobody), data)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (3, 4, 5), (1, 4, 5), (4, 5, 1)])
def test_pictures_of_samples_have_a_pixel_a_value(shape, tmp_path):
    values = np.linspace(0, 1, int(np.prod(shape)))
    (tmp_path / "x.png").write_bytes(sample_png(values, shape))
    assert matplotlib.image.imread(tmp_path / "x.png").shape[:2] == (4, 5)
    (tmp_path / "y.png").write_bytes(sample_png(values - 0.5, shape, signed=True))


def test_hostile_names_are_text(trained, saved):
    run, data = trained
    names = (*HOSTILE, "8", "9", "10")
    assert len(names) == 10
    hostile = replace(
        saved[0],
        name=HOSTILE[0] + "-clean",
        warnings=HOSTILE,
        assumptions=HOSTILE,
        label=HOSTILE[1],
        statement=HOSTILE[2],
    )
    html = run_report(run, replace(data, name=HOSTILE[1], class_names=names), [hostile], name=HOSTILE[0])
    seen = Seen(html)
    assert not seen.loads
    assert not {"script", "a", "iframe", "link"} & set(seen.tags)
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert set(HOSTILE) <= set(seen.texts)


@pytest.mark.parametrize("text", [*HOSTILE, "- a", "1. a", "# a", "===", "a  b", "\\*x*", "~~a~~", "<!-- a", "&amp;"])
def test_markdown_shows_text_as_it_is(text):
    frame = pd.DataFrame({text: [text]})
    source = markdown([Heading(text), Paragraph(text), Bullets([text]), Table(frame), Picture(b"", text, "p.png")])
    shown = " ".join(text.split())
    seen = Seen(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(source))
    assert set(seen.tags) <= {"h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "img"}
    assert seen.loads == ["p.png"]
    assert seen.texts == [shown] * 5
    assert ("alt", shown) in seen.attributes
    assert "http://" not in source  # nor are bare addresses made links
    assert "www." not in source


def test_pages_escape():
    html = page("<b>", [Heading("<i>"), Bullets(["&"]), Code("<x>"), Table(pd.DataFrame({"a|b": [1.23456, np.inf]}))])
    for text in ("&lt;b&gt;", "&lt;i&gt;", "<li>&amp;</li>", "&lt;x&gt;", "a|b", "1.235", ">any<"):
        assert text in html


def test_saved_certificates_are_read_back(tmp_path, trained, saved):
    run, data = trained
    crfl.save_run(tmp_path / "run", run)
    margin = crfl.certify(run, data.test)
    save_certificate(tmp_path / "run", "margin-clean", margin, data.test.y, EXP)
    (found,) = read_certificates(tmp_path / "run")
    written = saved[1]
    assert found.frame.equals(written.frame)
    assert replace(found, frame=written.frame) == written
    assert (found.title, found.split) == ("margin", "clean")


@pytest.mark.parametrize("columns", [["a", "b"], ["index", "label"], ["index", "label", "prediction", "abstained"]])
def test_a_table_that_is_no_certificate_is_named(columns):
    with pytest.raises(StoreError, match=r"x\.csv"):
        SavedCertificate.from_files("x", pd.DataFrame(columns=columns), {})


def screenshot(path, shot, width, height, *options):
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9", f"--window-size={width},{height}"]
    where = [f"--user-data-dir={shot.parent / 'profile'}", f"--screenshot={shot}", "--hide-scrollbars"]
    command = [BROWSER, "--headless", *quiet, *offline, *where, *options, path.as_uri()]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    return matplotlib.image.imread(shot)[..., :3]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_without_a_network_shows_it(report, tmp_path):
    place = tmp_path / "report.html"
    place.write_text(report)
    wide = screenshot(place, tmp_path / "wide.png", 1000, 2600)
    assert wide.shape[:2] == (2600, 1000)
    assert (wide[:, 0] > 0.9).all()
    assert np.flatnonzero((wide < 0.5).any(axis=(1, 2))).max() > 2000  # the pictures take their room
    narrow = screenshot(place, tmp_path / "narrow.png", 500, 2600)
    assert (narrow[:, -8:] > 0.9).all()  # nothing runs off to the right


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_it_is_dark_for_those_who_want_it_dark(report, tmp_path):
    place = tmp_path / "report.html"
    place.write_text(report)
    dark = screenshot(place, tmp_path / "dark.png", 600, 800, "--blink-settings=preferredColorScheme=0")
    assert (dark[:, 0] < 0.2).all()

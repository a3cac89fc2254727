"""The documentation as a site: it builds without a warning, its links lead somewhere, and it needs no network."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """Anchors, links and what a browser would load."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads, self.tags = set(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag in ("link", "script", "img", "iframe", "source"):
            self.loads += [found[key] for key in ("href", "src", "srcset") if found.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", ROOT / "docs", folder]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}


def test_links_lead_somewhere(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if target.is_dir():
                target /= "index.html"
            known = pages[target].anchors if target in pages else None
            if not target.exists() or (parts.fragment and known is not None and unquote(parts.fragment) not in known):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_no_page_loads_anything_from_elsewhere(pages, site):
    for path, page in pages.items():
        assert not [address for address in page.loads if re.match(r"(https?:)?//", address)], path
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text()), style


def test_formulas_are_in_the_pages(site, pages):
    theory = pages[site / "theory.html"]
    assert theory.tags.count("math") > 400
    for path in pages:
        assert not re.search(r"\\(frac|lVert|sigma|Delta)\b", path.read_text(encoding="utf-8").split("<footer")[0]), (
            path
        )
    assert (site / "_static" / "STIXTwoMath-Regular.ttf").exists()


def test_every_page_can_be_reached(site, pages):
    index = site / "index.html"
    seen, todo = set(), [index]
    while todo:
        path = todo.pop()
        if path in pages and path not in seen:
            seen.add(path)
            todo += [(path.parent / unquote(urlsplit(link).path)).resolve() for link in pages[path].links]
    listed = {path for path in pages if "_modules" not in path.parts}
    assert {path for path in listed if path.name not in ("genindex.html", "search.html", "py-modindex.html")} <= seen

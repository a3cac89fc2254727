"""Docstrings as crfl writes them: Google's sections (Args, Returns, Raises, Example), and formulas that are indented.

Attributes are left as they are: napoleon would read "N: clients" as a type and a description.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

CONFIG = Config(napoleon_use_rtype=False)
HEADER_OR_ITEM = re.compile(r"\w+:$|[-*] |\d+\. |.*::$|>>> ")


def formulas(lines: list[str]) -> list[str]:
    """The lines with every indented block of the running text marked as one to show as it is."""
    found: list[str] = []
    before = ""  # the last line that is not empty
    for line in lines:
        starts = line.startswith("    ") and before and not before.startswith(" ")
        if starts and not found[-1].strip() and not HEADER_OR_ITEM.match(before):
            found += ["::", ""]
        found.append(line)
        before = line or before
    return found


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = formulas(lines)
    if what in ("function", "method", "class", "exception", "module"):
        lines[:] = GoogleDocstring(lines, CONFIG, app, what, name, obj, options).lines()


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _process)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""Google-style docstrings (Args, Returns, Raises, Example) of functions and classes.

Attributes are left as they are: napoleon would read "N: clients" as a type and a description.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

CONFIG = Config(napoleon_use_rtype=False)


def _sections(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what in ("function", "method", "class", "exception", "module"):
        lines[:] = GoogleDocstring(lines, CONFIG, app, what, name, obj, options).lines()


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _sections)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

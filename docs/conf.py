"""Sphinx: the documentation site, built from these pages and the docstrings."""

from crfl import __version__

project = "crfl"
author = "The crfl developers"
copyright = f"2026, {author}"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
html_theme = "furo"
html_title = "crfl"
exclude_patterns = ["_build"]

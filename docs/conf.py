"""Sphinx: the documentation site, built from these pages and the docstrings. It opens without a network."""

import sys
from pathlib import Path

from crfl import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "crfl"
author = "The crfl developers"
copyright = f"2026, {author}"
release = version = __version__
extensions = [
    "docstrings",
    "mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
]

myst_enable_extensions = ["amsmath", "attrs_inline", "dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"
default_role = "literal"  # `name` in docstrings

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
python_use_unqualified_type_names = True

viewcode_follow_imported_members = False

html_theme = "furo"
html_title = f"crfl {version}"
html_static_path = ["_static"]
html_css_files = ["crfl.css"]
html_theme_options = {"navigation_with_keys": True}
exclude_patterns = ["_build", "_ext"]

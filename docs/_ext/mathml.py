"""Formulas as MathML, made when the pages are built: they need no script and no network when they are read.

math-core converts them and refuses what it does not know, so that a formula that cannot be shown fails the build. The
font for formulas, STIX Two Math (SIL Open Font License), is the one that comes with ziamath.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

FONT = "STIXTwoMath-Regular.ttf"
CONVERTER = LatexToMathML(fancy_error=False)


def mathml(latex: str, display: bool) -> str:
    """One formula as MathML.

    Args:
        latex: The formula, without dollar signs.
        display: Whether it stands on a line of its own.

    Raises:
        ExtensionError: it cannot be converted.
    """
    text = re.sub(r"\\cr\b", r"\\\\", latex.strip())
    if r"\tag" in text and not text.startswith(r"\begin"):
        text = rf"\begin{{equation}}{text}\end{{equation}}"
    try:
        return CONVERTER.convert_with_local_state(text, displaystyle=display)
    except LatexError as error:
        raise ExtensionError(f"formula {latex.strip()!r}: {error}") from None


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), display=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{mathml(node.astext(), display=True)}</div>\n')
    raise nodes.SkipNode


def _copy_font(app: Sphinx, error: Exception | None) -> None:
    spec = importlib.util.find_spec("ziamath")
    font = Path(spec.origin).parent / "fonts" / FONT if spec and spec.origin else None
    if error is None and app.builder.format == "html":
        if font is None or not font.exists():
            logging.getLogger(__name__).warning("no font for formulas: the reader's own is used")
        else:
            shutil.copy(font, Path(app.outdir) / "_static" / FONT)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.connect("build-finished", _copy_font)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

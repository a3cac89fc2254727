"""The report on figures: every picture, every claim and whether it holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crfl.pages import Block, Heading, Paragraph, Picture, Table, markdown, page
from crfl.reproduction.figures import Claim, Figure

if TYPE_CHECKING:
    import pandas as pd


def report(figures: Sequence[Figure], folder: Path, about: str) -> tuple[str, str]:
    """The report on figures: claim, expected, measured, verdict.

    The paper's figures come first, those of its appendix after them.

    Args:
        figures: Those that were saved in `folder`.
        folder: Where their pictures lie, in plots/.
        about: A sentence that opens the report.

    Returns:
        Markdown, and one self-contained HTML page with the pictures.

    Example:
        >>> text, html = report([], Path("nowhere"), "Nothing was drawn.")
        >>> text.splitlines()[0], "0 of 0 claims hold." in html
        ('# Reproduction report', True)
    """
    figures = sorted(figures, key=lambda f: f.name.startswith("appendix"))
    claims = [(f, c) for f in figures for c in f.claims]
    failed = [(f, c) for f, c in claims if not c.holds]
    blocks: list[Block] = [
        Heading("Reproduction report", 1),
        Paragraph(about),
        Paragraph(f"{len(claims) - len(failed)} of {len(claims)} claims hold."),
    ]
    for figure, claim in failed:
        told = f"{figure.name}: {claim.text} (expected {claim.expected}, measured {claim.measured})"
        blocks.append(Paragraph(f"A claim fails. {told}", warning=True))
    for figure in figures:
        path = f"plots/{figure.name}.png"
        blocks += [Heading(figure.title), Picture((folder / path).read_bytes(), figure.title, path)]
        if figure.caption:
            blocks.append(Paragraph(figure.caption))
        if figure.claims:
            blocks.append(Table(_claims_table(figure.claims), bold=("FAILS",)))
    return markdown(blocks), page("crfl: reproduction report", blocks)


def _claims_table(claims: Sequence[Claim]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "claim": [c.text for c in claims],
            "expected": [c.expected for c in claims],
            "measured": [c.measured for c in claims],
            "verdict": ["holds" if c.holds else "FAILS" for c in claims],
        }
    )

"""Self-contained HTML pages from Markdown and pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def table(frame: pd.DataFrame) -> str:
    """A data frame as a Markdown table, numbers to four digits."""

    def cell(value: object) -> str:
        return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("|", "\\|")

    rows = [list(map(str, frame.columns)), ["---"] * frame.shape[1]]
    rows += [[cell(value) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page(title: str, text: str, pictures: Mapping[str, bytes]) -> str:
    """One HTML page: `text` in Markdown, in which ![alt](name) shows the PNG `pictures[name]`, embedded."""
    import markdown

    body = markdown.markdown(html.escape(text, quote=False), extensions=["tables", "sane_lists"])
    for name, picture in pictures.items():
        body = body.replace(f'src="{name}"', f'src="data:image/png;base64,{base64.b64encode(picture).decode()}"')
    return _PAGE.format(title=html.escape(title), body=body)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
img {{ max-width: 100% }} table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: left; vertical-align: top }}
</style></head><body>
{body}
</body></html>
"""

"""Blocks of text, tables and pictures to one self-contained HTML page, or to Markdown.

Text is data: names, messages and settings of a user appear as they are and are never read as HTML, Markdown or a link.
A page loads nothing from anywhere: pictures are embedded, and a content security policy forbids the rest.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the page's title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; a `warning` stands out."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A data frame; numbers have four digits, and cells that start with one of `bold` stand out."""

    frame: pd.DataFrame
    bold: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A PNG with what it shows; `path` is where Markdown finds it."""

    png: bytes
    alt: str
    path: str = ""


@dataclass(frozen=True)
class Gallery:
    """Small pictures side by side, each with lines under it."""

    samples: Sequence[tuple[bytes, str]]


@dataclass(frozen=True)
class Code:
    """Lines as they are."""

    text: str


Block = Heading | Paragraph | Bullets | Table | Picture | Gallery | Code


def page(title: str, blocks: Sequence[Block]) -> str:
    """One HTML page of the blocks, readable in light and dark and on a phone."""
    return _PAGE.format(title=html.escape(title), body="\n".join(_html(block) for block in blocks))


def markdown(blocks: Sequence[Block]) -> str:
    """The blocks in Markdown; pictures are links to their paths, galleries are left out."""
    return "\n\n".join(filter(None, map(_markdown, blocks))) + "\n"


def escape(text: str) -> str:
    """Text in which Markdown and the HTML within it see nothing but text."""
    flat = re.sub(r"[\\`*_\[\]|<>&$~@]|:(?=//)|(?<=www)\.|^[-+#=]", r"\\\g<0>", " ".join(text.split()))
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", flat)


def cell(value: object) -> str:
    """A table's cell: numbers to four digits, infinity as a sign."""
    if isinstance(value, float):
        return "any" if value == float("inf") else f"{value:.4g}"
    return str(value)


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text, warning):
            return f"<p>{html.escape(text)}</p>" if not warning else f'<p class="warning">{html.escape(text)}</p>'
        case Bullets(items):
            return f"<ul>{''.join(f'<li>{html.escape(item)}</li>' for item in items)}</ul>"
        case Table(frame, bold):
            return _html_table(frame, bold)
        case Picture(png, alt, _):
            return f'<figure><img src="{_data_uri(png)}" alt="{html.escape(alt)}"></figure>'
        case Gallery(samples):
            return f'<div class="gallery">{"".join(_html_sample(png, text) for png, text in samples)}</div>'
        case Code(text):
            return f"<pre><code>{html.escape(text)}</code></pre>"


def _html_table(frame: pd.DataFrame, bold: tuple[str, ...]) -> str:
    head = "".join(f'<th scope="col">{html.escape(str(name))}</th>' for name in frame.columns)
    rows = []
    for row in frame.itertuples(index=False):
        cells = []
        for value in row:
            text = html.escape(cell(value))
            mark = f"<strong>{text}</strong>" if bold and text.startswith(bold) else text
            number = ' class="n"' if isinstance(value, (int, float)) else ""
            cells.append(f"<td{number}>{mark}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _html_sample(png: bytes, text: str) -> str:
    lines = "<br>".join(html.escape(line) for line in text.splitlines())
    return f'<figure><img src="{_data_uri(png)}" alt=""><figcaption>{lines}</figcaption></figure>'


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {escape(text)}"
        case Paragraph(text, warning):
            return f"**Warning:** {escape(text)}" if warning else escape(text)
        case Bullets(items):
            return "\n".join(f"- {escape(item)}" for item in items)
        case Table(frame, bold):
            rows = [[escape(str(name)) for name in frame.columns], ["---"] * frame.shape[1]]
            for row in frame.itertuples(index=False):
                texts = [(cell(v), escape(cell(v))) for v in row]
                rows.append([f"**{safe}**" if bold and text.startswith(bold) else safe for text, safe in texts])
            return "\n".join(f"| {' | '.join(row)} |" for row in rows)
        case Picture(_, alt, path):
            return f"![{escape(alt)}]({path})"
        case Code(text):
            return "\n".join("    " + line for line in text.splitlines())
        case _:
            return ""


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>
:root {{ color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ddd; --soft: #f4f4f4; --alarm: #fff1e0 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e6e6; --paper: #16181c; --line: #3a3e46; --soft: #22252b; --alarm: #4a3213 }}
}}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere }}
h1, h2, h3 {{ line-height: 1.25; margin: 1.8em 0 .6em }} h1 {{ margin-top: 0 }}
figure {{ margin: 1rem 0 }}
img {{ max-width: 100%; height: auto; background: #fff; border-radius: 4px }}
.scroll {{ overflow-x: auto }} table {{ border-collapse: collapse; overflow-wrap: normal }}
th, td {{ border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left; vertical-align: top }}
th {{ white-space: nowrap }}
.n {{ text-align: right; font-variant-numeric: tabular-nums }}
pre {{ background: var(--soft); padding: .7rem; border-radius: 4px; white-space: pre-wrap }}
.warning {{ background: var(--alarm); padding: .5rem .8rem; border-radius: 4px }}
.gallery {{ display: flex; flex-wrap: wrap; gap: .6rem }}
.gallery figure {{ margin: 0; width: 5.5rem; font-size: .75rem; line-height: 1.3; text-align: center }}
.gallery img {{ width: 100%; image-rendering: pixelated }}
</style></head><body><main>
{body}
</main></body></html>
"""

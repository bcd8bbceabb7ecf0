"""Building blocks of a report: one HTML page that contains all it shows and needs no other files."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light; --ink: #24292f; --soft: #57606a; --line: #d8dee4; --back: #f6f8fa; --good: #1a7f37; --bad: #cf222e; }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif }
main { max-width: 1200px; margin: 0 auto; padding: 32px 16px 64px }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 18px; margin: 0 0 4px } p { margin: 0 0 12px; color: var(--soft) }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 20px; margin-top: 20px; overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 4px 14px 4px 0; text-align: right; white-space: nowrap }
th { font-weight: 600; white-space: normal; vertical-align: bottom; border-bottom: 1px solid var(--line) } tr > :first-child, td.unit { text-align: left } tr > :first-child { white-space: normal } td.unit { color: var(--soft) }
td.met { color: var(--good) } td.missed { color: var(--bad); font-weight: 600 }
img, video { width: 100%; height: auto; display: block; border-radius: 6px } .films { display: flex; gap: 16px; flex-wrap: wrap }
figure { flex: 1 1 420px; margin: 0; max-width: 720px } figcaption { color: var(--soft); padding-top: 6px }
details { margin-top: 12px } summary { cursor: pointer }
"""


def document(title: str, body: str) -> str:
    """The whole page; body is HTML."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>{body}\n</main></body></html>\n"
    )


def section(title: str, caption: str, body: str) -> str:
    """A part of the page with a heading and a caption; body is HTML."""
    return f"<section><h2>{escape(title)}</h2><p>{escape(caption)}</p>{body}</section>"


def table(head: Sequence[str], rows: Sequence[Sequence[str | tuple[str, str]]]) -> str:
    """A table; each cell is HTML, or (HTML, class)."""

    def cell(content: str | tuple[str, str]) -> str:
        return f"<td>{content}</td>" if isinstance(content, str) else f'<td class="{content[1]}">{content[0]}</td>'

    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr></thead><tbody>{body}</tbody></table>"


def data_url(kind: str, content: bytes) -> str:
    """The content as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def number(value: float) -> str:
    """The value with three decimals, or a dash if it could not be measured."""
    return f"{value:.3f}" if math.isfinite(value) else "-"

"""Marks the cells of a table that hold a sentence, which a narrow window must not squeeze to one word a line."""

from __future__ import annotations

import re
from html import unescape

CELL = re.compile(r"<td>(.*?)</td>", re.DOTALL)
TAG = re.compile(r"<[^>]*>")
LONG = 48  # characters of text; shorter cells keep three or four words on a line anyway


def _marked(cell: re.Match[str]) -> str:
    text = unescape(TAG.sub("", cell[1]))
    return f'<td class="long">{cell[1]}</td>' if len(text) > LONG else cell[0]


def on_page_content(html: str, **_: object) -> str:
    return CELL.sub(_marked, html)

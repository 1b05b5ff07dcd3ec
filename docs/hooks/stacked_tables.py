"""Marks the tables of three columns or more that hold sentences: a phone shows the cells of a row below each other.

Side by side such columns are wider than a phone, and the scrollbar of a tall table is out of sight, at its end.
"""

from __future__ import annotations

import re
from html import escape, unescape

TABLE = re.compile(r"<table>(.*?)</table>", re.DOTALL)
HEADING = re.compile(r"<th[^>]*>(.*?)</th>", re.DOTALL)
ROW = re.compile(r"<tr[^>]*>(.*?)</tr>", re.DOTALL)
CELL = re.compile(r"<td([^>]*)>(.*?)</td>", re.DOTALL)
TAG = re.compile(r"<[^>]*>")
SENTENCE = 48  # characters


def _text(html: str) -> str:
    return unescape(TAG.sub("", html)).strip()


def _has_sentence(row: str) -> bool:
    return any(len(_text(cell)) > SENTENCE for _, cell in CELL.findall(row)[1:])  # the first one is a heading then


def _labelled(row: re.Match[str], headings: list[str]) -> str:
    names = iter(headings)

    def cell(found: re.Match[str]) -> str:
        return f'<td{found[1]} data-heading="{escape(next(names, ""))}">{found[2].strip()}</td>'

    return CELL.sub(cell, row[0])


def _stacked(table: re.Match[str]) -> str:
    headings = [_text(heading) for heading in HEADING.findall(table[1])]
    of_parameters = headings[:2] == ["Name", "Type"]
    if not of_parameters and (len(headings) < 3 or not any(map(_has_sentence, ROW.findall(table[1])))):
        return table[0]
    return f"<table data-stacked>{ROW.sub(lambda row: _labelled(row, headings), table[1])}</table>"


def on_page_content(html: str, **_: object) -> str:
    return TABLE.sub(_stacked, html)

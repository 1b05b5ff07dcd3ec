"""Lets a long name in running text or a table break after its underscores, dots and slashes, and nowhere else.

An option of a command, such as --pos-weight, is not broken after its hyphens.

A short formula stays on the line of the mark that follows it: a browser may break a line after any formula.
"""

from __future__ import annotations

import re

BLOCK = re.compile(r"(<pre.*?</pre>)", re.DOTALL)
NAME = re.compile(r"(<code[^>]*>|<span class=\"doc doc-object-name[^>]*>)([^<]*)(</(?:code|span)>)")
FORMULA = re.compile(r"[(\[]?<span class=\"arithmatex\">[^<]{1,40}</span>[.,;:)\]]+")
OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
PLACE = re.compile(r"(?<=[\w\])])(::|[_./=|,])(?=[\w(\[])")


def _with_breaks(name: re.Match[str]) -> str:
    text = OPTION.sub(r'<span class="whole">\g<0></span>', PLACE.sub(r"\1<wbr>", name[2]))
    return name[1] + text + name[3]


def _with_mark(formula: re.Match[str]) -> str:
    return f'<span class="whole">{formula[0]}</span>'


def on_page_content(html: str, **_: object) -> str:
    parts = BLOCK.split(html)
    parts[::2] = [FORMULA.sub(_with_mark, NAME.sub(_with_breaks, part)) for part in parts[::2]]
    return "".join(parts)

"""A label's name as a line of a table or a picture can show it."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, set_cell_size

_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}  # control signs, halves of signs, ends of lines


def printable(name: str, encoding: str = "utf-8") -> str:
    """Returns the name with an escape, as Python writes it, for each sign that cannot be printed."""
    seen = "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) in _UNSEEN else sign for sign in name
    )
    return seen.encode(encoding, "backslashreplace").decode(encoding)


def shortened(name: str, cells: int) -> str:
    """Returns the name in at most so many cells of a terminal; of a longer one the beginning and the end, which may be
    all that tells it from others."""
    if cell_len(name) <= cells:
        return name
    left = (cells - 3 + 1) // 2
    right = cells - 3 - left
    end = name
    while cell_len(end) > right:
        end = end[1:]
    return f"{set_cell_size(name, left).rstrip()}...{end}"

"""Makes a label's name fit a line of a table or a picture."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, set_cell_size

_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}  # control characters, surrogates, line and paragraph separators


def printable(name: str, encoding: str = "utf-8") -> str:
    """Returns the name with an escape, as Python writes it, for each character that cannot be printed."""
    seen = "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) in _UNSEEN else sign for sign in name
    )
    return seen.encode(encoding, "backslashreplace").decode(encoding)


def shortened(name: str, cells: int) -> str:
    """Returns the name in at most so many cells of a terminal. A longer one loses its middle, because either end may be
    what distinguishes it."""
    if cell_len(name) <= cells:
        return name
    left = (cells - 3 + 1) // 2
    right = cells - 3 - left
    end = name
    while cell_len(end) > right:
        end = end[1:]
    return f"{set_cell_size(name, left).rstrip()}...{end}"

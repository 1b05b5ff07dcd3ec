"""The programs in the pages of docs/."""

from __future__ import annotations

import re
from pathlib import Path


def blocks(page: Path, heading: str, language: str) -> list[str]:
    """The blocks of code below a heading, up to the next."""
    section = re.split(rf"^#+ {re.escape(heading)}$", page.read_text(), flags=re.MULTILINE)[1]
    section = re.split(r"^##+ ", section, flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)

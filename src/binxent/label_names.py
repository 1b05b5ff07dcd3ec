"""Matches the labels of two sources by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def are_places(names: Sequence[str]) -> bool:
    """Whether the names are only the labels' numbers, 0, 1, 2, …, which stand for missing names."""
    return list(names) == [str(i) for i in range(len(names))]


def numbered(count: int) -> list[str]:
    """Returns the names of labels that have none: their numbers."""
    try:
        return [str(i) for i in range(count)]
    except MemoryError:  # of a list, which does not say how much it would have taken
        size = 72 * count  # a short text takes 64 bytes, and its place in the list 8
        raise MemoryError(f"binxent could not allocate {size} bytes for the names of {count} labels") from None


def repeated(names: Sequence[str]) -> list[str]:
    """Returns the names that more than one label has."""
    return [name for name in dict.fromkeys(names) if names.count(name) > 1] if len(set(names)) < len(names) else []


def listed(names: Sequence[str], most: int = 5) -> str:
    """Returns the names as a message lists them."""
    rest = len(names) - most
    return ", ".join(map(repr, names[:most])) + (f" and {rest} more" if rest > 0 else "")


def reordering(names: Sequence[str], expected: Sequence[str]) -> list[int] | None:
    """Returns the place of each expected name among the names; None if the labels differ."""
    if len(names) != len(expected) or set(names) != set(expected) or repeated(names):
        return None
    place = {name: i for i, name in enumerate(names)}
    return [place[name] for name in expected]

"""Finds the column of each label in every file: by name where both files have names, else by place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from binxent.files import TableError
from binxent.label_names import are_places, listed, reordering, repeated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from binxent.files import Table

_BY_POSITION = ", or match columns by place with --by-position"


def check_distinct(path: str, names: Sequence[str], remedy: str = "") -> None:
    """Raises TableError where two columns have one name."""
    if twice := repeated(names):
        raise TableError(f"{path}: more than one column is named {listed(twice)}; rename them{remedy}")


def order_like(path: str, names: Sequence[str], other: str, expected: Sequence[str], remedy: str = "") -> list[int]:
    """Returns the place of each expected name among the names, which are distinct.

    Args:
        path, names: the file whose columns are to be put in order.
        other, expected: the file whose order they are to have.
        remedy: another remedy than renaming, in the words of the message.

    Raises:
        TableError: a column is missing on either side.
    """
    order = reordering(names, expected)
    if order is not None:
        return order
    if len(names) == len(expected) and (are_places(names) or are_places(expected)):
        return list(range(len(names)))
    missing, extra = ([name for name in a if name not in set(b)] for a, b in ((expected, names), (names, expected)))
    lacking = [f"{file} has no {listed(lost)}" for file, lost in ((path, missing), (other, extra)) if lost]
    raise TableError(f"{path}: its columns are not those of {other}: {', and '.join(lacking)}; rename them{remedy}")


@dataclass(frozen=True)
class Matched:
    """The labels' names, if any file has them, and by argument the columns of each file in another order."""

    names: list[str] | None
    orders: dict[str, list[int]]


def match(tables: Mapping[str, Table], names_file: tuple[str, list[str]] | None, by_position: bool) -> Matched:
    """Finds the columns of every file that has one for each label.

    Args:
        tables: by the argument's name; ``predictions`` and ``labels`` are among them.
        names_file: the path of a file of names, and the names, which the columns of files without names get.
        by_position: whether all columns are matched by place, whatever their names.
    """
    count = tables["predictions"].columns
    named = {
        argument: (table.path, table.names)
        for argument, table in tables.items()
        if table.names and table.columns == count and argument != "sample_weight"
    }
    # With a single label, the column of a weight or a mask need not have the label's name.
    named = {key: value for key, value in named.items() if count > 1 or key not in ("weight", "mask")}
    sources = [named[key] for key in ("predictions", "labels") if key in named]
    if by_position:
        sources = [names_file, *sources] if names_file else sources
        return Matched(sources[0][1] if sources else None, {})
    if names_file is not None:
        sources.insert("predictions" in named, names_file)
    if not sources:
        return Matched(None, {})
    path, expected = next((source for source in sources if not are_places(source[1])), sources[0])
    orders = {}
    for argument, (own_path, names) in (*named.items(), *([("", names_file)] if names_file else [])):
        check_distinct(own_path, names, _BY_POSITION)
        orders[argument] = order_like(own_path, names, path, expected, _BY_POSITION)
    own = list(range(count))
    return Matched(expected, {argument: order for argument, order in orders.items() if argument and order != own})

"""Reads the tables of pandas and polars as numbers, a part at a time. Neither library is imported.

A missing value, of whatever kind the library has, becomes NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from binxent.arrays import Array


def is_frame(value: object) -> bool:
    """Whether it is a DataFrame or a Series of pandas or polars."""
    return type(value).__module__.partition(".")[0] in ("pandas", "polars") and hasattr(value, "to_numpy")


def as_table(value: Any) -> Any:
    """The DataFrame; a Series becomes one of one column."""
    return value if hasattr(value, "columns") else value.to_frame()


def names(value: Any) -> list[str] | None:
    """The names of the columns; None for a Series without a name."""
    if not hasattr(value, "columns") and value.name in (None, ""):
        return None
    return [str(name) for name in as_table(value).columns]


def read(frame: Any, rows: slice) -> Array:
    """Returns these rows of a DataFrame. Raises TypeError, which names the column, if they hold no numbers."""
    part = frame.iloc[rows] if hasattr(frame, "iloc") else frame[rows]
    try:
        return _numbers(part)
    except MemoryError:
        raise
    except Exception as refusal:  # polars has exceptions of its own
        for place, name in enumerate(part.columns):
            column = part.iloc[:, place] if hasattr(part, "iloc") else part[name]
            try:
                _numbers(column.to_frame())
            except Exception as why:
                raise TypeError(f"labels: column {str(name)!r} cannot be read as numbers ({why})") from refusal
        raise


def _numbers(part: Any) -> Array:
    if hasattr(part, "iloc"):
        kinds = set(part.dtypes)
        plain = len(kinds) == 1 and all(isinstance(kind, np.dtype) and kind.kind in "biuf" for kind in kinds)
        if any(kind.kind == "O" for kind in kinds):  # na_value does not reach into columns of objects
            part = part.where(part.notna(), np.nan)
        return np.asarray(part.to_numpy() if plain else part.to_numpy(np.float64, na_value=np.nan))
    return np.asarray(part.cast(float).to_numpy())

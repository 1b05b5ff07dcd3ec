"""Tables of pandas and polars: their columns keep their names, and a missing value of any kind is an unknown label."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from binxent import labels
from binxent.labels import LabelCounts, count_labels

COLUMNS = {"cat": [1, 0, None, 1], "dog": [0, 0, 1, None]}
POSITIVES, NEGATIVES = [2, 1], [1, 2]

# The dtypes that a library has for labels, by the name of the library.
DTYPES = {
    "pandas": ["float64", "Int8", "boolean", "Float32", "object", "int64[pyarrow]", "bool[pyarrow]"],
    "polars": ["Float32", "Int8", "UInt64", "Boolean"],
}
CASES = [(library, dtype) for library, dtypes in DTYPES.items() for dtype in dtypes]


def frame(library: str, dtype: str, columns: dict[str, list[Any]] = COLUMNS) -> Any:
    module = pytest.importorskip(library)
    if library == "pandas":
        missing = None if dtype == "float64" else module.NA
        given = {name: [missing if v is None else v for v in values] for name, values in columns.items()}
        return module.DataFrame(given, dtype=dtype)
    kind = getattr(module, dtype)
    return module.DataFrame({name: module.Series(values).cast(kind) for name, values in columns.items()})


def check(counts: LabelCounts, names: list[str]) -> None:
    assert counts.names == names
    assert counts.positives.tolist() == POSITIVES[: len(names)]
    assert counts.negatives.tolist() == NEGATIVES[: len(names)]
    assert counts.positives.dtype == np.int64
    assert counts.rows == 4


@pytest.mark.parametrize(("library", "dtype"), CASES)
@pytest.mark.parametrize("chunk", [1 << 20, 2])
def test_names_and_missing_values(library: str, dtype: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_CHUNK", chunk)
    given = frame(library, dtype)
    check(count_labels(given), ["cat", "dog"])
    check(count_labels(given["cat"]), ["cat"])
    weighted = count_labels(given, sample_weight=np.array([1.0, 2.0, 4.0, 8.0]))
    assert (weighted.positives.tolist(), weighted.negatives.tolist()) == ([9.0, 4.0], [2.0, 3.0])
    other_order = given[["dog", "cat"]]
    both = count_labels([given, other_order])
    assert (both.names, both.positives.tolist(), both.rows) == (["cat", "dog"], [4, 2], 8)
    assert count_labels(given, names=["dog", "cat"]).positives.tolist() == POSITIVES[::-1]
    counts = LabelCounts([0, 0], [0, 0], ["dog", "cat"])
    counts.update(other_order)
    assert counts.positives.tolist() == POSITIVES[::-1]


@pytest.mark.parametrize("library", DTYPES)
def test_plain_columns(library: str) -> None:
    module = pytest.importorskip(library)
    y = np.array([[1, 0], [1, 1]])
    for dtype in (bool, np.int8, np.float32):
        given = module.DataFrame({"a": y[:, 0].astype(dtype), "b": y[:, 1].astype(dtype)})
        assert count_labels(given).positives.tolist() == [2, 1]
        assert count_labels(given, ignore_index=0).negatives.tolist() == [0, 0]
    mixed = module.DataFrame({"a": [True, False], "b": [0.5, 0.25]})
    assert count_labels(mixed).positives.tolist() == [1.0, 0.75]


def test_columns_and_rows_of_any_index() -> None:
    pandas = pytest.importorskip("pandas")
    numbered = pandas.DataFrame([[1, 0], [1, 1]], index=[7.5, 0.5])
    assert count_labels(numbered).names == ["0", "1"]
    twice = pandas.DataFrame([[1, 0], [1, None]], columns=["a", "a"])
    assert count_labels(twice).names == ["a", "a"]
    assert count_labels(pandas.Series([1, 0])).names == ["0"]
    assert count_labels(numbered.iloc[:0]).positives.tolist() == [0, 0]


@pytest.mark.parametrize("library", DTYPES)
def test_what_holds_no_numbers_is_named(library: str) -> None:
    module = pytest.importorskip(library)
    with pytest.raises(TypeError, match="labels: column 'b' cannot be read as numbers"):
        count_labels(module.DataFrame({"a": [1, 0], "b": ["x", "y"]}))
    with pytest.raises(ValueError, match=r"labels: 2.* in row 1, column 1 \(b\); expected 0 to 1, or NaN"):
        count_labels(module.DataFrame({"a": [1, 0], "b": [0, 2]}))


def test_neither_library_is_imported() -> None:
    source = importlib.import_module("binxent.frames").__file__
    assert source is not None
    with open(source) as file:
        text = file.read()
    assert "import pandas" not in text
    assert "import polars" not in text

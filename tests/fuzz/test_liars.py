"""Objects that are not what they say: each is refused in an error's words, or read as what it is, and nothing dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binxent import IndexTargets
from binxent import numpy as face
from binxent.files import TableError, open_table
from binxent.labels import count_labels
from binxent.report import Report

X = np.linspace(-2, 2, 12).reshape(3, 4)
Y = (X > 0).astype(np.float64)


class Interface:
    """It offers memory by NumPy's protocol, and nothing but that."""

    def __init__(self, **lies: Any) -> None:
        self.array = Y.copy()
        self.__array_interface__ = {**self.array.__array_interface__, **lies}


class Array:
    """NumPy asks it for an array, and gets something else."""

    def __init__(self, given: Callable[[], Any]) -> None:
        self.given = given

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.given()


class Capsule:
    """It offers DLPack, and hands out what is no capsule."""

    def __init__(self, given: Any, device: Any = (1, 0)) -> None:
        self.given, self.device = given, device

    def __dlpack__(self, **options: Any) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given

    def __dlpack_device__(self) -> Any:
        return self.device


class Growing(list[Any]):
    """It is longer each time that it is asked."""

    asked = 0

    def __len__(self) -> int:
        self.asked += 1
        return super().__len__() + self.asked


class Shrinking(Growing):
    def __len__(self) -> int:
        return max(0, 2 * list.__len__(self) - super().__len__())


class Shaped:
    """It has the attributes of an array, and no memory."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update({"shape": (3, 4), "dtype": np.dtype(np.float64), "ndim": 2, "size": 12, **attributes})


def endless() -> Iterator[Any]:
    raise RuntimeError("the iterator has failed")
    yield


LIARS: dict[str, Callable[[], Any]] = {
    "a type that does not exist": lambda: Interface(typestr="<f3"),
    "a type of objects": lambda: Interface(typestr="|O"),
    "a shape of words": lambda: Interface(shape=("three", 4)),
    "a negative shape": lambda: Interface(shape=(-3, 4)),
    "a shape beyond any memory": lambda: Interface(shape=(2**62, 2**62)),
    "strides for another shape": lambda: Interface(strides=(8,)),
    "another version": lambda: Interface(version=2),
    "no address": lambda: Interface(data=None),
    "an array that is a word": lambda: Array(lambda: "no array"),
    "an array that is itself": lambda: Array(lambda: Array(lambda: None)),
    "an array that fails": lambda: Array(lambda: 1 // 0),
    "a capsule that is a number": lambda: Capsule(7),
    "a capsule that fails": lambda: Capsule(BufferError("not today")),
    "another device": lambda: Capsule(None, (2, 0)),
    "a device that is a word": lambda: Capsule(None, "cpu"),
    "a list that grows": lambda: Growing(Y.tolist()),
    "a list that shrinks": lambda: Shrinking(Y.tolist()),
    "attributes without memory": lambda: Shaped(),
    "a shape that is a number": lambda: Shaped(shape=7),
}
NOT_READ = (
    TypeError,
    ValueError,
    ZeroDivisionError,
    AttributeError,
)  # what an object's own code raises stays what it is


@pytest.mark.parametrize("liar", LIARS)
@pytest.mark.parametrize("argument", ["input", "target", "weight", "pos_weight", "mask", "out"])
def test_the_loss_reads_arrays_alone(argument: str, liar: str) -> None:
    arguments: dict[str, Any] = {"input": X, "target": Y, argument: LIARS[liar]()}
    with pytest.raises((TypeError, ValueError), match=rf"^{argument}: "):
        face.value_and_grad(**arguments)


def as_it_is(value: Any) -> Any:
    try:
        return np.array(value, dtype=np.float64)
    except NOT_READ:
        return None


@pytest.mark.parametrize("liar", LIARS)
def test_counts_are_those_of_what_was_read(liar: str) -> None:
    try:
        counts = count_labels(LIARS[liar]())
    except NOT_READ:
        return
    read = as_it_is(LIARS[liar]())
    np.testing.assert_array_equal(counts.positives, (read == 1).sum(axis=0))


@pytest.mark.parametrize("liar", LIARS)
@pytest.mark.parametrize("argument", ["predictions", "labels", "weight"])
def test_a_report_counts_what_was_read_or_nothing(argument: str, liar: str) -> None:
    report = Report(4)
    arguments: dict[str, Any] = {"predictions": X, "labels": Y, argument: LIARS[liar]()}
    try:
        report.update(**arguments)
    except NOT_READ:
        assert report.rows == 0
        return
    assert report.scores().known.tolist() == [3] * 4


INDICES: dict[str, Callable[[], Any]] = {
    "a list that grows": lambda: IndexTargets.from_lists(Growing([Growing([0, 1]), [2], []])),
    "a list that shrinks": lambda: IndexTargets.from_lists(Shrinking([Shrinking([0, 1]), [2], []])),
    "rows that fail": lambda: IndexTargets.from_lists([[0], endless(), []]),
    "offsets beyond the indices": lambda: IndexTargets(np.arange(3), offsets=np.array([0, 1, 2, 2**40])),
    "offsets that go back": lambda: IndexTargets(np.arange(3), offsets=np.array([0, 2, 1, 3])),
    "negative offsets": lambda: IndexTargets(np.arange(3), offsets=np.array([0, -1, 2, 3])),
    "attributes without memory": lambda: IndexTargets(Shaped(dtype=np.dtype(np.int64), shape=(3, 2))),
    "more rows than indices": lambda: IndexTargets(np.arange(3), offsets=np.arange(99)),
}


@pytest.mark.parametrize("liar", INDICES)
def test_sparse_targets_are_refused_or_read(liar: str) -> None:
    try:
        target = INDICES[liar]()
        loss, gradient = face.value_and_grad(X, target)
    except (TypeError, ValueError, RuntimeError):
        return
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


class Matrix:
    """It says that it is a sparse matrix in CSR format."""

    format, nnz, shape = "csr", 3, (3, 4)

    def __init__(self, indptr: Any, indices: Any, data: Any) -> None:
        self.indptr, self.indices, self.data = indptr, indices, data

    def tocsr(self) -> Matrix:
        return self


@pytest.mark.parametrize(
    "parts",
    [
        (np.array([0, 1, 2, 3]), np.array([0, 1, 99]), np.ones(3)),
        (np.array([0, 1, 2, 2**62]), np.array([0, 1, 2]), np.ones(3)),
        (np.array([0, 1, 2, 3]), np.array([0, 1, -5]), np.ones(3)),
        (np.array([0, 3]), np.array([0, 1, 2]), np.ones(3)),
        (np.array([0, 1, 2, 3]), np.array([0, 1, 2]), np.ones(1)),
        (np.array([0, 3, 3, 3]), np.array([2, 1, 0]), np.ones(1)),
        (np.array([0, 1, 2, 3]), np.array([0, 1, 2]), np.array(["a"] * 3)),
        (None, None, None),
    ],
    ids=[
        "label",
        "offset",
        "negative",
        "few offsets",
        "few values",
        "few values, unsorted",
        "words",
        "nothing",
    ],
)
def test_a_matrix_that_is_none_is_refused(parts: tuple[Any, Any, Any]) -> None:
    with pytest.raises((TypeError, ValueError, IndexError)):
        face.value_and_grad(X, Matrix(*parts))


@pytest.mark.parametrize("left", [0, 100, 4096, 40_000])
def test_a_file_that_shrinks_while_it_is_read_is_refused(left: int, tmp_path: Path) -> None:
    """Memory of a file that is no more would end the process."""
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((10_000, 4)))
    with open_table(str(path)) as table:
        parts = list(table.parts(1000))
        parts[0]()
        with path.open("r+b") as file:
            file.truncate(left)
        with pytest.raises(TableError, match=r"x\.npy: "):
            parts[-1]()

"""IndexTargets: what they take, what they refuse, and how lists become them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import binxent
from binxent import IndexTargets, sparse
from binxent.numpy import binary_cross_entropy_with_logits
from binxent.options import RefusalError
from binxent.targets import SparseRows
from tests.reference import bits

Array = np.ndarray[Any, Any]


def same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())


# What is made


def test_a_repr_shows_what_they_are() -> None:
    assert repr(IndexTargets([[1, 2]], padding=2)) == "IndexTargets(indices=int64[1, 2], padding=2)"
    small = np.zeros(3, np.int32)
    assert repr(IndexTargets(small, offsets=[0], num_labels=7)) == (
        "IndexTargets(indices=int32[3], offsets=int64[1], num_labels=7)"
    )


def test_arrays_are_kept_as_they_are() -> None:
    indices = np.array([[1, 2]], np.int16)
    assert IndexTargets(indices).indices is indices


def test_they_are_offered_by_the_package_itself() -> None:
    assert binxent.IndexTargets is IndexTargets


def test_they_can_be_pickled() -> None:
    targets = pickle.loads(pickle.dumps(IndexTargets([3, 1], offsets=[0, 1], num_labels=5)))
    assert repr(targets) == "IndexTargets(indices=int64[2], offsets=int64[2], num_labels=5)"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([1, 2],), ValueError, "offsets="),
        (([[[1]]],), ValueError, r"\[N, K\]"),
        (([[1, 2], [3]],), ValueError, "from_lists"),
        (([[1.0]],), TypeError, "float64"),
        (([[True]],), TypeError, "bool"),
        ((3,), TypeError, "int"),
        (("abc",), TypeError, "str"),
    ],
)
def test_what_is_no_list_of_indices_is_refused(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        IndexTargets(*arguments)


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"offsets": [0]}, ValueError, "because there are offsets"),
        ({"padding": 0.5}, TypeError, "padding"),
        ({"padding": True}, TypeError, "padding"),
        ({"num_labels": "5"}, TypeError, "num_labels"),
    ],
)
def test_options_that_do_not_fit_are_refused(keywords: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        IndexTargets([[1, 2]], **keywords)


def test_numpys_arrays_cannot_be_moved() -> None:
    for method in ("to", "pin_memory"):
        with pytest.raises(TypeError, match=f"ndarray has no {method}"):
            getattr(IndexTargets([[1]]), method)()


def test_arrays_that_can_be_moved_are() -> None:
    class Movable:
        dtype, shape = "int64", (2,)

        def to(self, device: str, copy: bool = False) -> Any:
            moved = Movable()
            moved.where = (device, copy)
            return moved

    targets = IndexTargets(Movable(), offsets=Movable(), padding=-1, num_labels=3).to("there", copy=True)
    assert targets.indices.where == targets.offsets.where == ("there", True)
    assert (targets.padding, targets.num_labels) == (-1, 3)


# Of lists of other kinds


def test_lists_of_any_lengths() -> None:
    targets = IndexTargets.from_lists(([7, 3], (), np.array([5])), num_labels=8)
    assert same(targets.indices, np.array([7, 3, 5]))
    assert same(targets.offsets, np.array([0, 2, 2, 3]))
    assert same(sparse.dense(sparse.rows(targets, (3, 8))).nonzero()[1], np.array([3, 7, 5]))
    assert same(IndexTargets.from_lists([]).offsets, np.zeros(1, np.int64))
    with pytest.raises(TypeError, match="row 1"):
        IndexTargets.from_lists([[1], [0.5]])


def test_csr_of_scipy() -> None:
    scipy = pytest.importorskip("scipy.sparse")
    wanted = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]])
    for kind in (scipy.csr_matrix, scipy.csr_array):
        matrix = kind(wanted.astype(np.float32))
        targets = IndexTargets.from_csr(matrix)
        assert targets.num_labels == 3
        assert same(sparse.dense(sparse.rows(targets, (3, 3))), wanted.astype(bool))
    matrix.data[1] = 0  # stored, and no positive
    assert IndexTargets.from_csr(matrix).indices.tolist() == [1, 0]
    assert IndexTargets.from_csr(matrix).offsets.tolist() == [0, 1, 1, 2]
    matrix.data[1] = 0.5
    with pytest.raises(ValueError, match="other values"):
        IndexTargets.from_csr(matrix)
    with pytest.raises(ValueError, match=r"tocsr"):
        IndexTargets.from_csr(matrix.tocsc())


def test_columns_of_arrow() -> None:
    arrow = pytest.importorskip("pyarrow")
    lists = [[7, 3], [], [5], [1, 2]]
    for kind in (arrow.list_(arrow.int32()), arrow.large_list(arrow.int64())):
        column = arrow.array(lists, kind)
        for given, wanted in (
            (column, lists),
            (column[1:3], lists[1:3]),
            (arrow.chunked_array([column[2:], column[:1]]), [*lists[2:], lists[0]]),
            (arrow.chunked_array([column]), lists),
            (column[:0], []),
        ):
            targets = IndexTargets.from_arrow(given)
            assert targets.indices.tolist() == [label for row in wanted for label in row]
            assert np.diff(targets.offsets).tolist() == [len(row) for row in wanted]
            assert targets.offsets[0] == 0
    fixed = IndexTargets.from_arrow(arrow.array([[1, 2], [3, 4]], arrow.list_(arrow.int64(), 2)))
    assert (fixed.indices.tolist(), fixed.offsets.tolist()) == ([1, 2, 3, 4], [0, 2, 4])
    for wrong in ([[1], None], [[None]], [[0.5]], [1, 2]):
        with pytest.raises(ValueError, match="column"):
            IndexTargets.from_arrow(arrow.array(wrong))


# As rows


def rows_of(targets: Any, columns: int, rows: int = 2, ignore_index: Any = None) -> SparseRows:
    return sparse.rows(targets, (rows, columns), ignore_index)


def test_rows_that_are_in_order_are_not_copied() -> None:
    indices = np.array([1, 2, 0])
    found = rows_of(IndexTargets(indices, offsets=np.array([0, 2, 3])), 3)
    assert np.shares_memory(found.indices, indices)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8, np.uint16])
@pytest.mark.parametrize("offsets", [[0, 4], [0, 4, 5]])
def test_rows_are_sorted_sets(dtype: Any, offsets: list[int]) -> None:
    found = rows_of(IndexTargets(np.array([9, 3, 9, 0, 5], dtype), offsets=offsets), 10)
    assert found.offsets.tolist() == [0, 3, 4]
    assert found.indices.tolist() == [0, 3, 9, 5]
    assert found.values is None


def test_padding_may_stand_anywhere() -> None:
    found = rows_of(IndexTargets([[100, 3, 1], [100, 100, 100]], padding=100), 10)
    assert found.indices.tolist() == [1, 3]
    assert found.offsets.tolist() == [0, 2, 2]


def test_padding_may_be_a_label_that_then_is_none() -> None:
    assert rows_of(IndexTargets([[0, 1], [0, 0]], padding=0), 10).indices.tolist() == [1]


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (IndexTargets([[0, 1], [2, 10]]), "row 1 has label 10; expected 0 to 9"),
        (IndexTargets([[0, 1], [-1, 2]]), "row 1 has label -1; .*padding="),
        (IndexTargets([[0, 1], [-2, 2]], padding=-1), "row 1 has label -2; expected 0 to 9$"),
        (IndexTargets([[0, 1]]), r"1 rows, but the input's shape is \(2, 10\)"),
        (IndexTargets([0, 1], offsets=[0]), "1 offsets"),
        (IndexTargets([0, 1], offsets=[0, 1, 2, 2]), "4 offsets"),
        (IndexTargets([0, 1], offsets=[0, 3]), "offsets: row"),
        (IndexTargets([0, 1], offsets=[1, 2]), "offsets: row 0 has 1"),
        (IndexTargets([0, 1], offsets=[0, 2, 1]), "offsets: row 1 has 1"),
        (IndexTargets([0, 1], offsets=[0, 1, 1]), "offsets: row 2 has 1"),
        (IndexTargets([0, 1], offsets=[0, -1, 2]), "offsets: row 0 has -1"),
        (IndexTargets([[0], [1]], num_labels=11), "num_labels=11"),
    ],
)
def test_what_does_not_fit_the_input_is_refused(targets: IndexTargets, words: str) -> None:
    with pytest.raises(RefusalError, match=words) as refusal:
        rows_of(targets, 10)
    assert refusal.value.argument == "target"


def test_ignore_index_is_refused() -> None:
    with pytest.raises(RefusalError, match="padding="):
        rows_of(IndexTargets([[0], [1]]), 3, ignore_index=-100)


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4), ()])
def test_an_input_of_other_than_two_axes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RefusalError, match=r"expected \[N, C\]"):
        sparse.rows(IndexTargets([[0], [1]]), shape)


@pytest.mark.parametrize("kind", ["coo", "csc", "bsr", "lil", "dok", "dia"])
def test_other_formats_of_scipy_are_refused(kind: str) -> None:
    scipy = pytest.importorskip("scipy.sparse")
    with pytest.raises(RefusalError, match=r"\.tocsr\(\)"):
        rows_of(scipy.csr_matrix(np.eye(2)).asformat(kind), 2)


def test_doubles_in_csr_are_refused() -> None:
    scipy = pytest.importorskip("scipy.sparse")
    for columns in ([0, 2, 2], [2, 0, 2]):
        matrix = scipy.csr_matrix((np.ones(3), columns, [0, 0, 3]), shape=(2, 3))
        with pytest.raises(RefusalError, match=r"row 1 stores label 2 twice.*\.sum_duplicates\(\)"):
            rows_of(matrix, 3)
    with pytest.raises(RefusalError, match="shape"):
        rows_of(scipy.csr_matrix(np.eye(3)), 4, 3)


def test_unsorted_csr_keeps_each_value_at_its_label() -> None:
    scipy = pytest.importorskip("scipy.sparse")
    matrix = scipy.csr_matrix((np.array([0.25, 0.5, 1.0]), [2, 0, 1], [0, 2, 3]), shape=(2, 3))
    found = rows_of(matrix, 3)
    assert (found.indices.tolist(), found.values.tolist()) == ([0, 2, 1], [0.5, 0.25, 1.0])


def test_a_window_has_the_columns_in_it() -> None:
    found = rows_of(IndexTargets([[0, 4, 7], [3, 4, 9]]), 10)
    whole = sparse.dense(found)
    for start in range(11):
        for stop in range(start, 11):
            seen = found.window(start, stop)
            assert same(sparse.dense(seen), whole[:, start:stop])
            assert same(sparse.dense(seen.window(0, stop - start)), whole[:, start:stop])
    assert same(sparse.dense(found.part(1, 2).window(3, 5)), whole[1:, 3:5])


def test_a_loss_of_index_targets_is_that_of_the_positives() -> None:
    x = np.linspace(-3, 3, 20, dtype=np.float32).reshape(2, 10)
    y = np.zeros_like(x)
    y[[0, 0, 1], [3, 7, 1]] = 1
    got = binary_cross_entropy_with_logits(x, IndexTargets([[3, 7], [1, -1]], padding=-1, num_labels=10))
    assert bits(got) == bits(binary_cross_entropy_with_logits(x, y))

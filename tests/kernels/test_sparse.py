"""Sparse targets, asked of every kernel: the bits of the dense target, in any window of its columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from binxent import IndexTargets, sparse
from binxent.call import Operands, plan
from binxent.formula import LOGITS, PROBABILITIES
from binxent.kernels import Outputs
from binxent.targets import SparseRows
from tests.kernels.rows import ALL, ROWS, Array, Results, Row, compute
from tests.kernels.test_contract import assert_same
from tests.reference import DTYPES

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy warns of inf and NaN

kernels = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def some(rows: int, columns: int, positives: int, dtype: str = "float32") -> tuple[Array, SparseRows, Array]:
    """Logits; labels of which a third is padding; and the dense target."""
    rng = np.random.default_rng(rows + columns)
    indices = np.where(rng.random((rows, positives)) < 0.3, -1, rng.integers(0, columns, (rows, positives)))
    found = sparse.rows(IndexTargets(indices, padding=-1), (rows, columns))
    x = rng.normal(0, 5, (rows, columns)).astype(DTYPES[dtype])
    return x, found, sparse.dense(found).astype(DTYPES[dtype])


def computed(row: Row, x: Array, found: SparseRows, *, loss: Any = LOGITS, **options: Any) -> Results:
    """What the kernel writes of sparse rows, whose arrays lie on its device."""
    dtype = "bool" if found.values is None else found.values.dtype.name
    call = plan(loss, "mean", (x.dtype.name, dtype), x.shape, x.shape, **options)
    offsets, indices, values = (None if part is None else row.put(part) for part in found[:3])
    operands = Operands(row.put(x), found._replace(offsets=offsets, indices=indices, values=values))
    assert row.kernel.reads(operands)
    result = DTYPES[call.dtype]
    made = Outputs(*map(row.put, (np.full(x.shape, 77, result), np.full((), 77, result), np.full_like(x, 77))))
    assert row.kernel.compute(call, operands, made) == 0 or loss is PROBABILITIES
    return Results(*map(row.get, made[: len(ALL)]))


# Fewer columns than threads, one more and one less than a block, several blocks; one label; many positives
SHAPES = [(1, 1, 1), (900, 1, 1), (700, 3, 2), (40, 100, 30), (3, 2047, 5), (2, 2048, 5), (3, 4097, 900), (4, 5000, 0)]


@kernels
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_every_shape(row: Row, shape: tuple[int, int, int], index: Any) -> None:
    x, found, dense = some(*shape)
    found = found._replace(indices=found.indices.astype(index))
    assert_same(computed(row, x, found), compute(row, x, dense))


@kernels
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(row: Row, dtype: str) -> None:
    x, found, dense = some(3, 3000, 9, dtype)
    assert_same(computed(row, x, found), compute(row, x, dense))


@kernels
@pytest.mark.parametrize("option", [{"label_smoothing": 0.1}, {"gamma": 2.0}, {"ignore_index": 0}, {"ignore_index": 1}])
def test_options(row: Row, option: dict[str, Any]) -> None:
    x, found, dense = some(3, 3000, 9)
    assert_same(computed(row, x, found, **option), compute(row, x, dense, **option))


@kernels
def test_values_of_their_own_dtype(row: Row) -> None:
    x, found, _ = some(3, 3000, 9)
    for dtype in ("float32", "float64", "bfloat16", "int8"):
        values = (
            np.random.default_rng(1).random(len(found.indices)).round(dtype == "int8").astype(DTYPES.get(dtype, dtype))
        )
        soft = found._replace(values=values)
        assert_same(computed(row, x, soft), compute(row, x, sparse.dense(soft)))


@kernels
def test_windows(row: Row) -> None:
    x, found, dense = some(5, 9000, 40)
    for start, stop in ((0, 9000), (0, 1), (8999, 9000), (100, 4196), (4000, 4100), (1, 2050)):
        chunk = x[:, start:stop].copy()
        assert_same(computed(row, chunk, found.window(start, stop)), compute(row, chunk, dense[:, start:stop].copy()))


@kernels
@pytest.mark.parametrize("columns", [50, 5000])
def test_a_row_with_a_wrong_label_is_nan_in_every_window(row: Row, columns: int) -> None:
    offsets, indices = np.array([0, 2, 2, 4]), np.array([-1, 3, 0, 2**40])
    found = SparseRows(offsets, indices, None, (3, columns))
    dense = sparse.dense(found)
    for start in (0, 30):
        x = np.full((3, columns - start), 0.25, np.float32)
        for loss in (LOGITS, PROBABILITIES):
            got = computed(row, x, found.window(start, columns), loss=loss)
            wanted = compute(row, x, dense[:, start:].astype(np.float32), probabilities=loss is PROBABILITIES)
            for name in ("elements", "gradient"):
                one, other = getattr(got, name), getattr(wanted, name)
                assert np.isnan(one[0]).all()
                np.testing.assert_array_equal(one[1:], other[1:])
            assert np.isnan(got.total)


@kernels
def test_an_empty_array_reads_nothing(row: Row) -> None:
    for shape in ((0, 5), (3, 0)):
        found = SparseRows(np.zeros(shape[0] + 1, np.int64), np.zeros(0, np.int64), None, shape)
        assert np.isnan(computed(row, np.zeros(shape, np.float32), found).total)

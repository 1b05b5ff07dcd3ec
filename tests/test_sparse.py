"""Sparse targets in the native kernel and in the NumPy face: the bits of the dense target, whatever the options."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binxent import IndexTargets, kernel, sparse
from binxent.call import Operands, plan
from binxent.formula import LOGITS, PROBABILITIES
from binxent.kernels import Outputs, native
from binxent.numpy import BCELoss, BCEWithLogitsLoss, binary_cross_entropy, value_and_grad
from binxent.numpy.eager import described
from binxent.targets import SparseRows
from tests.layouts import LAYOUTS
from tests.reference import DTYPES, bits

Array = np.ndarray[Any, Any]


def same_bits(one: Any, other: Any) -> None:
    for a, b in zip(one, other, strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(bits(np.asarray(a)), bits(np.asarray(b)))


def draw_targets(draw: Any, rows: int, columns: int) -> tuple[Any, Array]:
    """Index targets of one of the forms, with doubles, and what they say."""
    label = st.integers(0, columns - 1) if columns else st.nothing()
    lists = draw(st.lists(st.lists(label, max_size=6), min_size=rows, max_size=rows)) if columns else [[]] * rows
    dense = np.zeros((rows, columns), np.float32)
    for row, labels in enumerate(lists):
        dense[row, labels] = 1
    dtype = draw(st.sampled_from([np.int64, np.int32]))
    form = draw(st.sampled_from(["padded", "flat", "bags"]))
    if form == "padded":
        padding = draw(st.sampled_from([-1, -100, columns]))
        width = draw(st.integers(max([len(labels) for labels in lists], default=0), 8))
        indices = np.full((rows, width), padding, dtype)
        for row, labels in enumerate(lists):
            places = draw(st.permutations(range(width)))[: len(labels)]
            indices[row, places] = labels
        return IndexTargets(indices, padding=padding), dense
    offsets = np.cumsum([0, *map(len, lists)])
    flat = np.array([label for labels in lists for label in labels], dtype)
    return IndexTargets(flat, offsets=offsets if form == "flat" else offsets[:-1]), dense


@given(st.data())
def test_index_targets_give_the_bits_of_the_dense_target(data: Any) -> None:
    draw = data.draw
    rows, columns = draw(st.integers(0, 9)), draw(st.sampled_from([0, 1, 2, 3, 7, 64, 511, 513, 1500]))
    targets, dense = draw_targets(draw, rows, columns)
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    probabilities = draw(st.booleans())
    x = rng.normal(0, 3, dense.shape)
    layout = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS if x.size else ["contiguous"])))]
    x = layout((1 / (1 + np.exp(-x)) if probabilities else x).astype(dtype))
    options: dict[str, Any] = {
        "weight": rng.lognormal(0, 1, (rows, columns)),
        "pos_weight": rng.lognormal(0, 1, columns).astype(np.float32),
        "sample_weight": rng.lognormal(0, 1, rows),
        "mask": rng.random((rows, columns)) < 0.7,
        "label_smoothing": 0.1,
        "gamma": 2.0,
        "normalizer": 3.0,
        "probabilities": probabilities,
    }
    chosen = draw(st.sets(st.sampled_from([name for name in options if name != "probabilities"]), max_size=3))
    used = {name: options[name] for name in [*chosen, "probabilities"]}
    reductions = ("mean", "batchmean", "weighted_mean") if "normalizer" in chosen else ("mean", "none", "sum")
    used["reduction"] = draw(st.sampled_from(reductions))
    same_bits(value_and_grad(x, targets, **used), value_and_grad(x, dense.astype(dtype), **used))


@given(st.data())
def test_csr_gives_the_bits_of_the_dense_target(data: Any) -> None:
    scipy = pytest.importorskip("scipy.sparse")
    draw = data.draw
    rows, columns = draw(st.integers(1, 6)), draw(st.sampled_from([1, 5, 700]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = np.dtype(draw(st.sampled_from(["float32", "float64", "int8", "uint8", "int64", "bool"])))
    dense = np.where(
        rng.random((rows, columns)) < draw(st.sampled_from([0, 0.01, 0.5, 1])), rng.random((rows, columns)), 0
    )
    dense = (dense if values.kind == "f" else np.ceil(dense)).astype(values)
    matrix = scipy.csr_array(dense)
    if draw(st.booleans()):  # unsorted
        order = np.concatenate([rng.permutation(np.arange(a, b)) for a, b in itertools.pairwise(matrix.indptr)])
        matrix = scipy.csr_array((matrix.data[order], matrix.indices[order], matrix.indptr), shape=matrix.shape)
    x = rng.normal(0, 3, dense.shape).astype(np.float32)
    ignored = [None, 0, 1] if values.kind != "f" else [None, 0, math.nan]
    used = {"ignore_index": draw(st.sampled_from(ignored)), "label_smoothing": draw(st.sampled_from([0, 0.2]))}
    used["reduction"] = draw(st.sampled_from(["mean", "none", "weighted_mean", "batchmean"]))
    same_bits(value_and_grad(x, matrix, **used), value_and_grad(x, dense, **used))


def big(rows: int = 37, columns: int = 9001, positives: int = 5) -> tuple[Array, IndexTargets, Array]:
    """Enough for several threads, whose pieces begin within a row."""
    rng = np.random.default_rng(3)
    indices = rng.integers(0, columns, (rows, positives))
    dense = np.zeros((rows, columns), np.float32)
    np.put_along_axis(dense, indices, 1, 1)
    return rng.normal(0, 3, dense.shape).astype(np.float32), IndexTargets(indices), dense


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("columns", [1, 3, 513, 9001])
def test_threads_do_not_change_the_bits(threads: int, columns: int, any_threads: None) -> None:
    x, targets, dense = big(333_037 // columns, columns)
    kernel.set_num_threads(1)
    wanted = value_and_grad(x, dense)
    kernel.set_num_threads(threads)
    same_bits(value_and_grad(x, targets), wanted)
    gradient = x.copy()
    same_bits(value_and_grad(gradient, targets, out=gradient), wanted)


def test_windows_give_the_bits_of_their_columns() -> None:
    x, targets, dense = big(11, 3001)
    found = sparse.rows(targets, x.shape)
    for start, stop in ((0, 3001), (0, 1), (3000, 3001), (700, 2222), (1, 513), (64, 64 + 2048)):
        shape = (11, stop - start)
        call = plan(LOGITS, "mean", ("float32", "bool"), shape, shape)
        chunk, given = x[:, start:stop], dense[:, start:stop]
        total, gradient = np.empty((), np.float32), np.empty(shape, np.float32)
        operands = Operands(described(chunk), described(found.window(start, stop)))
        assert native.reads(operands)
        native.compute(call, operands, Outputs(None, described(total), described(gradient)))
        same_bits((total, gradient), value_and_grad(chunk, given))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("incoming", [1, -1, 0, -0.0, 1e-30, -1e-30, 1e-44, 1e30, 1e300, math.inf, math.nan])
def test_tiles_without_labels_give_the_bits_of_zeros(dtype: str, incoming: float) -> None:
    """Logits of any size and sign, and factors that underflow or overflow, which the short way has to hold."""
    rng = np.random.default_rng(5)
    sizes = np.concatenate(
        [[0, math.inf, math.nan, 1e-30, 88.0, 103.5, 115.7, 700, 754, 3e38], rng.exponential(30, 502)]
    )
    with np.errstate(over="ignore"):
        x = (np.concatenate([sizes, -sizes])[None]).astype(DTYPES[dtype])
    call = plan(LOGITS, "sum", (dtype, "bool"), x.shape, x.shape)
    made = []
    for target in (rows_of([0, 0], [], x.shape[1]), np.zeros(x.shape, bool)):
        total, gradient = np.empty((), DTYPES[call.dtype]), np.empty_like(x)
        outputs = Outputs(None, described(total), described(gradient))
        native.compute(call, Operands(described(x), described(target)), outputs, None, float(incoming))
        made.append((total, gradient))
    same_bits(*made)


def rows_of(offsets: list[int], indices: list[int], columns: int, values: Array | None = None) -> SparseRows:
    return SparseRows(np.array(offsets), np.array(indices, np.int64), values, (len(offsets) - 1, columns))


def element_losses(found: SparseRows, loss: Any = LOGITS, **terms: Any) -> Array:
    x = np.full(found.shape, 0.25, np.float32)
    call = plan(loss, "none", ("float32", "bool"), found.shape, found.shape, **terms)
    elements = np.empty(found.shape, np.float32)
    native.compute(call, Operands(described(x), described(found)), Outputs(described(elements)))
    return elements


@pytest.mark.parametrize("loss", [LOGITS, PROBABILITIES])
def test_a_row_with_a_wrong_label_is_nan(loss: Any) -> None:
    losses = element_losses(rows_of([0, 2, 2, 4], [-1, 3, 0, 900], 800), loss)
    assert np.isnan(losses[0]).all()
    assert np.isfinite(losses[1:]).all()
    assert (losses[2] != losses[1]).nonzero()[0].tolist() == [0]


def test_rows_that_break_their_promise_write_nowhere_else() -> None:
    """Labels that are not sorted may be overlooked; nothing is written outside of a tile for them."""
    losses = element_losses(rows_of([0, 4, 4], [600, 5, 2**40, 7], 1000))
    assert np.isfinite(losses).all()
    assert (losses[1] == losses[1, 0]).all()


def test_measure_counts_what_is_absent() -> None:
    found = rows_of([0, 2, 3], [1, 5, 2], 1000, np.array([1, 0.5, 0], np.float32))
    shape, x = found.shape, np.zeros((2, 1000), np.float32)
    for ignored, wanted in ((0, 2), (1, 1999), (7, 2000)):
        call = plan(LOGITS, "mean", ("float32", "float32"), shape, shape, ignore_index=ignored)
        assert native.measure(call, Operands(described(x), described(found))) == wanted
    mask = np.arange(1000) < 3
    call = plan(LOGITS, "mean", ("float32", "float32"), shape, shape, mask=mask.shape, ignore_index=0)
    assert native.measure(call, Operands(described(x), described(found), mask=described(mask))) == 1


def test_a_soft_value_out_of_range_is_refused_for_probabilities() -> None:
    scipy = pytest.importorskip("scipy.sparse")
    soft = scipy.csr_array(np.array([[0, 0, 0], [0, 1.5, 0]], np.float32))
    q = np.full((2, 3), 0.5, np.float32)
    with pytest.raises(ValueError, match=r"target\[1, 1\] is 1\.5"):
        binary_cross_entropy(q, soft)
    q[1, 1] = 2
    with pytest.raises(ValueError, match=r"input\[1, 1\] is 2\.0"):
        binary_cross_entropy(q, IndexTargets([[0], [1]]))


def test_values_of_a_dtype_that_is_no_targets_are_refused() -> None:
    scipy = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="complex128"):
        value_and_grad(np.zeros((2, 2)), scipy.csr_array(np.eye(2, dtype=np.complex128)))


def test_the_classes_take_them() -> None:
    x, targets, dense = big(3, 50)
    same_bits([BCEWithLogitsLoss(reduction="sum")(x, targets)], [BCEWithLogitsLoss(reduction="sum")(x, dense)])
    q = 1 / (1 + np.exp(-x))
    same_bits(BCELoss().value_and_grad(q, targets, mask=dense > 0), BCELoss().value_and_grad(q, dense, mask=dense > 0))


def test_an_output_that_overlaps_the_labels_is_refused() -> None:
    memory = np.zeros(8, np.int64)
    x = np.zeros((2, 4), np.float64)
    out = memory.view(np.float64).reshape(2, 4)
    with pytest.raises(ValueError, match="overlaps an operand"):
        value_and_grad(x, IndexTargets(memory[:2].reshape(2, 1)), out=out)


def test_no_memory_of_the_inputs_size_is_taken() -> None:
    """More elements than 2³¹, all in one place of memory; the labels at the end of the last row are found."""
    rows, columns = 4100, 2**19 + 1
    x = np.broadcast_to(np.float32(1), (rows, columns))
    indices = np.full((rows, 2), -1)
    indices[-1] = [columns - 1, 0]
    tracemalloc.start()
    pos_weight = np.float32([rows * columns])  # the two positives weigh about as much as all that is negative
    loss = BCEWithLogitsLoss(pos_weight=pos_weight)
    mean = loss(x, IndexTargets(indices, padding=-1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert mean == pytest.approx(np.logaddexp(0, 1.0) + 2 * np.logaddexp(0, -1.0), rel=1e-6)

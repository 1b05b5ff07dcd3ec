"""pos_weight from data: every source counts alike, shards merge in any order; and what corrects a model trained so."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binxent import formula, labels
from binxent.correction import correct_logits, correct_probabilities
from binxent.label_counts import METHODS
from binxent.labels import LabelCounts, count_labels
from binxent.numpy import binary_cross_entropy, value_and_grad

Array = np.ndarray[Any, Any]
ROWS, LABELS = 400, 7


def data(seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.random((ROWS, LABELS)) < np.linspace(0.02, 0.9, LABELS)).astype(np.int8)


def same(a: LabelCounts, b: LabelCounts) -> None:
    np.testing.assert_array_equal(a.positives, b.positives)
    np.testing.assert_array_equal(a.negatives, b.negatives)
    assert (a.positives.dtype, a.rows, len(a.names)) == (b.positives.dtype, b.rows, len(b.names))


def expected(y: Array) -> LabelCounts:
    return LabelCounts((y == 1).sum(axis=0), (y == 0).sum(axis=0), rows=len(y))


# Sources.


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.uint16, np.int64, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray, lambda a: a[::-1][::-1]])
def test_arrays(dtype: Any, layout: Callable[[Array], Array]) -> None:
    y = data()
    same(count_labels(layout(y.astype(dtype))), expected(y))
    same(count_labels(y[:, 3].astype(dtype)), expected(y[:, 3:4]))
    assert count_labels(y.astype(dtype)).positives.dtype == np.int64


def test_any_byte_but_0_is_true() -> None:
    """A mask of 0 and 255, seen as booleans."""
    y = data() == 1
    of_255 = (y * np.uint8(255)).view(bool)
    for options in ({}, {"ignore_index": 0}, {"ignore_index": 1}, {"sample_weight": np.arange(len(y))}):
        same(count_labels(of_255, **options), count_labels(y, **options))


@pytest.mark.parametrize("chunk", [1, 10, 1 << 20])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr"])
@pytest.mark.parametrize("dtype", [bool, np.int8, np.float64])
def test_sparse_matrices(form: str, dtype: Any, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    monkeypatch.setattr(labels, "_CHUNK", chunk)
    y = data() if chunk > 1 else data()[:40]
    for kind in (sparse.csr_matrix, sparse.csr_array):
        same(count_labels(kind(y.astype(dtype)).asformat(form)), expected(y))


def test_sparse_matrices_with_zeros_duplicates_and_soft_labels() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    y = data()
    explicit = sparse.csr_matrix(np.ones_like(y))
    explicit.data[:] = y.ravel()
    same(count_labels(explicit), expected(y))
    twice = sparse.coo_matrix(([True, True], ([1, 1], [2, 2])), shape=(4, 3))
    assert count_labels(twice).positives.tolist() == [0, 0, 1]
    assert twice.nnz == 2  # the caller's matrix is as it was
    soft = sparse.csr_matrix(np.array([[0.25, 0], [0.5, 1]]))
    assert count_labels(soft).positives.tolist() == [0.75, 1]
    assert count_labels(soft).negatives.tolist() == [1.25, 1]


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_weighted_and_unknown_sparse_labels(form: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    monkeypatch.setattr(labels, "_CHUNK", chunk)
    y = data().astype(np.float64)[:60]
    y[::5, 2] = np.nan
    y[::7, 3] = -100
    w = np.random.default_rng(1).random(len(y))
    for weights in (None, w):
        got = count_labels(sparse.csr_matrix(y).asformat(form), sample_weight=weights, ignore_index=-100)
        dense = count_labels(y, sample_weight=weights, ignore_index=-100)
        np.testing.assert_allclose(got.positives, dense.positives, rtol=1e-13)
        np.testing.assert_allclose(got.negatives, dense.negatives, rtol=1e-13)


def test_a_sparse_matrix_is_not_made_dense() -> None:
    """It would take 8 TB."""
    sparse = pytest.importorskip("scipy.sparse")
    rows, columns = 10**7, 10**5
    matrix = sparse.csr_matrix(
        (np.ones(3, np.int8), np.array([5, 5, 99_999]), np.r_[np.zeros(rows - 2), 1, 2, 3].astype(np.int64)),
        shape=(rows, columns),
    )
    counts = count_labels(matrix)
    assert (counts.positives[5], counts.positives[99_999], counts.negatives[0]) == (2, 1, rows)


def test_arrow() -> None:
    arrow = pytest.importorskip("pyarrow")
    y = data()
    names = [f"label {i}" for i in range(LABELS)]
    for convert in (bool, np.int8, np.float32):
        table = arrow.table({name: y[:, i].astype(convert) for i, name in enumerate(names)})
        counts = count_labels(table)
        same(counts, expected(y))
        assert counts.names == names
        same(count_labels(arrow.concat_tables([table[:50], table[50:]])), expected(y))
        (batch,) = table.combine_chunks().to_batches()
        same(count_labels(batch), expected(y))
        same(count_labels(iter(table.to_batches(max_chunksize=33))), expected(y))
        same(count_labels(table.column(2)), expected(y[:, 2:3]))
        same(count_labels(table.column(2).chunk(0)), expected(y[:, 2:3]))


def test_nulls_of_arrow_are_unknown() -> None:
    arrow = pytest.importorskip("pyarrow")
    for kind in (arrow.bool_(), arrow.int8(), arrow.float64()):
        values = [True, None, False, None, True] if kind == arrow.bool_() else [1, None, 0, None, 1]
        counts = count_labels(arrow.table({"a": arrow.array(values, kind)}))
        assert (counts.positives.tolist(), counts.negatives.tolist(), counts.rows) == ([2], [1], 5)
    with pytest.raises(TypeError, match="column 'a'"):
        count_labels(arrow.table({"a": ["x"]}))
    with pytest.raises(ValueError, match=r"column 'a'.*2 in row 1"):
        count_labels(arrow.table({"a": [1, 2]}))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet"])
def test_files(suffix: str, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    y, path = data(), tmp_path / f"labels{suffix}"
    table = arrow.table({f"l{i}": y[:, i] for i in range(LABELS)})
    {
        ".npy": lambda: np.save(path, y),
        ".npz": lambda: np.savez_compressed(path, y=y),
        ".csv": lambda: csv.write_csv(table, path),
        ".parquet": lambda: parquet.write_table(table, path, row_group_size=30),
    }[suffix]()
    counts = count_labels(path)
    same(counts, expected(y))
    assert counts.names == [f"l{i}" if suffix in (".csv", ".parquet") else str(i) for i in range(LABELS)]


def test_batches() -> None:
    y = data()
    same(count_labels(y[i : i + 60] for i in range(0, ROWS, 60)), expected(y))
    same(count_labels([y[:10], y[10:]]), expected(y))
    same(count_labels(y.tolist()), expected(y))
    with pytest.raises(ValueError, match="no batch"):
        count_labels(iter([]))
    with pytest.raises(ValueError, match="a batch has 3 labels"):
        count_labels([y, y[:, :3]])


def test_a_memory_map_larger_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    y = data()
    np.save(tmp_path / "y.npy", y)
    monkeypatch.setattr(labels, "_CHUNK", 50)
    same(count_labels(np.load(tmp_path / "y.npy", mmap_mode="r")), expected(y))


class Exchanged:
    """A tensor that has DLPack and nothing else."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def test_a_tensor_by_dlpack() -> None:
    y = data()
    same(count_labels(Exchanged(y)), expected(y))
    with pytest.raises(TypeError, match="expected real numbers"):
        count_labels(object())


@pytest.mark.parametrize("framework", ["torch", "jax", "paddle", "mindspore"])
def test_tensors(framework: str) -> None:
    module = pytest.importorskip(framework)
    y = data()
    make: dict[str, Callable[[Array], Any]] = {
        "torch": lambda a: module.tensor(a),
        "jax": lambda a: module.numpy.asarray(a),
        "paddle": lambda a: module.to_tensor(a),
        "mindspore": lambda a: module.Tensor(a),
    }
    for dtype in (np.int8, np.float32, bool):
        same(count_labels(make[framework](y.astype(dtype))), expected(y))
    same(count_labels(make[framework](part) for part in np.array_split(y, 3)), expected(y))


# What is not known, what is soft, what is refused.


def test_unknown_labels() -> None:
    y = data().astype(np.float32)
    y[::3, 1] = np.nan
    got = count_labels(y)
    np.testing.assert_array_equal(got.positives, (y == 1).sum(axis=0))
    np.testing.assert_array_equal(got.negatives, (y == 0).sum(axis=0))
    whole = np.where(np.isnan(y), -100, y).astype(np.int16)
    same(count_labels(whole, ignore_index=-100), got)


def test_soft_labels_count_in_parts() -> None:
    y = np.random.default_rng(0).random((50, 3))
    y[4, 1] = np.nan
    w = np.random.default_rng(1).random(50)
    counts = count_labels(y, sample_weight=w)
    there = ~np.isnan(y)
    np.testing.assert_allclose(counts.positives, (w[:, None] * np.where(there, y, 0)).sum(axis=0), rtol=1e-13)
    np.testing.assert_allclose(counts.negatives, (w[:, None] * np.where(there, 1 - y, 0)).sum(axis=0), rtol=1e-13)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (np.array([[0, 1], [2, 0]]), "2 in row 1, column 0"),
        (np.array([[0.0, -0.5]]), "-0.5 in row 0, column 1"),
        (np.array([[np.nan, np.inf]]), "inf in row 0, column 1"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.array(1.0), "shape"),
    ],
)
def test_labels_that_are_none(given_: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count_labels(given_)


@pytest.mark.parametrize("argument", ["labels", "sample_weight"])
def test_masked_arrays_are_refused(argument: str) -> None:
    given_ = {"labels": np.array([[0, 1], [1, 0]]), "sample_weight": np.ones(2)}
    given_[argument] = np.ma.masked_array(given_[argument], mask=True)
    with pytest.raises(TypeError, match=rf"^{argument}: the mask of a numpy\.ma\.MaskedArray would be ignored"):
        count_labels(given_.pop("labels"), **given_)


def test_a_sparse_entry_out_of_range_is_named() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    y = np.zeros((5, 4))
    y[3, 2] = 7
    for layout in ("csr", "csc", "coo"):
        with pytest.raises(ValueError, match=r"7.0 in row 3, column 2"):
            count_labels(sparse.csr_matrix(y).asformat(layout))
    with pytest.raises(ValueError, match="ignore_index: 0"):
        count_labels(sparse.csr_matrix(y), ignore_index=0)


def test_sample_weights_that_are_none() -> None:
    for w in (np.ones(3), -np.ones(ROWS), np.full(ROWS, np.nan)):
        with pytest.raises(ValueError, match="sample_weight"):
            count_labels(data(), sample_weight=w)
    with pytest.raises(ValueError, match="sample_weight"):
        count_labels([data()], sample_weight=np.ones(ROWS))


# Merging.


@given(st.permutations(range(6)), st.integers(0, 5))
def test_shards_merge_in_any_order(order: list[int], cut: int) -> None:
    y = data()
    shards = [count_labels(part) for part in np.array_split(y, 6)]
    halves = []
    for part in (order[:cut], order[cut:]):
        half = LabelCounts(np.zeros(LABELS, np.int64), np.zeros(LABELS, np.int64))
        for i in part:
            half.merge(shards[i])
        halves.append(LabelCounts.from_json(half.to_json()))
    halves[0].merge(halves[1])
    same(halves[0], expected(y))


def test_update_and_json() -> None:
    y = data()
    counts = count_labels(y[:100], names=list("abcdefg"))
    counts.update(y[100:])
    same(counts, expected(y))
    copy = LabelCounts.from_json(counts.to_json())
    same(copy, counts)
    assert copy.names == list("abcdefg")
    assert json.loads(counts.to_json())["rows"] == ROWS
    big = LabelCounts([2**60 + 1], [3])  # more than a float holds
    assert LabelCounts.from_json(big.to_json()).positives[0] == 2**60 + 1
    with pytest.raises(ValueError, match="labels differ"):
        counts.merge(count_labels(y))


# pos_weight.


def test_methods() -> None:
    counts = LabelCounts([10, 500, 1], [990, 500, 10**6])
    ratio = counts.negatives / counts.positives
    assert counts.pos_weight().dtype == np.float32
    np.testing.assert_allclose(counts.pos_weight(dtype=float), ratio)
    np.testing.assert_allclose(counts.pos_weight("sqrt", dtype=float), np.sqrt(ratio))
    for beta in (0.5, 0.9, 0.999, 0.9999):
        effective = (1 - beta ** counts.negatives.astype(float)) / (1 - beta ** counts.positives.astype(float))
        np.testing.assert_allclose(counts.pos_weight("effective", beta=beta, dtype=float), effective, rtol=1e-11)
    np.testing.assert_array_equal(counts.pos_weight("effective", beta=0), 1)
    np.testing.assert_allclose(counts.pos_weight("effective", beta=1 - 1e-12, dtype=float), ratio, rtol=1e-5)
    np.testing.assert_allclose(counts.pos_weight(clip=(2, 100)), [99, 2, 100])
    np.testing.assert_array_equal(counts.pos_weight(clip=(0, 2)), [2, 1, 2])
    np.testing.assert_array_equal(counts.pos_weight(clip=(0, 0)), 0)


def test_labels_without_positives_are_named() -> None:
    counts = LabelCounts([0, 5, 0], [9, 4, 9], ["cat", "dog", "emu"])
    with pytest.raises(ValueError, match="2 of 3 labels have no positives: 'cat', 'emu'"):
        counts.pos_weight()
    for method, clip in itertools.product(METHODS, (None, (2.0, 3.0))):
        weight = counts.pos_weight(method, without_positives=1, clip=clip)
        assert weight[[0, 2]].tolist() == [1, 1]
    many = LabelCounts(np.zeros(100, int), np.ones(100, int))
    with pytest.raises(ValueError, match="and 95 more"):
        many.pos_weight()


def test_labels_without_negatives_have_0() -> None:
    for method in METHODS:
        assert LabelCounts([5], [0]).pos_weight(method).tolist() == [0]


@pytest.mark.parametrize(
    "options",
    [{"method": "log"}, {"beta": 1.0}, {"beta": -0.1}, {"clip": (3, 2)}, {"clip": (-1, 2)}, {"without_positives": -1}],
    ids=str,
)
def test_arguments_out_of_range(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}:"):
        LabelCounts([1], [1]).pos_weight(**options)


def test_counts_that_are_none() -> None:
    with pytest.raises(ValueError, match="positives of shape"):
        LabelCounts([1, 2], [1])
    with pytest.raises(ValueError, match="names: 1"):
        LabelCounts([1, 2], [1, 2], ["a"])


# The correction.


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("p", [0.2, 1.0, 9.0, 500.0])
def test_the_optimum_of_the_weighted_loss_corrects_to_the_base_rate(rate: float, p: float) -> None:
    """The loss is minimised by Newton's method on its own gradient: nothing is assumed of where the optimum lies."""
    positives = round(1000 * rate)
    y = (np.arange(1000) < positives).astype(np.float64)
    x = 0.0
    for _ in range(200):
        gradient = value_and_grad(np.full(1000, x), y, pos_weight=np.array(p))[1].sum()
        curvature = formula.logits_curvature(np, np.full(1000, x), y, pos_weight=np.array(p)).mean()
        x -= float(np.clip(gradient / curvature, -1, 1))
    assert abs(gradient) < 1e-12
    corrected = correct_logits(np.array([x]), p)
    np.testing.assert_allclose(1 / (1 + np.exp(-corrected)), positives / 1000, rtol=1e-9)
    q = correct_probabilities(1 / (1 + np.exp(-np.array([x]))), p)
    np.testing.assert_allclose(q, positives / 1000, rtol=1e-9)


def test_balanced_training_is_undone() -> None:
    """Per label, with the weights that the data gave."""
    y = data()
    weight = count_labels(y).pos_weight(dtype=float)
    rate = y.mean(axis=0)
    trained = np.log(weight * rate / (1 - rate))  # the optimum of the test before; 0, since they balance
    np.testing.assert_allclose(trained, 0, atol=1e-12)
    np.testing.assert_allclose(1 / (1 + np.exp(-correct_logits(trained, weight))), rate, rtol=1e-12)
    calibrated = correct_probabilities(np.full((2, LABELS), 0.5), weight)
    np.testing.assert_allclose(calibrated, np.broadcast_to(rate, (2, LABELS)), rtol=1e-12)
    # Calibrated probabilities are the best constant prediction without weights.
    better = binary_cross_entropy(np.broadcast_to(rate, y.shape).copy(), y)
    assert better < binary_cross_entropy(np.full(y.shape, 0.5), y)


@given(st.floats(-80, 80), st.floats(1e-6, 1e6))
def test_both_corrections_agree(x: float, p: float) -> None:
    logit = correct_logits(np.array([x]), p)
    q = np.exp(-np.logaddexp(0, -x))
    expected_q = np.exp(-np.logaddexp(0, -logit))
    np.testing.assert_allclose(correct_probabilities(np.array([q]), p), expected_q, rtol=1e-9, atol=1e-300)


def test_corrections_keep_dtype_and_ends() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        assert correct_logits(np.zeros((2, 3), dtype), np.ones(3)).dtype == dtype
        ends = correct_probabilities(np.array([0, 1], dtype), 7.0)
        assert ends.dtype == dtype
        assert ends.tolist() == [0, 1]
    assert correct_logits(np.array([1, 0]), 1.0).dtype == np.float64
    assert correct_logits(np.zeros(1), 0.0).tolist() == [np.inf]


def test_corrections_refuse() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        correct_logits(np.zeros(2), -1.0)
    with pytest.raises(ValueError, match="does not broadcast"):
        correct_logits(np.zeros(3), np.ones((2, 3)))
    with pytest.raises(ValueError, match="correct_logits"):
        correct_probabilities(np.array([1.5]), 1.0)


def test_the_correction_keeps_a_tensor_in_any_array_library() -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor([1.0, 0.0], requires_grad=True)
    out = formula.unweighted_logits(torch, x, torch.tensor([1.0, 3.0]))
    np.testing.assert_allclose(out.detach().numpy(), correct_logits(x, [1.0, 3.0]), rtol=1e-6)
    out.sum().backward()
    assert x.grad.tolist() == [1, 1]

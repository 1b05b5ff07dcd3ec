"""The linear head on NumPy arrays: equal to the definition on all logits, in chunks, with memory for one of them."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binxent import IndexTargets
from binxent import numpy as face
from binxent.numpy import LinearBCEOptions, linear_value_and_grad
from binxent.numpy import linear_binary_cross_entropy_with_logits as head
from tests.linear_heads import BIASES, GRADIENTS, OPTIONS, REDUCTIONS, Case, Csr, case, expected, lists, sizes

EACH_LABEL = LinearBCEOptions(max_chunk_bytes=1)
TOLERANCE = {"float64": 1e-13, "float32": 2e-6, "bfloat16": 8e-3, "float16": 1e-3}


def cast(given: Case, dtype: Any) -> Case:
    made_of = {name: getattr(given, name) for name in GRADIENTS if getattr(given, name) is not None}
    return Case(**{**vars(given), **{name: np.asarray(array).astype(dtype) for name, array in made_of.items()}})


def assert_near(found: Any, exact: Any, tolerance: float, scale: float | None = None) -> None:
    """Within the tolerance of the scale, which is the largest number if none is given."""
    if scale is None:
        scale = float(np.max(np.abs(exact), initial=0))
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=0, atol=tolerance * max(scale, 1e-30))


def check(given: Case, options: LinearBCEOptions | None = None, dtype: Any = np.float64, **more: Any) -> None:
    given = cast(given, dtype)
    tolerance = TOLERANCE[np.dtype(dtype).name]
    value, exact = expected(given, **more)
    scales = sizes(given, **more)
    made_of = (given.input, given.linear_weight, given.target)
    rest = {**given.rest, **more, "linear_bias": given.linear_bias, "options": options}
    loss, gradients = linear_value_and_grad(*made_of, **rest)
    assert head(*made_of, **rest) == loss
    assert_near(loss, value, tolerance)
    for name, gradient in exact.items():
        assert getattr(gradients, name).dtype == dtype
        assert getattr(gradients, name).shape == gradient.shape
        assert_near(getattr(gradients, name), gradient, tolerance, scales[name])


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_alone_and_in_pairs(option: str) -> None:
    for number, reduction in enumerate(REDUCTIONS):
        check(case(**OPTIONS[option], bias=BIASES[number % 3]), EACH_LABEL, reduction=reduction)
        check(case(**OPTIONS[option]), LinearBCEOptions(max_chunk_bytes=7 * 8 * 4), reduction=reduction)


@settings(max_examples=200)
@given(
    rows=st.integers(1, 6),
    labels=st.integers(1, 200),
    features=st.integers(1, 4),
    chunk=st.integers(1, 9000),
    bias=st.sampled_from(BIASES),
    reduction=st.sampled_from(REDUCTIONS),
    option=st.sampled_from(list(OPTIONS)),
    dtype=st.sampled_from([np.float64, np.float32]),
)
def test_chunks_of_any_size(
    rows: int, labels: int, features: int, chunk: int, bias: str | None, reduction: str, option: str, dtype: Any
) -> None:
    sample = case(rows, labels, features, bias, **OPTIONS[option], seed=chunk)
    check(sample, LinearBCEOptions(max_chunk_bytes=chunk), dtype, reduction=reduction)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bias", BIASES)
def test_half_types(bias: str | None, dtype: Any) -> None:
    check(case(16, 300, 8, bias, pos_weight="[C]"), LinearBCEOptions(max_chunk_bytes=5000), dtype)


def test_results_have_the_wider_dtype_and_no_rows_have_no_mean() -> None:
    x, w = np.zeros((2, 3), np.float16), np.zeros((4, 3), np.float16)
    assert head(x, w, np.ones((2, 4), bool)).dtype == np.float16
    assert head(x, w, np.ones((2, 4), np.float32)).dtype == np.float32
    for rows, labels in ((0, 4), (2, 0)):
        empty = (np.zeros((rows, 3)), np.zeros((labels, 3)), np.zeros((rows, labels)))
        loss, gradients = linear_value_and_grad(*empty)
        assert math.isnan(loss)
        assert gradients.linear_weight.shape == (labels, 3)
        assert head(*empty, reduction="sum") == 0
        assert head(*empty, mask=np.ones((1, 1))) == 0


def test_only_what_is_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = case(bias="for each label")
    made_of = (sample.input, sample.linear_weight, sample.target)
    _, exact = expected(sample)
    products: list[int] = []
    original = np.matmul
    monkeypatch.setattr(np, "matmul", lambda *args, **more: (products.append(1), original(*args, **more))[1])
    for wanted, count in (((), 1), (("linear_weight",), 2), (("linear_bias",), 1)):
        products.clear()
        _, gradients = linear_value_and_grad(*made_of, linear_bias=sample.linear_bias, gradients_to=wanted)
        assert len(products) == count
        for name in GRADIENTS:
            if name in wanted:
                assert_near(getattr(gradients, name), exact[name], 1e-13)
            else:
                assert getattr(gradients, name) is None


@pytest.mark.parametrize("option", [name for name, option in OPTIONS.items() if "ignore_index" not in option])
def test_sparse_targets_are_the_dense_ones(option: str) -> None:
    for number, reduction in enumerate(REDUCTIONS):
        sample = case(**OPTIONS[option], bias=BIASES[number % 3])
        value, exact = expected(sample, reduction=reduction)
        indices = IndexTargets.from_lists(lists(sample), num_labels=sample.target.shape[1])
        for target in (indices, Csr(sample.target)):
            loss, gradients = linear_value_and_grad(
                sample.input, sample.linear_weight, target, linear_bias=sample.linear_bias, **sample.rest,
                reduction=reduction, options=LinearBCEOptions(max_chunk_bytes=7 * 8 * (1 + 5 * number)),
            )  # fmt: skip
            assert_near(loss, value, 1e-13)
            for name, gradient in exact.items():
                assert_near(getattr(gradients, name), gradient, 1e-13)


def test_micro_batches_add_up_to_the_whole() -> None:
    sample = case(8, 30, 4, mask="[N, C]")
    value, exact = expected(sample)
    counted = face.count(sample.target, mask=sample.arrays["mask"])
    total, gradient = 0.0, np.zeros_like(sample.linear_weight)
    for part in (slice(0, 3), slice(3, 8)):
        loss, found = linear_value_and_grad(
            sample.input[part], sample.linear_weight, sample.target[part], mask=sample.arrays["mask"][part],
            normalizer=counted, options=EACH_LABEL,
        )  # fmt: skip
        total, gradient = total + loss, gradient + found.linear_weight
    assert_near(total, value, 1e-13)
    assert_near(gradient, exact["linear_weight"], 1e-13)


def test_memory_is_that_of_one_chunk() -> None:
    rows, labels, features = 128, 20_000, 16
    x, w = np.ones((rows, features), np.float32), np.zeros((labels, features), np.float32)
    y = np.broadcast_to(np.zeros((), bool), (rows, labels))
    options = LinearBCEOptions(max_chunk_bytes=2**17)
    tracemalloc.start()
    try:
        linear_value_and_grad(x, w, y, options=options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All logits would be eight times the weight's gradient. Large results lie in memory that tracemalloc does not see.
    assert peak < w.nbytes + 2**19


X, W, Y = np.zeros((3, 2)), np.zeros((4, 2)), np.zeros((3, 4))
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "none": (lambda: head(X, W, Y, reduction="none"), ValueError, "reduction: 'none' asks for the loss of each"),
    "unknown reduction": (lambda: head(X, W, Y, reduction="median"), ValueError, "reduction: 'median'"),
    "another shape of targets": (lambda: head(X, W, Y.T), ValueError, r"target: shape \(4, 3\)"),
    "three axes": (lambda: head(X[None], W, Y), ValueError, r"input: shape .* expected \[N, features\]"),
    "features": (lambda: head(X[:, :1], W, Y), ValueError, "linear_weight: shape"),
    "bias": (lambda: head(X, W, Y, linear_bias=np.zeros(3)), ValueError, "linear_bias: shape"),
    "mask": (lambda: head(X, W, Y, mask=np.ones(3)), ValueError, "mask: shape"),
    "dtypes": (lambda: head(X, W.astype("f4"), Y), TypeError, "linear_weight: dtype float32; expected the input's"),
    "integers": (lambda: head(X.astype(int), W, Y), TypeError, "input: dtype int64 is not supported"),
    "a list": (lambda: head(X, W, Y.tolist()), TypeError, "target: expected a numpy.ndarray"),
    "options": (lambda: head(X, W, Y, options={}), TypeError, "options: expected LinearBCEOptions"),
    "names": (lambda: linear_value_and_grad(X, W, Y, gradients_to=("weight",)), ValueError, "gradients_to: 'weight'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()

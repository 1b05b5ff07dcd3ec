"""``normalizer=`` and ``count`` in MindSpore's graphs, whose shapes may be unknown, and under mixed precision."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from binxent import numpy as numpy_face
from binxent.mindspore import BCEWithLogitsLoss, binary_cross_entropy_with_logits, count

rng = np.random.default_rng(0)
X = rng.normal(0, 3, (5, 3)).astype(np.float32)
Y = rng.random((5, 3)).astype(np.float32)
MASK = X > -1
S = rng.random(5).astype(np.float32)
x, y, mask, s = map(Tensor, (X, Y, MASK, S))


def mean(x: Tensor, n: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(x, y, normalizer=n)


def weighted(x: Tensor, s: Tensor, n: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(x, y, None, "weighted_mean", sample_weight=s, mask=mask, normalizer=n)


@pytest.mark.parametrize("graph", [False, True], ids=["PyNative", "graph"])
@pytest.mark.parametrize("dtype", [ms.int32, ms.int64, ms.float32, ms.float64, ms.float16])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_a_tensor_may_change(graph: bool, dtype: Any, shape: tuple[int, ...]) -> None:
    step = ms.value_and_grad(mean)
    step = ms.jit(step) if graph else step
    for number in (7, 40, 0):
        found = step(x, Tensor(np.full(shape, number), dtype))
        for ours, numpys in zip(found, numpy_face.value_and_grad(X, Y, normalizer=number), strict=True):
            np.testing.assert_array_equal(ours.asnumpy(), numpys)


@pytest.mark.parametrize("graph", [False, True], ids=["PyNative", "graph"])
@pytest.mark.parametrize("number", [7, 0.1, 2**24 + 1, 3_000_000_001, 0])
def test_a_number_is_not_rounded_to_float32(graph: bool, number: float) -> None:
    def of_number(x: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(x, y, normalizer=number)

    step = ms.value_and_grad(of_number)
    found = (ms.jit(step) if graph else step)(x)
    for ours, numpys in zip(found, numpy_face.value_and_grad(X, Y, normalizer=number), strict=True):
        np.testing.assert_array_equal(ours.asnumpy(), numpys)


@pytest.mark.parametrize("graph", [False, True], ids=["PyNative", "graph"])
def test_a_weight_changes_no_divisor_that_is_given(graph: bool) -> None:
    """To a sample_weight, to the normalizer, and once more to both."""

    def slopes(x: Tensor, s: Tensor, n: Tensor) -> Tensor:
        return ms.grad(weighted)(x, s, n).sum()

    first, second = ms.grad(weighted, (1, 2)), ms.grad(slopes, (0, 1, 2))
    if graph:
        first, second = ms.jit(first), ms.jit(second)
    n = Tensor(7.0)
    each = numpy_face.binary_cross_entropy_with_logits(X, Y, reduction="none", mask=MASK)
    to_weight, to_normalizer = first(x, s, n)
    np.testing.assert_allclose(to_weight.asnumpy(), each.sum(1) / 7, rtol=1e-6)
    assert to_normalizer == 0
    to_input, to_weight, to_normalizer = second(x, s, n)
    sigma = 1 / (1 + np.exp(-X.astype(np.float64)))
    np.testing.assert_allclose(to_input.asnumpy(), sigma * (1 - sigma) * MASK * S[:, None] / 7, rtol=1e-5)
    np.testing.assert_allclose(to_weight.asnumpy(), ((sigma - Y) * MASK).sum(1) / 7, rtol=1e-5, atol=1e-7)
    assert to_normalizer == 0


@pytest.mark.parametrize("graph", [False, True], ids=["PyNative", "graph"])
def test_count(graph: bool) -> None:
    def counts(y: Tensor, mask: Tensor, s: Tensor) -> Any:
        return (
            count(y),
            count(y, reduction="batchmean"),
            count(y, mask=mask),
            count(y, reduction="weighted_mean", mask=mask, sample_weight=s),
        )

    found = (ms.jit(counts) if graph else counts)(y, mask, s)
    assert [c.dtype for c in found] == [ms.int64, ms.int64, ms.int64, ms.float64]
    assert [int(c) for c in found[:3]] == [15, 5, MASK.sum()]
    assert float(found[3]) == pytest.approx((MASK * S[:, None].astype(np.float64)).sum(), rel=1e-14)


class Step(ms.nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.loss = BCEWithLogitsLoss()

    def construct(self, x: Tensor, y: Tensor, mask: Tensor, others: Tensor) -> Tensor:
        return self.loss(x, y, mask=mask, normalizer=self.loss.count(y, mask=mask) + others)


def test_a_graph_of_unknown_shapes(graph_mode: None) -> None:
    step = Step()
    unknown = Tensor(shape=[None, 3], dtype=ms.float32)
    step.set_inputs(unknown, unknown, Tensor(shape=[None, 3], dtype=ms.bool_), Tensor(4))
    for rows in (5, 2):
        found = step(x[:rows], y[:rows], mask[:rows], Tensor(4))
        wanted = numpy_face.binary_cross_entropy_with_logits(
            X[:rows], Y[:rows], mask=MASK[:rows], normalizer=MASK[:rows].sum() + 4
        )
        np.testing.assert_array_equal(found.asnumpy(), wanted)


def test_a_normalizer_of_unknown_shape_has_one_element(graph_mode: None) -> None:
    class Mean(ms.nn.Cell):
        def construct(self, n: Tensor) -> Tensor:
            return binary_cross_entropy_with_logits(x, y, normalizer=n)

    step = Mean()
    step.set_inputs(Tensor(shape=[None], dtype=ms.float32))
    np.testing.assert_array_equal(
        step(Tensor([7.0])).asnumpy(), numpy_face.binary_cross_entropy_with_logits(X, Y, normalizer=7)
    )
    with pytest.raises(RuntimeError, match="Custom"):
        step(Tensor([7.0, 7.0])).asnumpy()


@pytest.fixture
def graph_mode() -> Any:
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def test_mixed_precision_leaves_the_normalizer_as_it_is() -> None:
    """float16 ends at 65504."""
    loss = BCEWithLogitsLoss().to_float(ms.float16)
    half = X.astype(np.float16), Y.astype(np.float16)
    wanted = numpy_face.binary_cross_entropy_with_logits(*half, normalizer=100_001)
    found = loss(x, y, normalizer=Tensor(100_001.0))
    assert found.asnumpy() == wanted

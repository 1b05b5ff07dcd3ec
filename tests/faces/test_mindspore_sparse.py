"""Sparse targets in MindSpore's PyNative mode: the bits of the dense target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from binxent import IndexTargets, kernel  # noqa: E402
from binxent.mindspore import BCELoss, BCEWithLogitsLoss, binary_cross_entropy_with_logits  # noqa: E402

ROWS, COLUMNS = 5, 1300
LISTS = [[7, 3, 7, 1299], [], [0], [700, 2, 1], [1298, 512]]
X = np.random.default_rng(0).normal(0, 3, (ROWS, COLUMNS)).astype(np.float32)
Y = np.zeros((ROWS, COLUMNS), np.float32)
for row, labels in enumerate(LISTS):
    Y[row, labels] = 1


def targets(kind: str) -> Any:
    made = IndexTargets.from_lists(LISTS, num_labels=COLUMNS)
    if kind == "scipy":
        return pytest.importorskip("scipy.sparse").csr_matrix(Y)
    if kind == "mindspore":
        return IndexTargets(ms.Tensor(made.indices), offsets=ms.Tensor(made.offsets))
    return made


def both(loss: Any, target: Any, x: Any = X) -> Any:
    found = []
    for y in (target, ms.Tensor(Y)):
        value, gradient = ms.value_and_grad(lambda x, y=y: loss(x, y).sum())(ms.Tensor(x))
        found.append((value.asnumpy(), gradient.asnumpy()))
    return found


def assert_same(found: Any) -> None:
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["numpy", "mindspore", "scipy"])
@pytest.mark.parametrize("reduction", ["mean", "none", "batchmean"])
def test_loss_and_gradient_have_the_bits_of_the_dense_target(kind: str, reduction: str) -> None:
    assert_same(both(BCEWithLogitsLoss(reduction=reduction), targets(kind)))
    runs = kernel.runs()
    BCEWithLogitsLoss(reduction=reduction)(ms.Tensor(X), targets(kind))
    assert kernel.runs() == runs + 1


def test_options_and_probabilities() -> None:
    q = 1 / (1 + np.exp(-X))
    for options in ({"label_smoothing": 0.1}, {"gamma": 2.0}):
        assert_same(both(BCEWithLogitsLoss(**options), targets("numpy")))
        assert_same(both(BCELoss(**options), targets("numpy"), q))
    assert_same(both(BCEWithLogitsLoss(ignore_index=0), targets("scipy")))
    with pytest.raises(ValueError, match=r"input\[0, 0\]"):
        BCELoss()(ms.Tensor(q + 2), targets("numpy"))


def test_second_derivatives_are_the_definitions() -> None:
    found = []
    for y in (targets("numpy"), ms.Tensor(Y)):
        slope = ms.grad(lambda x, y=y: binary_cross_entropy_with_logits(x, y))
        found.append((ms.grad(lambda x, slope=slope: slope(x).square().sum())(ms.Tensor(X)).asnumpy(),))
    assert_same(found)


def test_refusals() -> None:
    x = ms.Tensor(X)
    with pytest.raises(ValueError, match="row 0 has label 1300"):
        binary_cross_entropy_with_logits(x, IndexTargets(np.array([[1300], [0], [0], [0], [0]])))
    with pytest.raises(ValueError, match="padding="):
        binary_cross_entropy_with_logits(x, targets("numpy"), ignore_index=-100)
    with pytest.raises(ValueError, match=r"\.tocsr\(\)"):
        binary_cross_entropy_with_logits(x, targets("scipy").tocoo())
    with pytest.raises(TypeError, match="Float64"):
        binary_cross_entropy_with_logits(x, targets("scipy").astype(np.float64))

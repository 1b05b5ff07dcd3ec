"""Sparse targets in Paddle's dynamic graph: the bits of the dense label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

paddle = pytest.importorskip("paddle")

from binxent import IndexTargets, kernel  # noqa: E402
from binxent.paddle import BCELoss, BCEWithLogitsLoss, binary_cross_entropy_with_logits  # noqa: E402

ROWS, COLUMNS = 5, 1300
LISTS = [[7, 3, 7, 1299], [], [0], [700, 2, 1], [1298, 512]]
X = np.random.default_rng(0).normal(0, 3, (ROWS, COLUMNS)).astype(np.float32)
Y = np.zeros((ROWS, COLUMNS), np.float32)
for row, labels in enumerate(LISTS):
    Y[row, labels] = 1


def targets(kind: str) -> Any:
    made = IndexTargets.from_lists(LISTS, num_labels=COLUMNS)
    if kind == "scipy":
        return pytest.importorskip("scipy.sparse").csr_array(Y)
    if kind == "paddle":
        return IndexTargets(paddle.to_tensor(made.indices), offsets=paddle.to_tensor(made.offsets))
    return made


def both(loss: Any, target: Any, of: Any = lambda x: x) -> Any:
    found = []
    for label in (target, paddle.to_tensor(Y)):
        x = paddle.to_tensor(X, stop_gradient=False)
        value = loss(of(x), label)
        value.sum().backward()
        found.append((value.numpy(), x.grad.numpy()))
    return found


def assert_same(found: Any) -> None:
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["numpy", "paddle", "scipy"])
@pytest.mark.parametrize("reduction", ["mean", "none", "batchmean"])
def test_loss_and_gradient_have_the_bits_of_the_dense_label(kind: str, reduction: str) -> None:
    assert_same(both(BCEWithLogitsLoss(reduction=reduction), targets(kind)))
    runs = kernel.runs()
    BCEWithLogitsLoss(reduction=reduction)(paddle.to_tensor(X), targets(kind))
    assert kernel.runs() == runs + 1


def test_options_and_probabilities() -> None:
    for options in ({"label_smoothing": 0.1}, {"gamma": 2.0}):
        assert_same(both(BCEWithLogitsLoss(**options), targets("numpy")))
        assert_same(both(BCELoss(**options), targets("numpy"), paddle.nn.functional.sigmoid))
    assert_same(both(BCEWithLogitsLoss(ignore_index=0), targets("scipy")))
    mask = paddle.to_tensor(X > 0)
    assert_same(both(lambda x, y: binary_cross_entropy_with_logits(x, y, mask=mask), targets("numpy")))


def test_learnt_weights_and_second_derivatives_are_the_definitions() -> None:
    found = []
    for label in (targets("numpy"), paddle.to_tensor(Y)):
        x, weight = paddle.to_tensor(X, stop_gradient=False), paddle.full([COLUMNS], 1.5)
        weight.stop_gradient = False
        binary_cross_entropy_with_logits(x, label, pos_weight=weight).backward()
        (slope,) = paddle.grad(binary_cross_entropy_with_logits(x, label), x, create_graph=True)
        found.append((weight.grad.numpy(), paddle.grad(slope.square().sum(), x)[0].numpy()))
    assert_same(found)


def test_refusals() -> None:
    x = paddle.to_tensor(X)
    with pytest.raises(ValueError, match="row 0 has label 1300"):
        binary_cross_entropy_with_logits(x, IndexTargets(np.array([[1300], [0], [0], [0], [0]])))
    with pytest.raises(ValueError, match="padding="):
        binary_cross_entropy_with_logits(x, targets("numpy"), ignore_index=-100)
    with pytest.raises(ValueError, match=r"\.tocsr\(\)"):
        binary_cross_entropy_with_logits(x, targets("scipy").tocoo())
    with pytest.raises(ValueError, match="num_labels"):
        binary_cross_entropy_with_logits(x[:, 1:], targets("numpy"))


def test_a_static_graph_refuses_them() -> None:
    @paddle.jit.to_static(full_graph=True)
    def step(x: Any) -> Any:
        return binary_cross_entropy_with_logits(x, targets("numpy"))

    with pytest.raises(Exception, match="dynamic graph alone"):
        step(paddle.to_tensor(X))

"""The focal losses of other libraries, as they write them: where they are right, ours has the same values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from binxent.numpy import binary_cross_entropy_with_logits, value_and_grad
from tests.reference import Array

X = np.linspace(-8, 8, 65)
HARD = (np.arange(65) % 3 == 0) * 1.0
SOFT = (np.arange(65) % 7) / 6


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def cross_entropy(x: Array, y: Array) -> Array:
    return np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x)))


def torchvision(x: Array, y: Array, alpha: float = 0.25, gamma: float = 2.0) -> Array:
    """``torchvision.ops.sigmoid_focal_loss``; fvcore's, optax's and transformers' is the same."""
    p = sigmoid(x)
    p_t = p * y + (1 - p) * (1 - y)
    loss = cross_entropy(x, y) * (1 - p_t) ** gamma
    return (alpha * y + (1 - alpha) * (1 - y)) * loss if alpha >= 0 else loss


def mmdet(x: Array, y: Array, alpha: float = 0.25, gamma: float = 2.0) -> Array:
    """``py_sigmoid_focal_loss``."""
    p = sigmoid(x)
    wrong = (1 - p) * y + p * (1 - y)
    return cross_entropy(x, y) * (alpha * y + (1 - alpha) * (1 - y)) * wrong**gamma


def keras(x: Array, y: Array, alpha: float = 0.25, gamma: float = 2.0, label_smoothing: float = 0.0) -> Array:
    """``BinaryFocalCrossentropy(apply_class_balancing=True)`` of probabilities, which it clips by 1e-7."""
    y = y * (1 - label_smoothing) + 0.5 * label_smoothing
    p = np.clip(sigmoid(x), 1e-7, 1 - 1e-7)
    bce = -y * np.log(p) - (1 - y) * np.log(1 - p)
    p_t = y * p + (1 - y) * (1 - p)
    return (alpha * y + (1 - alpha) * (1 - y)) * (1 - p_t) ** gamma * bce


def timm(
    x: Array, y: Array, gamma_neg: float = 4.0, gamma_pos: float = 1.0, clip: float = 0.05, eps: float = 1e-8
) -> Array:
    """``AsymmetricLossMultiLabel``, the authors' code: not what they publish, but with both logarithms clamped."""
    positive = sigmoid(x)
    negative = np.minimum(1 - positive + clip, 1)
    loss = y * np.log(np.maximum(positive, eps)) + (1 - y) * np.log(np.maximum(negative, eps))
    pt = positive * y + negative * (1 - y)
    return -loss * (1 - pt) ** (gamma_pos * y + gamma_neg * (1 - y))


def mmpretrain(x: Array, y: Array, gamma_pos: float = 0.0, gamma_neg: float = 4.0, clip: float = 0.05) -> Array:
    """``asymmetric_loss``."""
    p = sigmoid(x)
    pt = np.minimum(1 - p + clip, 1) * (1 - y) + p * y
    return -np.log(np.maximum(pt, 1e-8)) * (1 - pt) ** (gamma_pos * y + gamma_neg * (1 - y))


ASL = {"gamma_positive": 1.0, "gamma_negative": 4.0, "margin": 0.05}
P_T = {"focal": "p_t", "gamma": 2.0, "alpha": 0.25}


@pytest.mark.parametrize(
    ("theirs", "ours", "targets"),
    [
        pytest.param(torchvision, P_T, (HARD, SOFT), id="torchvision"),
        pytest.param(
            lambda x, y: torchvision(x, y, -1, 3.0), {"focal": "p_t", "gamma": 3.0}, (HARD, SOFT), id="fvcore"
        ),
        pytest.param(torchvision, {"gamma": 2.0, "alpha": 0.25}, (HARD,), id="torchvision, hard"),
        pytest.param(mmdet, P_T, (HARD, SOFT), id="mmdet"),
        pytest.param(keras, P_T, (HARD, SOFT), id="Keras"),
        pytest.param(
            lambda x, y: keras(x, y, label_smoothing=0.1),
            {**P_T, "label_smoothing": 0.1},
            (HARD, SOFT),
            id="Keras, smooth",
        ),
        pytest.param(timm, ASL, (HARD,), id="timm"),
        pytest.param(mmpretrain, {**ASL, "gamma_positive": 0.0}, (HARD,), id="mmpretrain"),
    ],
)
def test_where_they_are_right(theirs: Any, ours: dict[str, Any], targets: tuple[Array, ...]) -> None:
    for y in targets:
        found = binary_cross_entropy_with_logits(X, y, reduction="none", **ours)
        np.testing.assert_allclose(found, theirs(X, y), rtol=2e-6, atol=1e-12)  # Keras clips p, which is 0.9997 at most


def test_asl_of_soft_targets() -> None:
    """Theirs has a power of a mixture, whose exponent is a mixture too: it is no mean of the losses of 0 and of 1."""
    half = np.full(65, 0.5)
    ours = binary_cross_entropy_with_logits(X, half, reduction="none", **ASL)
    np.testing.assert_allclose(ours, 0.5 * (timm(X, half * 0) + timm(X, half * 0 + 1)), rtol=1e-6)
    assert np.abs(ours - timm(X, half)).max() > 0.5


def slope(loss: Any, x: float, y: float) -> float:
    at = np.array([x - 1e-3, x + 1e-3])
    low, high = loss(at, np.full(2, y))
    return float(high - low) / 2e-3


@pytest.mark.parametrize(
    ("theirs", "ours", "x", "exact", "found"),
    [
        pytest.param(timm, ASL, -25.0, -1.0, 0.0, id="timm"),  # (1 − p)·(1 + p·25), where p is 1e-11
        pytest.param(keras, P_T, -20.0, -0.25, 0.0, id="Keras"),
    ],
)
def test_where_they_stop_to_learn(theirs: Any, ours: dict[str, Any], x: float, exact: float, found: float) -> None:
    """A positive that the model is sure is none: docs/options.md says what the clamp makes of its gradient."""
    _, gradient = value_and_grad(np.array([x]), np.ones(1), reduction="none", **ours)
    np.testing.assert_allclose(gradient[0], exact, rtol=1e-3)
    assert abs(slope(theirs, x, 1.0) - found) < 1e-9

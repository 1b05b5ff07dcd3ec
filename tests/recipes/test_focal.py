"""docs/options.md: which reading of gamma with soft targets each library has."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import optax
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss
from transformers.loss.loss_for_object_detection import sigmoid_focal_loss as transformers_focal_loss

from binxent.numpy import binary_cross_entropy_with_logits

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras' tensors

X, Y, GAMMA = np.float32([0.5, -1.0, 1.5, -0.3]), np.float32([1.0, 0.0, 0.25, 0.7]), 2.0
P = 1 / (1 + np.exp(-X.astype(np.float64)))
P_T = P * Y + (1 - P) * (1 - Y)
BY_P_T = (1 - P_T) ** GAMMA * -(Y * np.log(P) + (1 - Y) * np.log(1 - P))


def each(function: Callable[[torch.Tensor, torch.Tensor], object]) -> list[float]:
    """Of a function that reduces."""
    return [float(function(torch.tensor([[x]]), torch.tensor([[y]]))) for x, y in zip(X, Y, strict=True)]


LIBRARIES = {
    "torchvision": lambda: sigmoid_focal_loss(torch.tensor(X), torch.tensor(Y), alpha=-1, gamma=GAMMA),
    "transformers": lambda: each(lambda x, y: transformers_focal_loss(x, y, 1, alpha=-1, gamma=GAMMA)),
    "keras": lambda: keras.ops.convert_to_numpy(
        keras.losses.binary_focal_crossentropy(Y[:, None], X[:, None], gamma=GAMMA, from_logits=True)
    ),
    "optax": lambda: optax.sigmoid_focal_loss(X, Y, gamma=GAMMA),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_by_p_t(name: str) -> None:
    np.testing.assert_allclose(np.asarray(LIBRARIES[name]()), BY_P_T, rtol=1e-5)


def test_ours_is_by_branch() -> None:
    ours = binary_cross_entropy_with_logits(X, Y, reduction="none", gamma=GAMMA)
    np.testing.assert_allclose(ours[:2], BY_P_T[:2], rtol=1e-6)
    np.testing.assert_allclose(ours, Y * (1 - P) ** GAMMA * -np.log(P) + (1 - Y) * P**GAMMA * -np.log(1 - P), rtol=1e-6)

"""Small data for the boosters: scikit-learn's breast cancer table, and its digits as several labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits

Array = np.ndarray[Any, Any]


def binary() -> tuple[Array, Array]:
    x, y = load_breast_cancer(return_X_y=True)
    return x, y.astype(np.float32)


def multilabel() -> tuple[Array, Array]:
    """Whether a digit is odd, is greater than four, and has a hole."""
    x, digit = load_digits(return_X_y=True)
    labels = np.stack([digit % 2 == 1, digit > 4, np.isin(digit, (0, 6, 8, 9))], -1)
    return x[:600], labels[:600].astype(np.float32)


def logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))

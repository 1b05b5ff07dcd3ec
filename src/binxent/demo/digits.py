"""The data: 1797 handwritten digits of the UCI repository, with thirteen labels each. scikit-learn ships the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

Array = np.ndarray[Any, Any]

# The digits that have each label. An image has several labels: a 2 is "digit 2", "even" and "prime". A 4 is not counted
# as a closed loop, because most writers of this set left it open at the top.
LABELS = {f"digit {digit}": {digit} for digit in range(10)} | {
    "even": {0, 2, 4, 6, 8},
    "prime": {2, 3, 5, 7},
    "closed loop": {0, 6, 8, 9},
}

BRIGHTEST = 16  # each pixel of the set is an amount of ink from 0 to 16
TEST_SHARE = 0.4  # a digit is one image in ten: this leaves about 72 test images of each for its recall


@dataclass(frozen=True)
class Part:
    """Images and their labels."""

    images: Array  # [N, 64] float32, between 0 and 1
    targets: Array  # [N, 13] bool, which the loss reads without a conversion


def load(seed: int) -> tuple[Part, Part]:
    """Returns the training part and the test part of a random split."""
    digits = load_digits()
    images = (digits.data / BRIGHTEST).astype(np.float32)
    targets = np.stack([np.isin(digits.target, list(members)) for members in LABELS.values()], axis=1)
    order = np.random.default_rng(seed).permutation(len(images))
    test, train = np.split(order, [round(TEST_SHARE * len(order))])
    return Part(images[train], targets[train]), Part(images[test], targets[test])

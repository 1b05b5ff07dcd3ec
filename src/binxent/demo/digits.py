"""The data: 1797 handwritten digits of the UCI repository, which scikit-learn ships, with thirteen labels each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

Array = np.ndarray[Any, Any]

# They do not exclude one another: a 2 is "digit 2", "even" and "prime". A 4 has no closed loop here: most writers of
# this set left it open at the top.
LABELS = {f"digit {digit}": {digit} for digit in range(10)} | {
    "even": {0, 2, 4, 6, 8},
    "prime": {2, 3, 5, 7},
    "closed loop": {0, 6, 8, 9},
}

BRIGHTEST = 16  # the set counts the ink of each pixel from 0 to 16
TEST_SHARE = 0.4  # so many, since a digit is one image in ten, and its recall is to mean something


@dataclass(frozen=True)
class Part:
    images: Array  # [N, 64] float32, between 0 and 1
    targets: Array  # [N, 13] bool: the loss takes them as they are


def load(seed: int) -> tuple[Part, Part]:
    """The training and the test part, divided by chance."""
    digits = load_digits()
    images = (digits.data / BRIGHTEST).astype(np.float32)
    targets = np.stack([np.isin(digits.target, list(members)) for members in LABELS.values()], axis=1)
    order = np.random.default_rng(seed).permutation(len(images))
    test, train = np.split(order, [round(TEST_SHARE * len(order))])
    return Part(images[train], targets[train]), Part(images[test], targets[test])


def balance(targets: Array) -> Array:
    """Negatives / positives of each label: as pos_weight, it makes both sides of a label weigh the same."""
    positives = targets.sum(axis=0)
    ratio: Array = (len(targets) - positives) / positives
    return ratio.astype(np.float32)

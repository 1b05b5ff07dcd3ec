"""The classifier, one linear layer, and its training by Adam: what an autograd framework would do, by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from binxent.demo.scores import Scores, score
from binxent.numpy import BCEWithLogitsLoss

if TYPE_CHECKING:
    from collections.abc import Callable

    from binxent.demo.digits import Array, Part

STEP = 0.005


class Adam:
    """Kingma and Ba, 2015, Algorithm 1, with its constants; it changes the parameters in place."""

    def __init__(self, parameters: tuple[Array, ...]) -> None:
        self.parameters = parameters
        self.mean = tuple(map(np.zeros_like, parameters))
        self.square = tuple(map(np.zeros_like, parameters))
        self.steps = 0

    def step(self, gradients: tuple[Array, ...]) -> None:
        self.steps += 1
        for parameter, gradient, mean, square in zip(self.parameters, gradients, self.mean, self.square, strict=True):
            mean += (1 - 0.9) * (gradient - mean)
            square += (1 - 0.999) * (gradient * gradient - square)
            unbiased = square / (1 - 0.999**self.steps)
            parameter -= STEP * mean / (1 - 0.9**self.steps) / (np.sqrt(unbiased) + 1e-8)


@dataclass(frozen=True)
class Run:
    """One training. Its losses are plain, whatever it minimised, so that two runs are measured by one rule."""

    train_loss: list[float]  # before the first epoch, and after each
    test_loss: list[float]
    scores: Scores  # at the end, on the test images


def train(
    training: Part,
    test: Part,
    *,
    pos_weight: Array | None,
    epochs: int,
    batch_size: int,
    seed: int,
    after_epoch: Callable[[], None],
) -> Run:
    loss = BCEWithLogitsLoss(pos_weight=pos_weight)
    plain = BCEWithLogitsLoss()
    weight = np.zeros((training.images.shape[1], training.targets.shape[1]), np.float32)
    bias = np.zeros(training.targets.shape[1], np.float32)
    adam = Adam((weight, bias))
    chance = np.random.default_rng(seed)
    train_loss: list[float] = []
    test_loss: list[float] = []

    def measure() -> Array:
        train_loss.append(float(plain(training.images @ weight + bias, training.targets)))
        logits: Array = test.images @ weight + bias
        test_loss.append(float(plain(logits, test.targets)))
        return logits

    test_logits = measure()
    for _ in range(epochs):
        order = chance.permutation(len(training.images))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            images = training.images[batch]
            logits = images @ weight + bias
            # The gradient takes the place of the logits, which nobody needs again.
            _, gradient = loss.value_and_grad(logits, training.targets[batch], out=logits)
            adam.step((images.T @ gradient, gradient.sum(axis=0)))
        test_logits = measure()
        after_epoch()
    return Run(train_loss, test_loss, score(test_logits, test.targets))

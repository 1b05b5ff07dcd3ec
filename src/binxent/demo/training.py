"""The classifier, one linear layer, and its training by Adam, written out because NumPy has no autograd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from binxent.demo.digits import LABELS
from binxent.numpy import BCEWithLogitsLoss
from binxent.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from binxent.demo.digits import Array, Part

STEP = 0.005  # the step size, α in the paper


class Adam:
    """Changes parameters in place by Kingma and Ba (2015), Algorithm 1, with the constants given there."""

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
    """What one training gives. Its losses have no pos_weight, whatever was minimised, so that two runs compare."""

    train_loss: list[float]  # before the first epoch, and after each
    test_loss: list[float]
    report: Report  # of the test images, after the last epoch


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
    """Trains the classifier, and measures it before the first epoch and after each."""
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
            # The gradient overwrites the logits, which are not needed again.
            _, gradient = loss.value_and_grad(logits, training.targets[batch], out=logits)
            adam.step((images.T @ gradient, gradient.sum(axis=0)))
        test_logits = measure()
        after_epoch()
    report = Report(list(LABELS))
    report.update(test_logits, test.targets)
    return Run(train_loss, test_loss, report)

"""The loss as every booster asks for it: derivatives for the training, and a weighted mean for the evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from binxent import options
from binxent.formula import kept
from binxent.numpy import binary_cross_entropy_with_logits, count, grad_and_hess
from binxent.numpy.curvature import HESSIANS
from binxent.options import RefusalError

if TYPE_CHECKING:
    from collections.abc import Callable

Array = Any
Labels = Any  # an array, or a function that returns one for a library's data set


def numbers(name: str, given: object) -> Array | None:
    """The given array, number or list as an array of numbers."""
    if given is None:
        return None
    array = np.asarray(given)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected numbers, got {type(given).__name__} of dtype {array.dtype}")
    return array


def of_labels(refusal: ValueError) -> ValueError:
    """The refusal with the name that labels have here, where it is one of a target."""
    argument, _, message = str(refusal).partition(": ")
    if argument != "target":
        return refusal
    return RefusalError("labels", message.replace("target[", "labels[", 1).removesuffix(", or IndexTargets"))


@dataclass(frozen=True, eq=False)
class BoostedLoss:
    """The options of an objective or a metric, which are checked at once where that needs no predictions."""

    weight: Array | None = None
    pos_weight: Array | None = None
    labels: Labels | None = None
    mask: Array | None = None
    ignore_index: float | None = math.nan
    label_smoothing: float = 0.0
    gamma: float = 0.0
    alpha: float | None = None
    gamma_positive: float | None = None
    gamma_negative: float | None = None
    margin: float = 0
    focal: str = "branch"
    neg_weight: Array | None = None
    check_targets: bool = False
    hessian: str = "expected"
    min_hessian: float = 0.0

    def __post_init__(self) -> None:
        family = options.focal(self.alpha, self.gamma_positive, self.gamma_negative, self.margin, self.focal)
        options.checked_terms(self.ignore_index, self.label_smoothing, self.gamma, "float32", family)
        if self.hessian not in HESSIANS:
            raise RefusalError("hessian", f"{self.hessian!r}; expected one of {HESSIANS}")
        least = self.min_hessian
        if isinstance(least, bool) or not isinstance(least, (int, float)) or not 0 <= least < math.inf:
            raise RefusalError("min_hessian", f"{least!r}; expected a finite number that is not negative")
        for name in ("weight", "pos_weight", "neg_weight", "mask"):
            object.__setattr__(self, name, numbers(name, getattr(self, name)))
        if self.labels is not None and not callable(self.labels):
            object.__setattr__(self, "labels", numbers("labels", self.labels))

    def labels_of(self, data: object, own: Callable[[], object]) -> Array:
        """The labels for a data set: those that were given, or its own."""
        if self.labels is None:
            return numbers("labels", own())
        return numbers("labels", self.labels(data)) if callable(self.labels) else self.labels

    def derivatives(self, logits: Array, labels: Array, sample_weight: Array | None) -> tuple[Array, Array]:
        """Gradient and Hessian, in the layout of the logits."""
        x, y, w = self._operands(logits, labels, sample_weight)
        # New arrays lie by rows, and need no checks, which would be felt where CatBoost asks sample by sample.
        out = None if x.flags.c_contiguous else (np.empty_like(x), np.empty_like(x))
        try:
            gradient, hessian = grad_and_hess(
                x, y, self.weight, self.pos_weight, sample_weight=w, **self._terms(), hessian=self.hessian, out=out
            )
        except ValueError as refusal:
            raise of_labels(refusal) from None
        if self.min_hessian > 0:
            np.maximum(hessian, self._floor(x, y, w), out=hessian)
        return gradient, hessian

    def mean(self, logits: Array, labels: Array, sample_weight: Array | None) -> float:
        """The mean of the loss over the labels that are known, weighted by all weights but those of one class."""
        total, weights = self.sums(logits, labels, sample_weight)
        return total / weights if weights else 0.0

    def sums(self, logits: Array, labels: Array, sample_weight: Array | None) -> tuple[float, float]:
        """The sum of the weighted losses, and the sum of these weights."""
        x, y, w = self._operands(logits, labels, sample_weight)
        try:
            total = binary_cross_entropy_with_logits(
                x, y, self.weight, reduction="sum", pos_weight=self.pos_weight, sample_weight=w, **self._terms()
            )
        except ValueError as refusal:
            raise of_labels(refusal) from None
        chosen: dict[str, Any] = {"mask": self.mask, "ignore_index": self.ignore_index}
        weights = count(y, reduction="weighted_mean", **chosen, weight=self.weight, sample_weight=w)
        return float(total), float(weights)

    def _terms(self) -> dict[str, Any]:
        return {
            "mask": self.mask,
            "ignore_index": self.ignore_index,
            "label_smoothing": self.label_smoothing,
            "gamma": self.gamma,
            "alpha": self.alpha,
            "gamma_positive": self.gamma_positive,
            "gamma_negative": self.gamma_negative,
            "margin": self.margin,
            "focal": self.focal,
            "neg_weight": self.neg_weight,
            "check_targets": self.check_targets,
        }

    def _operands(self, logits: Array, labels: Array, sample_weight: Array | None) -> tuple[Array, Array, Array | None]:
        x = np.asarray(logits)
        if labels.shape != x.shape and labels.size == x.size:
            labels = labels.reshape(x.shape)  # a library may hand over one column without, or with, its second axis
        if labels.shape != x.shape:
            raise RefusalError("labels", f"shape {labels.shape}; expected that of the predictions, {x.shape}")
        if labels.dtype == np.float64 and x.dtype == np.float32:
            labels = labels.astype(np.float32)  # in float64 both results would be computed, and not returned
        if sample_weight is not None and np.size(sample_weight) == 0:
            sample_weight = None  # XGBoost's way to say that there are none
        return x, labels, numbers("sample_weight", sample_weight)

    def _floor(self, x: Array, y: Array, sample_weight: Array | None) -> Array:
        """The least Hessian of each element: nothing where the label is ignored."""
        floor = np.full_like(x, self.min_hessian)
        if self.weight is not None:
            floor *= self.weight
        if sample_weight is not None:
            floor *= sample_weight.reshape((-1,) + (1,) * (x.ndim - 1))
        keep = kept(y, None if self.mask is None else self.mask != 0, self.ignore_index)
        return floor if keep is None else np.where(keep, floor, 0)

"""The two losses as callables, whose parameters are given once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from binxent import options
from binxent.formula import LOGITS, PROBABILITIES, Loss
from binxent.numpy.counting import count
from binxent.numpy.eager import Array, Given, Numbers, checked, compute

if TYPE_CHECKING:
    import numpy as np


class _Loss:
    """Base of the two classes. Parameters are stored as given, and checked at once where that needs no input."""

    loss: Loss

    def __init__(
        self,
        weight: Array | None,
        reduction: str,
        pos_weight: Array | None,
        numbers: Numbers,
        neg_weight: Array | None,
    ) -> None:
        self.weight = None if weight is None else checked("weight", weight)
        self.reduction = options.check_reduction(reduction)
        self.pos_weight = None if pos_weight is None else checked("pos_weight", pos_weight)
        self.neg_weight = None if neg_weight is None else checked("neg_weight", neg_weight)
        ignore_index, label_smoothing, gamma, family, check_targets = numbers
        self.ignore_index: Any = ignore_index
        options.terms(ignore_index, label_smoothing, gamma, "float32", family)
        self.label_smoothing, self.gamma = label_smoothing, gamma
        self.alpha, self.gamma_positive, self.gamma_negative, self.margin, self.focal = family
        self.check_targets = check_targets

    def __call__(
        self,
        input: Array,
        target: Array,
        *,
        weight: Array | None = None,
        pos_weight: Array | None = None,
        sample_weight: Array | None = None,
        mask: Array | None = None,
        normalizer: float | Array | None = None,
    ) -> np.floating[Any] | Array:
        """The loss of input and target, as the function of this name computes it."""
        given = (input, target, weight, sample_weight, pos_weight, mask)
        found: np.floating[Any] | Array = compute(self.loss, self.reduction, *self._given(*given), normalizer)[0]
        return found

    def value_and_grad(
        self,
        input: Array,
        target: Array,
        *,
        weight: Array | None = None,
        pos_weight: Array | None = None,
        sample_weight: Array | None = None,
        mask: Array | None = None,
        normalizer: float | Array | None = None,
        out: Array | None = None,
    ) -> tuple[np.floating[Any] | Array, Array]:
        """The loss and its gradient with respect to the input; see the function of that name."""
        given, numbers = self._given(input, target, weight, sample_weight, pos_weight, mask)
        return compute(self.loss, self.reduction, given, numbers, normalizer, want_gradient=True, out=out)

    def count(
        self, target: Array, *, sample_weight: Array | None = None, mask: Array | None = None
    ) -> np.int64 | np.float64:
        """What the mean of these targets divides by; see the function of that name."""
        return count(
            target,
            reduction=self.reduction,
            mask=mask,
            ignore_index=self.ignore_index,
            weight=self.weight,
            sample_weight=sample_weight,
        )

    def _given(
        self,
        input: Array,
        target: Array,
        weight: Array | None,
        sample_weight: Array | None,
        pos_weight: Array | None,
        mask: Array | None,
    ) -> tuple[Given, Numbers]:
        weight = self.weight if weight is None else weight
        pos_weight = self.pos_weight if pos_weight is None else pos_weight
        family = options.focal(self.alpha, self.gamma_positive, self.gamma_negative, self.margin, self.focal)
        numbers = Numbers(self.ignore_index, self.label_smoothing, self.gamma, family, self.check_targets)
        return (input, target, weight, sample_weight, pos_weight, mask, self.neg_weight), numbers

    def __repr__(self) -> str:
        given = {} if self.reduction == "mean" else {"reduction": repr(self.reduction)}
        for name in ("weight", "pos_weight", "neg_weight"):
            if (array := getattr(self, name)) is not None:
                given[name] = f"{array.dtype}{list(array.shape)}"
        given |= options.shown_terms(self)
        if self.check_targets:
            given["check_targets"] = "True"
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in given.items())})"


class BCEWithLogitsLoss(_Loss):
    """``binary_cross_entropy_with_logits`` as a callable, whose parameters are given once.

    Examples:
        >>> import numpy as np
        >>> BCEWithLogitsLoss(reduction="sum")(np.zeros(2), np.ones(2)).round(4)
        np.float64(1.3863)
    """

    loss = LOGITS

    def __init__(
        self,
        weight: Array | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Array | None = None,
        *,
        ignore_index: float | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
        alpha: float | None = None,
        gamma_positive: float | None = None,
        gamma_negative: float | None = None,
        margin: float = 0,
        focal: str = "branch",
        neg_weight: Array | None = None,
        check_targets: bool = False,
    ) -> None:
        meant = options.legacy_reduction(size_average, reduce, reduction)
        family = options.focal(alpha, gamma_positive, gamma_negative, margin, focal)
        numbers = Numbers(ignore_index, label_smoothing, gamma, family, check_targets)
        super().__init__(weight, meant, pos_weight, numbers, neg_weight)


class BCELoss(_Loss):
    """``binary_cross_entropy`` as a callable, whose parameters are given once.

    Examples:
        >>> import numpy as np
        >>> BCELoss()(np.array([0.5]), np.array([1])).round(4)
        np.float64(0.6931)
    """

    loss = PROBABILITIES

    def __init__(
        self,
        weight: Array | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        *,
        pos_weight: Array | None = None,
        ignore_index: float | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
        alpha: float | None = None,
        gamma_positive: float | None = None,
        gamma_negative: float | None = None,
        margin: float = 0,
        focal: str = "branch",
        neg_weight: Array | None = None,
        check_targets: bool = False,
    ) -> None:
        meant = options.legacy_reduction(size_average, reduce, reduction)
        family = options.focal(alpha, gamma_positive, gamma_negative, margin, focal)
        numbers = Numbers(ignore_index, label_smoothing, gamma, family, check_targets)
        super().__init__(weight, meant, pos_weight, numbers, neg_weight)

"""The gradient and the second derivative in one pass over memory, which is what gradient boosting asks a loss for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from binxent import options
from binxent.formula import LOGITS
from binxent.kernels import Outputs, native
from binxent.numpy.eager import (
    Array,
    Numbers,
    check_out,
    checked,
    described,
    described_all,
    new_array,
    new_value,
    planned,
    refuse_out_of_range,
    share_memory,
)
from binxent.options import RefusalError

if TYPE_CHECKING:
    from binxent.call import Operands

HESSIANS = ("exact", "expected")


def grad_and_hess(
    logits: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    *,
    reduction: str = "sum",
    sample_weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    alpha: float | None = None,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0,
    focal: str = "branch",
    neg_weight: Array | None = None,
    normalizer: float | Array | None = None,
    check_targets: bool = False,
    hessian: str = "exact",
    value: bool = False,
    out: tuple[Array, Array] | None = None,
) -> tuple[Any, ...]:
    """The gradient and the diagonal Hessian of the loss with respect to the logits, in one pass over memory.

    ``w · [(1−y)·σ(x) − p·y·σ(−x)]`` and ``w · [(1−y) + p·y]·σ(x)·σ(−x)`` for each element. Neither sigmoid is made
    from the other, so both tails keep their digits. Nothing is divided by, unless ``reduction`` says so: the results
    are the derivatives of each element's own loss, and of the sum of all, as XGBoost, LightGBM and CatBoost take them.

    Args:
        logits: of any shape; float16, bfloat16, float32 or float64.
        target, weight, pos_weight: as in ``binary_cross_entropy_with_logits``; sparse targets too.
        reduction: of the loss whose derivatives are returned. ``"sum"`` and ``"none"`` have the same.
        sample_weight, mask, ignore_index, label_smoothing, gamma, alpha, gamma_positive, gamma_negative: as in the
            loss. Where an element is ignored, both derivatives are 0.
        margin, focal, neg_weight, normalizer, check_targets: likewise. At the margin, σ(x) = m, where the slope of a
            negative jumps, its derivatives are 0, as they are below.
        hessian: ``"exact"``, or ``"expected"``, which differs with a power or a margin only. The focal loss bends
            downwards where a prediction is wrong, so its exact second derivative may be negative there. The expected
            one is never negative: it is the mean over labels for which these logits are the best prediction, without
            the margin, multiplied by the weights of the element; a negative below the margin adds 0.
        value: whether the loss is returned too.
        out: two arrays of the logits' shape and dtype, in which the gradient and the Hessian are written. The first
            may be the logits themselves.

    Returns:
        The gradient and the Hessian, of the logits' shape and dtype; with ``value=True`` the loss before them.

    Raises:
        TypeError, ValueError: as ``value_and_grad``, and for two arrays of ``out`` that overlap. Nothing has been
            written then.

    Differences from scikit-learn's ``HalfBinomialLoss.gradient_hessian``, which is private: all dtypes and layouts,
    every option, a weight for each element.

    Examples:
        >>> import numpy as np
        >>> gradient, hessian = grad_and_hess(np.array([0.0, 2.0]), np.array([1, 0]))
        >>> print(gradient.round(4), hessian.round(4))
        [-0.5     0.8808] [0.25  0.105]
    """
    if hessian not in HESSIANS:
        raise RefusalError("hessian", f"{hessian!r}; expected one of {HESSIANS}")
    x = checked("logits", logits, floating=True)
    given = (x, target, weight, sample_weight, pos_weight, mask, neg_weight)
    family = options.focal(alpha, gamma_positive, gamma_negative, margin, focal)
    numbers = Numbers(ignore_index, label_smoothing, gamma, family, check_targets)
    call, operands, divisor = planned(LOGITS, reduction, given, numbers, normalizer)
    read = described_all(operands)

    def run(outputs: Outputs) -> None:
        if outside := native.compute(call, read, outputs, divisor):
            refuse_out_of_range(outside, call, operands)

    if out is None:
        gradient, curvature = new_array(x.shape, x.dtype), new_array(x.shape, x.dtype)
    else:
        gradient, curvature = _places(out, operands)
        if call.checks_targets:  # what is refused must be found before the caller's arrays are written
            run(Outputs(total=described(np.empty(()))))
    loss = new_value(call, x) if value else None
    places = {"elements" if reduction == "none" else "total": None if loss is None else described(loss)}
    places["hessian" if hessian == "exact" else "expected_hessian"] = described(curvature)
    run(Outputs(**places, gradient=described(gradient)))
    written = (gradient, curvature) if out is None else tuple(out)
    return written if loss is None else (loss[()], *written)


def _places(out: object, operands: Operands) -> tuple[Array, Array]:
    """The arrays for both results: each as ``check_out`` has it, and apart from each other."""
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise TypeError(f"out: expected two arrays, (gradient, hessian), got {type(out).__name__}")
    gradient, curvature = (check_out(place, operands) for place in out)
    if share_memory(curvature, operands.input):
        raise ValueError("out: the Hessian overlaps the logits; only the gradient may share theirs")
    if share_memory(gradient, curvature):
        raise ValueError("out: the gradient overlaps the Hessian; expected memory of its own for each")
    return gradient, curvature

"""The two losses as functions of NumPy arrays, and ``value_and_grad`` to train without an autograd framework."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from binxent import options
from binxent.formula import LOGITS, PROBABILITIES
from binxent.numpy.eager import Array, Numbers, compute

if TYPE_CHECKING:
    import numpy as np

    from binxent.targets import IndexTargets


def binary_cross_entropy_with_logits(
    input: Array,
    target: Array | IndexTargets,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Array | None = None,
    *,
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
) -> np.floating[Any] | Array:
    """Binary cross-entropy of logits.

    ``w · [p·y·softplus(−x) + (1−y)·softplus(x)]`` for each element, with x the input, y the target, w the weight and
    p the pos_weight; then the mean (divided by the number of elements), the sum, or none.

    Args:
        input: logits, of any shape; float16, bfloat16, float32 or float64.
        target: of the input's shape; any of these dtypes, bool, uint8, int8, int16, int32 or int64. Usually in
            [0, 1], which is not enforced. Or a sparse target of [N, C], such as ``binxent.IndexTargets``.
        weight: broadcasts to the input.
        size_average, reduce: deprecated; either overrides ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; ``"batchmean"``, the sum divided by the size of the first axis;
            ``"weighted_mean"``, the sum divided by the sum of the weights (pos_weight does not count); ``"per_label"``
            and ``"per_sample"``, the mean over all axes but the last, and but the first, of what is kept there.
        pos_weight: broadcasts to the input; multiplies the loss of positives.
        sample_weight: shape [N], along the input's first axis; multiplies ``weight``.
        mask: broadcasts to the input; an element is ignored where it is 0 or False: whatever the element holds, even
            NaN, it adds 0 to the loss, to the gradient and to the divisor of ``"mean"``. The mean of nothing is 0.
        ignore_index: an integer such as -100, or NaN; elements with this target are ignored likewise.
        label_smoothing: ε in [0, 1]; y·(1−ε) + ε/2 stands for the target (Szegedy et al., 2016).
        gamma: γ ≥ 0 of the focal loss (Lin et al., 2017); each term is multiplied by (probability given to the wrong
            class)^γ.
        alpha: α in [0, 1] of the focal loss: positives are multiplied by α, negatives by 1 − α, after smoothing.
        gamma_positive, gamma_negative: in place of ``gamma``, one for each class (Ridnik et al., 2021); one that is not
            given is 0.
        margin: m in [0, 1); max(p − m, 0) stands for the probability p where it is a negative's.
        focal: for soft targets, what γ is the power of. ``"branch"``: of 1 − p for the positive share of a target, and
            of p for the negative one. ``"p_t"``: of 1 − p_t, for the whole, p_t = p·y + (1−p)·(1−y), as torchvision,
            Keras, fvcore and optax have it; α_t = α·y + (1−α)·(1−y) then multiplies the whole.
        neg_weight: broadcasts to the input; multiplies the loss of negatives.
        check_targets: whether a target outside [0, 1], a negative ``pos_weight`` or ``neg_weight``, and a mask that is
            neither 0 nor 1 are refused; ignored elements may hold anything.
        normalizer: what ``"mean"``, ``"batchmean"`` or ``"weighted_mean"`` divides by, in place of this batch's own
            divisor, such as the sum of ``count`` over micro-batches: a number, or an array of one element. 0 gives a
            loss and gradients of 0.

    Returns:
        A scalar, or an array of the input's shape for ``"none"``; of the wider floating dtype of input and target.

    Raises:
        TypeError: an argument is no array, or of a dtype that is not supported.
        ValueError: a shape does not fit, or the reduction is unknown.

    Differences from ``torch.nn.functional.binary_cross_entropy_with_logits``: integer and boolean targets, exact
    tails, finite results for infinite logits with the right target, and the parameters after ``pos_weight``.

    Examples:
        >>> import numpy as np
        >>> target = np.ones((10, 64), np.float32)
        >>> output = np.full((10, 64), 1.5, np.float32)
        >>> loss = binary_cross_entropy_with_logits(output, target, pos_weight=np.ones(64, np.float32))
        >>> print(f"{loss:.4f}")
        0.2014
    """
    meant = options.legacy_reduction(size_average, reduce, reduction)
    given = (input, target, weight, sample_weight, pos_weight, mask, neg_weight)
    family = options.focal(alpha, gamma_positive, gamma_negative, margin, focal)
    numbers = Numbers(ignore_index, label_smoothing, gamma, family, check_targets)
    found: np.floating[Any] | Array = compute(LOGITS, meant, given, numbers, normalizer)[0]
    return found


def binary_cross_entropy(
    input: Array,
    target: Array | IndexTargets,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    pos_weight: Array | None = None,
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
) -> np.floating[Any] | Array:
    """Binary cross-entropy of probabilities.

    ``w · [p·y·(−log q) + (1−y)·(−log(1−q))]`` for each element, with q the input, y the target, w the weight and p
    the pos_weight; both logarithms are clamped at −100. Then the mean, the sum, or none.

    Arguments, results and errors are those of ``binary_cross_entropy_with_logits``. In addition, input and target must
    lie in [0, 1]; otherwise a ValueError names the first element that does not.

    Differences from ``torch.nn.functional.binary_cross_entropy``: integer and boolean targets, mixed dtypes,
    ``pos_weight`` and the parameters after it.

    Examples:
        >>> import numpy as np
        >>> binary_cross_entropy(np.array([0.5, 0.9]), np.array([1, 1]), reduction="none").round(4)
        array([0.6931, 0.1054])
    """
    meant = options.legacy_reduction(size_average, reduce, reduction)
    given = (input, target, weight, sample_weight, pos_weight, mask, neg_weight)
    family = options.focal(alpha, gamma_positive, gamma_negative, margin, focal)
    numbers = Numbers(ignore_index, label_smoothing, gamma, family, check_targets)
    found: np.floating[Any] | Array = compute(PROBABILITIES, meant, given, numbers, normalizer)[0]
    return found


def value_and_grad(
    input: Array,
    target: Array | IndexTargets,
    weight: Array | None = None,
    reduction: str = "mean",
    pos_weight: Array | None = None,
    *,
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
    probabilities: bool = False,
    out: Array | None = None,
) -> tuple[np.floating[Any] | Array, Array]:
    """The loss and its gradient with respect to the input, in one pass over memory.

    ``d/dx = w · [(1−y)·σ(x) − p·y·σ(−x)]`` for logits, divided by the number of elements for ``"mean"``; for
    ``"none"``, of each element's own loss, and for ``"per_label"`` and ``"per_sample"`` of the sum of the means. With
    ``probabilities=True`` the input is probabilities and the gradient
    ``w · [(1−y)·q − p·y·(1−q)] / max(q·(1−q), 1e-12)``.

    Args:
        input, target, weight, reduction, pos_weight: as in ``binary_cross_entropy_with_logits``.
        sample_weight, mask, ignore_index, label_smoothing, gamma, alpha, gamma_positive, gamma_negative: likewise.
        margin, focal, neg_weight, normalizer, check_targets: likewise.
        probabilities: whether the input is probabilities.
        out: an array of the input's shape and dtype, in which the gradient is written. It may be the input itself;
            nothing is allocated then.

    Returns:
        The loss, and the gradient, of the input's shape and dtype.

    Raises:
        TypeError, ValueError: as the loss, and for an ``out`` of another shape or dtype, read-only, or overlapping
            an operand or itself. Nothing has been written then.

    Examples:
        >>> import numpy as np
        >>> loss, gradient = value_and_grad(np.zeros(4), np.array([1, 0, 0, 1]))
        >>> print(f"{loss:.4f}", gradient)
        0.6931 [-0.125  0.125  0.125 -0.125]
    """
    given = (input, target, weight, sample_weight, pos_weight, mask, neg_weight)
    family = options.focal(alpha, gamma_positive, gamma_negative, margin, focal)
    numbers = Numbers(ignore_index, label_smoothing, gamma, family, check_targets)
    loss = PROBABILITIES if probabilities else LOGITS
    return compute(loss, reduction, given, numbers, normalizer, want_gradient=True, out=out)

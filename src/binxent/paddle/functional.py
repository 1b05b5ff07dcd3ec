"""The two losses as functions; drop-ins for Paddle's.

In the dynamic graph on CPU, ``eager`` reaches the kernel. For everything else the definition is computed in Paddle's
own operations.
"""

from __future__ import annotations

import functools
import math
import os
from typing import TYPE_CHECKING, Any, Literal

import paddle
from paddle import Tensor
from paddle.base import core

from binxent import kernel, kernels, options
from binxent.call import Operands, normalized, plan
from binxent.options import NO_FOCAL, RefusalError
from binxent.options import focal as family
from binxent.paddle import arrays, eager, sparse, static
from binxent.paddle.arrays import LOGITS, PROBABILITIES
from binxent.paddle.operands import TENSORS, check, named, planned, refuse, split_normalizer, split_options

if TYPE_CHECKING:
    from binxent.call import Call, Shape
    from binxent.formula import Loss
    from binxent.paddle.operands import Given, Numbers
    from binxent.targets import IndexTargets

Reduction = Literal["none", "mean", "sum", "batchmean", "weighted_mean", "per_label", "per_sample"]

_plain_elements = kernel.paddle.plain_elements  # bound once: looking it up is measurable in a loss of 64 elements


# Options of other types are not cached: an array has no hash, and a tensor's hash does not depend on its number.
_NUMBER = (float, int, type(None))
_OF_ELEMENTS = ("mean", "sum", "none", "weighted_mean")  # reductions that need only the number of elements


# A look-up here takes a third of the time of ``known_plan``, which compares seven more arguments.
@functools.lru_cache(maxsize=256, typed=True)
def _plain_call(
    loss: Loss, reduction: str, elements: int, ignore_index: object, label_smoothing: object, gamma: object
) -> Call:
    return plan(
        loss,
        reduction,
        ("float32", "float32"),
        (elements,),
        (elements,),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        gamma=gamma,
        any_target=True,
    )


def compute(loss: Loss, reduction: str, given: Given, numbers: Numbers, normalizer: Any = None) -> Any:
    """The loss. float32 operands without weights or mask, the usual case, take the shortest way to the kernel."""
    input, label, weight, sample_weight, pos_weight, mask, neg_weight = given
    ignore_index, label_smoothing, gamma, focal, checks = numbers
    alone = weight is sample_weight is pos_weight is mask is neg_weight is None and focal is NO_FOCAL and not checks
    elements = _plain_elements(input, label) if alone else -1
    try:
        if (
            elements > 0
            and normalizer is None
            and label.stop_gradient
            and reduction in _OF_ELEMENTS
            and isinstance(ignore_index, _NUMBER)
            and isinstance(label_smoothing, _NUMBER)
            and isinstance(gamma, _NUMBER)
        ):
            call = _plain_call(loss, reduction, elements, ignore_index, label_smoothing, gamma)
            return eager.loss(call, Operands(input, label), elements)
        return _general_loss(loss, reduction, given, numbers, normalizer)
    except RefusalError as refusal:
        refuse(loss, refusal, reduction, given)


# to_static(full_graph=False) does not look into these files, and calls the loss with tensors.
paddle.jit.marker.force_dynamic(compute)
core.eval_frame_skip_file_prefix((os.path.dirname(__file__) + os.sep,))


def _shape(operand: Tensor | None) -> Shape | None:
    return None if operand is None else tuple(operand.shape)


def _general_loss(loss: Loss, reduction: str, given: Given, numbers: Numbers, normalizer: Any) -> Any:
    if reduction in options.BY_AXIS:
        return _by_axis(loss, reduction, given, numbers, normalizer)
    input, label, weight, sample_weight, pos_weight, mask, neg_weight = given
    if not paddle.in_dynamic_mode() and not (isinstance(input, Tensor) and isinstance(label, Tensor)):
        return static.compute(loss, reduction, given, numbers, normalizer)
    rows = None
    if sparse.is_target(label):
        rows = sparse.rows(named(loss, given)[0], label, input, numbers[0])
        label = sparse.dtype_of(rows)
        given = (input, label, *given[2:])
    check(*named(loss, given), Tensor, ValueError, RuntimeError)
    shape, elements = tuple(input.shape), math.prod(input.shape)
    pos_weight, neg_weight = (
        # In Paddle, one number has any dimensions.
        w.reshape(shape) if w is not None and elements == math.prod(w.shape) == 1 else w
        for w in (pos_weight, neg_weight)
    )
    enlarges = weight is not None and arrays.enlarges(weight.shape, input.shape)
    numbers, learnt = split_options(numbers)
    call = planned(
        loss,
        reduction,
        given,
        [
            shape,
            tuple(label.shape) if rows is None else rows.shape,
            () if enlarges else _shape(weight),
            _shape(sample_weight),
            _shape(pos_weight),
            _shape(mask),
            _shape(neg_weight),
        ],
        numbers,
    )
    if sample_weight is not None:
        sample_weight = sample_weight.reshape([shape[0], *[1] * (len(shape) - 1)])
    operands = Operands(input, label, weight, sample_weight, pos_weight, mask, neg_weight=neg_weight, **learnt)
    if rows is not None:
        operands = operands._replace(target=rows)
    learns = bool(learnt) or any(
        operand is not None and not operand.stop_gradient for operand in (label, *operands[2:5], neg_weight)
    )
    by_kernel = (
        kernels.IS_BUILT
        and input.place.is_cpu_place()
        and elements
        and input.is_dense()
        and not enlarges
        and not (learns and paddle.is_grad_enabled())
    )
    if normalizer is not None:
        number, divisor = split_normalizer(normalizer, reduction, call.dtype, by_kernel)
        call, operands = normalized(call, number), operands._replace(normalizer=divisor)
    return eager.loss(call, operands, elements) if by_kernel else arrays.loss(call, operands)


def _by_axis(loss: Loss, reduction: str, given: Given, numbers: Numbers, normalizer: Any) -> Any:
    """The means over all axes but one, of the losses for "none"."""
    if normalizer is not None:
        options.check_normalizer(reduction)
    losses = _general_loss(loss, "none", given, numbers, None)
    input, label, *_ = given
    ignore_index = numbers[0]
    if sparse.is_target(label):
        rows = sparse.rows(named(loss, given)[0], label, input, ignore_index)
        label = sparse.with_dense_target(Operands(input, rows)).target
    return arrays.by_axis(reduction, losses, label, given[5], None if ignore_index is None else float(ignore_index))


@paddle.jit.not_to_static  # to_static(full_graph=True) calls it as it is, with values of the graph
def binary_cross_entropy_with_logits(
    logit: Tensor,
    label: Tensor | IndexTargets,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
    name: str | None = None,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: float | None = None,
    label_smoothing: float | Tensor = 0.0,
    gamma: float | Tensor = 0.0,
    alpha: float | None = None,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0,
    focal: str = "branch",
    neg_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    check_targets: bool = False,
) -> Tensor:
    """Binary cross-entropy of logits; a drop-in for ``paddle.nn.functional.binary_cross_entropy_with_logits``.

    ``w · [p·y·softplus(−x) + (1−y)·softplus(x)]`` for each element, with x the logit, y the label, w the weight and p
    the pos_weight; then the mean (divided by the number of elements), the sum, or none.

    Args:
        logit: of any shape; float16, bfloat16, float32 or float64.
        label: of the logit's shape; any of these dtypes, bool, uint8, int8, int16, int32 or int64. Usually in [0, 1],
            which is not enforced. In the dynamic graph also a sparse label of [N, C], such as ``binxent.IndexTargets``.
        weight: broadcasts to the logit, as in multiplication. As in Paddle, it may also have more dimensions and
            enlarge the result; the reduction is then of all of it.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; ``"batchmean"``, the sum divided by the size of the first axis;
            ``"weighted_mean"``, the sum divided by the sum of the weights (pos_weight does not count); ``"per_label"``
            and ``"per_sample"``, the mean over all axes but the last, and but the first, of what is kept there.
        pos_weight: broadcasts to the logit; multiplies the loss of positives. In [N, C] logits, one for each class.
        name: accepted and without effect, as in Paddle.
        sample_weight: shape [N], along the logit's first axis; multiplies ``weight``.
        mask: broadcasts to the logit; an element is ignored where it is 0 or False: whatever the element holds, even
            NaN, it adds 0 to the loss, to the gradients and to the divisor of ``"mean"``. The mean of nothing is 0.
        ignore_index: an integer such as -100, or NaN; elements with this label are ignored likewise.
        label_smoothing: ε in [0, 1]; y·(1−ε) + ε/2 stands for the label (Szegedy et al., 2016).
        gamma: γ ≥ 0 of the focal loss (Lin et al., 2017); each term is multiplied by (probability given to the wrong
            class)^γ. It and ``label_smoothing`` may be tensors of one element, and learn. A variable of a static graph
            that is out of range makes the loss NaN.
        alpha: α in [0, 1] of the focal loss: positives are multiplied by α, negatives by 1 − α, after smoothing.
        gamma_positive, gamma_negative: in place of ``gamma``, one for each class (Ridnik et al., 2021); one that is not
            given is 0.
        margin: m in [0, 1); max(p − m, 0) stands for the probability p where it is a negative's.
        focal: for soft labels, what γ is the power of. ``"branch"``: of 1 − p for the positive share of a label, and
            of p for the negative one. ``"p_t"``: of 1 − p_t, for the whole, p_t = p·y + (1−p)·(1−y), as torchvision,
            Keras, fvcore and optax have it; α_t = α·y + (1−α)·(1−y) then multiplies the whole.
        neg_weight: broadcasts to the logit; multiplies the loss of negatives.
        normalizer: what ``"mean"``, ``"batchmean"`` or ``"weighted_mean"`` divides by, in place of this batch's own
            divisor, such as the sum of ``count`` over micro-batches or machines: a number, or a tensor of one element,
            which gets no gradient. 0 gives a loss and gradients of 0. In a static graph a number is a constant.
        check_targets: whether a label outside [0, 1], a negative ``pos_weight`` or ``neg_weight``, and a mask that is
            neither 0 nor 1 are refused; ignored elements may hold anything. A static graph raises Paddle's own
            ValueError when it runs, which shows a label that is wrong, and NaN in place of a weight or a mask. In
            a static graph on an accelerator the loss is NaN.

    Returns:
        A tensor of shape [], or of the logit's shape for ``"none"``; of the wider floating dtype of logit and label.
        ``"per_label"`` and ``"per_sample"`` keep one axis.

    Raises:
        ValueError: logit and label differ in shape, a weight or the mask does not broadcast, the reduction is unknown,
            a number is out of its range, or an argument is no Tensor (in a static graph, TypeError).
        RuntimeError: logit or label is of a dtype that is not supported.
        TypeError: a weight or the mask is of such a dtype, or an option is no number.

    Differences from Paddle: the right gradient where a logit is 0; exact tails; a mean that is right for any number of
    elements; labels of −100 count; integer, boolean, half precision and mixed dtypes; gradients to ``label`` and
    ``pos_weight``, and of gradients; a weight never widens the result; a ``pos_weight`` of more dimensions is refused;
    ``"batchmean"`` and ``"weighted_mean"``, ``sample_weight`` and the parameters after it.

    Examples:
        >>> logit = paddle.to_tensor([5.0, 1.0, 3.0])
        >>> label = paddle.to_tensor([1.0, 0.0, 1.0])
        >>> round(binary_cross_entropy_with_logits(logit, label).item(), 6)
        0.456188
    """
    given = (logit, label, weight, sample_weight, pos_weight, mask, neg_weight)
    of_focal = family(alpha, gamma_positive, gamma_negative, margin, focal, TENSORS)
    numbers = (ignore_index, label_smoothing, gamma, of_focal, check_targets)
    loss: Tensor = compute(LOGITS, reduction, given, numbers, normalizer)
    return loss


@paddle.jit.not_to_static
def binary_cross_entropy(
    input: Tensor,
    label: Tensor | IndexTargets,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    name: str | None = None,
    *,
    pos_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: float | None = None,
    label_smoothing: float | Tensor = 0.0,
    gamma: float | Tensor = 0.0,
    alpha: float | None = None,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0,
    focal: str = "branch",
    neg_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    check_targets: bool = False,
) -> Tensor:
    """Binary cross-entropy of probabilities; a drop-in for ``paddle.nn.functional.binary_cross_entropy``.

    ``w · [p·y·(−log q) + (1−y)·(−log(1−q))]`` for each element, with q the input, y the label, w the weight and p the
    pos_weight; both logarithms are clamped at −100, and the gradient's denominator q·(1−q) at 1e-12. Then the mean
    (divided by the number of elements), the sum, or none.

    Args:
        input: probabilities, of any shape; float16, bfloat16, float32 or float64.
        label, weight, reduction, name, pos_weight: as with logits.
        sample_weight, mask, ignore_index, label_smoothing, gamma, alpha, gamma_positive, gamma_negative: likewise.
        margin, focal, neg_weight, normalizer, check_targets: likewise.

    Returns:
        As with logits.

    Raises:
        ValueError: an input that is not ignored lies outside [0, 1]; the message names the first. A static graph raises
            it when it runs. On accelerators, such elements are NaN. The rest as with logits.

    Differences from Paddle: integer, boolean, half precision and mixed dtypes; exact for small probabilities; a mean
    that is right for any number of elements; gradients to ``label``, and of gradients; ``"batchmean"`` and
    ``"weighted_mean"``, ``pos_weight`` and the parameters after it.

    Examples:
        >>> input = paddle.to_tensor([0.5, 0.6, 0.7])
        >>> label = paddle.to_tensor([1.0, 0.0, 1.0])
        >>> print(binary_cross_entropy(input, label))
        Tensor(shape=[], dtype=float32, place=Place(cpu), stop_gradient=True,
               0.65537095)
    """
    given = (input, label, weight, sample_weight, pos_weight, mask, neg_weight)
    of_focal = family(alpha, gamma_positive, gamma_negative, margin, focal, TENSORS)
    numbers = (ignore_index, label_smoothing, gamma, of_focal, check_targets)
    loss: Tensor = compute(PROBABILITIES, reduction, given, numbers, normalizer)
    return loss

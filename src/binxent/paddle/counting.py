"""What a mean divides by, without the loss: to be added up over micro-batches and machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import paddle
from paddle import Tensor

from binxent import options, sparse
from binxent.call import KEPT, WEIGHTS, Operands, plan
from binxent.formula import LOGITS
from binxent.kernels import native
from binxent.paddle import arrays, static
from binxent.paddle.arrays import NAME
from binxent.paddle.operands import check
from binxent.paddle.sparse import dtype_of, is_target, rows_to_count, with_dense_target

if TYPE_CHECKING:
    from binxent.paddle.functional import Reduction


@paddle.jit.not_to_static  # as the losses
def count(
    label: Tensor,
    *,
    reduction: Reduction = "mean",
    mask: Tensor | None = None,
    ignore_index: float | None = None,
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Returns what the mean of these labels divides by.

    The elements that are kept for ``"mean"``; the sum of their weights for ``"weighted_mean"``, or their number where
    there are none; the size of the first axis for ``"batchmean"``. The sum over micro-batches or machines is the
    ``normalizer=`` with which their losses add up to the mean over all of them.

    Args:
        label, mask, ignore_index, weight, sample_weight: as in ``binary_cross_entropy_with_logits``. ``IndexTargets``
            need ``num_labels`` here, and no offsets.
        reduction: ``"mean"``, ``"batchmean"`` or ``"weighted_mean"``.

    Returns:
        A tensor of shape []: int64, or float64 for a sum of weights.

    Raises:
        ValueError: the reduction divides by nothing, a shape does not fit, or an argument is no Tensor (in a static
            graph, TypeError).
        TypeError, RuntimeError: an argument is of a dtype that is not supported.

    Examples:
        >>> count(paddle.to_tensor([[1, 0], [1, -100]]), ignore_index=-100).item()
        3
    """
    options.check_countable(reduction)
    found: Tensor
    if not paddle.in_dynamic_mode() and not isinstance(label, Tensor):
        found = static.count(label, reduction, mask, ignore_index, weight, sample_weight)
        return found
    read: Any = label
    if is_target(label):
        read = rows_to_count("count", label, ignore_index)
        label = dtype_of(read)
    given: dict[str, Any] = {"label": label, "weight": weight, "sample_weight": sample_weight, "mask": mask}
    check("count", given, Tensor, ValueError, RuntimeError)
    shape = tuple(read.shape)
    enlarges = weight is not None and arrays.enlarges(weight.shape, shape)
    others = {"weight": weight, "sample_weight": sample_weight, "mask": mask}
    shapes: dict[str, Any] = {name: tuple(operand.shape) for name, operand in others.items() if operand is not None}
    if enlarges:
        shapes["weight"] = ()
    call = plan(LOGITS, reduction, ("float64", NAME[label.dtype]), shape, shape, **shapes, ignore_index=ignore_index)
    if sample_weight is not None:
        sample_weight = sample_weight.reshape([shape[0], *[1] * (len(shape) - 1)])
    operands = Operands(label, read, weight, sample_weight, mask=mask)
    by_kernel = all(o is None or (o.place.is_cpu_place() and o.is_dense()) for o in given.values())
    if enlarges or not by_kernel:
        found = arrays.count(call, with_dense_target(operands))
        return found
    if call.divisor not in (KEPT, WEIGHTS):
        return paddle.full([], call.divisor, paddle.int64)
    if read is not label:
        operands = operands._replace(input=sparse.logits_to_count(shape))
    counted = native.measure(call, operands)
    return paddle.full([], counted, paddle.float64 if call.divisor == WEIGHTS else paddle.int64)

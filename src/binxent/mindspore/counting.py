"""What a mean divides by, without the loss: to be added up over micro-batches and machines.

MindSpore compiles it into graphs from this source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mindspore import Tensor, ops

from binxent import definition
from binxent.call import ROWS, SIZE, WEIGHTS
from binxent.mindspore import eager
from binxent.mindspore.arrays import ARRAYS, column
from binxent.mindspore.operands import checked_reduction, checked_terms, planned_count
from binxent.mindspore.operators import kind_of

if TYPE_CHECKING:
    from binxent.call import Call
    from binxent.mindspore.operands import Kind


@ops.constexpr(check=False)
def _planned(reduction: str, ignores: bool, ignore_index: float | None, *kinds: Kind) -> Call:
    if ignores and ignore_index is None:
        raise TypeError("ignore_index: expected a number, and that a graph's is constant, got a variable")
    return planned_count(checked_reduction(reduction), checked_terms(ignore_index, 0.0, 0.0), *kinds)


@ops.constexpr(check=False)
def _is_sparse(target: Any) -> bool:
    return eager.is_sparse(target)


def count(
    target: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    ignore_index: float | None = None,
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Returns what the mean of these targets divides by.

    The elements that are kept for ``"mean"``; the sum of their weights for ``"weighted_mean"``, or their number where
    there are none; the size of the first axis for ``"batchmean"``. The sum over micro-batches or machines is the
    ``normalizer=`` with which their losses add up to the mean over all of them.

    Args:
        target, mask, ignore_index, weight, sample_weight: as in ``binary_cross_entropy_with_logits``. ``IndexTargets``
            need ``num_labels`` here, and no offsets.
        reduction: ``"mean"``, ``"batchmean"`` or ``"weighted_mean"``, in upper or lower case.

    Returns:
        A tensor of shape (): int64, or float64 for a sum of weights (float32 on Ascend and GPU).

    Raises:
        ValueError: the reduction divides by nothing, or a shape does not fit.
        TypeError: an argument is no tensor, or of a dtype that is not supported; the reduction is no str.

    Example:
        >>> import mindspore
        >>> print(count(mindspore.tensor([[1, 0], [1, -100]]), ignore_index=-100))
        3
    """
    if _is_sparse(target):
        return eager.count(target, reduction, ignore_index, weight, sample_weight, mask)
    ignores = ignore_index is not None
    call = _planned(
        reduction, ignores, ignore_index, kind_of(target), kind_of(weight), kind_of(sample_weight), kind_of(mask)
    )
    if call.divisor == ROWS:
        return ops.TensorShape()(target)[0]
    if call.divisor == SIZE:
        return ops.TensorShape()(target).prod()
    y = ARRAYS.widen(target, "")
    keep = definition.kept(ARRAYS, y, mask, ignore_index)
    if call.divisor != WEIGHTS:
        return ARRAYS.count(keep, y)
    w = definition.seen(ARRAYS, call, keep, weight)
    if sample_weight is not None:
        s = column(ARRAYS.widen(sample_weight, ""), target)
        w = definition.product(w, definition.seen(ARRAYS, call, keep, s))
    return ops.stop_gradient(definition.measure(ARRAYS, call, ops.zeros_like(y), w, keep))

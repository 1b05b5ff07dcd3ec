"""What a mean divides by, without the loss: to be added up over micro-batches and machines."""

from __future__ import annotations

from typing import Any

import numpy as np

from binxent import options, sparse
from binxent.call import KEPT, WEIGHTS, Operands, plan
from binxent.formula import LOGITS
from binxent.kernels import native
from binxent.numpy.eager import Array, checked, described, is_sparse, target_operand


def count(
    target: Any,
    *,
    reduction: str = "mean",
    mask: Array | None = None,
    ignore_index: float | None = None,
    weight: Array | None = None,
    sample_weight: Array | None = None,
) -> np.int64 | np.float64:
    """Returns what the mean of these targets divides by.

    The elements that are kept for ``"mean"``; the sum of their weights for ``"weighted_mean"``, or their number where
    there are none; the size of the first axis for ``"batchmean"``. The sum over micro-batches or machines is the
    ``normalizer=`` with which their losses add up to the mean over all of them.

    Args:
        target, mask, ignore_index, weight, sample_weight: as in ``binary_cross_entropy_with_logits``. ``IndexTargets``
            need ``num_labels`` here, and no offsets.
        reduction: ``"mean"``, ``"batchmean"`` or ``"weighted_mean"``.

    Returns:
        A scalar: int64, or float64 for a sum of weights.

    Raises:
        ValueError: the reduction divides by nothing, or a shape does not fit.
        TypeError: an argument is no array, or of a dtype that is not supported.

    Examples:
        >>> import numpy as np
        >>> count(np.array([[1, 0], [1, -100]]), ignore_index=-100)
        np.int64(3)
    """
    options.check_countable(reduction)
    input = target  # of which the shape alone is looked at
    if is_sparse(target):
        input = np.broadcast_to(np.False_, sparse.shape_to_count(target, ignore_index))
    input = checked("target", input)
    read, dtype, shape = target_operand(target, input, ignore_index)
    given = {"weight": weight, "sample_weight": sample_weight, "mask": mask}
    arrays = {name: checked(name, array) for name, array in given.items() if array is not None}
    shapes: dict[str, Any] = {name: array.shape for name, array in arrays.items()}
    call = plan(LOGITS, reduction, ("float64", dtype), shape, shape, **shapes, ignore_index=ignore_index)
    if call.divisor not in (KEPT, WEIGHTS):
        return np.int64(call.divisor)
    if "sample_weight" in arrays:
        arrays["sample_weight"] = arrays["sample_weight"].reshape((-1,) + (1,) * (len(shape) - 1))
    operands = Operands(*map(described, (input, read)), **{name: described(a) for name, a in arrays.items()})
    counted = native.measure(call, operands)
    return np.float64(counted) if call.divisor == WEIGHTS else np.int64(counted)

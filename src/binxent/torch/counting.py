"""What a mean divides by, without the loss: to be added up over micro-batches and machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from binxent import definition, options
from binxent.call import KEPT, WEIGHTS, Operands, plan
from binxent.torch import cpu, cuda, shards
from binxent.torch.arrays import ARRAYS, LOGITS, NAME
from binxent.torch.context import is_tracing, is_watched
from binxent.torch.operands import check

if TYPE_CHECKING:
    from binxent.call import Call


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
        target, mask, ignore_index, weight, sample_weight: as in ``binary_cross_entropy_with_logits``.
        reduction: ``"mean"``, ``"batchmean"`` or ``"weighted_mean"``.

    Returns:
        A tensor without axes on the target's device: int64, or float64 for a sum of weights. Nothing waits for the
        device. Of DTensors it is what all ranks count together.

    Raises:
        ValueError: the reduction divides by nothing, or a shape does not fit.
        TypeError, NotImplementedError: an argument is no tensor, or of a dtype or layout that is not supported.

    Examples:
        >>> count(torch.tensor([[1, 0], [1, -100]]), ignore_index=-100)
        tensor(3)
    """
    options.check_countable(reduction)
    for name, operand in (("target", target), ("weight", weight), ("sample_weight", sample_weight), ("mask", mask)):
        if operand is not None or name == "target":
            check("count", name, operand)
    shape, wide = target.shape, "float32" if target.device.type == "mps" else "float64"  # Metal has no float64
    of_weight, rows, of_mask = (None if operand is None else operand.shape for operand in (weight, sample_weight, mask))
    dtypes = (wide, NAME[target.dtype])
    call = plan(LOGITS, reduction, dtypes, shape, shape, of_weight, rows, None, of_mask, ignore_index)
    if call.divisor in (KEPT, WEIGHTS):
        if any(map(shards.is_sharded, (target, weight, sample_weight, mask))):
            others = {"mask": mask, "weight": weight, "sample_weight": sample_weight}
            return shards.count(count, target, reduction, ignore_index, others)
        if sample_weight is not None:
            sample_weight = sample_weight.reshape((-1,) + (1,) * (target.dim() - 1))
        return _measured(call, Operands(target, target, weight, sample_weight, mask=mask))
    size = shape[0] if reduction == "batchmean" else target.numel()
    return torch.full((), size, dtype=torch.int64, device=target.device)


def _measured(call: Call, operands: Operands) -> Tensor:
    given = operands[1:6]
    if not (is_tracing() or is_watched()):
        if all(operand is None or cpu.is_plain(operand, False) for operand in given):
            return cpu.measure(call, operands)
        if cuda.reads_to_count(given[0], given[1:]):
            return cuda.measure(call, operands)
    found: Tensor = definition.measured(ARRAYS, call, definition.prepare(ARRAYS, call, operands))
    return found.detach()

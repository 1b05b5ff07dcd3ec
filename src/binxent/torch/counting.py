"""What a mean divides by, without the loss: to be added up over micro-batches and machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binxent import definition, options
from binxent.call import KEPT, WEIGHTS, Operands, plan
from binxent.sparse import shape_to_count
from binxent.targets import IndexTargets, SparseRows
from binxent.torch import cpu, cuda, shards, sparse
from binxent.torch.arrays import ARRAYS, LOGITS, dtype_of_target, tensors, with_dense_target
from binxent.torch.context import is_tracing, is_watched
from binxent.torch.operands import check

if TYPE_CHECKING:
    from binxent.call import Call


def count(
    target: Tensor | IndexTargets,
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
    input: Any = target
    read: Any = target
    if sparse.is_target(target):
        input, read = _of_sparse(target, ignore_index, (mask, weight, sample_weight))
    for name, operand in (("target", input), ("weight", weight), ("sample_weight", sample_weight), ("mask", mask)):
        if operand is not None or name == "target":
            check("count", name, operand)
    shape, wide = input.shape, "float32" if input.device.type == "mps" else "float64"  # Metal has no float64
    of_weight, rows, of_mask = (None if operand is None else operand.shape for operand in (weight, sample_weight, mask))
    dtypes = (wide, dtype_of_target(read))
    call = plan(LOGITS, reduction, dtypes, shape, shape, of_weight, rows, None, of_mask, ignore_index)
    if call.divisor in (KEPT, WEIGHTS):
        if any(map(shards.is_sharded, (input, weight, sample_weight, mask))):
            if isinstance(read, SparseRows):
                raise NotImplementedError("count(): a sparse target, but another operand is a DTensor")
            others = {"mask": mask, "weight": weight, "sample_weight": sample_weight}
            return shards.count(count, input, reduction, ignore_index, others)
        if sample_weight is not None:
            sample_weight = sample_weight.reshape((-1,) + (1,) * (input.dim() - 1))
        return _measured(call, Operands(input, read, weight, sample_weight, mask=mask))
    size = shape[0] if reduction == "batchmean" else input.numel()
    return torch.full((), size, dtype=torch.int64, device=input.device)


def _of_sparse(target: Any, ignore_index: object, others: tuple[Tensor | None, ...]) -> tuple[Tensor, Any]:
    """What has the target's shape, and what is read for it: without ignore_index nothing depends on the labels."""
    shape = shape_to_count(target, ignore_index)
    part = target.indices if isinstance(target, IndexTargets) else target
    tensor = next((operand for operand in (part, *others) if isinstance(operand, Tensor)), None)
    absent = torch.zeros((), dtype=torch.bool, device=None if tensor is None else tensor.device).expand(shape)
    if ignore_index is None:
        return absent, absent
    return absent, sparse.rows("count", target, absent, ignore_index, torch.compiler.is_compiling())


def _measured(call: Call, operands: Operands) -> Tensor:
    given = tensors(operands)[1:]
    if not (is_tracing() or is_watched()):
        if all(operand is None or cpu.is_plain(operand, False) for operand in given):
            return cpu.measure(call, operands)
        if isinstance(operands.target, Tensor) and cuda.reads_to_count(operands.target, given[1:]):
            return cuda.measure(call, operands)
    operands = with_dense_target(operands)
    found: Tensor = definition.measured(ARRAYS, call, definition.prepare(ARRAYS, call, operands))
    return found.detach()

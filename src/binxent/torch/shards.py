"""Losses of DTensors: each rank computes its own shard, with the divisor of the whole. Nothing is gathered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binxent import options
from binxent.call import KEPT, WEIGHTS, plan
from binxent.torch.arrays import LOGITS, NAME
from binxent.torch.operands import LEARNABLE, NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.distributed.tensor import DTensor


def is_sharded(operand: object) -> bool:
    """Whether it is a DTensor, asked without importing what defines it."""
    return type(operand).__name__ == "DTensor" and isinstance(operand, Tensor)


def _check_whole(name: str, whole: Tensor) -> None:
    """Refuses what does not say which part of the batch a rank has."""
    from torch.distributed.tensor import DTensor

    if not isinstance(whole, DTensor):
        raise RuntimeError(f"{name}: a plain tensor beside a DTensor; expected a DTensor, as of distribute_tensor(…)")
    for placement in whole.placements:
        # By name: Dynamo cannot compare classes of placements, and up to torch 2.10 a _StridedShard is a Shard too.
        if type(placement).__name__ not in ("Shard", "Replicate"):
            raise NotImplementedError(
                f"{name}: a DTensor placed as {placement}; expected Shard or Replicate. Call .redistribute(…) first."
            )


def _local(name: str, operand: Tensor, input: DTensor) -> Tensor:
    """The operand's part that meets this rank's part of the input. A plain tensor counts as replicated.

    An axis of size 1 is sharded where the input's own has size 1: most ranks have nothing of it then.
    """
    from torch.distributed.tensor import Partial, Replicate, Shard

    mesh, operand = input.device_mesh, beside(operand, input)
    if operand.device_mesh != mesh:
        raise RuntimeError(f"{name}: its DeviceMesh {operand.device_mesh} is not the input's, {mesh}")
    lead = 0 if name == "sample_weight" else input.dim() - operand.dim()
    axes = range(0 if name in LEARNABLE else operand.dim())
    own: list[Any] = []
    of_gradient: list[Any] = []
    for placement in input.placements:
        # Searched and not subtracted: to Dynamo placement.dim may be a symbol, of which no Shard can be made.
        met = [axis for axis in axes if isinstance(placement, Shard) and axis + lead == placement.dim]
        if met and operand.shape[met[0]] == input.shape[met[0] + lead]:
            own.append(Shard(met[0]))
            of_gradient.append(Shard(met[0]))
        else:
            own.append(Replicate())
            of_gradient.append(Partial() if isinstance(placement, Shard) else Replicate())
    pairs = zip(operand.placements, own, strict=True)
    if any(not isinstance(found, Replicate) and found != wanted for found, wanted in pairs):
        raise RuntimeError(
            f"{name}: a DTensor placed as {tuple(operand.placements)}; beside an input placed as "
            f"{tuple(input.placements)} expected {tuple(own)}, or Replicate"
        )
    result: Tensor = operand.redistribute(mesh, own).to_local(grad_placements=of_gradient)
    return result


def beside(operand: Tensor, like: DTensor) -> DTensor:
    """The operand as a DTensor. A plain tensor counts as replicated."""
    from torch.distributed.tensor import DTensor, Replicate

    if isinstance(operand, DTensor):
        return operand
    mesh = like.device_mesh
    result: DTensor = DTensor.from_local(operand, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return result


def _whole(counted: Tensor, input: DTensor) -> Tensor:
    """What all ranks count together, by one all-reduce."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    placed = [Partial() if isinstance(placement, Shard) else Replicate() for placement in input.placements]
    result: Tensor = DTensor.from_local(counted, input.device_mesh, placed, run_check=False).full_tensor()
    return result


def count(
    of_shard: Callable[..., Tensor],
    target: Tensor,
    reduction: str,
    ignore_index: Any,
    others: dict[str, Tensor | None],
) -> Tensor:
    """What all ranks count together; ``of_shard`` counts local operands."""
    from torch.distributed.tensor import DTensor

    _check_whole("target", target)
    assert isinstance(target, DTensor)
    local = {name: None if other is None else _local(name, other, target) for name, other in others.items()}
    return _whole(of_shard(target.to_local(), reduction=reduction, ignore_index=ignore_index, **local), target)


def loss(
    of_shard: Callable[..., Tensor],
    count_shard: Callable[..., Tensor],
    given: Sequence[Any],
    reduction: str,
    ignore_index: Any,
    learnable: Sequence[Any],
    normalizer: Any,
) -> Tensor:
    """The loss as a DTensor: ``Partial`` where the input is sharded, or placed as the input for ``"none"``.

    ``of_shard`` computes the loss of local operands, of label_smoothing and gamma (``learnable``) and a normalizer.
    """
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    input, *others = given
    _check_whole("input", input)
    assert isinstance(input, DTensor)
    target, weight, sample_weight = others[:3]
    shapes = (None if other is None else other.shape for other in others[1:])
    of_weight, rows, of_pos_weight, of_mask, of_neg_weight = shapes
    # Every rank refuses what does not fit, and not only the ranks whose shard shows it: the others would wait forever.
    dtype, shape = NAME[target.dtype], input.shape
    call = plan(
        LOGITS, reduction, (dtype, dtype), shape, target.shape, of_weight, rows, of_pos_weight, of_mask, ignore_index,
        neg_weight=of_neg_weight,
    )  # fmt: skip
    placements, mesh = input.placements, input.device_mesh
    local: list[Any] = [input.to_local()]
    for name, operand in zip(NAMES[1:], others, strict=True):
        local.append(None if operand is None else _local(name, operand, input))
    smoothing, gamma = (
        _local(name, option, input) if isinstance(option, Tensor) else option
        for name, option in zip(LEARNABLE, learnable, strict=True)
    )
    if is_sharded(normalizer):
        normalizer = normalizer.full_tensor()
    if normalizer is None and call.divisor in (KEPT, WEIGHTS):
        learnt = any(w is not None and w.requires_grad for w in (weight, sample_weight))
        if call.divisor == WEIGHTS and learnt and torch.is_grad_enabled():
            raise NotImplementedError(
                "reduction='weighted_mean' of DTensors: the divisor has the weights of all shards, and a weight that "
                "requires a gradient would need one from every rank; pass normalizer= or .detach() the weights"
            )
        named = {"mask": local[5], "weight": local[2], "sample_weight": local[3]}
        normalizer = _whole(count_shard(local[1], reduction=reduction, ignore_index=ignore_index, **named), input)
    elif normalizer is None and reduction in options.MEANS:
        normalizer = input.shape[0] if reduction == "batchmean" else input.numel()
    found = of_shard(tuple(local), (smoothing, gamma), normalizer)
    if reduction == "none":
        return DTensor.from_local(found, mesh, placements, run_check=False, shape=input.shape, stride=input.stride())
    placed = [Partial() if isinstance(placement, Shard) else Replicate() for placement in placements]
    return DTensor.from_local(found, mesh, placed, run_check=False)

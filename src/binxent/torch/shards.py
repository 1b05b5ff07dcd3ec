"""Losses of DTensors: each rank computes its own shard, with the divisor of the whole. Nothing is gathered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from binxent import options
from binxent.torch.operands import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.distributed.tensor import DTensor


def is_sharded(operand: object) -> bool:
    """Whether it is a DTensor, asked without importing what defines it."""
    return type(operand).__name__ == "DTensor" and isinstance(operand, Tensor)


def _placements(input: DTensor) -> tuple[Any, ...]:
    from torch.distributed.tensor import Replicate, Shard

    for placement in input.placements:
        if type(placement) not in (Shard, Replicate):
            raise NotImplementedError(
                f"input: a DTensor placed as {placement}; expected Shard or Replicate. Call .redistribute(…) first."
            )
    result: tuple[Any, ...] = input.placements
    return result


def _local(name: str, operand: Tensor, input: DTensor) -> Tensor:
    """The operand's part that meets this rank's part of the input. A plain tensor counts as replicated."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    mesh = input.device_mesh
    if not isinstance(operand, DTensor):
        operand = DTensor.from_local(operand, mesh, [Replicate()] * mesh.ndim, run_check=False)
    elif operand.device_mesh != mesh:
        raise RuntimeError(f"{name}: its DeviceMesh {operand.device_mesh} is not the input's, {mesh}")
    lead = 0 if name == "sample_weight" else input.dim() - operand.dim()
    own: list[Any] = []
    of_gradient: list[Any] = []
    for placement in input.placements:
        axis = placement.dim - lead if isinstance(placement, Shard) else -1
        if 0 <= axis < operand.dim() and operand.shape[axis] != 1:
            own.append(Shard(axis))
            of_gradient.append(Shard(axis))
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


def _whole(counted: Tensor, input: DTensor) -> Tensor:
    """What all ranks count together, by one all-reduce."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    placed = [Partial() if isinstance(placement, Shard) else Replicate() for placement in input.placements]
    result: Tensor = DTensor.from_local(counted, input.device_mesh, placed, run_check=False).full_tensor()
    return result


def loss(
    of_shard: Callable[..., Tensor],
    count: Callable[..., Tensor],
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
    if not isinstance(input, DTensor):
        raise RuntimeError("input: a plain tensor beside a DTensor; expected a DTensor, as of distribute_tensor(…)")
    placements, mesh = _placements(input), input.device_mesh
    local: list[Any] = [input.to_local()]
    for name, operand in zip(NAMES[1:], others, strict=True):
        local.append(None if operand is None else _local(name, operand, input))
    smoothing, gamma = (_local("option", o, input) if isinstance(o, Tensor) else o for o in learnable)
    if normalizer is None and reduction in options.MEANS:
        _, target, weight, sample_weight, _, mask = local
        if reduction == "weighted_mean" and any(w is not None and w.requires_grad for w in (weight, sample_weight)):
            raise NotImplementedError(
                "reduction='weighted_mean' of DTensors: the divisor has the weights of all shards, and a weight that "
                "requires a gradient would need one from every rank; pass normalizer= or .detach() the weights"
            )
        named = {"mask": mask, "weight": weight, "sample_weight": sample_weight}
        counted = count(target, reduction=reduction, ignore_index=ignore_index, **named)
        normalizer = input.shape[0] if reduction == "batchmean" else _whole(counted, input)
    found = of_shard(tuple(local), (smoothing, gamma), normalizer)
    if reduction == "none":
        return DTensor.from_local(found, mesh, placements, run_check=False, shape=input.shape, stride=input.stride())
    placed = [Partial() if isinstance(placement, Shard) else Replicate() for placement in placements]
    return DTensor.from_local(found, mesh, placed, run_check=False)

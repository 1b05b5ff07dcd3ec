"""The mean over a process group: one all-reduce of three numbers, before the kernel runs.

Engines that average the ranks' gradients (DistributedDataParallel, fully_shard) need each rank's loss to be its sum
times the number of ranks, divided by what all ranks count; engines that add them up need it without that factor.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from binxent import options
from binxent.torch.context import is_tracing, under_dispatch_mode

GRADIENTS = ("averaged", "summed")

_agreed: set[tuple[Any, ...]] = set()  # settings whose first call on an accelerator has been looked at


class Dropped:
    """Stands for the process group of a module that has been pickled."""


def check(process_group: object, gradients: object, reduction: str) -> None:
    """Refuses settings that have no meaning together."""
    if process_group is None:
        if gradients is not None:
            raise ValueError(f"gradients: {gradients!r} without a process_group; pass process_group= too")
        return
    if gradients not in GRADIENTS:
        raise ValueError(
            f"gradients: {gradients!r}; beside a process_group expected 'averaged' where the ranks' gradients are "
            "averaged (DistributedDataParallel, fully_shard), or 'summed' where they are added up"
        )
    if reduction not in options.MEANS:
        raise ValueError(
            f"process_group: reduction={reduction!r} divides by nothing that ranks could share; expected one of "
            f"{options.MEANS}"
        )


def resolved(process_group: Any) -> Any:
    """The ProcessGroup, of a DeviceMesh with one dimension, or of one dimension of a mesh, too."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    if isinstance(process_group, Dropped):
        raise RuntimeError(
            "process_group: this loss was pickled, and a process group cannot be; set loss.process_group again"
        )
    if isinstance(process_group, dist.ProcessGroup):
        return process_group
    if process_group is dist.GroupMember.NON_GROUP_MEMBER:  # what new_group returns there
        raise ValueError("process_group: this rank does not belong to it; only its members may compute the loss")
    mesh, dimension = process_group, None
    if isinstance(process_group, tuple) and len(process_group) == 2:
        mesh, dimension = process_group
    if isinstance(mesh, DeviceMesh):
        names = mesh.mesh_dim_names
        if dimension is None and mesh.ndim != 1:
            raise ValueError(
                f"process_group: a DeviceMesh of {mesh.ndim} dimensions {names or ''}; expected one of them, as "
                "(mesh, 'name'), or mesh._flatten() where the ranks along all of them have different rows"
            )
        if isinstance(dimension, str) and dimension not in (names or ()):
            raise ValueError(f"process_group: no dimension {dimension!r} in a DeviceMesh of {names or 'unnamed ones'}")
        if mesh.get_coordinate() is None:
            raise ValueError("process_group: this rank is not in the DeviceMesh; only its ranks may compute the loss")
        return mesh.get_group(dimension)
    raise TypeError(
        "process_group: expected a ProcessGroup, a DeviceMesh of one dimension or (DeviceMesh, name of a dimension), "
        f"got {type(process_group).__name__}"
    )


def _digest(*settings: object) -> int:
    """Below 2²⁰, so that its square, and the sum of as many squares as there are ranks, are exact in float64."""
    return zlib.crc32(repr(settings).encode()) % 2**20


# Dynamo puts the number into its graph: it cannot trace zlib.
_digest._dynamo_marked_constant = True  # type: ignore[attr-defined]


def summed(counted: Tensor, process_group: Any, reduction: str, gradients: str) -> Tensor:
    """Returns what all ranks count. Raises on every rank, or gives NaN, where their settings differ.

    Numbers h are all the same if and only if their number times Σh² is (Σh)².
    """
    from torch.distributed import _functional_collectives as collectives

    group = resolved(process_group)
    world, digest = group.size(), _digest(reduction, gradients, group.size())
    sent = torch.full((3,), float(digest), dtype=torch.float64, device=counted.device)
    sent[0] = counted
    sent[2] *= digest
    found = collectives.wait_tensor(collectives.all_reduce(sent, "sum", group))
    divisor, total, squares = found.unbind()
    agree = world * squares == total * total
    if not (is_tracing() or under_dispatch_mode()):  # there is no value to look at
        setting = (group.group_name, reduction, gradients)
        if (counted.is_cpu or setting not in _agreed) and not bool(agree):
            raise RuntimeError(
                f"process_group: the {world} ranks do not agree on their loss; this one has reduction={reduction!r} "
                f"and gradients={gradients!r}. Expected the same settings on every rank."
            )
        _agreed.add(setting)
    return torch.where(agree, divisor, torch.nan)


def normalizer(given: Any, counted: Any, process_group: Any, reduction: str, gradients: str) -> Any:
    """The normalizer of a rank: ``given``, which is the final number, or what all ranks count.

    ``counted`` gives what this rank counts.
    """
    divisor: Any
    if given is None:
        divisor = summed(counted(), process_group, reduction, gradients)
    else:
        number = options.checked_normalizer(given, reduction)  # before it is divided, to be shown as it was given
        divisor = given if number is None else number
    if gradients == "summed":
        return divisor
    if isinstance(divisor, Tensor):
        divisor = divisor.double()  # of integers torch makes float32 when it divides them
    return divisor / resolved(process_group).size()

"""Modules whose mean may be that of a process group."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binxent.torch import groups, shards, sparse
from binxent.torch.counting import count

if TYPE_CHECKING:
    from binxent.targets import IndexTargets


def replaced(own: Tensor | None, given: Tensor | None) -> Tensor | None:
    """The weight of a call, or the module's own where the call has none."""
    return own if given is None else given


class Grouped(torch.nn.Module):
    """What the modules have in common: the process group's mean, and ``count``."""

    reduction: str
    weight: Tensor | None
    ignore_index: float | None = None
    process_group: Any = None
    gradients: str | None = None

    def _set_group(self, process_group: Any, gradients: str | None) -> None:
        groups.check(process_group, gradients, self.reduction)
        if process_group is not None:
            groups.resolved(process_group)
            self.process_group, self.gradients = process_group, gradients

    def _normalizer(
        self,
        given: float | Tensor | None,
        input: Tensor,
        target: Tensor | IndexTargets,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
    ) -> Any:
        """What the mean divides by, if that is not this rank's own batch."""
        if self.process_group is None:
            return given
        groups.check(self.process_group, self.gradients, self.reduction)  # any of them may have been set since
        operands = {"input": input, "target": target, "weight": weight, "sample_weight": sample_weight, "mask": mask}
        for name, operand in operands.items():
            if shards.is_sharded(operand):
                raise RuntimeError(
                    f"process_group: the {name} is a DTensor, and the mean of DTensors is over all shards already; "
                    "pass no process_group"
                )
        learnt = any(one is not None and one.requires_grad for one in (weight, sample_weight))
        if self.reduction == "weighted_mean" and learnt and given is None and torch.is_grad_enabled():
            raise RuntimeError(
                "process_group: with reduction='weighted_mean' the divisor has the weights of all ranks, and a weight "
                "that requires a gradient would need one from every rank; pass normalizer= or .detach() the weights"
            )

        # Without ignore_index no divisor depends on the targets, and IndexTargets do not always tell their shape.
        like: Any = input if sparse.is_target(target) and self.ignore_index is None else target

        def counted() -> Tensor:
            return self._count(like, weight, sample_weight, mask)

        return groups.normalizer(given, counted, self.process_group, self.reduction, str(self.gradients))

    def __getstate__(self) -> dict[str, Any]:
        """A process group cannot be pickled; whoever uses the loss again is told so."""
        state = vars(self).copy()
        if self.process_group is not None:
            state["process_group"] = groups.Dropped()
        return state

    def __copy__(self) -> Any:
        """A copy has the same process group, which copy.copy would drop: it asks for what a pickle holds."""
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy has the same process group."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        memo[id(self.process_group)] = self.process_group
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied

    def _shown_group(self) -> dict[str, str]:
        return {} if self.process_group is None else {"process_group": "…", "gradients": repr(self.gradients)}

    def count(
        self, target: Tensor | IndexTargets, *, sample_weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """What the mean of these targets divides by; see the function of that name."""
        return self._count(target, self.weight, sample_weight, mask)

    def _count(
        self,
        target: Tensor | IndexTargets,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        return count(
            target,
            reduction=self.reduction,
            mask=mask,
            ignore_index=self.ignore_index,
            weight=weight,
            sample_weight=sample_weight,
        )

"""The numbers of a tensor, where Python may look at them: for the messages that name an element."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from binxent import definition
from binxent.call import Operands
from binxent.options import wrong_target
from binxent.torch.context import under_dispatch_mode


def values(tensor: Tensor) -> Tensor | None:
    """The tensor below the wrappers of torch.func's transforms, whose values Python may look at.

    None where there are none: in a fake tensor, on the meta device or under a dispatch mode.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    tensor = tensor.detach()
    return tensor if type(tensor) is Tensor and not tensor.is_meta and not under_dispatch_mode() else None


def as_numpy(tensor: Tensor) -> Any:
    """The values as NumPy's. A transform wraps what is made of a plain tensor too, and such a one has no memory."""
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:  # which NumPy does not have
        tensor = tensor.float()
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return np.array(tensor.tolist())
    return tensor.numpy()


def refusal_of_probability(name: str, tensor: Tensor, keep: Tensor | None = None) -> str:
    """The message for the first probability outside [0, 1]."""
    kept = None if keep is None else as_numpy(keep)
    return definition.refusal_of_probability(name, as_numpy(tensor.detach().double()), kept)


def refusal_of_targets(operands: Operands, keep: Tensor | None) -> str | None:
    """The message for the first element that ``check_targets`` refuses. Under vmap its index has vmap's axes, too."""
    given = {name: getattr(operands, name) for name in ("input", *definition.WRONG)}
    found: dict[str, Any] = {name: None if operand is None else values(operand) for name, operand in given.items()}
    kept = None if keep is None else values(keep)
    if all(found[name] is None or found[name].shape == operand.shape for name, operand in given.items()):
        return definition.wrong_element(
            Operands(**{name: None if each is None else as_numpy(each) for name, each in found.items()}),
            None if kept is None else as_numpy(kept),
        )
    for name, is_wrong in definition.WRONG.items():
        operand = given[name]
        if operand is None:
            continue
        shown = operand
        if keep is not None and name != "mask":
            shown = torch.where(keep, operand, torch.zeros_like(operand))
        seen: Any = values(shown)
        numbers = as_numpy(seen)
        wrong = np.argwhere(is_wrong(numbers))
        if len(wrong):
            first = tuple(int(i) for i in wrong[0])
            index = first if shown is operand else _own_index(first, shown, operand, found[name])
            return wrong_target(name, index, numbers[first])
    return None


def _own_index(first: tuple[int, ...], shown: Tensor, operand: Tensor, seen: Tensor) -> tuple[int, ...]:
    """The index in the operand of an element of ``shown``, to which the operand was broadcast.

    vmap's axes stand first in ``shown``; the operand has them only if its values, ``seen``, have more axes than itself.
    """
    outer = first[: len(first) - shown.dim()] if seen.dim() > operand.dim() else ()
    own = first[len(first) - operand.dim() :]
    return (*outer, *(0 if size == 1 else i for i, size in zip(own, operand.shape, strict=True)))

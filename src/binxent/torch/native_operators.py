"""The operators of the most common call, without Python: input and target alone, on the CPU, reduced to one number.

An operator that is written in Python takes longer than a loss of 64 elements. These are written in C++
(``native/doors/torch.cpp``), and torch takes them through its stable interface, which is complete from torch 2.11 on.
All other calls, and all calls of an older torch, have the operators of the same names in ``operators``, which gives
both their autograd. Which of them it is shows in Dynamo's graph, because torch's caches on disk go by that graph.

The token has one element here, since the address of its memory tells whether it owns a gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binxent import kernels
from binxent.call import Operands
from binxent.kernels import native
from binxent.kernels.native import _native
from binxent.options import Terms
from binxent.torch import cpu
from binxent.torch.values import refusal_of_probability

if TYPE_CHECKING:
    from binxent.call import Call

_CALL = "Tensor input, Tensor target, bool probabilities, bool mean, int dtype"

# Inductor's cache on disk goes by their names: change what one does, and give it another name.
_library = torch.library.Library("binxent", "FRAGMENT")
_library.define(f"native_loss_alone({_CALL}) -> Tensor")
_library.define(f"native_loss_and_gradient({_CALL}) -> (Tensor loss, Tensor token)")
_library.define(f"native_input_gradient(Tensor incoming, Tensor token, {_CALL}) -> Tensor")
_library.define("refusal_of_probability(Tensor values, bool is_input) -> Tensor")

_DTYPE = {tag: dtype for dtype, tag in cpu.TAG.items()}
_REDUCTIONS = ("mean", "weighted_mean", "sum")  # without weights, the first two are one


def _refusal_of_probability(values: Tensor, is_input: bool) -> Tensor:
    """The words that refuse these values, in UTF-8. An exception raised here would lose them on its way through C++."""
    words = refusal_of_probability("input" if is_input else "target", values)
    return torch.tensor(list(words.encode()), dtype=torch.uint8)


_library.impl("refusal_of_probability", _refusal_of_probability, "CPU")

_ARE_REGISTERED = kernels.is_chosen("native") and _native.register_torch_operators(cpu.LIBRARY._handle, cpu.EXECUTOR)


def take(reduction: str, input: torch.dtype) -> bool:
    """Whether they compute a call of two tensors that the kernel reads."""
    return _ARE_REGISTERED and reduction in _REDUCTIONS and input.is_floating_point


def flat(call: Call, operands: Operands) -> tuple[Any, ...]:
    return (*operands[:2], call.loss.probabilities, call.reduction != "sum", native.TAGS[call.dtype])


def as_others(input: Tensor, target: Tensor, probabilities: bool, mean: bool, dtype: int) -> tuple[Any, ...]:
    """The arguments of a native operator as those of the others."""
    others = (None,) * (len(Operands._fields) - 2)
    reduction = "mean" if mean else "sum"
    return (input, target, *others, probabilities, reduction, _DTYPE[dtype], *Terms(), False)


def _fake_loss(input: Tensor, target: Tensor, probabilities: bool, mean: bool, dtype: int) -> Tensor:
    return input.new_empty((), dtype=_DTYPE[dtype])


def _fake_loss_and_gradient(input: Tensor, *call: Any) -> tuple[Tensor, Tensor]:
    return _fake_loss(input, *call), input.new_empty(1)


def fake_input_gradient(incoming: Tensor, token: Tensor | None, input: Tensor, *_: Any) -> Tensor:
    gradient = torch.empty_like(input)
    if token is not None:
        # AOTAutograd refuses retain_graph=True wherever a saved tensor shares memory with no result of the graph.
        gradient.set_(token.untyped_storage(), 0, gradient.shape, gradient.stride())
    return gradient


for _name, _fake in (
    ("loss_alone", _fake_loss),
    ("loss_and_gradient", _fake_loss_and_gradient),
    ("input_gradient", fake_input_gradient),
):
    torch.library.register_fake(f"binxent::native_{_name}", _fake, lib=_library)

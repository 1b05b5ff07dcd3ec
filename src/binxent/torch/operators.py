"""The kernels as operators that torch.compile can put into a graph.

A compiled step passes over memory once, as an eager one does: ``loss_and_gradient`` keeps the gradient that it made for
``input_gradient``. A graph may not hand over a tensor of its own to be overwritten (Inductor copies it first, which
costs as much as a second pass), so the graph has a tensor without elements, the *token*, whose storage owns the
gradient. Whoever finds a token empty computes the gradient anew: the result is the same.

Their autograd is written out here and not registered with ``register_autograd``: that would drop the tangents of
forward-mode AD without a word.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binxent.call import Operands, known_plan, normalized, plan, result_dtype
from binxent.options import Terms
from binxent.torch import arrays, cpu, cuda, native_operators
from binxent.torch.arrays import DTYPE, LOGITS, NAME, PROBABILITIES
from binxent.torch.context import in_transform, is_exporting

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from binxent.call import Call

OPERANDS = (
    "Tensor input, Tensor target, Tensor? weight, Tensor? sample_weight, Tensor? pos_weight, Tensor? mask, "
    "Tensor? label_smoothing, Tensor? gamma, Tensor? normalizer, Tensor? neg_weight"
)
# The fields of ``Terms``.
TERMS = (
    "float? ignore_index, float smoothing_number, float gamma_number, float? alpha, float? gamma_negative, "
    "float margin, str focal"
)
CALL = f"bool probabilities, str reduction, ScalarType dtype, {TERMS}, bool check_targets"

# Inductor's cache on disk goes by their names and arguments: change what one does, and give it another name.
_library = torch.library.Library("binxent", "DEF")
_OPERANDS = len(Operands._fields)
_library.define(f"loss_alone({OPERANDS}, {CALL}) -> Tensor")
_library.define(f"loss_and_gradient({OPERANDS}, {CALL}) -> (Tensor loss, Tensor token)")
_library.define(f"input_gradient(Tensor incoming, Tensor? token, {OPERANDS}, {CALL}) -> Tensor")


def flat(call: Call, operands: Operands) -> tuple[Any, ...]:
    """The operators' arguments, which ``read`` makes a call and operands again."""
    terms = call.terms or Terms()
    return (*operands, call.loss.probabilities, call.reduction, DTYPE[call.dtype], *terms, call.checks_targets)


def read(arguments: tuple[Any, ...], find: Any = known_plan) -> tuple[Call, Operands]:
    """The call and the operands; ``find`` is ``plan`` where sizes may be symbols."""
    operands: Operands = tuple.__new__(Operands, arguments[:_OPERANDS])
    input, target, weight, sample_weight, pos_weight, mask, _, _, normalizer, neg_weight = operands
    probabilities, reduction, dtype, *numbers, check_targets = arguments[_OPERANDS:]
    terms = Terms(*numbers)
    meant: tuple[Any, ...] = (
        PROBABILITIES if probabilities else LOGITS,
        reduction,
        (NAME[input.dtype], arrays.dtype_of_target(target)),
        input.shape,
        target.shape,
    )
    if not (weight is sample_weight is pos_weight is mask is neg_weight is terms.ignore_index is None):
        rows = None if sample_weight is None else sample_weight.shape[:1]
        shapes = (None if operand is None else operand.shape for operand in (weight, pos_weight, mask, neg_weight))
        of_weight, of_pos_weight, of_mask, of_neg_weight = shapes
        meant = (*meant, of_weight, rows, of_pos_weight, of_mask, terms.ignore_index, 0, 0, of_neg_weight)
    call: Call = find(*meant)
    if terms != Terms() or check_targets:  # which have been checked; a NaN of ``plan`` is one object for all calls
        ignored = None if call.terms is None else call.terms.ignore_index
        call = call._replace(terms=terms._replace(ignore_index=ignored), checks_targets=check_targets)
    if normalizer is not None:
        call = normalized(call, None)
    if DTYPE[call.dtype] is not dtype:
        call = call._replace(dtype=NAME[dtype])
    return call, operands


# What the operators compute


def may_keep(input: Tensor) -> bool:
    """Whether a token may own memory: that of a CUDA graph belongs to the graph, which knows nothing of tokens."""
    return input.is_cpu or not (
        torch.cuda.is_current_stream_capturing() or "torch._inductor.cudagraph_trees" in sys.modules
    )


implementations: dict[tuple[str, str], Any] = {}  # for each operator and device
fakes: dict[str, Any] = {}


def _implement(kernel: ModuleType, device: str) -> None:
    def loss_alone(*arguments: Any) -> Tensor:
        result: Tensor = kernel.loss_alone(*read(arguments))
        return result

    def loss_and_gradient(*arguments: Any) -> tuple[Tensor, Tensor]:
        call, operands = read(arguments)
        token = operands.input.new_empty(0)
        if not may_keep(operands.input):
            return kernel.loss_alone(call, operands), token
        loss, made = kernel.loss_and_gradient(call, operands)
        token.untyped_storage().made = made
        return loss, token

    def input_gradient(incoming: Tensor, token: Tensor | None, *arguments: Any) -> Tensor:
        call, operands = read(arguments)
        made = None if token is None else vars(token.untyped_storage()).pop("made", None)
        result: Tensor = kernel.input_gradient(call, operands, incoming, made)
        return result

    for function in (loss_alone, loss_and_gradient, input_gradient):
        _library.impl(function.__name__, function, device)
        implementations[function.__name__, device] = function


_implement(cuda if cuda.RUNS_ON_CPU else cpu, "CPU")
_implement(cuda, "CUDA")


# What a compiler is told of them


def _fake_loss(*arguments: Any) -> Tensor:
    call, operands = read(arguments, plan)
    if call.reduction != "none":
        result: Tensor = operands.input.new_empty((), dtype=DTYPE[call.dtype])
        return result
    return torch.empty_like(arrays.like_elements(call, operands), dtype=DTYPE[call.dtype])


def _fake_loss_and_gradient(*arguments: Any) -> tuple[Tensor, Tensor]:
    return _fake_loss(*arguments), arguments[0].new_empty(0)


for _name, _fake in (
    ("loss_alone", _fake_loss),
    ("loss_and_gradient", _fake_loss_and_gradient),
    ("input_gradient", native_operators.fake_input_gradient),
):
    torch.library.register_fake(f"binxent::{_name}", _fake, lib=_library)
    fakes[_name] = _fake


def _operator(name: str, native: bool, call: Call, operands: Operands) -> Callable[..., Any]:
    """The operator of that name, with the call as its last arguments."""
    operator = getattr(torch.ops.binxent, f"native_{name}" if native else name)
    arguments = (native_operators.flat if native else flat)(call, operands)
    return lambda *first: operator(*first, *arguments)


class _OperatorLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, native: bool, call: Call, *tensors: Any) -> Tensor:
        ctx.native, ctx.call = native, call
        operands, token = Operands(*tensors), None
        loss: Tensor
        with torch._C._AutoDispatchBelowAutograd():
            if call.reduction != "none" and ctx.needs_input_grad[2]:
                loss, token = _operator("loss_and_gradient", native, call, operands)()
            else:
                loss = _operator("loss_alone", native, call, operands)()
        ctx.save_for_backward(token, *tensors)
        return loss

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Any, ...]:
        call: Call = ctx.call
        token, *tensors = ctx.saved_tensors
        operands = Operands(*tensors)
        needed = ctx.needs_input_grad[2:]
        # Grad mode is on under create_graph, where a backend keeps autograd's own backward.
        if in_transform() or torch.is_grad_enabled():
            return (None, None, *arrays.gradients(call, operands, incoming, needed))
        rest: tuple[Tensor | None, ...] = (None,) * (_OPERANDS - 1)
        if True in needed[1:]:
            rest = arrays.gradients(call, operands, incoming, (False, *needed[1:]))[1:]
        to_input = None
        if needed[0]:
            to_input = _operator("input_gradient", ctx.native, call, operands)(incoming, token)
        return (None, None, to_input, *rest)


def _autograd_loss(arguments: tuple[Any, ...], native: bool) -> Tensor:
    call, operands = read(arguments, plan)
    if in_transform():
        return arrays.loss(call, operands)
    result: Tensor
    if not torch.is_grad_enabled():
        with torch._C._AutoDispatchBelowAutograd():
            result = _operator("loss_alone", native, call, operands)()
        return result
    result = _OperatorLoss.apply(native, call, *operands)  # type: ignore[no-untyped-call]
    return result


def _autograd_of_loss(*arguments: Any) -> Tensor:
    return _autograd_loss(arguments, native=False)


def _autograd_of_native_loss(*arguments: Any) -> Tensor:
    return _autograd_loss(native_operators.as_others(*arguments), native=True)


_library.impl("loss_alone", _autograd_of_loss, "Autograd")
_library.impl("native_loss_alone", _autograd_of_native_loss, "Autograd")


def loss(call: Call, operands: Operands) -> Tensor:
    result: Tensor = torch.ops.binxent.loss_alone(*flat(call, operands))
    return result


# The shortest way to an operator


def _are_tensors(*classes: type) -> bool:
    return classes == (Tensor, Tensor)


def _native_dtype(reduction: str, *facts: tuple[Any, Any]) -> int | None:
    """The native operator's dtype, for two tensors with these dtypes, devices and layouts; None if none takes them."""
    if not all(map(cpu.reads, *facts)) or is_exporting() or in_transform():
        return None
    (input, target), *_ = facts
    if not native_operators.take(reduction, input):
        return None
    dtype = DTYPE[result_dtype(NAME[input], NAME[target])]
    return cpu.TAG[torch.float32 if dtype.itemsize == 2 and torch.is_autocast_enabled("cpu") else dtype]


# Dynamo asks them once and puts the answer into its graph. What it traces it would check, name by name, at every step.
_are_tensors._dynamo_marked_constant = True  # type: ignore[attr-defined]
_native_dtype._dynamo_marked_constant = True  # type: ignore[attr-defined]

_native_loss = torch.ops.binxent.native_loss_alone.default


def native_loss(probabilities: bool, input: Tensor, target: Tensor, reduction: str) -> Tensor | None:
    """The loss of input and target alone; None if no native operator computes it.

    At every step Dynamo checks whatever it saw on its way to the operator, and on this way it sees a third.
    """
    if not _are_tensors(type(input), type(target)) or input.shape != target.shape:
        return None
    dtype = _native_dtype(
        reduction, (input.dtype, target.dtype), (input.device, target.device), (input.layout, target.layout)
    )
    if dtype is None:
        return None
    result: Tensor = _native_loss(input, target, probabilities, reduction != "sum", dtype)
    return result

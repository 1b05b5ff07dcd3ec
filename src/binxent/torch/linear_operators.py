"""The linear head as operators, under autograd's tape: the same in eager code and in a compiler's graph.

The gradients are made together with the loss. Between forward and backward the storage of a tensor without elements,
the *token*, owns them, as in ``operators``: a graph would copy tensors of its own before they are scaled in place.
Whoever finds a token empty computes the gradients anew, if that is allowed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear as torch_linear

from binxent.call import Call, Operands
from binxent.linear import FUNCTION
from binxent.options import Terms, with_one_nan
from binxent.targets import SparseRows
from binxent.torch import arrays, linear_chunks
from binxent.torch.arrays import DTYPE, LOGITS, NAME
from binxent.torch.context import in_transform
from binxent.torch.linear_chunks import Head, Linear
from binxent.torch.operators import TERMS, may_keep

_TENSORS = (
    "Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor? target, Tensor? weight, Tensor? sample_weight, "
    "Tensor? pos_weight, Tensor? mask, Tensor? label_smoothing, Tensor? gamma, Tensor? normalizer, "
    "Tensor? neg_weight, Tensor? offsets, Tensor? indices, Tensor? values"
)
_HEAD = (
    f"str reduction, ScalarType dtype, {TERMS}, float? divisor_number, str? divisor_name, ScalarType product, "
    "ScalarType accumulator, int? max_chunk_bytes, bool may_remake"
)
_LINEAR = len(Linear._fields)
_ROWS = _LINEAR + len(Operands._fields) - 1  # where a sparse target has its tensors, in place of a dense one
_COUNT = _ROWS + 3
_TERMS = len(Terms._fields)

# Inductor's cache on disk goes by their names and arguments: change what one does, and give it another name.
_library = torch.library.Library("binxent", "FRAGMENT")
_library.define(f"head_loss({_TENSORS}, {_HEAD}) -> Tensor")
_library.define(f"head_loss_and_gradients({_TENSORS}, {_HEAD}, bool[] needed) -> (Tensor loss, Tensor token)")
_library.define(f"head_gradients(Tensor incoming, Tensor? token, {_TENSORS}, {_HEAD}, bool[] needed) -> Tensor[]")


def _flat(head: Head, may_remake: bool) -> tuple[Any, ...]:
    call = head.call
    named = isinstance(call.divisor, str)
    return (
        call.reduction,
        DTYPE[call.dtype],
        *(call.terms or Terms()),
        None if named else call.divisor,
        call.divisor if named else None,
        head.product,
        head.accumulator,
        head.max_chunk_bytes,
        may_remake,
    )


def _read(arguments: tuple[Any, ...]) -> tuple[Head, Linear, Operands]:
    reduction, dtype, *others = arguments[_COUNT:]
    terms = with_one_nan(Terms(*others[:_TERMS]))
    number, name, *rest = others[_TERMS:]
    call = Call(LOGITS, reduction, NAME[dtype], None if terms == Terms() else terms, number if name is None else name)
    made_of, operands = Linear(*arguments[:_LINEAR]), Operands(None, *arguments[_LINEAR:_ROWS])
    if operands.target is None:
        shape = made_of.input.shape[0], made_of.weight.shape[0]
        offsets, indices, values = arguments[_ROWS:_COUNT]
        operands = operands._replace(target=SparseRows(offsets, indices, values, shape))
    return Head(call, *rest[:3]), made_of, operands


def _tensors(made_of: Linear, operands: Operands) -> tuple[Tensor | None, ...]:
    """The tensors in the operators' order."""
    target, *others = operands[1:]
    if isinstance(target, SparseRows):
        return (*made_of, None, *others, *target[:3])
    return (*made_of, target, *others, None, None, None)


# What the operators compute


def _head_loss(*arguments: Any) -> Tensor:
    head, made_of, operands = _read(arguments)
    loss, _ = linear_chunks.compute(head, made_of, operands, (False, False, False))
    assert loss is not None
    return loss


def _head_loss_and_gradients(*arguments: Any) -> tuple[Tensor, Tensor]:
    arguments, needed = arguments[:-1], arguments[-1]
    token = arguments[0].new_empty(0)
    if not may_keep(token):
        return _head_loss(*arguments), token
    loss, token.untyped_storage().made = linear_chunks.loss_and_gradients(*_read(arguments), needed)
    return loss, token


def _head_gradients(incoming: Tensor, token: Tensor | None, *arguments: Any) -> list[Tensor]:
    arguments, needed = arguments[:-1], arguments[-1]
    head, made_of, operands = _read(arguments)
    made = None if token is None else vars(token.untyped_storage()).pop("made", None)
    if made is not None:
        return linear_chunks.rescaled(head, made_of, made, incoming)
    may_remake = arguments[-1]
    if token is not None and not may_remake and may_keep(token):
        raise RuntimeError(
            f"{FUNCTION}: a second backward through this loss; the first one has been given the gradients that the "
            "forward made. Call the loss again, or with options=LinearBCEOptions(allow_retain_graph=True)."
        )
    return linear_chunks.compute(head, made_of, operands, needed, incoming, want_loss=False)[1]


for _function in (_head_loss, _head_loss_and_gradients, _head_gradients):
    _library.impl(_function.__name__.removeprefix("_"), _function, "CompositeExplicitAutograd")


# What a compiler is told of them


def _fake_loss(input: Tensor, *arguments: Any) -> Tensor:
    return input.new_empty((), dtype=arguments[_COUNT])


def _fake_loss_and_gradients(input: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return _fake_loss(input, *arguments), input.new_empty(0)


def _fake_gradients(incoming: Tensor, token: Tensor | None, *arguments: Any) -> list[Tensor]:
    return [torch.empty_like(each) for each, need in zip(arguments, arguments[-1], strict=False) if need]


for _name, _fake in (
    ("head_loss", _fake_loss),
    ("head_loss_and_gradients", _fake_loss_and_gradients),
    ("head_gradients", _fake_gradients),
):
    torch.library.register_fake(f"binxent::{_name}", _fake, lib=_library)


# Autograd


def dense_loss(head: Head, made_of: Linear, operands: Operands) -> Tensor:
    """The loss by the definition, of logits that are stored: torch differentiates it to any order."""
    input, weight = made_of.input.to(head.product), made_of.weight.to(head.product)
    bias = None if made_of.bias is None else made_of.bias.to(head.product)
    if bias is not None and not bias.dim():
        logits = torch_linear(input, weight) + bias
    else:
        logits = torch_linear(input, weight, bias)
    return arrays.loss(head.call, operands._replace(input=logits))


def _dense_gradients(
    head: Head, made_of: Linear, operands: Operands, incoming: Tensor, needed: list[bool]
) -> list[Tensor]:
    """The gradients, which may be differentiated in turn."""
    wanted = [given for given, need in zip(made_of, needed, strict=True) if need and given is not None]
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        loss = dense_loss(head, made_of, operands)
    return list(torch.autograd.grad(loss, wanted, incoming, create_graph=again))


# Bound once, as in ``eager``.
_top_hooks = torch._C._autograd._top_saved_tensors_default_hooks
_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rest: tuple[Any, ...], *tensors: Any) -> Tensor:
        needed, token = list(ctx.needs_input_grad[1 : 1 + _LINEAR]), None
        loss: Tensor
        with torch._C._AutoDispatchBelowAutograd():
            # Offloading and checkpointing have hooks, which would not see what is kept beside the saved tensors.
            if torch.compiler.is_compiling() or _top_hooks(False) is None:
                loss, token = torch.ops.binxent.head_loss_and_gradients(*tensors, *rest, needed)
            else:
                loss = torch.ops.binxent.head_loss(*tensors, *rest)
        ctx.rest = rest
        ctx.save_for_backward(token, *tensors)
        return loss

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Any, ...]:
        token, *tensors = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[1 : 1 + _LINEAR])
        if in_transform() or torch.is_grad_enabled() or _is_legacy_batched(incoming):
            found = _dense_gradients(*_read((*tensors, *ctx.rest)), incoming, needed)
        else:
            found = torch.ops.binxent.head_gradients(incoming, token, *tensors, *ctx.rest, needed)
        each = iter(found)
        return (None, *(next(each) if need else None for need in needed), *(None,) * (_COUNT - _LINEAR))


def _autograd_loss(*arguments: Any) -> Tensor:
    if in_transform():
        return dense_loss(*_read(arguments))
    result: Tensor
    tensors = arguments[:_COUNT]
    if torch.is_grad_enabled() and any(given is not None and given.requires_grad for given in tensors[:_LINEAR]):
        result = _HeadLoss.apply(arguments[_COUNT:], *tensors)  # type: ignore[no-untyped-call]
        return result
    with torch._C._AutoDispatchBelowAutograd():
        result = torch.ops.binxent.head_loss(*arguments)
    return result


_library.impl("head_loss", _autograd_loss, "Autograd")


def loss(head: Head, made_of: Linear, operands: Operands, may_remake: bool) -> Tensor:
    result: Tensor = torch.ops.binxent.head_loss(*_tensors(made_of, operands), *_flat(head, may_remake))
    return result

"""torch's operations, as the definition needs them, and the loss that is made of them.

It serves where the kernel cannot: transforms and higher derivatives, tracing and export, tensor subclasses, and other
devices. In logits the automatic derivatives of the formula are exact to any order. In probabilities the two logarithms
are torch's own operation, on targets of 0 and 1: it alone has the clamped derivatives that a drop-in needs, in every
mode of differentiation.
"""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy as torch_binary_cross_entropy

from binxent import definition, focal, formula, options
from binxent.call import Call, Operands
from binxent.options import Terms
from binxent.targets import SparseRows
from binxent.torch.context import in_transform, is_autocast_available, is_exporting, is_tracing
from binxent.torch.values import refusal_of_probability, refusal_of_targets, values

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = {dtype: str(dtype).removeprefix("torch.") for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
DTYPE = {name: dtype for dtype, name in NAME.items()}


def refuse_out_of_range(name: str, tensor: Tensor, keep: Tensor | None = None) -> None:
    raise RuntimeError(refusal_of_probability(name, tensor, keep))


def _check_range(name: str, tensor: Tensor) -> None:
    seen = values(tensor)
    if seen is not None and not bool(formula.in_unit(seen).all()):
        refuse_out_of_range(name, seen)


def check_range(call: Call, operands: Operands) -> None:
    """Refuse probabilities outside [0, 1]. Waits for the device."""
    if not call.loss.probabilities:
        return
    operands = with_dense_target(operands)
    keep = definition.kept(ARRAYS, operands.target, operands.mask, call.terms and call.terms.ignore_index)
    for name in ("input", "target"):
        given = getattr(operands, name).detach()
        wrong = ~((given >= 0) & (given <= 1))
        if bool((wrong if keep is None else wrong & keep).any()):
            refuse_out_of_range(name, given, keep)


def check_targets(call: Call, operands: Operands) -> None:
    """Refuse what ``check_targets`` refuses. Waits for the device, once."""
    operands = with_dense_target(operands)
    y = ARRAYS.widen(operands.target, call.dtype)
    keep = definition.kept(ARRAYS, y, operands.mask, call.terms and call.terms.ignore_index)
    ARRAYS.checked(call, y, formula.only(ARRAYS, keep, y), operands, keep)


class Arrays:
    """torch's operations. ``check_range``: check an accelerator's probabilities too, which waits for the device."""

    exp = staticmethod(torch.exp)
    log = staticmethod(torch.log)
    log1p = staticmethod(torch.log1p)
    where = staticmethod(torch.where)
    isinf = staticmethod(torch.isinf)
    zeros_like = staticmethod(torch.zeros_like)
    sum = staticmethod(torch.sum)

    def __init__(self, check_range: bool = False) -> None:
        self.check_range = check_range

    def cast(self, array: Tensor, dtype: str) -> Tensor:
        if dtype == "bool":
            return array != 0
        return array.to(torch.promote_types(DTYPE[dtype], torch.complex32) if array.is_complex() else DTYPE[dtype])

    def widen(self, array: Tensor, dtype: str) -> Tensor:
        """A complex target, which torch takes, stays as it is."""
        if array.is_complex():
            return array
        return array.to(torch.float64 if dtype == "float64" else torch.float32)

    def clip(self, array: Tensor, low: float, high: float) -> Tensor:
        return array.clamp(low, high)

    def count(self, keep: Tensor, like: Tensor) -> Tensor:
        return keep.expand_as(like).sum()

    def size(self, array: Tensor) -> Any:
        return array.numel()  # of a trace a tensor, where torch.numel gives a constant

    def rows(self, array: Tensor) -> Any:
        return array.shape[0]

    def like(self, array: Tensor, operand: Tensor) -> Tensor:
        return array.sum_to_size(operand.shape)

    def number(self, number: float, x: Tensor) -> Any:
        """A 0-d tensor times a number has a float64 tangent, of whatever dtype the tensor is."""
        return torch.full_like(x, number) if number and not x.dim() else number

    def probability(self, call: Call, x: Tensor, y: Tensor) -> Tensor:
        """On the processor what is out of range is refused, unless nobody can look at it; else it will be NaN."""
        if (x.is_cpu or self.check_range) and not is_tracing():
            _check_range("input", x)
            _check_range("target", y)
        return x

    def checked(self, call: Call, x: Tensor, y: Tensor, operands: Operands, keep: Tensor | None) -> Tensor:
        """x. What is wrong is refused; in a graph by an assertion on the processor, and by NaN elsewhere."""
        if y.is_complex():
            raise NotImplementedError(f"check_targets: a target of dtype {y.dtype}; expected a real one")
        marked: Tensor = definition.nan_where_wrong(self, call, torch.zeros_like(x), y, operands, keep)
        seen = None if is_tracing() else values(marked)
        if seen is None:
            if x.is_cpu and torch.compiler.is_compiling() and not in_transform():
                _assert(~marked.isnan(), "check_targets: a target, a weight or a mask has an element that is refused")
                return x
            return x + marked
        if bool(seen.isnan().any()):
            raise RuntimeError(refusal_of_targets(operands, keep))
        return x


ARRAYS, CHECKING_ARRAYS = Arrays(), Arrays(check_range=True)


def _assert(valid: Tensor, message: str) -> None:
    torch.ops.aten._assert_async.msg(valid.all(), message)


def _without_autocast(device: str) -> AbstractContextManager[None]:
    """Autocast on CUDA refuses torch's operation, even in float32."""
    if is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _logarithms(q: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """−log q and −log(1 − q), and 0 in each element; NaN where q or y lies outside [0, 1], and is not refused."""
    q_valid, y_valid = formula.in_unit(q), formula.in_unit(y)
    zeros, nan = torch.zeros_like(q), torch.full_like(q, torch.nan)
    if q.is_cpu:
        # torch's operation refuses what is out of range, in a graph too: a NaN stands for such a target.
        safe, ones = q, torch.where(y_valid, torch.ones_like(q), nan)
        if is_exporting():  # a decomposed operation does not
            _assert(q_valid, "all elements of input should be between 0 and 1")
            _assert(y_valid, "all elements of target should be between 0 and 1")
    else:  # it would abort the whole CUDA context
        safe, ones = torch.where(q_valid, q, torch.full_like(q, 0.5)), torch.ones_like(q)
    with _without_autocast(q.device.type):
        minus_log = torch_binary_cross_entropy(safe, ones, reduction="none")
        minus_log1m = torch_binary_cross_entropy(safe, zeros, reduction="none")
    return minus_log, minus_log1m, torch.where(q_valid & y_valid, zeros, nan)


def _probabilities_loss(
    xp: Arrays, q: Tensor, y: Tensor, weight: Tensor | None, pos_weight: Any, label_smoothing: Any, gamma: Any,
    neg_weight: Any,
) -> Tensor:  # fmt: skip
    minus_log, minus_log1m, valid = _logarithms(q, y)
    # The logarithms come first in each product: torch gives the result the input's strides.
    positive, negative = formula.coefficients(y, pos_weight, label_smoothing, neg_weight)
    if not formula.is_off(gamma):
        minus_log, minus_log1m = (
            minus_log * formula.focal_power(xp, minus_log1m, gamma),
            minus_log1m * formula.focal_power(xp, minus_log, gamma),
        )
    loss = minus_log * positive + minus_log1m * negative
    loss = loss if weight is None else loss * weight
    # NaN, and a gradient of NaN, where that is out of range.
    checked: Tensor = loss + valid * (q + y)
    return checked


def _probabilities_gradient(
    xp: Arrays, q: Tensor, y: Tensor, weight: Tensor | None, pos_weight: Any, label_smoothing: Any, gamma: Any,
    neg_weight: Any,
) -> Tensor:  # fmt: skip
    """d/dq; its derivative in turn is that of torch's operation, as in the loss."""
    if not formula.is_off(gamma):
        focal_gradient: Tensor = formula.probabilities_gradient(
            xp, q, y, weight, pos_weight, label_smoothing, gamma, neg_weight
        )
        return focal_gradient

    def slope(target: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten.binary_cross_entropy_backward(torch.ones_like(q), q, target, None, 0)
        return result

    positive, negative = formula.coefficients(y, pos_weight, label_smoothing, neg_weight)
    both: Tensor = positive * slope(torch.ones_like(q)) + negative * slope(torch.zeros_like(q))
    return both if weight is None else weight * both


def _focal(probabilities: bool, terms: Terms) -> formula.Loss:
    """The loss that only ``focal`` defines; of probabilities, on torch's logarithms."""
    defined = focal.of_terms(probabilities, terms)  # without its cache, of which Dynamo warns
    if not probabilities:
        return defined

    def loss(xp: Arrays, q: Tensor, y: Tensor, *rest: Any) -> Tensor:
        minus_log, minus_log1m, valid = _logarithms(q, y)
        at = (q, 1 - q, minus_log, minus_log1m)
        each: Tensor = focal.of_terms(True, terms, lambda xp, q: at).loss(xp, q, y, *rest)
        return each + valid * (q + y)

    return dataclasses.replace(defined, loss=loss)


def _defined(call: Call) -> Call:
    """The call with the loss of its terms, if only ``focal`` defines it."""
    terms = call.terms
    if terms is None or not terms.is_family:
        return call
    loss = _focal(call.loss.probabilities, terms)
    # Its functions know these. The α of p_t is theirs too; any other is a part of pos_weight and neg_weight.
    alpha = None if terms.focal == "p_t" else terms.alpha
    return call._replace(loss=loss, terms=terms._replace(alpha=alpha, gamma_negative=None, margin=0, focal="branch"))


LOGITS = formula.LOGITS
PROBABILITIES = dataclasses.replace(
    formula.PROBABILITIES,
    loss=_probabilities_loss,
    derivatives={**formula.PROBABILITIES.derivatives, "input": _probabilities_gradient},
)


def dtype_of_target(target: Tensor | SparseRows) -> str:
    if isinstance(target, SparseRows):
        return "bool" if target.values is None else NAME[target.values.dtype]
    return NAME[target.dtype]


def tensors(operands: Sequence[Any]) -> list[Tensor | None]:
    """The operands, with the tensors of a sparse target in its place."""
    target = operands[1]
    if not isinstance(target, SparseRows):
        return list(operands)
    return [operands[0], *target[:3], *operands[2:]]


def dense(rows: SparseRows) -> Tensor:
    """The target with all its elements; NaN in a row that had a wrong label.

    In float64 if its values are, otherwise in float32, because a sum in them is exact here.
    """
    (height, width), indices = rows.shape, rows.indices
    dtype = torch.float64 if rows.values is not None and rows.values.dtype == torch.float64 else torch.float32
    place = torch.arange(indices.shape[0], device=indices.device)
    row = torch.searchsorted(rows.offsets, place, right=True) - 1
    column, in_rows = indices.long() - rows.first, (row >= 0) & (row < height)
    row = row.clamp(0, max(height - 1, 0))
    zeros, ones = torch.zeros(height, width, dtype=dtype, device=indices.device), torch.ones_like(row, dtype=dtype)
    if not height or not width:
        return zeros
    values = ones if rows.values is None else rows.values.to(dtype)
    seen = in_rows & (column >= 0) & (column < width)
    values = torch.where(seen, values, torch.zeros_like(values))
    target = zeros.index_put((row, column.clamp(0, width - 1)), values, accumulate=True)
    wrong = zeros[:, 0].index_put((row,), (in_rows & (indices < 0)).to(dtype), accumulate=True) > 0
    return torch.where(wrong[:, None], torch.full_like(zeros, torch.nan), target)


def with_dense_target(operands: Operands) -> Operands:
    target = operands.target
    return operands._replace(target=dense(target)) if isinstance(target, SparseRows) else operands


def with_values(call: Call, operands: Operands) -> Call:
    """The call with the numbers that its learnt label_smoothing and gamma hold: so the kernel takes them."""
    smoothing, gamma = operands.label_smoothing, operands.gamma
    if smoothing is None and gamma is None:
        return call
    numbers = call.terms or Terms()
    checked = options.checked_terms(
        numbers.ignore_index,
        numbers.label_smoothing if smoothing is None else smoothing.item(),
        numbers.gamma if gamma is None else gamma.item(),
        dtype_of_target(operands.target),
    )
    terms = numbers._replace(label_smoothing=checked.label_smoothing, gamma=checked.gamma)
    return call._replace(terms=None if terms == Terms() else terms)


def like_elements(call: Call, operands: Operands) -> Tensor:
    """The operand whose strides the losses of the elements have: torch's two functions differ in it."""
    of_input = call.loss.probabilities or isinstance(operands.target, SparseRows)
    result: Tensor = operands.input if of_input else operands.target
    return result


def check_options(call: Call, operands: Operands) -> None:
    """Refuses a label_smoothing or a gamma out of its range. Under vmap there are several of them."""
    for name in ("label_smoothing", "gamma"):
        option = getattr(operands, name)
        seen = None if option is None else values(option)
        if seen is not None and seen.is_cpu:
            for value in seen.flatten():
                with_values(call, Operands(operands.input, operands.target, **{name: value}))


def _saturated(gradient: Tensor) -> Tensor:
    return gradient.clamp(-definition.LARGEST_FLOAT16, definition.LARGEST_FLOAT16)


class _Saturating(torch.autograd.Function):
    """The tensor, whose gradient is saturated. Up to torch 2.11 Dynamo cannot trace a hook that does it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _saturated(gradient)


def loss(call: Call, operands: Operands, check_range: bool = False) -> Tensor:
    """The loss by the definition, which autograd differentiates."""
    operands, call = with_dense_target(operands), _defined(call)
    if not is_tracing():
        check_options(call, operands)
    if call.loss.probabilities and operands.input.dtype == torch.float16 and operands.input.requires_grad:
        wide = ARRAYS.widen(operands.input, call.dtype)
        if torch.compiler.is_compiling() and not in_transform():
            wide = _Saturating.apply(wide)  # type: ignore[no-untyped-call]
        else:
            wide.register_hook(_saturated)
        operands = operands._replace(input=wide)
    result: Tensor = definition.loss(CHECKING_ARRAYS if check_range else ARRAYS, call, operands)
    return result


def gradients(
    call: Call, operands: Operands, incoming: Tensor, needed: Sequence[bool | None]
) -> tuple[Tensor | None, ...]:
    """The loss's gradient to each operand, times the incoming gradient: itself differentiable."""
    operands, call = with_dense_target(operands), _defined(call)
    if not is_tracing():
        call = call._replace(checks_targets=False)  # the forward has; another look would wait for the device again
    prepared = definition.prepare(ARRAYS, call, operands)

    def to(name: str, operand: Tensor) -> Tensor:
        dtype = NAME[operand.dtype]
        gradient: Tensor = definition.gradient(ARRAYS, call, operands, prepared, name, dtype, incoming)
        return gradient

    return tuple(
        to(name, operand) if need else None
        for name, operand, need in zip(Operands._fields, operands, needed, strict=False)
    )

"""Computes the loss in graphs: on CPU by operators that MindSpore loads from the native library, else by ``compiled``.

A graph is compiled from the source of every ``construct`` and ``bprop`` here. MindSpore counts the parameters of a
``bprop``: they are those of the operator, its result, and the gradient to that.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.dtype import TensorType
from mindspore.ops.primitive import jit_context

from binxent import definition, kernel, options, sparse
from binxent.mindspore import arrays, compiled, eager
from binxent.mindspore.arrays import no_constant
from binxent.mindspore.operands import (
    DTYPE,
    Kind,
    averaged,
    checked_normalizer,
    checked_reduction,
    checked_terms,
    family,
    planned,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from binxent.formula import Loss
    from binxent.options import Terms

# Loss, reduction, terms and check_targets: what decides on an operator, before anything is known of its operands.
Asked = tuple["Loss", str, "Terms | None", bool]


class _Operator(ops.Custom):
    """An operator with two functions of the library: one computes, one finds a shape that only the run can know."""

    def __init__(self, symbol: str, bprop: Any) -> None:
        super().__init__(f"{kernel.library}:{symbol}", (), ms.float32, func_type="aot", bprop=bprop)
        self.add_prim_attr("cpp_infer_shape", True)
        self.add_prim_attr("reg_op_name", symbol)  # without it MindSpore cannot use the second one


class _Gradient(_Operator):
    def __infer__(self, input: dict[str, Any], *_: Any) -> dict[str, Any]:
        return {"shape": input["shape"], "dtype": input["dtype"], "value": None}


def _inferred_kind(inferred: dict[str, Any]) -> Kind:
    dtype = inferred["dtype"]
    if dtype is None:
        return None
    return (tuple(inferred["shape"]), dtype.element_type()) if isinstance(dtype, TensorType) else str(dtype)


class _KernelLoss(_Operator):
    """The operator in a graph, or while one is traced; called by Python otherwise, the loss of ``eager``."""

    def __init__(self, symbol: str, bprop: Any, asked: Asked) -> None:
        super().__init__(symbol, bprop)
        self.asked = asked

    def __infer__(self, *operands: dict[str, Any]) -> dict[str, Any]:
        call = planned(*self.asked, tuple(map(_inferred_kind, operands[:-1])))
        shape = operands[0]["shape"] if call.reduction == "none" else ()
        return {"shape": shape, "dtype": TensorType(DTYPE[call.dtype]), "value": None}

    def __call__(self, *operands: Any) -> Tensor:
        return super().__call__(*operands) if jit_context() else eager.loss(*self.asked, operands[:-1])


def _no_gradient(operand: Any) -> Any:
    return None if operand is None else ops.zeros_like(operand)


def kind_of(operand: Any) -> Kind:
    """What a graph's compiler knows of an operand."""
    if operand is None:
        return None
    if not isinstance(operand, Tensor):
        return "a constant"
    shape = (-2,) if ops.functional.is_sequence_value_unknown(operand.shape) else operand.shape
    return shape, operand.dtype


def _planning(asked: Asked) -> Callable[..., Any]:
    """Returns what makes the plan while a graph is compiled, which has the functions that the graph is made of."""

    @ops.constexpr(check=False)
    def plan(*kinds: Kind) -> Any:
        return definition.with_own_loss(planned(*asked, kinds))

    def call(
        input: Any,
        target: Any,
        weight: Any,
        sample_weight: Any,
        pos_weight: Any,
        mask: Any,
        normalizer: Any,
        neg_weight: Any,
    ) -> Any:
        return plan(
            kind_of(input),
            kind_of(target),
            kind_of(weight),
            kind_of(sample_weight),
            kind_of(pos_weight),
            kind_of(mask),
            kind_of(normalizer),
            kind_of(neg_weight),
        )

    return call


def _kernel_loss(asked: Asked) -> _KernelLoss:
    loss, reduction, *_ = asked
    symbol, plan = f"binxent_mindspore_{loss.name}_{reduction}", _planning(asked)

    def to_input(
        input: Any,
        target: Any,
        weight: Any,
        sample_weight: Any,
        pos_weight: Any,
        mask: Any,
        normalizer: Any,
        neg_weight: Any,
        incoming: Any,
    ) -> Tensor:
        call = plan(input, target, weight, sample_weight, pos_weight, mask, normalizer, neg_weight)
        return compiled.gradient(
            call,
            "input",
            input,
            input,
            target,
            weight,
            sample_weight,
            pos_weight,
            mask,
            normalizer,
            neg_weight,
            incoming,
        )

    def gradient_bprop(
        input: Any,
        target: Any,
        weight: Any,
        sample_weight: Any,
        pos_weight: Any,
        mask: Any,
        normalizer: Any,
        neg_weight: Any,
        terms: Any,
        incoming: Any,
        _: Any,
        outer: Any,
    ) -> Any:
        gradients = ops.GradOperation(get_all=True, sens_param=True)(to_input)(
            no_constant(input, outer),
            no_constant(target, outer),
            None if weight is None else no_constant(weight, outer),
            None if sample_weight is None else no_constant(sample_weight, outer),
            None if pos_weight is None else no_constant(pos_weight, outer),
            mask,
            normalizer,
            None if neg_weight is None else no_constant(neg_weight, outer),
            no_constant(incoming, outer),
            outer,
        )
        # GradOperation leaves out the operands that are None.
        i = 2 if weight is None else 3
        j = i if sample_weight is None else i + 1
        return (
            gradients[0],
            gradients[1],
            None if weight is None else gradients[2],
            None if sample_weight is None else gradients[i],
            None if pos_weight is None else gradients[j],
            _no_gradient(mask),
            _no_gradient(normalizer),
            None if neg_weight is None else gradients[-2],
            _no_gradient(terms),
            gradients[-1],
        )

    gradient = _Gradient(f"{symbol}_gradient", gradient_bprop)

    def loss_bprop(
        input: Any,
        target: Any,
        weight: Any,
        sample_weight: Any,
        pos_weight: Any,
        mask: Any,
        normalizer: Any,
        neg_weight: Any,
        terms: Any,
        _: Any,
        incoming: Any,
    ) -> Any:
        call = plan(input, target, weight, sample_weight, pos_weight, mask, normalizer, neg_weight)

        def to(name: str, operand: Any) -> Any:
            given = (input, target, weight, sample_weight, pos_weight, mask, normalizer, neg_weight)
            return compiled.gradient(call, name, operand, *given, incoming)

        return (
            gradient(input, target, weight, sample_weight, pos_weight, mask, normalizer, neg_weight, terms, incoming),
            to("target", target),
            to("weight", weight),
            to("sample_weight", sample_weight),
            to("pos_weight", pos_weight),
            _no_gradient(mask),
            _no_gradient(normalizer),
            to("neg_weight", neg_weight),
            _no_gradient(terms),
        )

    return _KernelLoss(symbol, loss_bprop, asked)


class _CompiledLoss(nn.Cell):
    """The loss on other devices, in a graph or called by Python."""

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self.asked, self.plan = asked, _planning(asked)

    def construct(
        self,
        input: Any,
        target: Any,
        weight: Any,
        sample_weight: Any,
        pos_weight: Any,
        mask: Any,
        normalizer: Any,
        neg_weight: Any,
        terms: Any,
    ) -> Any:
        call = self.plan(input, target, weight, sample_weight, pos_weight, mask, normalizer, neg_weight)
        return compiled.loss(call, input, target, weight, sample_weight, pos_weight, mask, normalizer, neg_weight)

    def bprop(
        self,
        input: Any,
        target: Any,
        weight: Any,
        sample_weight: Any,
        pos_weight: Any,
        mask: Any,
        normalizer: Any,
        neg_weight: Any,
        terms: Any,
        _: Any,
        incoming: Any,
    ) -> Any:
        call = self.plan(input, target, weight, sample_weight, pos_weight, mask, normalizer, neg_weight)

        def to(name: str, operand: Any) -> Any:
            given = (input, target, weight, sample_weight, pos_weight, mask, normalizer, neg_weight)
            return compiled.gradient(call, name, operand, *given, incoming)

        return (
            to("input", input),
            to("target", target),
            to("weight", weight),
            to("sample_weight", sample_weight),
            to("pos_weight", pos_weight),
            _no_gradient(mask),
            _no_gradient(normalizer),
            to("neg_weight", neg_weight),
            _no_gradient(terms),
        )

    def __call__(self, *operands: Any) -> Tensor:
        return self.construct(*operands) if jit_context() else eager.loss(*self.asked, operands[:-1])


class _Means(nn.Cell):
    """The means over all axes but one, of the losses for "none"."""

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        loss, self.reduction, self.terms, check_targets = asked
        self.losses = _made((loss, "none", self.terms, check_targets))
        self.ignore_index = None if self.terms is None else self.terms.ignore_index

    def construct(
        self,
        input: Any,
        target: Any,
        weight: Any,
        sample_weight: Any,
        pos_weight: Any,
        mask: Any,
        normalizer: Any,
        neg_weight: Any,
        terms: Any,
    ) -> Any:
        losses = self.losses(input, target, weight, sample_weight, pos_weight, mask, None, neg_weight, terms)
        axes = _averaged(self.reduction, _dims(input), kind_of(normalizer))
        return compiled.means(axes, losses, target, mask, self.ignore_index)

    def __call__(self, *operands: Any) -> Tensor:
        if jit_context():
            return self.construct(*operands)
        input, target, *_, mask, normalizer, _, _ = operands
        losses = self.losses(*operands[:6], None, *operands[7:])
        axes = averaged(self.reduction, input.ndim, kind_of(normalizer))
        if not isinstance(target, Tensor):
            target = Tensor(sparse.dense(eager.rows(target, input, self.terms)))
        return compiled.means(axes, losses, target, mask, self.ignore_index)


@ops.constexpr(check=False)
def _averaged(reduction: str, dims: int | None, normalizer: Kind) -> tuple[int, ...]:
    return averaged(reduction, dims, normalizer)


def _dims(input: Tensor) -> int | None:
    """How many axes it has; None where a graph does not know that."""
    return None if ops.functional.is_sequence_shape_unknown(input.shape) else len(input.shape)


@functools.cache
def _made(asked: Asked) -> _KernelLoss | _CompiledLoss | _Means:
    if asked[1] in options.BY_AXIS:
        return _Means(asked)
    return _kernel_loss(asked) if arrays.device() == "CPU" else _CompiledLoss(asked)


@functools.cache
def _as_operand(terms: Terms | None, check_targets: bool) -> Tensor | None:
    """The options as a tensor, because the kernel's operators read only tensors: those of enum Term, in that order."""
    if terms is None and not check_targets:
        return None
    terms = terms or options.Terms()
    ignores = terms.ignore_index is not None
    share = 1.0 if terms.alpha is None else terms.alpha
    numbers = (
        terms.ignore_index if ignores else 0,
        ignores,
        terms.label_smoothing,
        terms.gamma,
        -1 if terms.gamma_negative is None else terms.gamma_negative,
        terms.margin,
        share,
        1.0 if terms.alpha is None else 1 - share,
        terms.focal == "p_t",
        check_targets,
    )
    return Tensor(np.array(numbers, np.float64))


@ops.constexpr(check=False)
def operator(
    loss: Loss,
    reduction: str,
    given: tuple[bool, ...],
    ignore_index: float | None,
    label_smoothing: float,
    gamma: float,
    alpha: float | None,
    gamma_positive: float | None,
    gamma_negative: float | None,
    margin: float,
    focal: str,
    check_targets: bool,
) -> Any:
    """The operator, which takes the operands of ``NAMES`` and terms; and these terms.

    A variable of a graph is None here; ``given`` tells which of the options that may be None are not.
    """
    for name, is_given, value in zip(
        ("ignore_index", "alpha", "gamma_positive", "gamma_negative", "check_targets"),
        (*given, True),
        (ignore_index, alpha, gamma_positive, gamma_negative, check_targets),
        strict=True,
    ):
        if is_given and value is None:
            raise TypeError(f"{name}: expected a number, and that a graph's is constant, got a variable")
    of_focal = family(alpha, gamma_positive, gamma_negative, margin, focal)
    terms, checks = checked_terms(ignore_index, label_smoothing, gamma, of_focal), bool(check_targets)
    return _made((loss, checked_reduction(reduction), terms, checks)), _as_operand(terms, checks)


@ops.constexpr(check=False)
def divisor(normalizer: float, reduction: str) -> Tensor:
    """A normalizer that is a number, as an operand. In a graph it is a constant."""
    return Tensor(
        np.array(checked_normalizer(normalizer, reduction), np.float64 if arrays.device() == "CPU" else np.float32)
    )

"""The loss in compiled graphs: on CPU operators that MindSpore loads from the kernel's own library, else ``composite``.

A graph is compiled from the source of every ``construct`` and ``bprop`` here. MindSpore counts the parameters of a
``bprop``: they are those of the operator, its result, and the gradient to that.
"""

from __future__ import annotations

import functools
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.dtype import TensorType
from mindspore.ops.primitive import jit_context

from binxent import kernel
from binxent.mindspore import composite, eager
from binxent.mindspore.call import Call, Kind, check, check_reduction, terms


class _Operator(ops.Custom):
    """Two functions of the library: one computes, one tells a shape that is unknown until the graph runs."""

    def __init__(self, symbol: str, bprop: Any) -> None:
        super().__init__(f"{kernel.library}:{symbol}", (), ms.float32, func_type="aot", bprop=bprop)
        self.add_prim_attr("cpp_infer_shape", True)
        self.add_prim_attr("reg_op_name", symbol)  # without it MindSpore cannot use the second one


class _Gradient(_Operator):
    def __infer__(self, input: dict[str, Any], *_: Any) -> dict[str, Any]:
        return {"shape": input["shape"], "dtype": input["dtype"], "value": None}


def _kind(inferred: dict[str, Any]) -> Kind:
    dtype = inferred["dtype"]
    if dtype is None:
        return None
    return (tuple(inferred["shape"]), dtype.element_type()) if isinstance(dtype, TensorType) else str(dtype)


class _KernelLoss(_Operator):
    """In a graph the operator; called by Python, the loss of ``eager``, unless that is being traced."""

    def __init__(self, symbol: str, bprop: Any, call: Call) -> None:
        super().__init__(symbol, bprop)
        self.call = call

    def __infer__(self, *operands: dict[str, Any]) -> dict[str, Any]:
        dtype = check(self.call, [_kind(operand) for operand in operands[:-1]])
        shape = operands[0]["shape"] if self.call.reduction == "none" else ()
        return {"shape": shape, "dtype": TensorType(dtype), "value": None}

    def __call__(self, *operands: Any) -> Tensor:
        return super().__call__(*operands) if jit_context() else eager.loss(self.call, operands[:-1])


def _no_gradient(operand: Any) -> Any:
    return None if operand is None else ops.zeros_like(operand)


def _kernel_loss(call: Call) -> _KernelLoss:
    symbol = f"binxent_mindspore_{'probabilities' if call.probabilities else 'logits'}_{call.reduction}"

    def to_input(
        input: Any, target: Any, weight: Any, sample_weight: Any, pos_weight: Any, mask: Any, incoming: Any
    ) -> Tensor:
        return composite.to_input(call, input, target, weight, sample_weight, pos_weight, mask, incoming)

    def gradient_bprop(
        input: Any,
        target: Any,
        weight: Any,
        sample_weight: Any,
        pos_weight: Any,
        mask: Any,
        terms: Any,
        incoming: Any,
        _: Any,
        outer: Any,
    ) -> Any:
        gradients = ops.GradOperation(get_all=True, sens_param=True)(to_input)(
            composite.no_constant(input, outer),
            composite.no_constant(target, outer),
            None if weight is None else composite.no_constant(weight, outer),
            None if sample_weight is None else composite.no_constant(sample_weight, outer),
            None if pos_weight is None else composite.no_constant(pos_weight, outer),
            mask,
            composite.no_constant(incoming, outer),
            outer,
        )
        # It leaves out the operands that are None.
        i = 2 if weight is None else 3
        j = i if sample_weight is None else i + 1
        return (
            gradients[0],
            gradients[1],
            None if weight is None else gradients[2],
            None if sample_weight is None else gradients[i],
            None if pos_weight is None else gradients[j],
            _no_gradient(mask),
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
        terms: Any,
        _: Any,
        incoming: Any,
    ) -> Any:
        return (
            gradient(input, target, weight, sample_weight, pos_weight, mask, terms, incoming),
            composite.to_target(call, input, target, weight, sample_weight, pos_weight, mask, incoming),
            composite.to_weight(call, input, target, weight, sample_weight, pos_weight, mask, incoming),
            composite.to_sample_weight(call, input, target, weight, sample_weight, pos_weight, mask, incoming),
            composite.to_pos_weight(call, input, target, weight, sample_weight, pos_weight, mask, incoming),
            _no_gradient(mask),
            _no_gradient(terms),
        )

    return _KernelLoss(symbol, loss_bprop, call)


class _CompositeLoss(nn.Cell):
    """The same for other devices."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def construct(
        self, input: Any, target: Any, weight: Any, sample_weight: Any, pos_weight: Any, mask: Any, terms: Any
    ) -> Any:
        dtype = composite.check_in_graph(self.call, input, target, weight, sample_weight, pos_weight, mask)
        return composite.loss(self.call, dtype, input, target, weight, sample_weight, pos_weight, mask)

    def bprop(
        self,
        input: Any,
        target: Any,
        weight: Any,
        sample_weight: Any,
        pos_weight: Any,
        mask: Any,
        terms: Any,
        _: Any,
        incoming: Any,
    ) -> Any:
        call = self.call
        return (
            composite.to_input(call, input, target, weight, sample_weight, pos_weight, mask, incoming),
            composite.to_target(call, input, target, weight, sample_weight, pos_weight, mask, incoming),
            composite.to_weight(call, input, target, weight, sample_weight, pos_weight, mask, incoming),
            composite.to_sample_weight(call, input, target, weight, sample_weight, pos_weight, mask, incoming),
            composite.to_pos_weight(call, input, target, weight, sample_weight, pos_weight, mask, incoming),
            _no_gradient(mask),
            _no_gradient(terms),
        )

    def __call__(self, *operands: Any) -> Tensor:
        return self.construct(*operands) if jit_context() else eager.loss(self.call, operands[:-1])


@functools.cache
def _made(call: Call) -> _KernelLoss | _CompositeLoss:
    return _kernel_loss(call) if composite.device() == "CPU" else _CompositeLoss(call)


@ops.constexpr(check=False)
def operator(
    probabilities: bool,
    reduction: str,
    ignores: bool,
    ignore_index: float | None,
    label_smoothing: float,
    gamma: float,
) -> Any:
    """What computes the loss of input, target, weight, sample_weight, pos_weight, mask and ``terms_operand``."""
    if ignores and ignore_index is None:
        raise TypeError("ignore_index: expected a number, and that a graph's is constant, got a variable")
    meant = terms(ignore_index, label_smoothing, gamma, "float32") or ()
    return _made(Call(probabilities, check_reduction(reduction), *meant))


@ops.constexpr(check=False)
def terms_operand(ignore_index: float | None, label_smoothing: float, gamma: float) -> Tensor | None:
    """The numbers, for the kernel's operators, which read tensors alone."""
    meant = terms(ignore_index, label_smoothing, gamma, "float32")
    if meant is None:
        return None
    ignores = meant.ignore_index is not None
    return Tensor(np.array([meant.ignore_index if ignores else 0, ignores, *meant[1:]], np.float64))

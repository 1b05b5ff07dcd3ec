"""The loss in compiled graphs: operators that MindSpore loads from the kernel's own library."""

from __future__ import annotations

import functools
from typing import Any

import mindspore as ms
from mindspore import Tensor, ops
from mindspore.common.dtype import TensorType
from mindspore.ops.primitive import jit_context

from binxent import kernel
from binxent.mindspore import composite, eager
from binxent.mindspore.call import Call, Kind, check, check_reduction


def _kind(inferred: dict[str, Any]) -> Kind:
    dtype = inferred["dtype"]
    if dtype is None:
        return None
    return (tuple(inferred["shape"]), dtype.element_type()) if isinstance(dtype, TensorType) else str(dtype)


class _Operator(ops.Custom):
    """Two functions of the library: one computes, one tells a shape that is unknown until the graph runs."""

    def __init__(self, symbol: str, bprop: Any) -> None:
        super().__init__(f"{kernel.library}:{symbol}", (), ms.float32, func_type="aot", bprop=bprop)
        self.add_prim_attr("cpp_infer_shape", True)
        self.add_prim_attr("reg_op_name", symbol)  # without it MindSpore fails to find the second one


class _Gradient(_Operator):
    def __infer__(self, input: dict[str, Any], *_: Any) -> dict[str, Any]:
        return {"shape": input["shape"], "dtype": input["dtype"], "value": None}


class _Loss(_Operator):
    """Compiled, the operator; called by Python, the loss of ``eager``."""

    def __init__(self, symbol: str, bprop: Any, call: Call) -> None:
        super().__init__(symbol, bprop)
        self.call = call

    def __infer__(self, *operands: dict[str, Any]) -> dict[str, Any]:
        dtype = check([_kind(operand) for operand in operands])
        shape = operands[0]["shape"] if self.call.reduction == "none" else ()
        return {"shape": shape, "dtype": TensorType(dtype), "value": None}

    def __call__(self, *operands: Any) -> Tensor:
        if jit_context():  # a trace, which records the operator
            return super().__call__(*operands)
        return eager.loss(self.call, operands)


_D = ops.Depend()


def _operator(call: Call) -> _Loss:
    symbol = f"binxent_mindspore_{'probabilities' if call.probabilities else 'logits'}_{call.reduction}"

    def to_input(
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        pos_weight: Tensor | None,
        incoming: Tensor,
    ) -> Tensor:
        return composite.to_input(call, (input, target, weight, sample_weight, pos_weight), incoming)

    def second_derivative(
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        pos_weight: Tensor | None,
        incoming: Tensor,
        gradient: Tensor,
        outer: Tensor,
    ) -> Any:
        operands = (input, target, weight, sample_weight, pos_weight, incoming)
        # MindSpore leaves the operands that are None out of the result.
        variables = ()
        for operand in operands:
            variables = variables + ((None if operand is None else _D(operand, outer)),)
        given = ops.GradOperation(get_all=True, sens_param=True)(to_input)(*variables, outer)
        result = ()
        found = 0
        for operand in operands:
            if operand is None:
                result = result + (None,)
            else:
                result = result + (given[found],)
                found = found + 1
        return result

    gradient = _Gradient(f"{symbol}_gradient", second_derivative)

    def derivative(
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        pos_weight: Tensor | None,
        loss: Tensor,
        incoming: Tensor,
    ) -> Any:
        operands = (input, target, weight, sample_weight, pos_weight)
        return (
            gradient(input, target, weight, sample_weight, pos_weight, incoming),
            composite.to_target(call, operands, incoming),
            composite.to_weight(call, operands, incoming),
            composite.to_sample_weight(call, operands, incoming),
            composite.to_pos_weight(call, operands, incoming),
        )

    return _Loss(symbol, derivative, call)


@functools.cache
def _made(call: Call) -> _Loss:
    return _operator(call)


@ops.constexpr(check=False)
def operator(probabilities: bool, reduction: str) -> Any:
    """What computes the loss of input, target, weight, sample_weight and pos_weight, in and outside graphs."""
    return _made(Call(probabilities, check_reduction(reduction)))

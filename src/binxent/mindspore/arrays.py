"""Adapts MindSpore to ``binxent.definition``. Graphs are compiled from this source too."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from binxent import definition
from binxent.call import Operands
from binxent.mindspore.operands import DTYPE, FLOATING

if TYPE_CHECKING:
    from binxent.call import Call


@functools.cache
def device() -> str:
    """The device, which a process sets once: MindSpore takes longer to tell it than a small loss takes."""
    return str(ms.get_context("device_target"))


@ops.constexpr(check=False)
def _on_cpu() -> bool:
    return device() == "CPU"


@ops.constexpr(check=False)
def _arithmetic() -> Any:
    """float64 on CPU, where MindSpore's float32 exp is 300 ulp off. Other devices have no float64, or a slow one."""
    return ms.float64 if device() == "CPU" else ms.float32


@ops.constexpr(check=False)
def _dtype(name: str) -> Any:
    return DTYPE[name]


# A graph may make a constant of a tensor whose value it knows, and MindSpore has no derivative to a constant. Made to
# depend on another tensor, it stays a variable.
no_constant = ops.Depend()


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    return ops.sum(a * b)


class _Like(nn.Cell):
    """Sums over the axes along which an operand was broadcast."""

    def construct(self, array: Tensor, operand: Tensor) -> Tensor:
        """The sum in a graph, which may not know the shapes: the derivative of a product sums over the same axes."""
        variable = no_constant(ops.zeros_like(ARRAYS.widen(operand, "")), array)
        return ops.GradOperation()(_sum_of_products)(variable, array)

    def __call__(self, array: Tensor, operand: Tensor) -> Tensor:
        """The sum in PyNative mode: differentiation in a backward would make MindSpore call cells' hooks too early."""
        lead = array.ndim - operand.ndim
        axes = tuple(i for i, size in enumerate(array.shape) if i < lead or operand.shape[i - lead] != size)
        return ops.sum(array, axes).reshape(operand.shape) if axes else array


def _log1p(x: Tensor) -> Tensor:
    """log(1 + x). On CPU MindSpore's own log1p is 0 for a small x; its atanh loses no digits."""
    return 2 * ops.atanh(x / (2 + x)) if _on_cpu() else ops.log1p(x)


class Arrays:
    """The adapter of ``definition.Arrays``."""

    exp = staticmethod(ops.exp)
    log = staticmethod(ops.log)
    log1p = staticmethod(_log1p)
    where = staticmethod(ops.where)
    isinf = staticmethod(ops.isinf)
    zeros_like = staticmethod(ops.zeros_like)
    clip = staticmethod(ops.clamp)
    sum = staticmethod(ops.sum)

    def __init__(self) -> None:
        self.like = _Like()

    def cast(self, array: Tensor, dtype: str) -> Tensor:
        """The array in that dtype. bfloat16 is widened before a comparison, which MindSpore lacks for it on CPU."""
        if dtype != "bool":
            return array.astype(_dtype(dtype))
        return (self.widen(array, "") if array.dtype in FLOATING else array) != 0

    def widen(self, array: Tensor, dtype: str) -> Tensor:
        """The array in the arithmetic's type, which depends on the device and not on the result's dtype."""
        if array.dtype == ms.bool_:  # astype would take its byte, which is 255 in a mask of 0 and 255
            return (array != 0).astype(_arithmetic())
        return array.astype(_arithmetic())

    def count(self, keep: Tensor, like: Tensor) -> Tensor:
        """The number of elements kept, as an integer: other devices compute in float32, which counts to 2²⁴."""
        return ops.sum(ops.where(keep, ops.zeros_like(like) + 1, ops.zeros_like(like)).astype(ms.int64))

    def size(self, array: Tensor) -> Any:
        return array.size

    def rows(self, array: Tensor) -> Any:
        return array.shape[0]

    def number(self, number: float, x: Tensor) -> Any:
        """The number; NaN is computed, because a graph leaves out the addition of a constant NaN."""
        return number if number == number else ops.log(ops.zeros_like(x) - 1)

    def probability(self, call: Call, x: Tensor, y: Tensor) -> Tensor:
        """x as it is: the CPU's kernel refuses an input out of range itself, and MindSpore accepts any target."""
        return x

    def checked(self, call: Call, x: Tensor, y: Tensor, operands: Operands, keep: Tensor | None) -> Tensor:
        """x; raises for an operand that is wrong, in PyNative mode on other devices, which are waited for."""
        marked = definition.nan_where_wrong(self, call, ops.zeros_like(x), y, operands, keep)
        if bool(ops.isnan(marked).any()):
            raise ValueError(refusal_of_targets(operands, keep))
        return x


def _in_numpy(tensor: Tensor | None) -> Any:
    """The tensor as an array; NumPy has no bfloat16."""
    if tensor is None:
        return None
    return (tensor.astype(ms.float32) if tensor.dtype == ms.bfloat16 else tensor).asnumpy()


def refusal_of_targets(operands: Operands, keep: Tensor | None) -> str | None:
    """The message for the first element that ``check_targets`` refuses; None if all is well."""
    checked = {name: _in_numpy(getattr(operands, name)) for name in definition.WRONG}
    input = np.broadcast_to(np.float32(0), operands.input.shape)
    return definition.wrong_element(Operands(input, **checked), _in_numpy(keep))


ARRAYS = Arrays()


def column(sample_weight: Tensor, input: Tensor) -> Tensor:
    """The weights in the shape [N, 1, …, 1], so that they broadcast along the first axis."""
    return sample_weight.reshape((-1,) + (1,) * (input.ndim - 1))

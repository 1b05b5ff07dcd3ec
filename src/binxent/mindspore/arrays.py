"""MindSpore's operations, as the definition needs them. Graphs are compiled from this source too."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from binxent.mindspore.operands import DTYPE, FLOATING

if TYPE_CHECKING:
    from binxent.call import Call


@functools.cache
def device() -> str:
    """MindSpore takes longer to tell it than the kernel takes for a small loss, and it is set once in a process."""
    return str(ms.get_context("device_target"))


@ops.constexpr(check=False)
def _on_cpu() -> bool:
    return device() == "CPU"


@ops.constexpr(check=False)
def _arithmetic() -> Any:
    """On CPU float64: MindSpore's float32 exp is 300 ulp off there. Other devices have no float64, or a slow one."""
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
        """In a graph, which may not know the shapes: the derivative of a product sums so."""
        variable = no_constant(ops.zeros_like(ARRAYS.widen(operand, "")), array)
        return ops.GradOperation()(_sum_of_products)(variable, array)

    def __call__(self, array: Tensor, operand: Tensor) -> Tensor:
        """In PyNative mode: a backward that differentiates would make MindSpore call the hooks of cells too early."""
        lead = array.ndim - operand.ndim
        axes = tuple(i for i, size in enumerate(array.shape) if i < lead or operand.shape[i - lead] != size)
        return ops.sum(array, axes).reshape(operand.shape) if axes else array


def _log1p(x: Tensor) -> Tensor:
    """MindSpore's own on CPU is log(1 + x), which is 0 for a small x; its atanh keeps all digits."""
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
        """On CPU MindSpore compares no bfloat16."""
        if dtype != "bool":
            return array.astype(_dtype(dtype))
        return (self.widen(array, "") if array.dtype in FLOATING else array) != 0

    def widen(self, array: Tensor, dtype: str) -> Tensor:
        """The arithmetic's type is the device's, whatever the result's dtype is."""
        if array.dtype == ms.bool_:  # astype takes its byte, which in a mask of 0 and 255 is no 1
            return (array != 0).astype(_arithmetic())
        return array.astype(_arithmetic())

    def count(self, keep: Tensor, like: Tensor) -> Tensor:
        """As integers: other devices compute in float32, which cannot count beyond 2²⁴."""
        return ops.sum(ops.where(keep, ops.zeros_like(like) + 1, ops.zeros_like(like)).astype(ms.int64))

    def size(self, array: Tensor) -> Any:
        return array.size

    def rows(self, array: Tensor) -> Any:
        return array.shape[0]

    def number(self, number: float, x: Tensor) -> float:
        return number

    def probability(self, call: Call, x: Tensor, y: Tensor) -> Tensor:
        """The kernel has refused what is out of range, and MindSpore takes any target."""
        return x


ARRAYS = Arrays()


def column(sample_weight: Tensor, input: Tensor) -> Tensor:
    """Of shape [N, 1, …, 1], so that it broadcasts along the first axis."""
    return sample_weight.reshape((-1,) + (1,) * (input.ndim - 1))

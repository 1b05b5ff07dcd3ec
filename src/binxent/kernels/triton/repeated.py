"""Repeats a launch for tensors that lie as those of an earlier one did.

A training makes the same call at each step. For a small loss, a quarter of the host's time went into finding the same
views, numbers and constants again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from binxent.kernels.triton.views import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from binxent.call import Call

MOST = 256  # More launches than this are forgotten, or a program with ever new shapes would fill the memory.

_repeated: dict[Any, Repeated] = {}


class Repeated(NamedTuple):
    kernel: Any
    strides: tuple[tuple[int, ...] | None, ...]  # of the views among the first arguments; None: the tensor itself
    rest: tuple[Any, ...]  # the arguments that are no tensors

    def arguments(self, tensors: Sequence[Tensor | None]) -> list[Any]:
        """The arguments of the launch for these tensors."""
        first = [
            tensor if tensor is None or steps is None else View(tensor, steps)
            for tensor, steps in zip(tensors, self.strides, strict=True)
        ]
        return [*first, *self.rest]


def key(program: Any, call: Call, numbers: tuple[Any, ...], tensors: Sequence[Tensor | None]) -> Any:
    """Returns all that a launch depends on. The input comes first in ``tensors``."""
    layouts = [
        one if one is None else (one.dtype, one.shape, one.stride(), one.data_ptr() % 16 == 0) for one in tensors
    ]
    return (program.fn, call, numbers, tensors[0].get_device(), *layouts)  # type: ignore[union-attr]


def find(key: Any) -> Repeated | None:
    return _repeated.get(key)


def keep(key: Any, kernel: Any, arguments: Sequence[Any], tensors: int) -> None:
    """Keeps a launch, whose first arguments are so many tensors and views; the tensors are not kept alive."""
    if len(_repeated) >= MOST:
        _repeated.clear()
    strides = tuple(one.strides if isinstance(one, View) else None for one in arguments[:tensors])
    _repeated[key] = Repeated(kernel, strides, tuple(arguments[tensors:]))

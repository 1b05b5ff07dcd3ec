"""Launches a program: the first time as Triton does, and from then on the compiled kernel itself.

``program[grid](…)`` binds its arguments by name, describes each of them, makes a text of all descriptions and of the
options, and looks that up. Of a small loss this is most of the time. Here the same description is a key without texts.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
from torch import Tensor

from binxent.kernels.triton.lanes import INTERPRETED

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}  # fused where the programs say so, and nowhere else

# The versions whose ``CompiledKernel.run`` takes what is handed to it below; with others each launch is Triton's own.
KNOWN = ("3.6", "3.7", "3.8", "3.9")
_IS_KNOWN = not INTERPRETED and ".".join(triton.__version__.split(".")[:2]) in KNOWN

_compiled: dict[tuple[Any, ...], Any] = {}


def _width(number: int) -> int:
    """Which integer type Triton gives the number: of 32 bits, of 64, or of 64 without a sign."""
    return 0 if -(2**31) <= number < 2**31 else 1 if number < 2**63 else 2


@functools.lru_cache(maxsize=1024)
def _sizes(numbers: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(_described(number) for number in numbers)


def _described(argument: Any) -> Any:
    """What Triton compiles for: a tensor's dtype, and whether it begins at a multiple of 16 bytes; of a number whether
    it is 1, whether 16 divides it, and its width."""
    if argument is None:
        return None
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    if type(argument) is int:
        return 1 if argument == 1 else (argument % 16 == 0, _width(argument))
    if type(argument) is tuple:
        return _sizes(argument)
    return tuple(map(_described, argument))  # a View, or the Rows of a sparse target


class Parameters(NamedTuple):
    """The places of a program's parameters."""

    values: tuple[int, ...]  # tensors and sizes
    bits: tuple[int, ...]  # numbers that the programs must not be compiled for: only their width counts
    constants: Callable[[tuple[Any, ...]], tuple[Any, ...]]


_parameters: dict[Any, Parameters] = {}


def _parameters_of(program: Any) -> Parameters:
    """The program is found by its function: its own hash would be that of a text."""
    found = _parameters.get(program.fn)
    if found is None:
        constants = [param.num for param in program.params if param.is_constexpr]
        others = [param for param in program.params if not param.is_constexpr]
        found = _parameters[program.fn] = Parameters(
            tuple(param.num for param in others if not param.do_not_specialize),
            tuple(param.num for param in others if param.do_not_specialize),
            operator.itemgetter(*constants),
        )
    return found


def _has_hooks(program: Any) -> bool:
    """Whether somebody wants to see each launch, as a profiler does."""
    runtime = triton.knobs.runtime
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    # A chain of hooks, or None; a version may also have one function.
    return bool(
        program.pre_run_hooks
        or getattr(enter, "calls", enter)
        or getattr(leave, "calls", leave)
        or getattr(runtime, "add_stages_inspection_hook", None)
    )


def described(program: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the program is compiled for: equal only where Triton's own description is."""
    values, bits, constants = _parameters_of(program)
    key: list[Any] = [constants(arguments)]
    for place in values:
        argument = arguments[place]
        if argument is not None:
            key += place, _described(argument)
    for place in bits:
        argument = arguments[place]
        if argument is not None:
            key += place, _width(argument)
    return tuple(key)


def _compiled_for(program: Any, programs: int, device: torch.device, arguments: tuple[Any, ...]) -> tuple[Any, bool]:
    """The compiled kernel, or None if there is none to keep; and whether it has been launched already."""
    key = program.fn, device.index, described(program, arguments)
    kernel = _compiled.get(key)
    if kernel is not None:
        return kernel, False
    kernel = program[(programs,)](*arguments, **OPTIONS)
    if not hasattr(kernel, "packed_metadata"):  # it is still being compiled in the background
        return None, True
    _compiled[key] = kernel
    return kernel, True


def launch(program: Any, programs: int, device: torch.device, *arguments: Any, kernel: Any = None) -> Any:
    """Launches the program. Returns its compiled kernel, which a later launch may be given as ``kernel`` if its
    arguments are described alike; or None where only Triton may launch it."""
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            return launch(program, programs, device, *arguments, kernel=kernel)
    if device.type != "cuda" or not _IS_KNOWN or _has_hooks(program):
        program[(programs,)](*arguments, **OPTIONS)
        return None
    if kernel is None:
        kernel, is_done = _compiled_for(program, programs, device, arguments)
        if is_done:
            return kernel
    stream = torch._C._cuda_getCurrentRawStream(device.index)
    # The grid, where and what to launch, no metadata for hooks and none of both hooks, and then all arguments, the
    # constants too: the kernel leaves these out itself.
    kernel.run(programs, 1, 1, stream, kernel.function, kernel.packed_metadata, None, None, None, *arguments)
    return kernel

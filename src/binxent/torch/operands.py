"""What may be an operand of the loss, and which options are operands."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from binxent import options
from binxent.torch.call import TAG
from binxent.torch.context import is_exporting, is_watched

NAMES = ("input", "target", "weight", "sample_weight", "pos_weight", "mask")
LEARNABLE = ("label_smoothing", "gamma")

OFF = 0  # the default of label_smoothing and gamma: whatever else is given is looked at
# Bound once: an attribute of torch takes longer to find, in each small loss.
_STRIDED, _PARAMETER = torch.strided, torch.nn.Parameter
_NUMBERS = (int, float)

# The same numbers are given at each step, and found in a quarter of the time that it takes to check them.
_known_terms = functools.lru_cache(maxsize=64, typed=True)(options.terms)


class NotATensorError(TypeError, AttributeError):
    """An argument is no tensor. torch raises the one or the other, depending on which argument it is."""


def check(function: str, name: str, operand: Any) -> None:
    argument = f"{function}(): argument '{name}'"
    if not isinstance(operand, Tensor):
        raise NotATensorError(f"{argument} must be Tensor, not {type(operand).__name__}")
    if isinstance(operand, torch.masked.MaskedTensor):
        raise TypeError(f"{argument}: the mask of a MaskedTensor would be ignored; pass its .to_tensor(…)")
    if operand.is_quantized:
        raise NotImplementedError(f"{argument} is quantized; pass its .dequantize()")
    if operand.layout != torch.strided or operand.is_nested:
        raise NotImplementedError(f"{argument} must be strided, and not a nested tensor")
    if operand.is_complex() and (name != "target" or function == "binary_cross_entropy"):
        raise NotImplementedError(f"{argument} is of dtype {operand.dtype}; expected a real one")
    if operand.is_floating_point() and operand.dtype not in TAG:
        raise NotImplementedError(f"{argument} is of dtype {operand.dtype}; expected at least 16 bits")


def is_plain(tensor: Tensor, compiling: bool) -> bool:
    """Whether it is this machine's memory, just as it is, in a dtype that the kernel reads."""
    return (
        (type(tensor) is Tensor or type(tensor) is _PARAMETER)
        and tensor.is_cpu
        and tensor.dtype in TAG
        and (compiling or not tensor.is_neg())  # which torch.compile cannot ask
        and tensor.layout is _STRIDED
    )


def _must_stay_a_tensor(option: Tensor, compiling: bool) -> bool:
    """Whether the number in it would be too little: it is learnt, or unknown where the graph is made."""
    return (
        compiling
        or (option.requires_grad and torch.is_grad_enabled())
        or (type(option) is not Tensor and type(option) is not _PARAMETER)
        or option.is_meta
        or is_watched()
    )


def _scalar(function: str, name: str, option: Tensor) -> Tensor:
    check(function, name, option)
    if option.dtype == torch.bool or math.prod(option.shape) != 1:
        raise TypeError(f"{name}: expected a number, got a tensor of {option.dtype} and shape {tuple(option.shape)}")
    return option.reshape(()) if option.dim() else option


def split_options(
    function: str, ignore_index: object, label_smoothing: Any, gamma: Any, target: Tensor, compiling: bool
) -> tuple[options.Terms | None, Tensor | None, Tensor | None]:
    """The options as numbers, and label_smoothing and gamma where they are operands.

    To Dynamo a number that changes is a tensor: as a number, each new value would compile the program anew.
    """
    dtype = str(target.dtype).removeprefix("torch.")
    if (
        not compiling
        and type(label_smoothing) in _NUMBERS
        and type(gamma) in _NUMBERS
        and (ignore_index is None or type(ignore_index) in _NUMBERS)
    ):
        return _known_terms(ignore_index, label_smoothing, gamma, dtype), None, None
    given = {"label_smoothing": label_smoothing, "gamma": gamma}
    tensors: dict[str, Tensor | None] = {
        name: _scalar(function, name, option)
        if isinstance(option, Tensor) and _must_stay_a_tensor(option, compiling)
        else None
        for name, option in given.items()
    }
    numbers = {name: OFF if tensors[name] is not None else option for name, option in given.items()}
    if compiling and not is_exporting():
        checked = options.checked_terms(ignore_index, numbers["label_smoothing"], numbers["gamma"], dtype)
        for name, number in numbers.items():
            if number is not OFF:
                # A product, of which AOTAutograd makes one of tensors; in torch.full it would keep the number.
                tensors[name] = torch.ones((), dtype=torch.float64, device="cpu") * getattr(checked, name)
        terms = None if ignore_index is None else options.Terms(checked.ignore_index)
    else:
        terms = options.terms(ignore_index, numbers["label_smoothing"], numbers["gamma"], dtype)
    return terms, tensors["label_smoothing"], tensors["gamma"]

"""What may be an operand of the loss, and which options are operands."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binxent import options
from binxent.call import FLOATING
from binxent.kernels import READABLE
from binxent.torch.arrays import NAME
from binxent.torch.context import is_exporting, is_watched

if TYPE_CHECKING:
    from binxent.options import Focal

NAMES = ("input", "target", "weight", "sample_weight", "pos_weight", "mask", "neg_weight")
LEARNABLE = ("label_smoothing", "gamma")

OFF = 0  # the default of label_smoothing, gamma and margin: whatever else is given is looked at


class NotATensorError(TypeError, AttributeError):
    """An argument is no tensor. torch raises the one or the other, depending on which argument it is."""


class NestedTensorError(NotImplementedError, ValueError):
    """An argument is a nested tensor. torch raises the one or the other, depending on the layout."""


def check(function: str, name: str, operand: Any) -> None:
    argument = f"{function}(): argument '{name}'"
    if not isinstance(operand, Tensor):
        hint = options.to_dense(operand)
        raise NotATensorError(f"{argument} must be Tensor, not {type(operand).__name__}{hint}")
    if isinstance(operand, torch.masked.MaskedTensor):
        hint = "pass its .get_data(), and mask=its .get_mask()"
        raise TypeError(f"{argument}: the mask of a MaskedTensor would be ignored; {hint}")
    if operand.is_quantized:
        raise NotImplementedError(f"{argument} is quantized; pass its .dequantize()")
    if operand.is_nested:
        hint = "pass the .values() of every operand, or .to_padded_tensor(0.0) and mask="
        raise NestedTensorError(f"{argument} is a nested tensor; {hint}")
    if operand.layout != torch.strided:
        hint = options.TO_DENSE
        if name == "target" and operand.dim() == 2 and function != "count":
            hint = f"; a sparse target is one in CSR: pass its .to_sparse_csr(){hint.replace('; ', ', or ')}"
        raise NotImplementedError(f"{argument} has the layout {operand.layout}; expected torch.strided{hint}")
    if operand.is_complex() and (name != "target" or function == "binary_cross_entropy"):
        raise NotImplementedError(f"{argument} is of dtype {operand.dtype}; expected a real one")
    if operand.is_floating_point() and NAME[operand.dtype] not in FLOATING:
        raise NotImplementedError(f"{argument} is of dtype {operand.dtype}; expected at least 16 bits")


def lies_on(device: torch.device, tensor: Tensor) -> bool:
    """Whether it is plain memory of this device, in a dtype that the kernels read, as far as Dynamo can ask."""
    return (
        (type(tensor) is Tensor or type(tensor) is torch.nn.Parameter)
        and tensor.device == device
        and device.type != "meta"
        and tensor.layout is torch.strided
        and NAME[tensor.dtype] in READABLE
    )


def _must_stay_a_tensor(option: Tensor, compiling: bool) -> bool:
    """Whether the number in it would be too little: it is learnt, or unknown where the graph is made."""
    return (
        compiling
        or (option.requires_grad and torch.is_grad_enabled())
        or not option.is_cpu  # to read the number would wait for the device
        or (type(option) is not Tensor and type(option) is not torch.nn.Parameter)
        or is_watched()
    )


def _scalar(function: str, name: str, option: Tensor) -> Tensor:
    check(function, name, option)
    if option.dtype == torch.bool or math.prod(option.shape) != 1:
        raise TypeError(f"{name}: expected a number, got a tensor of {option.dtype} and shape {tuple(option.shape)}")
    return option.reshape(()) if option.dim() else option


def split_normalizer(
    function: str, normalizer: Any, reduction: str, input: Tensor, compiling: bool
) -> tuple[float | None, Tensor | None]:
    """The normalizer as a number; or as an operand, if it is a tensor, 0, or in a graph, where it may change."""
    number = options.checked_normalizer(normalizer, reduction)
    if number is None:
        if not isinstance(normalizer, Tensor):
            given = type(normalizer).__name__
            raise NotATensorError(f"{function}(): argument 'normalizer' must be a number or Tensor, not {given}")
        check(function, "normalizer", normalizer)
        if normalizer.dtype == torch.bool:
            raise TypeError("normalizer: expected a number, got a tensor of torch.bool")
        if not (input.is_cpu or compiling or is_watched()) and type(normalizer) is Tensor and normalizer.is_cpu:
            return split_normalizer(function, normalizer.item(), reduction, input, compiling)
        return None, normalizer.detach().reshape(())
    if compiling and not is_exporting():
        # A product, as in split_options: in torch.full each new number would compile the program anew.
        return None, torch.ones((), dtype=torch.float64, device="cpu") * number
    return number, None if number else input.new_zeros((), dtype=torch.float32)


def split_options(
    function: str,
    ignore_index: object,
    label_smoothing: Any,
    gamma: Any,
    focal: Focal,
    target_dtype: str,
    compiling: bool,
) -> tuple[Any, Any, Tensor | None, Tensor | None]:
    """label_smoothing and gamma as numbers, and as tensors where they are operands; whichever is not meant is off.

    To Dynamo a number that changes is a tensor: as a number, each new value would compile the program anew.
    """
    if isinstance(gamma, Tensor):  # which is no longer among the numbers where ``options`` looks at them
        options.check_one_gamma(gamma, focal)
    numbers = {"label_smoothing": label_smoothing, "gamma": gamma}
    tensors: dict[str, Tensor | None] = {"label_smoothing": None, "gamma": None}
    for name, option in numbers.items():
        if isinstance(option, Tensor) and _must_stay_a_tensor(option, compiling):
            tensors[name], numbers[name] = _scalar(function, name, option), OFF
    if compiling and not is_exporting():
        given = numbers["label_smoothing"], numbers["gamma"]
        checked = options.checked_terms(ignore_index, *given, target_dtype, focal)
        for name, number in numbers.items():
            if number is not OFF:
                # A product, of which AOTAutograd makes one of tensors; in torch.full it would keep the number.
                tensors[name] = torch.ones((), dtype=torch.float64, device="cpu") * getattr(checked, name)
                numbers[name] = OFF
    return numbers["label_smoothing"], numbers["gamma"], tensors["label_smoothing"], tensors["gamma"]

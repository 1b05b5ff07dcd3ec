"""Checks operands, finds the options that are operands, plans a call, and refuses in Paddle's words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

import paddle
from paddle import Tensor

from binxent import options
from binxent.call import FLOATING, known_plan, plan
from binxent.kernels import native
from binxent.paddle import arrays
from binxent.paddle.arrays import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from binxent.call import Call, Shape
    from binxent.formula import Loss

# input (or logit), label, weight, sample_weight, pos_weight, mask, neg_weight
Given = tuple[Any, Any, Any, Any, Any, Any, Any]
# ignore_index, label_smoothing, gamma, the options of the focal family, check_targets
Numbers = tuple[Any, Any, Any, options.Focal, Any]
TENSORS = (Tensor, paddle.pir.Value)  # type: ignore[attr-defined]
_WEIGHTS = ("weight", "sample_weight", "pos_weight", "mask", "neg_weight")


def _name(loss: Loss) -> str:
    return "binary_cross_entropy" if loss.probabilities else "binary_cross_entropy_with_logits"


def named(loss: Loss, given: Given) -> tuple[str, dict[str, Any]]:
    """The function's name, and the operands by the names of its parameters."""
    names = "input" if loss.probabilities else "logit", "label", *_WEIGHTS
    return _name(loss), dict(zip(names, given, strict=True))


def check(where: str, operands: dict[str, Any], kind: Any, no_kind: type[Exception], no_dtype: type[Exception]) -> None:
    """Refuses what is no tensor (in a static graph: no value), or has a dtype that the function does not take."""
    for name, operand in operands.items():
        if operand is None and name in _WEIGHTS:
            continue
        if not isinstance(operand, kind):
            found = type(operand).__name__
            if type(operand).__module__ != "builtins":
                found = f"{type(operand).__module__}.{found}"
            hint = options.to_dense(operand)
            raise no_kind(f"{where}(): argument '{name}' must be {kind.__name__}, but got {found}{hint}")
        if isinstance(operand, Tensor) and not operand.is_dense():
            hint = options.TO_DENSE
            if name == "label" and where != "count":
                hint = f"; {options.SPARSE_TARGET}{hint.replace('; ', ', or ')}"
            raise no_kind(f"{where}(): argument '{name}' is a sparse tensor{hint}")
        known = FLOATING if name in ("input", "logit") else tuple(native.TAGS)
        if NAME.get(operand.dtype) not in known:
            error = TypeError if name in _WEIGHTS else no_dtype
            found = str(operand.dtype).removeprefix("paddle.")
            expected = ", ".join(known)
            raise error(f"{where}(): argument '{name}' is of dtype {found}; expected one of {expected}")


def split_options(numbers: Numbers) -> tuple[Numbers, dict[str, Any]]:
    """Returns the options that are numbers, and the operands: a tensor that learns, or a static graph's variable."""
    given, learnt = dict(zip(options.Terms._fields, numbers[:3], strict=False)), {}
    for name, option in given.items():
        if isinstance(option, paddle.pir.Value):  # type: ignore[attr-defined]
            if name == "ignore_index" or math.prod(option.shape) != 1:
                raise TypeError(f"{name}: expected a number, got a static graph's variable of shape {option.shape}")
            # Not 0, beside which the plan would take a gamma_positive.
            given[name], learnt[name] = 1.0, paddle.reshape(option, [])
        elif name != "ignore_index" and isinstance(option, Tensor) and not option.stop_gradient:
            if not paddle.in_dynamic_mode():
                found = "a paddle.Tensor that learns, of which a static graph would make a constant"
                raise TypeError(f"{name}: {found}; make it a parameter of the layer")
            if paddle.is_grad_enabled() and math.prod(option.shape) == 1:
                learnt[name] = option.reshape([])
    return (given["ignore_index"], given["label_smoothing"], given["gamma"], *numbers[3:]), learnt


def split_normalizer(normalizer: Any, reduction: str, dtype: str, by_kernel: bool) -> tuple[float | None, Any]:
    """Returns the normalizer as a number, for the kernel; or as an operand, if it is 0 or no kernel computes the loss.

    ``dtype`` is that of the result.
    """
    number = options.checked_normalizer(normalizer, reduction)
    if number is None:
        if isinstance(normalizer, paddle.pir.Value):  # type: ignore[attr-defined]
            return None, arrays.constant(paddle.reshape(normalizer, []))
        if not isinstance(normalizer, Tensor):
            raise TypeError(f"normalizer: expected a number or a paddle.Tensor, got {type(normalizer).__name__}")
        if not normalizer.place.is_cpu_place():  # to read its number would wait for the device
            return None, normalizer.detach().reshape([])
        number = float(normalizer.item())  # type: ignore[arg-type]  # the stub knows complex numbers too
    if by_kernel and number:
        return number, None
    return None, paddle.full([], number, "float64" if dtype == "float64" else "float32")


def planned(loss: Loss, reduction: str, given: Given, shapes: Sequence[Shape | None], numbers: Numbers) -> Call:
    """The call, for the shapes of ``given``. Paddle takes labels outside [0, 1] for probabilities too, unchecked."""
    *shapes, neg_weight = shapes
    ignore_index, label_smoothing, gamma, *beyond = numbers
    # The cache would know a tensor by its identity, and not by its number.
    find: Callable[..., Call] = plan if any(isinstance(number, Tensor) for number in numbers) else known_plan
    dtypes = NAME[given[0].dtype], NAME[given[1].dtype]
    wanted = (loss, reduction, dtypes, *shapes, ignore_index, label_smoothing, gamma, neg_weight, *beyond)
    return find(*wanted, any_target=not numbers[-1])


def check_reduction(where: str, reduction: object) -> None:
    if reduction not in (*options.REDUCTIONS, *options.BY_AXIS):  # Paddle's words, with what there is besides
        raise ValueError(
            f"The value of 'reduction' in {where} should be 'per_label', 'per_sample', 'batchmean', 'weighted_mean', "
            f"'sum', 'mean' or 'none', but received {reduction}, which is not allowed."
        )


def refuse(loss: Loss, refusal: options.RefusalError, reduction: str, given: Given) -> NoReturn:
    """Raises Paddle's ValueError, in Paddle's words where it has some."""
    message = str(refusal)
    if refusal.argument == "reduction":
        check_reduction(_name(loss), reduction)
    elif refusal.argument == "target":
        input, label = (list(operand.shape) for operand in given[:2])
        first = "input" if loss.probabilities else "logit"
        message = f"{_name(loss)}(): label has shape {label}; expected that of {first}, {input}"
    raise ValueError(message) from None

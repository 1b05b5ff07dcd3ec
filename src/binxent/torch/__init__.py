"""The loss in PyTorch: drop-ins for torch's two functions and two modules.

Eager code on CPU reaches the kernel through ``eager``, compiled code through the operators of ``compiled``.
Transforms, tracing, tensor subclasses and other devices compute the formula with torch's own operations, in
``composite``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

# Bound here, since somebody may set ours in their place.
from torch.nn import BCELoss as TorchBCELoss
from torch.nn import BCEWithLogitsLoss as TorchBCEWithLogitsLoss
from torch.nn import _reduction as torch_reduction
from torch.nn.functional import binary_cross_entropy as torch_binary_cross_entropy
from torch.nn.functional import binary_cross_entropy_with_logits as torch_binary_cross_entropy_with_logits
from torch.overrides import handle_torch_function
from torch.overrides import has_torch_function_variadic as has_torch_function

from binxent import options
from binxent.torch import compiled, composite, eager
from binxent.torch.call import Call, Operands, known_call, with_values
from binxent.torch.context import in_transform, is_autocast_available, is_exporting, is_watched
from binxent.torch.operands import LEARNABLE, NAMES, OFF, check, is_plain, split_options

__all__ = ["BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits"]

_HALF = (torch.float16, torch.bfloat16)
# Bound once: an attribute of torch takes longer to find, in each small loss.
_FLOAT32, _is_compiling, _REDUCTIONS = torch.float32, torch.compiler.is_compiling, options.REDUCTIONS


def _legacy_reduction(size_average: bool | None, reduce: bool | None) -> str:
    return torch_reduction.legacy_get_string(size_average, reduce)


# As torch.compiler.assume_constant_result, whose import costs a second: a warning cannot be traced.
_legacy_reduction._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _torchs_reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """What torch makes of its deprecated arguments, or of a reduction that is none of ours."""
    if size_average is not None or reduce is not None:
        return _legacy_reduction(size_average, reduce)
    torch_reduction.get_enum(reduction)  # raises torch's ValueError, or warns of 'elementwise_mean'
    return "mean"


def _check_weight(function: str, name: str, tensor: Tensor, input: Tensor) -> None:
    try:
        options.check_broadcast(name, tensor.shape, input.shape)
    except ValueError as problem:
        raise RuntimeError(f"{function}(): {problem}") from None


def _result_dtype(input: Tensor, target: Tensor) -> torch.dtype:
    """The wider of input and target; float32 for half types under autocast, which lists both losses so."""
    dtype = input.dtype
    if target.dtype != dtype and target.is_floating_point():
        dtype = torch.promote_types(dtype, target.dtype)
    if dtype in _HALF:
        device = input.device.type
        if is_autocast_available(device) and torch.is_autocast_enabled(device):
            return torch.float32
    return dtype


def _loss(
    function: str,
    operands: Operands,
    reduction: str,
    ignore_index: float | None,
    label_smoothing: float | Tensor,
    gamma: float | Tensor,
    *,
    inplace_backward: bool = False,
    check_range: bool = False,
) -> Tensor:
    compiling = _is_compiling()
    input, target, weight, sample_weight, pos_weight, mask, _, _ = operands
    plain = (
        is_plain(input, compiling)
        and is_plain(target, compiling)
        and (weight is None or is_plain(weight, compiling))
        and (sample_weight is None or is_plain(sample_weight, compiling))
        and (pos_weight is None or is_plain(pos_weight, compiling))
        and (mask is None or is_plain(mask, compiling))
    )
    if not plain:
        for name, operand in zip(NAMES, operands, strict=False):
            if operand is not None or name in ("input", "target"):
                check(function, name, operand)
    if input.dtype is not _FLOAT32 and not input.is_floating_point():
        raise NotImplementedError(f'"{function}" not implemented for {input.dtype}: input must be floating point')
    if weight is not None:
        _check_weight(function, "weight", weight, input)
    if pos_weight is not None:
        _check_weight(function, "pos_weight", pos_weight, input)
    if mask is not None:
        _check_weight(function, "mask", mask, input)
    if sample_weight is not None:
        sample_weight = sample_weight.reshape(options.check_sample_weight(sample_weight.shape, input.shape))
        operands = (input, target, weight, sample_weight, pos_weight, mask, None, None)
    terms, learnt = None, False
    if ignore_index is not None or label_smoothing is not OFF or gamma is not OFF:
        terms, learnt_smoothing, learnt_gamma = split_options(
            function, ignore_index, label_smoothing, gamma, target, compiling
        )
        learnt = learnt_smoothing is not None or learnt_gamma is not None
        if learnt:
            operands = (input, target, weight, sample_weight, pos_weight, mask, learnt_smoothing, learnt_gamma)
            plain = plain and all(option is None or is_plain(option, compiling) for option in operands[6:])
    dtype = _FLOAT32 if input.dtype is target.dtype is _FLOAT32 else _result_dtype(input, target)
    make = Call if compiling else known_call
    call = make(function == "binary_cross_entropy", reduction, dtype, terms, inplace_backward, check_range)
    if compiling:
        if inplace_backward:
            raise RuntimeError("inplace_backward: not under torch.compile; call the loss without it, or uncompiled.")
        if plain and not is_exporting() and not in_transform():
            return compiled.loss(call, operands)
        return composite.loss(call, operands)
    if not plain or is_watched():
        return composite.loss(call, operands)
    return eager.loss(with_values(call, operands) if learnt else call, operands)


def _beyond_defaults(ours: dict[str, Any]) -> dict[str, Any]:
    """What a subclass of Tensor must know of: one that stands in for torch's function knows none of our options."""
    off = options.Terms()._asdict()
    given = {name: value for name, value in ours.items() if value is not None and value is not False}
    return {
        name: value
        for name, value in given.items()
        if name not in off or isinstance(value, Tensor) or value != off[name]
    }


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: float | None = None,
    label_smoothing: float | Tensor = 0,  # not 0.0, which torch.compile would make a symbol, and trace twice
    gamma: float | Tensor = 0,
    inplace_backward: bool = False,
) -> Tensor:
    """Binary cross-entropy of logits; a drop-in for ``torch.nn.functional.binary_cross_entropy_with_logits``.

    ``w · [p·y·softplus(−x) + (1−y)·softplus(x)]`` for each element, with x the input, y the target, w the weight and
    p the pos_weight; then the mean (divided by the number of elements), the sum, or none.

    Args:
        input: logits, of any shape and floating dtype.
        target: of the input's shape; any floating dtype, integers or bool. Usually in [0, 1], which is not enforced.
        weight: broadcasts to the input.
        size_average, reduce: deprecated; either overrides ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; ``"batchmean"``, the sum divided by the size of the first axis;
            ``"weighted_mean"``, the sum divided by the sum of the weights (pos_weight does not count).
        pos_weight: broadcasts to the input; multiplies the loss of positives. In [N, C] input, one for each class.
        sample_weight: shape [N], along the input's first axis; multiplies ``weight``.
        mask: broadcasts to the input; an element where it is 0 or False is ignored: it adds 0 to the loss, to every
            gradient and to what ``"mean"`` divides by, whatever it holds, NaN too. The mean of nothing is 0.
        ignore_index: elements whose target it is are ignored likewise; an integer such as -100, or NaN.
        label_smoothing: ε in [0, 1]; y·(1−ε) + ε/2 stands for the target.
        gamma: of the focal loss, not negative; the loss of an element is multiplied by what the model gives the wrong
            answer, to this power. It and label_smoothing may be tensors of one element, which get their gradients.
        inplace_backward: the backward overwrites the logits with their gradient, and no memory is allocated. Refused
            for leaves, views and expanded logits, under ``create_graph``, ``torch.func`` and ``torch.compile``; a
            second backward is an error. Whoever else needs the logits' values in the backward gets torch's own error.

    Returns:
        A scalar, or the input's shape for ``"none"``; of the wider floating dtype of input and target (float32 for
        half types under autocast, as torch has it).

    Raises:
        ValueError: target and input differ in shape, or the reduction is unknown.
        RuntimeError: a weight does not broadcast to the input, or is on another device.
        TypeError, NotImplementedError: an argument is no tensor, or of a dtype or layout that is not supported.

    Differences from torch: integer and boolean targets; the wider dtype instead of the target's; exact tails; finite
    results for infinite logits with the right target; gradients to ``weight`` and ``pos_weight``.

    Examples:
        >>> target = torch.ones([10, 64], dtype=torch.float32)  # 64 classes, batch size = 10
        >>> output = torch.full([10, 64], 1.5)  # a prediction (logit)
        >>> pos_weight = torch.ones([64])  # all weights are equal to 1
        >>> binary_cross_entropy_with_logits(output, target, pos_weight=pos_weight)
        tensor(0.2014)
    """
    # torch.compile cannot trace what hands over to a subclass: there it sees each operation of the formula.
    if has_torch_function(input, target, weight, sample_weight, pos_weight, mask) and not _is_compiling():
        ours: dict[str, Any] = {
            "sample_weight": sample_weight,
            "mask": mask,
            "ignore_index": ignore_index,
            "label_smoothing": label_smoothing,
            "gamma": gamma,
            "inplace_backward": inplace_backward,
        }
        result: Tensor = handle_torch_function(
            binary_cross_entropy_with_logits,
            (input, target, weight, sample_weight, pos_weight, mask),
            input,
            target,
            weight=weight,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            pos_weight=pos_weight,
            **_beyond_defaults(ours),
        )
        return result
    if size_average is not None or reduce is not None or reduction not in _REDUCTIONS:
        reduction = _torchs_reduction(size_average, reduce, reduction)
    if isinstance(target, Tensor) and isinstance(input, Tensor) and target.shape != input.shape:
        raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")
    return _loss(
        "binary_cross_entropy_with_logits",
        (input, target, weight, sample_weight, pos_weight, mask, None, None),
        reduction,
        ignore_index,
        label_smoothing,
        gamma,
        inplace_backward=inplace_backward,
    )


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    pos_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: float | None = None,
    label_smoothing: float | Tensor = 0,
    gamma: float | Tensor = 0,
    check_range: bool = False,
) -> Tensor:
    """Binary cross-entropy of probabilities; a drop-in for ``torch.nn.functional.binary_cross_entropy``.

    ``w · [p·y·(−log q) + (1−y)·(−log(1−q))]`` for each element, with q the input, y the target, w the weight and p
    the pos_weight; both logarithms are clamped at −100, and the gradient's denominator q·(1−q) at 1e-12. Then the
    mean (divided by the number of elements), the sum, or none.

    Args:
        input: probabilities, of any shape and floating dtype.
        target: of the input's shape; floating in [0, 1], integers 0 and 1, or bool.
        weight, size_average, reduce, reduction, pos_weight, sample_weight, mask, ignore_index, label_smoothing, gamma:
            as with logits.
        check_range: on an accelerator, where a check waits for the device, raise for values outside [0, 1]; without
            it, such elements are NaN there. On CPU they are always refused.

    Returns:
        As with logits.

    Raises:
        RuntimeError: an input or a target lies outside [0, 1]; the message names the first. The rest is as with
            logits.

    Differences from torch: integer, boolean and mixed targets; ``pos_weight``; safe in half precision and under
    autocast; the gradient to the target is ±100 at q = 0 and 1, and not infinite; a scalar owns one element of memory.

    Examples:
        >>> binary_cross_entropy(torch.tensor([0.5, 0.9]), torch.tensor([1, 1]), reduction="none")
        tensor([0.6931, 0.1054])
    """
    # torch.compile cannot trace what hands over to a subclass: there it sees each operation of the formula.
    if has_torch_function(input, target, weight, sample_weight, pos_weight, mask) and not _is_compiling():
        ours: dict[str, Any] = {
            "pos_weight": pos_weight,
            "sample_weight": sample_weight,
            "mask": mask,
            "ignore_index": ignore_index,
            "label_smoothing": label_smoothing,
            "gamma": gamma,
            "check_range": check_range,
        }
        result: Tensor = handle_torch_function(
            binary_cross_entropy,
            (input, target, weight, sample_weight, pos_weight, mask),
            input,
            target,
            weight=weight,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            **_beyond_defaults(ours),
        )
        return result
    if size_average is not None or reduce is not None or reduction not in _REDUCTIONS:
        reduction = _torchs_reduction(size_average, reduce, reduction)
    if isinstance(target, Tensor) and isinstance(input, Tensor) and target.shape != input.shape:
        raise ValueError(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is "
            "deprecated. Please ensure they have the same size."
        )
    return _loss(
        "binary_cross_entropy",
        (input, target, weight, sample_weight, pos_weight, mask, None, None),
        reduction,
        ignore_index,
        label_smoothing,
        gamma,
        check_range=check_range,
    )


def _hand_out(ours: Any, torchs: Any) -> None:
    """Tell torch.jit.script what to compile in our function's place: torch's own, where ours has been set in its place.

    Code that calls torch.nn.functional, such as torch's own modules, knows nothing of our options.
    """

    def prepare() -> Any:
        if getattr(torch.nn.functional, ours.__name__) is ours:
            return torchs
        raise NotImplementedError(
            "TorchScript (torch.jit.script) cannot take the functions of binxent.torch: script the module BCELoss or "
            "BCEWithLogitsLoss, which becomes torch's own, or use torch.jit.trace, torch.compile or torch.export."
        )

    ours.__prepare_scriptable__ = prepare


_hand_out(binary_cross_entropy_with_logits, torch_binary_cross_entropy_with_logits)
_hand_out(binary_cross_entropy, torch_binary_cross_entropy)


class _Off:
    """The number 0 in a module that has no such attribute: the option is a parameter, or the module was torch's."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, owner: type) -> Any:
        return OFF if module is None else module._parameters.get(self.name, OFF)


def _known(option: Any) -> Any:
    """What can be checked of an option before it is used: nothing of one on the meta device."""
    if not isinstance(option, Tensor) or option.numel() != 1:
        return option
    return OFF if option.is_meta else option.item()


class _Options(torch.nn.Module):
    """What both modules have beyond torch's; a torch module that is made one of ours has the defaults."""

    reduction: str
    ignore_index: float | None = None
    label_smoothing: Any = _Off()
    gamma: Any = _Off()
    flag: ClassVar[str]  # the name of another option, which is on or off

    def _set(self, ignore_index: float | None, label_smoothing: Any, gamma: Any, flag: bool) -> None:
        options.terms(ignore_index, _known(label_smoothing), _known(gamma), "float32")
        self.ignore_index, self.label_smoothing, self.gamma = ignore_index, label_smoothing, gamma
        setattr(self, self.flag, flag)

    def register_parameter(self, name: str, param: torch.nn.Parameter | None) -> None:
        """Takes a learnt option, which torch would refuse because the class has an attribute of that name."""
        if name in LEARNABLE and isinstance(param, torch.nn.Parameter):
            vars(self).pop(name, None)
            self._parameters[name] = param
        else:
            super().register_parameter(name, param)

    def _shown_options(self) -> dict[str, str]:
        """Each option's repr; of a learnt one the type, since on the meta device it has no value."""
        learnt = {
            name: type(option).__name__ for name in LEARNABLE if isinstance(option := getattr(self, name), Tensor)
        }
        flag = {self.flag: "True"} if getattr(self, self.flag) else {}
        return options.shown_terms(self, learnt) | flag

    def extra_repr(self) -> str:
        """Only what is not the default, so that a plain module prints as torch's own."""
        shown = {} if self.reduction == "mean" else {"reduction": repr(self.reduction)}
        shown |= self._shown_options()
        return ", ".join(f"{name}={value}" for name, value in shown.items())

    def _check_scriptable(self) -> None:
        beyond = list(self._shown_options())
        if getattr(self, "pos_weight", None) is not None and isinstance(self, TorchBCELoss):
            beyond.append("pos_weight")
        if self.reduction in ("batchmean", "weighted_mean"):
            beyond.append(f"reduction={self.reduction!r}")
        if beyond:
            raise NotImplementedError(
                f"TorchScript cannot take {type(self).__name__} with {', '.join(beyond)}: it would compile torch's own "
                "class, and torch's own class has none of that. Use torch.jit.trace, torch.compile or torch.export."
            )


class BCEWithLogitsLoss(_Options, TorchBCEWithLogitsLoss):
    """``binary_cross_entropy_with_logits`` as a module; a drop-in for, and a subclass of, torch's own.

    Parameters, buffers, ``state_dict`` and ``repr`` are torch's; the options after ``pos_weight`` are as in the
    function. The call takes ``sample_weight`` and ``mask``.

    Examples:
        >>> loss = BCEWithLogitsLoss()
        >>> loss
        BCEWithLogitsLoss()
        >>> loss(torch.zeros(3), torch.tensor([1, 0, 1]))
        tensor(0.6931)
    """

    inplace_backward: bool = False
    flag = "inplace_backward"

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        *,
        ignore_index: float | None = None,
        label_smoothing: float | Tensor = 0,
        gamma: float | Tensor = 0,
        inplace_backward: bool = False,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction, pos_weight)
        self._set(ignore_index, label_smoothing, gamma, inplace_backward)

    def forward(
        self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return binary_cross_entropy_with_logits(
            input,
            target,
            self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
            sample_weight=sample_weight,
            mask=mask,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            gamma=self.gamma,
            inplace_backward=self.inplace_backward,
        )

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """TorchScript, which is deprecated, takes torch's own class."""
        self._check_scriptable()
        return TorchBCEWithLogitsLoss(self.weight, reduction=self.reduction, pos_weight=self.pos_weight)


class BCELoss(_Options, TorchBCELoss):
    """``binary_cross_entropy`` as a module; a drop-in for, and a subclass of, torch's own.

    Parameters, buffers, ``state_dict`` and ``repr`` are torch's; the other options are as in the function. The call
    takes ``sample_weight`` and ``mask``.

    Examples:
        >>> loss = BCELoss(pos_weight=torch.tensor(3.0))
        >>> loss(torch.full((3,), 0.5), torch.tensor([1, 0, 1]))
        tensor(1.6173)
    """

    check_range: bool = False
    flag = "check_range"

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        *,
        pos_weight: Tensor | None = None,
        ignore_index: float | None = None,
        label_smoothing: float | Tensor = 0,
        gamma: float | Tensor = 0,
        check_range: bool = False,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        if pos_weight is not None:  # only then, since torch's own module has no such key in its state
            self.register_buffer("pos_weight", pos_weight)
        self._set(ignore_index, label_smoothing, gamma, check_range)

    def forward(
        self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return binary_cross_entropy(
            input,
            target,
            self.weight,
            reduction=self.reduction,
            pos_weight=getattr(self, "pos_weight", None),
            sample_weight=sample_weight,
            mask=mask,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            gamma=self.gamma,
            check_range=self.check_range,
        )

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """TorchScript, which is deprecated, takes torch's own class."""
        self._check_scriptable()
        return TorchBCELoss(self.weight, reduction=self.reduction)

"""The two losses as functions; drop-ins for torch's.

Eager code reaches a kernel through ``eager``, on the CPU or a CUDA card, and compiled code through ``operators``. On
other devices ``eager`` computes the definition in blocks. For transforms, tracing and tensor subclasses the definition
is computed in torch's own operations.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from torch.nn import _reduction as torch_reduction

# Bound here, since somebody may set ours in their place.
from torch.nn.functional import binary_cross_entropy as torch_binary_cross_entropy
from torch.nn.functional import binary_cross_entropy_with_logits as torch_binary_cross_entropy_with_logits
from torch.overrides import handle_torch_function
from torch.overrides import has_torch_function_variadic as has_torch_function

from binxent import definition, options
from binxent.call import Operands, averaged_axes, known_plan, normalized, plan, result_dtype
from binxent.options import BY_AXIS, NO_FOCAL
from binxent.targets import IndexTargets, SparseRows
from binxent.torch import arrays, blocks, cpu, cuda, eager, operators, shards, sparse, sparse_operators
from binxent.torch.arrays import LOGITS, NAME, PROBABILITIES, dtype_of_target, tensors
from binxent.torch.context import in_transform, is_autocast_available, is_exporting, is_watched
from binxent.torch.counting import count
from binxent.torch.cpu import is_plain
from binxent.torch.operands import NAMES, OFF, check, split_normalizer, split_options
from binxent.torch.operators import native_loss

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from binxent.formula import Loss
    from binxent.options import Focal

_HALF = ("float16", "bfloat16")
# Bound once: looking up an attribute of torch is measurable in a loss of 64 elements.
_FLOAT32, _REDUCTIONS, _is_compiling = torch.float32, options.REDUCTIONS, torch.compiler.is_compiling


def _legacy_reduction(size_average: bool | None, reduce: bool | None) -> str:
    return torch_reduction.legacy_get_string(size_average, reduce)


# As torch.compiler.assume_constant_result, whose import costs a second: a warning cannot be traced.
_legacy_reduction._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _torchs_reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """What torch makes of its deprecated arguments, or of a reduction that no kernel has."""
    if size_average is not None or reduce is not None:
        return _legacy_reduction(size_average, reduce)
    if reduction in BY_AXIS:
        return reduction
    if reduction != "elementwise_mean":
        options.check_reduction(reduction)  # a ValueError, as torch's, which knows only three of ours
    torch_reduction.get_enum(reduction)  # warns of 'elementwise_mean'
    return "mean"


def _is_autocast(input: Tensor) -> bool:
    """Whether both losses give float32, as autocast lists them."""
    device = input.device.type
    return is_autocast_available(device) and torch.is_autocast_enabled(device)


def _name(loss: Loss) -> str:
    return "binary_cross_entropy" if loss.probabilities else "binary_cross_entropy_with_logits"


def _other_size(loss: Loss, input: Tensor, target: Tensor) -> ValueError:
    """In torch's words, which the two functions do not share."""
    if not loss.probabilities:
        return ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")
    return ValueError(
        f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is "
        "deprecated. Please ensure they have the same size."
    )


def _refuse(loss: Loss, refusal: options.RefusalError, input: Tensor, target: Tensor) -> NoReturn:
    """Raise what torch raises."""
    if refusal.argument == "target":
        raise _other_size(loss, input, target) from None
    if refusal.argument in ("weight", "pos_weight", "neg_weight", "mask"):
        raise RuntimeError(f"{_name(loss)}(): {refusal}") from None
    raise refusal


def _check_all(loss: Loss, given: tuple[Any, ...]) -> None:
    for name, operand in zip(NAMES, given, strict=True):
        if (operand is not None or name in ("input", "target")) and not isinstance(operand, SparseRows):
            check(_name(loss), name, operand)


def _loss(
    loss: Loss,
    given: tuple[Any, ...],
    reduction: str,
    ignore_index: float | None,
    label_smoothing: Any,
    gamma: Any,
    focal: Focal | None,
    normalizer: Any,
    check_targets: bool,
    inplace_backward: bool = False,
    check_range: bool = False,
    wide: bool = False,
) -> Tensor:
    """The loss; ``focal`` is None if none of its options is meant, and ``wide`` makes a half type float32."""
    compiling = _is_compiling()
    input, target, weight, sample_weight, pos_weight, mask, neg_weight = given
    if (
        compiling
        and weight is sample_weight is pos_weight is mask is neg_weight is ignore_index is normalizer is None
        and focal is None
        and label_smoothing is OFF
        and gamma is OFF
        and not (check_targets or inplace_backward or wide)
    ):
        found = native_loss(loss.probabilities, input, target, reduction)
        if found is not None:
            return found
    kernel: ModuleType | None = cpu
    is_sparse = False
    if not (
        is_plain(input, compiling)
        and is_plain(target, compiling)
        and (weight is None or is_plain(weight, compiling))
        and (sample_weight is None or is_plain(sample_weight, compiling))
        and (pos_weight is None or is_plain(pos_weight, compiling))
        and (mask is None or is_plain(mask, compiling))
        and (neg_weight is None or is_plain(neg_weight, compiling))
    ):
        are_tensors = isinstance(input, Tensor) and isinstance(target, Tensor)  # ``reads`` takes None for no operand
        kernel = cuda if not compiling and are_tensors and cuda.reads(given, compiling) else None
    if kernel is None:
        if isinstance(input, Tensor) and sparse.is_target(target):
            target = sparse.rows(_name(loss), target, input, ignore_index, compiling)
            given, is_sparse = (input, target, *given[2:]), True
        elif (
            isinstance(input, Tensor)
            and isinstance(target, Tensor)
            and not (input.is_nested or target.is_nested)  # whose sizes are not what is wrong
            and target.shape != input.shape
        ):
            raise _other_size(loss, input, target)
        _check_all(loss, given)
        if any(map(shards.is_sharded, given)):
            if is_sparse:
                raise NotImplementedError(f"{_name(loss)}(): a sparse target, but another operand is a DTensor")

            def of_shard(local: tuple[Any, ...], learnable: tuple[Any, Any], divisor: Any) -> Tensor:
                smoothing, power = learnable
                flags = check_targets, inplace_backward, check_range, wide
                return _loss(loss, local, reduction, ignore_index, smoothing, power, focal, divisor, *flags)

            learnable = label_smoothing, gamma
            try:
                return shards.loss(of_shard, count, given, reduction, ignore_index, learnable, normalizer)
            except options.RefusalError as refusal:
                _refuse(loss, refusal, input, target)
        if is_sparse and all(o is None or is_plain(o, compiling) for o in tensors(given)):
            kernel = cpu
        elif cuda.reads(given, compiling):
            kernel = cuda
        else:
            kernel = blocks if not compiling and blocks.reads(given) else None
    if input.dtype is not _FLOAT32 and not input.is_floating_point():
        raise NotImplementedError(f'"{_name(loss)}" not implemented for {input.dtype}: input must be floating point')
    learnt_smoothing = learnt_gamma = divisor = None
    target_dtype = dtype_of_target(target) if is_sparse else NAME[target.dtype]
    if label_smoothing is not OFF or gamma is not OFF:
        label_smoothing, gamma, learnt_smoothing, learnt_gamma = split_options(
            _name(loss), ignore_index, label_smoothing, gamma, focal or NO_FOCAL, target_dtype, compiling
        )
    number = None
    if normalizer is not None:
        number, divisor = split_normalizer(_name(loss), normalizer, reduction, input, compiling)
    if not (learnt_smoothing is learnt_gamma is divisor is None):
        for option in (learnt_smoothing, learnt_gamma, divisor):
            if option is not None and kernel is not None and not kernel.reads_option(option, input, compiling):
                kernel = None
    operations = not compiling and (kernel is None or is_watched())  # whether torch's own operations compute it
    find = plan if compiling or operations else known_plan  # whoever watches may see sizes that are symbols
    alone = weight is sample_weight is pos_weight is mask is neg_weight is ignore_index is None and focal is None
    try:
        meant: tuple[Any, ...] = (loss, reduction, (NAME[input.dtype], target_dtype), input.shape, target.shape)
        # What is shorter is found in half the time.
        if not (alone and label_smoothing is OFF and gamma is OFF and not check_targets):
            *rest, of_neg = (o if o is None else o.shape for o in (weight, sample_weight, pos_weight, mask, neg_weight))
            beyond = of_neg, focal or NO_FOCAL, check_targets
            meant = (*meant, *rest, ignore_index, label_smoothing, gamma, *beyond)
        call = find(*meant)
    except options.RefusalError as refusal:
        _refuse(loss, refusal, input, target)
    except RuntimeError:  # a nested tensor that is strided looks plain, but has no shape
        _check_all(loss, given)
        raise
    if normalizer is not None:
        call = normalized(call, number)
    if call.dtype in _HALF and (wide or _is_autocast(input)):
        call = call._replace(dtype="float32")
    if sample_weight is not None:
        sample_weight = sample_weight.reshape((-1,) + (1,) * (input.dim() - 1))
    learnt = learnt_smoothing, learnt_gamma
    operands = Operands(input, target, weight, sample_weight, pos_weight, mask, *learnt, divisor, neg_weight)
    if compiling:
        if inplace_backward:
            raise RuntimeError("inplace_backward: not under torch.compile; call the loss without it, or uncompiled.")
        if kernel is not None and not is_exporting() and not in_transform():
            return sparse_operators.loss(call, operands) if is_sparse else operators.loss(call, operands)
        return arrays.loss(call, operands, check_range)
    if operations or kernel is None:
        return arrays.loss(call, operands, check_range)
    if check_range and kernel is not cpu:
        arrays.check_range(call, operands)
    if check_targets and kernel is not cpu:
        arrays.check_targets(call, operands)
    if is_sparse:
        return eager.sparse_loss(kernel, call, operands, inplace_backward)
    return eager.loss(kernel, call, operands, inplace_backward)


def _by_axis(
    loss: Loss,
    given: tuple[Any, ...],
    reduction: str,
    ignore_index: float | None,
    label_smoothing: Any,
    gamma: Any,
    focal: Focal | None,
    normalizer: Any,
    check_targets: bool,
    inplace_backward: bool = False,
    check_range: bool = False,
) -> Tensor:
    """The means over all axes but one of what is kept there, made of the losses of the elements."""
    if normalizer is not None:
        options.check_normalizer(reduction)
    input, target, mask = given[0], given[1], given[5]
    flags = check_targets, inplace_backward, check_range
    each: Any = _loss(loss, given, "none", ignore_index, label_smoothing, gamma, focal, None, *flags, wide=True)
    is_sparse = sparse.is_target(target)
    dtype = result_dtype(NAME[input.dtype], sparse.dtype_of(target) if is_sparse else NAME[target.dtype])
    axes = averaged_axes(reduction, each.dim())
    if is_sparse and ignore_index is not None:
        target = arrays.dense(sparse.rows(_name(loss), target, input, ignore_index, _is_compiling()))
    if shards.is_sharded(each):
        target, mask = (None if operand is None else shards.beside(operand, each) for operand in (target, mask))
    y = None if ignore_index is None else arrays.ARRAYS.widen(target, dtype)
    keep = definition.kept(arrays.ARRAYS, y, mask, ignore_index)
    kept: Any
    if keep is None:
        kept = max(1, math.prod([each.shape[axis] for axis in axes]))
    else:
        kept = (keep.expand_as(each).sum(axes) if axes else keep.expand_as(each)).clamp(min=1)
    means: Tensor = (each.sum(axes) if axes else each) / kept  # torch's sum over no axes is the sum over all of them
    return arrays.ARRAYS.cast(means, dtype) if dtype in _HALF and not _is_autocast(input) else means


def _beyond_defaults(ours: dict[str, Any]) -> dict[str, Any]:
    """What a subclass of Tensor must know of: one that stands in for torch's function knows none of our options."""
    off = options.DEFAULTS
    given = {name: value for name, value in ours.items() if value is not None and value is not False}
    return {
        name: value
        for name, value in given.items()
        if name not in off or isinstance(value, Tensor) or value != off[name]
    }


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor | IndexTargets,
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
    alpha: float | None = None,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0,
    focal: str = "branch",
    neg_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    inplace_backward: bool = False,
    check_targets: bool = False,
) -> Tensor:
    """Binary cross-entropy of logits; a drop-in for ``torch.nn.functional.binary_cross_entropy_with_logits``.

    ``w · [p·y·softplus(−x) + (1−y)·softplus(x)]`` for each element, with x the input, y the target, w the weight and
    p the pos_weight; then the mean (divided by the number of elements), the sum, or none.

    Args:
        input: logits, of any shape and floating dtype.
        target: of the input's shape; any floating dtype, integers or bool. Usually in [0, 1], which is not enforced.
            Or a sparse target of [N, C]: ``binxent.IndexTargets``, ``torch.sparse_csr``, or a matrix of SciPy in CSR.
        weight: broadcasts to the input.
        size_average, reduce: deprecated; either overrides ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; ``"batchmean"``, the sum divided by the size of the first axis;
            ``"weighted_mean"``, the sum divided by the sum of the weights (pos_weight does not count); ``"per_label"``
            and ``"per_sample"``, the mean over all axes but the last, and but the first, of what is kept there.
        pos_weight: broadcasts to the input; multiplies the loss of positives. In [N, C] input, one for each class.
        sample_weight: shape [N], along the input's first axis; multiplies ``weight``.
        mask: broadcasts to the input; an element where it is 0 or False is ignored: it adds 0 to the loss, to every
            gradient and to what ``"mean"`` divides by, whatever it holds, NaN too. The mean of nothing is 0.
        ignore_index: elements whose target it is are ignored likewise; an integer such as -100, or NaN.
        label_smoothing: ε in [0, 1]; y·(1−ε) + ε/2 stands for the target.
        gamma: of the focal loss, not negative; the loss of an element is multiplied by what the model gives the wrong
            answer, to this power. It and label_smoothing may be tensors of one element, which get their gradients.
        alpha: α in [0, 1] of the focal loss: positives are multiplied by α, negatives by 1 − α, after smoothing. This
            and the next four are numbers, constants under ``torch.compile``.
        gamma_positive, gamma_negative: in place of ``gamma``, one for each class (Ridnik et al., 2021); one that is not
            given is 0.
        margin: m in [0, 1); max(p − m, 0) stands for the probability p where it is a negative's.
        focal: for soft targets, what γ is the power of. ``"branch"``: of 1 − p for the positive share of a target, and
            of p for the negative one. ``"p_t"``: of 1 − p_t, for the whole, p_t = p·y + (1−p)·(1−y), as torchvision,
            Keras, fvcore and optax have it; α_t = α·y + (1−α)·(1−y) then multiplies the whole.
        neg_weight: broadcasts to the input; multiplies the loss of negatives.
        normalizer: a number that ``"mean"``, ``"batchmean"`` or ``"weighted_mean"`` divides by, in place of this
            batch's own, such as the sum of ``count`` over micro-batches or machines; or a tensor of one element, on the
            input's device or the CPU. It has no gradient. 0 gives a loss and gradients of 0.
        inplace_backward: the backward overwrites the logits with their gradient, and no memory is allocated. Refused
            for leaves, views and expanded logits, under ``create_graph``, ``torch.func`` and ``torch.compile``; a
            second backward is an error. Whoever else needs the logits' values in the backward gets torch's own error.
        check_targets: whether a target outside [0, 1], a negative ``pos_weight`` or ``neg_weight``, and a mask that is
            neither 0 nor 1 are refused; ignored elements may hold anything. On an accelerator a check waits for the
            device; under ``torch.compile`` the loss is NaN there.

    Returns:
        A scalar, or the input's shape for ``"none"``; of the wider floating dtype of input and target (float32 for
        half types under autocast, as torch has it).

    Raises:
        ValueError: target and input differ in shape, or the reduction is unknown.
        RuntimeError: a weight does not broadcast to the input, or is on another device; ``check_targets`` refuses an
            element.
        TypeError, NotImplementedError: an argument is no tensor, or of a dtype or layout that is not supported.

    Differences from torch: integer and boolean targets; the wider dtype instead of the target's; exact tails; finite
    results for infinite logits with the right target; gradients to ``weight`` and ``pos_weight``; the parameters after
    ``pos_weight``.

    Examples:
        >>> target = torch.ones([10, 64], dtype=torch.float32)  # 64 classes, batch size = 10
        >>> output = torch.full([10, 64], 1.5)  # a prediction (logit)
        >>> pos_weight = torch.ones([64])  # all weights are equal to 1
        >>> binary_cross_entropy_with_logits(output, target, pos_weight=pos_weight)
        tensor(0.2014)
    """
    # Dynamo cannot trace the hand-over to a subclass, so that under compile it sees the formula's operations instead.
    if has_torch_function(input, target, weight, sample_weight, pos_weight, mask, neg_weight) and not _is_compiling():
        ours: dict[str, Any] = {
            "sample_weight": sample_weight,
            "mask": mask,
            "ignore_index": ignore_index,
            "label_smoothing": label_smoothing,
            "gamma": gamma,
            "alpha": alpha,
            "gamma_positive": gamma_positive,
            "gamma_negative": gamma_negative,
            "margin": margin,
            "focal": focal,
            "neg_weight": neg_weight,
            "normalizer": normalizer,
            "inplace_backward": inplace_backward,
            "check_targets": check_targets,
        }
        result: Tensor = handle_torch_function(
            binary_cross_entropy_with_logits,
            (input, target, weight, sample_weight, pos_weight, mask, neg_weight),
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
    compute: Callable[..., Tensor] = _loss
    if size_average is not None or reduce is not None or reduction not in _REDUCTIONS:
        reduction = _torchs_reduction(size_average, reduce, reduction)
        compute = _by_axis if reduction in BY_AXIS else _loss
    family = None
    if not (alpha is gamma_positive is gamma_negative is None and margin is OFF and focal == "branch"):
        family = options.focal(alpha, gamma_positive, gamma_negative, margin, focal)
    return compute(
        LOGITS,
        (input, target, weight, sample_weight, pos_weight, mask, neg_weight),
        reduction,
        ignore_index,
        label_smoothing,
        gamma,
        family,
        normalizer,
        check_targets,
        inplace_backward,
    )


def binary_cross_entropy(
    input: Tensor,
    target: Tensor | IndexTargets,
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
    alpha: float | None = None,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0,
    focal: str = "branch",
    neg_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    check_range: bool = False,
    check_targets: bool = False,
) -> Tensor:
    """Binary cross-entropy of probabilities; a drop-in for ``torch.nn.functional.binary_cross_entropy``.

    ``w · [p·y·(−log q) + (1−y)·(−log(1−q))]`` for each element, with q the input, y the target, w the weight and p
    the pos_weight; both logarithms are clamped at −100, and the gradient's denominator q·(1−q) at 1e-12. Then the
    mean (divided by the number of elements), the sum, or none.

    Args:
        input: probabilities, of any shape and floating dtype.
        target: of the input's shape; floating in [0, 1], integers 0 and 1, or bool. Or sparse, as with logits.
        weight, size_average, reduce, reduction, pos_weight: as with logits.
        sample_weight, mask, ignore_index, label_smoothing, gamma, alpha, gamma_positive, gamma_negative: likewise.
        margin, focal, neg_weight, normalizer, check_targets: likewise.
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
    # Dynamo cannot trace the hand-over to a subclass, so that under compile it sees the formula's operations instead.
    if has_torch_function(input, target, weight, sample_weight, pos_weight, mask, neg_weight) and not _is_compiling():
        ours: dict[str, Any] = {
            "pos_weight": pos_weight,
            "sample_weight": sample_weight,
            "mask": mask,
            "ignore_index": ignore_index,
            "label_smoothing": label_smoothing,
            "gamma": gamma,
            "alpha": alpha,
            "gamma_positive": gamma_positive,
            "gamma_negative": gamma_negative,
            "margin": margin,
            "focal": focal,
            "neg_weight": neg_weight,
            "normalizer": normalizer,
            "check_range": check_range,
            "check_targets": check_targets,
        }
        result: Tensor = handle_torch_function(
            binary_cross_entropy,
            (input, target, weight, sample_weight, pos_weight, mask, neg_weight),
            input,
            target,
            weight=weight,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            **_beyond_defaults(ours),
        )
        return result
    compute: Callable[..., Tensor] = _loss
    if size_average is not None or reduce is not None or reduction not in _REDUCTIONS:
        reduction = _torchs_reduction(size_average, reduce, reduction)
        compute = _by_axis if reduction in BY_AXIS else _loss
    family = None
    if not (alpha is gamma_positive is gamma_negative is None and margin is OFF and focal == "branch"):
        family = options.focal(alpha, gamma_positive, gamma_negative, margin, focal)
    return compute(
        PROBABILITIES,
        (input, target, weight, sample_weight, pos_weight, mask, neg_weight),
        reduction,
        ignore_index,
        label_smoothing,
        gamma,
        family,
        normalizer,
        check_targets,
        False,
        check_range,
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

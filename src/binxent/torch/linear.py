"""The loss of a linear head, as a function and as a module. The logits of all labels are never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Linear as TorchLinear
from torch.overrides import handle_torch_function
from torch.overrides import has_torch_function_variadic as has_torch_function

from binxent import formula, linear, options
from binxent.call import FLOATING, Operands, known_plan, normalized, plan
from binxent.linear import FUNCTION, LinearBCEOptions
from binxent.options import focal as family_of
from binxent.torch import linear_chunks, linear_operators, shards, sparse
from binxent.torch.arrays import ARRAYS, DTYPE, LOGITS, NAME, dtype_of_target, tensors
from binxent.torch.context import in_transform, is_autocast_available, is_exporting, is_tracing
from binxent.torch.grouped import Grouped, replaced
from binxent.torch.linear_chunks import HALVES, Head, Linear
from binxent.torch.operands import OFF, check, split_normalizer, split_options

if TYPE_CHECKING:
    from binxent.targets import IndexTargets


def _check(name: str, given: Any) -> None:
    """Refuses what is no tensor of this process alone, and an operand whose gradient nobody would get."""
    if shards.is_sharded(given):
        raise NotImplementedError(
            f"{FUNCTION}(): {name} is a DTensor, of which a rank has a part; call fully_shard on the module that calls "
            "this function (and register_fsdp_forward_method, if that is not its forward), or pass .full_tensor()"
        )
    check(FUNCTION, name, given)
    if name in ("input", "linear_weight", "linear_bias"):
        if NAME[given.dtype] not in FLOATING:
            raise NotImplementedError(f"{FUNCTION}(): {name} is of dtype {given.dtype}; expected a floating one")
    elif given.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(
            f"{FUNCTION}(): {name} requires a gradient, which a linear head does not give; pass its .detach(), or call "
            "binary_cross_entropy_with_logits on logits of your own"
        )


def _dtype_of_products(made_of: Linear) -> torch.dtype:
    """The dtype in which F.linear would compute."""
    input, device = made_of.input, made_of.input.device.type
    if is_autocast_available(device) and torch.is_autocast_enabled(device) and input.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    for name, given in (("linear_weight", made_of.weight), ("linear_bias", made_of.bias)):
        if given is not None and given.dtype != input.dtype:
            raise RuntimeError(f"{FUNCTION}(): {name} is of dtype {given.dtype}; expected the input's, {input.dtype}")
    return input.dtype


def linear_binary_cross_entropy_with_logits(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor | IndexTargets | Any,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
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
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
    options: LinearBCEOptions | None = None,
) -> Tensor:
    """Binary cross-entropy of the logits that a linear layer gives; they are made in chunks of labels, never stored.

    ``binary_cross_entropy_with_logits(F.linear(input, linear_weight, linear_bias), target, …)``, with memory for one
    chunk of logits in place of all N × C of them, and with the gradients made together with the loss.

    Args:
        input: [N, D], of any floating dtype.
        linear_weight: [C, D], of the input's dtype; one row for each label.
        target: [N, C]; any floating dtype, integers or bool. Or sparse, and never made dense: ``IndexTargets``, or a
            matrix in CSR format, of torch or SciPy.
        linear_bias: [C]; or one number for all labels, of shape ().
        weight, pos_weight, mask: broadcast to [N, C], as in ``binary_cross_entropy_with_logits``.
        sample_weight: [N].
        alpha, gamma_positive, gamma_negative, margin, focal, neg_weight: as there.
        ignore_index, label_smoothing, gamma, normalizer: as there. The divisor of a mean is that of all labels.
        reduction: ``"mean"``, ``"sum"``, ``"batchmean"`` or ``"weighted_mean"``. ``"none"`` is refused.
        options: how it is computed; see ``LinearBCEOptions``.

    Returns:
        A scalar, of the wider floating dtype of logits and target (float32 for half types under autocast). It has
        gradients to input, linear_weight and linear_bias, and to nothing else.

    Raises:
        ValueError: a shape does not fit, or an option is out of its range.
        RuntimeError: dtypes of input and linear_weight differ; a second backward, unless the options allow one.
        TypeError, NotImplementedError: an argument is no tensor, or of a dtype or layout that is not supported; it is a
            DTensor; or it requires a gradient that is not given.

    An incoming gradient that differs from the last backward's scales the gradients, which are rounded once more. Under
    ``torch.func``, ``torch.jit.trace``, ``torch.export`` and ``create_graph`` the logits are stored. On a processor
    that emulates products of half types the chunks are computed in float32, and the logits are not rounded.

    Examples:
        >>> input, weight = torch.ones(2, 3), torch.zeros(5, 3, requires_grad=True)
        >>> target = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 0, 1, 0]])
        >>> loss = linear_binary_cross_entropy_with_logits(input, weight, target)
        >>> loss.backward()
        >>> loss.detach(), weight.grad.shape
        (tensor(0.6931), torch.Size([5, 3]))
    """
    compiling = torch.compiler.is_compiling()
    given = (input, linear_weight, target, linear_bias, weight, pos_weight, sample_weight, mask, neg_weight)
    if has_torch_function(*given) and not compiling:
        result: Tensor = handle_torch_function(
            linear_binary_cross_entropy_with_logits,
            given,
            input,
            linear_weight,
            target,
            linear_bias=linear_bias,
            weight=weight,
            pos_weight=pos_weight,
            sample_weight=sample_weight,
            mask=mask,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            gamma=gamma,
            alpha=alpha,
            gamma_positive=gamma_positive,
            gamma_negative=gamma_negative,
            margin=margin,
            focal=focal,
            neg_weight=neg_weight,
            reduction=reduction,
            normalizer=normalizer,
            options=options,
        )
        return result
    options = linear.checked_options(options)
    linear.check_reduction(reduction)
    names = (
        "input", "linear_weight", "target", "linear_bias", "weight", "pos_weight", "sample_weight", "mask", "neg_weight"
    )  # fmt: skip
    is_sparse = sparse.is_target(target)
    tensor: Any
    for name, tensor in zip(names, given, strict=True):
        if (tensor is not None or name in ("input", "linear_weight", "target")) and not (
            name == "target" and is_sparse
        ):
            _check(name, tensor)
            if tensor.device != input.device:
                raise RuntimeError(f"{FUNCTION}(): {name} is on {tensor.device}; expected {input.device}, the input's")
    made_of = Linear(input, linear_weight, linear_bias)
    shape = linear.shape_of_logits(input.shape, linear_weight.shape, None if linear_bias is None else linear_bias.shape)
    y: Any = target
    if is_sparse:  # the rows are those of the logits, of which there is only the shape
        y = sparse.rows(FUNCTION, target, input.new_empty(()).expand(shape), ignore_index, compiling)
    product = _dtype_of_products(made_of)

    family = family_of(alpha, gamma_positive, gamma_negative, margin, focal)
    learnt_smoothing = learnt_gamma = divisor = number = None
    if label_smoothing is not OFF or gamma is not OFF:
        for name, option in (("label_smoothing", label_smoothing), ("gamma", gamma)):
            if isinstance(option, Tensor):
                _check(name, option)
        label_smoothing, gamma, learnt_smoothing, learnt_gamma = split_options(
            FUNCTION, ignore_index, label_smoothing, gamma, family, dtype_of_target(y), compiling
        )
    if normalizer is not None:
        number, divisor = split_normalizer(FUNCTION, normalizer, reduction, input, compiling)
    of_weight, rows, of_pos_weight, of_mask, of_neg_weight = (
        None if each is None else each.shape for each in (weight, sample_weight, pos_weight, mask, neg_weight)
    )
    find = plan if compiling else known_plan
    call = find(
        LOGITS, reduction, (NAME[product], dtype_of_target(y)), shape, y.shape, of_weight, rows, of_pos_weight, of_mask,
        ignore_index, label_smoothing, gamma, of_neg_weight, family,
    )  # fmt: skip
    if normalizer is not None:
        call = normalized(call, number)
    if product != input.dtype and DTYPE[call.dtype] in HALVES:
        call = call._replace(dtype="float32")  # as autocast has it
    if sample_weight is not None:
        sample_weight = sample_weight.reshape(-1, 1)
    learnt = learnt_smoothing, learnt_gamma
    operands = Operands(None, y, weight, sample_weight, pos_weight, mask, *learnt, divisor, neg_weight)
    head = Head(call, product, DTYPE[options.accumulator(NAME[product])], options.max_chunk_bytes)

    every = (*made_of, *tensors(operands))
    plain = all(each is None or type(each) in (Tensor, torch.nn.Parameter) for each in every)
    if not plain or in_transform() or (is_exporting() if compiling else is_tracing()):
        return linear_operators.dense_loss(head, made_of, operands)
    return linear_operators.loss(head, made_of, operands, options.allow_retain_graph)


class Prediction(NamedTuple):
    """The most probable labels of each row, in descending order."""

    probabilities: Tensor
    labels: Tensor


class LinearBCEWithLogitsLoss(Grouped):
    """A linear layer and ``linear_binary_cross_entropy_with_logits`` of its logits, which are never stored.

    The layer is ``self.linear``, a ``torch.nn.Linear``, so that the state has ``linear.weight`` and ``linear.bias``.
    ``weight``, ``pos_weight`` and ``neg_weight`` are buffers, as in ``BCEWithLogitsLoss``.

    Args:
        in_features, num_labels, bias, device, dtype: of the linear layer.
        weight, reduction, pos_weight, ignore_index, label_smoothing, gamma, options: as in the function.
        alpha, gamma_positive, gamma_negative, margin, focal, neg_weight: likewise.
        process_group, gradients: as in ``BCEWithLogitsLoss``.

    The call takes input and target, and ``weight``, ``pos_weight``, ``sample_weight``, ``mask`` and ``normalizer``; the
    first two replace the module's own.

    Examples:
        >>> head = LinearBCEWithLogitsLoss(16, 1000)
        >>> loss = head(torch.randn(4, 16), torch.zeros(4, 1000))
        >>> loss.backward()
        >>> head.linear.weight.grad.shape
        torch.Size([1000, 16])
        >>> head.predict(torch.randn(4, 16), 5).labels.shape
        torch.Size([4, 5])
    """

    pos_weight: Tensor | None
    # Of modules that were pickled before.
    alpha: float | None = None
    gamma_positive: float | None = None
    gamma_negative: float | None = None
    margin: float = 0
    focal: str = "branch"

    def __init__(
        self,
        in_features: int,
        num_labels: int,
        *,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        weight: Tensor | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        ignore_index: float | None = None,
        label_smoothing: float = 0,
        gamma: float = 0,
        alpha: float | None = None,
        gamma_positive: float | None = None,
        gamma_negative: float | None = None,
        margin: float = 0,
        focal: str = "branch",
        neg_weight: Tensor | None = None,
        process_group: Any = None,
        gradients: str | None = None,
        options: LinearBCEOptions | None = None,
    ) -> None:
        super().__init__()
        family = family_of(alpha, gamma_positive, gamma_negative, margin, focal)
        _check_settings(reduction, ignore_index, label_smoothing, gamma, family)
        self.linear = TorchLinear(in_features, num_labels, bias=bias, device=device, dtype=dtype)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self.register_buffer("neg_weight", neg_weight)
        self.reduction, self.ignore_index = reduction, ignore_index
        self._set_group(process_group, gradients)
        self.label_smoothing, self.gamma = label_smoothing, gamma
        self.alpha, self.gamma_positive, self.gamma_negative, self.margin, self.focal = family
        self.options = linear.checked_options(options)

    def forward(
        self,
        input: Tensor,
        target: Tensor | IndexTargets | Any,
        *,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """See ``linear_binary_cross_entropy_with_logits``."""
        weight = replaced(self.weight, weight)
        if self.process_group is not None:
            logits = input.new_empty(()).expand(*input.shape[:-1], self.linear.out_features)
            normalizer = self._normalizer(normalizer, logits, target, weight, sample_weight, mask)
        return linear_binary_cross_entropy_with_logits(
            input,
            self.linear.weight,
            target,
            linear_bias=self.linear.bias,
            weight=weight,
            pos_weight=replaced(self.pos_weight, pos_weight),
            sample_weight=sample_weight,
            mask=mask,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            gamma=self.gamma,
            alpha=self.alpha,
            gamma_positive=self.gamma_positive,
            gamma_negative=self.gamma_negative,
            margin=self.margin,
            focal=self.focal,
            neg_weight=getattr(self, "neg_weight", None),
            reduction=self.reduction,
            normalizer=normalizer,
            options=self.options,
        )

    @torch.no_grad()
    def predict(self, input: Tensor, k: int) -> Prediction:
        """The k most probable labels of each row, or all labels if there are fewer, and their probabilities.

        Args:
            input: [N, in_features].
            k: how many labels, at least 1.

        Returns:
            Probabilities and labels (int64), each [N, k], in descending order. The logits are made in chunks.
        """
        if k < 1:
            raise options.RefusalError("k", f"{k}; expected at least 1")
        weight, bias = self.linear.weight, self.linear.bias
        for name, given in (("input", input), ("linear_weight", weight)):
            _check(name, given)
        linear.shape_of_logits(input.shape, weight.shape, None if bias is None else bias.shape)
        made_of = Linear(input, weight, bias)
        logits, labels = linear_chunks.top(made_of, _dtype_of_products(made_of), k, self.options.max_chunk_bytes)
        probabilities: Tensor = formula.sigmoid(ARRAYS, logits)
        return Prediction(probabilities, labels)

    def extra_repr(self) -> str:
        """Only what is not the default."""
        shown = {} if self.reduction == "mean" else {"reduction": repr(self.reduction)}
        shown |= options.shown_terms(self) | self._shown_group()
        if self.options != LinearBCEOptions():
            shown["options"] = repr(self.options)
        return ", ".join(f"{name}={value}" for name, value in shown.items())


def _check_settings(reduction: str, ignore_index: Any, label_smoothing: Any, gamma: Any, focal: options.Focal) -> None:
    linear.check_reduction(options.check_reduction(reduction))
    options.terms(ignore_index, label_smoothing, gamma, "float32", focal)

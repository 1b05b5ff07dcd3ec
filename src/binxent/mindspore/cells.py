"""The two cells. A graph that contains one is compiled from its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mindspore as ms
from mindspore import Tensor, mint, nn
from mindspore._c_expression import MixedPrecisionType

from binxent import options
from binxent.mindspore import counting
from binxent.mindspore.functional import binary_cross_entropy, binary_cross_entropy_with_logits
from binxent.mindspore.operands import FLOATING, NAME, checked_reduction, checked_terms, family

if TYPE_CHECKING:
    from binxent.options import Focal

_PRECISION = {
    MixedPrecisionType.FP16: ms.float16,
    MixedPrecisionType.BF16: ms.bfloat16,
    MixedPrecisionType.FP32: ms.float32,
}


def _for_base(reduction: Any) -> Any:
    """The reduction for MindSpore's constructor, which knows three, and whose result for it is not used.

    Refuses what is none of ours either, where MindSpore's own refusal would not name all that there are.
    """
    if isinstance(reduction, str):
        checked_reduction(reduction)
    return "sum" if str(reduction).lower() in ("batchmean", "weighted_mean", *options.BY_AXIS) else reduction


class _Cell(nn.Cell):
    """Base of the two cells."""

    def __call__(self, *operands: Any, **named: Any) -> Tensor:
        dtype = _PRECISION.get(self.mixed_precision_type)
        if dtype is not None:  # set by to_float: MindSpore itself casts only for its own operations

            def cast(operand: Any) -> Any:
                return operand.astype(dtype) if isinstance(operand, Tensor) and operand.dtype in FLOATING else operand

            operands = tuple(map(cast, operands))
            as_it_is = ("mask", "normalizer")  # which in float16 would be at most 65504
            named = {name: option if name in as_it_is else cast(option) for name, option in named.items()}
        return super().__call__(*operands, **named)

    def construct(self, *operands: Any, **named: Any) -> Tensor:
        """Takes ``*operands`` because MindSpore cannot differentiate a cell with default arguments inside a graph.

        They are those of ``_loss``: ``(input, target, *, weight=None, pos_weight=None, sample_weight=None, mask=None,
        normalizer=None)``. A weight that is given replaces the cell's.
        """
        return self._loss(*operands, **named)

    def count(self, target: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """What the mean of these targets divides by; see the function of that name."""
        return counting.count(  # a graph would take the bare name for this method
            target,
            reduction=self.reduction,
            mask=mask,
            ignore_index=self.ignore_index,
            weight=self.weight,
            sample_weight=sample_weight,
        )

    def _set_terms(
        self, ignore_index: float | None, label_smoothing: float, gamma: float, of_focal: Focal, check_targets: bool
    ) -> None:
        checked_terms(ignore_index, label_smoothing, gamma, of_focal)
        self.ignore_index, self.label_smoothing, self.gamma = ignore_index, label_smoothing, gamma
        self.alpha, self.gamma_positive, self.gamma_negative, self.margin, self.focal = of_focal
        self.check_targets = check_targets

    def extend_repr(self) -> str:
        """The parameters that are not the default, so that a plain cell prints as MindSpore's own."""
        given = {} if self.reduction == "mean" else {"reduction": repr(self.reduction)}
        for name in ("weight", "pos_weight"):
            if (tensor := getattr(self, name)) is not None:
                shown = f"{NAME.get(tensor.dtype, tensor.dtype)}{list(tensor.shape)}"
                given[name] = f"Parameter({shown})" if isinstance(tensor, ms.Parameter) else shown
        given |= options.shown_terms(self)
        if self.check_targets:
            given["check_targets"] = "True"
        return ", ".join(f"{name}={value}" for name, value in given.items())


# Mixed precision (O1) rewrites networks as source, and would confuse a class with its base of the same name. These
# cells are exempt from that.
ms.rewrite.common.namespace._subtree_black_list.append(_Cell)


class BCEWithLogitsLoss(_Cell, mint.nn.BCEWithLogitsLoss):
    """``binary_cross_entropy_with_logits`` as a cell; a drop-in for ``mindspore.mint.nn.BCEWithLogitsLoss``.

    It is called with input and target, and optionally ``weight=``, ``pos_weight=``, ``sample_weight=``, ``mask=`` and
    ``normalizer=``. As in MindSpore's, a weight that is a Parameter is one of the cell's; here it is trained.

    Example:
        >>> import mindspore
        >>> input = mindspore.tensor([[-0.8, 1.2, 0.7], [-0.1, -0.4, 0.7]])
        >>> target = mindspore.tensor([[0.3, 0.8, 1.2], [-0.6, 0.1, 2.2]])
        >>> loss = BCEWithLogitsLoss()
        >>> output = loss(input, target)
        >>> print(output)
        0.3463612
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        *,
        ignore_index: float | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
        alpha: float | None = None,
        gamma_positive: float | None = None,
        gamma_negative: float | None = None,
        margin: float = 0,
        focal: str = "branch",
        neg_weight: Tensor | None = None,
        check_targets: bool = False,
    ) -> None:
        super().__init__(weight, _for_base(reduction), pos_weight)
        self.reduction = reduction
        self.neg_weight = neg_weight
        of_focal = family(alpha, gamma_positive, gamma_negative, margin, focal)
        self._set_terms(ignore_index, label_smoothing, gamma, of_focal, check_targets)

    def _loss(
        self,
        input: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return binary_cross_entropy_with_logits(
            input,
            target,
            self.weight if weight is None else weight,
            self.reduction,
            self.pos_weight if pos_weight is None else pos_weight,
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
            neg_weight=self.neg_weight,
            normalizer=normalizer,
            check_targets=self.check_targets,
        )


class BCELoss(_Cell, mint.nn.BCELoss):
    """``binary_cross_entropy`` as a cell; a drop-in for ``mindspore.mint.nn.BCELoss``.

    It is called with input and target, and optionally ``weight=``, ``pos_weight=``, ``sample_weight=``, ``mask=`` and
    ``normalizer=``.

    Example:
        >>> import mindspore
        >>> weight = mindspore.tensor([[1.0, 2.0, 3.0], [4.0, 3.3, 2.2]])
        >>> loss = BCELoss(weight=weight, reduction='mean')
        >>> input = mindspore.tensor([[0.1, 0.2, 0.3], [0.5, 0.7, 0.9]])
        >>> target = mindspore.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> output = loss(input, target)
        >>> print(output)
        1.8952923
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: str = "mean",
        *,
        pos_weight: Tensor | None = None,
        ignore_index: float | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
        alpha: float | None = None,
        gamma_positive: float | None = None,
        gamma_negative: float | None = None,
        margin: float = 0,
        focal: str = "branch",
        neg_weight: Tensor | None = None,
        check_targets: bool = False,
    ) -> None:
        super().__init__(weight, _for_base(reduction))
        self.weight = weight
        self.reduction = reduction
        self.pos_weight = pos_weight
        self.neg_weight = neg_weight
        of_focal = family(alpha, gamma_positive, gamma_negative, margin, focal)
        self._set_terms(ignore_index, label_smoothing, gamma, of_focal, check_targets)

    def _loss(
        self,
        input: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return binary_cross_entropy(
            input,
            target,
            self.weight if weight is None else weight,
            self.reduction,
            pos_weight=self.pos_weight if pos_weight is None else pos_weight,
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
            neg_weight=self.neg_weight,
            normalizer=normalizer,
            check_targets=self.check_targets,
        )

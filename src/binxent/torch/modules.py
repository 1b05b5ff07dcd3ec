"""The two losses as modules; drop-ins for, and subclasses of, torch's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

# Bound here, since somebody may set ours in their place.
from torch.nn import BCELoss as TorchBCELoss
from torch.nn import BCEWithLogitsLoss as TorchBCEWithLogitsLoss

from binxent import options
from binxent.torch.functional import binary_cross_entropy, binary_cross_entropy_with_logits
from binxent.torch.grouped import Grouped, replaced
from binxent.torch.operands import LEARNABLE, OFF

if TYPE_CHECKING:
    from binxent.options import Focal
    from binxent.targets import IndexTargets


# torch.fx records the call. It would ask now what is None, of a stand-in that never is, and forget the module's own.
torch.fx.wrap("replaced")


class _Off:
    """The number 0 in a module that has no such attribute: the option is a parameter, or the module was torch's."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, owner: type) -> Any:
        return OFF if module is None else module._parameters.get(self.name, OFF)


class _NegWeight:
    """A buffer or a parameter, as pos_weight is; None in a module that was torch's, or that was pickled before."""

    def __get__(self, module: Any, owner: type) -> Any:
        if module is None:
            return None
        found = module._buffers.get("neg_weight")
        return module._parameters.get("neg_weight") if found is None else found


def _known(option: Any) -> Any:
    """What can be checked of an option before it is used: nothing of one on the meta device."""
    if not isinstance(option, Tensor) or option.numel() != 1:
        return option
    return OFF if option.is_meta else option.item()


class _Options(Grouped):
    """What both modules have beyond torch's; a torch module that is made one of ours has the defaults."""

    label_smoothing: Any = _Off()
    gamma: Any = _Off()
    alpha: float | None = None
    gamma_positive: float | None = None
    gamma_negative: float | None = None
    margin: float = 0
    focal: str = "branch"
    neg_weight: Any = _NegWeight()
    check_targets: bool = False
    flag: ClassVar[str]  # the name of another option, which is on or off

    def _set(
        self,
        ignore_index: float | None,
        label_smoothing: Any,
        gamma: Any,
        focal: Focal,
        neg_weight: Tensor | None,
        process_group: Any,
        gradients: str | None,
        check_targets: bool,
        flag: bool,
    ) -> None:
        self._set_group(process_group, gradients)
        if isinstance(gamma, Tensor):
            options.check_one_gamma(gamma, focal)
        options.terms(ignore_index, _known(label_smoothing), _known(gamma), "float32", focal)
        self.ignore_index, self.label_smoothing, self.gamma = ignore_index, label_smoothing, gamma
        self.alpha, self.gamma_positive, self.gamma_negative, self.margin, self.focal = focal
        self._buffers["neg_weight"] = None  # without which torch refuses a name that the class has
        self.register_buffer("neg_weight", neg_weight)
        self.check_targets = check_targets
        setattr(self, self.flag, flag)

    def register_parameter(self, name: str, param: torch.nn.Parameter | None) -> None:
        """Takes a learnt option, which torch would refuse because the class has an attribute of that name."""
        if name in (*LEARNABLE, "neg_weight") and isinstance(param, torch.nn.Parameter):
            vars(self).pop(name, None)
            self._parameters[name] = param
        else:
            super().register_parameter(name, param)

    def _shown_options(self) -> dict[str, str]:
        """Each option's repr; of a learnt one the type, since on the meta device it has no value."""
        learnt = {
            name: type(option).__name__ for name in LEARNABLE if isinstance(option := getattr(self, name), Tensor)
        }
        flags = {name: "True" for name in (self.flag, "check_targets") if getattr(self, name)}
        return options.shown_terms(self, learnt) | self._shown_group() | flags

    def extra_repr(self) -> str:
        """Only what is not the default, so that a plain module prints as torch's own."""
        shown = {} if self.reduction == "mean" else {"reduction": repr(self.reduction)}
        shown |= self._shown_options()
        return ", ".join(f"{name}={value}" for name, value in shown.items())

    def _check_scriptable(self) -> None:
        beyond = list(self._shown_options())
        if getattr(self, "pos_weight", None) is not None and isinstance(self, TorchBCELoss):
            beyond.append("pos_weight")
        if self.neg_weight is not None:
            beyond.append("neg_weight")
        if self.reduction not in ("none", "mean", "sum"):
            beyond.append(f"reduction={self.reduction!r}")
        if beyond:
            raise NotImplementedError(
                f"TorchScript cannot take {type(self).__name__} with {', '.join(beyond)}: it would compile torch's own "
                "class, and torch's own class has none of that. Use torch.jit.trace, torch.compile or torch.export."
            )


class BCEWithLogitsLoss(_Options, TorchBCEWithLogitsLoss):
    """``binary_cross_entropy_with_logits`` as a module; a drop-in for, and a subclass of, torch's own.

    Parameters, buffers, ``state_dict`` and ``repr`` are torch's; the options after ``pos_weight`` are as in the
    function. The call takes ``weight``, ``pos_weight``, ``sample_weight``, ``mask`` and ``normalizer``; the first two
    replace the module's own.

    Args:
        process_group: the mean is over all ranks of this ``ProcessGroup``, ``DeviceMesh`` of one dimension, or ``(mesh,
            name of a dimension)``. What they count is added up in one all-reduce at each call, unless the call has a
            ``normalizer``.
        gradients: ``"averaged"`` where the ranks' gradients are averaged afterwards (``DistributedDataParallel``,
            ``fully_shard``), ``"summed"`` where they are added up.

    Raises:
        RuntimeError: the ranks disagree about their settings, or a process group was dropped by pickle.
        ValueError, TypeError: settings that have no meaning together; a group of another kind.

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
        alpha: float | None = None,
        gamma_positive: float | None = None,
        gamma_negative: float | None = None,
        margin: float = 0,
        focal: str = "branch",
        neg_weight: Tensor | None = None,
        process_group: Any = None,
        gradients: str | None = None,
        inplace_backward: bool = False,
        check_targets: bool = False,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction, pos_weight)
        family = options.focal(alpha, gamma_positive, gamma_negative, margin, focal)
        learnable, group = (label_smoothing, gamma), (process_group, gradients)
        self._set(ignore_index, *learnable, family, neg_weight, *group, check_targets, inplace_backward)

    def forward(
        self,
        input: Tensor,
        target: Tensor | IndexTargets,
        *,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """See ``binary_cross_entropy_with_logits``."""
        weight = replaced(self.weight, weight)
        return binary_cross_entropy_with_logits(
            input,
            target,
            weight,
            reduction=self.reduction,
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
            neg_weight=self.neg_weight,
            normalizer=self._normalizer(normalizer, input, target, weight, sample_weight, mask),
            inplace_backward=self.inplace_backward,
            check_targets=self.check_targets,
        )

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """TorchScript, which is deprecated, takes torch's own class."""
        self._check_scriptable()
        return TorchBCEWithLogitsLoss(self.weight, reduction=self.reduction, pos_weight=self.pos_weight)


class BCELoss(_Options, TorchBCELoss):
    """``binary_cross_entropy`` as a module; a drop-in for, and a subclass of, torch's own.

    Parameters, buffers, ``state_dict`` and ``repr`` are torch's; the other options are as in the function. The call
    takes ``weight``, ``pos_weight``, ``sample_weight``, ``mask`` and ``normalizer``; the first two replace the module's
    own.

    ``process_group`` and ``gradients`` are those of ``BCEWithLogitsLoss``.

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
        alpha: float | None = None,
        gamma_positive: float | None = None,
        gamma_negative: float | None = None,
        margin: float = 0,
        focal: str = "branch",
        neg_weight: Tensor | None = None,
        process_group: Any = None,
        gradients: str | None = None,
        check_range: bool = False,
        check_targets: bool = False,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        if pos_weight is not None:  # only then, since torch's own module has no such key in its state
            self.register_buffer("pos_weight", pos_weight)
        family = options.focal(alpha, gamma_positive, gamma_negative, margin, focal)
        learnable, group = (label_smoothing, gamma), (process_group, gradients)
        self._set(ignore_index, *learnable, family, neg_weight, *group, check_targets, check_range)

    def forward(
        self,
        input: Tensor,
        target: Tensor | IndexTargets,
        *,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """See ``binary_cross_entropy``."""
        weight = replaced(self.weight, weight)
        return binary_cross_entropy(
            input,
            target,
            weight,
            reduction=self.reduction,
            pos_weight=replaced(getattr(self, "pos_weight", None), pos_weight),
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
            normalizer=self._normalizer(normalizer, input, target, weight, sample_weight, mask),
            check_range=self.check_range,
            check_targets=self.check_targets,
        )

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """TorchScript, which is deprecated, takes torch's own class."""
        self._check_scriptable()
        return TorchBCELoss(self.weight, reduction=self.reduction)

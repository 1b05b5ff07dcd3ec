"""Checks the options and shapes of a call, with the messages that every face shares.

It knows shapes and names, and no framework. A face whose framework words a refusal otherwise checks that before, or
rewords the RefusalError.
"""

from __future__ import annotations

import itertools
import math
import warnings
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class RefusalError(ValueError):
    """A value that does not fit. ``argument`` names it, so that a face can reword the refusal."""

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(f"{argument}: {message}")
        self.argument = argument


REDUCTIONS = ("none", "mean", "sum", "batchmean", "weighted_mean")


# Means over all axes but one, made of the losses of the elements; no kernel knows them.
BY_AXIS = ("per_label", "per_sample")


class Terms(NamedTuple):
    """The options that are no arrays and change the loss of each element."""

    ignore_index: float | None = None
    label_smoothing: float = 0  # not 0.0: torch.compile would make that a symbol, and trace twice
    gamma: float = 0  # of positives; of negatives too, unless they have their own
    alpha: float | None = None
    gamma_negative: float | None = None
    margin: float = 0
    focal: str = "branch"

    @property
    def is_family(self) -> bool:
        """Whether they ask for more than ``formula`` defines: ``focal`` does then."""
        return is_family(self)


def is_family(terms: Terms) -> bool:
    """The property of that name, as a function: MindSpore's compiler finds no property of a tuple."""
    return terms.gamma_negative is not None or terms.margin != 0 or terms.focal != "branch"


def with_one_nan(terms: Terms) -> Terms:
    """The same, with one NaN object for all calls: a cache finds it by its identity, because NaN does not equal NaN."""
    return terms._replace(ignore_index=math.nan) if terms.ignore_index != terms.ignore_index else terms


class Focal(NamedTuple):
    """The options of the focal family as a caller gives them; their defaults."""

    alpha: float | None = None
    gamma_positive: float | None = None
    gamma_negative: float | None = None
    margin: float = 0
    focal: str = "branch"


NO_FOCAL = Focal()
FOCAL = ("branch", "p_t")


# Largest n for which every integer in ±n is exact, where that is not float32's 2²⁴. int32 and int64 targets are
# compared in float32, where 2²⁴ + 1 rounds to 2²⁴: hence 2²⁴ − 1.
_EXACT_INTEGERS = {"bfloat16": 2**8, "float16": 2**11, "int32": 2**24 - 1, "int64": 2**24 - 1}


def terms(
    ignore_index: object, label_smoothing: object, gamma: object, target_dtype: str, focal: Focal = NO_FOCAL
) -> Terms | None:
    """The checked options; None if all have their defaults."""
    if (
        ignore_index is None
        and type(label_smoothing) is type(gamma) is float
        and label_smoothing == 0 == gamma
        and focal is NO_FOCAL
    ):
        return None
    meant = checked_terms(ignore_index, label_smoothing, gamma, target_dtype, focal)
    return None if meant == Terms() else meant


def checked_terms(
    ignore_index: object, label_smoothing: object, gamma: object, target_dtype: str, focal: Focal = NO_FOCAL
) -> Terms:
    """The options as floats. Raises TypeError for what is no number, RefusalError for one out of its range."""
    meant = Terms(
        None if ignore_index is None else _number("ignore_index", ignore_index),
        _number("label_smoothing", label_smoothing),
        _exponent("gamma", gamma),
    )
    if not 0 <= meant.label_smoothing <= 1:
        raise RefusalError("label_smoothing", f"{label_smoothing!r}; expected a number between 0 and 1")
    meant = with_one_nan(meant)
    ignored = meant.ignore_index
    if ignored is not None and ignored == ignored:
        most = _EXACT_INTEGERS.get(target_dtype, 2**24)
        if not (abs(ignored) <= most and ignored % 1 == 0):
            raise RefusalError(
                "ignore_index",
                f"{ignore_index!r}; expected NaN or an integer that {target_dtype}, the target's dtype, "
                f"has exactly, between {-most} and {most}, such as -100",
            )
    return meant if focal == NO_FOCAL else _with_focal(meant, gamma, focal)


def _exponent(name: str, given: object) -> float:
    value = _number(name, given)
    if not 0 <= value < math.inf:
        raise RefusalError(name, f"{given!r}; expected a finite number that is not negative")
    return value


def focal(
    alpha: object = None,
    gamma_positive: object = None,
    gamma_negative: object = None,
    margin: object = 0,
    focal: object = "branch",
    tensors: tuple[type, ...] = (),
) -> Focal:
    """The options of the focal family as one value, each of them checked by itself; NO_FOCAL if none is meant.

    ``tensors`` are types that are refused: those in which a caller could expect to learn an option.
    """
    if alpha is gamma_positive is gamma_negative is None and margin is _OFF and focal == "branch":
        return NO_FOCAL
    for name, value in zip(Focal._fields, (alpha, gamma_positive, gamma_negative, margin), strict=False):
        if isinstance(value, tensors):
            kind = type(value).__name__
            raise TypeError(f"{name}: expected a number, got {kind}, to which there would be no gradient")
    if not isinstance(focal, str) or focal not in FOCAL:
        raise RefusalError("focal", f"{focal!r}; expected one of {FOCAL}")
    given = Focal(
        None if alpha is None else _number("alpha", alpha),
        None if gamma_positive is None else _exponent("gamma_positive", gamma_positive),
        None if gamma_negative is None else _exponent("gamma_negative", gamma_negative),
        _number("margin", margin),
        focal,
    )
    if given.alpha is not None and not 0 <= given.alpha <= 1:
        raise RefusalError("alpha", f"{alpha!r}; expected a number between 0 and 1, the share of positives")
    if not 0 <= given.margin < 1:
        raise RefusalError("margin", f"{margin!r}; expected a probability below 1")
    if focal == "p_t":
        for name in ("gamma_positive", "gamma_negative", "margin"):
            if getattr(given, name):
                raise RefusalError(name, "has no meaning beside focal='p_t', whose power is one for both branches")
    return NO_FOCAL if given == NO_FOCAL else given


_OFF = 0


def check_one_gamma(gamma: object, given: Focal) -> None:
    """Refuses a gamma for both branches, learnt ones included, beside one for each."""
    if given.gamma_positive is given.gamma_negative is None or (isinstance(gamma, (int, float)) and gamma == 0):
        return
    name = "gamma_negative" if given.gamma_positive is None else "gamma_positive"
    raise RefusalError(name, "and gamma are given; expected gamma for both branches, or one for each")


def _with_focal(meant: Terms, gamma: object, given: Focal) -> Terms:
    """The terms with those of the focal family, in the form in which two equal losses have equal terms."""
    check_one_gamma(gamma, given)
    positive, negative = given.gamma_positive, given.gamma_negative
    if not positive is negative is None:
        positive, negative = positive or 0.0, negative or 0.0
        meant = meant._replace(gamma=positive, gamma_negative=None if negative == positive else negative)
    return meant._replace(alpha=given.alpha, margin=given.margin, focal=given.focal)


def _number(name: str, value: object) -> float:
    if isinstance(value, float):  # true of a compiler's symbolic number too
        return float(value)
    if not isinstance(value, int) or isinstance(value, bool):
        shape = tuple(getattr(value, "shape", ()))
        if math.prod(shape) != 1:
            raise TypeError(f"{name}: expected a number, got {type(value).__name__} of shape {shape}")
        if hasattr(value, "shape"):  # also of NumPy scalars: numpy.bool_ is no bool, and item() makes it one
            value = value.item()  # type: ignore[attr-defined]
        if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
            raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:  # the number is not shown: Python refuses to print thousands of digits
        kind = type(value).__name__
        raise RefusalError(name, f"expected a number that fits into a float, got a larger {kind}") from None


# The options of ``Terms`` under the names that callers give them.
DEFAULTS: Mapping[str, object] = {"ignore_index": None, "label_smoothing": 0, "gamma": 0, **NO_FOCAL._asdict()}

MEANS = ("mean", "batchmean", "weighted_mean")


def check_normalizer(reduction: str, shape: Sequence[int] = ()) -> None:
    """Refuses a normalizer of that shape, and any for a reduction that divides by nothing."""
    if reduction not in MEANS:
        by = "divides by what it keeps along its axes" if reduction in BY_AXIS else "divides by nothing"
        raise RefusalError("normalizer", f"reduction={reduction!r} {by}; expected one of {MEANS}, or normalizer=None")
    if math.prod(shape) != 1:
        raise RefusalError("normalizer", f"shape {tuple(shape)}; expected a number, or an array of one element")


def checked_normalizer(normalizer: object, reduction: str) -> float | None:
    """The number that it is; None for an array of one element, whose value is not looked at."""
    if not isinstance(normalizer, (int, float)) and hasattr(normalizer, "shape"):
        check_normalizer(reduction, normalizer.shape)
        return None
    check_normalizer(reduction)
    number = _number("normalizer", normalizer)
    if not 0 <= number < math.inf:
        raise RefusalError("normalizer", f"{normalizer!r}; expected a finite number that is not negative")
    return number


def check_countable(reduction: str) -> None:
    """Refuses to count for a reduction that divides by nothing."""
    if check_reduction(reduction) not in MEANS:
        by = "has a divisor for each entry" if reduction in BY_AXIS else "divides by nothing"
        raise RefusalError("reduction", f"{reduction!r} {by}; expected one of {MEANS}")


def shown_terms(loss: object, learnt: Mapping[str, str] | None = None) -> dict[str, str]:
    """The options of a loss object that are not the default, for its repr; ``learnt`` has the text of tensors."""
    shown = dict(learnt or {})
    for name, default in DEFAULTS.items():
        if name not in shown and (value := getattr(loss, name, default)) != default:
            shown[name] = repr(value)
    return shown


def check_reduction(reduction: object) -> str:
    if not isinstance(reduction, str) or reduction not in (*REDUCTIONS, *BY_AXIS):
        choices = (*REDUCTIONS, *BY_AXIS)
        raise RefusalError("reduction", f"{reduction!r} is not a valid value for reduction; expected one of {choices}")
    return reduction


def legacy_reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction that torch's deprecated pair asks for; either one overrides ``reduction``."""
    if size_average is None and reduce is None:
        return reduction
    if reduce is not None and not reduce:
        meant = "none"
    else:
        meant = "mean" if size_average is None or size_average else "sum"
    warnings.warn(
        f"size_average and reduce args will be deprecated, please use reduction='{meant}' instead.",
        UserWarning,
        stacklevel=3,
    )
    return meant


def check_broadcast(name: str, shape: Sequence[int], to: Sequence[int]) -> None:
    """Raises RefusalError unless the shape broadcasts to the input's, ``to``, and leaves that as it is."""
    shape, to = tuple(shape), tuple(to)
    lead = len(to) - len(shape)
    if lead >= 0 and all(s in (1, t) for s, t in zip(shape, to[lead:], strict=True)):
        return
    hint = _reshaping(name, shape, to)
    raise RefusalError(name, f"shape {shape} does not broadcast to the input's shape {to}.{hint}")


def _reshaping(name: str, shape: tuple[int, ...], to: tuple[int, ...]) -> str:
    """How an operand that has some of the input's axes, in their order, is made to broadcast; "" where it has not."""
    if len(shape) == 1 and len(to) > 2 and shape[0] == to[1]:
        # The classes of images and sequences. Where the batch is as large, it is still them that are meant:
        # a batch of another size follows, and nothing would tell the reader what was wrong.
        return f" For one {name} per class, reshape it to {(shape[0], *[1] * (len(to) - 2))}."
    if len(shape) == 1 and len(to) > 1 and shape[0] == to[0]:
        sample_weight = "pass sample_weight= or " if name == "weight" else ""
        return f" For one {name} per sample, {sample_weight}reshape it to {(shape[0], *[1] * (len(to) - 1))}."
    found: list[tuple[int, ...]] = []
    for axes in itertools.combinations(range(len(to)), len(shape)):
        if all(size in (1, to[axis]) for size, axis in zip(shape, axes, strict=True)):
            sizes = dict(zip(axes, shape, strict=True))
            reshaped = tuple(sizes.get(axis, 1) for axis in range(len(to)))
            if reshaped not in found:
                found.append(reshaped)
    return f" If it has these axes, reshape it to {' or '.join(map(str, found))}." if found else ""


def check_sample_weight(shape: Sequence[int], to: Sequence[int]) -> None:
    """Refuses all but one weight for each entry of the first axis."""
    shape, to = tuple(shape), tuple(to)
    if not to or shape != to[:1]:
        expected = f"({to[0]},), one weight for each entry of the first axis" if to else "an input with a first axis"
        raise RefusalError("sample_weight", f"shape {shape}, but the input's shape is {to}; expected {expected}")


def no_probability(name: str, index: Sequence[int], value: object) -> str:
    """The message for the first element of ``name`` that lies outside [0, 1]."""
    element = f"{name}{list(index)}" if index else name
    message = f"all elements of {name} should be between 0 and 1, but {element} is {value!s}"
    if name == "input" and value == value:  # a NaN is no logit either
        message += "; logits belong to binary_cross_entropy_with_logits"
    return message


def wrong_target(name: str, index: Sequence[int], value: object) -> str:
    """The message for the first element of an operand that ``check_targets`` refuses."""
    element = f"{name}{list(index)}" if index else name
    if name == "mask":
        return f"{name}: {element} is {value!s}; expected 0 or 1 in each element, such as a boolean mask"
    if name != "target":
        return f"{name}: {element} is {value!s}; expected no negative weight"
    number = float(value)  # type: ignore[arg-type]
    hint = ""
    if number in (-100, -1, 255):
        hint = f"; pass ignore_index={int(number)} if such elements have no label"
    elif number > 1 and number % 1 == 0:
        hint = "; class indices need one-hot targets, or IndexTargets"
    return f"{name}: {element} is {value!s}; expected a number between 0 and 1 in each element{hint}"


TO_DENSE = "; make it dense by its .to_dense()"  # for a sparse tensor of a framework's own
SPARSE_TARGET = "a sparse target is binxent.IndexTargets, or a matrix of SciPy in CSR"


def to_dense(operand: object) -> str:
    """How to make a sparse matrix of SciPy or JAX dense, for the end of a message; "" for what is none."""
    for method in ("toarray", "todense"):
        if hasattr(operand, method):
            return f"; make it dense by its .{method}()"
    return ""

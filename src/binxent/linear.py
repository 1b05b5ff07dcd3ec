"""The schedule of a linear head, whose logits are made and used up in chunks of labels and never stored as a whole.

Binary cross-entropy separates over the labels, so each chunk has its own part of everything but the input's gradient.
A chunk is: one product, which gives its logits; one pass of a kernel, which adds up the loss and puts the gradient in
the logits' place; and two products, which give the chunk's final part of the weight's gradient, and a term of the
input's. The divisor of a mean is that of all labels, and is known before the first chunk.

Nothing here knows a framework: a face makes the products and calls its kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from binxent.options import BY_AXIS, RefusalError
from binxent.targets import SparseRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from binxent.call import Call, Operands, Shape

FUNCTION = "linear_binary_cross_entropy_with_logits"

# A chunk of fewer labels is not cut to a multiple of this, which the libraries of products like.
ALIGNED = 64


@dataclass(frozen=True)
class LinearBCEOptions:
    """How a linear head computes; no option changes what it computes, but for the roundings of its sums.

    Args:
        max_chunk_bytes: the largest number of bytes that one chunk may take: its logits, and the copies of its part of
            the weight where the products are in another dtype. The least chunk is one label. None leaves it to the
            device. The same number gives the same bits.
        accumulate_dtype: the dtype in which the input's gradient is added up over the chunks, as the framework or a
            text names it: float32 or float64. None is float64 for float64, and float32 for all others.
        allow_retain_graph: whether a second backward through one loss computes everything again; if not, it is refused.

    Raises:
        ValueError, TypeError: a value that has no meaning.

    Examples:
        >>> LinearBCEOptions(max_chunk_bytes=64 * 2**20)
        LinearBCEOptions(max_chunk_bytes=67108864, accumulate_dtype=None, allow_retain_graph=False)
    """

    max_chunk_bytes: int | None = None
    accumulate_dtype: Any = None
    allow_retain_graph: bool = False

    def __post_init__(self) -> None:
        most = self.max_chunk_bytes
        if most is not None:
            if not isinstance(most, int) or isinstance(most, bool):
                raise TypeError(f"max_chunk_bytes: expected an integer or None, got {type(most).__name__}")
            if most < 1:
                raise RefusalError("max_chunk_bytes", f"{most}; expected at least 1, or None")
        if self.accumulate_dtype is not None and self.accumulator("") not in ("float32", "float64"):
            raise RefusalError("accumulate_dtype", f"{self.accumulate_dtype!r}; expected float32, float64 or None")

    def accumulator(self, products: str) -> str:
        """The name of the dtype in which the input's gradient is added up, where the products are of that dtype."""
        given = self.accumulate_dtype
        if given is None:
            return "float64" if products == "float64" else "float32"
        name = given if isinstance(given, str) else getattr(given, "__name__", str(given))  # a NumPy type has a name
        return name.rpartition(".")[2]


def checked_options(options: object) -> LinearBCEOptions:
    if options is None:
        return LinearBCEOptions()
    if not isinstance(options, LinearBCEOptions):
        raise TypeError(f"options: expected LinearBCEOptions or None, got {type(options).__name__}")
    return options


def shape_of_logits(input: Shape, linear_weight: Shape, linear_bias: Shape | None) -> Shape:
    """The logits' shape, [N, C]; refuses an input, a weight or a bias that gives none."""
    if len(input) != 2:
        raise RefusalError("input", f"shape {tuple(input)}; expected [N, features]")
    if len(linear_weight) != 2 or linear_weight[1] != input[1]:
        raise RefusalError(
            "linear_weight", f"shape {tuple(linear_weight)} beside an input of {tuple(input)}; "
            f"expected [labels, {input[1]}]"
        )  # fmt: skip
    labels = linear_weight[0]
    if linear_bias is not None and len(linear_bias) and tuple(linear_bias) != (labels,):
        raise RefusalError("linear_bias", f"shape {tuple(linear_bias)}; expected ({labels},), or () for one number")
    return input[0], labels


_CHUNKED = "'mean', 'sum', 'batchmean' or 'weighted_mean'"


def check_reduction(reduction: object) -> None:
    """Refuses a loss of each element, of which there are as many as logits, and what is made of these losses."""
    if reduction in BY_AXIS:
        raise RefusalError("reduction", f"{reduction!r} of a linear head is not computed; expected {_CHUNKED}")
    if reduction == "none":
        raise RefusalError(
            "reduction",
            f"'none' asks for the loss of each of N × C logits, which are never stored; expected {_CHUNKED}, or call "
            "binary_cross_entropy_with_logits on logits of your own",
        )


def made_for(products: str, reduction: str, labels: int) -> float:
    """The incoming gradient to make gradients for, where nobody knows which will come.

    In float16 most of the gradient of a mean over many labels would be 0. It is made for a larger incoming gradient, as
    a loss scale would be one, and for a power of two, by which scaling is exact but for what becomes too small.
    """
    if products != "float16" or reduction not in ("mean", "weighted_mean"):
        return 1.0
    return float(1 << max(0, labels.bit_length() - 1))


def call_of_chunks(call: Call) -> Call:
    """The call of each chunk: as that of the whole, but for the result's rounding to a half type, which comes last."""
    return call._replace(dtype="float64" if call.dtype == "float64" else "float32")


def bytes_of_label(rows: int, features: int, itemsize: int, *, casts: bool) -> int:
    """What a label takes in a chunk: its logits and, where the products have a dtype of their own, two rows of weights.

    It is the same whether or not there will be gradients, so that the loss has the same bits.
    """
    return (rows + 2 * features * casts) * itemsize


def labels_of_chunk(labels: int, bytes_of_label: int, most: int) -> int:
    """How many labels a chunk has, of which each takes so many bytes."""
    fit = most // max(1, bytes_of_label)
    if fit >= ALIGNED:
        fit -= fit % ALIGNED
    return max(1, min(fit, labels))


def chunks(labels: int, step: int) -> Iterator[tuple[int, int]]:
    """The first label of each chunk, and the one behind its last. No labels are one chunk: their mean is NaN."""
    for start in range(0, max(1, labels), step):
        yield start, min(start + step, labels)


def window(operand: Any, start: int, stop: int) -> Any:
    """The part of an operand that meets these labels, a view; all of one that is the same for each label."""
    if isinstance(operand, SparseRows):
        return operand.window(start, stop)
    if operand is None or operand.ndim == 0 or operand.shape[-1] == 1:
        return operand
    return operand[..., start:stop]


def operands_of_chunk(operands: Operands, logits: Any, start: int, stop: int) -> Operands:
    """The operands of the loss of these labels. Learnt options and the normalizer are one number for all."""
    return operands._replace(
        input=logits,
        target=window(operands.target, start, stop),
        weight=window(operands.weight, start, stop),
        pos_weight=window(operands.pos_weight, start, stop),
        mask=window(operands.mask, start, stop),
        neg_weight=window(operands.neg_weight, start, stop),
    )

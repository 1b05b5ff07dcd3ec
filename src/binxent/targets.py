"""Targets that name the positives instead of holding a number for each label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

Array = Any


class SparseRows(NamedTuple):
    """A sparse target as kernels and the definition read it, in arrays of the caller's framework.

    Row r has the labels ``indices[offsets[r]:offsets[r + 1]]``, sorted and without doubles; every other element is 0.
    An index that is beyond the columns is not seen. A negative index, which stands first, says that the row had a wrong
    label: the whole row is NaN.
    """

    offsets: Array  # [N + 1], int64
    indices: Array  # int64 or int32
    values: Array | None  # one for each index, of any dtype that is a target's; None: all are 1
    shape: tuple[int, int]  # of the target: N rows, C columns
    first: int = 0  # the label that column 0 stands for

    def part(self, start: int, stop: int) -> SparseRows:
        """The rows from ``start`` on and before ``stop``. Nothing is copied."""
        return self._replace(offsets=self.offsets[start : stop + 1], shape=(stop - start, self.shape[1]))

    def window(self, start: int, stop: int) -> SparseRows:
        """The same rows, seen through the columns from ``start`` on and before ``stop``. Nothing is copied."""
        return self._replace(shape=(self.shape[0], stop - start), first=self.first + start)


class IndexTargets:
    """The positives of each row, as indices: a target of 0 and 1 that takes memory for its positives alone.

    It stands in the place of a target of shape [N, C] in the losses of every face. The indices of a row are a set:
    their order means nothing, and an index that stands there twice counts once.

    Args:
        indices: integers, an array of any framework or a list. Of shape [N, K], the indices of each row, where
            ``padding`` fills the places that a row has no use for; or of shape [M], those of all rows one after the
            other, with ``offsets``.
        offsets: where the indices of each row begin, as in ``torch.nn.EmbeddingBag``: N integers, the first of which is
            0; or N + 1, the last of which is M. How many there are tells which is meant.
        padding: the integer that is no index, such as -1. Without it nothing is: a negative index is refused.
        num_labels: C. It is checked against the input's shape.

    Raises:
        ValueError: the shapes do not fit each other.
        TypeError: the indices or offsets are no integers.

    Examples:
        >>> IndexTargets([[3, 7], [1, -1]], padding=-1, num_labels=10)
        IndexTargets(indices=int64[2, 2], padding=-1, num_labels=10)
        >>> IndexTargets([3, 7, 1], offsets=[0, 2])
        IndexTargets(indices=int64[3], offsets=int64[2])
    """

    __slots__ = ("indices", "num_labels", "offsets", "padding")

    def __init__(
        self, indices: Array, *, offsets: Array | None = None, padding: int | None = None, num_labels: int | None = None
    ) -> None:
        self.indices = _integers("indices", indices)
        self.offsets = None if offsets is None else _integers("offsets", offsets)
        self.padding = None if padding is None else _integer("padding", padding)
        self.num_labels = None if num_labels is None else _integer("num_labels", num_labels)
        shape = tuple(self.indices.shape)
        if self.offsets is None and len(shape) != 2:
            raise ValueError(f"indices: shape {shape}; expected [N, K], or one axis and offsets=")
        if self.offsets is not None and len(shape) != 1:
            raise ValueError(f"indices: shape {shape}; expected one axis, because there are offsets")
        if self.offsets is not None and len(self.offsets.shape) != 1:
            raise ValueError(f"offsets: shape {tuple(self.offsets.shape)}; expected one axis")

    @classmethod
    def from_lists(cls, rows: Iterable[Iterable[int]], *, num_labels: int | None = None) -> IndexTargets:
        """Returns the targets of rows that are lists of indices, of any lengths, in NumPy's arrays.

        Examples:
            >>> IndexTargets.from_lists([[3, 7], [], [1]])
            IndexTargets(indices=int64[3], offsets=int64[4])
        """
        from binxent import label_lists

        indices, offsets = label_lists.of_lists(rows)
        return cls(indices, offsets=offsets, num_labels=num_labels)

    @classmethod
    def from_csr(cls, matrix: Any) -> IndexTargets:
        """Returns the targets of a SciPy matrix or array in CSR format, whose stored values must be 0 or 1.

        Such a matrix is a target by itself, too, and may then hold other values.

        Raises:
            ValueError: it is of another format, or holds another value.
        """
        from binxent import label_lists

        indices, offsets = label_lists.of_csr(matrix)
        return cls(indices, offsets=offsets, num_labels=int(matrix.shape[1]))

    @classmethod
    def from_arrow(cls, column: Any, *, num_labels: int | None = None) -> IndexTargets:
        """Returns the targets of an Arrow column of lists of integers: pyarrow's Array or ChunkedArray.

        Raises:
            ValueError: it is no column of lists of integers, or a row or an index is null.
        """
        from binxent import label_lists

        indices, offsets = label_lists.of_arrow(column)
        return cls(indices, offsets=offsets, num_labels=num_labels)

    def to(self, *arguments: Any, **keywords: Any) -> IndexTargets:
        """The targets whose arrays are moved by their own ``to``."""
        return self._with("to", *arguments, **keywords)

    def pin_memory(self, *arguments: Any, **keywords: Any) -> IndexTargets:
        """The targets whose arrays are copied to pinned memory, as torch's DataLoader asks for."""
        return self._with("pin_memory", *arguments, **keywords)

    def _with(self, method: str, *arguments: Any, **keywords: Any) -> IndexTargets:
        def moved(array: Any) -> Any:
            found = getattr(array, method, None)
            if found is None:
                kind = type(array)
                raise TypeError(f"IndexTargets.{method}: {kind.__module__}.{kind.__name__} has no {method}")
            return found(*arguments, **keywords)

        offsets = None if self.offsets is None else moved(self.offsets)
        return rebuilt(moved(self.indices), offsets, self.padding, self.num_labels)

    def __repr__(self) -> str:
        shown = [f"indices={_shown(self.indices)}"]
        if self.offsets is not None:
            shown.append(f"offsets={_shown(self.offsets)}")
        numbers = {"padding": self.padding, "num_labels": self.num_labels}
        shown += [f"{name}={value}" for name, value in numbers.items() if value is not None]
        return f"IndexTargets({', '.join(shown)})"


def rebuilt(indices: Any, offsets: Any, padding: int | None, num_labels: int | None) -> IndexTargets:
    """Targets of these parts, which are not looked at: a pytree may hold anything in the places of its arrays."""
    targets = IndexTargets.__new__(IndexTargets)
    targets.indices, targets.offsets, targets.padding, targets.num_labels = indices, offsets, padding, num_labels
    return targets


def _integers(name: str, array: Any) -> Array:
    """The array itself; a list as NumPy's. Its dtype is looked at by name, because each framework has its own."""
    if isinstance(array, (list, tuple, range)):
        import numpy as np

        try:
            if isinstance(array, range):  # of which NumPy would make a list first
                return np.arange(array.start, array.stop, array.step)
            array = np.asarray(array) if len(array) else np.zeros(0, np.int64)
        except ValueError:
            raise ValueError(f"{name}: rows of several lengths; pass IndexTargets.from_lists(…)") from None
    if not hasattr(array, "dtype") or not hasattr(array, "shape"):
        raise TypeError(f"{name}: expected an array of integers or a list, got {type(array).__name__}")
    if "int" not in str(array.dtype).lower():
        raise TypeError(f"{name}: dtype {array.dtype}; expected integers")
    return array


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    return int(value.__index__())


def _shown(array: Any) -> str:
    return f"{str(array.dtype).rpartition('.')[2].lower()}{list(array.shape)}"

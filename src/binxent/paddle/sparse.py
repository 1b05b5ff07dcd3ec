"""Sparse targets in Paddle's dynamic graph: ``IndexTargets`` and SciPy's matrices, as rows of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from binxent import sparse
from binxent.options import RefusalError
from binxent.targets import IndexTargets, SparseRows

if TYPE_CHECKING:
    from collections.abc import Callable

    from paddle import Tensor

    from binxent.call import Operands


def is_target(label: object) -> bool:
    return isinstance(label, IndexTargets) or sparse.is_scipy(label)


def rows(where: str, label: Any, input: Any, ignore_index: object) -> SparseRows:
    """The rows of a label that ``is_target``, in the processor's memory, where each index is checked."""
    if not isinstance(input, paddle.Tensor) or not paddle.in_dynamic_mode():
        given = type(label).__name__
        raise TypeError(f"{where}(): argument 'label' is {given}, which the dynamic graph alone takes")
    return _tensors(_in_paddles_words(where, sparse.rows, label, tuple(input.shape), ignore_index))


def rows_to_count(where: str, label: Any, ignore_index: object) -> SparseRows:
    """The rows of a label that ``is_target`` and has no logits beside it."""
    shape = _in_paddles_words(where, sparse.shape_to_count, label, ignore_index)
    return _tensors(_in_paddles_words(where, sparse.rows, label, shape, ignore_index))


def _in_paddles_words(where: str, find: Callable[..., Any], *given: Any) -> Any:
    try:
        return find(*given)
    except RefusalError as refusal:
        raise ValueError(f"{where}(): {refusal}") from None


def _tensors(found: SparseRows) -> SparseRows:
    cpu = paddle.CPUPlace()
    offsets, indices, values = (None if part is None else paddle.to_tensor(part, place=cpu) for part in found[:3])
    return found._replace(offsets=offsets, indices=indices, values=values)


def dtype_of(rows: SparseRows) -> Tensor:
    """A tensor of the dtype that a dense label would have."""
    return paddle.empty([0], "bool") if rows.values is None else rows.values


def with_dense_target(operands: Operands) -> Operands:
    """The operands with all the elements of a sparse target."""
    rows = operands.target
    if not isinstance(rows, SparseRows):
        return operands
    parts = (None if part is None else part.numpy() for part in rows[:3])
    offsets, indices, values = parts
    dense = sparse.dense(SparseRows(np.asarray(offsets), np.asarray(indices), values, rows.shape, rows.first))
    return operands._replace(target=paddle.to_tensor(dense, place=operands.input.place))

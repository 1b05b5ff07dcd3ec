"""Sparse targets in torch: ``IndexTargets``, tensors of the layout CSR and SciPy's matrices, as rows of tensors.

On the processor each label is looked at, and a wrong one is refused. Elsewhere that would wait for the device: there
torch's operations sort the labels, in as many places as there were, and mark the rows that have a wrong one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binxent import sparse
from binxent.targets import IndexTargets, SparseRows
from binxent.torch.context import in_transform, is_exporting, under_dispatch_mode

if TYPE_CHECKING:
    from collections.abc import Sequence


def is_target(target: object) -> bool:
    """Whether it is a sparse target; one of another layout is refused as every operand of it is."""
    if isinstance(target, Tensor):
        return target.layout is torch.sparse_csr
    return isinstance(target, IndexTargets) or sparse.is_scipy(target)


def dtype_of(target: Any) -> str:
    """The dtype of the values of a target that ``is_target``."""
    if isinstance(target, IndexTargets):
        return "bool"
    return str(target.dtype).removeprefix("torch.")


def rows(function: str, target: Any, input: Tensor, ignore_index: object, compiling: bool) -> SparseRows:
    """The rows of a target that ``is_target``, on the input's device."""
    sparse.check(target, input.shape, ignore_index)
    if isinstance(target, IndexTargets):
        indices = _tensor(function, "indices", target.indices, input)
        offsets = None if target.offsets is None else _tensor(function, "offsets", target.offsets, input).long()
        found, _ = _rows(indices, offsets, target.padding, input.shape, is_set=True, compiling=compiling)
        return found
    if isinstance(target, Tensor):
        if target.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError(
                f"{function}(): argument 'target' is sparse and requires a gradient, which is not computed; pass its "
                ".detach()"
            )
        parts: Sequence[Tensor] = target.crow_indices(), target.col_indices(), target.values()
    else:
        parts = [torch.from_numpy(part).to(input.device) for part in (target.indptr, target.indices, target.data)]
    offsets, indices, values = (_tensor(function, "target", part, input) for part in parts)
    found, places = _rows(indices, offsets.long(), None, input.shape, is_set=False, compiling=compiling)
    values = values.detach()
    return found._replace(values=values.contiguous() if places is None else values[places])


def _tensor(function: str, name: str, array: Any, input: Tensor) -> Tensor:
    """The array as a tensor on the input's device: a tensor must be there, another array is moved."""
    if not isinstance(array, Tensor):
        return torch.as_tensor(array, device=input.device)
    if array.device != input.device:
        raise RuntimeError(
            f"{function}(): argument 'target' has its {name} on {array.device}, and the input is on {input.device}; "
            "pass the target's .to(input.device)"
        )
    return array


def _rows(
    indices: Tensor, offsets: Tensor | None, padding: int | None, shape: Any, *, is_set: bool, compiling: bool
) -> tuple[SparseRows, Tensor | None]:
    """The rows without values, and which place each index had; None if all have kept theirs."""
    if offsets is not None and offsets.shape[0] == shape[0]:
        offsets = torch.cat([offsets, offsets.new_full((1,), indices.shape[0])])
    if indices.is_cpu and type(indices) is Tensor and not (compiling or in_transform() or under_dispatch_mode()):
        return on_processor(indices, offsets, padding, tuple(shape), is_set=is_set)
    if compiling and indices.is_cpu and not is_exporting() and not in_transform():
        bounds, labels, places = torch.ops.binxent.sparse_rows(indices, offsets, padding, *shape, is_set)
        return SparseRows(bounds, labels, None, (shape[0], shape[1])), None if is_set else places
    return in_operations(indices, offsets, padding, shape, is_set=is_set)


def on_processor(
    indices: Tensor, offsets: Tensor | None, padding: int | None, shape: tuple[int, ...], *, is_set: bool
) -> tuple[SparseRows, Tensor | None]:
    labels, bounds = indices.numpy(), None if offsets is None else offsets.numpy()
    if is_set or bounds is None:
        found, places = sparse.of_indices(labels, bounds, padding, shape), None
    else:
        found, places = sparse.of_csr(bounds, labels, shape)
    found = found._replace(offsets=torch.from_numpy(found.offsets), indices=torch.from_numpy(found.indices))
    return found, None if places is None else torch.from_numpy(places)


def in_operations(
    indices: Tensor, offsets: Tensor | None, padding: int | None, shape: Any, *, is_set: bool
) -> tuple[SparseRows, Tensor | None]:
    """As many indices as there were, of which those that are C stand in empty places."""
    height, width = shape
    device = indices.device
    if offsets is None:
        each = indices.shape[1]
        offsets = torch.arange(height + 1, device=device) * each
        row = torch.arange(height, device=device).repeat_interleave(each, output_size=height * each)
        indices, fits = indices.reshape(-1), None
    else:
        size = indices.shape[0]
        given, offsets = offsets, offsets.clamp(0, size).cummax(0).values
        fits = (given == offsets).all() & (given[0] == 0) & (given[-1] == size)
        row = torch.searchsorted(offsets[1:], torch.arange(size, device=device), right=True).clamp(
            max=max(height - 1, 0)
        )
    indices = indices.long()
    wrong = (indices < 0) | (indices >= width)
    if fits is not None:
        wrong = wrong | ~fits
    labels = torch.where(wrong, -1, indices)
    if padding is not None:
        labels = torch.where(indices == padding, width, labels)
    # A row's labels stay between its offsets, because its number leads each key.
    first = row * (width + 2) + 1
    labels, places = torch.sort(labels + first)
    twice = torch.cat([labels.new_zeros(1, dtype=torch.bool), labels[1:] == labels[:-1]])[: labels.shape[0]]
    labels = labels - first
    labels, again = torch.sort(torch.where(twice & (labels < width), width if is_set else -1, labels) + first)
    return SparseRows(offsets, labels - first, None, (height, width)), None if is_set else places[again]

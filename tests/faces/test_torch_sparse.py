"""Sparse targets in torch: the bits of the dense target, on the tape and off it, in place, and compiled."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from binxent import IndexTargets, kernel  # noqa: E402
from binxent.torch import (  # noqa: E402
    BCELoss,
    BCEWithLogitsLoss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    count,
)
from binxent.torch import sparse as torch_sparse  # noqa: E402
from binxent.torch.arrays import dense as dense_of  # noqa: E402

ROWS, COLUMNS = 5, 1300
LISTS = [[7, 3, 7, 1299], [], [0], [700, 2, 1], [1298, 512]]
FLAT = torch.tensor([*itertools.chain(*LISTS)])
OFFSETS = torch.tensor(np.cumsum([0, *map(len, LISTS)]))


def dense(dtype: Any = torch.float32) -> Any:
    target = torch.zeros(ROWS, COLUMNS, dtype=dtype)
    for row, labels in enumerate(LISTS):
        target[row, labels] = 1
    return target


def padded(dtype: Any = torch.int64) -> Any:
    indices = torch.full((ROWS, 6), -1, dtype=dtype)
    for row, labels in enumerate(LISTS):
        indices[row, 1 : 1 + len(labels)] = torch.tensor(labels, dtype=dtype)
    return indices


TARGETS = {
    "padded": lambda: IndexTargets(padded(), padding=-1),
    "padded int32": lambda: IndexTargets(padded(torch.int32), padding=-1, num_labels=COLUMNS),
    "flat": lambda: IndexTargets(FLAT, offsets=OFFSETS),
    "bags": lambda: IndexTargets(FLAT.int(), offsets=OFFSETS[:-1].int()),
    "numpy": lambda: IndexTargets(padded().numpy(), padding=-1),
    "lists": lambda: IndexTargets.from_lists(LISTS),
    "csr": lambda: dense().to_sparse_csr(),
    "csr of bool": lambda: dense(torch.bool).to_sparse_csr(),
}
every_target = pytest.mark.parametrize("make", TARGETS.values(), ids=TARGETS)


def logits(dtype: Any = torch.float32, seed: int = 0) -> Any:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def both(loss: Any, make: Any, dtype: Any = torch.float32, scale: float = 1.0) -> tuple[Any, Any]:
    """Loss and gradient with the sparse target, and with the dense one."""
    found = []
    for target in (make(), dense(dtype)):
        x = logits(dtype)
        value = loss(x, target)
        value.backward(torch.full_like(value, scale))
        found.append((value.detach(), x.grad))
    return found[0], found[1]


@every_target
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batchmean", "weighted_mean"])
def test_loss_and_gradient_have_the_bits_of_the_dense_target(make: Any, reduction: str) -> None:
    same(*both(BCEWithLogitsLoss(reduction=reduction), make))
    same(*both(BCEWithLogitsLoss(reduction=reduction), make, scale=3.0))
    runs = kernel.runs()
    BCEWithLogitsLoss(reduction=reduction)(logits(), make())
    assert kernel.runs() == runs + 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype: Any) -> None:
    same(*both(BCEWithLogitsLoss(), TARGETS["padded"], dtype))


OPTIONS: dict[str, Any] = {
    "weight": lambda: torch.rand(COLUMNS),
    "pos_weight": lambda: torch.rand(COLUMNS) + 1,
    "sample_weight": lambda: torch.rand(ROWS),
    "mask": lambda: torch.rand(ROWS, COLUMNS) > 0.3,
    "label_smoothing": lambda: 0.1,
    "gamma": lambda: 2.0,
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("function", [binary_cross_entropy_with_logits, binary_cross_entropy])
def test_every_option(name: str, function: Any) -> None:
    torch.manual_seed(1)
    option = {name: OPTIONS[name]()}

    def loss(x: Any, target: Any) -> Any:
        return function(x.sigmoid() if function is binary_cross_entropy else x, target, **option)

    same(*both(loss, TARGETS["flat"]))


@pytest.mark.parametrize("ignored", [0, 1, -100])
def test_ignore_index_of_csr(ignored: int) -> None:
    same(*both(BCEWithLogitsLoss(ignore_index=ignored), TARGETS["csr"]))


def test_soft_values_and_wide_ones() -> None:
    soft = dense() * torch.rand(ROWS, COLUMNS)
    for values in (torch.float32, torch.float64, torch.bfloat16):
        wanted = binary_cross_entropy_with_logits(logits(), soft.to(values))
        same(binary_cross_entropy_with_logits(logits(), soft.to(values).to_sparse_csr()), wanted)
        assert wanted.dtype == (torch.float64 if values == torch.float64 else torch.float32)


def test_scipys_matrices() -> None:
    scipy = pytest.importorskip("scipy.sparse")
    same(*both(BCEWithLogitsLoss(), lambda: scipy.csr_array(dense().numpy())))


def test_in_place_the_logits_become_their_gradient() -> None:
    x = logits()
    value = binary_cross_entropy_with_logits(x * 1, TARGETS["flat"](), inplace_backward=True)
    value.backward()
    wanted, gradient = both(BCEWithLogitsLoss(), TARGETS["flat"])[1]
    same((value.detach(), x.grad), (wanted, gradient))
    with pytest.raises(RuntimeError, match="a leaf"):
        binary_cross_entropy_with_logits(x, TARGETS["flat"](), inplace_backward=True)


def test_learnt_weights_have_their_gradients() -> None:
    for name in ("weight", "pos_weight"):
        gradients = []
        for target in (TARGETS["padded"](), dense()):
            option = torch.full((COLUMNS,), 1.5, requires_grad=True)
            binary_cross_entropy_with_logits(logits(), target, **{name: option}).backward()
            gradients.append(option.grad)
        same(*gradients)
    smoothing = torch.tensor(0.1, requires_grad=True)
    binary_cross_entropy_with_logits(logits(), TARGETS["padded"](), label_smoothing=smoothing).backward()
    assert smoothing.grad is not None


@every_target
def test_second_derivatives_are_the_definitions(make: Any) -> None:
    found = []
    for target in (make(), dense()):
        x = logits()
        (slope,) = torch.autograd.grad(binary_cross_entropy_with_logits(x, target), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0])
    same(*found)


def test_transforms() -> None:
    x, targets = logits().detach(), TARGETS["padded"]()
    wanted = torch.func.grad(lambda x: binary_cross_entropy_with_logits(x, dense()))(x)
    same(torch.func.grad(lambda x: binary_cross_entropy_with_logits(x, targets))(x), wanted)
    many = torch.stack([x, 2 * x])
    wanted = torch.func.vmap(lambda x: binary_cross_entropy_with_logits(x, dense()))(many)
    same(torch.func.vmap(lambda x: binary_cross_entropy_with_logits(x, targets))(many), wanted)
    labels = torch.stack([padded(), padded().roll(1, 0)])

    def of_labels(labels: Any) -> Any:
        return binary_cross_entropy_with_logits(x, IndexTargets(labels, padding=-1))

    wanted = torch.func.vmap(lambda y: binary_cross_entropy_with_logits(x, y))(
        torch.stack([dense(), dense().roll(1, 0)])
    )
    same(torch.func.vmap(of_labels)(labels), wanted)


# What torch's operations make of labels, where nothing can be looked at


def seen(targets: Any, input: Any) -> Any:
    indices = targets.indices
    offsets = targets.offsets
    if offsets is not None and len(offsets) == len(input):
        offsets = torch.cat([offsets, torch.tensor([len(indices)])])
    rows, _ = torch_sparse.in_operations(indices, offsets, targets.padding, input.shape, is_set=True)
    return dense_of(rows)


@pytest.mark.parametrize("name", ["padded", "padded int32", "flat", "bags"])
def test_operations_make_the_same_rows(name: str) -> None:
    targets, x = TARGETS[name](), logits()
    same(seen(targets, x), dense())
    rows, _ = torch_sparse.in_operations(
        padded(), None, -1, x.shape, is_set=True
    )  # in each row sorted, and without doubles
    for row in range(ROWS):
        labels = rows.indices[rows.offsets[row] : rows.offsets[row + 1]]
        labels = labels[labels < COLUMNS]
        assert labels.tolist() == sorted(set(LISTS[row]))


def test_operations_mark_rows_with_a_wrong_label() -> None:
    x = logits()
    for wrong in (COLUMNS, -2, 2**40, -(2**40)):
        indices = padded()
        indices[3, 0] = wrong
        got = seen(IndexTargets(indices, padding=-1), x)
        wanted = dense()
        wanted[3] = torch.nan
        same(got, wanted)
    for offsets in ([0, 4, 3, 5, 8, 10], [1, 4, 4, 5, 8, 10], [0, 4, 4, 5, 8, 9], [-5, 4, 4, 5, 8, 10**12]):
        assert torch.isnan(seen(IndexTargets(FLAT, offsets=torch.tensor(offsets)), x)).any()


def test_operations_mark_doubles_in_csr() -> None:
    rows, places = torch_sparse.in_operations(
        torch.tensor([3, 1, 3, 5]), torch.tensor([0, 3, 4]), None, (2, 8), is_set=False
    )
    values = torch.tensor([0.25, 0.5, 0.75, 1.0])[places]
    found = dense_of(rows._replace(values=values))
    assert torch.isnan(found[0]).all()
    assert found[1].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]


def test_windows_and_parts_of_operations() -> None:
    rows, _ = torch_sparse.in_operations(padded(), None, -1, (ROWS, COLUMNS), is_set=True)
    same(dense_of(rows.part(1, 4).window(500, 1000)), dense()[1:4, 500:1000])


def test_blocks_compute_them() -> None:
    code = """
        import torch
        from binxent import IndexTargets
        from binxent.torch import binary_cross_entropy_with_logits
        x = torch.linspace(-3, 3, 200_000).reshape(2, 100_000).requires_grad_()
        y = torch.zeros(2, 100_000)
        y[0, [5, 99_999]] = 1
        targets = IndexTargets(torch.tensor([[99_999, 5], [-1, -1]]), padding=-1)
        for reduction in ("mean", "none"):
            found = []
            for target in (targets, y):
                loss = binary_cross_entropy_with_logits(x, target, reduction=reduction, mask=x > -2)
                found += [loss, *torch.autograd.grad(loss.sum(), x)]
            assert all(torch.equal(a, b) for a, b in zip(found[:2], found[2:]))
        print("same")
    """
    from tests import processes

    assert processes.python(code, BINXENT_KERNELS="").strip() == "same"


# Refusals


def test_wrong_labels_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="row 1 has label 1300; expected 0 to 1299"):
        binary_cross_entropy_with_logits(logits(), IndexTargets(torch.tensor([[0], [1300], [1], [1], [1]])))


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csc])
def test_other_layouts_are_refused(layout: Any) -> None:
    with pytest.raises(NotImplementedError, match=r"\.to_sparse_csr\(\)"):
        binary_cross_entropy_with_logits(logits(), dense().to_sparse(layout=layout))


def test_sparse_weights_are_refused() -> None:
    for name in ("weight", "mask"):
        with pytest.raises(NotImplementedError, match="strided"):
            binary_cross_entropy_with_logits(logits(), TARGETS["flat"](), **{name: dense().to_sparse_csr()})


def test_gradients_to_stored_values_are_refused() -> None:
    target = dense().to_sparse_csr().requires_grad_()
    with pytest.raises(NotImplementedError, match=r"\.detach\(\)"):
        binary_cross_entropy_with_logits(logits(), target)
    with torch.no_grad():
        binary_cross_entropy_with_logits(logits(), target)
    binary_cross_entropy_with_logits(logits(), target.detach())


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="padding="):
        binary_cross_entropy_with_logits(logits(), TARGETS["flat"](), ignore_index=-100)
    with pytest.raises(ValueError, match=r"expected \[N, C\]"):
        binary_cross_entropy_with_logits(logits()[0], TARGETS["flat"]())
    with pytest.raises(ValueError, match="num_labels=3"):
        binary_cross_entropy_with_logits(logits(), IndexTargets(padded(), padding=-1, num_labels=3))
    with pytest.raises(RuntimeError, match="mask"):
        binary_cross_entropy_with_logits(logits(), TARGETS["flat"](), mask=torch.ones(7))
    with pytest.raises(RuntimeError, match=r"all elements of input should be between 0 and 1, but input\[0, 0\]"):
        BCELoss()(torch.full((ROWS, COLUMNS), 2.0), TARGETS["flat"]())


def test_they_can_be_moved() -> None:
    moved = TARGETS["flat"]().to(torch.int32)
    assert moved.indices.dtype == moved.offsets.dtype == torch.int32
    with pytest.raises(RuntimeError, match=r"\.to\(input\.device\)"):
        binary_cross_entropy_with_logits(logits(), TARGETS["flat"]().to("meta"))


# Under torch.compile


def compiled(function: Any, **options: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, **options)


@pytest.mark.parametrize("name", ["padded", "padded int32", "flat", "bags"])  # Dynamo takes no tensor in CSR
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_code_has_the_same_bits_without_a_graph_break(name: str, reduction: str) -> None:
    loss = BCEWithLogitsLoss(reduction=reduction)
    step = compiled(lambda x, target: loss(x * 1, target))
    same(*[both(step, TARGETS[name])[0], both(loss, TARGETS[name])[0]])


def test_compiled_code_reaches_the_kernel_once() -> None:
    step, x, targets = compiled(lambda x, y: binary_cross_entropy_with_logits(x, y)), logits(), TARGETS["padded"]()
    step(x, targets).backward()
    runs = kernel.runs()
    step(x, targets).backward()
    assert kernel.runs() == runs + 1


def test_compiled_code_refuses_a_wrong_label() -> None:
    step = compiled(lambda x, y: binary_cross_entropy_with_logits(x, y))
    step(logits(), IndexTargets(padded(), padding=-1))
    with pytest.raises(ValueError, match="row 0 has label 1300"):
        step(logits(), IndexTargets(torch.where(padded() == 7, 1300, padded()), padding=-1))


def test_compiled_code_takes_other_sizes() -> None:
    step = compiled(lambda x, y: binary_cross_entropy_with_logits(x, y), dynamic=True)
    for rows, width in ((5, 3), (7, 4), (9, 2)):
        x, indices = torch.randn(rows, 100), torch.randint(0, 100, (rows, width))
        same(step(x, IndexTargets(indices)), binary_cross_entropy_with_logits(x, IndexTargets(indices)))


class Seen(TorchDispatchMode):
    """A mode that sees all operations, so that none may be a kernel's."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


def test_tensors_of_torch_are_counted() -> None:
    soft = torch.where(torch.rand(5, 700) < 0.01, 0.5, 0.0)
    soft[2, 3] = 1
    for ignored, dtype in itertools.product((None, 0, 1), (torch.float32, torch.bfloat16)):
        given = {"ignore_index": ignored, "mask": torch.rand(5, 700) < 0.5}
        csr = soft.to_sparse_csr().to(dtype)
        assert torch.equal(count(csr, **given), count(soft.to(dtype), **given))
        with Seen():
            assert torch.equal(count(csr, **given), count(soft.to(dtype), **given))


def test_the_divisor_of_several_ranks() -> None:
    """A process group of one. What it divides by depends on the labels with ignore_index only."""
    import torch.distributed as distributed

    if not distributed.is_available():
        pytest.skip("torch has no process groups")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        group = distributed.group.WORLD
        mask = torch.rand(ROWS, COLUMNS) > 0.5
        loss = BCEWithLogitsLoss(process_group=group, gradients="averaged")
        same(loss(logits(), TARGETS["padded"](), mask=mask), loss(logits(), dense(), mask=mask))
        ignoring = BCEWithLogitsLoss(ignore_index=0, process_group=group, gradients="averaged")
        same(ignoring(logits(), TARGETS["csr"]()), ignoring(logits(), dense()))
    finally:
        distributed.destroy_process_group()

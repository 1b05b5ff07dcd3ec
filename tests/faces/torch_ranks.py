"""What each rank of a process group does for test_torch_means.py: ``python -m tests.faces.torch_ranks WORLD FILE``.

Every check compares with one process that has the whole batch. A check that fails on a rank is reported by that rank.
"""

from __future__ import annotations

import copy
import json
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.distributed import _functional_collectives as collectives
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

import binxent.torch as face

ROWS = {2: (7, 3), 3: (5, 0, 4), 4: (7, 3, 0, 1)}
LABELS, FEATURES = 5, 6
MEANS = ("mean", "batchmean", "weighted_mean")
CHECKS: dict[str, Callable[[Ranks], None]] = {}


def check(function: Callable[[Ranks], None]) -> Callable[[Ranks], None]:
    CHECKS[function.__name__] = function
    return function


class Ranks:
    """A whole batch, and this rank's rows of it."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world, self.rows = rank, world, ROWS[world]
        generator = torch.Generator().manual_seed(5)
        n = sum(self.rows)
        self.features = torch.randn(n, FEATURES, generator=generator, dtype=torch.float64)
        self.target = (torch.rand(n, LABELS, generator=generator) < 0.4).double()
        self.target[torch.rand(n, LABELS, generator=generator) < 0.2] = -100
        self.mask = torch.rand(n, LABELS, generator=generator) < 0.7
        self.sample_weight = torch.rand(n, generator=generator, dtype=torch.float64) + 0.5
        self.weight = torch.rand(LABELS, generator=generator, dtype=torch.float64) + 0.5
        self.pos_weight = torch.rand(LABELS, generator=generator, dtype=torch.float64) + 0.5
        self.start = torch.randn(LABELS, FEATURES, generator=generator, dtype=torch.float64)
        first = sum(self.rows[:rank])
        self.own = slice(first, first + self.rows[rank])

    def model(self) -> torch.nn.Linear:
        model = torch.nn.Linear(FEATURES, LABELS, bias=False, dtype=torch.float64)
        with torch.no_grad():
            model.weight.copy_(self.start)
        return model

    def loss(self, reduction: str = "mean", **settings: Any) -> face.BCEWithLogitsLoss:
        return face.BCEWithLogitsLoss(
            self.weight, reduction=reduction, pos_weight=self.pos_weight, ignore_index=-100, **settings
        )

    def rest(self, rows: slice) -> dict[str, Tensor]:
        return {"sample_weight": self.sample_weight[rows], "mask": self.mask[rows]}

    def whole(self, reduction: str) -> tuple[Tensor, Tensor]:
        """Loss and gradient of one process with the whole batch."""
        model, every = self.model(), slice(None)
        loss = self.loss(reduction)(model(self.features), self.target, **self.rest(every))
        loss.backward()
        return loss.detach(), model.weight.grad


def total(number: Tensor) -> Tensor:
    number = number.clone()
    dist.all_reduce(number)
    return number


def assert_near(found: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(found, exact, rtol=1e-13, atol=1e-14)


@check
def loss_and_gradient(ranks: Ranks) -> None:
    for reduction, gradients in product(MEANS, ("averaged", "summed")):
        exact, slope = ranks.whole(reduction)
        model = ranks.model()
        loss = ranks.loss(reduction, process_group=dist.group.WORLD, gradients=gradients)
        found = loss(model(ranks.features[ranks.own]), ranks.target[ranks.own], **ranks.rest(ranks.own))
        found.backward()
        share = ranks.world if gradients == "averaged" else 1
        assert_near(total(found.detach()) / share, exact)
        assert_near(total(model.weight.grad) / share, slope)


@check
def a_linear_head(ranks: Ranks) -> None:
    """Its chunks divide by what all ranks count of all labels; sparse targets too."""
    dense = ranks.target.where(ranks.target > 0, 0)
    for reduction, gradients, is_sparse in product(MEANS, ("averaged", "summed"), (False, True)):
        heads = [
            face.LinearBCEWithLogitsLoss(
                FEATURES, LABELS, dtype=torch.float64, weight=ranks.weight, reduction=reduction, ignore_index=0,
                **group, options=face.LinearBCEOptions(max_chunk_bytes=1),
            )
            for group in ({}, {"process_group": dist.group.WORLD, "gradients": gradients})
        ]  # fmt: skip
        found = []
        for head, rows in zip(heads, (slice(None), ranks.own), strict=True):
            with torch.no_grad():
                head.linear.weight.copy_(ranks.start)
            target = dense[rows].to_sparse_csr() if is_sparse else dense[rows]
            loss = head(ranks.features[rows], target, **ranks.rest(rows))
            loss.backward()
            found.append((loss.detach(), head.linear.weight.grad))
        share = ranks.world if gradients == "averaged" else 1
        for exact, own in zip(*found, strict=True):
            assert_near(total(own) / share, exact)


@check
def groups_of_every_kind(ranks: Ranks) -> None:
    exact, _ = ranks.whole("mean")
    mesh = init_device_mesh("cpu", (ranks.world,))
    named = init_device_mesh("cpu", (1, ranks.world), mesh_dim_names=("model", "data"))
    for group in (dist.group.WORLD, dist.new_group(list(range(ranks.world))), mesh, (named, "data"), named["data"]):
        loss = ranks.loss(process_group=group, gradients="summed")
        found = loss(ranks.features[ranks.own] @ ranks.start.T, ranks.target[ranks.own], **ranks.rest(ranks.own))
        assert_near(total(found), exact)
    outside = DeviceMesh("cpu", [0]), dist.new_group([0])
    refused = [
        (named, ValueError, "one of them"),
        ("data", TypeError, "process_group: expected"),
        (("data", named), TypeError, "process_group: expected"),
        ((named, "date"), ValueError, "process_group: no dimension 'date'"),
    ]
    if ranks.rank:
        refused += [(outside[0], ValueError, "not in the DeviceMesh"), (outside[1], ValueError, "does not belong")]
    for group, error, words in refused:
        with pytest.raises(error, match=words):
            ranks.loss(process_group=group, gradients="summed")


@check
def accumulation(ranks: Ranks) -> None:
    """Three micro-batches on each rank, counted once; some of them are empty."""
    for reduction, gradients in product(MEANS, ("averaged", "summed")):
        exact, slope = ranks.whole(reduction)
        model, loss = ranks.model(), ranks.loss(reduction, process_group=dist.group.WORLD, gradients=gradients)
        rows = torch.arange(len(ranks.features))[ranks.own]
        batches = [ranks.rest(part) | {"x": ranks.features[part], "y": ranks.target[part]} for part in rows.chunk(3)]
        counted = [loss.count(b["y"], sample_weight=b["sample_weight"], mask=b["mask"]) for b in batches]
        normalizer = total(sum(counted, torch.zeros((), dtype=counted[0].dtype)))
        logged = torch.zeros((), dtype=torch.float64)
        for batch in batches:
            x, y = batch.pop("x"), batch.pop("y")
            found = loss(model(x), y, normalizer=normalizer, **batch)
            found.backward()
            logged += found.detach()
        share = ranks.world if gradients == "averaged" else 1
        assert_near(total(logged) / share, exact)
        assert_near(total(model.weight.grad) / share, slope)


def stepped(ranks: Ranks, model: Any, loss: Any, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(ranks.features[ranks.own]), ranks.target[ranks.own], **ranks.rest(ranks.own)).backward()
        optimizer.step()


def trained(ranks: Ranks, reduction: str, steps: int = 3) -> Tensor:
    """The weights after some steps of one process."""
    model, alone = ranks.model(), copy.copy(ranks)
    alone.own = slice(None)
    stepped(alone, model, ranks.loss(reduction), steps)
    return model.weight.detach()


@check
def data_parallel(ranks: Ranks) -> None:
    for reduction in MEANS:
        model = DistributedDataParallel(ranks.model())
        stepped(ranks, model, ranks.loss(reduction, process_group=dist.group.WORLD, gradients="averaged"))
        torch.testing.assert_close(model.module.weight.detach(), trained(ranks, reduction), rtol=1e-10, atol=1e-12)


@check
def fully_sharded(ranks: Ranks) -> None:
    mesh = init_device_mesh("cpu", (ranks.world,))
    for reduction, gradients in product(MEANS, ("averaged", "summed")):
        model = fully_shard(ranks.model(), mesh=mesh)
        if gradients == "summed":
            model.set_gradient_divide_factor(1.0)
        stepped(ranks, model, ranks.loss(reduction, process_group=mesh, gradients=gradients))
        found = model.weight.full_tensor().detach()
        torch.testing.assert_close(found, trained(ranks, reduction), rtol=1e-10, atol=1e-12)


@check
def a_fully_sharded_head(ranks: Ranks) -> None:
    """The head's own weight is gathered for its forward, as a linear layer's is, and its gradient is scattered."""
    exact, slope = ranks.whole("mean")
    options = face.LinearBCEOptions(max_chunk_bytes=100)
    counted = face.count(ranks.target, mask=ranks.mask, ignore_index=-100)
    given = {"weight": ranks.weight, "pos_weight": ranks.pos_weight, "ignore_index": -100}
    module = face.LinearBCEWithLogitsLoss(FEATURES, LABELS, dtype=torch.float64, options=options, **given)
    with torch.no_grad():
        module.linear.weight.copy_(ranks.start)
    module = fully_shard(module, mesh=a_mesh(ranks))
    module.set_gradient_divide_factor(1.0)
    rest = {name: option for name, option in ranks.rest(ranks.own).items() if name != "normalizer"}
    loss = module(ranks.features[ranks.own], ranks.target[ranks.own], **rest, normalizer=counted)
    loss.backward()
    assert_near(total(loss.detach()), exact)
    assert_near(module.linear.weight.grad.full_tensor(), slope)
    module.linear.weight.grad = None
    module.reshard()
    with pytest.raises(NotImplementedError, match=r"linear_weight is a DTensor.*register_fsdp_forward_method"):
        face.linear_binary_cross_entropy_with_logits(ranks.features, module.linear.weight, ranks.target)


@check
def compiled(ranks: Ranks) -> None:
    for reduction in MEANS:
        exact, slope = ranks.whole(reduction)
        model = ranks.model()
        loss = ranks.loss(reduction, process_group=dist.group.WORLD, gradients="summed")
        step = torch.compile(lambda x, y, loss=loss, **rest: loss(x, y, **rest), fullgraph=True, backend="aot_eager")
        found = step(model(ranks.features[ranks.own]), ranks.target[ranks.own], **ranks.rest(ranks.own))
        found.backward()
        assert_near(total(found.detach()), exact)
        assert_near(total(model.weight.grad), slope)
        torch.compiler.reset()


@check
def one_collective_for_a_step(ranks: Ranks) -> None:
    sent: list[Tensor] = []
    original = collectives.all_reduce

    def counted(tensor: Tensor, *arguments: Any) -> Tensor:
        sent.append(tensor)
        return original(tensor, *arguments)

    collectives.all_reduce = counted
    try:
        x, y = ranks.features[ranks.own] @ ranks.start.T, ranks.target[ranks.own]
        ranks.loss()(x.requires_grad_(), y).backward()
        ranks.loss("mean", process_group=dist.group.WORLD, gradients="summed")(x, y, normalizer=7).backward()
        assert not sent
        ranks.loss("mean", process_group=dist.group.WORLD, gradients="averaged")(x, y).backward()
        assert [(tensor.dtype, tensor.numel()) for tensor in sent] == [(torch.float64, 3)]
    finally:
        collectives.all_reduce = original


@check
def ranks_that_disagree_all_raise(ranks: Ranks) -> None:
    x, y = ranks.features[ranks.own] @ ranks.start.T, ranks.target[ranks.own]
    first = ranks.rank == 0
    for reduction, gradients in (
        ("mean" if first else "batchmean", "summed"),
        ("mean", "summed" if first else "averaged"),
    ):
        with pytest.raises(RuntimeError, match="do not agree"):
            ranks.loss(reduction, process_group=dist.group.WORLD, gradients=gradients)(x, y)


@check
def settings_that_are_set_later(ranks: Ranks) -> None:
    x, y = ranks.features[ranks.own] @ ranks.start.T, ranks.target[ranks.own]
    loss = ranks.loss()
    loss.process_group = dist.group.WORLD
    with pytest.raises(ValueError, match="gradients: None; beside a process_group"):
        loss(x, y)
    loss.gradients = "summed"
    exact = ranks.loss(process_group=dist.group.WORLD, gradients="summed")(x, y)
    assert_near(loss(x, y), exact)
    loss.reduction = "sum"
    with pytest.raises(ValueError, match="process_group: reduction='sum'"):
        loss(x, y)


@check
def normalizers_beside_a_group_are_refused_as_they_were_given(ranks: Ranks) -> None:
    x, y = ranks.features[ranks.own] @ ranks.start.T, ranks.target[ranks.own]
    for given, words in (("3", "got str"), (True, "got bool"), (-2, "normalizer: -2;"), (10**400, "larger int")):
        for gradients in ("averaged", "summed"):
            with pytest.raises((TypeError, ValueError), match=f"normalizer: .*{words}|{words}"):
                ranks.loss(process_group=dist.group.WORLD, gradients=gradients)(x, y, normalizer=given)


@check
def under_modes(ranks: Ranks) -> None:
    """A mode may have no values to look at, as that of fake tensors."""
    x, y = ranks.features[ranks.own] @ ranks.start.T, ranks.target[ranks.own]
    loss = face.BCEWithLogitsLoss(ignore_index=-100, process_group=dist.group.WORLD, gradients="averaged")
    with FakeTensorMode() as mode:
        assert loss(mode.from_tensor(x), mode.from_tensor(y)).shape == ()
    with CommDebugMode() as seen:
        loss(x, y)
    assert seen.get_total_counts() == 1


@check
def nothing_known_anywhere_is_zero(ranks: Ranks) -> None:
    x, y = (ranks.features[ranks.own] @ ranks.start.T).requires_grad_(), ranks.target[ranks.own]
    for reduction in ("mean", "weighted_mean"):
        loss = ranks.loss(reduction, process_group=dist.group.WORLD, gradients="averaged")
        found = loss(x, y, mask=torch.zeros_like(y))
        (slope,) = torch.autograd.grad(found, x)
        assert found == 0
        assert not slope.any()


@check
def copies_share_the_group_and_pickles_drop_it(ranks: Ranks) -> None:
    x, y = ranks.features[ranks.own] @ ranks.start.T, ranks.target[ranks.own]
    loss = ranks.loss(process_group=dist.group.WORLD, gradients="summed")
    for copied in (copy.deepcopy(loss), copy.copy(loss)):
        assert copied.process_group is loss.process_group
        assert_near(copied(x, y), loss(x, y))
    loaded = pickle.loads(pickle.dumps(loss))
    with pytest.raises(RuntimeError, match="was pickled"):
        loaded(x, y)
    loaded.process_group = dist.group.WORLD
    assert_near(loaded(x, y), loss(x, y))


@check
def weights_that_are_learnt(ranks: Ranks) -> None:
    x, y = ranks.features[ranks.own] @ ranks.start.T, ranks.target[ranks.own]
    loss = ranks.loss("weighted_mean", process_group=dist.group.WORLD, gradients="summed")
    loss.weight = loss.weight.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="normalizer="):
        loss(x, y)
    loss(x, y, normalizer=3.0).backward()
    with torch.no_grad():
        assert_near(loss(x, y), ranks.loss("weighted_mean", process_group=dist.group.WORLD, gradients="summed")(x, y))


PLACEMENTS = {"rows": [Shard(0)], "labels": [Shard(1)], "replicated": [Replicate()]}


def a_mesh(ranks: Ranks) -> DeviceMesh:
    return init_device_mesh("cpu", (ranks.world,))


@check
def dtensors(ranks: Ranks) -> None:
    mesh = a_mesh(ranks)
    logits = ranks.features @ ranks.start.T
    for placed, reduction, masked in product(PLACEMENTS, (*MEANS, "sum", "none"), (False, True)):
        options: dict[str, Any] = {"reduction": reduction, "ignore_index": -100, "gamma": 1.5, "label_smoothing": 0.1}
        if masked:
            options |= ranks.rest(slice(None)) | {"pos_weight": ranks.pos_weight}
        whole, weight = logits.clone().requires_grad_(), ranks.weight.clone().requires_grad_()
        exact = face.binary_cross_entropy_with_logits(whole, ranks.target, weight, **options)
        own = ranks.weight.clone().requires_grad_(reduction != "weighted_mean")
        x = distribute_tensor(logits, mesh, PLACEMENTS[placed]).requires_grad_()
        y = distribute_tensor(ranks.target, mesh, PLACEMENTS[placed])
        before = face_runs()
        found = face.binary_cross_entropy_with_logits(x, y, own, **options)
        assert face_runs() > before
        assert found.shape == exact.shape
        if reduction == "none":
            assert found.placements == x.placements
        assert_near(found.full_tensor().detach(), exact.detach())
        (found.sum() if reduction == "none" else found).backward()
        exact.sum().backward()
        assert x.grad.placements == x.placements
        assert_near(x.grad.full_tensor(), whole.grad)
        if own.requires_grad:
            assert_near(own.grad, weight.grad)


def face_runs() -> int:
    from binxent import kernel

    return kernel.runs()


@check
def dtensors_beside_what_does_not_fit(ranks: Ranks) -> None:
    mesh = a_mesh(ranks)
    logits, target = ranks.features @ ranks.start.T, ranks.target
    x, y = (distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in (logits, target))
    loss = face.binary_cross_entropy_with_logits
    grouped = ranks.loss(process_group=dist.group.WORLD, gradients="summed")
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: loss(logits, y), "input: a plain tensor"),
        (lambda: loss(x, distribute_tensor(target, mesh, [Shard(1)])), "target: a DTensor placed as"),
        (lambda: loss(DTensor.from_local(logits, mesh, [Partial()]), target), "expected Shard or Replicate"),
        (lambda: grouped(x, y), "pass no process_group"),
        (lambda: grouped(x, target), "the input is a DTensor.*pass no process_group"),
        (lambda: loss(x, y, ranks.weight.requires_grad_(), reduction="weighted_mean"), "pass normalizer="),
    ]
    for run, words in cases:
        with pytest.raises((RuntimeError, NotImplementedError), match=words):
            run()


@check
def dtensors_of_which_most_ranks_have_nothing(ranks: Ranks) -> None:
    """A batch of one row, and one label: the axis that is sharded has size 1, as one that is broadcast has."""
    mesh, logits = a_mesh(ranks), ranks.features @ ranks.start.T
    for rows, labels, placement in ((1, LABELS, Shard(0)), (len(logits), 1, Shard(1))):
        x, y, weight = logits[:rows, :labels], ranks.target[:rows, :labels], ranks.weight[:labels]
        options = {"ignore_index": -100, "sample_weight": ranks.sample_weight[:rows], "gamma": torch.ones(1).double()}
        whole = x.clone().requires_grad_()
        exact = face.binary_cross_entropy_with_logits(whole, y, weight, **options)
        exact.backward()
        for target in (y, distribute_tensor(y, mesh, [placement])):
            sharded = distribute_tensor(x, mesh, [placement]).requires_grad_()
            found = face.binary_cross_entropy_with_logits(sharded, target, weight, **options)
            found.backward()
            assert_near(found.full_tensor().detach(), exact.detach())
            assert_near(sharded.grad.full_tensor(), whole.grad)


@check
def dtensors_that_do_not_fit_are_refused_on_every_rank(ranks: Ranks) -> None:
    """A shape that fits on some ranks alone would leave the others waiting."""
    mesh, logits, target = a_mesh(ranks), ranks.features @ ranks.start.T, ranks.target
    x, y = (distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in (logits, target))
    loss, few = face.binary_cross_entropy_with_logits, len(logits) - 1
    for run, words in (
        (lambda: loss(x, target[:few]), "Target size"),
        (lambda: loss(x, distribute_tensor(target[:few], mesh, [Shard(0)])), "Target size"),
        (lambda: loss(x, y, mask=ranks.mask[:few]), "mask: shape"),
        (lambda: loss(x, y, ranks.sample_weight[:few, None]), "weight: shape"),
        (lambda: loss(x, y, sample_weight=ranks.sample_weight[:few]), "sample_weight: shape"),
        (lambda: face.count(y, mask=ranks.mask[:few]), "mask: shape"),
        (lambda: loss(x, target.tolist()), "argument 'target' must be Tensor, not list"),
    ):
        with pytest.raises((RuntimeError, ValueError, TypeError), match=words):
            run()


@check
def counts_of_dtensors(ranks: Ranks) -> None:
    mesh = a_mesh(ranks)
    rest = {"mask": ranks.mask, "sample_weight": ranks.sample_weight, "weight": ranks.weight}
    for placed, reduction in product(PLACEMENTS, MEANS):
        y = distribute_tensor(ranks.target, mesh, PLACEMENTS[placed])
        counted = face.count(y, reduction=reduction, ignore_index=-100, **rest)
        assert_near(counted, face.count(ranks.target, reduction=reduction, ignore_index=-100, **rest))
        x = distribute_tensor(ranks.features @ ranks.start.T, mesh, PLACEMENTS[placed])
        for normalizer in (counted, distribute_tensor(counted, mesh, [Replicate()])):
            found = face.binary_cross_entropy_with_logits(
                x, y, reduction=reduction, ignore_index=-100, normalizer=normalizer, **rest
            )
            exact = face.binary_cross_entropy_with_logits(
                x.full_tensor(), ranks.target, reduction=reduction, ignore_index=-100, **rest
            )
            assert_near(found.full_tensor(), exact)


@check
def compiled_dtensors(ranks: Ranks) -> None:
    mesh, logits = a_mesh(ranks), ranks.features @ ranks.start.T
    step = torch.compile(
        lambda x, y: face.binary_cross_entropy_with_logits(x, y, ignore_index=-100), fullgraph=True, backend="aot_eager"
    )
    whole = logits.clone().requires_grad_()
    exact = face.binary_cross_entropy_with_logits(whole, ranks.target, ignore_index=-100)
    exact.backward()
    for placed in PLACEMENTS.values():
        x, y = (distribute_tensor(tensor, mesh, placed) for tensor in (logits, ranks.target))
        found = step(x.requires_grad_(), y)
        found.backward()
        assert_near(found.full_tensor().detach(), exact.detach())
        assert_near(x.grad.full_tensor(), whole.grad)
    torch.compiler.reset()


def run(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    failed: dict[str, str] = {}
    for name, function in CHECKS.items():
        try:
            function(Ranks(rank, world))
        except Exception:
            failed[name] = f"rank {rank} of {world}\n{traceback.format_exc()}"
        dist.barrier()
    Path(folder, f"{rank}.json").write_text(json.dumps(failed))
    dist.destroy_process_group()


def main(world: int, file: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # A rank that is spawned would import torch anew, which takes as long as its checks.
        mp.start_processes(run, (world, folder), nprocs=world, start_method="fork")
        reports = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(world)]
    found = {name: [report[name] for report in reports if name in report] for name in CHECKS}
    Path(file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

"""Autocast, other devices, tensor subclasses, function and dispatch modes, DTensor."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode, has_torch_function
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from binxent import kernel
from tests.faces.torch_samples import FLOATING, KINDS, OUR_MODULES, OURS, TORCHS, all_operands, an_input, uniform
from tests.processes import ROOT, environment

NAN = float("nan")
both_kinds = pytest.mark.parametrize("kind", KINDS)


# Autocast: torch lists both losses as float32 on the CPU; on CUDA it refuses the probability form


@both_kinds
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_autocast_on_the_cpu(kind, dtype, autocast):
    x, y = an_input(kind, 50, dtype=dtype).requires_grad_(), uniform(50, dtype=dtype)
    for reduction in ("none", "mean"):
        with torch.autocast("cpu", dtype=autocast):
            before = kernel.runs()
            loss = OURS[kind](x, y, reduction=reduction)
            assert kernel.runs() == before + 1
            assert loss.dtype == TORCHS[kind](x, y, reduction=reduction).dtype
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert gradient.dtype == dtype
        wide = x.detach().double().requires_grad_()
        exact = TORCHS[kind](wide, y.double(), reduction=reduction)
        torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)
        (slope,) = torch.autograd.grad(exact.sum(), wide)
        torch.testing.assert_close(gradient.double(), slope, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@both_kinds
def test_autocast_of_a_model(kind):
    linear = torch.nn.Linear(8, 3)
    criterion = OUR_MODULES[kind](pos_weight=torch.ones(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = linear(torch.randn(5, 8))
        out = out if kind == "logits" else torch.sigmoid(out)
        assert out.dtype == torch.bfloat16
        loss = criterion(out, torch.ones(5, 3))
    assert loss.dtype == torch.float32
    loss.backward()
    assert linear.weight.grad.dtype == torch.float32


@both_kinds
def test_integer_targets_under_autocast(kind):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = OURS[kind](an_input(kind, 5, dtype=torch.bfloat16), torch.ones(5, dtype=torch.int64))
    assert loss.dtype == torch.float32


@both_kinds
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_autocast_on_cuda_is_safe_for_both_losses(kind, dtype):
    """As far as fake tensors show it; torch's refuses the probability form there."""
    enabled = torch.is_autocast_enabled("cuda")
    with FakeTensorMode():
        x, y = (torch.empty(5, dtype=dtype, device="cuda") for _ in range(2))
        with torch.autocast("cpu", dtype=torch.bfloat16):  # another device's changes nothing here
            assert OURS[kind](x, y).dtype == dtype
        torch.set_autocast_enabled("cuda", True)
        try:
            loss = OURS[kind](x, y)
        finally:
            torch.set_autocast_enabled("cuda", enabled)
    assert loss.device.type == "cuda"
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_scaled_gradient_under_autocast():
    """GradScaler's own factor reaches the kernel before the one rounding."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    weight = torch.nn.Parameter(torch.full((1000,), 9.0))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = OURS["logits"](weight.half(), torch.ones(1000, dtype=torch.float16))
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    exact = -torch.sigmoid(torch.tensor(-9.0, dtype=torch.float64)) / 1000
    torch.testing.assert_close(weight.grad.double(), exact.expand(1000), rtol=1e-3, atol=0)
    assert abs(exact.half().double() / exact - 1) > 0.03  # what a rounding before the scale would have cost


# Other devices


@both_kinds
def test_meta_tensors(kind):
    operands = {name: o.to("meta").requires_grad_() for name, o in all_operands(kind).items()}
    before = kernel.runs()
    for reduction, shape in (("none", (4, 3)), ("mean", ()), ("sum", ())):
        loss = OURS[kind](**operands, reduction=reduction)
        assert (loss.shape, loss.dtype, loss.is_meta) == (shape, torch.float64, True)
        loss.sum().backward()
    assert all(o.grad.shape == o.shape for o in operands.values())
    assert kernel.runs() == before


@both_kinds
@pytest.mark.parametrize("target", [torch.int64, torch.bool, torch.bfloat16], ids=str)
def test_a_target_never_narrows_the_result_on_another_device(kind, target):
    x = torch.empty(4, device="meta")
    for reduction in ("none", "sum"):
        assert OURS[kind](x, torch.empty(4, device="meta", dtype=target), reduction=reduction).dtype == torch.float32


class Elsewhere(torch.Tensor):
    """Of another device, as far as our face can tell; what computes is the CPU, which raises where CUDA would abort."""

    is_cpu = False


def elsewhere(*tensors):
    return [t.as_subclass(Elsewhere) for t in tensors]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_on_an_accelerator_a_probability_out_of_range_is_nan_and_no_operation_sees_it(dtype):
    q, y = elsewhere(*(torch.tensor(t, dtype=dtype) for t in ([0.5, 1.5, -0.1, NAN, 0.5], [1.0, 1.0, 1.0, 1.0, 2.0])))
    q.requires_grad_()
    loss = OURS["probabilities"](q, y, reduction="none")
    assert loss.isnan().tolist() == [False, True, True, True, True]
    loss.sum().backward()
    assert q.grad.isnan().tolist() == [False, True, True, True, True]
    for name, operands in (("input", (q, y)), ("target", (q[:1], y[4:]))):
        with pytest.raises(RuntimeError, match=rf"all elements of {name} should be between 0 and 1, but {name}\["):
            OURS["probabilities"](*operands, check_range=True)
        with pytest.raises(RuntimeError, match=f"all elements of {name} should be between 0 and 1"):
            OUR_MODULES["probabilities"](check_range=True)(*operands)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@both_kinds
def test_on_an_accelerator_the_numbers_are_the_same(kind, reduction):
    operands = {name: o.requires_grad_() for name, o in all_operands(kind).items()}
    loss = OURS[kind](**operands, reduction=reduction)
    expected = torch.autograd.grad(loss.sum(), list(operands.values()))
    before = kernel.runs()
    ours = OURS[kind](**dict(zip(operands, elsewhere(*operands.values()), strict=True)), reduction=reduction)
    gradients = torch.autograd.grad(ours.sum(), list(operands.values()))
    assert kernel.runs() == before
    torch.testing.assert_close([t.as_subclass(torch.Tensor) for t in (ours, *gradients)], [loss, *expected])


def test_on_an_accelerator_the_gradient_of_float16_probabilities_saturates():
    q = torch.tensor([0.0, 0.0, 1.0, 1.0, 1e-7], dtype=torch.float16, requires_grad=True)
    y = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float16)
    OURS["probabilities"](*elsewhere(q, y), reduction="sum").backward()
    assert q.grad.tolist() == [0.0, -65504.0, 65504.0, 0.0, -65504.0]


def test_check_range_changes_nothing_on_the_cpu():
    q, y = an_input("probabilities", 5), uniform(5)
    assert torch.equal(OURS["probabilities"](q, y, check_range=True), OURS["probabilities"](q, y))
    with pytest.raises(RuntimeError, match=r"all elements of input should be between 0 and 1, but input\[0\]"):
        OURS["probabilities"](q + 1, y, check_range=True)


@both_kinds
def test_default_device_and_device_context(kind):
    x, y = an_input(kind, 5).requires_grad_(), uniform(5)
    expected = OURS[kind](x, y)
    try:
        torch.set_default_device("meta")
        before = kernel.runs()
        loss = OURS[kind](x, y)
        loss.backward()
        assert kernel.runs() > before
    finally:
        torch.set_default_device(None)
    assert torch.equal(loss, expected)
    with torch.device("meta"):
        assert torch.equal(OURS[kind](x, y), expected)


@both_kinds
def test_default_dtype(kind):
    x, y = an_input(kind, 5, dtype=torch.float32), uniform(5) > 0.5
    try:
        torch.set_default_dtype(torch.float64)
        assert OURS[kind](x, y).dtype == torch.float32
        assert torch.func.grad(OURS[kind])(x, y).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@both_kinds
def test_deterministic_algorithms(kind):
    x, y = an_input(kind, 300, 301, dtype=torch.float32).requires_grad_(), uniform(300, 301)
    expected = torch.autograd.grad(OURS[kind](x, y), x)[0]
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(3):
            assert torch.equal(torch.autograd.grad(OURS[kind](x, y), x)[0], expected)
    finally:
        torch.use_deterministic_algorithms(False)


# __torch_function__


class Plain(torch.Tensor):
    pass


@both_kinds
@pytest.mark.parametrize("which", ["input", "target", "weight", "pos_weight", "sample_weight"])
def test_a_subclass_is_kept_from_any_argument(kind, which):
    operands = all_operands(kind)
    expected = OURS[kind](**operands)
    operands[which] = operands[which].as_subclass(Plain)
    loss = OURS[kind](**operands)
    assert type(loss) is Plain
    torch.testing.assert_close(loss.as_subclass(torch.Tensor), expected)


@both_kinds
def test_a_handler_gets_what_torchs_gives(kind):
    seen = []

    class Handler(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append((func, types, args, kwargs))
            return "handled"

    x, y = an_input(kind, 3).as_subclass(Handler), uniform(3)
    assert has_torch_function((x,))
    for function in (OURS[kind], TORCHS[kind]):
        assert function(x, y, reduction="sum") == "handled"
    (ours, *rest), (torchs, *same) = seen
    assert (ours, torchs) == (OURS[kind], TORCHS[kind])
    assert rest[0] == same[0]
    assert rest[1][0] is x
    assert rest[1][1] is y
    assert rest[2] == same[2]
    each = uniform(3)
    OURS[kind](x, y, sample_weight=each)
    assert seen[-1][3]["sample_weight"] is each  # our own only where they are given


class Calls(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


@both_kinds
def test_a_function_mode_sees_one_call(kind):
    with Calls() as calls:
        OURS[kind](an_input(kind, 3), uniform(3))
    assert calls.seen.count(OURS[kind]) == 1


@both_kinds
def test_symbolic_tracing(kind):
    module = OUR_MODULES[kind](pos_weight=uniform(3), reduction="sum")
    traced = torch.fx.symbolic_trace(module)
    x, y = an_input(kind, 4, 3), uniform(4, 3)
    assert torch.equal(traced(x, y), module(x, y))
    assert OURS[kind] in [node.target for node in traced.graph.nodes]


# __torch_dispatch__


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


@both_kinds
def test_a_dispatch_mode_sees_torchs_operations(kind):
    x, y = an_input(kind, 3).requires_grad_(), uniform(3)
    before = kernel.runs()
    with Operations() as operations:
        loss = OURS[kind](x, y)
        loss.backward()
    assert kernel.runs() == before
    assert operations.seen
    assert {op.namespace for op in operations.seen} == {"aten"}
    torch.testing.assert_close(loss, OURS[kind](x, y))
    with FlopCounterMode(display=False):
        OURS[kind](x, y)


@both_kinds
def test_a_wrapper_subclass_computes_in_each_of_its_parts(kind):
    a, b = an_input(kind, 4, 3), an_input(kind, 4, 3, seed=5)
    x = TwoTensor(a.clone(), b.clone()).requires_grad_()
    y = uniform(4, 3)
    loss = OURS[kind](x, TwoTensor(y, y))
    torch.testing.assert_close(loss.a, OURS[kind](a, y))
    torch.testing.assert_close(loss.b, OURS[kind](b, y))
    loss.backward()
    for part, operand in ((x.grad.a, a), (x.grad.b, b)):
        leaf = operand.clone().requires_grad_()
        torch.testing.assert_close(part, torch.autograd.grad(OURS[kind](leaf, y), leaf)[0])


# DTensor

DISTRIBUTED = """
import sys
import torch, torch.distributed as dist
import binxent.torch as face
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)

for rows in (6, 5):  # even and uneven shards
    x, q, y, w = (torch.rand(rows, 3, dtype=torch.float64) for _ in range(4))
    p = torch.rand(3, dtype=torch.float64)
    for function, values in ((face.binary_cross_entropy_with_logits, 4 * x - 2), (face.binary_cross_entropy, q)):
        for placement in (Shard(0), Shard(1), Replicate()):
            for reduction in ("mean", "sum", "none"):
                for options in ({}, {"weight": w, "pos_weight": p}):
                    leaf = values.clone().requires_grad_()
                    loss = function(leaf, y, reduction=reduction, **options)
                    loss.sum().backward()
                    there = distribute_tensor(values, mesh, [placement]).requires_grad_()
                    spread = {
                        name: distribute_tensor(o, mesh, [placement if o.dim() == 2 else Replicate()])
                        for name, o in options.items()
                    }
                    ours = function(there, distribute_tensor(y, mesh, [placement]), reduction=reduction, **spread)
                    ours.sum().backward()
                    torch.testing.assert_close(ours.full_tensor(), loss)
                    torch.testing.assert_close(there.grad.full_tensor(), leaf.grad)
try:
    bad = distribute_tensor(q + 1, mesh, [Shard(0)])
    face.binary_cross_entropy(bad, distribute_tensor(y, mesh, [Shard(0)]))
except RuntimeError as problem:
    assert "all elements of input should be between 0 and 1" in str(problem)
else:
    raise AssertionError("not refused")
dist.barrier()  # or one rank closes the connection while the other one still reads its shard
dist.destroy_process_group()
print("done")
"""


def test_dtensor_on_two_processes(tmp_path):
    """Where torch's BCELoss has gradients twice too large, and both its losses are wrong for uneven shards."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DISTRIBUTED, str(rank), str(tmp_path / "rendezvous")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(OMP_NUM_THREADS="1"),
        )
        for rank in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out.strip()) == (0, "done"), err

"""Gradients on autograd's tape: to every operand, twice, for any incoming gradient, and with nothing kept too long."""

from __future__ import annotations

import copy
import functools
import pickle
import threading

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

from binxent import formula, kernel
from binxent.torch import cpu
from tests.faces.torch_samples import (
    FLOATING,
    KINDS,
    OURS,
    REDUCTIONS,
    TORCHS,
    all_operands,
    an_input,
    as_numpy,
    kernel_gradient,
    leaves,
    uniform,
)
from tests.reference import bits

both_kinds = pytest.mark.parametrize("kind", KINDS)
INF, NAN = float("inf"), float("nan")


def of_all(kind, reduction):
    names = ("input", "target", "weight", "pos_weight", "sample_weight")
    return lambda *operands: OURS[kind](**dict(zip(names, operands, strict=True)), reduction=reduction)


# First and second order


@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_gradcheck(kind, reduction):
    operands = tuple(leaves(all_operands(kind, 3, 2)).values())
    assert gradcheck(
        of_all(kind, reduction),
        operands,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        check_undefined_grad=True,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_gradgradcheck(kind, reduction):
    operands = tuple(leaves(all_operands(kind, 3, 2)).values())
    assert gradgradcheck(of_all(kind, reduction), operands, check_batched_grad=True, check_fwd_over_rev=True)


@both_kinds
@pytest.mark.parametrize("wanted", ["input", "target", "weight", "pos_weight", "sample_weight"])
def test_one_operand_alone(kind, wanted):
    operands = all_operands(kind)
    together = torch.autograd.grad(of_all(kind, "mean")(*(o := leaves(operands)).values()), list(o.values()))
    operands[wanted] = operands[wanted].clone().requires_grad_()
    loss = OURS[kind](**operands)
    assert loss.requires_grad
    (alone,) = torch.autograd.grad(loss, operands[wanted])
    torch.testing.assert_close(alone, together[list(o).index(wanted)], rtol=1e-15, atol=0)


def test_second_derivative_is_the_curvature():
    operands = all_operands("logits")
    del operands["sample_weight"]
    x = operands["input"].clone().requires_grad_()
    loss = OURS["logits"](**{**operands, "input": x}, reduction="sum")
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    names = ("input", "target", "weight", "pos_weight")
    torch.testing.assert_close(curvature, formula.logits_curvature(torch, *(operands[n] for n in names)))


@both_kinds
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_every_gradient_has_its_operands_dtype_and_shape(kind, dtype):
    operands = leaves(all_operands(kind, dtype=dtype))
    operands["weight"] = uniform(3, dtype=torch.float32).requires_grad_()  # broadcast, and of another type
    OURS[kind](**operands).backward()
    wide = leaves({name: operand.detach().double() for name, operand in operands.items()})
    OURS[kind](**wide).backward()
    for name, operand in operands.items():
        assert operand.grad.shape == operand.shape
        assert operand.grad.dtype == operand.dtype
        eps = torch.finfo(operand.dtype).eps
        torch.testing.assert_close(operand.grad.double(), wide[name].grad, rtol=4 * eps, atol=eps / 8)


@both_kinds
def test_create_graph_gives_the_gradient_of_the_kernel(kind):
    x, y = an_input(kind, 1000, dtype=torch.float32).requires_grad_(), uniform(1000, dtype=torch.float32)
    (by_kernel,) = torch.autograd.grad(OURS[kind](x, y), x)
    (by_formula,) = torch.autograd.grad(OURS[kind](x, y), x, create_graph=True)
    assert by_formula.requires_grad
    torch.testing.assert_close(by_formula, by_kernel, rtol=1e-6, atol=1e-9)


@both_kinds
def test_one_tensor_as_input_and_target(kind):
    x = an_input(kind, 5).abs().clamp(0.1, 0.9).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    OURS[kind](x, x).backward()
    TORCHS[kind](twin, twin).backward()
    torch.testing.assert_close(x.grad, twin.grad)


@both_kinds
def test_overlapping_elements(kind):
    base = an_input(kind, 6).requires_grad_()
    twin = base.detach().clone().requires_grad_()
    for leaf, function in ((base, OURS[kind]), (twin, TORCHS[kind])):
        function(leaf.as_strided((4, 3), (1, 1)), uniform(4, 3)).backward()
    torch.testing.assert_close(base.grad, twin.grad)


# The incoming gradient


@both_kinds
def test_a_second_backward_gives_the_same_bits(kind):
    x = an_input(kind, 50, dtype=torch.float32).requires_grad_()
    loss = OURS[kind](x, uniform(50))
    first, second, third = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(3))
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert first.data_ptr() != second.data_ptr()
    loss.backward(retain_graph=True)
    loss.backward()
    assert torch.equal(x.grad, first + first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@both_kinds
def test_different_incoming_gradients_one_after_the_other(kind):
    operands = all_operands(kind, 40, 30, torch.float16)
    x = operands["input"].requires_grad_()
    loss = OURS[kind](**operands)
    for incoming in (1.0, 3.0, 1.0, 1024.0, 1024.0, 0.25, -1.0, 0.0):
        (gradient,) = torch.autograd.grad(loss, x, torch.tensor(incoming).half(), retain_graph=True)
        expected = kernel_gradient(kind, operands, incoming / 1200)
        assert np.array_equal(bits(as_numpy(gradient)), bits(expected))


@pytest.mark.parametrize("guess", [1.0, 3.0, 0.7, 1024.0, 0.0, INF, NAN])
@both_kinds
def test_what_the_forward_expects_never_changes_a_result(kind, guess, monkeypatch):
    monkeypatch.setattr(cpu, "_expected_incoming", guess)
    operands = all_operands(kind, 40, 30, torch.bfloat16)
    x = operands["input"].requires_grad_()
    loss = OURS[kind](**operands, reduction="sum")
    for incoming in (1.0, 3.0):
        (gradient,) = torch.autograd.grad(loss, x, torch.tensor(incoming).bfloat16(), retain_graph=True)
        assert np.array_equal(bits(as_numpy(gradient)), bits(kernel_gradient(kind, operands, incoming)))


def test_another_thread_may_change_what_the_forward_expects_while_it_runs(monkeypatch):
    run = cpu._run

    def interrupted(*arguments):
        run(*arguments)
        cpu._expected_incoming = 5.0

    monkeypatch.setattr(cpu, "_expected_incoming", 1.0)
    monkeypatch.setattr(cpu, "_run", interrupted)
    x, y = an_input("logits", 50).requires_grad_(), uniform(50)
    (OURS["logits"](x, y, reduction="sum") * 5).backward()
    torch.testing.assert_close(x.grad, 5 * (torch.sigmoid(x.detach()) - y))


def test_a_loss_scaler_costs_one_run_of_the_kernel_a_step_once_it_is_known(monkeypatch):
    monkeypatch.setattr(cpu, "_expected_incoming", 1.0)
    x, y = an_input("logits", 50, dtype=torch.float16).requires_grad_(), uniform(50, dtype=torch.float16)
    runs = []
    for scale in (1024.0, 1024.0, 1024.0, 512.0, 512.0):
        before = kernel.runs()
        (OURS["logits"](x, y) * scale).backward()
        runs.append(kernel.runs() - before)
    assert runs == [2, 1, 1, 2, 1]


def negated(shape):
    return torch.complex(uniform(*shape), uniform(*shape, seed=5)).conj().imag


INCOMING = {
    "contiguous": lambda shape: uniform(*shape),
    "expanded": lambda shape: torch.tensor(0.7, dtype=torch.float64).expand(shape),
    "transposed": lambda shape: uniform(*shape[::-1]).t(),
    "negated": negated,
    "copied when written": lambda shape: torch._lazy_clone(uniform(*shape)),
    "parameter": lambda shape: torch.nn.Parameter(uniform(*shape)),
}


@pytest.mark.parametrize("name", INCOMING)
@both_kinds
def test_an_incoming_gradient_for_each_element(kind, name):
    incoming = INCOMING[name]((4, 3))
    gradients = []
    for function in (OURS[kind], TORCHS[kind]):
        x = an_input(kind, 4, 3).requires_grad_()
        gradients += torch.autograd.grad(function(x, uniform(4, 3), reduction="none"), x, incoming)
    torch.testing.assert_close(*gradients)


@both_kinds
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_an_incoming_gradient_of_a_wrapped_type(kind, reduction):
    x = an_input(kind, 4).requires_grad_()
    loss = OURS[kind](x, uniform(4), reduction=reduction)
    a, b = uniform(*loss.shape, seed=7), uniform(*loss.shape, seed=8)
    (both,) = torch.autograd.grad(loss, x, TwoTensor(a, b), retain_graph=True)
    for part, incoming in ((both.a, a), (both.b, b)):
        torch.testing.assert_close(part, torch.autograd.grad(loss, x, incoming, retain_graph=True)[0])


@both_kinds
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_a_batch_of_incoming_gradients(kind, reduction):
    operands = leaves(all_operands(kind))
    loss = OURS[kind](**operands, reduction=reduction)
    batch = uniform(5, *loss.shape, seed=6)
    together = torch.autograd.grad(loss, list(operands.values()), batch, retain_graph=True, is_grads_batched=True)
    one_by_one = [torch.autograd.grad(loss, list(operands.values()), b, retain_graph=True) for b in batch]
    for gradient, parts in zip(together, zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(gradient, torch.stack(parts))


def test_a_tangent_of_the_incoming_gradient_is_kept():
    x, y = an_input("logits", 4).requires_grad_(), uniform(4)
    loss = OURS["logits"](x, y, reduction="none")
    a, b = uniform(4, seed=7), uniform(4, seed=8)
    with forward_ad.dual_level():
        (gradient,) = torch.autograd.grad(loss, x, forward_ad.make_dual(a, b))
        primal, tangent = forward_ad.unpack_dual(gradient)
    slope = torch.sigmoid(x.detach()) - y
    torch.testing.assert_close(primal, a * slope)
    torch.testing.assert_close(tangent, b * slope)


# What is saved


@both_kinds
@pytest.mark.parametrize("name", ["input", "target", "weight", "pos_weight", "sample_weight"])
def test_a_change_before_the_backward_is_found(kind, name):
    operands = all_operands(kind)
    operands["input"].requires_grad_()
    if name == "input":
        operands["input"] = operands["input"] * 1
    loss = OURS[kind](**operands)
    with torch.no_grad():
        operands[name].mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def offloaded(function, *operands):
    with torch.autograd.graph.save_on_cpu():
        return function(*operands)


WRAPPERS = {
    "save_on_cpu": offloaded,
    "checkpoint": functools.partial(checkpoint, use_reentrant=False),
    "reentrant checkpoint": functools.partial(checkpoint, use_reentrant=True),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@both_kinds
def test_offloading_and_checkpoints_give_the_same_bits(kind, wrapper, reduction):
    operands = leaves(all_operands(kind, 20, 30, torch.float32))
    twins = leaves(operands)
    OURS[kind](**operands, reduction=reduction).sum().backward()
    WRAPPERS[wrapper](of_all(kind, reduction), *twins.values()).sum().backward()
    for name, operand in operands.items():
        assert torch.equal(twins[name].grad, operand.grad), name


@both_kinds
def test_saved_tensor_hooks_see_all_that_is_kept(kind):
    operands = all_operands(kind)
    x = operands["input"].requires_grad_()
    packed = []

    def pack(tensor):
        packed.append(tensor.untyped_storage()._cdata)
        return tensor.detach().clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = OURS[kind](**operands)
    assert sorted(packed) == sorted(operand.untyped_storage()._cdata for operand in operands.values())
    assert loss.grad_fn.made is None  # no gradient beside them
    (gradient,) = torch.autograd.grad(loss, x)
    (expected,) = torch.autograd.grad(OURS[kind](**operands), x)
    assert torch.equal(gradient, expected)


def test_the_gradient_is_handed_over_and_not_kept():
    x = an_input("logits", 50).requires_grad_()
    loss = OURS["logits"](x, uniform(50))
    made = loss.grad_fn.made[0].data_ptr()
    loss.backward(retain_graph=True)
    assert x.grad.data_ptr() == made  # autograd did not have to copy it
    assert loss.grad_fn.made is None


@both_kinds
def test_no_gradient_is_made_where_none_is_wanted(kind):
    x, y = an_input(kind, 50), uniform(50).requires_grad_()
    loss = OURS[kind](x, y)
    assert loss.grad_fn.made is None
    assert OURS[kind](x, y.detach()).grad_fn is None
    with torch.no_grad():
        assert not OURS[kind](x, y).requires_grad
    with torch.inference_mode():
        assert OURS[kind](x, y).is_inference()


@both_kinds
def test_inference_tensors(kind):
    with torch.inference_mode():
        x = an_input(kind, 5)
    torch.testing.assert_close(OURS[kind](x, uniform(5)), TORCHS[kind](x, uniform(5)))
    for function in (OURS[kind], TORCHS[kind]):
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            function(x, uniform(5).requires_grad_())


def test_anomaly_detection_names_this_loss():
    x = torch.tensor([1.0], requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):
        loss = OURS["logits"](x, torch.tensor([NAN]))
        with (
            pytest.warns(UserWarning, match="Error detected in KernelLoss"),
            pytest.raises(RuntimeError, match="returned nan values"),
        ):
            loss.backward()


@both_kinds
def test_backward_in_other_threads(kind):
    operands = all_operands(kind, 60, 80, torch.float32)
    expected = kernel_gradient(kind, operands, 1.0)
    results = {}

    def work(number):
        x = operands["input"].clone().requires_grad_()
        for scale in (1.0, float(number)):  # so that they disagree on what the forward expects
            loss = OURS[kind](**{**operands, "input": x}, reduction="sum")
            results[number, scale] = torch.autograd.grad(loss, x, torch.tensor(scale))[0]

    threads = [threading.Thread(target=work, args=(2 ** (i + 1),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 12
    for (_, scale), gradient in results.items():
        assert np.array_equal(as_numpy(gradient), expected * np.float32(scale))


# inplace_backward


def logits_in_place(shape=(20, 30), dtype=torch.float32):
    leaf = an_input("logits", *shape, dtype=dtype).requires_grad_()
    return leaf, leaf * 2


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_in_place_the_bits_are_the_same(reduction, dtype):
    leaf, x = logits_in_place(dtype=dtype)
    others = {name: operand.requires_grad_() for name, operand in all_operands("logits", 20, 30, dtype).items()}
    del others["input"]
    apart = [leaf, *others.values()]
    expected = torch.autograd.grad(OURS["logits"](leaf * 2, **others, reduction=reduction).sum(), apart)
    address, version = x.data_ptr(), x._version
    loss = OURS["logits"](x, **others, reduction=reduction, inplace_backward=True)
    (gradient,) = torch.autograd.grad(loss.sum(), x, retain_graph=True)
    assert gradient.data_ptr() == address
    assert x._version > version
    leaf, x = logits_in_place(dtype=dtype)
    apart[0] = leaf
    loss = OURS["logits"](x, **others, reduction=reduction, inplace_backward=True)
    for ours, theirs in zip(torch.autograd.grad(loss.sum(), apart), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_in_place_a_second_backward_says_so():
    _, x = logits_in_place()
    loss = OURS["logits"](x, uniform(20, 30), inplace_backward=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace_backward: a second backward"):
        loss.backward()


def test_in_place_another_use_of_the_logits_is_found():
    leaf = an_input("logits", 5).requires_grad_()
    x = leaf.exp()  # whose derivative needs its result
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        OURS["logits"](x, uniform(5), inplace_backward=True).backward()


REFUSED = {
    "a leaf": lambda leaf: leaf,
    "a view": lambda leaf: (leaf * 2)[:4],
}


@pytest.mark.parametrize("why", REFUSED)
def test_in_place_refuses(why):
    x = REFUSED[why](an_input("logits", 5, 5).requires_grad_())
    with pytest.raises(RuntimeError, match=f"inplace_backward: the logits are {why}"):
        OURS["logits"](x, torch.zeros(x.shape), inplace_backward=True)


def test_in_place_refuses_expanded_logits_that_are_no_view():
    class Expand(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.empty_strided((5,), (0,)).fill_(1)

        @staticmethod
        def backward(ctx, g):
            return g.sum().reshape(1)

    x = Expand.apply(torch.ones(1, requires_grad=True))
    with pytest.raises(RuntimeError, match="inplace_backward: the logits are expanded"):
        OURS["logits"](x, torch.zeros(5), inplace_backward=True)


def test_in_place_refuses_logits_that_share_memory():
    x = an_input("logits", 5, 5).requires_grad_() * 2
    with pytest.raises(RuntimeError, match="inplace_backward: the logits share memory with another operand"):
        OURS["logits"](x, x.detach().t(), inplace_backward=True)


def test_in_place_refuses_a_gradient_of_a_gradient():
    leaf, x = logits_in_place()
    loss = OURS["logits"](x, uniform(20, 30), inplace_backward=True)
    with pytest.raises(RuntimeError, match="inplace_backward: no gradient of a gradient"):
        torch.autograd.grad(loss, leaf, create_graph=True)


def test_in_place_logits_that_are_copied_when_written_leave_the_original():
    original = an_input("logits", 50).requires_grad_() * 1
    before = original.detach().clone()
    x = torch._lazy_clone(original)
    OURS["logits"](x, uniform(50), inplace_backward=True).backward()
    assert torch.equal(original.detach(), before)


def test_in_place_without_grad_changes_nothing():
    x = an_input("logits", 5)
    before = x.clone()
    with torch.no_grad():
        OURS["logits"](x, uniform(5), inplace_backward=True)
    y = uniform(5).requires_grad_()
    OURS["logits"](x, y, inplace_backward=True).backward()  # only the target is wanted
    assert torch.equal(x, before)
    torch.testing.assert_close(y.grad, -x / 5)


@both_kinds
def test_a_large_gradient_is_a_tensor_like_others(kind):
    """It lies in memory that is used again when it is freed, and not before."""
    shape = (1024, kernel.LARGE_MEMORY // 4096)
    x, y = torch.rand(shape, requires_grad=True), torch.rand(shape)

    def gradient():
        return torch.autograd.grad(OURS[kind](x, y), x)[0]

    parts = zip(x.chunk(4), y.chunk(4), strict=True)
    wanted = torch.cat([torch.autograd.grad(OURS[kind](a, b) / 4, a)[0] for a, b in parts])
    first, place = gradient(), gradient().data_ptr()
    assert first.data_ptr() != place
    assert gradient().data_ptr() == place
    assert not first._is_view()
    for _ in range(2):
        OURS[kind](x, y).backward()
        x.grad.mul_(3)
    torch.testing.assert_close(first, wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(x.grad, 12 * first)
    for copied in (copy.deepcopy(first), pickle.loads(pickle.dumps(first)), torch.from_numpy(first.numpy())):
        assert torch.equal(copied, first)
    assert torch.equal(first.clone().share_memory_(), first)


@pytest.mark.parametrize(
    "incoming", [torch.tensor([0.0, 1.0, 2.0]).to_sparse(), torch._efficientzerotensor(3)], ids=str
)
@both_kinds
def test_an_incoming_gradient_that_is_no_memory(kind, incoming):
    x = an_input(kind, 3, dtype=torch.float32).requires_grad_()
    (gradient,) = torch.autograd.grad(OURS[kind](x, torch.ones(3), reduction="none"), x, incoming)
    (ones,) = torch.autograd.grad(OURS[kind](x, torch.ones(3), reduction="none"), x, torch.ones(3))
    torch.testing.assert_close(gradient.to_dense() + 0, ones * (incoming.to_dense() + 0))


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_memory_any_more_is_refused(kind):
    freed = an_input(kind, 3)
    freed.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="no memory"):
        OURS[kind](freed, torch.ones(3))


def test_the_transform_by_the_target_is_minus_the_logit():
    """Near 0 too, where a difference of two softplus would lose it."""
    x, y = torch.tensor([1e-8, -1e-6, 1e-4]), torch.tensor([0.0, 1.0, 0.5])
    found = torch.func.grad(lambda target: OURS["logits"](x, target, reduction="sum"))(y)
    torch.testing.assert_close(found, -x, rtol=1e-6, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 2])
@pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
def test_derivatives_of_the_focal_loss_at_infinite_logits(gamma, target):
    def loss(x):
        return OURS["logits"](x, torch.full((2,), target), reduction="sum", gamma=gamma)

    x = torch.tensor([INF, -INF])
    wanted = torch.tensor([1 - target, -target])
    torch.testing.assert_close(torch.func.grad(loss)(x), wanted)
    torch.testing.assert_close(torch.func.hessian(loss)(x), torch.zeros(2, 2))
    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    torch.testing.assert_close(leaf.grad, wanted)

"""What torch publishes to test its own losses with: OpInfo, ModuleInfo and the criterion tests, run on ours.

The samples and most of the checks are torch's; the reference is torch's own loss in float64.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.testing._internal import common_nn, composite_compliance
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from binxent import kernel
from tests.faces.torch_samples import KINDS, OUR_MODULES, OURS, TORCHS, TORCHS_MODULES, an_input, uniform

both_kinds = pytest.mark.parametrize("kind", KINDS)
OPS = {
    kind: next(op for op in op_db if op.name == f"nn.functional.{function.__name__}")
    for kind, function in TORCHS.items()
}
MODULES = {
    kind: next(info for info in module_db if info.module_cls is module) for kind, module in TORCHS_MODULES.items()
}
DTYPES = sorted(OPS["logits"].dtypes, key=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def samples(kind, dtype=torch.float64, requires_grad=False):
    """(arguments, keywords) of every sample input."""
    torch.manual_seed(0)
    for sample in OPS[kind].sample_inputs("cpu", dtype, requires_grad=requires_grad):
        yield (sample.input, *sample.args), sample.kwargs


def doubled(tree):
    return tree_map_only(torch.Tensor, lambda t: t.detach().double().requires_grad_(t.requires_grad), tree)


def visible(tensor):
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.requires_grad


def assert_rounded(actual, exact, *, ulps=4.0):
    torch.testing.assert_close(
        actual.double(), exact, rtol=ulps * torch.finfo(actual.dtype).eps, atol=torch.finfo(actual.dtype).tiny
    )


def test_there_are_samples_of_every_kind():
    assert set(OPS) == set(KINDS)
    assert len(list(samples("logits"))) >= 20
    assert any("pos_weight" in keywords for _, keywords in samples("logits"))
    assert {str(d) for d in DTYPES} == {"torch.bfloat16", "torch.float16", "torch.float32", "torch.float64"}
    assert OPS["probabilities"].dtypes == OPS["logits"].dtypes


# OpInfo


@every_dtype
@both_kinds
def test_sample_inputs(kind, dtype):
    for arguments, keywords in samples(kind, dtype):
        before = kernel.runs()
        ours = OURS[kind](*arguments, **keywords)
        assert kernel.runs() == before + 1
        assert visible(ours) == visible(TORCHS[kind](*arguments, **keywords))
        assert_rounded(ours, TORCHS[kind](*doubled(arguments), **doubled(keywords)), ulps=16)


@every_dtype
@both_kinds
def test_gradients_of_sample_inputs(kind, dtype):
    for arguments, keywords in samples(kind, dtype, requires_grad=True):
        wide = doubled(arguments)
        expected = torch.autograd.grad(TORCHS[kind](*wide, **doubled(keywords)).sum(), wide)
        for ours, exact in zip(
            torch.autograd.grad(OURS[kind](*arguments, **keywords).sum(), arguments), expected, strict=True
        ):
            assert ours.dtype == dtype
            # Near a zero of the gradient there is no relative accuracy to ask for.
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(ours.double(), exact, rtol=8 * eps, atol=8 * eps)


@both_kinds
def test_noncontiguous_sample_inputs(kind):
    for sample in OPS[kind].sample_inputs("cpu", torch.float64, requires_grad=True):
        spread = sample.noncontiguous()
        arguments, others = (sample.input, *sample.args), (spread.input, *spread.args)
        assert not others[0].is_contiguous() or others[0].numel() < 2
        packed, ours = OURS[kind](*arguments, **sample.kwargs), OURS[kind](*others, **spread.kwargs)
        assert torch.equal(packed, ours)
        gradients = [torch.autograd.grad(loss.sum(), a) for loss, a in ((packed, arguments), (ours, others))]
        for a, b in zip(*gradients, strict=True):
            assert torch.equal(a, b)


def checks(op, x):
    return {
        "check_batched_grad": op.check_batched_grad,
        "fast_mode": op.gradcheck_fast_mode or x.numel() > 25,
        "nondet_tol": op.gradcheck_nondet_tol,
        "check_undefined_grad": True,
    }


@both_kinds
def test_gradcheck_of_sample_inputs(kind):
    op = OPS[kind]
    for arguments, keywords in samples(kind, requires_grad=True):
        assert gradcheck(
            lambda *a: OURS[kind](*a, **keywords),
            arguments,
            **checks(op, arguments[0]),
            check_forward_ad=op.supports_forward_ad,
            check_batched_forward_grad=op.check_batched_forward_grad,
        )


@both_kinds
def test_gradgradcheck_of_sample_inputs(kind):
    op = OPS[kind]
    for arguments, keywords in samples(kind, requires_grad=True):
        assert gradgradcheck(
            lambda *a: OURS[kind](*a, **keywords),
            arguments,
            **{**checks(op, arguments[0]), "fast_mode": True},
            gen_non_contig_grad_outputs=True,
            check_fwd_over_rev=op.supports_fwgrad_bwgrad,
        )


def batched_choices(arguments):
    """Each tensor alone, and all together, along the first and the last dimension."""
    flat, spec = tree_flatten(arguments)
    at = [i for i, leaf in enumerate(flat) if isinstance(leaf, torch.Tensor)]
    for chosen in [*([i] for i in at), at]:
        for first in (True, False):
            dims = [(0 if first else -1) if i in chosen else None for i in range(len(flat))]
            leaves = [
                leaf if dim is None else torch.stack([leaf, leaf * 0.5], dim)
                for leaf, dim in zip(flat, dims, strict=True)
            ]
            yield tree_unflatten(leaves, spec), dims, flat, spec


@both_kinds
def test_vmap_of_sample_inputs(kind):
    for arguments, keywords in samples(kind):
        for (given, named), dims, flat, spec in batched_choices((arguments, keywords)):
            structure = tree_unflatten(dims, spec)
            together = torch.vmap(lambda a, k: OURS[kind](*a, **k), in_dims=structure)(given, named)
            for i, scale in enumerate((1, 0.5)):
                leaves = [leaf if d is None else leaf * scale for leaf, d in zip(flat, dims, strict=True)]
                one, others = tree_unflatten(leaves, spec)
                torch.testing.assert_close(together[i], OURS[kind](*one, **others))


@both_kinds
def test_negated_views_of_sample_inputs(kind):
    for arguments, keywords in samples(kind):
        views = [torch._neg_view(-a).requires_grad_() for a in arguments]
        assert all(view.is_neg() for view in views)
        plain = [a.clone().requires_grad_() for a in arguments]
        losses = [OURS[kind](*a, **keywords) for a in (views, plain)]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(
            torch.autograd.grad(losses[0].sum(), views), torch.autograd.grad(losses[1].sum(), plain)
        )


@both_kinds
def test_sample_inputs_that_are_copied_when_written(kind):
    """Reading them must not copy them, forward or backward."""
    for arguments, keywords in samples(kind):
        clones = tree_map_only(torch.Tensor, torch._lazy_clone, (arguments, keywords))
        flat = [leaf for leaf in tree_flatten(clones)[0] if isinstance(leaf, torch.Tensor)]
        values = [leaf.clone() for leaf in flat]
        for argument in clones[0]:
            argument.requires_grad_()
        loss = OURS[kind](*clones[0], **clones[1])
        incoming = torch._lazy_clone(torch.ones_like(loss))
        torch.autograd.grad(loss, clones[0], incoming)
        for tensor, value in zip([*flat, incoming], [*values, torch.ones_like(loss)], strict=True):
            assert torch._C._is_cow_tensor(tensor)
            assert torch.equal(tensor, value)


def moved(tree, where):
    if where == "meta":
        return tree_map_only(torch.Tensor, lambda t: t.to("meta").detach().requires_grad_(t.requires_grad), tree)
    return tree_map_only(torch.Tensor, where.from_tensor, tree)


@pytest.mark.parametrize("fake", [False, True], ids=["meta", "fake"])
@every_dtype
@both_kinds
def test_fake_and_meta_sample_inputs(kind, dtype, fake):
    """The same dtype, shape and strides without the values."""
    for arguments, keywords in samples(kind, dtype, requires_grad=True):
        real = OURS[kind](*arguments, **keywords)
        with FakeTensorMode() if fake else contextlib.nullcontext("meta") as where:
            without, named = moved(arguments, where), moved(keywords, where)
            loss = OURS[kind](*without, **named)
            gradients = torch.autograd.grad(loss.sum(), without)
        assert loss.device.type == ("cpu" if fake else "meta")
        if fake:  # a fake tensor brings its mode with it
            assert visible(OURS[kind](*without, **named)) == visible(loss)
        for theirs, ours in zip((real, *torch.autograd.grad(real.sum(), arguments)), (loss, *gradients), strict=True):
            assert visible(ours) == visible(theirs)


def assert_equal(actual, expected, **_):
    torch.testing.assert_close(actual, expected, equal_nan=True)


COMPLIANCE = {
    "forward": lambda op, a, k: composite_compliance.check_all_permutations(op, a, k, assert_equal),
    "mode": lambda op, a, k: composite_compliance.check_with_mode(op, a, k, assert_equal),
    "backward": lambda op, a, k: composite_compliance.check_backward_formula(op, a, k, assert_equal_fn=assert_equal),
    "forward AD": lambda op, a, k: composite_compliance.check_forward_ad_formula(
        op, a, k, assert_equal_fn=assert_equal
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", COMPLIANCE)
@both_kinds
def test_composite_compliance(kind, check):
    for arguments, keywords in itertools.islice(
        samples(kind, requires_grad=check not in ("forward", "mode")), 0, None, 3
    ):
        COMPLIANCE[check](OURS[kind], arguments, keywords)


# ModuleInfo


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("training", [True, False])
@both_kinds
def test_module_inputs(kind, dtype, training):
    inputs = MODULES[kind].module_inputs_func(MODULES[kind], "cpu", torch.float64, True, training)
    assert len(inputs) >= 6
    for each in inputs:
        given = each.constructor_input
        wide = OUR_MODULES[kind](*given.args, **given.kwargs).train(training)
        forward = each.forward_input.args
        reference = each.reference_fn(wide, *forward)
        torch.testing.assert_close(wide(*forward), reference)
        module = copy.deepcopy(wide).to(dtype)
        narrow = [t.detach().to(dtype).requires_grad_(t.requires_grad) for t in forward]
        loss = module(*narrow)
        assert loss.dtype == dtype
        assert str(module) == repr(module)
        back = pickle.loads(pickle.dumps(module))
        assert torch.equal(back(*narrow), loss)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(loss.double(), reference, rtol=32 * eps, atol=32 * eps)
        spread = [torch.stack([t, t], -1)[..., 0] for t in narrow]
        assert torch.equal(module(*spread), loss)
        if dtype == torch.float64:
            assert gradcheck(module, narrow, fast_mode=True)
            assert gradgradcheck(module, narrow, fast_mode=True)


# The criterion tests, and the functional ones beside them


class Runner(common_nn.NNTestCase):
    """What these tests want of a test case."""

    def runTest(self):  # noqa: N802
        pass

    def _forward(self, module, input):
        return module(*input) if isinstance(input, tuple) else module(input)

    def _backward(self, module, input, output, grad_output, create_graph=False):
        output.backward(grad_output, retain_graph=True, create_graph=create_graph)
        return tuple(i.grad for i in input) if isinstance(input, tuple) else input.grad

    def _forward_criterion(self, criterion, input, target, extra_args=None):
        return criterion(input, target, *(extra_args or ()))

    def _zero_grad_parameters(self, module):
        module.zero_grad()

    def _get_parameters(self, module):
        parameters = list(module.parameters())
        return parameters, [p.grad for p in parameters]


@pytest.fixture
def in_torchs_place(monkeypatch):
    """Our functions and modules where torch's tests look for torch's."""
    for kind in KINDS:
        monkeypatch.setattr(F, TORCHS[kind].__name__, OURS[kind])
        monkeypatch.setattr(torch.nn, TORCHS_MODULES[kind].__name__, OUR_MODULES[kind])
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


CRITERIA = [test for test in common_nn.criterion_tests if test.get("fullname", "").startswith("BCE")]
FUNCTIONAL = [
    common_nn.bceloss_no_reduce_test,
    common_nn.bceloss_no_reduce_scalar_test,
    common_nn.bceloss_weights_no_reduce_test,
    common_nn.bceloss_weights_no_reduce_scalar_test,
    common_nn.bce_with_logistic_legacy_enum_test,
    common_nn.bce_with_logistic_no_reduce_test,
    common_nn.bce_with_logistic_no_reduce_scalar_test,
]


def test_all_criterion_tests_are_here():
    assert len(CRITERIA) == 6


@pytest.mark.usefixtures("in_torchs_place")
@pytest.mark.parametrize("test", CRITERIA, ids=lambda test: test["fullname"])
def test_criterion(test):
    before = kernel.runs()
    common_nn.CriterionTest(**{**test, "default_dtype": torch.double})(Runner())
    assert kernel.runs() > before


@pytest.mark.usefixtures("in_torchs_place")
@pytest.mark.filterwarnings("ignore:size_average and reduce args")
@pytest.mark.parametrize("make", FUNCTIONAL, ids=lambda make: make.__name__)
def test_functional(make):
    before = kernel.runs()
    common_nn.NewModuleTest(**make())(Runner())
    assert kernel.runs() > before


# What test_nn.py holds these losses to


def test_logits_give_what_sigmoid_and_probabilities_give():
    x, y, w = an_input("logits", 64, 4), uniform(64, 4), uniform(4, seed=2)
    for options in ({}, {"reduction": "none"}, {"weight": w}):
        torch.testing.assert_close(
            OURS["logits"](x, y, **options), OURS["probabilities"](torch.sigmoid(x), y, **options), rtol=1e-10, atol=0
        )


def test_large_tensors_with_gradient():
    x = torch.rand(1024, 64).requires_grad_()
    loss = OURS["logits"](x, torch.zeros_like(x), reduction="none")
    loss.sum().backward()
    assert torch.all(x.grad > 0)
    torch.testing.assert_close(loss, OURS["probabilities"](torch.sigmoid(x), torch.zeros_like(x), reduction="none"))


@pytest.mark.parametrize("pos_weight", [None, 1.0])
def test_gradient_at_zero(pos_weight):
    x = torch.zeros(3, 1, requires_grad=True)
    p = None if pos_weight is None else torch.ones(3, 1)
    OURS["logits"](x, torch.zeros(3, 1), pos_weight=p, reduction="sum").backward()
    assert torch.equal(x.grad, torch.full((3, 1), 0.5))


@both_kinds
@pytest.mark.parametrize("name", ["weight", "pos_weight"])
@pytest.mark.parametrize("shape", [(4,), (16, 1)], ids=str)
def test_weights_broadcast(kind, name, shape):
    x, y, w = an_input(kind, 16, 4), uniform(16, 4), uniform(*shape)
    assert torch.equal(OURS[kind](x, y, **{name: w}), OURS[kind](x, y, **{name: w.expand(16, 4).clone()}))


@both_kinds
def test_pos_weights_of_one_are_as_none(kind):
    x, y = an_input(kind, 64, 4), uniform(64, 4)
    assert torch.equal(OURS[kind](x, y, pos_weight=torch.ones(64, 4)), OURS[kind](x, y))


def test_stability_and_sign():
    loss = OURS["logits"](torch.tensor([0.0, -120.0]), torch.tensor([0.0, 1.0]), pos_weight=torch.tensor([1.0, 1.0]))
    assert torch.isfinite(loss)
    assert OURS["probabilities"](torch.ones(10, 3), torch.ones(10, 3)) >= 0
    assert torch.all(OURS["probabilities"](torch.zeros(5), torch.ones(5), reduction="none") == 100)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_logits_as_their_own_target(reduction):
    """As test_invalid_reduction_strings calls it."""
    x = torch.randn(3, 5, requires_grad=True)
    for function in (OURS["logits"], TORCHS["logits"]):
        assert function(x, x, reduction=reduction).requires_grad
    with pytest.raises(ValueError, match="bad"):
        OURS["logits"](x, x, reduction="bad")


def test_forward_gradient_with_a_target_from_outside():
    target = torch.randn(3, 5, dtype=torch.double)
    for reduction in ("sum", "mean", "none"):
        assert gradcheck(
            lambda x: OUR_MODULES["logits"](reduction=reduction)(x, target),
            (torch.randn(3, 5, dtype=torch.double, requires_grad=True),),
            check_forward_ad=True,
        )

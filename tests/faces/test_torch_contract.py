"""A drop-in: torch's signatures, modules, documented examples, defaults and refusals."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from binxent import torch as face
from tests.faces.torch_samples import (
    FLOATING,
    KINDS,
    OUR_MODULES,
    OURS,
    REDUCTIONS,
    TORCHS,
    TORCHS_MODULES,
    an_input,
    uniform,
)

both_kinds = pytest.mark.parametrize("kind", KINDS)
CALLABLES = {
    "binary_cross_entropy": (face.binary_cross_entropy, F.binary_cross_entropy),
    "binary_cross_entropy_with_logits": (face.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits),
    "BCELoss": (face.BCELoss.__init__, torch.nn.BCELoss.__init__),
    "BCEWithLogitsLoss": (face.BCEWithLogitsLoss.__init__, torch.nn.BCEWithLogitsLoss.__init__),
    "BCELoss.forward": (face.BCELoss.forward, torch.nn.BCELoss.forward),
    "BCEWithLogitsLoss.forward": (face.BCEWithLogitsLoss.forward, torch.nn.BCEWithLogitsLoss.forward),
}


# Signatures


@pytest.mark.parametrize("name", CALLABLES)
def test_signature_is_torchs_and_then_keywords_that_are_off(name):
    ours, torchs = (list(inspect.signature(c).parameters.values()) for c in CALLABLES[name])
    assert [(p.name, p.kind, p.default) for p in ours[: len(torchs)]] == [(p.name, p.kind, p.default) for p in torchs]
    for extra in ours[len(torchs) :]:
        assert extra.kind is inspect.Parameter.KEYWORD_ONLY
        assert extra.default in (None, False, "branch")


def test_public_names():
    assert set(face.__all__) == {
        "BCELoss",
        "BCEWithLogitsLoss",
        "LinearBCEOptions",
        "LinearBCEWithLogitsLoss",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "count",
        "linear_binary_cross_entropy_with_logits",
    }


# What the pages of torch document


def test_example_of_bceloss():
    m = torch.nn.Sigmoid()
    loss = face.BCELoss()
    input = torch.randn(3, 2, requires_grad=True)
    target = torch.rand(3, 2, requires_grad=False)
    output = loss(m(input), target)
    output.backward()
    twin = input.detach().clone().requires_grad_()
    torch.nn.BCELoss()(m(twin), target).backward()
    torch.testing.assert_close(input.grad, twin.grad)


def test_example_of_bcewithlogitsloss():
    target = torch.ones([10, 64], dtype=torch.float32)
    output = torch.full([10, 64], 1.5)
    criterion = face.BCEWithLogitsLoss(pos_weight=torch.ones([64]))
    assert round(criterion(output, target).item(), 4) == 0.2014

    loss = face.BCEWithLogitsLoss()
    input = torch.randn(3, requires_grad=True)
    target = torch.empty(3).random_(2)
    loss(input, target).backward()
    torch.testing.assert_close(input.grad, (torch.sigmoid(input) - target) / 3)


@both_kinds
def test_examples_of_the_functions(kind):
    if kind == "probabilities":
        input = torch.randn(3, 2, requires_grad=True)
        loss = face.binary_cross_entropy(torch.sigmoid(input), torch.rand(3, 2))
    else:
        input = torch.randn(3, requires_grad=True)
        loss = face.binary_cross_entropy_with_logits(input, torch.empty(3).random_(2))
    loss.backward()
    assert torch.isfinite(input.grad).all()


def test_pos_weight_acts_as_if_there_were_more_positives():
    logits = torch.randn(400, dtype=torch.float64)
    target = torch.cat([torch.ones(100), torch.zeros(300)]).double()
    weighted = face.binary_cross_entropy_with_logits(
        logits, target, reduction="sum", pos_weight=torch.tensor(3.0, dtype=torch.float64)
    )
    repeated = torch.cat([logits[:100].repeat(3), logits[100:]])
    plain = face.binary_cross_entropy_with_logits(
        repeated, torch.cat([torch.ones(300), torch.zeros(300)]).double(), reduction="sum"
    )
    torch.testing.assert_close(weighted, plain)


# Modules


@both_kinds
def test_a_module_is_torchs(kind):
    module = OUR_MODULES[kind]()
    assert isinstance(module, TORCHS_MODULES[kind])
    assert type(module).__name__ == TORCHS_MODULES[kind].__name__
    assert list(module.parameters()) == []
    assert module.reduction == "mean"


def constructed(kind, **weights):
    return OUR_MODULES[kind](**weights), TORCHS_MODULES[kind](**weights)


WEIGHTS = [(), ("weight",), ("pos_weight",), ("weight", "pos_weight")]


@pytest.mark.parametrize(
    ("kind", "names"), [(k, n) for k in KINDS for n in WEIGHTS if k == "logits" or "pos_weight" not in n]
)
def test_state_dict(kind, names):
    weights = {name: uniform(3, seed=i) for i, name in enumerate(names)}
    ours, torchs = constructed(kind, **weights)
    assert list(ours.state_dict()) == list(torchs.state_dict()) == list(names)
    other = {name: uniform(3, seed=9) for name in names}
    fresh_ours, fresh_torchs = constructed(kind, **other)
    fresh_ours.load_state_dict(torchs.state_dict())
    fresh_torchs.load_state_dict(ours.state_dict())
    for name in names:
        assert torch.equal(getattr(fresh_ours, name), weights[name])
        assert torch.equal(getattr(fresh_torchs, name), weights[name])


def test_state_dict_of_bceloss_with_pos_weight():
    module = face.BCELoss(pos_weight=uniform(3))
    assert list(module.state_dict()) == ["pos_weight"]
    other = face.BCELoss(pos_weight=torch.zeros(3, dtype=torch.float64))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.pos_weight, uniform(3))


def test_state_dict_with_wrong_keys():
    for module in (face.BCEWithLogitsLoss(), torch.nn.BCEWithLogitsLoss()):
        with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "pos_weight"'):
            module.load_state_dict({"pos_weight": torch.ones(3)})
    for cls in (face.BCEWithLogitsLoss, torch.nn.BCEWithLogitsLoss):
        with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "pos_weight"'):
            cls(pos_weight=torch.ones(3)).load_state_dict({})


@both_kinds
def test_repr_is_torchs_unless_something_is_not_the_default(kind):
    ours, torchs = constructed(kind, weight=uniform(3))
    assert repr(ours) == repr(torchs)
    assert repr(OUR_MODULES[kind]()) == repr(TORCHS_MODULES[kind]())
    assert repr(OUR_MODULES[kind](reduction="sum")) == f"{type(ours).__name__}(reduction='sum')"


def test_repr_shows_our_options():
    assert repr(face.BCEWithLogitsLoss(inplace_backward=True)) == "BCEWithLogitsLoss(inplace_backward=True)"
    assert repr(face.BCELoss(check_range=True)) == "BCELoss(check_range=True)"


def saved(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {"pickle": lambda m: pickle.loads(pickle.dumps(m)), "deepcopy": copy.deepcopy, "torch.save": saved}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@both_kinds
def test_copies_of_a_module(kind, make):
    module = OUR_MODULES[kind](weight=uniform(3), reduction="sum", pos_weight=uniform(3, seed=2))
    other = make(module)
    assert type(other) is type(module)
    assert repr(other) == repr(module)
    x, y = an_input(kind, 2, 3), uniform(2, 3)
    assert torch.equal(other(x, y), module(x, y))


@both_kinds
def test_to_moves_the_buffers(kind):
    module = OUR_MODULES[kind](weight=torch.tensor([1, 2, 3]), pos_weight=uniform(3))
    assert module.to(torch.float16).pos_weight.dtype == torch.float16
    assert module.weight.dtype == torch.int64
    assert module.to("meta").pos_weight.is_meta
    assert module.to_empty(device="cpu").weight.device.type == "cpu"
    with torch.device("meta"):
        assert OUR_MODULES[kind](weight=torch.ones(3)).weight.is_meta


@both_kinds
def test_a_parameter_as_weight_becomes_a_buffer_and_has_a_gradient(kind):
    weight = torch.nn.Parameter(uniform(3))
    module = OUR_MODULES[kind](weight=weight)
    assert list(module.named_parameters()) == []
    assert list(module.state_dict()) == ["weight"]
    x, y = an_input(kind, 2, 3), uniform(2, 3)
    module(x, y).backward()  # torch: "not differentiable with respect to argument 'weight'"
    torch.testing.assert_close(weight.grad, TORCHS[kind](x, y, reduction="none").sum(0) / 6)
    with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'weight'"):
        TORCHS_MODULES[kind](weight=weight)(x, y)


@both_kinds
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_module_computes_the_function(kind, reduction):
    x, y, weight, each = an_input(kind, 4, 3), uniform(4, 3), uniform(3, seed=2), uniform(4, seed=3)
    module = OUR_MODULES[kind](weight, reduction=reduction, pos_weight=weight + 1)
    torch.testing.assert_close(
        module(x, y, sample_weight=each),
        OURS[kind](x, y, weight, reduction=reduction, pos_weight=weight + 1, sample_weight=each),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
def test_a_module_refuses_a_weight_that_is_no_tensor(name):
    for cls in (face.BCEWithLogitsLoss, torch.nn.BCEWithLogitsLoss):
        with pytest.raises(TypeError, match=f"cannot assign 'float' object to buffer '{name}'"):
            cls(**{name: 0.5})


# Reductions


@both_kinds
@pytest.mark.parametrize("reduction", ["bogus", None, 1, "Mean", "MEAN", ""])
def test_an_unknown_reduction_is_refused_by_the_call(kind, reduction):
    x, y = an_input(kind, 3), uniform(3)
    module = OUR_MODULES[kind](reduction=reduction)
    for call in (module, lambda x, y: OURS[kind](x, y, reduction=reduction), TORCHS_MODULES[kind](reduction=reduction)):
        with pytest.raises(ValueError, match=f"'?{reduction}'? is not a valid value for reduction"):
            call(x, y)


@both_kinds
def test_elementwise_mean(kind):
    x, y = an_input(kind, 3), uniform(3)
    for function in (OURS[kind], TORCHS[kind]):
        with pytest.warns(UserWarning, match="reduction='elementwise_mean' is deprecated. Please use reduction='mean'"):
            assert function(x, y, reduction="elementwise_mean").shape == ()


@both_kinds
@pytest.mark.parametrize("reduce", [None, True, False])
@pytest.mark.parametrize("size_average", [None, True, False])
def test_legacy_arguments(kind, size_average, reduce):
    x, y = an_input(kind, 3), uniform(3)
    results, messages = [], []
    for function, module in ((OURS[kind], OUR_MODULES[kind]), (TORCHS[kind], TORCHS_MODULES[kind])):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append(function(x, y, None, size_average, reduce, "none"))
            results.append(module(None, size_average, reduce, "none")(x, y))
        messages.append([(w.category, str(w.message)) for w in caught])
    assert messages[0] == messages[1]
    assert len(messages[0]) == (0 if size_average is None and reduce is None else 2)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


# Case by case beside torch: the same result but for its values, or the same refusal


def outcome(function, input, target, **others):
    """The type of the exception, or all that a program can see of a result but its values."""
    input = input.clone().requires_grad_() if input.is_floating_point() else input
    try:
        loss = function(input, target, **others)
    except Exception as problem:
        return problem
    (gradient,) = torch.autograd.grad(loss.sum().real, input)
    return [(t.dtype, t.shape, t.stride(), t.device) for t in (loss, gradient)] + [loss.requires_grad]


def assert_same(ours, torchs):
    if isinstance(torchs, Exception):
        assert isinstance(ours, type(torchs)), f"{ours!r}\nfor {torchs!r}"
    else:
        assert ours == torchs


SHAPES = [(), (1,), (3,), (2, 3), (0,), (2, 0, 3), (2, 1, 3), (2, 3, 4, 5)]


@both_kinds
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(kind, reduction, shape):
    x, y = an_input(kind, *shape), uniform(*shape)
    assert_same(*(outcome(f, x, y, reduction=reduction) for f in (OURS[kind], TORCHS[kind])))


PAIRS = [((4,), (4, 1)), ((4, 1), (4,)), ((), (1,)), ((1,), ()), ((2, 3), (3,)), ((2, 3), (3, 2)), ((0,), (0, 1))]


@both_kinds
@pytest.mark.parametrize(("input", "target"), PAIRS, ids=str)
def test_another_shape_of_target_is_refused(kind, input, target):
    x, y = an_input(kind, *input), uniform(*target)
    ours, torchs = (outcome(f, x, y) for f in (OURS[kind], TORCHS[kind]))
    assert type(ours) is type(torchs) is ValueError
    assert str(ours) == str(torchs)


WEIGHT_SHAPES = {
    (2, 3): [(), (1,), (3,), (1, 3), (2, 1), (2, 3), (2,), (4,), (3, 2), (1, 2, 3), (5, 2, 3), (1, 1, 1)],
    (3,): [(), (1,), (3,), (2, 3), (1, 3), (2,)],
    (): [(), (1,), (1, 1)],
    (1,): [(), (1,), (3,)],
    (2, 3, 4, 5): [(3,), (3, 1, 1), (5,), (2, 1, 1, 1)],
    (0, 3): [(3,), (0, 1), (1, 3), (2, 3)],
}


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize(("shape", "weight"), [(s, w) for s, ws in WEIGHT_SHAPES.items() for w in ws], ids=str)
@both_kinds
def test_shapes_of_weights(kind, shape, weight, reduction, name):
    x, y, w = an_input(kind, *shape), uniform(*shape), {name: uniform(*weight, seed=2)}
    # torch has no pos_weight in probabilities: there it has the rules of a weight.
    theirs = {"weight": w[name]} if kind == "probabilities" else w
    ours, torchs = (
        outcome(OURS[kind], x, y, reduction=reduction, **w),
        outcome(TORCHS[kind], x, y, reduction=reduction, **theirs),
    )
    assert_same(ours, torchs)


@both_kinds
@pytest.mark.parametrize(("name", "advice"), [("weight", "pass sample_weight= or "), ("pos_weight", "")])
def test_a_weight_for_each_sample_is_refused_with_advice(kind, name, advice):
    with pytest.raises(RuntimeError, match=rf"For one {name} per sample, {advice}reshape it to \(4, 1\)"):
        OURS[kind](an_input(kind, 4, 3), uniform(4, 3), **{name: uniform(4)})


@both_kinds
@pytest.mark.parametrize(
    ("shape", "weight"), [((4, 3), (3,)), ((4, 3), (4, 1)), ((4,), ()), ((), ()), ((), (1,))], ids=str
)
def test_sample_weight_lies_along_the_first_axis(kind, shape, weight):
    with pytest.raises(ValueError, match="sample_weight"):
        OURS[kind](an_input(kind, *shape), uniform(*shape), sample_weight=uniform(*weight))


@both_kinds
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 4), (4, 2, 3)], ids=str)
def test_sample_weight_is_a_column_of_weight(kind, shape):
    x, y, each, w = an_input(kind, *shape), uniform(*shape), uniform(4, seed=2), uniform(*shape, seed=3)
    column = each.reshape(4, *[1] * (len(shape) - 1))
    torch.testing.assert_close(OURS[kind](x, y, sample_weight=each), TORCHS[kind](x, y, column))
    torch.testing.assert_close(OURS[kind](x, y, w, sample_weight=each), TORCHS[kind](x, y, column * w))


# Memory formats: torch's logits form follows the target, its probability form the input.

LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(1, 3).contiguous().transpose(1, 3),
    "sliced": lambda t: torch.stack([t, t], -1)[..., 0],
    "expanded": lambda t: t[:, :1].expand_as(t),
}


@both_kinds
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("input", LAYOUTS)
def test_layouts(kind, input, target, reduction):
    x, y = LAYOUTS[input](an_input(kind, 2, 3, 4, 5)), LAYOUTS[target](uniform(2, 3, 4, 5))
    packed = OURS[kind](x.contiguous(), y.contiguous(), reduction=reduction)
    loss = OURS[kind](x, y, reduction=reduction)
    assert torch.equal(loss, packed)  # the same bits, whatever the layout
    assert loss.stride() == TORCHS[kind](x, y, reduction=reduction).stride()
    # The formula, too, with and without values.
    transformed, _ = torch.func.vjp(lambda x: OURS[kind](x, y, reduction=reduction), x)
    assert transformed.stride() == loss.stride()
    meta = (torch.empty_strided(t.shape, t.stride(), device="meta") for t in (x, y))
    assert OURS[kind](*meta, reduction=reduction).stride() == loss.stride()


@both_kinds
def test_a_gradient_has_the_layout_that_autograd_wants(kind):
    x = LAYOUTS["channels_last"](an_input(kind, 2, 3, 4, 5)).requires_grad_()
    OURS[kind](x, uniform(2, 3, 4, 5)).backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    base = an_input(kind, 2, 1).requires_grad_()
    OURS[kind](base.expand(2, 3), uniform(2, 3)).backward()
    twin = base.detach().clone().requires_grad_()
    TORCHS[kind](twin.expand(2, 3), uniform(2, 3)).backward()
    torch.testing.assert_close(base.grad, twin.grad)


# Dtypes

TARGETS = (*FLOATING, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16)


def expected_dtype(input, target):
    """The decision: the wider of the two, and an integer target never widens."""
    if not target.is_floating_point:
        return input
    return torch.promote_types(input, target)


@both_kinds
@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("input", FLOATING, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_dtypes(kind, input, target, reduction):
    x, y = an_input(kind, 5, dtype=input), torch.tensor([0, 1, 1, 0, 1]).to(target)
    ours, torchs = (outcome(f, x, y, reduction=reduction) for f in (OURS[kind], TORCHS[kind]))
    assert not isinstance(ours, Exception)
    assert [item[0] for item in ours[:2]] == [expected_dtype(input, target), input]
    if input == target:
        assert ours == torchs
    elif kind == "probabilities" or not target.is_floating_point:
        assert isinstance(torchs, RuntimeError)  # what we accept, torch refuses
    else:
        assert torchs[0][0] == target  # torch: the target's dtype, even if narrower
    reference = OURS[kind](x.double(), y.double(), reduction=reduction)
    eps = torch.finfo(expected_dtype(input, target)).eps
    torch.testing.assert_close(OURS[kind](x, y, reduction=reduction).double(), reference, rtol=2 * eps, atol=0)


@both_kinds
@pytest.mark.parametrize("dtype", [*FLOATING, torch.int64, torch.uint8, torch.bool, torch.uint16], ids=str)
@pytest.mark.parametrize("name", ["weight", "pos_weight"])
def test_weights_never_widen(kind, name, dtype):
    x, y, w = an_input(kind, 2, 3, dtype=torch.float16), uniform(2, 3, dtype=torch.float16), torch.tensor([1, 0, 1])
    loss = OURS[kind](x, y, reduction="none", **{name: w.to(dtype)})
    assert loss.dtype == torch.float16
    expected = OURS[kind](x.double(), y.double(), reduction="none", **{name: w.double()})
    assert torch.equal(loss, expected.half())


REFUSED = {
    "integer input": lambda x, y: (x.long(), y),
    "boolean input": lambda x, y: (x.bool(), y.bool()),
    "complex input": lambda x, y: (x.cfloat(), y),
    "float8 input": lambda x, y: (x.to(torch.float8_e4m3fn), y),
    "float8 target": lambda x, y: (x, y.to(torch.float8_e4m3fn)),
    "complex weight": lambda x, y: (x, y, y.cfloat()),
    "sparse input": lambda x, y: (x.to_sparse(), y),
    "sparse target": lambda x, y: (x, y.to_sparse()),
    "mkldnn input": lambda x, y: (x.float().to_mkldnn(), y.float()),
    "nested input": lambda x, y: (torch.nested.nested_tensor([x]), torch.nested.nested_tensor([y])),
    "jagged input": lambda x, y: tuple(torch.nested.nested_tensor([t], layout=torch.jagged) for t in (x, y)),
    "masked input": lambda x, y: (torch.masked.masked_tensor(x, y > 0.5), y),
    "masked target": lambda x, y: (x, torch.masked.masked_tensor(y, y > 0.5)),
    "quantized input": lambda x, y: (torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8), y.float()),
    "list input": lambda x, y: (x.tolist(), y),
    "list target": lambda x, y: (x, y.tolist()),
    "no target": lambda x, y: (x, None),
    "float weight": lambda x, y: (x, y, 0.5),
    "another device": lambda x, y: (x, y.to("meta")),
    "weight of another device": lambda x, y: (x, y, y.to("meta")),
}


@pytest.mark.filterwarnings("ignore")  # nested, masked and quantized tensors are prototypes
@both_kinds
@pytest.mark.parametrize("case", REFUSED)
def test_what_torch_refuses_is_refused_alike(kind, case):
    operands = REFUSED[case](an_input(kind, 2, 3), uniform(2, 3))
    problems = []
    for function in (OURS[kind], TORCHS[kind]):
        with pytest.raises(Exception) as caught:  # noqa: PT011  (its type is compared below)
            function(*operands)
        problems.append(caught.value)
    ours, torchs = problems
    assert isinstance(ours, type(torchs)), f"{ours!r}\nfor {torchs!r}"
    assert str(ours)


@pytest.mark.filterwarnings("ignore")  # nested tensors are a prototype
@both_kinds
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_a_nested_tensor_is_told_what_to_pass(kind, layout):
    """And that works: both ways give the loss of the same elements."""
    lengths, (x, y) = (2, 3), (an_input(kind, 2, 3), uniform(2, 3))
    nested = [torch.nested.nested_tensor([t[0, :2], t[1, :3]], layout=layout) for t in (x, y)]
    for given in (nested, (nested[0], y), (x, nested[1])):
        for loss in (OURS[kind], OUR_MODULES[kind]()):
            with pytest.raises(NotImplementedError, match=r"is a nested tensor; .*\.values\(\).*mask="):
                loss(*given)
    with pytest.raises(NotImplementedError, match="argument 'mask' is a nested tensor"):
        OURS[kind](x, y, mask=nested[0])
    packed = OURS[kind](*(t.values() for t in nested))
    mask = torch.arange(3) < torch.tensor(lengths)[:, None]
    padded = OURS[kind](*(t.to_padded_tensor(0.0) for t in nested), mask=mask)
    torch.testing.assert_close(packed, padded)


@pytest.mark.filterwarnings("ignore")  # masked tensors are a prototype
@both_kinds
def test_a_masked_tensor_is_told_what_to_pass(kind):
    x, y = an_input(kind, 2, 3), uniform(2, 3)
    masked = torch.masked.masked_tensor(x, y > 0.5)
    with pytest.raises(TypeError, match=r"pass its \.get_data\(\), and mask=its \.get_mask\(\)"):
        OURS[kind](masked, y)
    assert torch.equal(OURS[kind](masked.get_data(), y, mask=masked.get_mask()), OURS[kind](x, y, mask=y > 0.5))


def test_a_complex_target_of_logits_gives_a_complex_loss_as_torchs():
    x, y = an_input("logits", 4), torch.view_as_complex(uniform(4, 2))
    ours, torchs = OURS["logits"](x, y), TORCHS["logits"](x, y)
    assert ours.dtype == torchs.dtype
    torch.testing.assert_close(ours, torchs)


# Values that are refused

OUTSIDE = [-0.1, 1.5, float("nan"), float("inf"), -float("inf"), -(2.0**-24)]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", ["input", "target"])
@pytest.mark.parametrize("value", OUTSIDE)
def test_probabilities_and_targets_out_of_range(name, value, dtype):
    operands = {"input": torch.full((2, 3), 0.5, dtype=dtype), "target": torch.full((2, 3), 0.5, dtype=dtype)}
    operands[name][1, 2] = value
    zero = torch.zeros(2, 3, dtype=dtype)  # which hides nothing
    for extra in ({}, {"weight": zero}, {"reduction": "none"}):
        with pytest.raises(RuntimeError, match=f"all elements of {name} should be between 0 and 1"):
            TORCHS["probabilities"](**operands, **extra)
        with pytest.raises(
            RuntimeError, match=rf"all elements of {name} should be between 0 and 1, but {name}\[1, 2\]"
        ):
            OURS["probabilities"](**operands, **extra)


def test_the_ends_of_the_range_are_inside():
    ends = torch.tensor([0.0, -0.0, 1.0])
    assert torch.equal(OURS["probabilities"](ends, ends, reduction="none"), torch.zeros(3))


def test_logits_accept_any_target():
    """torch does, and its own tests use such targets."""
    x = torch.tensor([0.5, 1.0, -2.0, 3.0], dtype=torch.float64)
    y = torch.tensor([2.0, -1.0, 5.0, 0.3], dtype=torch.float64)
    torch.testing.assert_close(OURS["logits"](x, y, reduction="none"), TORCHS["logits"](x, y, reduction="none"))
    assert OURS["logits"](x[:1], y[:1]) < 0

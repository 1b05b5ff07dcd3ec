"""torch.func and forward-mode AD: every transform, of every operand, nested; no tangent is ever dropped."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, grad_and_value, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from tests.faces.torch_samples import (
    FLOATING,
    KINDS,
    OUR_MODULES,
    OURS,
    REDUCTIONS,
    TORCHS,
    all_operands,
    an_input,
    leaves,
    uniform,
)

both_kinds = pytest.mark.parametrize("kind", KINDS)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
NAMES = ("input", "target", "weight", "pos_weight", "sample_weight")
every_operand = pytest.mark.parametrize("name", NAMES)


def of_one(kind, name, reduction="mean"):
    """The loss as a function of one operand, and that operand."""
    operands = all_operands(kind)
    return lambda operand: OURS[kind](**{**operands, name: operand}, reduction=reduction), operands[name]


def on_the_tape(kind, name, reduction="mean"):
    """The Jacobian by autograd's tape, one element of the loss after the other."""
    function, operand = of_one(kind, name, reduction)
    return torch.autograd.functional.jacobian(function, operand)


TRANSFORMS = {
    "jacrev": jacrev,
    "jacfwd": jacfwd,
    "vmap of jacrev": lambda f: lambda x: vmap(jacrev(f))(x.expand(2, *x.shape))[1],
    "jvp": lambda f: lambda x: columns(lambda v: jvp(f, (x,), (v,))[1], x),
    "linearize": lambda f: lambda x: columns(linearize(f, x)[1], x),
    "dual numbers": lambda f: lambda x: columns(lambda v: dual(f, x, v), x),
}


def columns(tangent, x):
    basis = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    return torch.stack([tangent(v) for v in basis], -1).reshape(-1, *x.shape)


def dual(function, x, v):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, v))).tangent


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")
@pytest.mark.parametrize("transform", TRANSFORMS)
@every_reduction
@every_operand
@both_kinds
def test_first_derivatives(kind, name, reduction, transform):
    function, operand = of_one(kind, name, reduction)
    jacobian = TRANSFORMS[transform](function)(operand)
    expected = on_the_tape(kind, name, reduction)
    torch.testing.assert_close(jacobian.reshape(expected.shape), expected)


@both_kinds
@every_reduction
def test_grad_and_vjp_of_all_operands_at_once(kind, reduction):
    operands = all_operands(kind)

    def function(*values):
        return OURS[kind](**dict(zip(NAMES, values, strict=True)), reduction=reduction)

    taped = leaves(operands)
    loss = function(*taped.values())
    incoming = uniform(*loss.shape, seed=9)
    expected = torch.autograd.grad(loss, list(taped.values()), incoming)
    primal, pull = vjp(function, *operands.values())
    torch.testing.assert_close(primal, loss.detach())
    torch.testing.assert_close(pull(incoming), expected)
    together = grad_and_value(lambda *v: (function(*v) * incoming).sum(), argnums=tuple(range(5)))(*operands.values())
    torch.testing.assert_close(together[0], expected)


@both_kinds
@every_reduction
def test_a_tangent_of_each_operand_adds_to_the_tangent_of_the_loss(kind, reduction):
    operands = all_operands(kind)
    tangents = {name: uniform(*operand.shape, seed=i + 20) for i, (name, operand) in enumerate(operands.items())}

    def function(*values):
        return OURS[kind](**dict(zip(NAMES, values, strict=True)), reduction=reduction)

    together = jvp(function, tuple(operands.values()), tuple(tangents.values()))[1]
    assert torch.all(together != 0)
    parts = [jvp(of_one(kind, name, reduction)[0], (operands[name],), (tangents[name],))[1] for name in NAMES]
    torch.testing.assert_close(together, sum(parts))


SECOND = {
    "hessian": hessian,
    "jacfwd of jacfwd": lambda f: jacfwd(jacfwd(f)),
    "jacrev of jacrev": lambda f: jacrev(jacrev(f)),
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(f)),
}


@pytest.mark.parametrize("transform", SECOND)
@every_operand
@both_kinds
def test_second_derivatives(kind, name, transform):
    function, operand = of_one(kind, name)
    expected = torch.autograd.functional.hessian(function, operand)
    torch.testing.assert_close(SECOND[transform](function)(operand), expected)


@both_kinds
def test_third_derivative(kind):
    function, operand = of_one(kind, "input", "sum")
    third = jacrev(hessian(function))(operand).reshape(12, 12, 12)
    step = 1e-4
    for i, direction in enumerate(torch.eye(12, dtype=torch.float64).reshape(12, 4, 3)):
        ahead, behind = (hessian(function)(operand + s * direction).reshape(12, 12) for s in (step, -step))
        torch.testing.assert_close(third[..., i], (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["grad", "jacfwd"])
def test_transforms_of_half_precision_are_computed_in_float32(name):
    x, y = an_input("logits", 200, dtype=torch.bfloat16), uniform(200).round().bfloat16()

    def function(x):
        return OURS["logits"](x, y, reduction="sum" if name == "grad" else "none")

    slope = grad(function)(x) if name == "grad" else jacfwd(function)(x).diagonal()
    exact = torch.sigmoid(x.double()) * (1 - y) - torch.sigmoid(-x.double()) * y
    torch.testing.assert_close(slope.double(), exact, rtol=2**-8, atol=0)


def moving(kind, shape, reduction, options):
    """The loss as a function of its operands, these and directions, in float32."""
    operands = {
        name: an_input(kind if name == "input" else "probabilities", *shape, seed=i).float()
        for i, name in enumerate(NAMES[:4])
    }

    def function(*values):
        return OURS[kind](**dict(zip(operands, values, strict=True)), reduction=reduction, **options)

    return function, tuple(operands.values()), tuple(uniform(*shape, seed=9).float() for _ in operands)


def dual_tangents(function, values, directions):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(*map(forward_ad.make_dual, values, directions))).tangent


TANGENTS = {
    "jvp": lambda f, at, along: jvp(f, at, along)[1],
    "vmap of jvp": lambda f, at, along: vmap(lambda *v: jvp(f, at, v)[1])(*(v.expand(2, *v.shape) for v in along))[0],
    "jacfwd": lambda f, at, along: jacfwd(f)(*at),
    "dual numbers": dual_tangents,
    "jvp of grad": lambda f, at, along: jvp(grad(lambda *v: f(*v).sum()), at, along)[1],
}


@pytest.mark.parametrize("transform", TANGENTS)
@pytest.mark.parametrize(
    "options", [{}, {"gamma": 2.0}, {"label_smoothing": 0.1}, {"gamma": 0.5, "mask": True}], ids=str
)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "batchmean", "weighted_mean"])
@both_kinds
def test_a_tangent_has_the_dtype_of_its_loss(kind, reduction, options, transform):
    """torch's ``v.sum() / 1.0`` has a float64 tangent, whatever v is; so has a tensor of shape [] times any number."""
    for shape in [(), (3,), (2, 3)][reduction == "batchmean" :]:
        given = options | ({"mask": torch.ones(shape)} if "mask" in options else {})
        function, at, along = moving(kind, shape, reduction, given)
        found = TANGENTS[transform](function, at, along)
        assert found.dtype == torch.float32
        wide = TANGENTS[transform](function, *(tuple(t.double() for t in tensors) for tensors in (at, along)))
        torch.testing.assert_close(found.double(), wide, rtol=1e-4, atol=1e-5)


def test_torchs_own_tangent_is_double():
    x = torch.ones(3)
    assert jvp(lambda v: v.sum() / 1.0, (x,), (x,))[1].dtype == torch.float64


# vmap


@both_kinds
@every_reduction
@pytest.mark.parametrize("in_dims", [(0, 0), (1, 0), (-1, 1), (2, None), (None, 0)], ids=str)
def test_vmap_over_any_dimension(kind, reduction, in_dims):
    batched = [an_input(kind, 5, 4, 3), uniform(5, 4, 3)]
    given = [
        operand[0] if dim is None else operand.movedim(0, dim) for operand, dim in zip(batched, in_dims, strict=True)
    ]
    together = vmap(lambda x, y: OURS[kind](x, y, reduction=reduction), in_dims=in_dims)(*given)
    one_by_one = [
        OURS[kind](*(o[0 if d is None else i] for o, d in zip(batched, in_dims, strict=True)), reduction=reduction)
        for i in range(5)
    ]
    torch.testing.assert_close(together, torch.stack(one_by_one))


@both_kinds
@every_reduction
@pytest.mark.parametrize("name", ["weight", "pos_weight", "sample_weight"])
def test_vmap_over_weights_alone(kind, reduction, name):
    operands = all_operands(kind)
    weights = uniform(6, *operands[name].shape, seed=11)
    together = vmap(lambda w: OURS[kind](**{**operands, name: w}, reduction=reduction))(weights)
    one_by_one = [OURS[kind](**{**operands, name: w}, reduction=reduction) for w in weights]
    torch.testing.assert_close(together, torch.stack(one_by_one))


@both_kinds
def test_nested_vmap_down_to_scalars(kind):
    x, y = an_input(kind, 4, 3), uniform(4, 3)
    torch.testing.assert_close(vmap(vmap(OURS[kind]))(x, y), OURS[kind](x, y, reduction="none"))
    torch.testing.assert_close(vmap(vmap(grad(OURS[kind])))(x, y), vmap(vmap(grad(TORCHS[kind])))(x, y))


@both_kinds
@pytest.mark.parametrize("target", [torch.int64, torch.bool, torch.uint8], ids=str)
def test_vmap_of_integer_targets(kind, target):
    x, y = an_input(kind, 4, 3, dtype=torch.float32), (uniform(4, 3) > 0.5).to(target)
    loss = vmap(OURS[kind])(x, y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.stack([OURS[kind](a, b) for a, b in zip(x, y, strict=True)]))


@both_kinds
def test_gradients_for_each_sample_of_a_model(kind):
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 1, dtype=torch.float64),
        torch.nn.Identity() if kind == "logits" else torch.nn.Sigmoid(),
        torch.nn.Flatten(0),
    )
    criterion = OUR_MODULES[kind]()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    x, y = an_input("logits", 5, 3), uniform(5, 1)

    def loss(parameters, x, y):
        return criterion(functional_call(model, parameters, x), y)

    each = vmap(grad(loss), (None, 0, 0))(parameters, x, y)
    model.zero_grad()
    criterion(model(x), y[:, 0]).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(each[name].mean(0), parameter.grad)


@both_kinds
def test_vmap_of_a_module_with_buffers(kind):
    module = OUR_MODULES[kind](weight=uniform(3), pos_weight=uniform(3, seed=2))
    x, y = an_input(kind, 5, 4, 3), uniform(5, 4, 3)
    expected = torch.stack([module(a, b) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(vmap(module)(x, y), expected)


# What is refused is refused under every transform

WRONG = {
    "input": lambda q, y: (q * 3, y),
    "target": lambda q, y: (q, y * 3),
}
UNDER = {
    "vmap": lambda f: lambda q, y: vmap(f)(q, y),
    "nested vmap": lambda f: lambda q, y: vmap(vmap(f))(q, y),
    "grad": lambda f: lambda q, y: grad(lambda q: f(q, y))(q),
    "grad of grad": lambda f: lambda q, y: grad(lambda q: grad(lambda q: f(q, y))(q).sum())(q),
    "jvp": lambda f: lambda q, y: jvp(lambda q: f(q, y), (q,), (q,)),
    "hessian": lambda f: lambda q, y: hessian(lambda q: f(q, y))(q),
    "dual numbers": lambda f: lambda q, y: dual(lambda q: f(q, y), q, q),
}


@pytest.mark.parametrize("transform", UNDER)
@pytest.mark.parametrize("name", WRONG)
def test_probabilities_out_of_range_under_transforms(transform, name):
    q, y = WRONG[name](an_input("probabilities", 4, 3), uniform(4, 3))
    for function in (OURS["probabilities"], TORCHS["probabilities"]):
        with pytest.raises(RuntimeError, match=f"all elements of {name} should be between 0 and 1"):
            UNDER[transform](function)(q, y)


@both_kinds
def test_shapes_under_vmap(kind):
    for function in (OURS[kind], TORCHS[kind]):
        with pytest.raises(ValueError, match=r"[Tt]arget size"):
            vmap(function)(an_input(kind, 5, 3), uniform(5, 4))


def test_inplace_backward_means_nothing_to_a_transform():
    x, y = an_input("logits", 5), uniform(5)
    before = x.clone()
    torch.testing.assert_close(
        grad(lambda x: OURS["logits"](x, y, inplace_backward=True))(x), grad(lambda x: TORCHS["logits"](x, y))(x)
    )
    assert torch.equal(x, before)


# Where torch fails or is silent


def test_jacfwd_of_jacfwd_where_torchs_raises():
    x, y = an_input("logits", 4), uniform(4)
    expected = jacrev(jacrev(lambda x: TORCHS["logits"](x, y)))(x)
    torch.testing.assert_close(jacfwd(jacfwd(lambda x: OURS["logits"](x, y)))(x), expected)
    with pytest.raises(RuntimeError, match="ZeroTensors are immutable"):
        jacfwd(jacfwd(lambda x: TORCHS["logits"](x, y)))(x)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_tangents_at_the_ends_of_the_range(dtype):
    q, y = (torch.tensor(t, dtype=dtype) for t in ([0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]))
    still = torch.zeros_like(y)
    moving = torch.full_like(q, 2**-20)

    def tangent(function, *directions):
        return jvp(lambda q, y: function(q, y, reduction="none"), (q, y), directions)[1]

    size = 1e12 * 2**-20 if dtype != torch.float16 else float("inf")
    slope = torch.tensor([0, -size, size, 0], dtype=dtype)
    torch.testing.assert_close(tangent(OURS["probabilities"], moving, still), slope, rtol=8e-3, atol=0)
    to_target = torch.tensor([100, 100, -100, -100], dtype=dtype)
    assert torch.equal(tangent(OURS["probabilities"], still, torch.ones_like(y)), to_target)
    # torch's, through its infinite derivative to the target
    assert tangent(TORCHS["probabilities"], moving, still).isnan().any()

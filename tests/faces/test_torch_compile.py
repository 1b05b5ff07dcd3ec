"""torch.compile: no graph break, the kernel's bits, and nothing lost on the way."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch._dynamo.testing
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from binxent import kernel
from binxent.kernels import native
from tests.faces.torch_samples import (
    DIVIDED,
    KINDS,
    OUR_MODULES,
    OURS,
    REDUCTIONS,
    TORCHS,
    all_operands,
    an_input,
    uniform,
)
from tests.turns import in_turn

both_kinds = pytest.mark.parametrize("kind", KINDS)
BACKENDS = ("eager", "aot_eager", "inductor")
every_backend = pytest.mark.parametrize("backend", BACKENDS)
pytestmark = pytest.mark.filterwarnings("ignore")  # of the compiler itself


@pytest.fixture(autouse=True)
def forget():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function, backend="aot_eager", **options):
    return torch.compile(function, fullgraph=True, backend=backend, **options)


def assert_compiles(kind, operands, backend, **options):
    """The same bits as eager: of the loss, and of the gradient to the logits; the others are torch's operations."""
    ours, eager = leaves_of(operands), leaves_of(operands)
    before = kernel.runs()
    loss = compiled(lambda **o: OURS[kind](**o, **options), backend)(**ours)
    assert kernel.runs() > before
    expected = OURS[kind](**eager, **options)
    assert loss.dtype == expected.dtype
    assert loss.stride() == expected.stride()
    assert torch.equal(loss, expected)
    wanted = [name for name, operand in ours.items() if operand.requires_grad]
    before = kernel.runs()
    gradients = torch.autograd.grad(loss.sum(), [ours[name] for name in wanted])
    exact = torch.autograd.grad(expected.sum(), [eager[name] for name in wanted])
    for name, gradient, reference in zip(wanted, gradients, exact, strict=True):
        if name == "input":
            assert torch.equal(gradient, reference)
        else:
            torch.testing.assert_close(gradient, reference)


def leaves_of(operands):
    return {name: o.detach().clone().requires_grad_(o.is_floating_point()) for name, o in operands.items()}


@pytest.mark.parametrize(("reduction", "backend", "kind"), in_turn(REDUCTIONS, BACKENDS, ways=KINDS))
def test_every_operand_and_gradient(reduction, backend, kind):
    assert_compiles(kind, all_operands(kind, 8, 5, torch.float32), backend, reduction=reduction)


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [*(("aot_eager", t) for t in (torch.float64, torch.bfloat16, torch.float16)), ("inductor", torch.bfloat16)],
)
@both_kinds
def test_dtypes(kind, backend, dtype):
    operands = {"input": an_input(kind, 8, 5, dtype=dtype), "target": uniform(8, 5, dtype=dtype)}
    assert_compiles(kind, operands, backend)


OTHERS = [torch.int64, torch.bool, torch.uint8, torch.bfloat16, torch.float64]


@pytest.mark.parametrize(
    ("backend", "target", "reduction"),
    [("aot_eager", t, r) for t in OTHERS for r in ("sum", "none")]
    + [("inductor", torch.int64, "none"), ("inductor", torch.bool, "sum")],
)
@both_kinds
def test_targets_of_other_types_are_never_truncated(kind, backend, reduction, target):
    operands = {"input": an_input(kind, 300, dtype=torch.float32), "target": (uniform(300) > 0.5).to(target)}
    assert_compiles(kind, operands, backend, reduction=reduction)


@pytest.mark.skipif(torch.__version__ < (2, 12), reason="not before 2.12")
def test_torchs_own_truncates_them():
    x, y = an_input("logits", 300, dtype=torch.float32), (uniform(300) > 0.5).long()
    loss = compiled(lambda x, y: TORCHS["logits"](x, y, reduction="sum"), "inductor")(x, y)
    assert loss.dtype == torch.int64
    assert loss < 0.9 * TORCHS["logits"](x, y.float(), reduction="sum")


LAYOUTS = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(1, 3).contiguous().transpose(1, 3),
    "sliced": lambda t: torch.stack([t, t], -1)[..., 0],
    "expanded": lambda t: t[:, :1].expand_as(t),
}


@pytest.mark.parametrize(
    ("backend", "layout"), [*(("aot_eager", layout) for layout in LAYOUTS), ("inductor", "channels_last")]
)
@both_kinds
def test_layouts(kind, backend, layout):
    x, y = LAYOUTS[layout](an_input(kind, 2, 3, 4, 5)), LAYOUTS[layout](uniform(2, 3, 4, 5))
    twin = x.detach().requires_grad_()
    x = x.detach().requires_grad_()
    loss = compiled(lambda x, y: OURS[kind](x, y, reduction="none"), backend)(x, y)
    expected = OURS[kind](twin, y, reduction="none")
    assert torch.equal(loss, expected)
    assert loss.stride() == expected.stride()
    loss.sum().backward()
    expected.sum().backward()
    assert torch.equal(x.grad, twin.grad)


@pytest.mark.parametrize("shape", [(), (0,), (1,)], ids=str)
@both_kinds
def test_small_shapes(kind, shape):
    x, y = an_input(kind, *shape).requires_grad_(), uniform(*shape)
    for reduction in REDUCTIONS:
        loss = compiled(lambda x, y, r=reduction: OURS[kind](x, y, reduction=r))(x, y)
        torch.testing.assert_close(loss, OURS[kind](x, y, reduction=reduction), rtol=0, atol=0, equal_nan=True)
        loss.sum().backward()


@pytest.mark.parametrize("incoming", [3.0, 0.7, 1024.0])
@both_kinds
def test_incoming_gradients(kind, incoming):
    operands = all_operands(kind, 8, 5, torch.float16)
    gradients = []
    for wrap in (compiled, lambda f: f):
        x = operands["input"].detach().clone().requires_grad_()
        loss = wrap(lambda **o: OURS[kind](**o))(**{**operands, "input": x})
        for scale in (incoming, 1.0):
            gradients += torch.autograd.grad(loss, x, torch.tensor(scale).half(), retain_graph=True)
    assert torch.equal(gradients[0], gradients[2])
    assert torch.equal(gradients[1], gradients[3])


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@both_kinds
def test_dynamic_shapes(kind, backend):
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    function = torch.compile(
        lambda x, y, w, s: OURS[kind](x, y, w, sample_weight=s), fullgraph=True, backend=counter, dynamic=True
    )
    for rows in (4, 7, 100):
        operands = [an_input(kind, rows, 5), uniform(rows, 5), uniform(5, seed=2), uniform(rows, seed=3)]
        x = operands[0].requires_grad_()
        loss = function(*operands)
        expected = OURS[kind](*operands[:3], sample_weight=operands[3])
        assert torch.equal(loss, expected)
        assert torch.equal(*(torch.autograd.grad(value, x)[0] for value in (loss, expected)))
    assert counter.frame_count <= 2  # the second one, if any, for a number among the options


@both_kinds
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_model_that_trains(kind, backend):
    def trained(wrap):
        torch.manual_seed(0)
        parts = [torch.nn.Linear(6, 3)] + ([torch.nn.Sigmoid()] if kind == "probabilities" else [])
        model, criterion = torch.nn.Sequential(*parts), OUR_MODULES[kind](pos_weight=torch.full((3,), 2.0))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        x, y = torch.randn(32, 6), (torch.rand(32, 3) > 0.5).float()
        step = wrap(lambda x, y: criterion(model(x), y))
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = step(x, y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    ours = trained(lambda f: compiled(f, backend))
    assert ours[-1] < ours[0]
    torch.testing.assert_close(ours, trained(lambda f: f))


@both_kinds
def test_modules_compile(kind):
    module = OUR_MODULES[kind](weight=uniform(5), pos_weight=uniform(5, seed=2), reduction="sum")
    x, y = an_input(kind, 8, 5), uniform(8, 5)
    assert torch.equal(compiled(module)(x, y), module(x, y))


@both_kinds
def test_no_grad_inference_and_autocast(kind):
    x, y = an_input(kind, 8, dtype=torch.bfloat16), uniform(8, dtype=torch.bfloat16)
    function = compiled(lambda x, y: OURS[kind](x, y))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(function(x, y), OURS[kind](x, y))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = compiled(lambda x, y: OURS[kind](x, y))(x, y)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, OURS[kind](x, y))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@both_kinds
def test_compiled_autograd(kind, reduction):
    """The backward of an eager loss, traced."""
    ours, eager = (leaves_of(all_operands(kind)) for _ in range(2))
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        OURS[kind](**ours, reduction=reduction).sum().backward()
    OURS[kind](**eager, reduction=reduction).sum().backward()
    for name, operand in eager.items():
        torch.testing.assert_close(ours[name].grad, operand.grad)


# Range checks


@pytest.mark.parametrize("name", ["input", "target"])
@pytest.mark.parametrize("requires_grad", [False, True])
@every_backend
def test_range_checks_survive(backend, requires_grad, name):
    operands = {"input": torch.full((2, 3), 0.5), "target": torch.full((2, 3), 0.5)}
    operands[name][1, 2] = 1.5
    operands["input"].requires_grad_(requires_grad)
    with pytest.raises(
        RuntimeError, match=rf"all elements of {name} should be between 0 and 1, but {name}\[1, 2\] is 1.5"
    ):
        compiled(lambda **o: OURS["probabilities"](**o), backend)(**operands)


@pytest.fixture
def hooks_are_back():
    """torch.func.grad disables saved-tensor hooks, and leaves them so if what it has compiled raises."""
    yield
    torch._C._autograd._saved_tensors_hooks_enable()


@pytest.mark.usefixtures("hooks_are_back")
@pytest.mark.parametrize("transform", [torch.func.grad, torch.vmap], ids=lambda t: t.__name__)
@every_backend
def test_out_of_range_under_a_compiled_transform(backend, transform):
    """Refused, but for inductor, which takes torch's operation apart: there it is NaN, value and gradient."""
    q, y = torch.tensor([[0.5, 1.5]]), torch.tensor([[1.0, 1.0]])
    function = compiled(transform(OURS["probabilities"]), backend)
    if backend == "inductor":
        assert function(q, y).isnan().any()
    else:
        # Up to 2.11 torch loses the message, of its own loss too, on the way out of a compiled transform.
        words = "all elements of input should be between 0 and 1"
        with pytest.raises(RuntimeError, match=words if torch.__version__ >= (2, 12) else f"{words}|dynamicLayerStack"):
            function(q, y)


# Refusals and legacy


@both_kinds
def test_a_wrong_shape_is_refused(kind):
    function = torch.compile(lambda x, y: OURS[kind](x, y), backend="eager")
    with pytest.raises(ValueError, match=r"[Tt]arget size"):
        function(an_input(kind, 4), uniform(4, 1))
    with pytest.raises(ValueError, match=r"'bogus' is not a valid value for reduction; expected one of .*'batchmean'"):
        torch.compile(lambda x, y: OURS[kind](x, y, reduction="bogus"), backend="eager")(an_input(kind, 4), uniform(4))


@both_kinds
def test_legacy_arguments_compile(kind):
    x, y = an_input(kind, 8), uniform(8)
    assert torch.equal(compiled(lambda x, y: OURS[kind](x, y, reduce=False))(x, y), OURS[kind](x, y, reduction="none"))
    assert torch.equal(
        compiled(lambda x, y: OURS[kind](x, y, size_average=False))(x, y), OURS[kind](x, y, reduction="sum")
    )
    assert torch.equal(compiled(lambda x, y: OURS[kind](x, y, reduction="elementwise_mean"))(x, y), OURS[kind](x, y))


def test_inplace_backward_is_refused():
    x = an_input("logits", 4).requires_grad_()
    with pytest.raises(Exception, match=r"inplace_backward: not under torch\.compile"):
        compiled(lambda x, y: OURS["logits"](x * 2, y, inplace_backward=True), "eager")(x, uniform(4))


# Transforms inside


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@both_kinds
def test_transforms_compile(kind, backend):
    operands = all_operands(kind, 4, 3)
    x, y, p = operands["input"], operands["target"], operands["pos_weight"]

    def check(function, *arguments):
        torch.testing.assert_close(compiled(function, backend)(*arguments), function(*arguments))

    check(torch.vmap(torch.func.grad(OURS[kind])), x, y)
    # No tangent is dropped, to whatever operand.
    check(lambda p: torch.func.jvp(lambda p: OURS[kind](x, y, pos_weight=p), (p,), (p,)), p)
    if backend == "aot_eager":  # the other would take several seconds for each
        check(torch.func.grad(OURS[kind]), x, y)
        check(torch.vmap(OURS[kind]), x, y)
        check(lambda y: torch.func.jvp(lambda y: OURS[kind](x, y), (y,), (y,)), y)


def test_a_device_without_kernel_compiles():
    x = torch.empty(4, device="meta", dtype=torch.float16, requires_grad=True)
    for kind in KINDS:
        loss = compiled(lambda x, y, k=kind: OURS[k](x, y))(x, torch.empty(4, device="meta"))
        assert (loss.dtype, loss.is_meta) == (torch.float32, True)
        loss.backward()


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("backend", ["eager", "inductor"])  # aot_eager compiles torch's own neither
@both_kinds
def test_a_subclass_compiles(kind, backend):
    x, y = an_input(kind, 6), uniform(6)
    loss = compiled(OURS[kind], backend)(x.as_subclass(Subclass), y)
    assert type(loss) is Subclass
    torch.testing.assert_close(loss.as_subclass(torch.Tensor), OURS[kind](x, y))


@pytest.mark.parametrize("name", ["target", "weight", "pos_weight"])
@every_backend
def test_operands_on_two_devices_are_refused(backend, name):
    operands = {"input": torch.randn(6), "target": torch.rand(6), name: torch.rand(6, device="meta")}
    with pytest.raises(RuntimeError, match="device"):
        compiled(OURS["logits"], backend)(**operands)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.complex64], ids=str)
@every_backend
def test_a_target_that_the_kernel_does_not_read_compiles(backend, dtype):
    x, y = torch.randn(4), torch.tensor([0, 1, 1, 0]).to(dtype)
    torch.testing.assert_close(compiled(OURS["logits"], backend)(x, y), OURS["logits"](x, y))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@both_kinds
def test_a_second_derivative_where_the_backend_keeps_autograd(kind, reduction):
    """The gradient's own operator has no derivative, and must not pretend to be one."""
    found = []
    for function in (compiled(OURS[kind], "eager"), TORCHS[kind]):
        leaf = an_input(kind, 6).requires_grad_()
        x, y = leaf * 1, uniform(6)
        loss = function(x, y, reduction=reduction).sum()
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + gradient.pow(2).sum()).backward()
        found.append(leaf.grad)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("options", DIVIDED, ids=str)
@both_kinds
def test_one_graph_for_every_batch_size(kind, options):
    """Through the formula too, which a gradient to a weight needs: a size is no constant of the graph."""
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    step = torch.compile(lambda x, y, w: OURS[kind](x, y, w, **options), fullgraph=True, dynamic=True, backend=counter)
    weight = uniform(3).requires_grad_() if options.get("reduction") != "weighted_mean" else None
    for size in range(2, 8):
        x, y = an_input(kind, size, 3).requires_grad_(), uniform(size, 3)
        loss = step(x, y, weight)
        torch.testing.assert_close(loss, OURS[kind](x, y, weight, **options))
        loss.backward()
    assert counter.frame_count <= 2  # the second one, if any, for a number among the options


# One pass


@every_backend
@both_kinds
def test_a_step_is_one_pass(kind, backend):
    x, y = an_input(kind, 8, 5, dtype=torch.float32).requires_grad_(), uniform(8, 5, dtype=torch.float32)
    loss = compiled(lambda x, y: OURS[kind](x, y), backend)
    loss(x, y).backward()
    before = kernel.runs()
    loss(x, y).backward()
    assert kernel.runs() == before + 1


@every_backend
@both_kinds
def test_a_second_backward_leaves_the_first_ones_gradient_alone(kind, backend):
    x, y = an_input(kind, 8, 5, dtype=torch.float32).requires_grad_(), uniform(8, 5, dtype=torch.float32)
    loss = compiled(lambda x, y: OURS[kind](x, y), backend)(x, y)
    found = [torch.autograd.grad(loss, x, torch.tensor(by), retain_graph=True)[0] for by in (1.0, 1.0, 3.0, 1.0)]
    exact = OURS[kind](x, y)
    for by, gradient in zip((1.0, 1.0, 3.0, 1.0), found, strict=True):
        (expected,) = torch.autograd.grad(exact, x, torch.tensor(by), retain_graph=True)
        assert torch.equal(gradient, expected)


@both_kinds
def test_two_losses_of_the_same_operands_have_a_gradient_each(kind):
    """A compiler may compute them as one."""
    x, y = an_input(kind, 8, 5, dtype=torch.float32).requires_grad_(), uniform(8, 5, dtype=torch.float32)
    total = compiled(lambda x, y: 2 * OURS[kind](x, y) + 3 * OURS[kind](x, y), "inductor")(x, y)
    total.backward()
    (expected,) = torch.autograd.grad(OURS[kind](x, y), x, torch.tensor(2.0))
    (other,) = torch.autograd.grad(OURS[kind](x, y), x, torch.tensor(3.0))
    assert torch.equal(x.grad, expected + other)


@pytest.mark.parametrize("weighted", [False, True])
@both_kinds
def test_a_gradient_that_nobody_asks_for_is_freed_with_the_loss(kind, weighted):
    """Its memory is large enough to be kept, which tells when it is free."""
    elements = kernel.LARGE_MEMORY // 4
    x, y = torch.full((elements,), 0.5, requires_grad=True), torch.ones(elements)
    loss = compiled(lambda x, y: OURS[kind](x, y, weight=y if weighted else None), "inductor")
    loss(x, y)
    kernel.release_memory()
    found = loss(x, y)
    assert kernel.release_memory() == 0
    del found
    assert kernel.release_memory() >= kernel.LARGE_MEMORY


# Native operators


def operators_in(function, *operands):
    """The operators of ours in the graphs of forward and backward, by name."""
    names = []

    def note(graph, _):
        targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        names.extend(t.removeprefix("binxent.").removesuffix(".default") for t in targets if t.startswith("binxent."))
        return make_boxed_func(graph)

    loss = compiled(function, aot_autograd(fw_compiler=note, bw_compiler=note))(*operands)
    if loss.requires_grad:
        loss.sum().backward()
    return names


has_native = pytest.mark.skipif(torch.__version__ < (2, 11), reason="torch's stable interface is older")


@has_native
@pytest.mark.parametrize("target", [torch.float32, torch.float64, torch.bool])
@pytest.mark.parametrize("reduction", ["mean", "sum", "weighted_mean"])
@both_kinds
def test_input_and_target_alone_have_native_operators(kind, reduction, target):
    x, y = an_input(kind, 8, 5, dtype=torch.float32).requires_grad_(), torch.ones(8, 5, dtype=target)
    names = operators_in(lambda x, y: OURS[kind](x, y, reduction=reduction), x, y)
    assert names == ["native_loss_and_gradient", "native_input_gradient"]


@has_native
@both_kinds
def test_without_a_gradient_none_is_made(kind):
    x, y = an_input(kind, 8, 5, dtype=torch.float32), uniform(8, 5, dtype=torch.float32)
    assert operators_in(OURS[kind], x, y) == ["native_loss_alone"]
    with torch.no_grad():
        assert operators_in(OURS[kind], x.requires_grad_(), y) == ["native_loss_alone"]


@pytest.mark.parametrize(
    "options",
    [{"reduction": "none"}, {"reduction": "batchmean"}, {"label_smoothing": 0.1}, {"ignore_index": -100}],
    ids=str,
)
@both_kinds
def test_options_have_the_others(kind, options):
    x, y = an_input(kind, 8, 5).requires_grad_(), uniform(8, 5)
    names = operators_in(lambda x, y: OURS[kind](x, y, **options), x, y)
    assert names == ["loss_alone" if options.get("reduction") == "none" else "loss_and_gradient", "input_gradient"]


def test_a_choice_of_kernels_without_the_native_one_has_no_native_operators():
    program = (
        "import torch, binxent.torch\n"
        "print(torch._C._dispatch_has_kernel_for_dispatch_key('binxent::native_loss_alone', 'CPU'))"
    )
    environment = {**os.environ, "BINXENT_KERNELS": ""}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


@pytest.mark.parametrize("layout", LAYOUTS)
@both_kinds
def test_the_layout_of_a_gradient_that_was_made(kind, layout):
    x, y = LAYOUTS[layout](an_input(kind, 2, 3, 4, 5)), LAYOUTS[layout](uniform(2, 3, 4, 5))
    ours, eager = (x.detach().requires_grad_() for _ in range(2))
    compiled(OURS[kind])(ours, y).backward()
    OURS[kind](eager, y).backward()
    assert torch.equal(ours.grad, eager.grad)
    assert ours.grad.stride() == eager.grad.stride()


@both_kinds
def test_one_graph_for_every_size(kind):
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    function = torch.compile(OURS[kind], fullgraph=True, backend=counter, dynamic=True)
    for rows in (4, 7, 5000):
        x, y = an_input(kind, rows, 5).requires_grad_(), uniform(rows, 5)
        loss, expected = function(x, y), OURS[kind](x, y)
        assert torch.equal(loss, expected)
        assert torch.equal(*(torch.autograd.grad(value, x)[0] for value in (loss, expected)))
    assert counter.frame_count == 1


@both_kinds
def test_autocast_inside_a_graph(kind):
    x, y = an_input(kind, 8, dtype=torch.bfloat16), uniform(8, dtype=torch.bfloat16)

    def function(x, y):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return OURS[kind](x, y)

    loss = compiled(function)(x, y)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, function(x, y))
    assert compiled(lambda x, y: OURS[kind](x, y))(x, y).dtype == torch.bfloat16


def native_step():
    """A loss by its native operators: the token, and how its gradient is asked for."""
    x, y, call = torch.randn(64), torch.rand(64), (False, True, native.TAGS["float32"])
    _, token = torch.ops.binxent.native_loss_and_gradient(x, y, *call)
    leaf = x.requires_grad_()
    (expected,) = torch.autograd.grad(OURS["logits"](leaf, y), leaf)

    def gradient_is_exact(token):
        gradient = torch.ops.binxent.native_input_gradient(torch.ones(()), token, x.detach(), y, *call)
        return torch.equal(gradient, expected)

    return token, gradient_is_exact


@has_native
def test_a_copy_of_a_token_owns_no_gradient():
    """A hook on saved tensors may make one."""
    token, gradient_is_exact = native_step()
    copy, before = token.clone(), kernel.runs()
    assert gradient_is_exact(copy)
    assert kernel.runs() == before + 1
    assert gradient_is_exact(token)
    assert kernel.runs() == before + 1
    assert gradient_is_exact(token)
    assert kernel.runs() == before + 2


@has_native
def test_any_number_of_losses_may_wait_for_their_backward():
    waiting = [native_step() for _ in range(5000)]
    assert all(gradient_is_exact(token) for token, gradient_is_exact in waiting)
    del waiting
    token, gradient_is_exact = native_step()
    before = kernel.runs()
    assert gradient_is_exact(token)
    assert kernel.runs() == before

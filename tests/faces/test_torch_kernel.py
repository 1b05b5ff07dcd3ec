"""Which mode reaches the kernel, and which computes the formula: the table of docs/torch.md, made from what runs."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from binxent import kernel
from tests.faces.torch_samples import KINDS, OURS, an_input, uniform
from tests.processes import ROOT, python

PAGE = ROOT / "docs" / "torch.md"
pytestmark = pytest.mark.filterwarnings("ignore")  # of deprecated tools

# name: (what computes the forward, what computes the backward), a function of the loss, its logits and its targets
ROUTES = {}


def route(name, forward, backward="none"):
    def register(run):
        ROUTES[name] = forward, backward, run
        return run

    return register


@route("eager, `no_grad`, `inference_mode`", "kernel")
def _(f, x, y):
    with torch.no_grad():
        return f(x, y), None


@route("eager and `backward`, the first incoming gradient as expected", "kernel", "none: made in the forward")
def _(f, x, y):
    loss = f(x, y)
    return loss, lambda: torch.autograd.grad(loss, x)


@route("eager and `backward`, another incoming gradient, a second backward, `reduction='none'`", "kernel", "kernel")
def _(f, x, y):
    loss = f(x, y, reduction="none")
    return loss, lambda: torch.autograd.grad(loss, x, torch.ones_like(loss))


@route("`inplace_backward=True`, saved-tensor hooks", "kernel", "kernel")
def _(f, x, y):
    with torch.autograd.graph.save_on_cpu():
        loss = f(x, y)
    return loss, lambda: torch.autograd.grad(loss, x)


@route("activation checkpoint", "kernel", "kernel")
def _(f, x, y):
    loss = checkpoint(f, x, y, use_reentrant=False)
    return loss, lambda: torch.autograd.grad(loss, x)


@route("autocast on the CPU", "kernel", "none: made in the forward")
def _(f, x, y):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = f(x, y)
    return loss, lambda: torch.autograd.grad(loss, x)


@route("gradients to target, weight, pos_weight and sample_weight", "kernel", "formula")
def _(f, x, y):
    y = y.requires_grad_()
    loss = f(x, y)
    return loss, lambda: torch.autograd.grad(loss, y)


@route("gradients to a learnt `label_smoothing` or `gamma`", "kernel", "formula")
def _(f, x, y):
    option = torch.tensor(0.5, requires_grad=True)
    loss = f(x, y, label_smoothing=option, gamma=option)
    return loss, lambda: torch.autograd.grad(loss, option)


@route("`create_graph=True`, `is_grads_batched=True`", "kernel", "formula")
def _(f, x, y):
    loss = f(x, y)
    return loss, lambda: torch.autograd.grad(loss, x, create_graph=True)


@route("`torch.func`: `grad`, `vjp`, `jvp`, `vmap`, `jacrev`, `jacfwd`, `hessian`, `linearize`", "formula", "formula")
def _(f, x, y):
    loss, pull = torch.func.vjp(lambda x: f(x, y), x.detach())
    return loss, lambda: pull(torch.ones(()))


@route("forward-mode AD (dual numbers)", "formula")
def _(f, x, y):
    with forward_ad.dual_level():
        return f(forward_ad.make_dual(x.detach(), y), y), None


@route("`torch.compile`, the incoming gradient as expected", "kernel", "none: made in the forward")
def _(f, x, y):
    loss = torch.compile(lambda x, y: f(x, y), fullgraph=True, backend="aot_eager")(x, y)
    return loss, lambda: torch.autograd.grad(loss, x)


@route("`torch.compile`, another incoming gradient, a second backward, `reduction='none'`", "kernel", "kernel")
def _(f, x, y):
    loss = torch.compile(lambda x, y: f(x, y), fullgraph=True, backend="aot_eager")(x, y)
    torch.autograd.grad(loss, x, retain_graph=True)
    return loss, lambda: torch.autograd.grad(loss, x)


@route("backward of an eager loss under compiled autograd", "kernel", "formula")
def _(f, x, y):
    loss = f(x, y)

    def pull():
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
            loss.backward()

    return loss, pull


@route("`torch.export`, ONNX", "formula")
def _(f, x, y):
    class Loss(torch.nn.Module):
        def forward(self, x, y):
            return f(x, y)

    return torch.export.export(Loss(), (x.detach(), y)).module()(x.detach(), y), None


@route("`make_fx`", "formula")
def _(f, x, y):
    return make_fx(lambda x, y: f(x, y))(x.detach(), y)(x.detach(), y), None


@route("`torch.jit.trace`", "formula", "formula")
def _(f, x, y):
    loss = torch.jit.trace(lambda x, y: f(x, y), (x.detach(), y), check_trace=False)(x, y)
    return loss, lambda: torch.autograd.grad(loss, x)


@route("under a dispatch mode (`FlopCounterMode`, profilers that are one)", "formula", "formula")
def _(f, x, y):
    with FlopCounterMode(display=False):
        loss = f(x, y)
    return loss, lambda: torch.autograd.grad(loss, x)


class Subclass(torch.Tensor):
    pass


@route("tensor subclasses, `neg` views", "formula", "formula")
def _(f, x, y):
    loss = f(x, y.as_subclass(Subclass))
    return loss, lambda: torch.autograd.grad(loss, x)


@route("a device without a kernel", "formula", "formula")
def _(f, x, y):
    x = x.detach().to("meta").requires_grad_()
    loss = f(x, y.to("meta"))
    return loss, lambda: torch.autograd.grad(loss, x)


@route("fake tensors", "formula")
def _(f, x, y):
    with FakeTensorMode() as mode:
        return f(mode.from_tensor(x), mode.from_tensor(y)), None


@pytest.fixture(autouse=True)
def forget():
    yield
    torch._dynamo.reset()


def taken(run):
    before = kernel.runs()
    result = run()
    return "kernel" if kernel.runs() > before else "formula", result


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("kind", KINDS)
def test_route(kind, name):
    forward, backward, run = ROUTES[name]
    x, y = an_input(kind, 4, 3, dtype=torch.float32).requires_grad_(), uniform(4, 3, dtype=torch.float32)
    OURS[kind](x, y).backward()  # so that an incoming gradient of 1 is expected
    ours, (_, pull) = taken(lambda: run(OURS[kind], x, y))
    assert ours == forward
    if backward == "none: made in the forward":
        before = kernel.runs()
        pull()
        assert kernel.runs() == before
    elif backward != "none":
        assert taken(pull)[0] == backward


def test_the_page_has_this_table():
    page = PAGE.read_text()
    for name, (forward, backward, _) in ROUTES.items():
        row = f"| {name} | {forward} | {'' if backward == 'none' else backward} |".replace("|  |", "| |")
        assert row in page, row


@pytest.mark.parametrize(("chosen", "runs"), [(None, "1"), ("native", "1"), ("", "0")])
def test_kernels_are_chosen_by_the_environment(chosen, runs):
    code = """
        import torch, binxent.kernel, binxent.torch
        x = torch.zeros(3, requires_grad=True)
        loss = binxent.torch.binary_cross_entropy_with_logits(x, torch.ones(3))
        loss.backward()
        assert torch.allclose(x.grad, torch.full((3,), -1 / 6))
        print(binxent.kernel.runs())
    """
    assert python(code, BINXENT_KERNELS=chosen) == runs


def test_a_kernel_that_there_is_none_of_is_named():
    code = """
        try:
            import binxent.torch
        except ValueError as refusal:
            print(refusal)
    """
    expected = "BINXENT_KERNELS: 'cuda' is no kernel; expected some of native, triton, or nothing"
    assert python(code, BINXENT_KERNELS="native, cuda") == expected

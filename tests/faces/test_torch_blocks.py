"""Where no kernel reaches: the definition in blocks. Shown on the CPU, where the kernel is switched off."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from binxent import kernel
from binxent.call import Operands
from binxent.torch import arrays, blocks, cpu, functional
from tests.faces.torch_samples import KINDS, OURS, all_operands, an_input, uniform

both_kinds = pytest.mark.parametrize("kind", KINDS)
REDUCTIONS = ("none", "mean", "sum", "batchmean", "weighted_mean")


@pytest.fixture(autouse=True)
def switched_off(monkeypatch):
    monkeypatch.setattr(cpu, "_MAY_READ", False)
    monkeypatch.setattr(blocks, "_BLOCK", 7)
    before = kernel.runs()
    yield
    assert kernel.runs() == before


def by_the_definition(monkeypatch, run):
    """The whole definition, on autograd's tape."""
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "reads", lambda _: False)
        return run()


@pytest.mark.parametrize("shape", [(), (1,), (50,), (8, 5), (1, 30), (3, 2, 4, 5), (0, 4), (2, 0)])
def test_parts_cover_every_element_once(shape):
    seen = torch.zeros(shape)
    for part in blocks._parts(shape, 7):
        assert seen[part].numel() <= 7
        seen[part] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
@both_kinds
def test_loss_and_gradients_are_the_definitions(kind, reduction, dtype, masked, monkeypatch):
    options = {"reduction": reduction, "label_smoothing": 0.1, "gamma": 1.5}
    if masked:
        options |= {"mask": torch.arange(5) % 2 > 0, "ignore_index": -100}

    def run():
        given = {n: o.clone().requires_grad_(o.is_floating_point()) for n, o in all_operands(kind, 8, 5, dtype).items()}
        wanted = [operand for operand in given.values() if operand.requires_grad]
        loss = OURS[kind](**given, **options)
        incoming = torch.linspace(0.5, 2, loss.numel()).reshape(loss.shape).to(loss.dtype)
        return loss, *torch.autograd.grad(loss, wanted, incoming)

    for found, exact in zip(run(), by_the_definition(monkeypatch, run), strict=True):
        assert found.dtype == exact.dtype
        torch.testing.assert_close(found, exact)


@both_kinds
def test_a_backward_for_any_incoming_gradient_and_a_second_one(kind, monkeypatch):
    x, y = an_input(kind, 8, 5, dtype=torch.float16).requires_grad_(), uniform(8, 5, dtype=torch.float16)
    loss, exact = OURS[kind](x, y), by_the_definition(monkeypatch, lambda: OURS[kind](x, y))
    for by in (1.0, 1024.0, 1.0):
        found = torch.autograd.grad(loss, x, torch.tensor(by).half(), retain_graph=True)
        expected = torch.autograd.grad(exact, x, torch.tensor(by).half(), retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=5e-6 * by)  # two terms that nearly cancel


@both_kinds
def test_a_scale_keeps_what_half_precision_would_lose(kind, monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 10_000)  # of seven elements there would be 70 000
    x, y = an_input(kind, 1000, 500, dtype=torch.float16).requires_grad_(), uniform(1000, 500, dtype=torch.float16)
    (OURS[kind](x, y, reduction="mean").float() * 65536).backward()
    assert (x.grad != 0).float().mean() > 0.99


def test_the_gradient_takes_the_place_of_the_logits():
    leaf, y = an_input("logits", 8, 5).requires_grad_(), uniform(8, 5)
    logits = leaf * 1
    address = logits.data_ptr()
    places = []
    logits.register_hook(lambda gradient: places.append(gradient.data_ptr()))
    OURS["logits"](logits, y, inplace_backward=True).backward()
    assert places == [address]
    torch.testing.assert_close(leaf.grad, (leaf.detach().sigmoid() - y) / 40)


def test_the_first_element_out_of_range_is_named():
    q = torch.full((8, 5), 0.5, requires_grad=True)
    with torch.no_grad():
        q[6, 2] = 1.5
    with pytest.raises(RuntimeError, match=r"input\[6, 2\] is 1.5"):
        OURS["probabilities"](q, torch.ones(8, 5))
    OURS["probabilities"](q, torch.ones(8, 5), mask=q.detach() < 1).backward()
    with pytest.raises(ValueError, match="gamma"):
        OURS["logits"](q, torch.ones(8, 5), gamma=torch.tensor(-1.0, requires_grad=True))


def test_elsewhere_what_is_out_of_range_is_nan():
    """The adapter's, which no CPU tensor gets to see: there it has been refused."""
    call = functional.known_plan(arrays.PROBABILITIES, "none", ("float32", "float32"), (3,), (3,))
    q, y = torch.tensor([0.5, 1.5, 0.5]), torch.tensor([1.0, 1.0, 2.0])
    assert blocks.ARRAYS.probability(call, q, y).isnan().tolist() == [False, True, True]


@both_kinds
def test_second_derivatives(kind):
    x, y = an_input(kind, 4, 3, dtype=torch.float64).requires_grad_(), uniform(4, 3, dtype=torch.float64)
    for reduction in ("mean", "none"):
        assert torch.autograd.gradcheck(lambda x, by=reduction: OURS[kind](x, y, reduction=by), x)
        assert torch.autograd.gradgradcheck(lambda x, by=reduction: OURS[kind](x, y, reduction=by), x)


@pytest.mark.parametrize("odd", ["meta", "subclass", "sparse", "complex"])
def test_tensors_that_have_no_plain_numbers_are_left_to_torch(odd):
    plain = torch.zeros(3)
    other = {
        "meta": torch.zeros(3, device="meta"),
        "subclass": torch.zeros(3).as_subclass(type("Subclass", (torch.Tensor,), {})),
        "sparse": torch.zeros(3).to_sparse(),
        "complex": torch.zeros(3, dtype=torch.complex64),
    }[odd]
    assert blocks.reads((plain, plain, None))
    assert not blocks.reads((plain, other))
    assert not blocks.reads((other, plain))


class _Counted(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function._schema.name.removeprefix("aten::"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 18),
        ({"weight": torch.rand(5)}, 21),
        ({"pos_weight": torch.rand(5)}, 25),
        ({"label_smoothing": 0.1}, 25),
        ({"gamma": 2.0}, 44),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else str(value),
)
def test_a_block_takes_few_operations(options, most, monkeypatch):
    """Each is a pass over the block: in the definition of loss and gradient one by one there are 46."""
    given = {n: o for n, o in options.items() if isinstance(o, torch.Tensor)}
    numbers = {n: o for n, o in options.items() if n not in given}
    shapes = {name: tuple(operand.shape) for name, operand in given.items()}
    x, y = an_input("logits", 16, 5, dtype=torch.float32), uniform(16, 5, dtype=torch.float32)
    call = functional.known_plan(arrays.LOGITS, "mean", ("float32", "float32"), (16, 5), (16, 5), **shapes, **numbers)
    counts = []
    for block in (80, 5):  # one block, and 16
        monkeypatch.setattr(blocks, "_BLOCK", block)
        with _Counted() as seen:
            blocks.loss_and_gradient(call, Operands(x, y, **given))
        assert not {"where", "_to_copy", "copy_"} & set(seen.names[1:])
        counts.append(len(seen.names))
    assert (counts[1] - counts[0]) / 15 <= most


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_infinities_are_seen_in_the_sum(reduction, monkeypatch):
    """Where a coefficient is 0, an infinite logit costs nothing, and no NaN."""
    inf = torch.inf
    x = torch.tensor([inf, -inf, 1.0, inf, -inf, 2.0, 0.5, 3.0]).requires_grad_()
    y = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0])

    def run():
        loss = OURS["logits"](x, y, reduction=reduction)
        return loss, *torch.autograd.grad(loss.sum(), x)

    found, exact = run(), by_the_definition(monkeypatch, run)
    assert found[0].isfinite().all()
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        y[0] = 0
    assert run()[0].max() == inf
    with torch.no_grad():
        x[2] = torch.nan
    assert run()[0].isnan().any()

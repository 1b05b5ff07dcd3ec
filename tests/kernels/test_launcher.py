"""How a launch finds the compiled kernel again. No card is needed: a kernel that only takes notes stands for one."""

from __future__ import annotations

import itertools
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from binxent.call import Operands, normalized, plan
from binxent.formula import LOGITS
from binxent.kernels import Outputs
from binxent.kernels.triton import launch, launcher, programs, repeated, views

CARD = torch.device("cuda", 0)
STREAM = 77


class Noting(JITFunction):
    """A program that compiles nothing: it notes the launches by Triton, and its kernel those of the compiled one."""

    def __init__(self, program: Any) -> None:
        super().__init__(program.fn, do_not_specialize=programs.NUMBERS)
        self.ordinary: list[Any] = []
        self.direct: list[Any] = []

    def run(self, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        assert options == launcher.OPTIONS
        self.ordinary.append((grid, arguments))
        return SimpleNamespace(
            function="function", packed_metadata="metadata", run=lambda *taken: self.direct.append(taken)
        )


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Noting:
    noting = Noting(programs.loss)
    monkeypatch.setattr(programs, "loss", noting)
    monkeypatch.setattr(launcher, "_IS_KNOWN", True)
    monkeypatch.setattr(launcher, "_compiled", {})
    monkeypatch.setattr(repeated, "_repeated", {})
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda _: STREAM, raising=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        launch,
        "launch",
        lambda program, count, _, *given, **more: launcher.launch(program, count, CARD, *given, **more),
    )
    return noting


def step(
    size: int = 64, dtype: str = "float32", offset: int = 0, reduction: str = "mean", **number: Any
) -> dict[str, torch.Tensor]:
    """One call; the tensors that it takes, by the program's names."""
    kind = getattr(torch, dtype)
    tensors = {name: torch.zeros(size + offset, dtype=kind)[offset:] for name in ("input", "target", "gradient")}
    tensors["total"] = torch.zeros((), dtype=kind)
    call = plan(LOGITS, reduction, (dtype, dtype), (size,), (size,))
    if number:
        call = normalized(call, number["normalizer"])
    operands = Operands(tensors["input"], tensors["target"])
    launch.compute(call, operands, Outputs(None, tensors["total"], tensors["gradient"]))
    return tensors


def test_the_second_launch_is_that_of_the_compiled_kernel(program: Noting) -> None:
    step()
    tensors = step()
    assert len(program.ordinary) == 1
    ((x, y, z, stream, function, metadata, for_hooks, enter, leave, *arguments),) = program.direct
    assert (x, y, z, stream, function, metadata) == (1, 1, 1, STREAM, "function", "metadata")
    assert for_hooks is enter is leave is None
    # All arguments of the program in its own order, the constants too, as ``JITFunction.run`` hands them over.
    taken = dict(zip(program.arg_names, arguments, strict=True))
    for name in ("input", "target", "gradient"):
        assert taken[name].pointer is tensors[name]
        assert taken[name].strides == (1,)
    assert taken["total"] is tensors["total"]
    assert (taken["n"], taken["sizes"], taken["BLOCK"]) == (64, (), launch.BLOCK)
    assert taken["weight"] is taken["partial"] is taken["arrived"] is None
    (_, first), *_ = program.ordinary
    kinds = [type(argument) for argument in arguments]
    assert kinds == [type(argument) for argument in first]


def test_a_number_that_changes_is_an_argument(program: Noting) -> None:
    launch._numerics.cache_clear()
    for normalizer in (3.0, 7.0, 16.0, 1.0):
        step(normalizer=normalizer)
    assert len(program.ordinary) == 1
    assert launch._numerics.cache_info().misses == 1
    found = {taken[9 + program.arg_names.index("incoming_bits")] for taken in program.direct}
    assert len(found) == 3  # the factor


def test_what_triton_compiles_for_is_compiled_for(program: Noting) -> None:
    variants: list[dict[str, Any]] = [{}, {"size": 63}, {"size": 4096}, {"size": 1}, {"dtype": "float64"}]
    variants += [{"dtype": "float16"}, {"offset": 1}]
    for _ in range(2):
        for variant in variants:
            step(**variant)
    assert len(program.ordinary) == len(variants)
    assert len(program.direct) == len(variants)
    step(size=6144)  # as many blocks more change nothing
    assert len(program.ordinary) == len(variants)


def divisor_of(variant: dict[str, Any]) -> float:
    return 1.0 if "reduction" in variant else float(variant.get("size", 64))


def test_a_launch_is_repeated_only_for_what_lies_alike(program: Noting) -> None:
    """And for the same numbers; it keeps no tensor alive."""
    launch._numerics.cache_clear()
    step()
    before = launch._numerics.cache_info()
    tensors = step()
    assert launch._numerics.cache_info() == before  # nothing was found again
    dead = weakref.ref(tensors.pop("input"))
    tensors.clear()
    program.direct.clear()
    assert dead() is None
    variants: list[dict[str, Any]] = [{"size": 128}, {"dtype": "float64"}, {"offset": 1}, {"reduction": "sum"}]
    variants += [{"normalizer": 3.0}, {"normalizer": 5.0}]
    for variant in variants:
        kept = len(repeated._repeated)
        step(**variant)
        tensors = step(**variant)
        assert len(repeated._repeated) == kept + ("normalizer" not in variant)
        taken = dict(zip(program.arg_names, program.direct[-1][9:], strict=True))
        for name in ("input", "target", "gradient"):
            assert taken[name].pointer is tensors[name]
        assert taken["total"] is tensors["total"]
        assert taken["n"] == len(tensors["input"])
        assert taken["divisor_bits"] == launch.bits(variant.get("normalizer", divisor_of(variant)), True)
    for size in range(1, repeated.MOST):
        step(size=size)
        step(size=size)
    assert len(repeated._repeated) <= repeated.MOST


def test_other_launches_are_tritons(program: Noting, monkeypatch: pytest.MonkeyPatch) -> None:
    step()
    hook = lambda *_: None  # noqa: E731
    chain = triton.knobs.runtime.launch_enter_hook
    chain.add(hook)
    try:
        step()
    finally:
        chain.remove(hook)
    assert (len(program.ordinary), len(program.direct)) == (2, 0)
    program.add_pre_run_hook(hook)
    step()
    program.pre_run_hooks.clear()
    assert (len(program.ordinary), len(program.direct)) == (3, 0)
    monkeypatch.setattr(launcher, "_IS_KNOWN", False)  # another version, or the interpreter
    step()
    assert (len(program.ordinary), len(program.direct)) == (4, 0)


def test_a_kernel_that_is_still_being_compiled_is_not_kept(program: Noting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noting, "run", lambda self, *given, **_: self.ordinary.append(given))
    step()
    step()
    assert (len(program.ordinary), len(program.direct)) == (2, 0)


def test_the_key_is_as_fine_as_tritons(program: Noting) -> None:
    """Two launches that Triton would compile apart never share a kernel; those that it would not, do."""
    backend = make_backend(GPUTarget("cuda", 90, 32))
    bind = create_function_from_signature(program.signature, program.params, backend)
    numbers = (0, 1, 2, 15, 16, 17, -1, -16, 2**31 - 1, 2**31, 2**32, -(2**31), -(2**31) - 1, 2**63 - 1)
    whole = torch.zeros(64)
    tensors = (whole, whole[1:], whole[4:], whole.half(), whole.bool(), whole.double()[:0], None)
    base = dict.fromkeys(program.arg_names) | {"input": views.views((whole,), whole.shape, 64)[0][0]}
    base |= {"sizes": (), "n": 64, "dtype": triton.language.float32, "WIDE": 0}
    changes: list[dict[str, Any]] = [{"n": n} for n in numbers if n >= 0]
    changes += [{"incoming_bits": n} for n in (*numbers, None)]
    changes += [{"total": tensor} for tensor in tensors]
    changes += [{"sizes": sizes} for sizes in ((), (1,), (16,), (17,), (2**31,), (16, 17), (17, 16))]
    changes += [{"input": base["input"]._replace(strides=strides)} for strides in ((), (1,), (2,), (16,), (0, 16))]
    changes += [{"input": base["input"]._replace(pointer=tensor)} for tensor in tensors[:-1]]
    labels = views.Rows(torch.zeros(9, dtype=torch.int64), torch.zeros(16, dtype=torch.int32), None, 64, 0)
    changes += [
        {"target": labels},
        {"target": labels._replace(stored=whole)},
        {"target": labels._replace(stored=whole[1:])},
    ]
    changes += [{"target": labels._replace(columns=columns)} for columns in (1, 63)]
    changes += [{"target": labels._replace(first=1)}, {"target": labels._replace(indices=labels.indices.long())}]
    changes += [{"WIDE": 1}, {"dtype": triton.language.float64}, {"BLOCK": 64}, {"SHORT": True}]
    descriptions = []
    for change in changes:
        arguments = tuple((base | change)[name] for name in program.arg_names)
        _, theirs, _ = bind(*arguments, **launcher.OPTIONS)
        descriptions.append((launcher.described(program, arguments), theirs))
    for (ours, theirs), (others, other_theirs) in itertools.combinations(descriptions, 2):
        assert (ours == others) == (theirs == other_theirs)

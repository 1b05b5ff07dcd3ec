"""What Triton's compiler makes of the programs for an H100: it needs no card for that.

``python -m tests.kernels.compiled float32:pos_weight bfloat16:plain:bool`` counts what matters in the code of such
calls (input, option, target); ``everything`` compiles the programs for each option, and prints how many there were.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from benchmarks.instructions import sass
from binxent import options
from binxent.call import Operands, plan
from binxent.formula import LOGITS, PROBABILITIES
from binxent.kernels import Outputs
from binxent.kernels.triton import launch, launcher
from binxent.targets import SparseRows

CARD = GPUTarget("cuda", 90, 32)
SHAPE = (4, 16, 1024)
found: list[Any] = []


def compile_instead(program: Any, programs: int, device: torch.device, *arguments: Any, kernel: Any = None) -> None:
    """Of a launch: compiles what it would have run, for the same types, alignments and sizes."""
    backend = make_backend(CARD)
    settings = {**launcher.OPTIONS, "debug": False}
    bind = create_function_from_signature(program.signature, program.params, backend)
    bound, specialization, options = bind(*arguments, **settings)
    options, signature, constants, attributes = program._pack_args(backend, settings, bound, specialization, options)
    source = ASTSource(program, signature, constants, attributes)
    found.append(triton.compile(source, target=CARD, options=options.__dict__))


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mask": {"mask": ones(*SHAPE, dtype=torch.bool)},
    "pos_weight": {"pos_weight": ones(SHAPE[-1])},
    "weights": {"weight": ones(16, 1), "sample_weight": ones(4, 1, 1), "mask": ones(16, 1, dtype=torch.bfloat16)},
    "numbers": {"ignore_index": 3, "label_smoothing": 0.1, "gamma": 2.0},
    "learnt": {"label_smoothing": ones(), "gamma": ones(), "ignore_index": float("nan")},
    "classes": {"pos_weight": ones(SHAPE[-1]), "neg_weight": ones(SHAPE[-1]), "check_targets": True},
    "alpha": {"focal": options.focal(alpha=0.25)},
    "powers": {"focal": options.focal(gamma_positive=1.0, gamma_negative=4.0, margin=0.05), "weight": ones(16, 1)},
    "p_t": {"gamma": 2.0, "focal": options.focal(alpha=0.25, focal="p_t"), "label_smoothing": 0.1},
    "learnt p_t": {"gamma": ones(), "focal": options.focal(alpha=0.25, focal="p_t")},
}


def call(
    dtype: str, option: str, target: str = "", *, probabilities: bool = False, reduction: str = "mean"
) -> tuple[Any, Operands]:
    given = OPTIONS[option]
    tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
    numbers = {name: value for name, value in given.items() if name not in tensors}
    shapes = {
        name: SHAPE[:1] if name == "sample_weight" else tuple(tensor.shape)
        for name, tensor in tensors.items()
        if name not in ("label_smoothing", "gamma")
    }
    loss = PROBABILITIES if probabilities else LOGITS
    asked = plan(loss, reduction, (dtype, target or dtype), SHAPE, SHAPE, **shapes, **numbers)
    input, other = (torch.zeros(SHAPE, dtype=getattr(torch, name)) for name in (dtype, target or dtype))
    return asked, Operands(input, other, **tensors)


def one(dtype: str, option: str, target: str = "", *, alone: bool = False) -> Any:
    """The kernel of loss, gradient and mean; ``alone``: of the gradient."""
    asked, operands = call(dtype, option, target)
    total = None if alone else torch.zeros((), dtype=operands.input.dtype)
    launch.compute(asked, operands, Outputs(None, total, operands.input), divisor=2.0**16)
    return found.pop()


def executed(kernel: Any) -> int:
    """How many instructions a thread executes in a block in the middle. It takes each jump forward, since what is
    jumped over is for sums that are not finite, or for the last program."""
    instructions = sass.instructions(kernel.asm["cubin"])
    places = {place: k for k, (place, _) in enumerate(instructions)}
    count = k = 0
    while "EXIT" not in instructions[k][1]:
        place, what = instructions[k]
        target = sass.jump(what)
        k = places[target] if target is not None and target > place else k + 1
        count += 1
    return count + 1


def elements_of_a_thread(dtype: str) -> float:
    return launch.block_of(dtype) / (32 * launcher.OPTIONS["num_warps"])


# Each option, both losses and the three types of arithmetic; not their product, which takes a minute.
CASES = [
    *(("float32", option, False) for option in OPTIONS),
    *(("bfloat16", option, False) for option in ("plain", "weights", "powers")),
    *(("float64", option, False) for option in ("plain", "numbers", "p_t")),
    *(("float32", option, True) for option in ("plain", "learnt", "classes", "powers", "p_t")),
    ("float16", "numbers", True),
]


def everything() -> int:
    for dtype, option, probabilities in CASES:
        asked, operands = call(dtype, option, probabilities=probabilities, reduction="weighted_mean")
        result = torch.zeros(SHAPE, dtype=operands.input.dtype)
        total = result.sum()
        launch.compute(asked, operands, Outputs(result, total, result))  # and measure, where the option has one
        launch.remake(asked, operands, result, incoming=total, made_for=total, divisor=total)
    for dtype, target in (("float16", "bool"), ("float32", "float16"), ("bfloat16", "float64"), ("float16", "int64")):
        asked, operands = call(dtype, "plain", target)
        launch.compute(asked, operands, Outputs(total=total, gradient=operands.input))
    asked, operands = call("float32", "weights")
    far = torch.empty(2**33, dtype=torch.int8).view(torch.float32)
    for input in (operands.input.mT.contiguous().mT, far.as_strided(SHAPE, (2**29, 2048, 2))):
        strided = operands._replace(input=input)
        launch.compute(asked, strided, Outputs(input, total, input), divisor=1.0, incoming=operands.input)
        launch.remake(asked, strided, input, incoming=operands.input, divisor=1.0)
    launch.compute(asked, Operands(ones(1), ones(1)), Outputs(ones(1), total, ones(1)), divisor=1.0)
    labels = torch.zeros(64, dtype=torch.int64)
    for width, index, values in ((64, torch.int32, labels.bool()), (1, torch.int64, None)):
        rows = SparseRows(labels, labels.to(index), values, (63, width))
        asked = plan(LOGITS, "mean", ("float32", "bool"), rows.shape, rows.shape, ignore_index=0)
        launch.compute(asked, Operands(ones(*rows.shape), rows), Outputs(total=total))
    return len(found)


def main() -> None:
    launch.launch = compile_instead
    if sys.argv[1:] == ["everything"]:
        print(everything())
        return
    for case in sys.argv[1:]:
        dtype, option, *target = case.split(":")
        kernel = one(dtype, option, *target)
        code, of_gradient = kernel.asm["ptx"], one(dtype, option, *target, alone=True).asm["ptx"]
        loads = re.findall(r"ld\.global(?:\.v(\d))?\.b(\d+)", code)
        sizes = [int(number or 1) * int(width) for number, width in loads]
        counts = {
            "wide loads": sizes.count(128),
            "narrow loads": sum(size < 64 for size in sizes),
            "float atomics": len(re.findall(r"atom\.[\w.]*f(?:32|64)", code)),
            "spilled": len(re.findall(r"\.local", code)),
            "float64 of a gradient alone": len(re.findall(r"\.f64", of_gradient)),
            "instructions of an element": round(executed(kernel) / elements_of_a_thread(dtype), 1),
        }
        print(json.dumps({"case": case, **counts}))


if __name__ == "__main__":
    main()

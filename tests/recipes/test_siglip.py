"""docs/recipes.md: the sigmoid loss of all pairs, beside open_clip's formula."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from binxent import IndexTargets
from binxent.torch import LinearBCEOptions, linear_binary_cross_entropy_with_logits
from tests.processes import python
from tests.recipes import page

FORMULA, OURS = page.sides(page.blocks("SigLIP", "diff")[0])
NONE = page.sides(page.blocks("SigLIP", "diff")[1])[1]
LEARNT = ("image", "text", "log_scale", "bias")


def test_the_switch() -> None:
    ours = page.check_switch("SigLIP", rtol=1e-5)
    assert ours.kernel_runs == len(ours.losses) == 20


def operands(images: int, texts: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, text = (
        normalize(torch.randn(rows, 11, dtype=torch.float64, generator=generator)) for rows in (images, texts)
    )
    log_scale, bias = torch.tensor([2.0, -3.0], dtype=torch.float64)
    return {"image": image, "text": text, "log_scale": log_scale.clone(), "bias": bias.clone()}


def loss_and_gradients(code: str, given: dict[str, Tensor], **names: Any) -> tuple[Tensor, ...]:
    learnt = {name: given[name].clone().requires_grad_() for name in LEARNT}
    names |= {"torch": torch, "IndexTargets": IndexTargets, "scale": learnt["log_scale"].exp(), **learnt}
    exec(code, names)
    return names["loss"].detach(), *torch.autograd.grad(names["loss"], list(learnt.values()))


def head(chunk: int | None) -> Any:
    return functools.partial(linear_binary_cross_entropy_with_logits, options=LinearBCEOptions(max_chunk_bytes=chunk))


def check_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for name, one, other in zip(("loss", *LEARNT), found, expected, strict=True):
        assert one.dtype == other.dtype == torch.float64
        assert one.shape == other.shape
        error = (one - other).abs().max() / other.abs().max()
        assert error < 1e-14, f"{name}: {error}"


# Of 37 labels, the last chunk has fewer than the others.
CHUNKS = {"one": None, "eight": 37 * 8 * 5}


@pytest.mark.parametrize("chunks", CHUNKS)
def test_loss_and_gradients_are_those_of_the_formula(chunks: str) -> None:
    given = operands(37, 37)
    ours = loss_and_gradients(OURS, given, linear_binary_cross_entropy_with_logits=head(CHUNKS[chunks]))
    check_close(ours, loss_and_gradients(FORMULA, given))


@pytest.mark.parametrize("chunks", CHUNKS)
def test_texts_of_another_process_are_all_negative(chunks: str) -> None:
    given = operands(23, 37)
    code = NONE + OURS.splitlines()[-1].replace("pairs", "none")
    ours = loss_and_gradients(code, given, linear_binary_cross_entropy_with_logits=head(CHUNKS[chunks]))
    formula = FORMULA.replace(FORMULA.splitlines()[0], "labels = -1")
    check_close(ours, loss_and_gradients(formula, given))


def peak(code: str, chunk: int) -> int:
    """The bytes that loss and gradients of 4096 pairs take at most, above what is there before, beside a tiny batch."""
    return int(
        python(
            f"""
            import functools, torch
            from pathlib import Path
            from binxent import IndexTargets
            from binxent.torch import LinearBCEOptions, linear_binary_cross_entropy_with_logits

            linear_binary_cross_entropy_with_logits = functools.partial(
                linear_binary_cross_entropy_with_logits, options=LinearBCEOptions(max_chunk_bytes={chunk})
            )

            def status(key):
                lines = Path("/proc/self/status").read_text().splitlines()
                return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

            def step(number):
                names = {{name: torch.tensor(10.0, requires_grad=True) for name in ("scale", "bias")}}
                names |= {{name: torch.randn(number, 16, requires_grad=True) for name in ("image", "text")}}

                def run():
                    exec({code!r}, {{**globals(), **names}}, names)
                    names.pop("loss").backward()
                return run

            torch.set_num_threads(2)
            step(8)()
            large = step(4096)
            before = status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
            large()
            print(status("VmHWM") - before)
            """
        )
    )


def test_memory_is_that_of_one_chunk() -> None:
    chunk, logits = 4 * 2**20, 4096**2 * 4
    assert peak(FORMULA, chunk) > 2 * logits
    assert peak(OURS, chunk) < logits / 4

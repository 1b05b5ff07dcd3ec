"""Which mode of which face reaches the kernel, and which computes the formula: the docs' table, made from what runs.

``python -m tests.conformance.modes`` prints the table of docs/modes.md; test_modes.py checks both against each other.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from binxent import kernel

X = np.linspace(-3, 3, 12, dtype=np.float32).reshape(4, 3)
Y = (np.arange(12).reshape(4, 3) % 3 == 0).astype(np.float32)


@dataclass(frozen=True)
class Mode:
    face: str
    name: str
    route: str  # "kernel" or "formula"
    run: Callable[[], Any]

    @property
    def available(self) -> bool:
        return importlib.util.find_spec(self.face) is not None

    def taken(self) -> str:
        before = kernel.runs()
        rest = self.run()
        if callable(rest):  # what came before was not this mode's own
            before = kernel.runs()
            rest()
        return "kernel" if kernel.runs() > before else "formula"


MODES: list[Mode] = []


def mode(face: str, name: str, route: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(run: Callable[[], Any]) -> Callable[[], Any]:
        MODES.append(Mode(face, name, route, run))
        return run

    return register


@mode("numpy", "loss, `value_and_grad`", "kernel")
def _() -> Any:
    import binxent.numpy as bx

    return bx.value_and_grad(X, Y)


def torch_tensors() -> Any:
    import torch

    import binxent.torch as bx

    return bx, torch, torch.from_numpy(X).clone().requires_grad_(), torch.from_numpy(Y)


@mode("torch", "eager: forward, backward, `no_grad`, autocast", "kernel")
def _() -> Any:
    bx, _, x, y = torch_tensors()
    bx.binary_cross_entropy_with_logits(x, y).backward()


@mode("torch", "`torch.compile`", "kernel")
def _() -> Any:
    bx, torch, x, y = torch_tensors()
    torch.compile(bx.binary_cross_entropy_with_logits, fullgraph=True, backend="aot_eager")(x, y).backward()


@mode("torch", "gradient of a gradient (`create_graph=True`)", "formula")
def _() -> Any:
    bx, torch, x, y = torch_tensors()
    loss = bx.binary_cross_entropy_with_logits(x, y)  # itself by the kernel
    return lambda: torch.autograd.grad(loss, x, create_graph=True)[0].sum().backward()


@mode("torch", "`torch.func`: `grad`, `vjp`, `jvp`, `vmap`, `hessian`", "formula")
def _() -> Any:
    bx, torch, x, y = torch_tensors()
    torch.func.hessian(lambda x: bx.binary_cross_entropy_with_logits(x, y))(x.detach())


@mode("torch", "forward-mode AD", "formula")
def _() -> Any:
    bx, torch, x, y = torch_tensors()
    with torch.autograd.forward_ad.dual_level():
        bx.binary_cross_entropy_with_logits(torch.autograd.forward_ad.make_dual(x.detach(), y), y)


@mode("torch", "`torch.export`, ONNX", "formula")
def _() -> Any:
    bx, torch, x, y = torch_tensors()
    torch.export.export(bx.BCEWithLogitsLoss(), (x.detach(), y)).module()(x.detach(), y)


@mode("torch", "`torch.jit.trace`", "formula")
def _() -> Any:
    bx, torch, x, y = torch_tensors()
    torch.jit.trace(bx.binary_cross_entropy_with_logits, (x.detach(), y), check_trace=False)(x.detach(), y)


@mode("torch", "devices without a kernel, fake and meta tensors, subclasses", "formula")
def _() -> Any:
    bx, _, x, y = torch_tensors()
    bx.binary_cross_entropy_with_logits(x.to("meta"), y.to("meta"))


def paddle_tensors() -> Any:
    import paddle

    import binxent.paddle as bx

    x = paddle.to_tensor(X)
    x.stop_gradient = False
    return bx, paddle, x, paddle.to_tensor(Y)


@mode("paddle", "dynamic graph: forward, `backward`, `paddle.grad`, `no_grad`, `auto_cast`", "kernel")
def _() -> Any:
    bx, _, x, y = paddle_tensors()
    bx.binary_cross_entropy_with_logits(x, y).backward()


@mode("paddle", "gradient of a gradient (`create_graph=True`)", "formula")
def _() -> Any:
    bx, paddle, x, y = paddle_tensors()
    loss = bx.binary_cross_entropy_with_logits(x, y)
    return lambda: paddle.grad(loss, x, create_graph=True)[0].sum().backward()


def paddle_static(full_graph: bool) -> None:
    bx, paddle, x, y = paddle_tensors()
    paddle.jit.to_static(bx.BCEWithLogitsLoss(), full_graph=full_graph)(x, y).backward()


@mode("paddle", "`paddle.jit.to_static(full_graph=False)`", "kernel")
def _() -> Any:
    paddle_static(full_graph=False)


@mode("paddle", "`paddle.jit.to_static(full_graph=True)`, `paddle.jit.save`, static graph", "formula")
def _() -> Any:
    paddle_static(full_graph=True)


def mindspore_tensors() -> Any:
    import mindspore as ms

    import binxent.mindspore as bx

    return bx, ms, ms.Tensor(X), ms.Tensor(Y)


@mode("mindspore", "PyNative: forward, `grad`, `value_and_grad`", "kernel")
def _() -> Any:
    bx, ms, x, y = mindspore_tensors()
    ms.value_and_grad(bx.BCEWithLogitsLoss())(x, y)[1].asnumpy()


@mode("mindspore", "`ms.jit`, graph mode: loss, `grad`, `value_and_grad`", "kernel")
def _() -> Any:
    bx, ms, x, y = mindspore_tensors()
    ms.jit(ms.value_and_grad(bx.BCEWithLogitsLoss()))(x, y)[1].asnumpy()


@mode("mindspore", "`vmap`", "kernel")
def _() -> Any:
    bx, ms, x, y = mindspore_tensors()
    ms.vmap(bx.binary_cross_entropy_with_logits)(x, y).asnumpy()


@mode("mindspore", "`jvp`", "kernel")
def _() -> Any:
    bx, ms, x, y = mindspore_tensors()
    ms.jvp(bx.binary_cross_entropy_with_logits, (x, y), (y, x))[1].asnumpy()


@mode("mindspore", "gradient of a gradient", "formula")
def _() -> Any:
    bx, ms, x, y = mindspore_tensors()
    _, pull_back = ms.vjp(ms.grad(bx.binary_cross_entropy_with_logits), x, y)  # the loss itself by the kernel
    return lambda: pull_back(x)[0].asnumpy()


def jax_arrays() -> Any:
    import jax

    import binxent.jax as bx

    return bx, jax, jax.numpy.asarray(X), jax.numpy.asarray(Y)


@mode("jax", "eager and `jit`: loss, `grad`, `value_and_grad`", "kernel")
def _() -> Any:
    bx, jax, x, y = jax_arrays()
    jax.block_until_ready(jax.jit(jax.value_and_grad(bx.binary_cross_entropy_with_logits))(x, y))


@mode("jax", "`vmap`", "kernel")
def _() -> Any:
    bx, jax, x, y = jax_arrays()
    jax.block_until_ready(jax.vmap(bx.binary_cross_entropy_with_logits)(x, y))


@mode("jax", "`jvp`", "kernel")
def _() -> Any:
    bx, jax, x, y = jax_arrays()
    jax.block_until_ready(jax.jvp(lambda x: bx.binary_cross_entropy_with_logits(x, y), (x,), (y,)))


@mode("jax", "`hessian`", "formula")
def _() -> Any:
    bx, jax, x, y = jax_arrays()
    jax.block_until_ready(jax.jit(jax.hessian(lambda x: bx.binary_cross_entropy_with_logits(x, y)))(x))


@mode("jax", "`jax.export`", "formula")
def _() -> Any:
    bx, jax, x, y = jax_arrays()
    from jax import export

    program = jax.jit(jax.value_and_grad(bx.binary_cross_entropy_with_logits))
    jax.block_until_ready(export.export(program)(x, y).call(x, y))


def table() -> str:
    lines = ["| face | mode | on CPU |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {m.face} | {m.name} | {m.route} |" for m in MODES)])


if __name__ == "__main__":
    print(table())

"""``normalizer=`` and ``count`` in Paddle's static graphs, under to_static, and beside changes in place."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from binxent import kernel
from binxent import numpy as numpy_face
from binxent.paddle import BCEWithLogitsLoss, binary_cross_entropy_with_logits, count
from tests import pages, processes

rng = np.random.default_rng(0)
X = rng.normal(0, 3, (5, 3)).astype(np.float32)
Y = rng.random((5, 3)).astype(np.float32)
MASK = X > -1
S = rng.random(5).astype(np.float32)


@pytest.fixture
def static() -> Iterator[None]:
    paddle.enable_static()
    try:
        yield
    finally:
        paddle.disable_static()


def near(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("static")
@pytest.mark.parametrize("shape", [[5, 3], [-1, 3], [-1, -1]], ids=str)
@pytest.mark.parametrize("given", ["number", "variable", "0", "weighted_mean"])
def test_static_graph(shape: list[int], given: str) -> None:
    program = paddle.static.Program()
    with paddle.static.program_guard(program):
        x, y = paddle.static.data("x", shape), paddle.static.data("y", shape)
        s, mask = paddle.static.data("s", shape[:1]), paddle.static.data("mask", shape, "bool")
        n = paddle.static.data("n", [], "int64")
        x.stop_gradient = False
        options: dict[str, Any] = {"mask": mask, "normalizer": {"number": 7, "0": 0}.get(given, n)}
        wanted: dict[str, Any] = {"mask": MASK, "normalizer": 0 if given == "0" else 7}
        if given == "weighted_mean":
            options |= {"sample_weight": s, "reduction": given}
            wanted |= {"sample_weight": S, "reduction": given}
        loss = binary_cross_entropy_with_logits(x, y, **options)
        counts = [
            count(y),
            count(y, mask=mask),
            count(y, reduction="batchmean"),
            count(y, reduction="weighted_mean", sample_weight=s, mask=mask),
        ]
        fetched = [loss, *paddle.static.gradients(loss, x), *counts]
    feed = {"x": X, "y": Y, "s": S, "mask": MASK, "n": np.int64(7)}
    found = paddle.static.Executor(paddle.CPUPlace()).run(program, feed=feed, fetch_list=fetched)
    for ours, numpys in zip(found[:2], numpy_face.value_and_grad(X, Y, **wanted), strict=True):
        near(ours, numpys)
    assert [c.dtype.name for c in found[2:]] == ["int64", "int64", "int64", "float64"]
    assert [*found[2:5]] == [15, MASK.sum(), 5]
    assert found[5] == pytest.approx((MASK * S[:, None].astype(np.float64)).sum(), rel=1e-14)


@pytest.mark.usefixtures("static")
def test_a_normalizer_of_several_elements_in_a_static_graph() -> None:
    with paddle.static.program_guard(paddle.static.Program()):
        x = paddle.static.data("x", [5, 3])
        with pytest.raises(ValueError, match=r"normalizer: shape \(2,\); expected a number, or an array of one"):
            binary_cross_entropy_with_logits(x, x, normalizer=paddle.static.data("n", [2]))


@pytest.mark.parametrize("full_graph", [True, False])
def test_to_static(full_graph: bool) -> None:
    """A tensor may change from call to call; the sum of counts is one."""
    layer = BCEWithLogitsLoss()

    class Step(paddle.nn.Layer):
        def forward(self, x: Any, y: Any, mask: Any, others: Any) -> Any:
            return layer(x, y, mask=mask, normalizer=layer.count(y, mask=mask) + others)

    step = paddle.jit.to_static(Step(), full_graph=full_graph)
    for others in (4, 90):
        x = paddle.to_tensor(X, stop_gradient=False)
        loss = step(x, paddle.to_tensor(Y), paddle.to_tensor(MASK), paddle.to_tensor(others))
        loss.backward()
        wanted = numpy_face.value_and_grad(X, Y, mask=MASK, normalizer=MASK.sum() + others)
        for ours, numpys in zip((loss, x.grad), wanted, strict=True):
            near(ours, numpys)


def test_a_tensor_that_changes_before_the_backward_changes_nothing() -> None:
    x, normalizer = paddle.to_tensor(X, stop_gradient=False), paddle.to_tensor(7.0)
    loss = binary_cross_entropy_with_logits(x, paddle.to_tensor(Y), normalizer=normalizer)
    normalizer.set_value(paddle.to_tensor(3.0))
    (loss * 5).backward()  # another incoming gradient: the kernel runs again
    near(x.grad, 5 * numpy_face.value_and_grad(X, Y, normalizer=7)[1])


def test_beside_a_weight_that_enlarges_the_result() -> None:
    x, y, weight = paddle.to_tensor(X, stop_gradient=False), paddle.to_tensor(Y), paddle.ones([2, 5, 3])
    loss = binary_cross_entropy_with_logits(x, y, weight, normalizer=7)
    loss.backward()
    value, gradient = numpy_face.value_and_grad(X, Y, normalizer=7)
    near(loss, 2 * value)
    near(x.grad, 2 * gradient)
    assert count(y, weight=weight) == 30


@pytest.mark.parametrize("learns", ["label", "weight"])
def test_another_operand_that_learns(learns: str) -> None:
    """Where the formula computes the loss, by a number, a tensor, and 0."""
    operands = {"label": paddle.to_tensor(Y), "weight": paddle.to_tensor(S[:3])}
    operands[learns].stop_gradient = False
    for normalizer, number in ((7, 7), (paddle.to_tensor([7]), 7), (0, 0)):
        loss = binary_cross_entropy_with_logits(paddle.to_tensor(X), **operands, normalizer=normalizer)
        near(loss, numpy_face.binary_cross_entropy_with_logits(X, Y, S[:3], normalizer=number))


def test_a_count_is_measured_by_the_kernel() -> None:
    label, weight = paddle.ones([2**24 + 8]), paddle.full([2**24 + 8], 0.1)
    before = kernel.runs()
    assert count(label, mask=label).item() == 2**24 + 8  # in float32 it would be 2²⁴
    exact = (2**24 + 8) * float(np.float32(0.1))
    assert count(label, reduction="weighted_mean", weight=weight).item() == pytest.approx(exact, rel=1e-14)
    assert kernel.runs() >= before


def test_the_program_of_the_page(tmp_path: Path) -> None:
    """On two processes; in a file, which each of them imports."""
    (program,) = pages.blocks(processes.ROOT / "docs" / "means.md", "PaddlePaddle", "python")
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    # Two processes may write into one line: print writes a text and its end apart where output is not buffered.
    printed = sorted(re.findall(r"process \d .*?: (?:True|False)", done.stdout))
    assert printed == [f"process {k} of 30 labels: off by less than 1e-7: True" for k in (0, 1)]

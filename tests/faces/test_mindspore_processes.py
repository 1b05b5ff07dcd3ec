"""What needs a process of its own: MindSpore as it starts, its memory, and errors that it does not recover from."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.processes import python

if importlib.util.find_spec("mindspore") is None:
    pytest.skip("mindspore is not installed", allow_module_level=True)

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")


@pytest.fixture
def script(tmp_path) -> Callable[[str], str]:
    """Runs a program from a file, since MindSpore compiles nothing else, in a folder of its own."""

    def run(code: str) -> str:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(code))
        return python(
            f"""
            import os, runpy
            os.chdir({str(tmp_path)!r})
            runpy.run_path({str(path)!r}, run_name="__main__")
        """,
            timeout=200,
        )

    return run


PEAK = """
    import numpy as np
    import mindspore as ms
    from mindspore import mint
    import binxent.mindspore as face

    ms.runtime.launch_blocking()

    def status(name):
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    shape = (4096, 4096)
    x, y, p = ms.Tensor(np.full(shape, 0.25, np.float32)), ms.Tensor(np.full(shape, 0.5, np.float32)), ms.ops.ones(4096)

    def extra(function, pos_weight, jitted):
        def loss(x, y):
            return function(x, y, pos_weight=pos_weight)

        step = ms.value_and_grad(loss)
        step = ms.jit(step) if jitted else step
        small = ms.ops.zeros((300, 4096))
        step(small, small)[1].asnumpy()  # pools, libraries
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
        before = status("VmRSS")
        step(x, y)[1].asnumpy()
        return (status("VmHWM") - before) / x.nbytes

    print(extra({function}, {pos_weight}, {jitted}))
"""


@linux
@pytest.mark.parametrize("jitted", [False, True], ids=["pynative", "jit"])
@pytest.mark.parametrize("pos_weight", ["None", "p"])
def test_only_the_gradient_is_allocated(script, jitted, pos_weight):
    ours = PEAK.format(function="face.binary_cross_entropy_with_logits", pos_weight=pos_weight, jitted=jitted)
    assert float(script(ours)) < 1.1


@linux
def test_the_measure_sees_what_mindspore_takes(script):
    mindspores = "mint.nn.functional.binary_cross_entropy_with_logits"
    assert float(script(PEAK.format(function=mindspores, pos_weight="None", jitted=False))) > 3


def test_threads_are_not_left_at_mindspores_one():
    code = "import os; import binxent.mindspore; from binxent import kernel; print(kernel.num_threads())"
    unset = {"OMP_NUM_THREADS": None, "BINXENT_NUM_THREADS": None}
    cores = python("import os; print(len(os.sched_getaffinity(0)))")
    assert python(code, **unset) == cores
    assert python(code, **{**unset, "OMP_NUM_THREADS": "1"}) == "1"
    assert python(code, **{**unset, "BINXENT_NUM_THREADS": "3"}) == "3"


def test_mindspores_own_asynchronous_mode(script):
    """Operands that are still being computed are waited for, and errors come at once."""
    code = """
        import json
        import numpy as np
        import mindspore as ms
        import binxent.mindspore as face
        import binxent.numpy as numpy_face

        rng = np.random.default_rng(0)
        x, y = rng.random((1200, 1000)).astype(np.float32), rng.random((1200, 1000)).astype(np.float32)
        tx, ty = ms.Tensor(x), ms.Tensor(y)
        alike = []
        for probabilities in (False, True):
            function = face.binary_cross_entropy if probabilities else face.binary_cross_entropy_with_logits
            for _ in range(5):
                value, gradient = ms.value_and_grad(function)(tx * 4 / 8 + tx / 2, ty * 2 / 4 + ty / 2)
                after = (gradient * 2).asnumpy()
                exact = numpy_face.value_and_grad(x, y, probabilities=probabilities)
                alike.append(bool(value.asnumpy() == exact[0] and (after == exact[1] * 2).all()))
        refused = []
        for call in (
            lambda: face.binary_cross_entropy_with_logits(tx, ty[0]),
            lambda: face.binary_cross_entropy(tx * 3, ty),
            lambda: ms.grad(face.BCELoss())(tx * 3, ty),
        ):
            try:
                call()
            except Exception as problem:
                refused.append(type(problem).__name__)
        print(json.dumps([alike, refused]))
    """
    alike, refused = json.loads(script(code).splitlines()[-1])
    assert all(alike)
    assert refused == ["ValueError"] * 3


# MindSpore's own ends the process here: its check throws on a thread of its pool.
OUT_OF_RANGE = """
    import numpy as np
    import mindspore as ms
    import binxent.mindspore as face

    size, calls, graph = {size}, {calls}, {graph}
    if graph:
        ms.set_context(mode=ms.GRAPH_MODE)
    right, target = np.full(size, 0.5, np.float32), ms.Tensor(np.ones(size, np.float32))
    wrong = right.copy()
    wrong[size // 2] = 1.5
    loss_and_gradient = ms.value_and_grad(face.BCELoss())

    class Network(ms.nn.Cell):
        def construct(self, input, target):
            return loss_and_gradient(input * 2 / 2, target)

    step = Network() if graph else ms.jit(loss_and_gradient)
    for _ in range(calls):
        assert abs(float(step(ms.Tensor(right), target)[0]) - 0.6931472) < 1e-6
    try:
        print(float(step(ms.Tensor(wrong), target)[0]))
    except RuntimeError as problem:
        print(problem)
"""


@pytest.mark.parametrize(("size", "calls", "graph"), [(8, 0, True), (8, 8, False), (3_000_000, 8, True)])
def test_a_probability_out_of_range_in_a_graph_is_an_exception(script, size, calls, graph):
    printed = script(OUT_OF_RANGE.format(size=size, calls=calls, graph=graph))
    expected = f"all elements of input should be between 0 and 1, but element {size // 2} is 1.5"
    assert expected in printed


def test_the_formula_on_other_devices(script):
    """As far as it can be told without one: MindSpore's own operations, in float32, in both modes."""
    code = """
        import itertools
        import numpy as np
        import mindspore as ms
        from binxent.mindspore import arrays
        arrays.device = lambda: "Ascend"
        import binxent.mindspore as face
        from binxent import kernel
        import binxent.numpy as numpy_face

        rng = np.random.default_rng(0)
        x, y = rng.random((6, 5)).astype(np.float32), rng.random((6, 5)).astype(np.float32)
        w, p, s = (rng.uniform(0, 2, n).astype(np.float32) for n in (5, 5, 6))
        mask = rng.random((6, 5)) < 0.7
        tensors = [ms.Tensor(a) for a in (x, y, w, p, s)]
        every = dict(ignore_index=-100, label_smoothing=0.1, gamma=2.0)
        worst = 0.0
        for cell, probabilities in ((face.BCEWithLogitsLoss, False), (face.BCELoss, True)):
            function = face.binary_cross_entropy if probabilities else face.binary_cross_entropy_with_logits
            for reduction, changes in itertools.product(
                ("mean", "sum", "none", "batchmean", "weighted_mean"), ({}, every)
            ):
                m = ms.Tensor(mask) if changes else None
                def loss(x, y, w, p, s):
                    return function(x, y, w, reduction, pos_weight=p, sample_weight=s, mask=m, **changes)
                options = dict(weight=w, reduction=reduction, pos_weight=p, sample_weight=s, **changes)
                options["mask"] = mask if changes else None
                exact = numpy_face.value_and_grad(x, y, **options, probabilities=probabilities)
                runs = kernel.runs()
                for jitted in (False, True) if changes else (False,):  # to compile one takes a second
                    step = ms.value_and_grad(loss, (0, 1, 2, 3, 4))
                    value, gradients = (ms.jit(step) if jitted else step)(*tensors)
                    for ours, right in ((value, exact[0]), (gradients[0], exact[1])):
                        off = np.abs(ours.asnumpy() - right) / (np.abs(right) + 1e-3)
                        worst = max(worst, float(off.max()))
                    assert all(np.abs(g.asnumpy()).sum() > 0 for g in gradients)
                assert kernel.runs() == runs
        print(worst)
    """
    assert float(script(code).splitlines()[-1]) < 2e-5


def programs() -> list[str]:
    page = Path(__file__).parents[2] / "docs" / "mindspore.md"
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_documents_program_prints_what_it_says(script):
    """MindSpore's lines too: a version of it that is right would be noticed here."""
    program = programs()[1]
    promised = [line for comment in re.findall(r"# (.*;.*)", program) for line in comment.split("; ")]
    printed = script(program).splitlines()
    assert len(promised) == 10
    assert [re.sub(r"\s+", " ", line).replace("[ ", "[").replace(" ]", "]").strip() for line in printed] == promised


def test_the_documents_other_programs_run(script):
    first, _, last = programs()
    assert "1.0397" in script(first)
    ours = last.replace("mindspore.mint.nn import", "binxent.mindspore import")
    assert ours != last
    assert "all elements of input should be between 0 and 1" in script(ours)


def test_nothing_is_left_in_the_working_folder(script, tmp_path):
    code = """
        import numpy as np
        import mindspore as ms
        import binxent.mindspore as face
        x = ms.Tensor(np.zeros((4, 3), np.float32))
        ms.value_and_grad(face.BCEWithLogitsLoss())(x, x)
        ms.jit(ms.value_and_grad(face.BCEWithLogitsLoss()))(x, x)
        ms.set_context(mode=ms.GRAPH_MODE)
        print(face.BCELoss()(x, x))
    """
    assert np.isfinite(float(script(code)))
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]

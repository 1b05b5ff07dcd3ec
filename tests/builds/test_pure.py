"""An installation without the native kernel: what it computes, what it says, and what it refuses.

``nox -s pure`` installs it, where no compiler is found, and runs these and the tests of values that it names.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from binxent import kernel, kernels
from binxent.numpy import count, grad_and_hess, value_and_grad
from binxent.sparse import rows
from binxent.targets import IndexTargets
from tests import processes

pytestmark = pytest.mark.skipif(kernels.IS_BUILT, reason="the native kernel is installed: nox -s pure runs these")


def test_importing_says_once_that_the_kernel_is_missing() -> None:
    code = """
        import warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import binxent.numpy, binxent.kernel, binxent.boosting
            binxent.numpy.binary_cross_entropy_with_logits(*[binxent.numpy.eager.np.zeros(3)] * 2)
        print(len(caught), caught[0].category.__name__, "BINXENT_PURE=1" in str(caught[0].message))
    """
    assert processes.python(code) == "1 RuntimeWarning True"


def test_the_package_itself_says_nothing() -> None:
    assert processes.python("import binxent, warnings; print(binxent.__version__)")


def test_a_report_names_what_is_missing() -> None:
    from binxent.report import Report

    with pytest.raises(kernels.MissingKernelError, match=r"a report needs the native kernel.*BINXENT_PURE=1"):
        Report(["a"]).update(np.zeros((2, 1), np.float32), np.zeros((2, 1), np.int8))


def test_a_direct_call_names_what_is_missing() -> None:
    with pytest.raises(kernels.MissingKernelError, match="a direct call of the kernel needs the native kernel"):
        kernel.compute()  # type: ignore[call-arg]


def test_counts() -> None:
    target = np.array([[1, 0], [1, -100]])
    assert count(target, ignore_index=-100) == 3
    assert count(target, reduction="weighted_mean", weight=np.array([2.0, 0.5])) == 5.0


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": 2.0},
        {"gamma_positive": 1.0, "gamma_negative": 4.0, "alpha": 0.3},
        {"gamma": 2.0, "margin": 0.1},
        {"gamma": 2.0, "focal": "p_t", "alpha": 0.3},
    ],
    ids=str,
)
def test_second_derivatives(options: dict[str, Any]) -> None:
    """The exact one, by differences of the gradient; the expected one is not negative, and that where no power is."""
    x, y = np.linspace(-3, 3, 7), np.array([0, 1, 0, 1, 0.25, 1, 1])
    up, down = (grad_and_hess(x + step, y, **options)[0] for step in (1e-6, -1e-6))
    made = grad_and_hess(x, y, **options)[1]
    np.testing.assert_allclose(made, (up - down) / 2e-6, rtol=1e-7, atol=1e-9)
    assert (grad_and_hess(x, y, **options, hessian="expected")[1] >= 0).all()
    exact, expected = (grad_and_hess(x, y, alpha=0.3, hessian=hessian)[1] for hessian in ("exact", "expected"))
    np.testing.assert_array_equal(exact, expected)


def test_a_normalizer_and_a_sparse_target() -> None:
    x = np.random.default_rng(1).normal(0, 2, (3, 5))
    targets = IndexTargets.from_lists([[3, 1], [], [4]])
    dense = np.zeros((3, 5))
    dense[[0, 0, 2], [3, 1, 4]] = 1
    for normalizer in (None, 7.0, 0):
        loss, gradient = value_and_grad(x, targets, normalizer=normalizer)
        wanted, slope = value_and_grad(x, dense, normalizer=normalizer)
        assert loss == wanted
        np.testing.assert_array_equal(gradient, slope)
        assert (loss == 0) == (normalizer == 0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"indices": [3, 5], "offsets": [0, 1, 2]}, "row 1 has label 5; expected 0 to 4"),
        ({"indices": [[1, -1], [0, 2]]}, "row 0 has label -1; expected 0 to 4; what pads is named by padding="),
        ({"indices": [1, 2], "offsets": [0, 3, 2]}, "offsets: row 0 has 3"),
        ({"indices": [1, 2], "offsets": [1, 1, 2]}, "offsets: row 0 has 1"),
        ({"indices": [1, 2], "offsets": [0, 1, 1]}, "offsets: row 2 has 1"),
    ],
)
def test_labels_that_are_refused(given: dict[str, list[int]], words: str) -> None:
    arrays = {name: np.array(values) for name, values in given.items()}
    with pytest.raises(ValueError, match=re.escape(words)):
        rows(IndexTargets(**arrays), (2, 5))


def test_labels_are_sorted_without_padding_and_doubles() -> None:
    found = rows(IndexTargets(np.array([[4, 1, -1], [2, 2, 0]]), padding=-1), (2, 5))
    assert found.offsets.tolist() == [0, 2, 4]
    assert found.indices.tolist() == [1, 4, 0, 2]

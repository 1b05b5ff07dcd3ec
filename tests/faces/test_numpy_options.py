"""The options that no framework has, on NumPy: what is ignored, and what each divisor is.

That every option and every pair of them agrees with the definition is shown by tests/conformance, for every face.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from binxent import numpy as face
from tests.reference import DTYPES, Array

inf, nan = np.inf, np.nan
FUNCTIONS = {False: face.binary_cross_entropy_with_logits, True: face.binary_cross_entropy}
both_inputs = pytest.mark.parametrize("probabilities", [False, True], ids=["logits", "probabilities"])


def some(probabilities: bool, shape: tuple[int, ...] = (6, 4)) -> tuple[Array, Array]:
    rng = np.random.default_rng(3)
    x = rng.random(shape) if probabilities else rng.normal(0, 3, shape)
    return x, rng.random(shape).round()


@both_inputs
@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean", "weighted_mean"])
def test_ignoring_is_as_if_the_elements_were_not_there(probabilities: bool, reduction: str) -> None:
    x, y = some(probabilities, (24,))
    keep = np.arange(24) % 3 != 0
    weight = np.linspace(0.5, 2, 24)
    wanted, slope = face.value_and_grad(x[keep], y[keep], weight[keep], reduction, probabilities=probabilities)
    if reduction == "batchmean":  # of the batch, whatever of it is known
        wanted, slope = wanted * keep.sum() / 24, slope * keep.sum() / 24
    for hidden in (nan, inf, -inf, 1e30):
        x[~keep], y[~keep], weight[~keep] = hidden, hidden, hidden
        for options in ({"mask": keep}, {"mask": keep.astype(np.float32) * 7}):
            value, gradient = face.value_and_grad(x, y, weight, reduction, probabilities=probabilities, **options)
            assert value == pytest.approx(wanted, rel=1e-14)
            np.testing.assert_allclose(gradient[keep], slope, rtol=1e-14)
            np.testing.assert_array_equal(gradient[~keep], 0)


@both_inputs
@pytest.mark.parametrize("ignored", [-100, 2, 255, nan])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ignore_index_is_a_mask(probabilities: bool, ignored: float, dtype: str) -> None:
    x, y = (a.astype(DTYPES[dtype]) for a in some(probabilities))
    mask = np.arange(24).reshape(6, 4) % 5 > 0
    marked = np.where(mask, y, np.asarray(ignored).astype(y.dtype))
    for reduction in ("none", "mean", "sum"):
        options: Any = {"reduction": reduction, "probabilities": probabilities}
        wanted = face.value_and_grad(x, y, mask=mask, **options)
        for found in (
            face.value_and_grad(x, marked, ignore_index=ignored, **options),
            face.value_and_grad(x, marked, ignore_index=ignored, mask=mask, **options),
        ):
            np.testing.assert_array_equal(found[0], wanted[0])
            np.testing.assert_array_equal(found[1], wanted[1])


def test_an_integer_that_the_target_cannot_be_ignores_nothing() -> None:
    x, y = np.zeros(3, np.float32), np.array([0, 1, 156], np.uint8)  # 156 is what -100 would wrap to
    loss = face.binary_cross_entropy_with_logits(x, y, ignore_index=-100, reduction="none")
    assert (loss != 0).all()


@both_inputs
@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean", "weighted_mean", "none"])
def test_all_ignored_is_0_and_not_nan(probabilities: bool, reduction: str) -> None:
    x, y = some(probabilities)
    for options in ({"mask": np.zeros((6, 1), bool)}, {"ignore_index": -100}, {"mask": np.zeros((), np.uint8)}):
        target = np.full_like(y, -100) if "ignore_index" in options else y
        value, gradient = face.value_and_grad(x, target, np.ones(4), reduction, probabilities=probabilities, **options)
        np.testing.assert_array_equal(value, 0)
        np.testing.assert_array_equal(gradient, 0)
    empty = np.zeros((0, 4))
    assert FUNCTIONS[probabilities](empty, empty, mask=np.ones(4, bool)) == 0
    assert np.isnan(FUNCTIONS[probabilities](empty, empty))  # without a mask, as the frameworks have it


def test_weights_that_add_up_to_nothing() -> None:
    x, y = some(False)
    value, gradient = face.value_and_grad(x, y, np.zeros(4), "weighted_mean")
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@both_inputs
def test_divisors(probabilities: bool) -> None:
    x, y = some(probabilities)
    weight, sample_weight, mask = np.linspace(1, 2, 4), np.linspace(0, 3, 6), np.arange(24).reshape(6, 4) % 4 != 1

    def loss(reduction: str, **options: Any) -> Any:
        return FUNCTIONS[probabilities](x, y, weight, reduction=reduction, sample_weight=sample_weight, **options)

    total, kept = loss("sum"), loss("sum", mask=mask)
    assert loss("mean") == pytest.approx(total / 24)
    assert loss("mean", mask=mask) == pytest.approx(kept / mask.sum())
    assert loss("batchmean") == pytest.approx(total / 6)
    assert loss("batchmean", mask=mask) == pytest.approx(kept / 6)
    each = weight * sample_weight[:, None]
    assert loss("weighted_mean") == pytest.approx(total / each.sum())
    assert loss("weighted_mean", mask=mask) == pytest.approx(kept / each[mask].sum())
    positive = loss("weighted_mean", pos_weight=np.array(7.0))  # does not count
    assert positive == pytest.approx(loss("sum", pos_weight=np.array(7.0)) / each.sum())
    plain = FUNCTIONS[probabilities](x, y, reduction="weighted_mean")
    assert plain == FUNCTIONS[probabilities](x, y)


@both_inputs
def test_smoothing_is_of_the_target(probabilities: bool) -> None:
    x, y = some(probabilities)
    for epsilon in (1e-6, 0.1, 1, 1.0):
        soft = y * (1 - epsilon) + epsilon / 2
        wanted = FUNCTIONS[probabilities](x, soft, reduction="none")
        found = FUNCTIONS[probabilities](x, y, reduction="none", label_smoothing=epsilon)
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_a_little_smoothing_is_not_lost() -> None:
    """1 − y is smoothed by itself: of 1 − (1 − ε/2) in float32 little would remain."""
    x, y = np.array([50], np.float32), np.array([1], np.float32)
    loss = face.binary_cross_entropy_with_logits(x, y, label_smoothing=1e-6)
    assert loss == pytest.approx(50 * 0.5e-6, rel=1e-6)


@both_inputs
@pytest.mark.parametrize("gamma", [0.1, 0.5, 1, 2.0, 5.0, 30.0])
def test_focal_loss_is_finite_and_is_its_definition(probabilities: bool, gamma: float) -> None:
    x = np.linspace(1e-6, 1 - 1e-6, 201) if probabilities else np.linspace(-30, 30, 201)
    q = x if probabilities else 1 / (1 + np.exp(-x))
    for y in (0, 1):
        wanted = -((1 - q) ** gamma) * np.log(q) if y else -(q**gamma) * np.log1p(-q)
        value, gradient = face.value_and_grad(
            x, np.full(201, y), reduction="none", gamma=gamma, probabilities=probabilities
        )
        np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=1e-9)  # the textbook's own error
        numeric = np.gradient(value, x, edge_order=2)
        inside = slice(5, -5)
        np.testing.assert_allclose(gradient[inside], numeric[inside], rtol=0.05, atol=0.02)
    far = np.array([-inf, -1e4, -100, 100, 1e4, inf], np.float32) if not probabilities else np.array([0, 1], np.float32)
    for y in (0, 1):
        _, gradient = face.value_and_grad(
            far, np.full(far.size, y), reduction="none", gamma=gamma, probabilities=probabilities
        )
        assert np.isfinite(gradient).all()
    _, tail = face.value_and_grad(np.array([-40.0]), np.array([1]), gamma=gamma)
    assert tail == pytest.approx(-1)


@both_inputs
def test_what_is_hidden_may_be_out_of_range(probabilities: bool) -> None:
    x, y = np.array([0.2, 7, 0.9]), np.array([1, 0.5, -3])
    keep = np.array([True, False, False])
    assert np.isfinite(FUNCTIONS[probabilities](x, y, mask=keep))
    if probabilities:
        with pytest.raises(ValueError, match=r"target\[2\] is -3"):
            face.binary_cross_entropy(x, y, mask=np.array([True, False, True]))
        with pytest.raises(ValueError, match=r"input\[1\] is 7"):
            face.binary_cross_entropy(x, np.array([1, 1, -100]), ignore_index=-100)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"gamma": np.array([0.1, 0.2])}, TypeError, r"gamma: expected a number, got ndarray of shape \(2,\)"),
        ({"label_smoothing": np.zeros((2, 1))}, TypeError, r"label_smoothing: .* got ndarray of shape \(2, 1\)"),
        ({"ignore_index": np.arange(3)}, TypeError, r"ignore_index: .* got ndarray of shape \(3,\)"),
        ({"mask": np.ones((2, 3, 4), bool)}, ValueError, r"mask: shape \(2, 3, 4\) does not broadcast"),
        ({"mask": np.array(["a"])}, TypeError, "mask: dtype <U1 is not supported"),
    ],
)
def test_arrays_that_are_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    x = np.zeros((3, 4), np.float32)
    for function in FUNCTIONS.values():
        with pytest.raises(error, match=words):
            function(x, x, **options)
    if "mask" not in options:
        for cls in (face.BCELoss, face.BCEWithLogitsLoss):
            with pytest.raises(error, match=words):
                cls(**options)


def test_ignore_index_must_be_a_number_of_the_targets_dtype() -> None:
    x = np.zeros(3, np.float32)
    face.binary_cross_entropy_with_logits(x, x, ignore_index=-999)
    with pytest.raises(ValueError, match="-999; expected NaN or an integer that bfloat16, the target's dtype"):
        face.binary_cross_entropy_with_logits(x, x.astype(DTYPES["bfloat16"]), ignore_index=-999)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_a_wide_label_is_ignored_alone(dtype: str) -> None:
    x, most = np.zeros(4, np.float32), 2**24 - 1
    for ignored in (most, -most):
        y = np.array([ignored - 1, ignored, ignored + 1, 0], dtype)
        loss = face.binary_cross_entropy_with_logits(x, y, ignore_index=ignored, reduction="none")
        assert (loss == 0).tolist() == [False, True, False, False]
        with pytest.raises(ValueError, match=f"ignore_index: .* between -{most} and {most}"):
            face.binary_cross_entropy_with_logits(x, y, ignore_index=ignored + math.copysign(1, ignored))


def test_classes_keep_the_options() -> None:
    x, y = some(False)
    y[0] = -100
    loss = face.BCEWithLogitsLoss(reduction="batchmean", ignore_index=-100, label_smoothing=0.1, gamma=2.0)
    assert repr(loss) == "BCEWithLogitsLoss(reduction='batchmean', ignore_index=-100, label_smoothing=0.1, gamma=2.0)"
    mask = np.arange(4) > 0
    options: Any = {"ignore_index": -100, "label_smoothing": 0.1, "gamma": 2.0, "reduction": "batchmean", "mask": mask}
    wanted = face.value_and_grad(x, y, **options)
    assert loss(x, y, mask=mask) == wanted[0]
    np.testing.assert_array_equal(loss.value_and_grad(x, y, mask=mask)[1], wanted[1])

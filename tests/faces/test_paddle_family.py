"""The focal family, neg_weight, checked targets and means over all axes but one, in every mode of Paddle."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from binxent import definition, options
from binxent import numpy as numpy_face
from binxent import paddle as face
from binxent.call import Operands, averaged_axes, plan
from binxent.formula import LOGITS, PROBABILITIES
from binxent.numpy.arrays import Arrays
from tests.faces.paddle_samples import KINDS, OUR_LAYERS, OURS, an_input, array, gradient_of, runs, tensor, uniform

# Of paddle.static.gradients itself.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface")
both_kinds = pytest.mark.parametrize("kind", KINDS)
both_ways = pytest.mark.parametrize("full_graph", [True, False], ids=["full graph", "broken graph"])

LOSSES = {"logits": LOGITS, "probabilities": PROBABILITIES}
REDUCTIONS = ("none", "mean", "sum", "batchmean", "weighted_mean", "per_label", "per_sample")
MASK = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1]], bool)
OPTIONS: dict[str, dict[str, Any]] = {
    "alpha": {"alpha": 0.3},
    "powers": {"gamma_positive": 0.7, "gamma_negative": 2.2},
    "margin": {"margin": 0.05},
    "p_t": {"focal": "p_t", "gamma": 1.3},
    "neg_weight": {"neg_weight": uniform(3, seed=6) + 0.5},
    "pos_weight": {"pos_weight": uniform(4, 1, seed=3) + 0.5},
    "gamma": {"gamma": 1.7},
    "label_smoothing": {"label_smoothing": 0.2},
    "mask": {"mask": MASK},
    "ignore_index": {"ignore_index": -100},
}
NEW = ("alpha", "powers", "margin", "p_t", "neg_weight")
NEVER = ({"p_t", "powers"}, {"p_t", "margin"}, {"p_t", "gamma"}, {"powers", "gamma"})
PAIRS = [pair for pair in itertools.combinations(OPTIONS, 2) if {*pair} & {*NEW} and {*pair} not in NEVER]
# Each pair has a reduction, and each reduction some pairs.
CASES = list(zip(PAIRS, itertools.cycle(REDUCTIONS), strict=False))
every_pair = pytest.mark.parametrize(("pair", "reduction"), CASES, ids=lambda value: "-".join(np.atleast_1d(value)))
ARRAYS = ("input", "label", "weight", "sample_weight", "pos_weight", "neg_weight")


def samples(kind: str, pair: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Operands in float64, and the other options. What the mask hides is what no derivative may see."""
    hidden = ~MASK if "mask" in pair else np.zeros((4, 3), bool)
    values = {
        "input": np.where(hidden, [np.nan, np.inf, -np.inf], an_input(kind, 4, 3) / (3 if kind == "logits" else 1)),
        "label": np.where(hidden, np.nan, uniform(4, 3)),
        "weight": np.where(hidden, [np.inf, np.nan, -1], uniform(4, 3, seed=2) + 0.5),
        "sample_weight": uniform(4, seed=4) + 0.5,
    }
    if "ignore_index" in pair:
        values["label"][1, 1] = -100
    rest: dict[str, Any] = {}
    for name in pair:
        for key, value in OPTIONS[name].items():
            (values if key in ARRAYS else rest)[key] = value
    return values, rest


def exact(
    kind: str, reduction: str, values: dict[str, Any], rest: dict[str, Any]
) -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    """The loss, and the gradients of its sum, by the definition in extended precision."""
    xp = Arrays(np.longdouble)
    x, y = values["input"], values["label"]
    s = values["sample_weight"]
    numbers = {name: rest.get(name) for name in ("alpha", "gamma_positive", "gamma_negative")}
    family = options.focal(**numbers, margin=rest.get("margin", 0), focal=rest.get("focal", "branch"))
    given = {name: values.get(name) for name in ("weight", "pos_weight", "neg_weight")} | {"mask": rest.get("mask")}
    shapes = {name: None if value is None else value.shape for name, value in given.items()}
    of_elements = reduction in options.BY_AXIS
    call = plan(
        LOSSES[kind],
        "none" if of_elements else reduction,
        ("float64", "float64"),
        x.shape,
        y.shape,
        sample_weight=s.shape,
        **shapes,
        ignore_index=rest.get("ignore_index"),
        label_smoothing=rest.get("label_smoothing", 0),
        gamma=rest.get("gamma", 0),
        focal=family,
        any_target=True,
    )
    operands = Operands(x, y, sample_weight=s.reshape(-1, 1), **given)
    with np.errstate(all="ignore"):
        prepared = definition.prepare(xp, call, operands)
        each = definition.elements(xp, call, prepared)
        incoming: Any = np.longdouble(1)
        if of_elements:
            axes = averaged_axes(reduction, x.ndim)
            keep = np.ones(x.shape, bool) if prepared.keep is None else np.broadcast_to(prepared.keep, x.shape)
            counts = keep.sum(axis=axes, keepdims=True)
            incoming = np.where(counts == 0, 0, 1 / np.maximum(counts, 1).astype(np.longdouble))
            loss = (each * incoming).sum(axis=axes)
        else:
            loss = each if reduction == "none" else definition.mean(xp, call, prepared, each)
        own = {"label": "target"}
        gradients = {
            name: definition.gradient(xp, call, operands, prepared, own.get(name, name), "float64", incoming)
            for name in values
        }
    return np.asarray(loss), {name: g.reshape(values[name].shape) for name, g in gradients.items()}


def near(found: Any, wanted: Any, rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted, np.float64), rtol=rtol, atol=1e-14)


def in_paddle(rest: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor(value, "bool") if name == "mask" else value for name, value in rest.items()}


@every_pair
@both_kinds
def test_by_the_kernel(kind: str, pair: tuple[str, ...], reduction: str) -> None:
    values, rest = samples(kind, pair)
    loss, gradients = exact(kind, reduction, values, rest)
    operands = {name: tensor(value, "float64") for name, value in values.items()}
    x, y = operands.pop("input"), operands.pop("label")
    x.stop_gradient = False

    def step() -> None:
        found = OURS[kind](x, y, reduction=reduction, **operands, **in_paddle(rest))
        near(array(found), loss)
        near(gradient_of(found.sum(), x), gradients["input"])

    assert runs(step) > 0


@every_pair
@both_kinds
def test_by_the_definition(kind: str, pair: tuple[str, ...], reduction: str) -> None:
    values, rest = samples(kind, pair)
    loss, gradients = exact(kind, reduction, values, rest)
    operands = {name: tensor(value, "float64", learns=True) for name, value in values.items()}
    given = {**operands, **in_paddle(rest)}
    found = OURS[kind](given.pop("input"), given.pop("label"), reduction=reduction, **given)
    near(array(found), loss)
    found.sum().backward()
    for name, operand in operands.items():
        near(array(operand.grad), gradients[name])


@pytest.fixture
def static() -> Iterator[None]:
    paddle.enable_static()
    try:
        with paddle.static.program_guard(paddle.static.Program(), paddle.static.Program()):
            yield
    finally:
        paddle.disable_static()


def run(results: list[Any], **feed: Any) -> list[Any]:
    return paddle.static.Executor(paddle.CPUPlace()).run(feed=feed, fetch_list=results)


def placeholders(values: dict[str, Any], shape: list[int] | None = None) -> dict[str, Any]:
    """The variables of a static graph. Those of the input's shape may be unknown."""
    inside = {}
    for name, value in values.items():
        known = list(value.shape) if shape is None or value.shape != (4, 3) else shape
        inside[name] = paddle.static.data(name, known, str(value.dtype))
        inside[name].stop_gradient = value.dtype == bool
    return inside


@every_pair
@both_kinds
def test_in_a_static_graph(static: None, kind: str, pair: tuple[str, ...], reduction: str) -> None:
    values, rest = samples(kind, pair)
    loss, gradients = exact(kind, reduction, values, rest)
    feed = {**values, **({"mask": MASK} if "mask" in rest else {})}
    inside = placeholders(feed, [-1, -1] if len(pair[0]) % 2 else None)
    given = {**inside, **{name: value for name, value in rest.items() if name != "mask"}}
    found = OURS[kind](given.pop("input"), given.pop("label"), reduction=reduction, **given)
    slopes = paddle.static.gradients([found.sum()], [inside[name] for name in values])
    result, *found = run([found, *slopes], **feed)
    near(result, loss)
    for name, slope in zip(values, found, strict=True):
        near(slope, gradients[name], 1e-11)


class Model(paddle.nn.Layer):
    def __init__(self, kind: str, reduction: str, given: dict[str, Any]) -> None:
        super().__init__()
        self.loss = OUR_LAYERS[kind](reduction=reduction, **given)

    def forward(self, input: Any, label: Any, pos_weight: Any) -> Any:
        return self.loss(input, label, pos_weight=pos_weight) * 3


EVERY = {
    "asymmetric": {"alpha": 0.3, "gamma_positive": 0.7, "gamma_negative": 2.2, "margin": 0.05},
    "p_t": {"alpha": 0.3, "gamma": 1.3, "focal": "p_t", "label_smoothing": 0.1},
}


@pytest.mark.parametrize("reduction", ["mean", "per_label"])
@pytest.mark.parametrize("name", EVERY)
@both_kinds
@both_ways
def test_to_static(full_graph: bool, kind: str, name: str, reduction: str) -> None:
    given = {**EVERY[name], "neg_weight": tensor(uniform(3, seed=6) + 0.5), "check_targets": True}
    model = Model(kind, reduction, given)
    x, y, p = tensor(an_input(kind, 4, 3), learns=True), tensor(uniform(4, 3)), tensor(uniform(3, seed=3) + 0.5)
    eager = model(x, y, p)
    gradient = gradient_of(eager.sum(), x)
    compiled = paddle.jit.to_static(model, full_graph=full_graph)
    for _ in range(2):  # traced, and run again
        loss = compiled(x, y, p)
        np.testing.assert_allclose(array(loss), array(eager), rtol=2e-6)
        np.testing.assert_allclose(gradient_of(loss.sum(), x), gradient, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=re.escape("x_data[i]:2" if full_graph else "target[0, 0] is 2.0")):
        compiled(x, y * 0 + 2, p).sum().item()


@pytest.mark.parametrize("reduction", ["mean", "per_sample"])
@both_kinds
def test_saved_and_loaded(kind: str, reduction: str, tmp_path: Any) -> None:
    given = {**EVERY["asymmetric"], "neg_weight": tensor(uniform(3, seed=6) + 0.5), "check_targets": True}
    model = Model(kind, reduction, given)
    model.eval()
    specs = [InputSpec([-1, 3], "float32"), InputSpec([-1, 3], "float32"), InputSpec([3], "float32")]
    paddle.jit.save(model, str(tmp_path / "model"), input_spec=specs)
    loaded = paddle.jit.load(str(tmp_path / "model"))
    x, y, p = tensor(an_input(kind, 4, 3)), tensor(uniform(4, 3)), tensor(uniform(3, seed=3) + 0.5)
    for rows in (slice(4), slice(1)):
        operands = x[rows].clone(), y[rows].clone(), p
        np.testing.assert_allclose(array(loaded(*operands)), array(model(*operands)), rtol=2e-6)
    for wrong in ((x, y + 1, p), (x, y, -p)):
        with pytest.raises(ValueError, match="Illegal input"):
            loaded(*wrong)


# Derivatives beyond the first, and learnt options


@pytest.mark.parametrize("name", EVERY)
@both_kinds
def test_second_derivatives(kind: str, name: str) -> None:
    x, y = tensor(an_input(kind, 4, 3) / 3 if kind == "logits" else an_input(kind, 4, 3), "float64"), uniform(4, 3)
    n = tensor(uniform(3, seed=6) + 0.5, "float64")

    def slope(x: Any) -> Any:
        x.stop_gradient = False
        loss = OURS[kind](x, tensor(y, "float64"), reduction="sum", neg_weight=n, **EVERY[name])
        return paddle.grad(loss, x, create_graph=True)[0]

    (twice,) = paddle.grad(slope(x).sum(), x)
    step = 1e-6
    above, below = (array(slope(x.detach() + k * step)) for k in (1, -1))
    np.testing.assert_allclose(array(twice), (above - below) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "given", [{"alpha": 0.3}, {"margin": 0.05}, {"focal": "p_t"}, {"alpha": 0.3, "focal": "p_t"}], ids=str
)
@both_kinds
def test_gamma_learns_beside_them(kind: str, given: dict[str, Any]) -> None:
    values, _ = samples(kind, ("neg_weight",))
    operands = {name: tensor(value, "float64") for name, value in values.items()}
    x, y = operands.pop("input"), operands.pop("label")

    def loss(gamma: Any) -> Any:
        return OURS[kind](x, y, reduction="mean", gamma=gamma, label_smoothing=0.1, **operands, **given)

    gamma = tensor(1.3, "float64", learns=True)
    loss(gamma).backward()
    step = 1e-6
    wanted = (loss(1.3 + step).item() - loss(1.3 - step).item()) / (2 * step)
    np.testing.assert_allclose(gamma.grad.item(), wanted, rtol=1e-7)


@pytest.mark.parametrize("learns", [False, True], ids=["kernel", "definition"])
@pytest.mark.parametrize("name", EVERY)
def test_infinite_logits(name: str, learns: bool) -> None:
    x, y = tensor([np.inf, -np.inf, 200.0, -200.0], learns=True), tensor([1.0, 0.0, 1.0, 0.0], learns=learns)
    loss = face.binary_cross_entropy_with_logits(x, y, reduction="sum", **{**EVERY[name], "label_smoothing": 0})
    assert loss.item() == 0
    assert not gradient_of(loss, x).any()


def test_a_static_graph_refuses_a_variable_beside_two_powers(static: None) -> None:
    x, y = (paddle.static.data(name, [2, 3], "float32") for name in "xy")
    gamma = paddle.static.data("gamma", [], "float32")
    with pytest.raises(ValueError, match="gamma_positive: and gamma are given"):
        face.binary_cross_entropy_with_logits(x, y, gamma=gamma, gamma_positive=2.0)


# Means over all axes but one


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("reduction", options.BY_AXIS)
@both_kinds
def test_means_of_what_is_kept(kind: str, reduction: str, dtype: str) -> None:
    x, y = tensor(an_input(kind, 4, 2, 3), dtype), tensor(uniform(4, 2, 3) < 0.5, "int64")
    y[1, 0, 1] = -100
    mask = np.ones((4, 1, 3), bool)
    mask[2] = mask[:, :, 0] = False
    found = OURS[kind](x, y, reduction=reduction, mask=tensor(mask, "bool"), ignore_index=-100)
    numpys = numpy_face.binary_cross_entropy_with_logits if kind == "logits" else numpy_face.binary_cross_entropy
    exact = numpys(array(x).astype(np.float64), array(y), reduction=reduction, mask=mask, ignore_index=-100)
    assert found.dtype == x.dtype
    assert found.shape == list(exact.shape)
    np.testing.assert_allclose(
        array(found).astype(float), exact, rtol={"float16": 1e-3, "bfloat16": 1e-2}.get(dtype, 1e-6)
    )
    assert array(found)[0 if reduction == "per_label" else 2] == 0  # where nothing is kept


@pytest.mark.parametrize("reduction", options.BY_AXIS)
def test_means_of_an_enlarging_weight_and_of_few_axes(reduction: str) -> None:
    x, y, w = tensor(an_input("logits", 4, 3)), tensor(uniform(4, 3)), tensor(uniform(2, 4, 3, seed=3))
    whole = array(face.binary_cross_entropy_with_logits(x, y, w, "none"))
    found = face.binary_cross_entropy_with_logits(x, y, w, reduction)
    axes = (0, 1) if reduction == "per_label" else (1, 2)
    np.testing.assert_allclose(array(found), whole.mean(axes), rtol=1e-6)
    each = array(face.binary_cross_entropy_with_logits(x[0], y[0], reduction="none"))
    found = array(face.binary_cross_entropy_with_logits(x[0], y[0], reduction=reduction))
    np.testing.assert_allclose(found, each.mean() if reduction == "per_label" else each, rtol=1e-6)
    empty = tensor(np.zeros((0, 3)))
    found = array(face.binary_cross_entropy_with_logits(empty, empty, reduction=reduction))
    np.testing.assert_array_equal(found, np.zeros(3 if reduction == "per_label" else 0))


def test_sparse_targets_have_these_options_too() -> None:
    from binxent import IndexTargets

    x = tensor(an_input("logits", 3, 5), learns=True)
    sparse = IndexTargets(np.array([[0, 2], [1, -1], [4, 3]]), num_labels=5, padding=-1)
    dense = np.zeros((3, 5), np.float32)
    for row, column in ((0, 0), (0, 2), (1, 1), (2, 4), (2, 3)):
        dense[row, column] = 1
    n = tensor(uniform(5) + 0.5)
    for reduction in ("mean", "per_label", "per_sample"):
        for given in EVERY.values():
            results = []
            for label in (sparse, tensor(dense)):
                options = {**given, "neg_weight": n, "reduction": reduction, "check_targets": True}
                loss = face.binary_cross_entropy_with_logits(x, label, **options)
                results.append((array(loss), gradient_of(loss.sum(), x)))
            for one, other in zip(*results, strict=True):
                np.testing.assert_array_equal(one, other)


# Checked targets


X, Y = np.full((2, 3), 0.5), np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.5]])
WRONG = {
    "label": ({"label": [1, 2, -100.0]}, "target[1, 2] is -100.0; expected a number between 0 and 1", "-100"),
    "NaN": ({"label": [0, 1, np.nan]}, "target[0, 1] is nan; expected a number between 0 and 1", "-?nan"),
    "pos_weight": ({"pos_weight": [2, -1.0]}, "pos_weight[2] is -1.0; expected no negative weight", "-?nan"),
    "neg_weight": ({"neg_weight": [0, -0.5]}, "neg_weight[0] is -0.5; expected no negative weight", "-?nan"),
    "mask": ({"mask": [1, 0, 0.5]}, "mask[1, 0] is 0.5; expected 0 or 1 in each element", "-?nan"),
}


def wrong(case: str) -> dict[str, Any]:
    """Float32 operands of which one has an element that is wrong."""
    values = {"label": Y.copy(), "pos_weight": np.ones(3), "neg_weight": np.ones(3), "mask": np.ones((2, 3))}
    [(name, (*index, value))] = WRONG[case][0].items()
    values[name][tuple(index)] = value
    return {name: value.astype(np.float32) for name, value in values.items()}


@pytest.mark.parametrize("learns", ["nothing", "input", "label"])
@pytest.mark.parametrize("reduction", ["mean", "none", "per_label"])
@pytest.mark.parametrize("case", WRONG)
@both_kinds
def test_what_is_wrong_is_refused(kind: str, case: str, reduction: str, learns: str) -> None:
    x, given = tensor(X, learns=learns == "input"), {name: tensor(value) for name, value in wrong(case).items()}
    label = given.pop("label")
    label.stop_gradient = learns != "label"
    OURS[kind](x, label, reduction=reduction, **given)
    with pytest.raises(ValueError, match=re.escape(WRONG[case][1])):
        OURS[kind](x, label, reduction=reduction, check_targets=True, **given)
    for dtype in ("float64", "bfloat16", "float16"):
        if case != "mask":
            given["mask"] = given["mask"].astype("bool")
        with pytest.raises(ValueError, match=re.escape(WRONG[case][1])):
            OURS[kind](x.astype(dtype), label.astype(dtype), check_targets=True, **given)


@pytest.mark.parametrize("learns", [False, True], ids=["kernel", "definition"])
@both_kinds
def test_what_is_ignored_may_hold_anything(kind: str, learns: bool) -> None:
    x, y = tensor([[0.5, 0.5, 0.5]]), tensor([[-100.0, 7.0, 1.0]], learns=learns)
    mask = tensor([[1, 0, 1]])
    given = {"mask": mask, "ignore_index": -100, "pos_weight": tensor([-1.0, 1.0, 2.0])}
    plain = OURS[kind](x, y, **given)
    assert OURS[kind](x, y, check_targets=True, **given).item() == plain.item()


@pytest.mark.parametrize("case", WRONG)
@both_kinds
def test_a_static_graph_raises_when_it_runs(static: None, kind: str, case: str) -> None:
    feed = {"input": X.astype(np.float32), **wrong(case)}
    given = placeholders(feed)
    x, y = given.pop("input"), given.pop("label")
    loss = OURS[kind](x, y, check_targets=True, **given)
    with pytest.raises(ValueError, match=f"(?s)Illegal input.*received x_data.i.:{WRONG[case][2]} "):
        run([loss], **feed)
    right = {"input": feed["input"], **{name: np.ones_like(value) for name, value in feed.items() if name != "input"}}
    (found,) = run([loss], **right)
    np.testing.assert_allclose(found, np.log1p(np.exp(-0.5)) if kind == "logits" else np.log(2), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [1e-9, 1e-16, -1e-30, 1 - 1e-7, 1 + 2e-7, np.nan])
def test_a_static_graph_has_no_tolerance_for_a_mask(static: None, value: float, dtype: str) -> None:
    """Paddle's own != takes 1e-16 for 0."""
    mask = np.array([[1, 0, 1], [0, value, 1]], dtype)
    feed = {"input": X.astype(dtype), "label": Y.astype(dtype), "mask": mask}
    given = placeholders(feed)
    loss = face.binary_cross_entropy_with_logits(given["input"], given["label"], mask=given["mask"], check_targets=True)
    with pytest.raises(ValueError, match=r"(?s)Illegal input.*received x_data.i.:-?nan "):
        run([loss], **feed)
    mask[1, 1] = 0
    (found,) = run([loss], **feed)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64"])
def test_a_static_graph_takes_masks_of_other_dtypes(static: None, dtype: str) -> None:
    mask = np.array([[1, 0, 1], [0, 1, 1]], dtype)
    feed = {"input": X.astype(np.float32), "label": Y.astype(np.float32), "mask": mask}
    given = placeholders(feed)
    loss = face.binary_cross_entropy_with_logits(given["input"], given["label"], mask=given["mask"], check_targets=True)
    assert np.isfinite(run([loss], **feed)[0]).all()
    if dtype != "bool":
        mask[1, 1] = 2
        with pytest.raises(ValueError, match="Illegal input"):
            run([loss], **feed)


def test_another_device_has_nan_in_static_graphs(static: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from binxent.paddle import arrays

    monkeypatch.setattr(arrays, "_device", lambda x: "gpu")
    for case in WRONG:
        given = placeholders({"input": X.astype(np.float32), **wrong(case)})
        feed = {"input": X.astype(np.float32), **wrong(case)}
        loss = face.binary_cross_entropy_with_logits(
            given.pop("input"), given.pop("label"), reduction="none", check_targets=True, **given
        )
        (found,) = run([loss], **feed)
        [(_, (*index, _))] = WRONG[case][0].items()
        assert np.isnan(found[(..., *index)]).all()
        assert not np.isnan(found).all()


# Layers


@both_kinds
def test_a_layer_takes_weights_at_its_call(kind: str) -> None:
    x, y = tensor(an_input(kind, 4, 3)), tensor(uniform(4, 3))
    w, p, n = (tensor(uniform(3, seed=seed) + 0.5) for seed in (2, 3, 6))
    layer = OUR_LAYERS[kind](tensor(uniform(3, seed=9)), pos_weight=tensor(uniform(3, seed=8)), neg_weight=n, alpha=0.3)
    expected = OURS[kind](x, y, w, pos_weight=p, neg_weight=n, alpha=0.3)
    np.testing.assert_array_equal(array(layer(x, y, weight=w, pos_weight=p)), array(expected))
    assert layer(x, y).item() != expected.item()


@both_kinds
def test_a_layer_shows_and_keeps_them(kind: str) -> None:
    learnt = paddle.create_parameter([2], "float32")
    layer = OUR_LAYERS[kind](neg_weight=learnt, **EVERY["asymmetric"], check_targets=True)
    assert repr(layer) == (
        f"{type(layer).__name__}(neg_weight=float32[2], alpha=0.3, gamma_positive=0.7, gamma_negative=2.2, "
        "margin=0.05, check_targets=True)"
    )
    assert "neg_weight" in layer.state_dict()
    assert not OUR_LAYERS[kind](**EVERY["p_t"]).state_dict()


# Refusals


REFUSED = {
    "alpha": (ValueError, {"alpha": 1.5}, "alpha: 1.5; expected a number between 0 and 1"),
    "both": (ValueError, {"gamma": 2.0, "gamma_negative": 4.0}, "gamma_negative: and gamma are given"),
    "margin": (ValueError, {"margin": 1.0}, "margin: 1.0; expected a probability below 1"),
    "focal": (ValueError, {"focal": "hard"}, "focal: 'hard'; expected one of ('branch', 'p_t')"),
    "p_t": (ValueError, {"focal": "p_t", "margin": 0.1}, "margin: has no meaning beside focal='p_t'"),
    "normalizer": (
        ValueError,
        {"reduction": "per_label", "normalizer": 4},
        "normalizer: reduction='per_label' divides",
    ),
    "a tensor": (TypeError, {"alpha": tensor(0.5)}, "alpha: expected a number, got Tensor, to"),
    "margin that learns": (
        TypeError,
        {"margin": tensor(0.0, learns=True)},
        "margin: expected a number, got Tensor, to",
    ),
    "shape": (ValueError, {"neg_weight": tensor([1.0, 2.0])}, "neg_weight: shape (2,) does not broadcast"),
    "kind": (ValueError, {"neg_weight": 2.0}, "argument 'neg_weight' must be Tensor, but got float"),
    "reduction": (ValueError, {"reduction": "per_class"}, "should be 'per_label', 'per_sample', 'batchmean'"),
}


@pytest.mark.parametrize("case", REFUSED)
@both_kinds
def test_refusals(kind: str, case: str) -> None:
    error, given, text = REFUSED[case]
    with pytest.raises(error, match=re.escape(text)):
        OURS[kind](tensor(X), tensor(Y), **given)


def test_per_sample_without_a_first_axis_is_refused() -> None:
    with pytest.raises(ValueError, match="'per_sample' of an input without a first axis"):
        face.binary_cross_entropy_with_logits(tensor(1.0), tensor(1.0), reduction="per_sample")
    assert face.binary_cross_entropy_with_logits(tensor(0.0), tensor(1.0), reduction="per_label").shape == []
    with pytest.raises(ValueError, match="'per_label' has a divisor for each entry"):
        face.count(tensor(Y), reduction="per_label")


def test_a_neg_weight_changed_in_place_is_noticed() -> None:
    x, n = tensor(an_input("logits", 4), learns=True), tensor([1.0, 2.0, 1.0, 1.0])
    loss = face.binary_cross_entropy_with_logits(x, tensor(uniform(4)), neg_weight=n)
    n.zero_()
    with pytest.raises(OSError, match="RuntimeError: an operand of the loss was modified by an inplace operation"):
        paddle.grad(loss * 3, x)

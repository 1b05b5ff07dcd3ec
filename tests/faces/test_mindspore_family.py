"""The focal family, neg_weight, checked targets and means over all axes but one, in both modes of MindSpore."""

from __future__ import annotations

import itertools
import json
import textwrap

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import Tensor, ops  # noqa: E402

from binxent import IndexTargets, definition, kernel, options  # noqa: E402
from binxent import numpy as numpy_face  # noqa: E402
from binxent.call import Operands, averaged_axes, plan  # noqa: E402
from binxent.formula import LOGITS, PROBABILITIES  # noqa: E402
from binxent.mindspore import count  # noqa: E402
from binxent.numpy.arrays import Arrays  # noqa: E402
from tests.faces.mindspore_samples import (  # noqa: E402
    KINDS,
    OUR_CELLS,
    OURS,
    array,
    context,
    in_mode,
    refusal,
    tensor,
)
from tests.processes import python  # noqa: E402
from tests.turns import in_turn  # noqa: E402
from tests.wrong_places import PLACES, wrong_operand  # noqa: E402

both_kinds = pytest.mark.parametrize("kind", KINDS)
LOSSES = {"logits": LOGITS, "probabilities": PROBABILITIES}
REDUCTIONS = ("none", "mean", "sum", "batchmean", "weighted_mean", "per_label", "per_sample")
NAMES = ("input", "target", "weight", "sample_weight", "pos_weight", "neg_weight")
MASK = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
OPTIONS = {
    "alpha": {"alpha": 0.3},
    "powers": {"gamma_positive": 0.7, "gamma_negative": 2.2},
    "margin": {"margin": 0.05},
    "p_t": {"focal": "p_t", "gamma": 1.3},
    "neg_weight": {},
    "gamma": {"gamma": 1.7},
    "label_smoothing": {"label_smoothing": 0.2},
    "mask": {},
    "ignore_index": {"ignore_index": -100},
}
NEW = ("alpha", "powers", "margin", "p_t", "neg_weight")
NEVER = ({"p_t", "powers"}, {"p_t", "margin"}, {"p_t", "gamma"}, {"powers", "gamma"})
PAIRS = [pair for pair in itertools.combinations(OPTIONS, 2) if {*pair} & {*NEW} and {*pair} not in NEVER]
# Each pair has a reduction, and each reduction some pairs.
CASES = list(zip(PAIRS, itertools.cycle(REDUCTIONS), strict=False))
EVERY = {
    "asymmetric": {"alpha": 0.3, "gamma_positive": 0.7, "gamma_negative": 2.2, "margin": 0.05},
    "p_t": {"alpha": 0.3, "gamma": 1.3, "focal": "p_t", "label_smoothing": 0.1},
}


def operands(kind, pair=("neg_weight",), seed=3):
    """Of NAMES, and a mask or None. What the mask hides is what no derivative may see."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, (4, 3)) if kind == "logits" else rng.uniform(0.1, 0.9, (4, 3))
    y = rng.uniform(0, 1, (4, 3))
    if "mask" in pair:
        x, y = np.where(MASK, x, np.nan), np.where(MASK, y, np.inf)
    if "ignore_index" in pair:
        y[0, 0] = y[3, 2] = -100
    arrays = [x, y, rng.uniform(0.5, 2, 3), rng.uniform(0.5, 2, 4), rng.uniform(0.5, 3, (4, 1)), rng.uniform(0.5, 3, 3)]
    mask = MASK if "mask" in pair else None
    return [a.astype(np.float32) for a in arrays], mask


def exact(kind, reduction, arrays, mask, given):
    """The loss, and the gradients of its sum, by the definition in extended precision."""
    xp = Arrays(np.longdouble)
    x, y, w, s, p, n = arrays
    family = options.focal(
        *(given.get(name) for name in ("alpha", "gamma_positive", "gamma_negative")),
        given.get("margin", 0),
        given.get("focal", "branch"),
    )
    by_axis = reduction in options.BY_AXIS
    call = plan(
        LOSSES[kind],
        "none" if by_axis else reduction,
        ("float32", "float32"),
        *(None if a is None else a.shape for a in (x, y, w, s, p, mask)),
        given.get("ignore_index"),
        given.get("label_smoothing", 0),
        given.get("gamma", 0),
        n.shape,
        family,
        any_target=True,
    )
    together = Operands(x, y, w, s.reshape(-1, 1), p, mask, neg_weight=n)
    incoming = np.longdouble(1)
    with np.errstate(all="ignore"):
        values = definition.prepare(xp, call, together)
        each = definition.elements(xp, call, values)
        if by_axis:
            axes = averaged_axes(reduction, x.ndim)
            keep = np.ones(x.shape, bool) if values.keep is None else np.broadcast_to(values.keep, x.shape)
            counts = keep.sum(axis=axes, keepdims=True)
            incoming = np.where(counts == 0, 0, 1 / np.maximum(counts, 1).astype(np.longdouble))
            loss = (each * incoming).sum(axis=axes)
        else:
            loss = each if reduction == "none" else definition.mean(xp, call, values, each)
        gradients = [definition.gradient(xp, call, together, values, name, "float64", incoming) for name in NAMES]
    return np.asarray(loss), [g.reshape(a.shape) for g, a in zip(gradients, arrays, strict=True)]


def loss_of(kind, reduction, given):
    """The options one by one, because a graph takes no dictionary."""
    function = OURS[kind]
    v, e, g = given.get("ignore_index"), given.get("label_smoothing", 0.0), given.get("gamma", 0.0)
    a, up, down = given.get("alpha"), given.get("gamma_positive"), given.get("gamma_negative")
    m, f, c = given.get("margin", 0), given.get("focal", "branch"), given.get("check_targets", False)

    def loss(x, y, w, s, p, n, mask):
        return function(
            x,
            y,
            w,
            reduction,
            pos_weight=p,
            sample_weight=s,
            mask=mask,
            ignore_index=v,
            label_smoothing=e,
            gamma=g,
            alpha=a,
            gamma_positive=up,
            gamma_negative=down,
            margin=m,
            focal=f,
            neg_weight=n,
            check_targets=c,
        )

    return loss


def near(found, wanted, rtol=2e-6):
    np.testing.assert_allclose(array(found), wanted.astype(float), rtol=rtol, atol=1e-7)


@pytest.mark.parametrize(
    ("case", "mode", "kind"), [*in_turn(CASES, ["pynative"], ways=KINDS), *in_turn(CASES, ["jit", "graph"], ways=KINDS)]
)
def test_pairs_of_options(case, mode, kind):
    pair, reduction = case
    arrays, mask = operands(kind, pair)
    given = OPTIONS[pair[0]] | OPTIONS[pair[1]]
    value, slopes = exact(kind, reduction, arrays, mask, given)
    loss = loss_of(kind, reduction, given)
    gradients = ms.ops.GradOperation(get_all=True, sens_param=True)(loss)

    def run(x, y, w, s, p, n, mask, incoming):
        return loss(x, y, w, s, p, n, mask), gradients(x, y, w, s, p, n, mask, incoming)

    runs = kernel.runs()
    mask = None if mask is None else Tensor(mask)
    found, to = in_mode(mode, run)(*map(tensor, arrays), mask, tensor(np.ones(value.shape)))
    near(found, value)
    for name, one, wanted in zip(NAMES, to, slopes, strict=False):
        np.testing.assert_allclose(array(one), wanted.astype(float), rtol=2e-5, atol=2e-6, err_msg=name)
    assert kernel.runs() > runs


@pytest.mark.parametrize("name", EVERY)
@both_kinds
def test_graphs_have_the_kernels_bits(kind, name):
    (x, y, w, s, p, n), _ = operands(kind)
    step = ms.value_and_grad(loss_of(kind, "mean", EVERY[name]))

    def run(x, y, w, s, p, n):
        return step(x, y, w, s, p, n, None)

    value, gradient = in_mode("jit", run)(*map(tensor, (x, y, w, s, p, n)))
    wanted = numpy_face.value_and_grad(
        x, y, w, "mean", p, sample_weight=s, neg_weight=n, probabilities=kind != "logits", **EVERY[name]
    )
    np.testing.assert_array_equal(array(value), wanted[0])
    np.testing.assert_array_equal(array(gradient), wanted[1])


@pytest.mark.parametrize("mode", ["pynative", "jit"])
@pytest.mark.parametrize("name", EVERY)
@both_kinds
def test_second_derivatives(kind, name, mode):
    """Of the gradient to the input, along a direction, to input, target and neg_weight."""
    arrays, _ = operands(kind)
    along = np.random.default_rng(9).normal(0, 1, (4, 3))
    first = ms.grad(loss_of(kind, "sum", EVERY[name]))
    second = ms.ops.GradOperation(get_all=True, sens_param=True)(first)

    def run(x, y, w, s, p, n, along):
        return second(x, y, w, s, p, n, None, along)

    found = in_mode(mode, run)(*map(tensor, arrays), tensor(along))
    wide = [a.astype(np.longdouble) for a in arrays]

    def slope(k, step):
        moved = [a + step if i == k else a for i, a in enumerate(wide)]
        return (exact(kind, "sum", moved, None, EVERY[name])[1][0] * along).astype(np.longdouble)

    for k in (0, 1, 5):
        steps = [(slope(k, step) - slope(k, -step)) / (2 * step) for step in [np.longdouble(1e-6)]]
        wanted = steps[0].sum(0) if k == 5 else steps[0]
        np.testing.assert_allclose(array(found[k]), wanted.astype(float), rtol=5e-5, atol=5e-6, err_msg=NAMES[k])


def test_infinite_logits():
    x, y = tensor([np.inf, -np.inf, 200, -200]), tensor([1, 0, 1, 0])
    for given in EVERY.values():
        function, given = OURS["logits"], {**given, "label_smoothing": 0.0}
        value, gradient = ms.value_and_grad(lambda x, f=function, g=given: f(x, y, reduction="sum", **g))(x)
        assert float(value) == 0
        assert not array(gradient).any()


# Means over all axes but one


@pytest.mark.parametrize("mode", ["pynative", "jit", "graph"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("reduction", ["per_label", "PER_SAMPLE"])
@both_kinds
def test_means_of_what_is_kept(kind, reduction, dtype, mode):
    rng = np.random.default_rng(5)
    x, y = tensor(rng.uniform(0.1, 0.9, (4, 2, 3)), dtype), tensor(rng.random((4, 2, 3)) < 0.5, "int32")
    mask = np.ones((4, 1, 3), bool)
    mask[2] = mask[:, :, 0] = False
    function = OURS[kind]

    def loss(x, y, m):
        return function(x, y, None, reduction, mask=m, ignore_index=1)

    found = in_mode(mode, loss)(x, y, Tensor(mask))
    numpys = numpy_face.binary_cross_entropy_with_logits if kind == "logits" else numpy_face.binary_cross_entropy
    given = {"reduction": reduction.lower(), "mask": mask, "ignore_index": 1}
    wanted = numpys(array(x).astype(np.float32), array(y), **given)
    assert found.dtype == x.dtype
    unit = {"float16": 1e-3, "bfloat16": 1e-2}.get(dtype, 1e-6)
    np.testing.assert_allclose(array(found).astype(float), wanted, rtol=unit)
    assert array(found)[0 if reduction == "per_label" else 2] == 0  # where nothing is kept


@pytest.mark.parametrize("mode", ["pynative", "graph"])
@pytest.mark.parametrize("reduction", options.BY_AXIS)
def test_means_of_few_axes_and_of_sizes_unknown_to_the_graph(reduction, mode):
    rng = np.random.default_rng(5)
    with context(mode):
        cell = OUR_CELLS["logits"](reduction=reduction)
        cell.set_inputs(*[Tensor(shape=(None, 3), dtype=ms.float32)] * 2)
        for shape in ((4, 3), (2, 3)):
            x, y = (rng.random(shape).astype(np.float32) for _ in range(2))
            wanted = numpy_face.binary_cross_entropy_with_logits(x, y, reduction=reduction)
            np.testing.assert_allclose(array(cell(Tensor(x), Tensor(y))), wanted, rtol=1e-6)
        cell = OUR_CELLS["logits"](reduction=reduction)
        wanted = numpy_face.binary_cross_entropy_with_logits(x[0], y[0], reduction=reduction)
        np.testing.assert_allclose(array(cell(Tensor(x[0]), Tensor(y[0]))), wanted, rtol=1e-6)


def test_means_need_a_number_of_axes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindSpore writes a report there
    with context("graph"):
        cell = OUR_CELLS["logits"](reduction="per_label")
        cell.set_inputs(*[Tensor(shape=None, dtype=ms.float32)] * 2)
        problem, message = refusal(cell, tensor(np.ones((2, 3))), tensor(np.ones((2, 3))))
    assert problem is ValueError
    assert "reduction: 'per_label' of an input whose number of axes the graph does not know" in message


def test_sparse_targets_have_these_options_too():
    x, n = tensor(np.random.default_rng(0).normal(0, 2, (3, 5))), tensor(np.random.default_rng(1).random(5))
    sparse = IndexTargets(np.array([[0, 2], [1, -1], [4, 3]]), num_labels=5, padding=-1)
    dense = np.zeros((3, 5), np.float32)
    for row, column in ((0, 0), (0, 2), (1, 1), (2, 4), (2, 3)):
        dense[row, column] = 1
    for reduction, given in itertools.product(("mean", *options.BY_AXIS), EVERY.values()):
        results = []
        for target in (sparse, Tensor(dense)):

            def loss(x, t=target, r=reduction, g=given):
                return OURS["logits"](x, t, reduction=r, neg_weight=n, check_targets=True, **g)

            results.append([array(loss(x)), array(ms.grad(loss)(x))])
        for one, other in zip(*results, strict=True):
            np.testing.assert_array_equal(one, other)


# Checked targets


X, Y = np.full((2, 3), 0.5), np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.5]])
WRONG = {
    "target": ({"target": [1, 2, -100.0]}, "target[1, 2] is -100"),
    "NaN": ({"target": [0, 1, np.nan]}, "target[0, 1] is nan"),
    "pos_weight": ({"pos_weight": [2, -1.0]}, "pos_weight[2] is -1"),
    "neg_weight": ({"neg_weight": [0, -0.5]}, "neg_weight[0] is -0.5"),
    "mask": ({"mask": [1, 0, 0.5]}, "mask[1, 0] is 0.5"),
}


def wrong(case, dtype="float32"):
    """Tensors of which one has an element that is wrong."""
    values = {"target": Y.copy(), "pos_weight": np.ones(3), "neg_weight": np.ones(3), "mask": np.ones((2, 3))}
    [(name, (*index, value))] = WRONG[case][0].items()
    values[name][tuple(index)] = value
    return {name: tensor(value, dtype) for name, value in values.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("reduction", ["mean", "none", "per_label"])
@pytest.mark.parametrize("case", WRONG)
@both_kinds
def test_what_is_wrong_is_refused(kind, case, reduction, dtype):
    x, given = tensor(X, dtype), wrong(case, dtype)
    target = given.pop("target")

    def loss(x, checks):
        return OURS[kind](x, target, reduction=reduction, check_targets=checks, **given)

    loss(x, False)
    for call in (lambda: loss(x, True), lambda: ms.grad(lambda x: loss(x, True))(x)):
        problem, message = refusal(call)
        assert problem is ValueError
        assert WRONG[case][1] in message
        assert "; expected" in message


@pytest.mark.parametrize("mode", ["pynative", "jit"])
@both_kinds
def test_what_is_ignored_may_hold_anything(kind, mode):
    x, y, mask, p = tensor([[0.5, 0.5, 0.5]]), tensor([[-100, 7, 1]]), tensor([[1, 0, 1]]), tensor([-1, 1, 2])
    function = OURS[kind]

    def loss(x, y, m, p):
        return function(x, y, pos_weight=p, mask=m, ignore_index=-100, check_targets=True)

    assert float(in_mode(mode, loss)(x, y, mask, p)) == float(
        function(x, y, pos_weight=p, mask=mask, ignore_index=-100)
    )


IN_A_GRAPH = """
    import json
    import numpy as np
    import mindspore as ms
    from binxent import mindspore as face

    ms.runtime.launch_blocking()
    values, kind, wants = json.loads({values!r}), {kind!r}, {wants!r}
    function = face.binary_cross_entropy_with_logits if kind == "logits" else face.binary_cross_entropy

    def loss(x, y, p, n, m):
        return function(x, y, pos_weight=p, neg_weight=n, mask=m, check_targets=True)

    step = ms.jit(loss if wants == "loss" else ms.grad(loss))
    rest = [ms.Tensor(np.array(value, np.float32)) for value in values.values()]
    x = ms.Tensor(np.full(rest[0].shape, 0.5, np.float32))
    right = [ms.ops.ones_like(operand) for operand in rest]
    print("finite:", bool(np.isfinite(step(x, *right).asnumpy()).all()))
    try:
        print(step(x, *rest))
    except RuntimeError as problem:
        print(problem)
"""


def refused_in_a_graph(kind, wants, values, folder):
    """What is printed in a process of its own: MindSpore does not recover from every error of an operator."""
    values = json.dumps({name: value.tolist() for name, value in values.items()})
    path = folder / "program.py"
    path.write_text(textwrap.dedent(IN_A_GRAPH.format(values=values, kind=kind, wants=wants)))
    printed = python(f"import os, runpy; os.chdir({str(folder)!r}); runpy.run_path({str(path)!r})", timeout=200)
    assert "finite: True" in printed
    return printed


@pytest.mark.parametrize(("case", "way"), in_turn([*WRONG], ways=[*itertools.product(KINDS, ("loss", "gradient"))]))
def test_a_graph_raises_when_it_runs(case, way, tmp_path):
    kind, wants = way
    printed = refused_in_a_graph(kind, wants, {name: value.asnumpy() for name, value in wrong(case).items()}, tmp_path)
    assert WRONG[case][1] + "; expected" in printed


@pytest.mark.parametrize(("place", "name"), in_turn([*PLACES][::2], ways=("pos_weight", "mask", "neg_weight")))
def test_the_index_in_a_graph_is_that_of_the_operand(name, place, tmp_path):
    """And not that of the input, to whose shape it is broadcast."""
    shape, operand, message = wrong_operand(name, place)
    values = {"target": np.ones(shape), "pos_weight": np.ones(()), "neg_weight": np.ones(()), "mask": np.ones(())}
    wants = "loss" if name == "mask" else "gradient"
    assert message in refused_in_a_graph("logits", wants, values | {name: operand}, tmp_path)


# Cells


@pytest.mark.parametrize("mode", ["pynative", "graph"])
@both_kinds
def test_a_cell_takes_weights_at_its_call(kind, mode):
    (x, y, w, _, p, n), _ = operands(kind)
    x, y, w, p, n = map(tensor, (x, y, w, p, n))
    wanted = OURS[kind](x, y, w, pos_weight=p, neg_weight=n, alpha=0.3)
    with context(mode):
        cell = OUR_CELLS[kind](w * 2, pos_weight=p * 3, neg_weight=n, alpha=0.3)

        def loss(x, y, w, p):
            return cell(x, y, weight=w, pos_weight=p)

        np.testing.assert_array_equal(array(in_mode(mode, loss)(x, y, w, p)), array(wanted))
        assert float(in_mode(mode, cell)(x, y)) != float(wanted)


@both_kinds
def test_a_cell_shows_and_trains_them(kind):
    (x, y, *_, n), _ = operands(kind)
    cell = OUR_CELLS[kind](neg_weight=ms.Parameter(tensor(n)), **EVERY["asymmetric"], check_targets=True)
    assert "alpha=0.3, gamma_positive=0.7, gamma_negative=2.2, margin=0.05, check_targets=True" in repr(cell)
    assert [parameter.name for parameter in cell.trainable_params()] == ["neg_weight"]
    gradients = ms.grad(cell, None, cell.trainable_params())(tensor(x), tensor(y))
    ones = np.ones(3, np.float32), np.ones(4, np.float32), np.ones((4, 1), np.float32)
    _, wanted = exact(kind, "mean", [x, y, *ones, n], None, EVERY["asymmetric"])
    near(gradients[0], wanted[-1], 2e-5)
    assert not [*OUR_CELLS[kind](**EVERY["p_t"]).get_parameters()]


def test_another_device_computes_them_by_the_formula(tmp_path):
    """As far as it can be told without one, and with the loss NaN in graphs where a target is wrong."""
    code = f"""
        import numpy as np
        import mindspore as ms
        from binxent.mindspore import arrays
        arrays.device = lambda: "Ascend"
        import binxent.mindspore as face
        import binxent.numpy as numpy_face

        rng = np.random.default_rng(0)
        x, y = rng.random((6, 5)).astype(np.float32), rng.random((6, 5)).astype(np.float32)
        n = rng.uniform(0, 2, 5).astype(np.float32)
        worst = 0.0
        for given in {list(EVERY.values())!r}:
            for reduction in ("mean", "per_label"):
                def loss(x, y, n):
                    return face.binary_cross_entropy_with_logits(
                        x, y, None, reduction, neg_weight=n, check_targets=True, **given)
                exact = numpy_face.value_and_grad(x, y, None, reduction, neg_weight=n, **given)
                step = ms.value_and_grad(loss, (0, 1, 2))
                for each in (step, ms.jit(step)):
                    value, gradients = each(ms.Tensor(x), ms.Tensor(y), ms.Tensor(n))
                    for ours, right in ((value, exact[0]), (gradients[0], exact[1])):
                        worst = max(worst, float((np.abs(ours.asnumpy() - right) / (np.abs(right) + 1e-3)).max()))
                assert np.isnan(ms.jit(loss)(ms.Tensor(x), ms.Tensor(y + 1), ms.Tensor(n)).asnumpy()).all()
                try:
                    loss(ms.Tensor(x), ms.Tensor(y), ms.Tensor(-n))
                except ValueError as problem:
                    assert "neg_weight[0] is -" in str(problem), problem
                else:
                    raise AssertionError
        print(worst)
    """
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(code))
    printed = python(f"import os, runpy; os.chdir({str(tmp_path)!r}); runpy.run_path({str(path)!r})", timeout=300)
    assert float(printed.splitlines()[-1]) < 2e-5


# Refusals


REFUSED = [
    ({"alpha": 1.5}, ValueError, "alpha: 1.5; expected a number between 0 and 1"),
    ({"gamma": 2.0, "gamma_negative": 4.0}, ValueError, "gamma_negative: and gamma are given"),
    ({"margin": 1.0}, ValueError, "margin: 1.0; expected a probability below 1"),
    ({"focal": "hard"}, ValueError, "focal: 'hard'; expected one of ('branch', 'p_t')"),
    ({"focal": "p_t", "margin": 0.1}, ValueError, "margin: has no meaning beside focal='p_t'"),
    ({"reduction": "per_label", "normalizer": 4}, ValueError, "normalizer: reduction='per_label'"),
    ({"reduction": "per_label", "normalizer": tensor(4)}, ValueError, "normalizer: reduction='per_label'"),
    ({"alpha": tensor(0.5)}, TypeError, "alpha: expected a number, got Tensor, to which there would be no gradient"),
    ({"margin": tensor(0)}, TypeError, "margin: expected a number, got Tensor, to which there would be no gradient"),
    ({"neg_weight": tensor([1, 2])}, ValueError, "neg_weight: shape (2,) does not broadcast"),
    ({"neg_weight": 2.0}, TypeError, "neg_weight: expected a mindspore.Tensor, got"),
    ({"reduction": "per_class"}, ValueError, "'per_class' is not a valid value for reduction"),
]


@pytest.mark.parametrize("mode", ["pynative", "jit"])
@pytest.mark.parametrize(("given", "error", "words"), REFUSED)
def test_refusals(given, error, words, mode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindSpore writes a report there
    x = tensor(np.ones((4, 3)))

    def loss(x):
        return OURS["logits"](x, x, **given)

    problem, message = refusal(in_mode(mode, loss), x)
    assert problem is error
    assert words in message


@pytest.mark.parametrize("name", ["alpha", "gamma_positive", "gamma_negative", "margin", "check_targets"])
def test_a_variable_of_a_graph_is_no_option(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function = OURS["logits"]

    def loss(x, value):
        return function(x, x, **{name: value})

    problem, message = refusal(ms.jit(loss), tensor([0.5]), ms.mutable(1.0))
    assert problem is TypeError
    assert f"{name}: expected" in message


def test_per_sample_without_a_first_axis_is_refused():
    problem, message = refusal(OURS["logits"], tensor(1), tensor(1), None, "per_sample")
    assert problem is ValueError
    assert "'per_sample' of an input without a first axis" in message
    assert OURS["logits"](tensor(0), tensor(1), None, "per_label").shape == ()
    problem, message = refusal(count, tensor(Y), reduction="per_label")
    assert problem is ValueError
    assert "'per_label' has a divisor for each entry" in message


def test_vmap():
    function, (x, y, *_, n) = OURS["logits"], operands("logits")[0]
    n = tensor(n)

    def loss(x, y):
        return function(x, y, alpha=0.3, gamma_negative=2.0, margin=0.05, neg_weight=n, check_targets=True)

    found = ops.vmap(loss)(tensor(x), tensor(y)).asnumpy()
    wanted = [loss(tensor(a), tensor(b)).asnumpy() for a, b in zip(x, y, strict=True)]
    np.testing.assert_array_equal(found, np.stack(wanted))

"""Reports: every figure against a definition in float64, and scikit-learn; sums in any order; what is refused."""

from __future__ import annotations

import itertools
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binxent import formula, kernel
from binxent import report as module
from binxent.numpy import binary_cross_entropy, binary_cross_entropy_with_logits
from binxent.report import InvalidValueError, Report, score_bins
from binxent.report.loss_sums import LossSums
from tests import processes

Array = np.ndarray[Any, Any]


def data(rows: int = 500, labels: int = 5, seed: int = 0, dtype: Any = np.float32) -> tuple[Array, Array]:
    """Logits that know something of the labels, of which the first are rare."""
    rng = np.random.default_rng(seed)
    odds = np.linspace(-3, 1, labels) + 1.5 * rng.standard_normal((rows, labels))
    target = rng.random((rows, labels)) < 1 / (1 + np.exp(-odds))
    return (1.3 * odds + 0.3 * rng.standard_normal((rows, labels))).astype(dtype), target.astype(np.uint8)


def reported(x: Array, y: Array, **options: Any) -> Report:
    report = Report(x.shape[1], **options)
    report.update(x, y)
    return report


def calibration_error(p: Array, y: Array, bins: int) -> float:
    """The definition, bin by bin."""
    place = np.minimum((p * bins).astype(int), bins - 1)
    inside = [place == b for b in range(bins) if (place == b).any()]
    return sum(i.mean() * abs(p[i].mean() - y[i].mean()) for i in inside)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("labels", [1, 2, 5, 40, 1500])
@pytest.mark.parametrize("probabilities", [False, True])
def test_figures_are_those_of_the_definition(probabilities: bool, labels: int, dtype: Any) -> None:
    x, y = data(200, labels, dtype=dtype)
    p = 1 / (1 + np.exp(-x.astype(np.float64)))
    if probabilities:
        x = p.astype(dtype)
        p = x.astype(np.float64)
    scores = reported(x, y, probabilities=probabilities).scores()
    with np.errstate(divide="ignore"):
        definition = formula.probabilities_loss if probabilities else formula.logits_loss
        losses = definition(np, x.astype(float), y.astype(float))
    rounding = 2e-14 if dtype is np.float64 else 2e-7
    np.testing.assert_allclose(scores.loss, losses.mean(axis=0), rtol=rounding)
    np.testing.assert_array_equal(scores.known, len(x))
    np.testing.assert_array_equal(scores.positive, y.sum(axis=0))
    np.testing.assert_array_equal(scores.predicted, (x > (0.5 if probabilities else 0)).sum(axis=0))
    np.testing.assert_array_equal(scores.found, ((x > (0.5 if probabilities else 0)) & (y == 1)).sum(axis=0))
    np.testing.assert_allclose(scores.base_rate, y.mean(axis=0), rtol=1e-15)
    # A float32 probability may fall on the other side of a bin's border than its float64 does: on these data it hardly
    # ever does, and then changes the sum by little.
    expected = [calibration_error(p[:, i], y[:, i], 15) for i in range(labels)]
    assert np.mean(np.abs(scores.calibration_error - expected) > 1e-6) < 0.01


@pytest.mark.parametrize("probabilities", [False, True])
def test_precision_and_recall_are_those_of_scikit_learn(probabilities: bool) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    x, y = data(800, 6, seed=3)
    p = 1 / (1 + np.exp(-x.astype(np.float64)))
    for threshold in (0.02, 0.5, 0.93):
        given_ = p if probabilities else x
        scores = reported(given_, y, probabilities=probabilities, threshold=threshold).scores()
        kwargs = {"average": None, "zero_division": np.nan}
        np.testing.assert_array_equal(scores.precision, metrics.precision_score(y, p > threshold, **kwargs))
        np.testing.assert_array_equal(scores.recall, metrics.recall_score(y, p > threshold, **kwargs))


def test_the_loss_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    x, y = data(dtype=np.float64)
    p = 1 / (1 + np.exp(-x))
    expected = [metrics.log_loss(y[:, i], p[:, i]) for i in range(x.shape[1])]
    np.testing.assert_allclose(reported(p, y, probabilities=True).scores().loss, expected, rtol=1e-12)
    np.testing.assert_allclose(reported(x, y).scores().loss, expected, rtol=1e-12)


# The base-rate loss.


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_base_rate_loss_is_the_entropy_of_the_base_rate(probabilities: bool) -> None:
    x, y = data()
    if probabilities:
        x = (1 / (1 + np.exp(-x))).astype(np.float32)
    scores = reported(x, y, probabilities=probabilities).scores()
    r = y.mean(axis=0)
    np.testing.assert_allclose(scores.base_rate_loss, -r * np.log(r) - (1 - r) * np.log(1 - r), rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{}, {"pos_weight": [3.0]}, {"label_smoothing": 0.2}, {"pos_weight": [0.25], "label_smoothing": 0.1}],
    ids=str,
)
def test_no_constant_prediction_has_less_than_the_base_rate_loss(options: dict[str, Any]) -> None:
    x, y = data(300, 1)
    weight = np.random.default_rng(2).random(300)
    report = Report(1, **options)
    report.update(x, y, sample_weight=weight)
    least = float(report.scores().base_rate_loss[0])
    p = np.array(options["pos_weight"]) if "pos_weight" in options else None
    smoothing = options.get("label_smoothing", 0.0)
    losses = [
        float(
            binary_cross_entropy_with_logits(
                np.full((300, 1), c), y, reduction="mean", pos_weight=p, sample_weight=weight, label_smoothing=smoothing
            )
        )
        for c in np.linspace(-4, 4, 4001)
    ]
    assert least <= min(losses) + 1e-12
    assert min(losses) - least < 1e-6


# The options of the focal family as they stand in docs/options.md, of which none is another's special case.
FAMILY: dict[str, dict[str, Any]] = {
    "alpha": {"alpha": 0.25},
    "gamma": {"gamma": 2.0},
    "alpha and gamma": {"alpha": 0.75, "gamma": 0.5},
    "two gammas": {"gamma_positive": 1.0, "gamma_negative": 4.0},
    "gamma_positive": {"gamma_positive": 3.0},
    "margin": {"margin": 0.2},
    "asymmetric": {"gamma_positive": 0.5, "gamma_negative": 4.0, "margin": 0.05},
    "all of one": {"gamma_negative": 2.0, "margin": 0.1, "alpha": 0.4},
    "p_t": {"focal": "p_t", "gamma": 2.0},
    "p_t and alpha": {"focal": "p_t", "gamma": 1.5, "alpha": 0.25},
}


def by_formula(
    x: Array, y: Array, *, probabilities: bool = False, pos_weight: Any = 1.0, neg_weight: Any = 1.0,
    label_smoothing: float = 0.0, gamma: float = 0.0, alpha: float | None = None, gamma_positive: float | None = None,
    gamma_negative: float | None = None, margin: float = 0.0, focal: str = "branch",
) -> Array:  # fmt: skip
    """The loss of each element in float64 as docs/options.md writes it; no probability here is near 0 or 1."""
    p = x if probabilities else 1 / (1 + np.exp(-x))
    y = y * (1 - label_smoothing) + label_smoothing / 2
    up, down = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    if focal == "p_t":
        p_t, alpha_t = p * y + (1 - p) * (1 - y), up * y + down * (1 - y)
        entropy = pos_weight * y * -np.log(p) + neg_weight * (1 - y) * -np.log(1 - p)
        return np.asarray(alpha_t * (1 - p_t) ** gamma * entropy)
    is_one = gamma_positive is gamma_negative is None
    above, below = (gamma, gamma) if is_one else (gamma_positive or 0.0, gamma_negative or 0.0)
    shifted = np.maximum(p - margin, 0)
    negative = down * neg_weight * (1 - y) * shifted**below * -np.log(1 - shifted)
    return np.asarray(up * pos_weight * y * (1 - p) ** above * -np.log(p) + negative)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("name", FAMILY)
def test_the_focal_family_is_that_of_the_formula(
    name: str, probabilities: bool, smoothing: float, weighted: bool
) -> None:
    x, y = data(300, 4, dtype=np.float64)
    given_ = 1 / (1 + np.exp(-x)) if probabilities else x
    options = {**FAMILY[name], "label_smoothing": smoothing}
    if weighted:
        options |= {"pos_weight": np.array([1.0, 2, 3, 0.5]), "neg_weight": np.array([0.5, 0, 1, 3])}
    report = Report(4, probabilities=probabilities, **options)
    for part in np.array_split(np.arange(300), 3):
        report.update(given_[part], y[part])
    losses = by_formula(given_, y.astype(float), probabilities=probabilities, **options)
    np.testing.assert_allclose(report.scores().loss, losses.mean(axis=0), rtol=1e-13)
    assert report.overall()["loss"] == pytest.approx(losses.mean(), rel=1e-13)
    # No constant has a lower loss than the base-rate loss, which some constant has.
    constants = np.linspace(-8, 8, 1601)
    r = y.mean(axis=0)
    for i, least in enumerate(report.scores().base_rate_loss):
        own = {k: v[i] if isinstance(v, np.ndarray) else v for k, v in options.items()}
        positive, negative = (by_formula(constants, np.full(constants.shape, c), **own) for c in (1.0, 0.0))
        of_constants = r[i] * positive + (1 - r[i]) * negative
        place = int(of_constants.argmin())
        if 0 < place < 1600:
            fine = np.linspace(constants[place - 1], constants[place + 1], 2001)
            positive, negative = (by_formula(fine, np.full(fine.shape, c), **own) for c in (1.0, 0.0))
            of_constants = r[i] * positive + (1 - r[i]) * negative
        assert least <= of_constants.min() * (1 + 1e-12)
        assert least >= of_constants.min() * (1 - 1e-3) - 1e-3  # near the corner of a margin, and beyond the last one


def test_the_base_rate_loss_of_a_valley_that_is_not_the_only_one() -> None:
    """With smoothed targets the power of p_t has several."""
    options: dict[str, Any] = {"focal": "p_t", "gamma": 10.0, "label_smoothing": 0.5}
    options |= {"pos_weight": 22.756, "neg_weight": 0.0278}
    y = np.array([[1.0]] * 1 + [[0.0]] * 17)
    constants = np.linspace(-30, 30, 60001)
    of_constants = by_formula(constants, np.ones(60001), **options)
    of_constants = of_constants + 17 * by_formula(constants, np.zeros(60001), **options)
    turns = np.flatnonzero(np.diff(np.sign(np.diff(of_constants))) > 0)
    assert len(turns) > 1
    least = reported(np.zeros((18, 1)), y, reduction="sum", **options).scores().base_rate_loss[0]
    assert least == pytest.approx(of_constants.min(), rel=1e-6)


def test_soft_targets_have_no_base_rate_loss_with_the_power_of_p_t() -> None:
    """Not even where their distances from the classes cancel out."""
    x, y = np.zeros((2, 2)), np.array([[0.25, 1], [0.75, 0]])
    for options in ({"gamma": 2.0}, {"alpha": 0.25}):
        report = reported(x, y, focal="p_t", **options)
        assert np.isnan(report.scores().base_rate_loss).all()
        assert report.overall()["base_rate_loss"] is None
        assert [line.split()[3] for line in repr(report).splitlines() if line.startswith((" 0 ", " 1 "))] == ["-", "-"]
        hard = reported(x, np.round(y), focal="p_t", **options)
        assert not np.isnan(hard.scores().base_rate_loss).any()
        hard.merge(report)
        assert np.isnan(hard.scores().base_rate_loss).all()
        hidden = Report(2, focal="p_t", ignore_index=np.nan, **options)
        hidden.update(x, np.where(y == np.round(y), y, np.nan))
        assert not np.isnan(hidden.overall()["base_rate_loss"])
    # Neither the power nor alpha: the loss is linear in the target then.
    assert reported(x, y, focal="p_t").scores().base_rate_loss == pytest.approx(reported(x, y).scores().base_rate_loss)


def test_labels_of_one_class_have_no_loss_at_their_base_rate() -> None:
    x, y = data(50, 2)
    y[:, 0], y[:, 1] = 0, 1
    for options in FAMILY.values():
        np.testing.assert_array_equal(reported(x, y, **options).scores().base_rate_loss, 0)


def test_equal_gammas_are_one_gamma() -> None:
    x, y = data()
    one, two = reported(x, y, gamma=2.0), reported(x, y, gamma_positive=2.0, gamma_negative=2.0)
    assert one.overall() == two.overall()
    one.merge(two)


def test_labels_of_one_class_have_no_entropy() -> None:
    x, y = data(50, 2)
    y[:, 0], y[:, 1] = 0, 1
    scores = reported(x, y).scores()
    np.testing.assert_array_equal(scores.base_rate_loss, 0)
    assert np.isnan(scores.recall[0])
    assert np.isnan(scores.average_precision[0])
    assert scores.average_precision[1] == 1
    assert scores.as_dict()["recall"][0] is None


# Options.

OPTIONS: dict[str, dict[str, Any]] = {
    "pos_weight": {"pos_weight": np.array([1.0, 2, 3, 0.5, 4])},
    "label_smoothing": {"label_smoothing": 0.1},
    "neg_weight": {"neg_weight": np.array([0.5, 1, 2, 0, 3])},
    "gamma": {"gamma": 2.0},
    "alpha": {"alpha": 0.25},
    "asymmetric": {"gamma_positive": 1.0, "gamma_negative": 4.0, "margin": 0.05},
    "p_t": {"focal": "p_t", "gamma": 1.5},
    "ignore_index": {"ignore_index": -100},
}
CALLS: dict[str, dict[str, Any]] = {
    "weight of each label": {"weight": np.linspace(0.5, 2, 5)},
    "weight of each element": {"weight": np.random.default_rng(7).random((500, 5))},
    "sample_weight": {"sample_weight": np.random.default_rng(8).random(500)},
    "mask": {"mask": np.random.default_rng(9).random((500, 5)) < 0.7},
}
PAIRS = [
    pair
    for pair in itertools.combinations([*OPTIONS, *CALLS], 2)
    if pair != ("weight of each label", "weight of each element")  # one argument
    and len({*pair} & {"gamma", "asymmetric", "p_t"}) < 2  # refused
]


# Each pair with each reduction, and with logits and probabilities by turns.
MIXED = [
    (pair, reduction, bool((k + j) % 2))
    for k, pair in enumerate(PAIRS)
    for j, reduction in enumerate(module.REDUCTIONS)
]


@pytest.mark.parametrize(("pair", "reduction", "probabilities"), MIXED)
def test_options_mean_what_they_mean_in_the_loss(pair: tuple[str, str], reduction: str, probabilities: bool) -> None:
    x, y = data(dtype=np.float64)
    y = y.astype(np.int64)
    y[::7, 1:3] = -100 if "ignore_index" in pair else 1
    if probabilities:
        x = 1 / (1 + np.exp(-x))
    kept = {k: v for name in pair for k, v in OPTIONS.get(name, {}).items()}
    given_: dict[str, Any] = {k: v for name in pair for k, v in CALLS.get(name, {}).items()}
    report = Report(5, reduction=reduction, probabilities=probabilities, **kept)
    for part in np.array_split(np.arange(500), 3):
        cut = {k: v[part] if len(v) == 500 else v for k, v in given_.items()}
        report.update(x[part], y[part], **cut)
    loss = binary_cross_entropy if probabilities else binary_cross_entropy_with_logits
    weight = given_.get("weight")
    losses = report.scores().loss
    for i in range(5):

        def column(value: Array, i: int = i) -> Array:
            return value[..., i : i + 1] if value.shape[-1] == 5 else value

        arguments = {k: column(np.asarray(v)) for k, v in given_.items() if k != "weight"}
        expected = loss(
            x[:, i : i + 1],
            y[:, i : i + 1],
            None if weight is None else column(weight),
            reduction=reduction,
            **{k: column(v) if isinstance(v, np.ndarray) else v for k, v in kept.items()},
            **arguments,
        )
        assert losses[i] == pytest.approx(float(expected), rel=1e-12)
    whole = loss(x, y, weight, reduction=reduction, **kept, **{k: v for k, v in given_.items() if k != "weight"})
    assert report.overall()["loss"] == pytest.approx(float(whole), rel=1e-12)


def test_what_is_not_known_is_not_counted_whatever_it_holds() -> None:
    x, y = data(dtype=np.float32)
    y = y.astype(np.float32)
    hidden = np.random.default_rng(4).random(x.shape) < 0.3
    report = Report(5)
    report.update(np.where(hidden, np.float32(np.nan), x), np.where(hidden, np.float32(7), y), mask=~hidden)
    other = Report(5, ignore_index=float("nan"))
    other.update(np.where(hidden, np.float32(np.inf), x), np.where(hidden, np.float32(np.nan), y))
    for i in range(5):
        single = reported(x[~hidden[:, i], i : i + 1], y[~hidden[:, i], i : i + 1])
        for scores in (report.scores(), other.scores()):
            for name, expected in single.scores().as_dict().items():
                np.testing.assert_allclose(getattr(scores, name)[i], expected[0], rtol=1e-13, atol=1e-14, err_msg=name)


def test_nothing_known_is_no_figure() -> None:
    x, y = data(20, 2)
    report = Report(2)
    report.update(x, y, mask=np.zeros(x.shape, bool))
    scores = report.scores()
    np.testing.assert_array_equal(scores.known, 0)
    assert np.isnan(scores.loss).all()
    assert report.overall()["loss"] is None


def test_soft_labels() -> None:
    x, _ = data(dtype=np.float64)
    y = np.random.default_rng(1).random(x.shape)
    scores = reported(x, y).scores()
    p = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(scores.base_rate, y.mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(scores.positive, (y > 0.5).sum(axis=0))
    expected = [calibration_error(p[:, i], y[:, i], 15) for i in range(5)]
    np.testing.assert_allclose(scores.calibration_error, expected, atol=1e-7)
    np.testing.assert_allclose(scores.loss, formula.logits_loss(np, x, y).mean(axis=0), rtol=1e-13)


def test_the_plain_loss_has_the_bits_of_the_face() -> None:
    """It is made where it is counted, from the same functions."""
    for dtype, probabilities in itertools.product((np.float32, np.float64), (False, True)):
        x, y = data(64, 1, dtype=dtype)
        if probabilities:
            x = (1 / (1 + np.exp(-x))).astype(dtype)
        loss = binary_cross_entropy if probabilities else binary_cross_entropy_with_logits
        for row in range(len(x)):
            single = reported(x[row : row + 1], y[row : row + 1], probabilities=probabilities)
            assert single.scores().loss[0] == loss(x[row], y[row], reduction="none")[0]


@pytest.mark.parametrize("instruction_set", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_counts_alike(instruction_set: str) -> None:
    code = """
        import hashlib, json
        import numpy as np
        try:
            from binxent.report import Report
        except ImportError:
            raise SystemExit(print("null"))
        digest, losses = hashlib.sha256(), []
        for dtype in (np.float32, np.float64):
            for probabilities in (False, True):
                rng = np.random.default_rng(0)
                x = (3 * rng.standard_normal((5000, 7))).astype(dtype)
                x = (1 / (1 + np.exp(-x))).astype(dtype) if probabilities else x
                report = Report(7, probabilities=probabilities, exact_scores=0)
                report.update(x, rng.random(x.shape) < 0.2)
                digest.update(report._ranking._binned.counts().tobytes())
                digest.update(report._cells.counts().sum(axis=1).tobytes())
                losses += report.scores().loss.tolist() + report.scores().calibration_error.tolist()
        print(json.dumps([digest.hexdigest(), losses]))
    """
    digest, losses = json.loads(processes.python(code, BINXENT_ISA=None))
    other = json.loads(processes.python(code, BINXENT_ISA=instruction_set))
    if other is None:
        pytest.skip(f"no {instruction_set} here")
    assert other[0] == digest
    same_bits = "baseline" not in (instruction_set, kernel.instruction_set)
    np.testing.assert_allclose(other[1], losses, rtol=0 if same_bits else 1e-6)


# Shards.


def same_counts(a: Report, b: Report) -> None:
    np.testing.assert_array_equal(a._cells.counts(), b._cells.counts())
    np.testing.assert_array_equal(a._cells.probabilities(), b._cells.probabilities())
    x, y = a._ranking._binned, b._ranking._binned
    assert (x is None) == (y is None)
    if x is not None and y is not None:
        assert x.shift == y.shift
        np.testing.assert_array_equal(x.counts(), y.counts())
    for mine, others in zip(a._ranking.average_precision(), b._ranking.average_precision(), strict=True):
        np.testing.assert_array_equal(mine, others)


@settings(max_examples=40)
@given(st.permutations(range(5)), st.integers(0, 1000), st.sampled_from([0, 150, 10_000]))
def test_shards_merge_in_any_order(order: list[int], seed: int, exact: int) -> None:
    """Scores that are kept, that are counted in bins, and that are kept until there are too many."""
    scores = {"exact_scores": exact, "score_bins": 64}
    x, y = data(203, 3, seed=seed % 7)
    whole = reported(x, y, **scores)
    shards = [reported(x[part], y[part], **scores) for part in np.array_split(np.arange(203), 5)]
    total = Report(3, **scores)
    for i in order:
        total.merge(shards[i])
    same_counts(total, whole)
    assert total.rows == 203
    np.testing.assert_allclose(total.scores().loss, whole.scores().loss, rtol=2e-16)
    # Associative too: in a tree.
    left, right = Report(3, **scores), Report(3, **scores)
    for i in order[:2]:
        left.merge(shards[i])
    for i in order[2:]:
        right.merge(shards[i])
    right.merge(left)
    same_counts(right, whole)
    np.testing.assert_allclose(right.scores().loss, whole.scores().loss, rtol=2e-16)


@pytest.mark.parametrize(
    ("sums", "exact"),
    [
        ([2.0**53, *[1.0] * 6], 2.0**53 + 6),  # each 1 is lost of the sum
        ([1.0, 2.0**53, 1.0], 2.0**53 + 2),  # the first sum is the smaller one
        ([1.0, 2.0**60, 3.0, 2.0**60], 2.0**61 + 4 - 4),  # what is left of 4 is below the last digit
        ([0.0, 2.0**53, 0.5, 0.5, 0.5, 0.5], 2.0**53 + 2),
        ([1.0, np.inf, 2.0], np.inf),
    ],
)
def test_rounding_is_not_lost_where_sums_are_merged(sums: list[float], exact: float) -> None:
    def of(number: float) -> LossSums:
        made = LossSums(1)
        made.sum[:] = number
        return made

    one_by_one, pair = of(sums[0]), of(0.0)
    for number in sums[1:]:
        one_by_one.merge(of(number))
        pair.merge(of(number))
    assert one_by_one.total() == exact
    first = of(sums[0])
    first.merge(pair)  # which has lost something of its own
    assert first.total() == exact


def test_merged_weights() -> None:
    x, y = data()
    w = np.random.default_rng(3).random(500)
    whole, first, second = Report(5, reduction="weighted_mean"), *(Report(5, reduction="weighted_mean") for _ in "12")
    whole.update(x[:200], y[:200])
    whole.update(x[200:], y[200:], sample_weight=w[200:])
    first.update(x[:200], y[:200])
    second.update(x[200:], y[200:], sample_weight=w[200:])
    for a, b in ((first, second), (second, pickle.loads(pickle.dumps(first)))):
        total = Report(5, reduction="weighted_mean")
        total.merge(a)
        total.merge(b)
        np.testing.assert_allclose(total.scores().loss, whole.scores().loss, rtol=1e-13)
        np.testing.assert_allclose(total.scores().base_rate_loss, whole.scores().base_rate_loss, rtol=1e-13)


def test_a_weight_after_none() -> None:
    x, y = data()
    report, expected = Report(5, reduction="weighted_mean"), Report(5, reduction="weighted_mean")
    report.update(x[:100], y[:100])
    report.update(x[100:200], y[100:200], sample_weight=np.full(100, 3.0))
    report.update(x[200:], y[200:])
    expected.update(x, y, sample_weight=np.where((np.arange(500) // 100) == 1, 3.0, 1.0))
    np.testing.assert_allclose(report.scores().loss, expected.scores().loss, rtol=1e-12)


@pytest.mark.parametrize(
    "other",
    [
        Report(3),
        Report(["a", "b"]),
        Report(2, threshold=0.4),
        Report(2, probabilities=True),
        Report(2, calibration_bins=10),
        Report(2, score_bins=64),
        Report(2, exact_scores=5),
        Report(2, gamma=1.0),
        Report(2, gamma_negative=1.0),
        Report(2, alpha=0.5),
        Report(2, margin=0.1),
        Report(2, focal="p_t"),
        Report(2, pos_weight=2.0),
        Report(2, neg_weight=[2.0, 1.0]),
        Report(2, ignore_index=-1),
        Report(2, reduction="sum"),
    ],
)
def test_reports_of_other_settings_are_not_merged(other: Report) -> None:
    with pytest.raises(ValueError, match="reports differ"):
        Report(2).merge(other)


def test_a_report_is_pickled() -> None:
    x, y = data()
    report = reported(x, y, pos_weight=[2.0])
    copy = pickle.loads(pickle.dumps(report))
    same_counts(copy, report)
    assert copy.overall() == report.overall()


def test_tables_are_emptied_before_they_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data(300, 3)
    whole = reported(x, y, exact_scores=0)
    monkeypatch.setattr(kernel, "MAX_ROWS_IN_CELL", 100)
    monkeypatch.setattr(score_bins, "_MOST_ROWS", 128)
    report = Report(3, exact_scores=0)
    for first in range(0, 300, 50):
        report.update(x[first : first + 50], y[first : first + 50])
    assert report._ranking._binned is not None
    assert report._ranking._binned._emptied is not None
    assert report._cells.emptied is not None
    same_counts(report, whole)
    doubled = Report(3, exact_scores=0)
    doubled.merge(report)
    doubled.merge(report)
    assert doubled._ranking._binned is not None
    assert whole._ranking._binned is not None
    np.testing.assert_array_equal(doubled._ranking._binned.counts(), 2 * whole._ranking._binned.counts())


def test_a_cell_holds_as_many_rows_as_it_says() -> None:
    rows = kernel.MAX_ROWS_IN_CELL
    report = Report(1)
    ones = np.ones((rows, 1), np.float16)
    half = rows // 2
    report.update(np.full((rows, 1), 30.0, np.float32), ones)
    assert report._cells.emptied is None
    assert report._cells.counts()[0, -1, 1, 1] == rows
    assert report._cells.probabilities().sum() == rows << kernel.PROBABILITY_BITS
    report.update(np.full((half, 1), 30.0, np.float32), ones[:half])
    assert report._cells.counts()[0, -1, 1, 1] == rows + half


def test_more_rows_than_a_cell_holds_at_once() -> None:
    rows = 2 * kernel.MAX_ROWS_IN_CELL + 5
    report = Report(1)
    report.update(np.full(rows, -1, np.float32), np.arange(rows) % 4 == 0)
    scores = report.scores()
    assert (scores.known[0], scores.positive[0]) == (rows, -(-rows // 4))


def test_chunks_do_not_change_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data(700, 3)
    w = np.random.default_rng(0).random((700, 3))
    whole = Report(3)
    whole.update(x, y, weight=w)
    monkeypatch.setattr(module, "_CHUNK", 90)
    parts = Report(3)
    parts.update(x, y, weight=w)
    same_counts(parts, whole)
    np.testing.assert_allclose(parts.scores().loss, whole.scores().loss, rtol=1e-15)


# What is given.


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.int16, np.uint16, np.int64, np.uint64, np.float64])
def test_labels_of_any_type(dtype: Any) -> None:
    x, y = data()
    given_, expected = reported(x, y.astype(dtype)), reported(x, y)
    np.testing.assert_array_equal(given_._cells.counts(), expected._cells.counts())
    np.testing.assert_array_equal(given_.scores().average_precision, expected.scores().average_precision)
    # With labels in float64 the arithmetic is too.
    np.testing.assert_allclose(given_.scores().loss, expected.scores().loss, rtol=1e-7)


def test_any_byte_but_0_is_true() -> None:
    """A mask of 0 and 255, seen as booleans."""
    x, y = data()
    y = y > 0.5
    of_255 = (y * np.uint8(255)).view(bool)
    same_counts(reported(x, of_255), reported(x, y))


def test_any_layout() -> None:
    x, y = data()
    same_counts(reported(np.asfortranarray(x), y[:, ::-1][:, ::-1]), reported(x, y))
    same_counts(reported(x.astype(">f4"), y), reported(x, y))
    single = Report(1)
    single.update(x[:, 2], y[:, 2])
    same_counts(single, reported(x[:, 2:3], y[:, 2:3]))


@pytest.mark.parametrize(
    ("where", "value", "probabilities", "message"),
    [
        ("predictions", np.nan, False, "predictions: nan in row 7, label c2; expected a number"),
        ("predictions", np.nan, True, "predictions: nan in row 7, label c2; expected a number between 0 and 1"),
        ("predictions", 1.5, True, r"predictions: 1.5 in row 7, label c2"),
        ("labels", 2.0, False, "labels: 2.0 in row 7, label c2; expected a number between 0 and 1"),
        ("labels", np.nan, False, "labels: nan in row 7"),
        ("labels", -0.25, True, "labels: -0.25 in row 7"),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_refused_values_are_named(
    where: str, value: float, probabilities: bool, message: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = (a.astype(np.float64) for a in data(20, 3))
    if probabilities:
        x = 1 / (1 + np.exp(-x))
    {"predictions": x, "labels": y}[where][7, 2] = value
    monkeypatch.setattr(module, "_CHUNK", 9)
    monkeypatch.setattr(module, "_PLAIN_CHUNK", 9)
    monkeypatch.setattr(module, "_MIN_ROWS", 1)
    report = Report(["c0", "c1", "c2"], probabilities=probabilities)
    with pytest.raises(InvalidValueError, match=message) as raised:
        report.update(x, y, weight=np.ones(3) if weighted else None)
    assert (raised.value.argument, raised.value.row, raised.value.label) == (where, 7, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Report(0), "labels: there is none"),
        (lambda: Report(2, threshold=1.5), "threshold"),
        (lambda: Report(2, calibration_bins=0), "calibration_bins"),
        (lambda: Report(2, score_bins=0), "score_bins"),
        (lambda: Report(2, exact_scores=-1), "exact_scores"),
        (lambda: Report(2, reduction="none"), "reduction"),
        (lambda: Report(2, pos_weight=[1.0, 2, 3]), "pos_weight: shape"),
        (lambda: Report(2, neg_weight=[1.0, 2, 3]), "neg_weight: shape"),
        (lambda: Report(["a", "b"], neg_weight=[1.0, -2]), r"neg_weight: -2.0 of label b; expected a finite number"),
        (lambda: Report(2, pos_weight=np.nan), r"pos_weight: nan; expected a finite number"),
        (lambda: Report(2, pos_weight=[np.inf, 1]), r"pos_weight: inf of label 0; expected a finite number"),
        (lambda: Report(2, alpha=1.5), "alpha: 1.5; expected"),
        (lambda: Report(2, margin=1.0), "margin: 1.0; expected"),
        (lambda: Report(2, gamma_positive=-1.0), "gamma_positive: -1.0; expected"),
        (lambda: Report(2, gamma=1.0, gamma_negative=2.0), "gamma_negative: and gamma are given"),
        (lambda: Report(2, focal="pt"), "focal: 'pt'; expected one of"),
        (lambda: Report(2, focal="p_t", margin=0.1), "margin: has no meaning beside focal='p_t'"),
        (lambda: Report(2).update(np.zeros((3, 2)), np.zeros((3, 3))), "labels: shape"),
        (lambda: Report(2).update(np.zeros((3, 3)), np.zeros((3, 3))), r"expected \[rows, 2\]"),
        (lambda: Report(2).update(np.zeros(4), np.zeros(4)), r"expected \[rows, 2\]"),
        (lambda: Report(2).update(np.zeros((3, 2)), np.zeros((3, 2)), sample_weight=np.ones(2)), "sample_weight"),
        (lambda: Report(2).update(np.zeros((3, 2)), np.zeros((3, 2)), weight=np.ones(3)), "weight: shape"),
        (lambda: Report(2).update(np.zeros((3, 2)), np.zeros((3, 2)), mask=np.ones(2)), "mask: shape"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("argument", ["predictions", "labels", "weight", "sample_weight", "mask", "pos_weight"])
def test_masked_arrays_are_refused(argument: str) -> None:
    given: dict[str, Any] = {"predictions": np.zeros((3, 2)), "labels": np.zeros((3, 2)), "weight": np.ones((3, 2))}
    given |= {"sample_weight": np.ones(3), "mask": np.ones((3, 2)), "pos_weight": np.ones(2)}
    given[argument] = np.ma.masked_array(given[argument], mask=False)
    with pytest.raises(TypeError, match=rf"^{argument}: the mask of a numpy\.ma\.MaskedArray would be ignored"):
        Report(2, pos_weight=given.pop("pos_weight")).update(**given)


def test_words_are_no_numbers() -> None:
    with pytest.raises(TypeError, match="predictions: "):
        Report(1).update(np.array([["a"]]), np.array([[1]]))


def test_infinite_logits_count() -> None:
    report = Report(2)
    report.update(np.array([[np.inf, -np.inf], [-np.inf, np.inf]]), np.array([[1, 1], [0, 1]]))
    scores = report.scores()
    assert scores.loss.tolist() == [0, np.inf]
    report.merge(report)
    assert report.scores().loss.tolist() == [0, np.inf]

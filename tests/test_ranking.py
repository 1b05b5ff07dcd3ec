"""Average precision: exact where the scores are kept; in bins that follow the data, and within the bound, where not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binxent import formula
from binxent.report import EXACT_SCORES, Report, measures
from binxent.report.score_bins import ScoreBins, default_bins, score_keys

Array = np.ndarray[Any, Any]


def data(rows: int = 500, labels: int = 4, seed: int = 0, dtype: Any = np.float32) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    odds = np.linspace(-3, 1, labels) + 1.5 * rng.standard_normal((rows, labels))
    target = rng.random((rows, labels)) < 1 / (1 + np.exp(-odds))
    return odds.astype(dtype), target.astype(np.uint8)


def reported(x: Array, y: Array, parts: int = 3, **settings: Any) -> Report:
    report = Report(x.shape[1], **settings)
    for rows in np.array_split(np.arange(len(x)), parts):
        report.update(x[rows], y[rows])
    return report


def bins_of(report: Report) -> ScoreBins:
    assert report._ranking._binned is not None
    return report._ranking._binned


def expected(x: Array, y: Array) -> Array:
    """Those of scikit-learn."""
    metrics = pytest.importorskip("sklearn.metrics")
    return np.array([metrics.average_precision_score(y[:, i], x[:, i]) for i in range(x.shape[1])])


# The same scores, wherever they lie. Sums keep the order but for roundings, of which the scores then are made.
PLACES = {
    "logits": lambda z: z,
    "logits * 1000": lambda z: 1000 * z,
    "logits / 100000": lambda z: z / 1e5,
    "logits + 1000": lambda z: z + 1000,
    "logits - 30": lambda z: z - 30,
    "masked by -1e4": lambda z: np.where(z < -5, -1e4, z),
    "rounded": lambda z: np.round(z, 1),
    "one value": lambda z: 0 * z + 7,
    "probabilities": lambda z: 1 / (1 + np.exp(-z)),
    "sure probabilities": lambda z: 1 / (1 + np.exp(-6 * z)),
    "probabilities near 1/2": lambda z: 0.5 + z / 1000,
    "probabilities below 1/1000": lambda z: 1 / (1 + np.exp(8 - z)),
}


TIED = ("rounded", "one value", "sure probabilities")  # which no bin knows: the bound allows for any order


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("labels", [1, 3, 40])
@pytest.mark.parametrize("place", PLACES)
def test_scores_that_are_kept_give_scikit_learns_figure(place: str, labels: int, dtype: Any) -> None:
    x, y = data(300, labels, dtype=np.float64)
    x = PLACES[place](x).astype(dtype)
    scores = reported(x, y, probabilities="probabilities" in place).scores()
    np.testing.assert_allclose(scores.average_precision, expected(x, y), rtol=1e-13)
    np.testing.assert_array_equal(scores.average_precision_error, 0)


def test_logits_times_1000_and_150_elements() -> None:
    """They had errors of 0.08 and 0.02, when all scores were rounded."""
    x, y = data(150, 1)
    for scale in (1, 1000):
        scores = reported(scale * x, y).scores()
        np.testing.assert_allclose(scores.average_precision, expected(x, y), rtol=1e-13)
        assert scores.average_precision_error[0] == 0


@pytest.mark.parametrize("bins", [None, 512, 64, 3, 1])
@pytest.mark.parametrize("place", PLACES)
def test_bins_follow_the_data_and_the_bound_holds(place: str, bins: int | None) -> None:
    x, y = data(3000)
    x = PLACES[place](x.astype(np.float64)).astype(np.float32)
    report = reported(x, y, probabilities="probabilities" in place, exact_scores=0, score_bins=bins)
    scores = report.scores()
    off = np.abs(scores.average_precision - expected(x, y))
    assert (off <= scores.average_precision_error + 1e-12).all()
    assert np.isfinite(scores.average_precision_error).all()
    if bins is None and place not in TIED:
        assert scores.average_precision_error.max() < 2e-3


@pytest.mark.parametrize("bins", [1 << 16, 1000, 64, 8])
@pytest.mark.parametrize("scale", [1, 1000])
def test_bins_are_scores_without_their_low_bits(bins: int, scale: float) -> None:
    x, y = data(700, seed=bins)
    x = x * np.float32(scale)
    report = reported(x, y, exact_scores=0, score_bins=bins)
    mask = np.uint32((0xFFFFFFFF << bins_of(report).shift) & 0xFFFFFFFF)
    magnitude = (np.abs(x).view(np.uint32) & mask).view(np.float32)
    # The table holds numbers from 0 on by themselves, though they differ from those below by nothing but the sign.
    rounded = np.where(x >= 0, magnitude.astype(np.float64), -1e-60 - magnitude)
    np.testing.assert_allclose(report.scores().average_precision, expected(rounded, y), rtol=1e-12)


def test_more_scores_than_are_kept_are_counted_in_bins() -> None:
    x, y = data(500, 4)
    assert reported(x, y, exact_scores=2000)._ranking._binned is None
    late, early = reported(x, y, exact_scores=1999), reported(x, y, exact_scores=0)
    assert bins_of(late).shift == bins_of(early).shift
    np.testing.assert_array_equal(bins_of(late).counts(), bins_of(early).counts())
    stopped = Report(4)
    stopped.update(x[:100], y[:100])
    stopped.stop_keeping_scores()
    stopped.update(x[100:], y[100:])
    np.testing.assert_array_equal(bins_of(stopped).counts(), bins_of(early).counts())
    assert EXACT_SCORES == 10_000_000


def test_what_is_not_known_is_in_no_bin() -> None:
    x, y = data(400, 3)
    hidden = np.random.default_rng(3).random(x.shape) < 0.4
    y = np.where(hidden, 9, y)
    for exact in (0, 700, 10_000):
        report = Report(3, ignore_index=9, exact_scores=exact)
        for rows in np.array_split(np.arange(400), 5):
            report.update(np.where(hidden, np.float32(np.nan), x)[rows], y[rows])
        scores = report.scores()
        single = [expected(x[~hidden[:, i], i][:, None], y[~hidden[:, i], i][:, None])[0] for i in range(3)]
        off = np.abs(scores.average_precision - single)
        assert (off <= scores.average_precision_error + 1e-12).all()


@given(st.lists(st.floats(0, 1, width=32), min_size=2), st.lists(st.floats(width=32, allow_nan=False), min_size=2))
def test_keys_rise_with_the_scores(probabilities: list[float], logits: list[float]) -> None:
    for values, bounded in ((probabilities, True), (logits, False)):
        for dtype in (np.float32, np.float64):
            scores = np.sort(np.array(values, dtype))
            keys = score_keys(scores, bounded).astype(np.int64)
            assert (np.diff(keys) >= 0).all()
            if not bounded:
                assert (np.diff(keys)[np.diff(scores) > 0] > 0).all()


@pytest.mark.parametrize("instruction_set", ["baseline", "avx2", "avx512"])
def test_the_kernel_makes_the_keys_of_the_definition(instruction_set: str) -> None:
    program = """
        import numpy as np
        try:
            from binxent.report import Report
        except ImportError:
            raise SystemExit(print("none"))
        from binxent.report.score_bins import ScoreBins
        rng = np.random.default_rng(0)
        wide = rng.standard_normal((4000, 3)) * 10.0 ** rng.uniform(-40, 38, (4000, 3))
        wide[:5] = [[0, -0.0, np.inf], [-np.inf, 1e-45, -1e-45], [3.4e38, -3.4e38, 1], [-1, 0.5, 0.25], [2, 4, 8]]
        tails = 1 / (1 + np.exp(-20 * rng.standard_normal((4000, 3))))
        tails[:2] = [[0, 1, 0.5], [1e-45, 1 - 2**-24, 0.49999997]]
        for scores, probabilities in ((wide, False), (tails, True)):
            for dtype in (np.float32, np.float64):
                with np.errstate(over="ignore"):
                    x = scores.astype(dtype)
                y = rng.random(x.shape) < 0.3
                report = Report(3, probabilities=probabilities, exact_scores=0)
                report.update(x, y)
                other = ScoreBins(3, report.score_bins)
                other.add(x, y.astype(np.uint8), probabilities)
                mine = report._ranking._binned
                assert mine.shift == other.shift
                np.testing.assert_array_equal(mine.counts(), other.counts())
        print("alike")
    """
    from tests import processes

    answer = processes.python(program, BINXENT_ISA=instruction_set).strip()
    if answer == "none":
        pytest.skip(f"no {instruction_set} here")
    assert answer == "alike"


def test_new_bins_do_not_change_the_losses() -> None:
    """The kernel pauses where a score has no bin yet."""
    x, y = data(4000, 3)
    fresh, used = Report(3, exact_scores=0), Report(3, exact_scores=0)
    bins_used = used._ranking.bins_for(x)
    bins_used.admit(score_keys(x, False))
    for report in (fresh, used):
        report.update(x, y)
    np.testing.assert_array_equal(fresh._losses.sum, used._losses.sum)
    np.testing.assert_array_equal(fresh._losses.lost, used._losses.lost)
    np.testing.assert_array_equal(bins_of(fresh).counts(), bins_of(used).counts())


@pytest.mark.parametrize(
    ("labels", "bins"), [(1, 65536), (8, 65536), (16, 32768), (64, 8192), (1000, 4096), (4000, 1024), (100_000, 32)]
)
def test_the_table_is_bounded(labels: int, bins: int) -> None:
    assert default_bins(labels) == bins
    assert labels * bins * 8 <= 2**25 + 2**20


def test_memory_does_not_grow_with_the_scores() -> None:
    """40 million scores, of which 10 million are kept for a while, take what 10 million take and not more."""
    program = (
        "import sys; from pathlib import Path; import numpy as np; from binxent.report import Report; "
        "rng, report = np.random.default_rng(0), Report(4);\n"
        "for _ in range(int(sys.argv[1])):\n"
        "    x = rng.standard_normal((250_000, 4), np.float32); report.update(x, x > 1)\n"
        "report.scores(); lines = Path('/proc/self/status').read_text().splitlines()\n"
        "print(next(int(l.split()[1]) for l in lines if l.startswith('VmHWM')) // 1024)"
    )
    peaks = [
        int(subprocess.run([sys.executable, "-c", program, n], capture_output=True, text=True, check=True).stdout)
        for n in ("9", "40")
    ]
    assert peaks[1] < peaks[0] + 20


# The figure itself.


def test_average_precision_of_nothing_and_of_little() -> None:
    scores = np.zeros((3, 2, 4), np.uint32)
    scores[1, 1, 2] = 1  # one positive
    scores[2, :, 1] = 1, 1  # a tie: whichever comes first
    value, error = measures.binned_average_precision(scores)
    assert np.isnan(value[0])
    assert (value[1], error[1]) == (1, 0)
    assert value[2] == 0.5
    assert 0.5 <= error[2] <= 0.6
    none, one, two = np.array([]), np.array([1.0]), np.array([1.0, 2.0])
    assert np.isnan(measures.average_precision(two, none))
    assert measures.average_precision(none, two) == 1
    assert measures.average_precision(one, one) == 0.5
    assert measures.average_precision(np.array([2.0]), two) == pytest.approx((0.5 + 2 / 3) / 2)


@given(st.integers(0, 10**6), st.integers(1, 300))
def test_the_bound_of_a_harmonic_sum(start: int, count: int) -> None:
    exact = (1 / (start + np.arange(1, count + 1, dtype=np.float64))).sum()
    bound = formula.harmonic_bound(np, float(start), float(count))
    assert exact * (1 - 1e-14) <= bound <= exact + 0.12 / (start + 1)


@pytest.mark.parametrize(
    ("error", "digits"),
    [(None, 4), (0, 4), (1e-9, 4), (4e-5, 4), (6e-5, 3), (4e-4, 3), (6e-4, 2), (0.004, 2), (0.03, 1), (0.2, 0), (1, 0)],
)
def test_no_more_digits_than_hold(error: float | None, digits: int) -> None:
    assert measures.digits(error) == digits
    if error:
        rounded = round(0.6161616161, digits)
        assert abs(rounded - 0.6161616161) + error <= max(10.0**-digits, 2 * error)

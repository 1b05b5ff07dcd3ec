"""The benchmarks' own arithmetic, and that every figure that is claimed is one that was measured."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import (
    RESULTS,
    accuracy,
    charts,
    grid,
    memory,
    processes,
    report,
    results,
    sparse,
    targets,
    timing,
)
from benchmarks.instructions import __main__ as counting
from benchmarks.instructions import counts
from benchmarks.results import Row
from benchmarks.timing import Rounds, Times
from binxent import IndexTargets
from binxent.numpy import value_and_grad

ROOT = Path(__file__).parents[1]


class Clock:
    """Time passes only where a step says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def step(self, name: str, seconds: float) -> timing.Step:
        def run() -> None:
            self.calls.append(name)
            self.now += seconds

        return run


class TestTiming:
    def test_ways_take_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = Clock(monkeypatch)
        times = timing.in_turn({"a": clock.step("a", 1), "b": clock.step("b", 3)}, Rounds(24, 1, 100))
        assert clock.calls == list("aabb" + "aabb" + "bbaa" + "aabb")  # 24 seconds are three rounds of 8
        assert times["a"].seconds == (1, 1, 1)
        assert times["b"].over(times["a"]).median == 3

    def test_a_short_step_is_repeated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = Clock(monkeypatch)
        step = 2.0**-12  # which adds up exactly
        times = timing.in_turn({"a": clock.step("a", step)}, Rounds(0, 4, 4))
        assert len(clock.calls) == 2 + 4 * (1 + int(timing.SHORTEST_ROUND / step))
        assert times["a"].seconds == (step,) * 4

    def test_ratio_is_round_by_round(self) -> None:
        """A machine that is slow for a while slows both."""
        ours, theirs = Times((1.0, 10.0, 1.0)), Times((2.0, 20.0, 2.0))
        assert theirs.over(ours).median == theirs.over(ours).upper == 2

    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell the peak")
    def test_extra_memory(self) -> None:
        size = 64 << 20

        def twice(n: int) -> timing.Step:
            return lambda: np.ones(n, np.uint8) + np.ones(n, np.uint8)

        assert memory.extra(twice(10), twice(size)) / size == pytest.approx(2, abs=0.05)  # NumPy adds into the first


def rows_that_meet_everything() -> list[Row]:
    def row(**values: object) -> Row:
        common = {**results.HEADLINE, "shape": "", "threads": 2, "median": 1.0, "ratio": 100.0}
        return {**common, **values}

    rows = [
        row(framework=framework, way=way, **where)
        for framework, way in targets.FASTER
        for where in (*targets.CASES.values(), {"elements": 64})
    ]
    rows += [row(framework="torch", way="stream", ratio=1.0, **where) for where in targets.CASES.values()]
    rows += [row(framework="numpy", way=way, dtype=dtype, **targets.HESSIANS) for way, dtype in targets.CURVED]
    rows += [
        row(framework="numpy", way=grid.focal(gamma), ratio=1.0, **targets.CASES[case])
        for gamma in targets.FOCAL
        for case in ("float32", "bfloat16")
    ]
    rows += [row(framework="torch", way="binxent compiled", ratio=1.0, **where) for where in ({}, {"elements": 64})]
    rows += [
        row(framework="torch", quantity="memory", way=way, median=tensors, ratio=None)
        for way, tensors in (("binxent", 1.0), ("binxent in place", 0.0))
    ]
    without = {"framework": "torch", "memory": "no kernel"}
    rows += [row(way="torch", ratio=1.0, **without), row(quantity="memory", way="binxent", ratio=None, **without)]
    return [*rows, row(quantity="import", framework="python", way="import binxent", median=0.001)]


class TestTargets:
    def test_met(self) -> None:
        verdicts = {target.name: target.verdict for target in targets.of(rows_that_meet_everything())}
        assert set(verdicts.values()) == {"met", "beyond"}

    def test_nothing_measured_is_nothing_met(self) -> None:
        assert {target.verdict for target in targets.of([])} == {"not measured"}

    @pytest.mark.parametrize("index", range(len(rows_that_meet_everything())))
    def test_each_miss_is_named(self, index: int) -> None:
        """Each row is looked at by one target or none, and if it is bad, by that one."""
        rows = rows_that_meet_everything()
        own = rows[index]["way"].startswith("binxent ")  # a ratio of two of our own times, which is small
        bad = 900.0 if own else 0.1
        rows[index] = {**rows[index], "median": 9.0, "ratio": bad if rows[index]["ratio"] else None}
        missed = [target.name for target in targets.of(rows) if not target.met]
        row = rows[index]
        half = row["dtype"] == "bfloat16" and row["framework"] in ("paddle", "mindspore")
        if half:
            assert missed == []  # nothing is asked of them
        else:
            (name,) = missed
            assert row["way"].removeprefix("stream").removeprefix("binxent ") in name

    def test_with_the_most_threads(self) -> None:
        rows = rows_that_meet_everything()
        slow = [{**row, "threads": 1, "ratio": 0.1} for row in rows if row["quantity"] == "time" and row["threads"] > 1]
        assert all(target.met for target in targets.of(slow + rows))


class TestResults:
    def test_csv_keeps_figures_and_conditions(self, tmp_path: Path) -> None:
        rows = rows_that_meet_everything()
        results.write(tmp_path / "speed.csv", rows)
        read = results.read(tmp_path / "speed.csv")
        for name in ("framework", "way", "elements", "threads", "median", "ratio"):
            assert [row[name] for row in read] == [row[name] for row in rows]

    def test_a_row_without_a_figure_is_not_found(self) -> None:
        rows = [{**row, "median": None} for row in rows_that_meet_everything()]
        assert results.headline(rows, framework="torch", way="torch") is None


class TestClaims:
    """What is claimed can be found in the CSV files."""

    speed, accuracy = RESULTS / "speed.csv", RESULTS / "accuracy.csv"

    def figures(self) -> str:
        return report.readme_figures(
            results.read(self.speed), results.read(self.accuracy), results.read(RESULTS / "step.csv")
        )

    def test_readme(self) -> None:
        readme = (ROOT / "README.md").read_text()
        assert report.with_figures(readme, self.figures()) == readme, "run python -m benchmarks.report"

    def test_tables(self) -> None:
        gpu = report.rows(RESULTS, "gpu")
        attacks = report.rows(RESULTS, "attacks")
        step = report.rows(RESULTS, "step")
        made = report.all_tables(results.read(self.speed), results.read(self.accuracy), gpu, attacks, step)
        found = {path.stem: path.read_text() for path in (RESULTS / "tables").glob("*.md")}
        assert found == made, "run python -m benchmarks.report"

    def test_charts(self, tmp_path: Path) -> None:
        """Every chart that the documentation shows can be drawn from the files."""
        tail = results.read(RESULTS / "tail.csv")
        charts.draw(results.read(self.speed), tail, tmp_path, report.rows(RESULTS, "gpu"))
        shown = {path.name for path in (ROOT / "docs" / "figures").iterdir()}
        assert {path.name for path in tmp_path.iterdir()} == shown

    def test_the_tails_are_those_of_every_framework(self) -> None:
        """One run makes them, with the interpreters of all frameworks; several runs would have several dates."""
        tail = results.read(RESULTS / "tail.csv")
        assert {row["framework"] for row in tail} == set(grid.FRAMEWORKS)
        assert not any(row["error"] for row in tail)
        assert len({row["date"][:10] for row in tail}) == 1

    def test_a_changed_figure_is_noticed(self) -> None:
        rows = results.read(self.speed)
        row = results.headline(rows, framework="torch", way="torch")
        assert row is not None
        row["ratio"] *= 1.5
        step = results.read(RESULTS / "step.csv")
        assert report.readme_figures(rows, results.read(self.accuracy), step) != self.figures()

    def test_a_changed_gain_of_a_step_is_noticed(self) -> None:
        step = results.read(RESULTS / "step.csv")
        for row in step:
            row["ratio"] *= 1.5
        speed, accuracy = results.read(self.speed), results.read(self.accuracy)
        assert report.readme_figures(speed, accuracy, step) != self.figures()

    def test_each_figure_has_its_conditions(self) -> None:
        for row in results.read(self.speed):
            assert row["processor"], row
            assert row["load"], row
            assert (row["median"] is None) == bool(row["error"]), row


class TestAccuracy:
    @pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
    def test_the_truth_is_good(self, dtype: str) -> None:
        if dtype == "float64" and np.finfo(np.longdouble).nmant < 63:
            pytest.skip("longdouble is no wider than float64 here")
        assert accuracy.truth(dtype, 40) < accuracy.GOOD

    def test_ours_is_held_to_the_tolerance(self) -> None:
        row = {"framework": "numpy", "way": "binxent", "loss": "logits", "dtype": "float32", "measured": "loss"}
        row |= {"region": "tails", "target": "hard", "instruction set": "avx2", "worst": 1.9}
        assert list(accuracy.beyond([row, {**row, "way": "formula", "worst": 1e7}])) == []
        (line,) = accuracy.beyond([{**row, "worst": 2.1}])
        assert "tails" in line


class TestProcesses:
    def test_worker(self) -> None:
        process = grid.Process("numpy", 1, "default", "time", (grid.Case(64),), Rounds(0, 3, 3))
        job = processes.Job(
            "numpy", vars(process) | {"cases": [vars(grid.Case(64))], "rounds": vars(process.rounds)}, 1, {}, 1
        )
        rows, broken = processes.gather([job], {}, Console(file=io.StringIO()))
        assert broken == []
        assert {row["way"] for row in rows} == {
            "binxent",
            "binxent in place",
            "formula",
            *map(grid.focal, targets.FOCAL),
        }
        assert all(row["median"] > 0 and row["rounds"] == 3 and row["elements"] == 64 for row in rows)

    def test_a_missing_framework_is_a_line(self, tmp_path: Path) -> None:
        output = io.StringIO()
        jobs = [processes.Job("jax", {"framework": "jax"}, 1, {}, 3)] * 2
        rows, broken = processes.gather(jobs, {"jax": str(tmp_path / "python")}, Console(file=output, width=300))
        assert (rows, broken) == ([], [])
        assert output.getvalue().count("No such file or directory; it is left out") == 1

    def test_a_process_that_breaks_down_is_named(self) -> None:
        job = processes.Job("numpy, of no kind", {"framework": "numpy", "quantity": "time"}, 1, {}, 1)
        rows, broken = processes.gather([job], {}, Console(file=io.StringIO()))
        assert rows == []
        assert broken == ["numpy, of no kind: exit code 1: KeyError: 'threads'"]


class TestInstructions:
    def test_what_callgrind_says(self) -> None:
        assert counting.collected("==7== Events    : Ir\n==7== Collected : 1234\n") == 1234
        with pytest.raises(counting.CannotCountError):
            counting.collected("valgrind: failed to start")

    def test_a_rise_is_named(self) -> None:
        before = {"a": 10.0, "b": 20.0}
        assert counts.risen({"a": 10.29, "b": 15.0}, before) == []
        (line,) = counts.risen({"a": 10.31, "b": 20.0}, before)
        assert line.startswith("a: ")
        assert counts.risen({"c": 1.0}, before) == ["c: no committed figure"]

    def test_figures_of_each_compiler(self, tmp_path: Path) -> None:
        file = tmp_path / "counts.csv"
        counts.write("one", {"a": 1.0}, file)
        counts.write("other", {"a": 2.0}, file)
        counts.write("one", {"a": 3.0}, file)
        assert counts.committed("one", file) == {"a": 3.0}
        assert counts.committed("other", file) == {"a": 2.0}
        assert counts.committed("a third", file) == {}

    def test_figures_are_committed(self) -> None:
        assert counts.COUNTS.read_text().startswith("compiler,case,instructions per element\n")

    def test_a_loop_that_asks_for_nothing_is_named(self) -> None:
        function = "0000000000001234 <void binxent::avx2::(anonymous namespace)::{}(long)>:\n    1234:\t{} (%rdi)\n\n"
        asks = function.format("probabilities_tile<float>", "prefetcht0")
        silent = function.format("logits_tile<double>", "vmovups")
        (named,) = counting.without_requests(asks + silent + function.format("unlike", "ret"))
        assert "logits_tile<double>" in named
        with pytest.raises(counting.CannotCountError):
            counting.without_requests(function.format("renamed", "prefetcht0"))


def test_sparse_and_dense_targets_are_timed_for_the_same_numbers() -> None:
    for step in sparse.ways(3, 700, 5).values():
        step()
    indices = sparse.labels(3, 700, 5)
    wanted = sparse.dense(indices, 700)
    assert set(np.flatnonzero(wanted)) == {700 * row + label for row in range(3) for label in indices[row]}
    losses = [value_and_grad(np.zeros((3, 700)), target)[0] for target in (wanted, IndexTargets(indices))]
    assert losses[0] == losses[1]

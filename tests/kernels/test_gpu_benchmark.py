"""The benchmark for a card, without one: that it runs, and that what it would write can be read."""

from __future__ import annotations

from pathlib import Path

from benchmarks import report, results
from tests import processes


def test_a_dry_run(tmp_path: Path) -> None:
    printed = processes.run_module(
        "benchmarks.gpu", "--dry", "--results", str(tmp_path), timeout=600, TRITON_INTERPRET=None, COLUMNS="200"
    )
    assert f"written: {tmp_path}/gpu.csv" in printed
    rows = results.read(tmp_path / "gpu.csv")
    ways = {"kernel", "kernel in place", "binxent", "torch"}
    assert {row["way"] for row in rows} == ways
    assert len(rows) == 7 * 2 * len(ways)
    for row in rows:
        assert row["error"] == ""
        assert row["median"] > 0
        assert row["card"] == "none: Triton's interpreter"
        assert row["share_of_copy"] is row["launches"] is None  # nothing is claimed for a card that was not there
    exact = [row for row in rows if row["gradient_ulp"] is not None]
    assert len(exact) == 7 * 3
    for row in exact:
        assert row["same_bits"] == "True"
        if row["way"] == "kernel":
            assert row["gradient_ulp"] <= (5.0 if row["dtype"] == "float32" else 1.0)
            assert row["mean_ulp"] <= 1.0
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.csv", "gpu.svg", "tables"}
    assert {"gpu", "gpu-conditions"} <= set(report.all_tables([], [], rows))


def test_without_a_card_it_says_so() -> None:
    code = "from benchmarks import gpu; print(gpu.main([]))"
    printed = processes.python(code, CUDA_VISIBLE_DEVICES="", COLUMNS="200").splitlines()
    assert printed == ["torch finds no CUDA card here; --dry goes through all of it without one", "1"]

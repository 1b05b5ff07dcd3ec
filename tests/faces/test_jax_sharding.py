"""Arrays on several devices: each runs the kernel on its own shard, and one number is sent for a loss."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests import processes

LOSS = ["all-reduce f64[]"]
WITH_DIVISORS = ["all-reduce (f64[], f64[1,1], f64[1,1])"]  # those of the loss and of its gradient, all at once
SENT = {
    "rows": LOSS,
    "rows over both axes": LOSS,
    "columns": LOSS,
    "rows and columns": LOSS,
    "sum of boolean targets": LOSS,
    "bfloat16": LOSS,
    "each element": [],
    "traced gamma": LOSS,
    "pos_weight": ["all-reduce f32[24]", *LOSS],
    "mask": WITH_DIVISORS,
    "mask of rows and columns": WITH_DIVISORS,
    "mask of columns": WITH_DIVISORS,
    "mask on every device": WITH_DIVISORS,
    "mask of NumPy": WITH_DIVISORS,
    "nothing kept": WITH_DIVISORS,
    "ignore_index": WITH_DIVISORS,
    "ignore_index in targets of NumPy": WITH_DIVISORS,
    "weighted_mean": ["all-reduce (f32[], f32[], f32[])", *WITH_DIVISORS],
    "sparse targets of NumPy": LOSS,
    "batchmean": LOSS,
    "vmap with masks along the divided axis": [],
    "vmap with masks along the other": ["all-reduce (f64[64], f64[64,1], f64[64,1])"],
    "vmap along the divided axis": [],
    "vmap along the other": ["all-reduce f64[64]"],
}
OTHERWISE_ROUNDED = ("pos_weight", "weighted_mean", "vmap along the other", "vmap with masks along the other")


@pytest.fixture(scope="module")
def facts() -> Any:
    return json.loads(processes.run_module("tests.faces.jax_sharded"))


@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize("mesh", ["auto", "explicit"])
def test_nothing_is_gathered(facts: Any, mesh: str, name: str) -> None:
    case = facts[mesh][name]
    assert case["sent"] == SENT[name]
    assert case["runs"] >= 4, "a device has not run the kernel"
    assert case["same values"]


@pytest.mark.parametrize("mesh", ["auto", "explicit"])
def test_of_sparse_targets_only_labels_are_moved(facts: Any, mesh: str) -> None:
    case = facts[mesh]["sparse targets"]
    assert case["runs"] >= 4, "a device has not run the kernel"
    assert case["same bits"]
    moved = {*case["sent"], *LOSS} - {*LOSS}
    assert all(re.search(r" (s32|pred)\[", array) and "[64,24]" not in array for array in moved)


@pytest.mark.parametrize("mesh", ["auto", "explicit"])
def test_sums_are_rounded_once_after_they_are_added(facts: Any, mesh: str) -> None:
    names = [name for name in SENT if name not in OTHERWISE_ROUNDED]
    assert [name for name in names if not facts[mesh][name]["same bits"]] == []


@pytest.mark.parametrize("name", ["target divided otherwise", "not in equal parts"])
def test_what_does_not_fit_is_moved_and_still_right(facts: Any, name: str) -> None:
    case = facts["auto"][name]
    assert case["runs"] > 0
    assert case["same values"]


@pytest.mark.parametrize("check", ["checked", "unchecked"])
@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("in parts", 8),
        ("a mask of the other axis", 8),
        ("the same input everywhere", 8),
        ("along one axis of two", 0),
        ("along one axis of two, the other explicit", 0),
    ],
)
def test_shard_map(facts: Any, check: str, name: str, runs: int) -> None:
    assert facts[check][name] == {"runs": runs, "same values": True}

"""What reports, scores and counts show at the prompt: the table of the command line, or one line without rich."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from binxent.labels import LabelCounts
from binxent.report import Report

X, Y = np.array([[2.0, -1.0], [-3.0, 1.0]]), np.array([[1, 0], [0, 0]])


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "80")


def a_report(names: list[str] | int = ["cat", "dog"]) -> Report:  # noqa: B006
    report = Report(names)
    report.update(X, Y)
    return report


def test_a_report(columns: None) -> None:
    assert repr(a_report()).splitlines() == [
        "Report: 2 rows, 2 labels",
        "",
        " label        base    loss  base loss     ECE      P  recall      AP",
        " -------------------------------------------------------------------",
        " cat         50.0%  0.0878     0.6931  0.0833  1.000   1.000  1.0000",
        " dog          0.0%  0.8133     0.0000  0.5000  0.000       -       -",
        "",
        " all (mean)  25.0%  0.4505     0.3466  0.2917  0.500   1.000  1.0000",
        "",
        "                    predicted: probability > 0.5",
    ]


def test_scores(columns: None) -> None:
    lines = repr(a_report().scores()).splitlines()
    assert lines[0] == "Scores: 2 labels"
    assert lines[4].split() == ["0", "50.0%", "0.0878", "0.6931", "0.0833", "1.000", "1.000", "1.0000"]
    assert len(lines) == 6


def test_counts(columns: None) -> None:
    counts = LabelCounts([1, 2500], [3, 7500], ["cat", "dog"], rows=10_000)
    assert repr(counts).splitlines() == [
        "LabelCounts: 10,000 rows, 2 labels",
        "",
        " label       positives  negatives  base rate",
        " -------------------------------------------",
        " cat                 1          3      25.0%",
        " dog             2,500      7,500      25.0%",
    ]
    assert "0.333333" in repr(LabelCounts([1 / 3], [2 / 3]))
    assert repr(LabelCounts([], [])).startswith("LabelCounts: 0 rows, 0 labels")


def test_nothing_counted_yet(columns: None) -> None:
    with np.errstate(all="raise"):
        shown = repr(Report(["a"]))
    assert shown.startswith("Report: 0 rows, 1 label\n")
    assert "nan" not in shown


@pytest.mark.parametrize("width", ["20", "80", "200"])
def test_many_labels_are_cut(columns: None, width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    rng = np.random.default_rng(0)
    report = Report(200)
    x, y = rng.normal(0, 3, (50, 200)), rng.random((50, 200)) < 0.2
    report.update(x, y)
    scores = report.scores()
    worst = np.argsort(-scores.loss)[:10].tolist()
    for shown, rest in ((report, "scores() has all"), (scores, "as_dict() has all")):
        lines = repr(shown).splitlines()
        assert [line.split()[0] for line in lines[4:14]] == [str(label) for label in worst]
        assert len(lines) < 24
        assert rest in " ".join(repr(shown).split())
    positives = rng.permutation(200)
    counts = repr(LabelCounts(positives, 1000 - positives)).splitlines()
    assert [line.split()[1] for line in counts[4:14]] == [str(n) for n in range(10)]


def test_any_name_is_shown(columns: None) -> None:
    name = "line\nbreak \x1b[31m" + "n" * 200
    for shown in (repr(a_report([name, "dög"])), repr(LabelCounts([1], [1], [name]))):
        assert "\x1b" not in shown
        assert r"line\nbr" in shown


def test_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich" or name == "binxent.commands.table"]:
        monkeypatch.delitem(sys.modules, name)
    commands = sys.modules.get("binxent.commands")
    if commands is not None and hasattr(commands, "table"):
        monkeypatch.delattr(commands, "table")
    monkeypatch.setitem(sys.modules, "rich", None)
    assert repr(a_report()) == "Report(rows=2, labels=2)"
    assert repr(a_report().scores()) == "Scores(labels=2)"
    assert repr(LabelCounts([1], [2], rows=3)) == "LabelCounts(rows=3, labels=1)"

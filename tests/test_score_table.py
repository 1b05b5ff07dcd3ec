"""The table and the picture show every figure, whatever the labels are called and wherever they are sent."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("pyarrow")
pytest.importorskip("matplotlib")
cells = pytest.importorskip("rich.cells")

from binxent.commands import picture, table  # noqa: E402
from binxent.commands.shown import printable, shortened  # noqa: E402
from binxent.report import Report, measures  # noqa: E402

Run = Callable[..., tuple[int, str, str]]

ODD = [
    "$\\frac$",
    "$cost_a$",
    "100% $ and $",
    "猫の写真を分類するための非常に長いラベル名でさらに続く名前",
    "😀😀 emoji",
    "toxic_comment_classification_label_with_a_long_name",
    "x" * 200,
    "[bold]not bold[/bold]",
    "two\nlines",
    "red\x1b[31m",
    "dög",
    "a",
]


def write_pair(folder: Path, names: list[str], rows: int = 300) -> Report:
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal((rows, len(names)))
    y = (rng.random(x.shape) < 1 / (1 + np.exp(-x))).astype(int)
    with (folder / "x.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *x.tolist()])
    np.save(folder / "y.npy", y)
    report = Report(names)
    report.update(x, y)
    return report


def figures(report: Report) -> list[list[str]]:
    """The last seven cells of each row."""
    scores = report.scores()
    columns = (
        [f"{value:.1%}" for value in scores.base_rate],
        *([f"{value:.4f}" for value in v] for v in (scores.loss, scores.base_rate_loss, scores.calibration_error)),
        *([f"{value:.3f}" for value in v] for v in (scores.precision, scores.recall)),
        [f"{value:.4f}" for value in scores.average_precision],
    )
    return [list(row) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("width", [40, 66, 80, 104, 105, 200])
@pytest.mark.parametrize("names", [ODD, ["a"], ["x" * 200]], ids=["odd", "one", "long"])
def test_every_figure_is_shown(
    names: list[str], width: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = write_pair(tmp_path, names)
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = run("score", "x.csv", "y.npy")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    shown = [line.split()[-7:] for line in lines]
    assert all(row in shown for row in figures(report))
    # Nor is the table any wider than the terminal, if a label of ten cells leaves room for the figures.
    assert max(map(cells.cell_len, lines)) <= max(width, 69)
    for name in ("$\\frac$", "a", "dög"):
        assert name not in names or any(line.split()[:1] == [name] for line in lines)


def test_an_ascii_stream_gets_ascii(tmp_path: Path) -> None:
    report = write_pair(tmp_path, ODD)
    for encoding in ("ascii", "latin-1", "cp1252", "utf-8"):
        command = [sys.executable, "-m", "binxent.cli", "score", "x.csv", "y.npy", "--plot", "dög.svg"]
        env = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "80"}
        done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=env, timeout=120)
        assert done.returncode == 0, done.stderr
        out = done.stdout.decode(encoding)
        assert all(row in [line.split()[-7:] for line in out.splitlines()] for row in figures(report))
        assert max(map(cells.cell_len, out.splitlines()[:-1])) <= 80
        assert "$\\frac$" in out
        assert "d\\xf6g" in out if encoding == "ascii" else "dög" in out
        assert b"Traceback" not in done.stderr
    (tmp_path / "labels.csv").write_text("dög,猫\n1,0\n0,1\n", encoding="utf-8")
    command = [sys.executable, "-m", "binxent.cli", "pos-weight", "labels.csv"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.stdout.decode("ascii") == "d\\xf6g\t1\n\\u732b\t1\n"


def test_5000_labels(run: Run, tmp_path: Path) -> None:
    report = write_pair(tmp_path, [f"label {i}" for i in range(5000)], rows=20)
    code, out, _ = run("score", "x.csv", "y.npy", "--limit", "7", "--plot", "r.png")
    assert code == 0
    assert "20 rows, 5,000 labels" in out
    assert "the 7 labels with the greatest loss: --json has all" in out
    rows = [line for line in out.splitlines() if line.strip().startswith("label ")]
    greatest = np.argsort(-report.scores().loss, kind="stable")[:7]
    assert [line.split()[1] for line in rows[1:]] == [str(i) for i in greatest]
    assert len(json.loads(run("score", "x.csv", "y.npy", "--json")[1])["per_label"]) == 5000


@pytest.mark.parametrize(("rows", "labels", "title"), [(1, 1, "1 row, 1 label"), (2, 3, "2 rows, 3 labels")])
def test_one_is_not_many(rows: int, labels: int, title: str, run: Run, tmp_path: Path) -> None:
    write_pair(tmp_path, [f"l{i}" for i in range(labels)], rows)
    assert title in run("score", "x.csv", "y.npy")[1].splitlines()[0]


def test_average_precision_in_bins_has_no_more_digits_than_hold(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from binxent import report as module

    exact = write_pair(tmp_path, ["a", "b"], 500).scores().average_precision
    monkeypatch.setattr(module, "EXACT_SCORES", 999)
    monkeypatch.setattr(module, "default_bins", lambda labels: 256)
    code, out, _ = run("score", "x.csv", "y.npy", "--json", "--threads", "1")
    assert code == 0
    printed = json.loads(out)
    for row, value in zip([*printed["per_label"], printed["overall"]], [*exact, exact.mean()], strict=True):
        error = row["average_precision_error"]
        assert 1e-4 < error < 0.02
        shown = repr(row["average_precision"]).partition(".")[2]
        assert abs(row["average_precision"] - value) <= 10.0 ** -len(shown)
        assert 2 * error <= 10.0 ** -len(shown)
    within = f"AP within {printed['overall']['average_precision_error']:.1g}"
    table_ = run("score", "x.csv", "y.npy", "--threads", "1")[1]
    assert within in table_
    for name, row in zip("ab", printed["per_label"], strict=True):
        (line,) = (line for line in table_.splitlines() if line.split()[:1] == [name])
        assert float(line.split()[-1]) == row["average_precision"]


# The picture.


@pytest.mark.parametrize("count", [1, len(ODD), 40])
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_label_is_no_mathematics(suffix: str, count: int, run: Run, tmp_path: Path) -> None:
    names = (ODD + [f"$\\sqrt {i}$" for i in range(40)])[:count]
    write_pair(tmp_path, names)
    (tmp_path / "x.csv").rename(tmp_path / "$x$.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, out, err = run("score", "$x$.csv", "y.npy", "--plot", f"r{suffix}")
    assert code == 0
    assert "Picture: " in out
    lacking = "binxent score: warning: the picture's font lacks some signs, which are boxes there\n"
    assert err == (lacking if count == len(ODD) else "")
    assert (tmp_path / f"r{suffix}").stat().st_size > 5000


def test_the_picture_has_the_names_as_they_are() -> None:
    report = Report(["$\\frac$", "$cost_a$"])
    report.update(np.array([[1.0, -1]]), np.array([[1, 0]]))
    with picture.style.context(["default", picture.STYLE]):
        figure = picture._picture(report, "x.csv")
    (axes,) = (axes for axes in figure.axes if axes.get_label() == "L")
    assert {label.get_text() for label in axes.get_yticklabels()} == {"$\\frac$", "$cost_a$"}
    assert not any(label.get_parse_math() for label in axes.get_yticklabels())


def test_the_picture_tells_no_more_digits_than_hold() -> None:
    x = np.random.default_rng(0).standard_normal((300, 1))
    report = Report(1, exact_scores=0, score_bins=64)
    report.update(x, x + np.random.default_rng(1).standard_normal(x.shape) > 0.3)
    scores = report.scores()
    assert 1e-4 < scores.average_precision_error[0] < 0.05
    value = round(scores.average_precision[0], measures.digits(scores.average_precision_error[0]))
    assert f"average precision {value}; above" in picture._picture(report, "x.npy").get_supxlabel().replace("\n", " ")


def test_the_table_is_there_before_the_picture(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pair(tmp_path, ["a", "b"])

    def draw(*_: Any) -> None:
        raise RuntimeError("no picture")

    monkeypatch.setattr(picture, "draw", draw)
    shown: list[Report] = []
    monkeypatch.setattr(table, "show", lambda report, limit: shown.append(report))
    with pytest.raises(RuntimeError, match="no picture"):
        run("score", "x.csv", "y.npy", "--plot", "r.png")
    assert len(shown) == 1


# Names.


@pytest.mark.parametrize(
    ("name", "encoding", "expected"),
    [
        ("dög", "utf-8", "dög"),
        ("dög", "ascii", "d\\xf6g"),
        ("猫", "cp1252", "\\u732b"),
        ("a\nb\tc\x1b[0m\u2028", "utf-8", "a\\nb\\tc\\x1b[0m\\u2028"),
        ("half \ud83d", "utf-8", "half \\ud83d"),
        ("\\n", "utf-8", "\\n"),
    ],
)
def test_signs_that_cannot_be_printed(name: str, encoding: str, expected: str) -> None:
    assert printable(name, encoding) == expected


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("most", [10, 11, 24])
def test_long_names_keep_both_ends(name: str, most: int) -> None:
    short = shortened(name, most)
    assert cells.cell_len(short) <= most
    if cells.cell_len(name) <= most:
        assert short == name
    else:
        head, _, tail = short.partition("...")
        assert name.startswith(head)
        assert name.endswith(tail)
        assert cells.cell_len(short) >= most - 2

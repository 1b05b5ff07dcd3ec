"""``binxent score`` and ``binxent pos-weight``: files of every kind, in bounded memory, and what is wrong with them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")
arrow = pytest.importorskip("pyarrow")

from pyarrow import csv, parquet  # noqa: E402

from binxent import files, report  # noqa: E402
from binxent.commands import counting  # noqa: E402
from binxent.commands.as_json import as_dict  # noqa: E402
from binxent.report import Report, measures  # noqa: E402

Array = np.ndarray[Any, Any]
Run = Callable[..., tuple[int, str, str]]
NAMES = ["cat", "dog", "bird"]
FORMATS = [".npy", ".npz", ".csv", ".parquet"]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of few rows, so that small files have many."""
    monkeypatch.setattr(counting, "_ELEMENTS", 90)


def data(rows: int = 300, labels: int = 3) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x = 2 * rng.standard_normal((rows, labels)) - 1
    return x.astype(np.float32), (rng.random((rows, labels)) < 1 / (1 + np.exp(-x))).astype(np.int8)


def save(path: Path, array: Array, names: list[str] | None = None) -> str:
    names = names or [f"c{i}" for i in range(array.shape[1] if array.ndim > 1 else 1)]
    table = arrow.table(dict(zip(names, np.atleast_2d(array.T), strict=True)))
    {
        ".npy": lambda: np.save(path, array),
        ".npz": lambda: np.savez(path, array),
        ".csv": lambda: csv.write_csv(table, path),
        ".parquet": lambda: parquet.write_table(table, path, row_group_size=70),
    }[path.suffix]()
    return path.name


def result(
    x: Array, y: Array, *, weight: Any = None, sample_weight: Any = None, mask: Any = None, **options: Any
) -> Any:
    expected = Report(x.shape[1], **options)
    expected.update(x, y, weight=weight, sample_weight=sample_weight, mask=mask)
    return expected


def same_as(printed: str, expected: Report) -> None:
    got = json.loads(printed)
    for name, values in expected.scores().as_dict().items():
        for row, value in zip(got["per_label"], values, strict=True):
            assert row[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
    assert got["overall"] == pytest.approx(expected.overall(), rel=1e-6)
    assert got["rows"] == expected.rows


# What comes out.


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("labels_in", FORMATS)
@pytest.mark.parametrize("predictions_in", FORMATS)
@pytest.mark.parametrize("probabilities", [False, True])
def test_files_of_every_kind(
    predictions_in: str, labels_in: str, probabilities: bool, run: Run, tmp_path: Path
) -> None:
    x, y = data()
    if probabilities:
        x = (1 / (1 + np.exp(-x))).astype(np.float32)
    a, b = save(tmp_path / f"x{predictions_in}", x), save(tmp_path / f"y{labels_in}", y)
    code, out, err = run("score", a, b, "--json", *["--probabilities"] * probabilities)
    assert (code, err) == (0, "")
    same_as(out, result(x, y, probabilities=probabilities))


@pytest.mark.usefixtures("parts")
def test_every_option(run: Run, tmp_path: Path) -> None:
    x, y = data()
    rng = np.random.default_rng(1)
    y = y.astype(np.int16)
    y[::9, 1] = -100
    weight, mask, each = rng.random((300, 3)), rng.random((300, 3)) < 0.8, rng.random(300)
    p = np.array([1.0, 2.5, 4.0])
    for name, array in {"x": x, "y": y, "w": weight, "m": mask, "s": each, "p": p}.items():
        np.save(tmp_path / f"{name}.npy", array)
    arguments = (
        "score x.npy y.npy --weight w.npy --mask m.npy --sample-weight s.npy --pos-weight p.npy --ignore-index -100 "
        "--label-smoothing 0.1 --gamma 1.5 --threshold 0.4 --calibration-bins 7 --reduction weighted_mean --json"
    )
    code, out, err = run(*arguments.split())
    assert (code, err) == (0, "")
    kept = {"pos_weight": p, "ignore_index": -100, "label_smoothing": 0.1, "gamma": 1.5, "reduction": "weighted_mean"}
    expected = result(x, y, weight=weight, sample_weight=each, mask=mask, threshold=0.4, calibration_bins=7, **kept)
    same_as(out, expected)


FAMILY = [
    ({"alpha": 0.25}, "--alpha 0.25"),
    ({"gamma": 2.0, "alpha": 0.75}, "--gamma 2 --alpha 0.75"),
    (
        {"gamma_positive": 1.0, "gamma_negative": 4.0, "margin": 0.05},
        "--gamma-positive 1 --gamma-negative 4 --margin 0.05",
    ),
    ({"focal": "p_t", "gamma": 1.5}, "--focal p_t --gamma 1.5"),
    ({"focal": "branch", "gamma_negative": 2.0}, "--focal branch --gamma-negative 2"),
]


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(("options", "arguments"), FAMILY)
@pytest.mark.parametrize("suffix", FORMATS)
def test_the_focal_family(suffix: str, options: dict[str, Any], arguments: str, run: Run, tmp_path: Path) -> None:
    x, y = data()
    p, n = np.array([[1.0, 2.5, 4.0]]), np.array([[0.5, 0.0, 2.0]])
    files = [save(tmp_path / f"{name}{suffix}", array) for name, array in zip("xypn", (x, y, p, n), strict=True)]
    given = ["--pos-weight", files[2], "--neg-weight", files[3], *arguments.split()]
    code, out, err = run("score", *files[:2], *given, "--json")
    assert (code, err) == (0, "")
    same_as(out, result(x, y, pos_weight=p[0], neg_weight=n[0], **options))
    shown = {name: value for name, value in options.items() if value != "branch"}
    assert json.loads(out)["options"] == shown | {"pos_weight": p[0].tolist(), "neg_weight": n[0].tolist()}
    out = run("score", *files[:2], *given)[1]
    words = " ".join(out.split()).partition("; loss: ")[2].split(", ")
    assert set(words) == {f"{k}={v if k == 'focal' else f'{v:g}'}" for k, v in shown.items()} | {
        "pos_weight",
        "neg_weight",
    }


def test_the_report_says_what_the_loss_is_of() -> None:
    from binxent.commands import picture

    x, y = data()
    plain, other = result(x, y), result(x, y, gamma_negative=4.0, margin=0.05, neg_weight=2.0, ignore_index=np.nan)
    assert "loss: " not in repr(plain)
    assert "loss: gamma_negative=4, margin=0.05, neg_weight" in " ".join(repr(other).split())
    for made, words in ((plain, "Loss 0."), (other, "Loss (gamma_negative=4, margin=0.05, neg_weight) 0.")):
        figure = picture._picture(made, "x.npy, y.npy")
        assert figure._supxlabel is not None
        assert words in " ".join(figure._supxlabel.get_text().split())
    assert json.loads(json.dumps(as_dict(other, "x", "y")))["options"]["ignore_index"] == "nan"


def test_soft_labels_with_the_power_of_p_t(run: Run, tmp_path: Path) -> None:
    x, y = data()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", 0.9 * y)
    arguments = "score x.npy y.npy --focal p_t --gamma 2 --json --plot p.svg"
    code, out, err = run(*arguments.split())
    assert (code, err) == (0, "")
    assert json.loads(out)["overall"]["base_rate_loss"] is None
    assert json.loads(out)["overall"]["loss"] > 0


def test_every_option_of_the_loss_is_one_of_the_command() -> None:
    import inspect

    from binxent import options
    from binxent.commands.score import FOCAL, REDUCTIONS, score
    from binxent.numpy import binary_cross_entropy_with_logits

    known = {parameter.name for parameter in score.params}
    loss = set(inspect.signature(binary_cross_entropy_with_logits).parameters)
    # A normalizer is for a batch that is a part of another; a file is all there is.
    # Targets are always checked.
    assert loss - known == {"input", "target", "size_average", "reduce", "normalizer", "check_targets"}
    assert FOCAL == options.FOCAL
    assert set(REDUCTIONS) == set(report.REDUCTIONS)
    assert set(REDUCTIONS) == set(options.REDUCTIONS) - {"none"}


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("shape", [(3,), (1, 3), (300, 1), (300, 3)], ids=str)
@pytest.mark.parametrize("suffix", FORMATS)
def test_weights_of_any_shape(shape: tuple[int, ...], suffix: str, run: Run, tmp_path: Path) -> None:
    if len(shape) == 1 and suffix in (".csv", ".parquet"):
        shape = (1, 3)
    x, y = data()
    weight = np.random.default_rng(2).random(shape) + 0.5
    names = save(tmp_path / "x.npy", x), save(tmp_path / "y.npy", y), save(tmp_path / f"w{suffix}", weight)
    code, out, err = run("score", names[0], names[1], "--weight", names[2], "--json")
    assert (code, err) == (0, "")
    same_as(out, result(x, y, weight=weight))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("as_column", [False, True])
def test_pos_weight_files(suffix: str, as_column: bool, run: Run, tmp_path: Path) -> None:
    x, y = data()
    p = np.array([[1.0, 2, 3]])
    save(tmp_path / "x.npy", x), save(tmp_path / "y.npy", y), save(tmp_path / f"p{suffix}", p.T if as_column else p)
    code, out, _ = run("score", "x.npy", "y.npy", "--pos-weight", f"p{suffix}", "--json")
    assert code == 0
    same_as(out, result(x, y, pos_weight=p[0]))


def test_columns_of_the_same_names_are_matched(run: Run, tmp_path: Path) -> None:
    x, y = data()
    save(tmp_path / "x.csv", x, NAMES)
    save(tmp_path / "y.parquet", y[:, [2, 0, 1]], ["bird", "cat", "dog"])
    code, out, _ = run("score", "x.csv", "y.parquet", "--json")
    assert code == 0
    same_as(out, result(x, y))
    assert [row["label"] for row in json.loads(out)["per_label"]] == NAMES
    y[5, 2] = 3
    save(tmp_path / "y.csv", y[:, [2, 0, 1]], ["bird", "cat", "dog"])
    code, _, err = run("score", "x.csv", "y.csv")
    assert code == 2
    assert "y.csv: 3.0 at row 5, column 0 (bird), counted from 0" in err


def test_one_label(run: Run, tmp_path: Path) -> None:
    x, y = data()
    np.save(tmp_path / "x.npy", x[:, 0])
    np.save(tmp_path / "y.npy", y[:, :1])
    code, out, _ = run("score", "x.npy", "y.npy", "--json", "--plot", "one.png")
    assert code == 0
    same_as(out, result(x[:, :1], y[:, :1]))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("convert", [np.asfortranarray, lambda a: a.astype(a.dtype.newbyteorder(">"))])
def test_npy_files_of_any_layout(convert: Callable[[Array], Array], run: Run, tmp_path: Path) -> None:
    x, y = data()
    np.save(tmp_path / "x.npy", convert(x))
    np.save(tmp_path / "y.npy", convert(y.astype(np.int32)))
    code, out, _ = run("score", "x.npy", "y.npy", "--json")
    assert code == 0
    same_as(out, result(x, y))


def test_one_npz_holds_both(run: Run, tmp_path: Path) -> None:
    x, y = data()
    np.savez_compressed(tmp_path / "run.npz", logits=x, labels=y)
    code, out, _ = run("score", "run.npz:logits", "run.npz:labels", "--json")
    assert code == 0
    same_as(out, result(x, y))


def test_csv_without_names_with_empty_cells_and_semicolons(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("0.5;-1\n2;3e-1\n")
    (tmp_path / "y.csv").write_text("a;b\n1;\n0;1\n")
    code, out, _ = run("score", "x.csv", "y.csv", "--ignore-index", "nan", "--json")
    assert code == 0
    x, y = np.array([[0.5, -1], [2, 0.3]]), np.array([[1, np.nan], [0, 1]])
    same_as(out, result(x, y, ignore_index=float("nan")))
    assert [row["label"] for row in json.loads(out)["per_label"]] == ["a", "b"]


def test_integers_that_become_fractions_late(run: Run, tmp_path: Path) -> None:
    """Arrow guesses types from the first block."""
    rows = 200_000
    (tmp_path / "x.csv").write_text("a\n" + "2\n" * rows + "0.5\n")
    (tmp_path / "y.csv").write_text("a\n" + "1\n" * rows + "0\n")
    code, out, err = run("score", "x.csv", "y.csv", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["rows"] == rows + 1


def test_the_table(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data()
    save(tmp_path / "x.csv", x, NAMES)
    np.save(tmp_path / "y.npy", y)
    code, out, err = run("score", "x.csv", "y.npy")
    assert (code, err) == (0, "")
    assert out.isascii() or "─" in out
    scores = result(x, y).scores()
    for i, name in enumerate(NAMES):
        (line,) = (line for line in out.splitlines() if line.split()[:1] == [name])
        cells = line.split()
        assert cells[1:3] == ["300", str(scores.positive[i])]
        assert cells[4:] == [
            f"{scores.loss[i]:.4f}",
            f"{scores.base_rate_loss[i]:.4f}",
            f"{scores.calibration_error[i]:.4f}",
            f"{scores.precision[i]:.3f}",
            f"{scores.recall[i]:.3f}",
            f"{scores.average_precision[i]:.4f}",
        ]
    assert "all (mean)" in out
    monkeypatch.setenv("COLUMNS", "72")
    narrow = run("score", "x.csv", "y.npy")[1]
    assert max(map(len, narrow.splitlines())) <= 72
    assert "…" not in narrow
    limited = run("score", "x.csv", "y.npy", "--limit", "1")[1]
    assert NAMES[int(np.argmax(scores.loss))] in limited
    assert NAMES[int(np.argmin(scores.loss))] not in limited


def test_an_infinite_loss(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[np.inf, 1.0]]))
    np.save(tmp_path / "y.npy", np.array([[0, 1]]))
    code, out, _ = run("score", "x.npy", "y.npy", "--json")
    assert code == 0
    printed = json.loads(out, parse_constant=pytest.fail)
    assert [row["loss"] for row in printed["per_label"]] == ["Infinity", pytest.approx(0.3132617)]
    assert printed["overall"]["loss"] == "Infinity"
    assert " inf " in run("score", "x.npy", "y.npy")[1]


def test_names(run: Run, tmp_path: Path) -> None:
    x, y = data()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "names.txt").write_text("[bold]\ndög\n\nbird\n", encoding="utf-8")
    code, out, _ = run("score", "x.npy", "y.npy", "--names", "names.txt")
    assert code == 0
    assert "[bold]" in out
    assert "dög" in out
    (tmp_path / "names.txt").write_text("one\n")
    code, _, err = run("score", "x.npy", "y.npy", "--names", "names.txt")
    assert (code, err) == (2, "binxent: names.txt: has 1 name, but x.npy has 3 columns\n")


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("labels", [1, 3, 60])
def test_the_picture(labels: int, suffix: str, run: Run, tmp_path: Path) -> None:
    x, y = data(labels=labels)
    x[:, 0] = np.inf  # a label whose loss is infinite
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    code, out, err = run("score", "x.npy", "y.npy", "--plot", f"r{suffix}")
    assert (code, err) == (0, "")
    assert "Picture: " in out
    magic = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    picture = (tmp_path / f"r{suffix}").read_bytes()
    assert picture.startswith(magic)
    if suffix == ".svg":
        assert b"Reliability" in picture or b"reliability" in picture.lower() or len(picture) > 10_000


def test_the_picture_shows_the_figures() -> None:
    from binxent.commands import picture

    x, y = data()
    figure = picture._picture(result(x, y), "x.npy, y.npy")
    axes = {one.get_label(): one for one in figure.axes}
    above, below, losses = (axes[name] for name in "RCL")
    count, probability, target = (a.sum(axis=0) for a in result(x, y).calibration())
    (pooled,) = (line for line in above.lines if line.get_color() == picture.OURS)
    np.testing.assert_allclose(pooled.get_xdata(), probability / count)
    np.testing.assert_allclose(pooled.get_ydata(), target / count)
    np.testing.assert_allclose([bar.get_height() for bar in below.patches], count / count.sum())
    drawn = [line.get_xdata() for line in losses.lines]
    scores = result(x, y).scores()
    gain = scores.base_rate_loss - scores.loss
    assert any(np.array_equal(d, scores.loss[np.argsort(gain)]) for d in drawn)


@pytest.mark.parametrize("labels", [1, 5, 40])
def test_labels_that_are_worse_than_their_base_rate_are_marked(labels: int) -> None:
    from binxent.commands import picture

    x, y = data(labels=labels)
    x[:, -1] = -x[:, -1] * 3
    figure = picture._picture(result(x, y), "x.npy, y.npy")
    (losses,) = (one for one in figure.axes if one.get_label() == "L")
    texts = [text.get_text() for text in losses.get_legend().get_texts()]
    scores = result(x, y).scores()
    worse = int((scores.loss > scores.base_rate_loss).sum())
    assert worse >= 1
    assert texts[-1] == f"worse than the base rate: {worse} label{'s' if worse > 1 else ''}"


# What is refused: one line, exit code 2.


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--gamma 1 --gamma-negative 2", "gamma_negative: and gamma are given"),
        ("--focal p_t --margin 0.1", "margin: has no meaning beside focal='p_t'"),
        ("--focal pt", "'pt' is not one of 'branch', 'p_t'"),
        ("--alpha 1.5", "1.5 is not in the range 0<=x<=1"),
        ("--margin 1", "1.0 is not in the range 0<=x<1"),
        ("--gamma-positive -1", "-1.0 is not in the range x>=0"),
        ("--gamma-positive inf", "gamma_positive: inf; expected a finite number"),
        ("--alpha nan", "alpha: nan; expected a number between 0 and 1"),
    ],
)
def test_what_the_loss_refuses_is_refused(arguments: str, message: str, run: Run) -> None:
    code, out, err = run("score", "x.npy", "y.npy", *arguments.split())
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize("option", ["--pos-weight", "--neg-weight", "--weight"])
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_a_bad_weight_of_a_label_is_named(value: float, option: str, run: Run, tmp_path: Path) -> None:
    weight = np.array([[1.0, 2.0, value]])
    save(tmp_path / "w.csv", weight, NAMES)
    x, _ = data()
    save(tmp_path / "z.csv", x[:, ::-1], NAMES[::-1])
    message = refused(run, "z.csv", "y.npy", option, "w.csv")
    assert message == f"binxent: w.csv: {value} for label bird; expected a finite number of at least 0"


@pytest.mark.usefixtures("parts", "pair")
@pytest.mark.parametrize("value", [0.5, 2, 255, -1])
def test_a_mask_is_0_or_1(value: float, run: Run, tmp_path: Path) -> None:
    mask = np.ones((300, 3))
    mask[250, 2] = value
    save(tmp_path / "m.parquet", mask, NAMES)
    message = f"binxent: m.parquet: {mask[250, 2]} at row 250, column 2 (bird), counted from 0; expected 0 or 1"
    assert refused(run, "x.npy", "y.npy", "--mask", "m.parquet").startswith(message)


def refused(run: Run, *arguments: str) -> str:
    code, out, err = run("score", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err.strip()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Array, Array]:
    x, y = data()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    return x, y


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("x.npy nowhere.npy", "binxent: nowhere.npy: no such file"),
        ("nowhere.parquet y.npy", "binxent: nowhere.parquet: no such file"),
        ("nowhere.csv y.npy", "binxent: nowhere.csv: no such file"),
        ("x.npy y.txt", "binxent: y.txt: the name does not end in .npy, .npz, .csv or .parquet"),
        ("x.npy .", "binxent: .: the name does not end in"),
        ("x.npy folder.npy", "binxent: folder.npy: Is a directory"),
        ("x.npy", "binxent score: Missing argument 'LABELS'."),
        ("x.npy y.npy --threshold 2", "binxent score: Invalid value for '--threshold'"),
        ("x.npy y.npy --plot r.jpg", "binxent score: Invalid value for '--plot': 'r.jpg' does not end in"),
        ("x.npy y.npy --plot no/r.png", "binxent score: Invalid value for '--plot': cannot write"),
        ("x.npy y.npy --reduction none", "binxent score: Invalid value for '--reduction'"),
        ("x.npy y.npy --ignore-index 0.5", "binxent score: ignore_index: 0.5"),
        ("x.npy y.npy --probabilities", "binxent: x.npy: "),
        ("short.npy y.npy", "binxent: y.npy: has 300 rows, but short.npy has 299"),
        ("x.npy narrow.npy", "binxent: narrow.npy: has 2 columns, but x.npy has 3"),
        ("short.csv y.npy", "binxent: short.csv: "),
        ("x.npy words.csv", "binxent: words.csv: column 'b' holds string; expected numbers"),
        ("x.npy late.csv", "binxent: late.csv: In CSV column #1: Row #"),
        ("x.npy empty.csv", "binxent: empty.csv: is empty"),
        ("x.npy ragged.csv", "binxent: ragged.csv: CSV parse error: Row #3: Expected 3 columns, got 2"),
        ("x.npy words.parquet", "binxent: words.parquet: column 'b' holds string"),
        ("x.npy bad.parquet", "binxent: bad.parquet: "),
        ("x.npy bad.npy", "binxent: bad.npy: not a .npy file"),
        ("x.npy bad.npz", "binxent: bad.npz: not a .npz file"),
        ("x.npy cut.npy", "binxent: cut.npy: ends early, after 500 of "),
        ("x.npy objects.npy", "binxent: objects.npy: holds object; expected numbers"),
        ("x.npy cube.npy", "binxent: cube.npy: shape (2, 3, 4); expected [rows, labels] or [rows]"),
        ("x.npy two.npz", "binxent: two.npz: holds the arrays a, b; name one, as two.npz:a"),
        ("x.npy two.npz:c", "binxent: two.npz: holds no array 'c', but a, b"),
        ("none.npy none.npy", "binxent: none.npy: has no rows"),
        ("x.npy y.npy --weight narrow.npy", "binxent: narrow.npy: has 2 columns; expected 3"),
        ("x.npy y.npy --sample-weight narrow.npy", "binxent: narrow.npy: has 2 columns; expected 1"),
        ("x.npy y.npy --sample-weight single.npy", "binxent: single.npy: has 299 rows, but x.npy has 300"),
        ("x.npy y.npy --pos-weight x.npy", "binxent: x.npy: shape (300, 3); expected one number for each of 3 labels"),
        ("x.npy y.npy --pos-weight negative.npy", "binxent: negative.npy: -2.0 for label 1; expected a finite number"),
        ("x.npy y.npy --neg-weight negative.npy", "binxent: negative.npy: -2.0 for label 1; expected a finite number"),
        ("x.npy columns.npz", "binxent: columns.npz: y.npy is stored by columns; save it with numpy.ascontiguousarray"),
        ("x.npy y.npy --names nowhere.txt", "binxent: nowhere.txt: No such file or directory"),
    ],
)
def test_bad_input_is_one_line(arguments: str, message: str, run: Run, tmp_path: Path) -> None:
    x, y = data()
    np.save(tmp_path / "short.npy", x[:-1])
    np.save(tmp_path / "narrow.npy", y[:, :2])
    np.save(tmp_path / "single.npy", np.ones(299))
    np.save(tmp_path / "none.npy", x[:0])
    np.save(tmp_path / "cube.npy", np.zeros((2, 3, 4)))
    np.save(tmp_path / "objects.npy", np.array([None]))
    np.savez(tmp_path / "two.npz", a=y, b=y)
    np.savez(tmp_path / "columns.npz", y=np.asfortranarray(y))
    np.save(tmp_path / "negative.npy", np.array([1.0, -2.0, 3.0]))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "y.npy").read_bytes()[:500])
    for name in ("bad.npy", "bad.npz", "bad.parquet"):
        (tmp_path / name).write_bytes(b"not what it says")
    save(tmp_path / "short.csv", x[:-1])
    (tmp_path / "words.csv").write_text("a,b,c\n1,yes,0\n")
    (tmp_path / "late.csv").write_text("a,b,c\n" + "1,0,0\n" * 299_999 + "1,x,0\n")
    (tmp_path / "ragged.csv").write_text("a,b,c\n1,0,0\n1,0\n")
    (tmp_path / "empty.csv").write_text("")
    parquet.write_table(arrow.table({"a": [1], "b": ["x"], "c": [0]}), tmp_path / "words.parquet")
    (tmp_path / "folder.npy").mkdir()
    assert refused(run, *arguments.split()).startswith(message)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("where", "value", "options", "expected"),
    [
        ("x", np.nan, (), "nan at row 250, column 1{}, counted from 0; expected a number"),
        (
            "x",
            1.5,
            ("--probabilities",),
            "1.5 at row 250, column 1{}, counted from 0; expected a number between 0 and 1",
        ),
        ("y", 2, (), "2.0 at row 250, column 1{}, counted from 0; expected a number between 0 and 1"),
        ("y", np.nan, ("--probabilities",), "nan at row 250, column 1{}, counted from 0; expected"),
    ],
)
def test_a_bad_value_is_found(
    where: str, value: float, options: tuple[str, ...], expected: str, suffix: str, run: Run, tmp_path: Path
) -> None:
    x, y = data()
    if options:
        x = 1 / (1 + np.exp(-x))
    arrays = {"x": x.astype(np.float64), "y": y.astype(np.float64)}
    arrays[where][250, 1] = value
    arrays[where][299, 2] = value  # the first one is named
    for name, array in arrays.items():
        save(tmp_path / f"{name}{suffix}", array, NAMES)
    message = refused(run, f"x{suffix}", f"y{suffix}", *options)
    named = " (dog)" if suffix in (".csv", ".parquet") else ""
    assert message.startswith(f"binxent: {where}{suffix}: {expected.format(named)}")


@pytest.mark.usefixtures("parts", "pair")
@pytest.mark.parametrize("value", [np.nan, -1.0, np.inf])
def test_a_bad_weight_is_found(value: float, run: Run, tmp_path: Path) -> None:
    if np.isnan(value):  # an empty cell of a .csv
        mask = np.ones((300, 3))
        mask[211, 1] = value
        save(tmp_path / "m.csv", mask)
        message = "binxent: m.csv: nan at row 211, column 1 (c1), counted from 0; expected 0 or 1 in each element"
        assert refused(run, "x.npy", "y.npy", "--mask", "m.csv").startswith(message)
    for option, shape, column in (("--weight", (300, 3), 1), ("--sample-weight", (300, 1), 0)):
        weight = np.ones(shape)
        weight[211, column] = value
        np.save(tmp_path / "w.npy", weight)
        message = refused(run, "x.npy", "y.npy", option, "w.npy")
        expected = f"binxent: w.npy: {value} at row 211, column {column}, counted from 0; expected a finite number"
        assert message.startswith(expected)


@pytest.mark.usefixtures("parts", "pair")
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
@pytest.mark.parametrize("cut", [1, 30, 100])
def test_files_of_different_lengths(suffix: str, cut: int, run: Run, tmp_path: Path) -> None:
    _, y = data()
    save(tmp_path / f"s{suffix}", y[:-cut])
    message = refused(run, "x.npy", f"s{suffix}")
    assert f"s{suffix}" in message
    assert "row" in message


@pytest.mark.usefixtures("pair")
def test_a_missing_library_names_its_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (Path("x.parquet")).write_bytes(b"")
    message = refused(run, "x.parquet", "y.npy")
    assert "pyarrow" in message
    assert "pip install 'binxent[cli]'" in message


@pytest.mark.usefixtures("pair")
def test_npy_files_need_no_pyarrow(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run("score", "x.npy", "y.npy")[0] == 0


# Threads, memory.


@pytest.mark.usefixtures("parts", "pair")
def test_threads_do_not_change_the_result(run: Run) -> None:
    outs = {run("score", "x.npy", "y.npy", "--json", "--threads", str(n))[1] for n in (1, 2, 4)}
    counts = [[row["found"] for row in json.loads(out)["per_label"]] for out in outs]
    assert all(c == counts[0] for c in counts)
    losses = [[row["loss"] for row in json.loads(out)["per_label"]] for out in outs]
    np.testing.assert_allclose(losses, np.broadcast_to(losses[0], np.shape(losses)), rtol=2e-16)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("suffix", FORMATS)
def test_neither_threads_nor_files_change_the_bins(
    suffix: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a .csv it shows late that there are more scores than are kept."""
    x, y = data()
    for module in (report, counting):
        monkeypatch.setattr(module, "EXACT_SCORES", 500)
    monkeypatch.setattr(report, "default_bins", lambda labels: 128)
    a, b = save(tmp_path / f"x{suffix}", x), save(tmp_path / f"y{suffix}", y)
    expected = result(x, y, exact_scores=0).scores()
    for threads in ("1", "2", "4"):
        code, out, err = run("score", a, b, "--json", "--threads", threads)
        assert (code, err) == (0, "")
        for i, row in enumerate(json.loads(out)["per_label"]):
            assert row["average_precision_error"] == expected.average_precision_error[i] > 0
            shown = round(expected.average_precision[i], measures.digits(row["average_precision_error"]))
            assert row["average_precision"] == shown


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    """In a process of its own: 128 MB of files, and of memory less than that above what a small pair takes."""
    # ru_maxrss would be that of this process, if it is greater.
    program = (
        "import sys; from pathlib import Path; from binxent.cli import main; main(['score', *sys.argv[1:], '--json']); "
        "lines = Path('/proc/self/status').read_text().splitlines(); "
        "print(next(int(l.split()[1]) for l in lines if l.startswith('VmHWM')) // 1024, file=sys.stderr)"
    )
    peaks = []
    for rows in (64, 2_000_000):
        x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (rows, 8))
        y = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (rows, 8))
        x[:], y[::3] = 1, 1
        del x, y
        command = [sys.executable, "-c", program, "x.npy", "y.npy"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert json.loads(done.stdout)["rows"] == rows
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] < 200
    assert peaks[1] - peaks[0] < 48


def test_progress_is_shown_to_who_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of stderr, in any thread; else nothing is written."""
    import io

    from binxent.commands import progress

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(progress, "_SECONDS", 0)
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.progress("rows", 1000) as advance:
        for _ in range(4):
            advance(250)
    assert "1,000 rows" in screen.getvalue()
    quiet = io.StringIO()
    monkeypatch.setattr(sys, "stderr", quiet)
    with progress.progress("rows", 1000) as advance:
        advance(1000)
    assert quiet.getvalue() == ""


# binxent pos-weight.


@pytest.mark.parametrize("suffix", FORMATS)
def test_pos_weight(suffix: str, run: Run, tmp_path: Path) -> None:
    _, y = data()
    save(tmp_path / f"y{suffix}", y, NAMES)
    code, out, err = run("pos-weight", f"y{suffix}")
    assert (code, err) == (0, "")
    expected = (y == 0).sum(axis=0) / (y == 1).sum(axis=0)
    values = [float(line.split("\t")[1]) for line in out.splitlines()]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    if suffix in (".csv", ".parquet"):
        assert [line.split("\t")[0] for line in out.splitlines()] == NAMES


def test_pos_weight_of_shards_and_methods(run: Run, tmp_path: Path) -> None:
    _, y = data()
    np.save(tmp_path / "a.npy", y[:100])
    np.save(tmp_path / "b.npy", y[100:])
    ratio = (y == 0).sum(axis=0) / (y == 1).sum(axis=0)
    options = ["--method", "sqrt", "--clip", "1.2", "1.5", "--json"]
    for order in (("a.npy", "b.npy"), ("b.npy", "a.npy")):
        code, out, _ = run("pos-weight", *order, *options)
        assert code == 0
        printed = json.loads(out)
        np.testing.assert_allclose(list(printed["pos_weight"].values()), np.clip(ratio**0.5, 1.2, 1.5), rtol=1e-6)
        assert printed["positives"] == (y == 1).sum(axis=0).tolist()
        assert printed["rows"] == 300


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".json"])
def test_pos_weight_is_written_and_read_by_score(suffix: str, run: Run, tmp_path: Path) -> None:
    x, y = data()
    save(tmp_path / "x.npy", x)
    save(tmp_path / "y.parquet", y, NAMES)
    code, out, err = run("pos-weight", "y.parquet", "-o", f"p{suffix}")
    assert (code, out) == (0, "")
    assert "3 labels, 300 rows" in err
    expected = ((y == 0).sum(axis=0) / (y == 1).sum(axis=0)).astype(np.float32)
    if suffix == ".json":
        assert json.loads((tmp_path / "p.json").read_text()) == pytest.approx(dict(zip(NAMES, expected, strict=True)))
        return
    code, out, _ = run("score", "x.npy", "y.parquet", "--pos-weight", f"p{suffix}", "--json")
    assert code == 0
    same_as(out, result(x, y, pos_weight=expected))


def test_pos_weight_of_a_sparse_file(run: Run, tmp_path: Path) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    _, y = data()
    for layout in ("csr", "csc", "coo"):
        sparse.save_npz(tmp_path / "y.npz", sparse.csr_matrix(y).asformat(layout))
        code, out, err = run("pos-weight", "y.npz", "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["positives"] == (y == 1).sum(axis=0).tolist()


def test_pos_weight_refuses(run: Run, tmp_path: Path) -> None:
    _, y = data()
    y[:, 1] = 0
    save(tmp_path / "y.csv", y, NAMES)
    code, out, err = run("pos-weight", "y.csv")
    assert (code, out) == (2, "")
    assert err == (
        "binxent: y.csv: 1 of 3 labels have no positives: 'dog'; give --without-positives 1, or leave them out\n"
    )
    code, out, _ = run("pos-weight", "y.csv", "--without-positives", "1")
    assert (code, out.splitlines()[1]) == (0, "dog\t1")
    y[7, 2] = 5
    save(tmp_path / "y.csv", y, NAMES)
    code, _, err = run("pos-weight", "y.csv")
    assert code == 2
    assert err.startswith("binxent: y.csv: 5.0 in row 7, column 2 (bird)")
    assert run("pos-weight", "nowhere.npy")[2] == "binxent: nowhere.npy: no such file\n"
    np.save(tmp_path / "two.npy", y[:, :2] * 0)
    y[7, 2] = 0
    save(tmp_path / "y.csv", y, NAMES)
    code, _, err = run("pos-weight", "y.csv", "two.npy")
    assert (code, err) == (2, "binxent: two.npy: has 2 columns, but y.csv has 3\n")


# Reading by parts.


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("suffix", FORMATS)
def test_parts_are_the_file(size: int, suffix: str, tmp_path: Path) -> None:
    x, _ = data()
    save(tmp_path / f"x{suffix}", x)
    with files.open_table(tmp_path / f"x{suffix}") as table:
        loads = list(table.parts(size))
        parts = [load() for load in reversed(loads)][::-1]
        assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
        np.testing.assert_array_equal(np.concatenate(parts).astype(np.float32), x)
        np.testing.assert_array_equal(table.read().astype(np.float32), x)

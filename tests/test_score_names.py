"""Which column is scored against which, what a first line is, what is hardly meant: never a wrong figure silently."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("rich")
arrow = pytest.importorskip("pyarrow")

from pyarrow import parquet  # noqa: E402

from binxent.label_counts import LabelCounts  # noqa: E402
from binxent.labels import count_labels  # noqa: E402

Run = Callable[..., tuple[int, str, str]]

LOGITS = np.array([[3.0, -3.0], [2.0, -1.0], [-4.0, 2.0]])
LABELS = np.array([[1, 0], [1, 0], [0, 1]])
RIGHT = {"cat": 0.0645551, "dog": 0.1629257}  # of the two above
SWAPPED = {"cat": 3.0645551, "dog": 2.1629257}  # the other way round


def text(rows: Any, names: str | None = None, mark: str = ",", end: str = "\n") -> str:
    lines = [mark.join(f"{value:g}" for value in row) for row in np.asarray(rows)]
    return end.join([*([names] if names is not None else []), *lines, ""])


def losses(run: Run, *arguments: str) -> dict[str, float]:
    code, out, err = run("score", *arguments, "--json")
    assert (code, err) == (0, "")
    return {row["label"]: row["loss"] for row in json.loads(out)["per_label"]}


def refused(run: Run, *arguments: str) -> str:
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "Traceback" not in err
    return err.strip()


@pytest.fixture
def folder(tmp_path: Path, run: Run) -> Path:
    """z.csv and z.npy are logits; the test adds the rest."""
    (tmp_path / "z.csv").write_text(text(LOGITS, "cat,dog"))
    np.save(tmp_path / "z.npy", LOGITS)
    np.save(tmp_path / "y.npy", LABELS)
    return tmp_path


# Columns are matched by name.

OTHER_WAY = LABELS[:, ::-1]
SAME = {
    "in order": text(LABELS, "cat,dog").encode(),
    "in another order": text(OTHER_WAY, "dog,cat").encode(),
    "blanks": text(OTHER_WAY, "dog, cat ").encode(),
    "quotes": text(OTHER_WAY, '"dog","cat"').encode(),
    "quotes behind a blank": text(OTHER_WAY, '"dog", "cat"').encode(),
    "a byte order mark": b"\xef\xbb\xbf" + text(OTHER_WAY, "dog,cat").encode(),
    "ends of lines of Windows": text(OTHER_WAY, "dog,cat", end="\r\n").encode(),
    "semicolons": text(OTHER_WAY, "dog;cat", ";").encode(),
    "tabs": text(OTHER_WAY, "dog\tcat", "\t").encode(),
    "a blank line before": b"\n" + text(OTHER_WAY, "dog,cat").encode(),
}


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_columns_are_matched_by_name(content: bytes, run: Run, folder: Path) -> None:
    (folder / "y.csv").write_bytes(content)
    with gzip.open(folder / "y.csv.gz", "wb") as file:
        file.write(content)
    for labels in ("y.csv", "y.csv.gz"):
        assert losses(run, "z.csv", labels) == pytest.approx(RIGHT, rel=1e-5)


def test_a_name_with_the_mark_between_columns_is_one_name(run: Run, folder: Path) -> None:
    (folder / "z.csv").write_text(text(LOGITS, '"cat, small";dog', ";"))
    (folder / "y.csv").write_text(text(OTHER_WAY, 'dog,"cat, small"'))
    assert losses(run, "z.csv", "y.csv") == pytest.approx({"cat, small": RIGHT["cat"], "dog": RIGHT["dog"]}, rel=1e-5)


def test_accents_are_spelt_in_one_way(run: Run, folder: Path) -> None:
    (folder / "z.csv").write_text(text(LOGITS, "caf\u00e9,dog"), encoding="utf-8")
    (folder / "y.csv").write_text(text(OTHER_WAY, "dog,cafe\u0301"), encoding="utf-8")
    assert list(losses(run, "z.csv", "y.csv").values()) == pytest.approx(list(RIGHT.values()), rel=1e-5)


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ("cat,dog", "dog,emu", "y.csv has no 'cat', and x.csv has no 'emu'"),
        ("cat,dog", "Dog,Cat", "y.csv has no 'cat', 'dog', and x.csv has no 'Dog', 'Cat'"),
        ("pred_a,pred_b", "a,b", "y.csv has no 'pred_a', 'pred_b', and x.csv has no 'a', 'b'"),
        ("cat,dog", "0,2", "y.csv has no 'cat', 'dog', and x.csv has no '0', '2'"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_other_names_are_refused(
    predictions: str, labels: str, message: str, suffix: str, run: Run, folder: Path
) -> None:
    (folder / "x.csv").write_text(text(LOGITS, predictions))
    (folder / "y.csv").write_text(text(LABELS, labels))
    if suffix == ".parquet":
        table = arrow.table(dict(zip(labels.split(","), LABELS.T, strict=True)))
        parquet.write_table(table, folder / "y.parquet")
    header = ["--header"] * (labels == "0,2")
    expected = f"binxent: y{suffix}: its columns are not those of x.csv: {message.replace('y.csv', 'y' + suffix)}; "
    refusal = refused(run, "score", "x.csv", f"y{suffix}", *header)
    assert refusal == f"{expected}rename them, or match columns by place with --by-position"
    by_place = losses(run, "x.csv", f"y{suffix}", "--by-position", *header)
    assert list(by_place.values()) == pytest.approx(list(RIGHT.values()), rel=1e-5)


def test_a_single_column_of_another_name_is_refused(run: Run, folder: Path) -> None:
    (folder / "x.csv").write_text(text(LOGITS[:, :1], "pred_a"))
    (folder / "y.csv").write_text(text(LABELS[:, :1], "a"))
    assert "y.csv has no 'pred_a', and x.csv has no 'a'" in refused(run, "score", "x.csv", "y.csv")
    assert losses(run, "x.csv", "y.csv", "--by-position") == pytest.approx({"pred_a": RIGHT["cat"]}, rel=1e-5)


def test_by_position_wins_over_the_same_names(run: Run, folder: Path) -> None:
    (folder / "y.csv").write_text(text(OTHER_WAY, "dog,cat"))
    assert losses(run, "z.csv", "y.csv", "--by-position") == pytest.approx(SWAPPED, rel=1e-5)


@pytest.mark.parametrize("which", ["predictions", "labels", "names"])
def test_two_columns_of_one_name_are_refused(which: str, run: Run, folder: Path) -> None:
    (folder / "x.csv").write_text(text(LOGITS, "cat,cat" if which == "predictions" else "cat,dog"))
    (folder / "y.csv").write_text(text(LABELS, "cat, cat" if which == "labels" else "cat,dog"))
    (folder / "n.txt").write_text("cat\ncat\n" if which == "names" else "cat\ndog\n")
    file = {"predictions": "x.csv", "labels": "y.csv", "names": "n.txt"}[which]
    arguments = ("score", "x.csv", "y.csv", "--names", "n.txt")
    assert f"{file}: more than one column is named 'cat'" in refused(run, *arguments)
    code, out, _ = run(*arguments, "--by-position", "--json")
    assert (code, len(json.loads(out)["per_label"])) == (0, 2)
    if which == "labels":
        assert refused(run, "pos-weight", "y.csv", "--json") == (
            "binxent: y.csv: more than one column is named 'cat'; rename them"
        )


def test_a_file_without_names_is_matched_by_place(run: Run, folder: Path) -> None:
    assert losses(run, "z.csv", "y.npy") == pytest.approx(RIGHT, rel=1e-5)
    (folder / "y.csv").write_text(text(LABELS, "cat,dog"))
    assert losses(run, "z.npy", "y.csv") == pytest.approx(RIGHT, rel=1e-5)
    (folder / "bare.csv").write_text(text(LABELS))
    assert losses(run, "z.csv", "bare.csv") == pytest.approx(RIGHT, rel=1e-5)


def test_a_list_of_names_names_the_columns_of_files_without(run: Run, folder: Path) -> None:
    (folder / "n.txt").write_bytes(b"\xef\xbb\xbfcat \r\n\r\ndog\r\n")
    (folder / "y.csv").write_text(text(OTHER_WAY, "dog,cat"))
    assert losses(run, "z.npy", "y.csv", "--names", "n.txt") == pytest.approx(RIGHT, rel=1e-5)
    assert losses(run, "z.csv", "y.npy", "--names", "n.txt") == pytest.approx(RIGHT, rel=1e-5)
    (folder / "other.txt").write_text("Cat\nDog\n")
    assert "other.txt: its columns are not those of z.csv" in refused(
        run, "score", "z.csv", "y.npy", "--names", "other.txt"
    )
    named = losses(run, "z.csv", "y.npy", "--names", "other.txt", "--by-position")
    assert list(named) == ["Cat", "Dog"]
    (folder / "latin.txt").write_bytes("h\xe4t\ndog\n".encode("latin-1"))
    assert refused(run, "score", "z.npy", "y.npy", "--names", "latin.txt").startswith(
        "binxent: latin.txt: is not text in UTF-8"
    )


# So are weights and masks.

POS_WEIGHT = np.array([1.30769, 5.66667])  # of cat and dog


@pytest.mark.parametrize("names", ["cat,dog", "dog,cat", "dog, cat"])
def test_pos_weight_is_matched_by_name(names: str, run: Run, folder: Path) -> None:
    order = [[n.strip() for n in names.split(",")].index(name) for name in ("cat", "dog")]
    (folder / "z.csv").write_text(text(OTHER_WAY * 0 + LOGITS[:, ::-1], "dog,cat"))
    (folder / "y.csv").write_text(text(LABELS, "cat,dog"))
    (folder / "p.csv").write_text(text([POS_WEIGHT[np.argsort(order)]], names))
    np.save(folder / "p.npy", POS_WEIGHT[::-1])  # in the order of the predictions
    got = losses(run, "z.csv", "y.csv", "--pos-weight", "p.csv")
    assert got == pytest.approx(losses(run, "z.csv", "y.csv", "--pos-weight", "p.npy"), rel=1e-12)
    both = dict(zip(("cat", "dog"), POS_WEIGHT, strict=True))
    expected = {
        name: np.mean(np.where(y == 1, both[name] * np.log1p(np.exp(-x)), np.log1p(np.exp(x))))
        for name, x, y in zip(("cat", "dog"), LOGITS.T, LABELS.T, strict=True)
    }
    assert got == pytest.approx(expected, rel=1e-6)


def test_what_pos_weight_writes_is_matched_by_name(run: Run, folder: Path) -> None:
    (folder / "y.csv").write_text(text(np.vstack([LABELS, [[0, 0]] * 3]), "cat,dog"))
    (folder / "z.csv").write_text(text(np.vstack([LOGITS[:, ::-1], [[-1, -2]] * 3]), "dog,cat"))
    assert run("pos-weight", "y.csv", "-o", "p.csv")[0] == 0
    assert (folder / "p.csv").read_text() == "cat,dog\n2,5\n"
    got = losses(run, "z.csv", "y.csv", "--pos-weight", "p.csv")
    np.save(folder / "p.npy", [5.0, 2.0])
    assert got == pytest.approx(losses(run, "z.csv", "y.csv", "--pos-weight", "p.npy"), rel=1e-12)


@pytest.mark.parametrize("option", ["--weight", "--mask", "--pos-weight"])
def test_weights_and_masks_are_matched_by_name(option: str, run: Run, folder: Path) -> None:
    (folder / "y.csv").write_text(text(LABELS, "cat,dog"))
    for rows in [1, 3] if option == "--weight" else [1] if option == "--pos-weight" else [3]:
        values = np.array([[1, 0], [1, 1], [0, 1]])[:rows] + 0
        (folder / "w.csv").write_text(text(values[:, ::-1], "dog,cat"))
        parquet.write_table(arrow.table({"dog": values[:, 1], "cat": values[:, 0]}), folder / "w.parquet")
        np.save(folder / "w.npy", values)
        expected = losses(run, "z.csv", "y.csv", option, "w.npy")
        for named in ("w.csv", "w.parquet"):
            assert losses(run, "z.csv", "y.csv", option, named) == pytest.approx(expected, rel=1e-12)
        # Where neither predictions nor labels have names, there is nothing to match.
        assert list(losses(run, "z.npy", "y.npy", option, "w.csv", "--by-position").values())
        (folder / "w.csv").write_text(text(values, "cat,emu"))
        assert "w.csv has no 'dog', and z.csv has no 'emu'" in refused(run, "score", "z.csv", "y.csv", option, "w.csv")


def test_a_bad_value_is_named_in_its_own_column(run: Run, folder: Path) -> None:
    (folder / "y.csv").write_text(text([[0, 1], [0, 1], [1, 7]], "dog,cat"))
    assert "y.csv: 7.0 at row 2, column 1 (cat)" in refused(run, "score", "z.csv", "y.csv")


# Shards of pos-weight, and counts in Python.


def test_shards_are_matched_by_name(run: Run, folder: Path) -> None:
    (folder / "a.csv").write_text(text([[1, 0], [0, 0], [0, 1]], "cat,dog"))
    (folder / "b.csv").write_text(text([[0, 1], [0, 1], [0, 0]], "dog,cat"))
    np.save(folder / "c.npy", [[1, 0], [0, 0]])
    code, out, _ = run("pos-weight", "c.npy", "a.csv", "b.csv", "--json")
    assert code == 0
    printed = json.loads(out)
    assert (printed["names"], printed["positives"], printed["rows"]) == (["cat", "dog"], [4, 1], 8)
    (folder / "d.csv").write_text(text(LABELS, "cat,emu"))
    assert refused(run, "pos-weight", "a.csv", "d.csv") == (
        "binxent: d.csv: its columns are not those of a.csv: d.csv has no 'dog', and a.csv has no 'emu'; rename them"
    )


def test_counts_are_merged_by_name(folder: Path) -> None:
    counts = LabelCounts([1, 2], [3, 4], ["cat", "dog"], 5)
    counts.merge(LabelCounts([10, 20], [30, 40], ["dog", "cat"], 7))
    assert (counts.positives.tolist(), counts.negatives.tolist(), counts.rows) == ([21, 12], [43, 34], 12)
    with pytest.raises(ValueError, match="labels differ: 'cat', 'emu' are to be added to 'cat', 'dog'"):
        counts.merge(LabelCounts([1, 2], [3, 4], ["cat", "emu"]))
    (folder / "b.csv").write_text(text([[0, 1], [0, 1], [0, 0]], "dog,cat"))
    counts.update(folder / "b.csv")
    assert counts.positives.tolist() == [23, 12]
    ordered = count_labels(folder / "b.csv", names=["cat", "dog"])
    assert ordered.positives.tolist() == [2, 0]
    assert count_labels(folder / "b.csv", names=["a", "b"]).positives.tolist() == [0, 2]
    assert count_labels(LABELS, names=["1", "0"]).positives.tolist() == [2, 1]


# The first line.

FLOATS = np.array([[3.25, -3.5], [2.5, -1.25], [-4.5, 2.5]])


def pandas_text(rows: Any) -> str:
    """As ``DataFrame(rows).to_csv(index=False)`` has it."""
    return text(rows, ",".join(str(i) for i in range(np.shape(rows)[1])))


@pytest.mark.parametrize("columns", [1, 2, 3, 12])
def test_the_numbers_that_pandas_writes_are_no_row(columns: int, run: Run, folder: Path) -> None:
    x, y = np.tile(FLOATS, 6)[:, :columns], np.tile(LABELS, 6)[:, :columns]
    (folder / "x.csv").write_text(pandas_text(x))
    (folder / "y.csv").write_text(pandas_text(y))
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    expected = losses(run, "x.npy", "y.npy")
    for pair in (("x.csv", "y.csv"), ("x.npy", "y.csv"), ("x.csv", "y.npy")):
        assert losses(run, *pair) == pytest.approx(expected, rel=1e-6)
        assert json.loads(run("score", *pair, "--json")[1])["rows"] == 3
    # By the numbers, as by any other names.
    (folder / "y.csv").write_text(text(y[:, ::-1], ",".join(str(i) for i in reversed(range(columns)))))
    assert losses(run, "x.csv", "y.csv", "--header") == pytest.approx(expected, rel=1e-6)


def test_a_first_row_of_0_and_1_is_told_from_a_header_by_the_rows(run: Run, folder: Path) -> None:
    x = np.array([[1.5, -2.5], [3.5, 0.5]])
    (folder / "x.csv").write_text(text(x, "cat,dog"))
    np.save(folder / "x.npy", x)
    (folder / "y.csv").write_text("0,1\n1,0\n")
    (folder / "h.csv").write_text("0,1\n0,1\n1,0\n")
    np.save(folder / "y.npy", [[0, 1], [1, 0]])
    expected = list(losses(run, "x.npy", "y.npy").values())
    for x_file in ("x.csv", "x.npy"):
        for y_file in ("y.csv", "h.csv"):
            assert list(losses(run, x_file, y_file).values()) == pytest.approx(expected, rel=1e-6)
            for option in ("--weight", "--mask"):
                (folder / "ones.csv").write_text("0,1\n1,1\n1,1\n")
                assert list(losses(run, x_file, y_file, option, "ones.csv").values()) == pytest.approx(
                    expected, rel=1e-6
                )
    (folder / "p.csv").write_text("0,1\n3,5\n")
    np.save(folder / "p.npy", [3, 5])
    assert losses(run, "x.csv", "y.csv", "--pos-weight", "p.csv") == pytest.approx(
        losses(run, "x.csv", "y.csv", "--pos-weight", "p.npy"), rel=1e-12
    )


@pytest.mark.parametrize("columns", [1, 2])
def test_what_nothing_tells_is_asked_for(columns: int, run: Run, folder: Path) -> None:
    first = ",".join("01"[:columns])
    (folder / "x.csv").write_text(f"{first}\n" + text(LOGITS[:, :columns]))
    (folder / "y.csv").write_text(f"{first}\n" + text(LABELS[:, :columns]))
    for arguments in (("score", "x.csv", "y.csv"), ("pos-weight", "y.csv")):
        message = refused(run, *arguments)
        assert f"its first line, {first}, may name the " in message
        assert message.endswith("say --header or --no-header")
    for option, rows in (("--header", 3), ("--no-header", 4)):
        assert json.loads(run("score", "x.csv", "y.csv", option, "--json")[1])["rows"] == rows
        assert json.loads(run("pos-weight", "y.csv", option, "--json", "--without-positives", "1")[1])["rows"] == rows
    with pytest.raises(ValueError, match="say header=True or header=False"):
        count_labels(folder / "y.csv")
    assert count_labels(folder / "y.csv", header=True).rows == 3
    assert count_labels(folder / "y.csv", header=False).rows == 4


@pytest.mark.parametrize("first", ["NA,1", ",1", "nan,0", "true,false", "1,-inf", "null,0.5"])
def test_a_row_without_words_is_no_header(first: str, folder: Path) -> None:
    from binxent.files import open_table

    (folder / "x.csv").write_text(f"{first}\n" + ("true,false\n" if "true" in first else "0.5,0.25\n"))
    with open_table(folder / "x.csv") as table:
        assert (table.names, table.unclear, table.count_rows()) == (None, None, 2)


@pytest.mark.parametrize("names", [",cat,dog", "cat,,dog", "cat,dog, ", ",0,1"])
def test_a_column_without_a_name_is_refused(names: str, run: Run, folder: Path) -> None:
    """An index that pandas wrote too would be a label."""
    (folder / "x.csv").write_text(text(np.column_stack([[0, 1, 2], LOGITS]), names))
    (folder / "y.csv").write_text(text(np.column_stack([[0, 1, 1], LABELS]), names))
    column = [name.strip() for name in names.split(",")].index("")
    assert refused(run, "score", "x.csv", "y.csv") == (
        f"binxent: x.csv: column {column}, counted from 0, has no name; "
        "leave an index out (pandas: index=False), or name the column"
    )
    assert "has no name" in refused(run, "pos-weight", "y.csv")
    parquet.write_table(arrow.table({"cat": [1], "__index_level_0__": [0]}), folder / "y.parquet")
    assert "column 1, counted from 0, is the index '__index_level_0__'" in refused(run, "pos-weight", "y.parquet")


# What is hardly meant.


def test_probabilities_taken_as_logits_are_noticed(run: Run, folder: Path) -> None:
    q = np.array([[0.9, 0.1], [0.7, 0.2], [0.3, 0.8]])
    np.save(folder / "q.npy", q)
    code, out, err = run("score", "q.npy", "y.npy")
    assert code == 0
    assert "1.000" in out
    assert err == (
        "binxent score: warning: every prediction, in q.npy, lies between 0 and 1: if these are probabilities and not "
        "logits, score them with --probabilities\n"
    )
    assert run("score", "q.npy", "y.npy", "--probabilities")[2] == ""
    assert run("score", "z.npy", "y.npy")[2] == ""
    # What is not known may be anything.
    q[1, 1] = -1e9
    np.save(folder / "q.npy", q)
    assert run("score", "q.npy", "y.npy")[2] == ""
    np.save(folder / "m.npy", [[1, 1], [1, 0], [1, 1]])
    assert "--probabilities" in run("score", "q.npy", "y.npy", "--mask", "m.npy")[2]
    np.save(folder / "known.npy", [[1, 0], [1, -1], [0, 1]])
    assert "--probabilities" in run("score", "q.npy", "known.npy", "--ignore-index", "-1", "--json")[2]


@pytest.mark.parametrize("options", [(), ("--probabilities",)])
def test_files_in_the_wrong_order_are_noticed(options: tuple[str, ...], run: Run, folder: Path) -> None:
    np.save(folder / "q.npy", [[0.9, 0.1], [0.7, 0.2], [0.3, 0.8]])
    code, _, err = run("score", "y.npy", "q.npy", *options)
    assert code == 0
    assert err == (
        "binxent score: warning: every prediction, in y.npy, is 0 or 1, and the labels, in q.npy, are not: "
        "are the files in the wrong order? The predictions come first\n"
    )
    assert refused(run, "score", "y.npy", "z.npy", *options).endswith(
        "; are the files in the wrong order? The predictions come first"
    )
    code, _, err = run("score", "y.npy", "y.npy", "--probabilities")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("value", [-100, -1, 255, np.nan, 0.5, 1.5])
def test_labels_that_are_not_known_name_their_option(value: float, run: Run, folder: Path) -> None:
    y = LABELS.astype(float)
    y[1, 0] = value
    np.save(folder / "u.npy", y)
    if 0 <= value <= 1:
        assert run("score", "z.npy", "u.npy")[0] == 0
        return
    message = refused(run, "score", "z.npy", "u.npy")
    if value == 1.5:
        assert "--ignore-index" not in message
        return
    assert message.endswith(f"where it means that the label is not known, give --ignore-index {value:g}")
    assert run("score", "z.npy", "u.npy", "--ignore-index", f"{value:g}")[0] == 0
    if value == value:
        assert "--ignore-index" in refused(run, "pos-weight", "u.npy")
    assert run("pos-weight", "u.npy", "--ignore-index", f"{value:g}")[0] == 0


# Files that cannot be read as they are, and one that can.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("h\xe4t,dog\n1,0\n".encode("latin-1"), "is not text in UTF-8 (invalid continuation byte); save it as UTF-8"),
        ("cat,dog\n1,0\n".encode("utf-16"), "is not text in UTF-8 (invalid start byte); save it as UTF-8"),
        (gzip.compress(b"cat,dog\n1,0\n"), "is not text in UTF-8 (invalid start byte); save it as UTF-8"),
        (b"\n\n \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
    ],
    ids=["Latin-1", "UTF-16", "compressed", "blank", "mark"],
)
def test_text_that_is_none_is_one_line(content: bytes, message: str, run: Run, folder: Path) -> None:
    (folder / "y.csv").write_bytes(content)
    for arguments in (("score", "z.csv", "y.csv"), ("pos-weight", "y.csv")):
        assert refused(run, *arguments) == f"binxent: y.csv: {message}"


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr"])
def test_a_sparse_matrix_of_scipy_is_scored(form: str, run: Run, folder: Path) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    sparse.save_npz(folder / "s.npz", sparse.csr_matrix(LABELS).asformat(form))
    assert losses(run, "z.csv", "s.npz") == pytest.approx(RIGHT, rel=1e-5)
    assert refused(run, "score", "z.csv", "s.npz:indices") == (
        "binxent: s.npz: holds one sparse matrix; give s.npz alone, without :indices"
    )
    np.savez(folder / "none.npz")
    assert refused(run, "score", "z.csv", "none.npz") == "binxent: none.npz: holds no array"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("z.npy one.npy", "one.npy: has 1 column, but z.npy has 2"),
        ("one.npy y.npy", "y.npy: has 2 columns, but one.npy has 1"),
        ("z.npy row.npy", "row.npy: has 1 row, but z.npy has 3"),
        ("z.npy y.npy --mask one.npy", "one.npy: has 1 column; expected 2"),
        ("one.npy one.npy --pos-weight z.npy", "z.npy: shape (3, 2); expected one number for each of 1 label"),
        ("z.npy y.npy --names n.txt", "n.txt: has 1 name, but z.npy has 2 columns"),
    ],
)
def test_one_is_not_many(arguments: str, message: str, run: Run, folder: Path) -> None:
    np.save(folder / "one.npy", LABELS[:, :1])
    np.save(folder / "row.npy", LABELS[:1])
    (folder / "n.txt").write_text("cat\n")
    assert refused(run, "score", *arguments.split()) == f"binxent: {message}"
    code, _, err = run("pos-weight", "row.npy", "-o", "p.npy", "--without-positives", "1")
    assert (code, err.split(":")[0]) == (0, "2 labels, 1 row")

"""``binxent demo``: what it learns, prints and draws, and what it says where it cannot."""

from __future__ import annotations

import errno
import itertools
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.text import Text

from binxent.cli import main
from binxent.demo import digits, picture, training
from binxent.labels import count_labels

Array = np.ndarray[Any, Any]
Captured = pytest.CaptureFixture[str]

TEN_DIGITS = slice(0, 10)  # the rare labels: one image in ten


def pos_weight_of(part: digits.Part) -> Array:
    return count_labels(part.targets).pos_weight()


def train(seed: int, epochs: int, weighted: bool) -> training.Run:
    train_part, test_part = digits.load(seed)
    return training.train(
        train_part,
        test_part,
        pos_weight=pos_weight_of(train_part) if weighted else None,
        epochs=epochs,
        batch_size=32,
        seed=seed,
        after_epoch=lambda: None,
    )


# What it learns


def test_the_labels_are_those_of_the_digits() -> None:
    train_part, test_part = digits.load(0)
    targets = np.concatenate([train_part.targets, test_part.targets])
    digit = targets[:, TEN_DIGITS].argmax(axis=1)
    assert targets.shape == (1797, 13)
    assert (targets[:, TEN_DIGITS].sum(axis=1) == 1).all()
    assert (targets[:, 10] == (digit % 2 == 0)).all()
    assert (targets[:, 11] == ((digit == 2) | (digit == 3) | (digit == 5) | (digit == 7))).all()
    assert (targets[:, 12] == ((digit == 0) | (digit == 6) | (digit == 8) | (digit == 9))).all()


def test_the_parts_do_not_share_an_image_and_the_seed_decides() -> None:
    def content(part: digits.Part) -> list[bytes]:
        return sorted(image.tobytes() for image in part.images)

    (train_part, test_part), again, other = digits.load(0), digits.load(0), digits.load(1)
    # No two images of the set are equal, so equal bytes would be one image in both parts.
    assert len({*content(train_part), *content(test_part)}) == 1797
    assert content(train_part) == content(again[0])
    assert content(train_part) != content(other[0])


def test_adam_takes_the_steps_of_the_paper() -> None:
    parameter, gradients = np.array([1.0, -2.0]), np.array([[0.5, -3.0], [0.1, 2.0], [-4.0, 0.0]])
    adam = training.Adam((parameter,))
    expected, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for t, g in enumerate(gradients, start=1):
        adam.step((g,))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        expected = expected - training.STEP * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(parameter, expected, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True], ids=["without", "with"])
def test_the_loss_falls(weighted: bool) -> None:
    run = train(seed=0, epochs=20, weighted=weighted)
    for losses in (run.train_loss, run.test_loss):
        assert len(losses) == 21
        assert losses[0] == pytest.approx(math.log(2), rel=1e-6)  # logits of 0 say one half
        assert losses[5] < losses[0] / 2
        assert losses[20] < losses[5] / 1.5
    assert run.test_loss[-1] == pytest.approx(run.report.scores().loss.mean(), rel=1e-5)
    assert run.report.rows == round(1797 * digits.TEST_SHARE)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pos_weight_trades_precision_for_recall_of_rare_labels(seed: int) -> None:
    plain, weighted = (train(seed, 30, weighted).report.scores() for weighted in (False, True))
    assert weighted.recall[TEN_DIGITS].mean() > plain.recall[TEN_DIGITS].mean() + 0.03
    assert weighted.precision[TEN_DIGITS].mean() < plain.precision[TEN_DIGITS].mean() - 0.03
    # "even" is positive half the time, so that its pos_weight is about 1 and changes little.
    assert abs(weighted.recall[10] - plain.recall[10]) < 0.03


# What it prints and draws


def size_of_png(path: Path) -> tuple[int, int]:
    image: Array = imread(path)  # decodes all of it, and so checks it
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 100  # something is drawn
    return image.shape[1], image.shape[0]


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


def test_the_whole_command(tmp_path: Path) -> None:
    """In a process without terminal or display, within the minute that it promises."""
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    run = subprocess.run(
        [sys.executable, "-m", "binxent.cli", "demo"],
        cwd=tmp_path,
        env=environment | {"COLUMNS": "80", "MPLBACKEND": "no-such-backend"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    written = tmp_path / "binxent-demo.png"
    assert run.stdout.endswith(f"Picture: {written}\n")
    assert size_of_png(written) == (1875, 960)
    assert run.stderr.count("60/60") == 2  # both bars, full

    plain, weighted = (train(0, 60, weighted).report.scores() for weighted in (False, True))
    targets = digits.load(0)[0].targets
    lines = run.stdout.splitlines()
    for i, label in enumerate(digits.LABELS):
        (line,) = (line for line in lines if line.startswith(f" {label} "))
        scores = [
            s[i] for pair in ("loss", "precision", "recall") for s in (getattr(plain, pair), getattr(weighted, pair))
        ]
        expected = [100 * targets[:, i].mean(), (~targets[:, i]).sum() / targets[:, i].sum(), *scores]
        np.testing.assert_allclose(numbers(line.removeprefix(f" {label} ")), expected, atol=0.051, rtol=0)
        np.testing.assert_allclose(numbers(line)[-6:], scores, atol=0.0051, rtol=0)
    (mean,) = (line for line in lines if line.startswith(" mean "))
    assert numbers(mean)[-2:] == pytest.approx([plain.recall.mean(), weighted.recall.mean()], abs=0.0051)


def test_the_same_seed_draws_the_same_picture(tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["demo", "--epochs", "1", "--seed", seed, "-o", str(tmp_path / f"{name}.png")]) == 0
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize(("name", "start"), [("a.svg", b"<?xml"), ("a.pdf", b"%PDF-"), ("A.PNG", b"\x89PNG\r\n")])
def test_the_name_decides_the_format(name: str, start: bytes, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / name
    path.write_bytes(b"an older picture")
    assert main(["demo", "--epochs", "1", "--output", str(path)]) == 0
    assert path.read_bytes().startswith(start)
    assert str(path) in capsys.readouterr().out


@pytest.mark.parametrize("columns", [200, 80, 77, 76, 60, 40])
def test_every_number_fits_the_terminal(
    columns: int, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["demo", "--epochs", "3", "-o", str(tmp_path / "a.png")]) == 0
    table = capsys.readouterr().out.partition("Picture: ")[0]
    assert all(len(line) <= columns for line in table.splitlines())
    assert "…" not in table
    whole = re.findall(r"\d\d?\.\d%|\d\.\d\d\d?(?!\d|%)|-(?= )", table)
    assert len(whole) == 13 * (2 + 6) + 1 + 6


def test_a_label_that_is_never_predicted_has_no_precision(tmp_path: Path, capsys: Captured) -> None:
    assert main(["demo", "--epochs", "1", "--batch-size", "2000", "-o", str(tmp_path / "a.png")]) == 0
    out = capsys.readouterr().out
    assert "nan" not in out
    assert "   - | " in out
    size_of_png(tmp_path / "a.png")


def test_an_ascii_output_is_no_obstacle(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "binxent.cli", "demo", "--epochs", "1", "-o", str(tmp_path / "é.png")],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "80"},
        capture_output=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.partition(b"Picture: ")[0].isascii()
    assert (tmp_path / "é.png").exists()


@pytest.mark.parametrize(("seed", "epochs"), [(0, 60), (1, 60), (2, 5), (0, 1)])
def test_no_words_in_the_picture_overlap_or_are_cut(seed: int, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, weighted = train(seed, epochs, False), train(seed, epochs, True)
    pos_weight = pos_weight_of(digits.load(seed)[0])
    with picture.style.context(["default", picture.STYLE]):
        figure = picture._picture(plain, weighted, pos_weight, "conditions " * 40)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # the layout moves what is drawn; the second time all stands where the file has it
        drawn = {}

        def note(text: Text, renderer: Any) -> None:
            if text.get_visible() and text.get_text():
                drawn[text] = text.get_window_extent(renderer)

        monkeypatch.setattr(Text, "draw", note)
        canvas.draw()
    whole = figure.bbox
    assert {"The loss falls", "epoch", "digit 8", "mean"} <= {text.get_text().partition("  ")[0] for text in drawn}
    for text, box in drawn.items():
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1, text
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1, text
    for (one, a), (other, b) in itertools.combinations(drawn.items(), 2):
        assert not a.overlaps(b), (one, other)


# What it says where it cannot


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the training began before the arguments were checked")

    monkeypatch.setattr(digits, "load", refuse)
    monkeypatch.setattr(training, "train", refuse)


def refused(arguments: list[str], capsys: Captured) -> str:
    """The one line of a refusal."""
    assert main(["demo", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("option", "value"),
    [("--epochs", "-1"), ("--epochs", "0"), ("--epochs", "many"), ("--batch-size", "0"), ("--seed", "-1")],
)
def test_bad_numbers(option: str, value: str, tmp_path: Path, capsys: Captured) -> None:
    line = refused([option, value, "-o", str(tmp_path / "a.png")], capsys)
    assert line.startswith("binxent demo: ")
    assert option in line
    assert value in line
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("picture.gif", "does not end in .png or .svg or .pdf"),
        ("picture", "does not end in"),
        ("folder.png", "is a folder"),
        ("folder.png/", "is a folder"),
        (".", "is a folder"),
        ("pipe.png", "is not a regular file"),
        ("missing/picture.png", "No such file or directory"),
        ("file/picture.png", "Not a directory"),
        ("/dev/null/picture.png", "Not a directory"),
        ("a" * 300 + ".png", "File name too long"),
        ("two\nlines/picture.png", "No such file or directory"),
    ],
)
def test_a_picture_that_cannot_be_written_is_found_before_the_training(
    path: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    Path("file").touch()
    os.mkfifo("pipe.png")
    before = sorted(tmp_path.rglob("*"))
    line = refused(["--output", path], capsys)
    assert "--output" in line
    assert why in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("no_training")
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc, which even root cannot write")
def test_a_read_only_folder_even_for_root(capsys: Captured) -> None:
    assert "cannot write '/proc/picture.png'" in refused(["-o", "/proc/picture.png"], capsys)


@pytest.mark.usefixtures("no_training")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path, capsys: Captured) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in refused(["-o", str(tmp_path / "a.png")], capsys)


def test_a_disk_that_is_full_leaves_no_half_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", half)
    assert main(["demo", "--epochs", "1", "-o", str(tmp_path / "a.png")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == f"binxent: cannot write '{tmp_path / 'a.png'}': No space left on device."
    assert not list(tmp_path.iterdir())


def test_a_link_to_nothing_stays_a_link(tmp_path: Path) -> None:
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "target.png")
    assert main(["demo", "--epochs", "1", "-o", str(link)]) == 0
    assert link.is_symlink()
    size_of_png(tmp_path / "target.png")


@pytest.mark.parametrize("library", ["rich", "sklearn", "matplotlib", "scipy"])
def test_a_missing_library_is_named(library: str, tmp_path: Path) -> None:
    program = f"import sys; sys.modules['{library}'] = None; from binxent.cli import main; sys.exit(main())"
    run = subprocess.run(
        [sys.executable, "-c", program, "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith(f"binxent: {library} cannot be imported")
    assert "pip install 'binxent[demo]'" in run.stderr
    assert not list(tmp_path.iterdir())


def test_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def interrupted(adam: training.Adam, gradients: tuple[Array, ...]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
    monkeypatch.setattr(training.Adam, "step", interrupted)
    assert main(["demo", "-o", str(tmp_path / "a.png")]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\nbinxent: interrupted\n")
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())

"""``binxent info``: what it says is so, and a face that crashes is a row."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

import numpy as np

import binxent
from binxent import kernel
from binxent.cli import main
from binxent.commands import info

NUMPY = next(face for face in info.FACES if face.name == "numpy")


def broken(body: str) -> info.Face:
    return info.Face("numpy", "NumPy", ("numpy",), "", body)


def test_the_faces_that_are_installed_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["binxent"] == binxent.__version__
    assert shown["instruction set"] == kernel.instruction_set
    assert shown["threads"] == kernel.num_threads()
    assert shown["faces"]["numpy"] == {
        "framework": "NumPy",
        "version": np.__version__,
        "state": "works",
        "works": True,
    }
    assert set(shown["faces"]) == {face.name for face in info.FACES}
    for face in info.FACES:
        row = shown["faces"][face.name]
        if row["version"] is None:
            assert row["works"] is None
            with pytest.raises(metadata.PackageNotFoundError):
                metadata.version(face.distributions[0])


def test_every_face_has_a_row() -> None:
    from pathlib import Path

    folder = Path(str(binxent.__file__)).parent
    for face in ("numpy", "torch", "paddle", "mindspore", "jax"):
        there = (folder / f"{face}.py").exists() or (folder / face / "__init__.py").exists()
        assert face in {row.name for row in info.FACES} or not there


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ("import os; os.kill(os.getpid(), 11)", "crashed: signal 11"),
        ("raise RuntimeError('no such device')", "RuntimeError: no such device"),
        ("return 0.0, [0.0, 0.0]", "AssertionError: the loss is 0.0"),
        ("return 1.4100376, [-0.25, 0.0]", "AssertionError: the gradient is [-0.25, 0.0]"),
        ("import sys; sys.exit(3)", "no message"),
    ],
)
def test_what_is_broken_is_a_row_and_not_an_end(
    body: str, state: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(info, "FACES", (broken(body),))
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["info"]) == 1
    out, err = capsys.readouterr()
    assert state in out
    assert err == ""


def test_a_face_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "SECONDS", 0.5)
    row = info.try_face(broken("import time; time.sleep(60)"))
    assert (row.works, row.state) == (False, "no answer within 0.5 s")


def test_what_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    absent = info.Face("numpy", "Nothing", ("no-such-distribution",), "", "")
    faceless = info.Face("nothing", "NumPy", ("numpy",), "", "")
    monkeypatch.setattr(info, "FACES", (absent, faceless))
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "not installed" in out
    assert "binxent has no face for it here" in out


def test_without_trying(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--no-test"]) == 0
    out = capsys.readouterr().out
    assert "not tried" in out
    assert "works" not in out
    assert binxent.__version__ in out


def test_the_row_of_numpy() -> None:
    assert info.try_face(NUMPY).works is True

"""The frame of the command line. What a command does is tested with the command."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import binxent
from binxent.cli import main

WITHOUT_CLICK = "import sys; sys.modules['click'] = None; from binxent.cli import main; sys.exit(main())"


@pytest.fixture
def click() -> None:
    """For the tests that a plain install cannot pass."""
    pytest.importorskip("click")


@pytest.mark.parametrize(
    "arguments", [[], ["--version"], ["demo"], ["demo", "--epochs", "-1"], ["score", "x.npy"]], ids=" ".join
)
def test_a_plain_install_is_told_what_to_install(arguments: list[str]) -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT_CLICK, *arguments], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.count("\n") == 1
    assert "click" in run.stderr
    extra = "demo" if "demo" in arguments else "cli"
    assert f"pip install 'binxent[{extra}]'" in run.stderr


@pytest.mark.usefixtures("click")
def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"binxent {binxent.__version__}\n", "")


@pytest.mark.usefixtures("click")
def test_the_module_runs_as_the_command() -> None:
    for arguments, code, stdout, stderr in (
        (["--version"], 0, f"binxent {binxent.__version__}\n", ""),
        (["no-such"], 2, "", "binxent: No such command 'no-such'.\n"),
    ):
        command = [sys.executable, "-m", "binxent", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout, done.stderr) == (code, stdout, stderr)


@pytest.mark.usefixtures("click")
@pytest.mark.parametrize("arguments", [[], ["--help"]], ids=["nothing", "--help"])
def test_help_shows_the_commands_and_examples(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "Examples:\n    binxent demo " in out
    assert re.findall(r"^  ([a-z-]+) +[A-Z]", out.partition("Commands:")[2], re.MULTILINE) == [
        "demo",
        "info",
        "pos-weight",
        "score",
    ]


@pytest.mark.usefixtures("click")
@pytest.mark.parametrize("command", ["demo", "score", "pos-weight", "info"])
def test_help_is_quick(command: str) -> None:
    """It imports no library but the one that reads the command line."""
    program = (
        f"import sys; from binxent.cli import main; main(['{command}', '--help']); "
        "sys.exit(' '.join({'numpy', 'matplotlib', 'pyarrow', 'rich', 'sklearn'} & set(sys.modules)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.usefixtures("click")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["demonstrate"], "binxent: No such command 'demonstrate'"),
        (["--bogus"], "binxent: No such option"),
        (["demo", "--bogus"], "binxent demo: No such option"),
    ],
    ids=["command", "option", "option of a command"],
)
def test_what_does_not_exist_is_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


@pytest.mark.usefixtures("click")
def test_a_fault_of_our_own_is_not_called_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "binxent.demo.command", None)
    with pytest.raises(ImportError, match=r"binxent\.demo\.command"):
        main(["--version"])


def runs_from_its_wheel() -> bool:
    wheels = importlib.metadata.distributions(name="binxent")
    return any(Path(str(wheel.locate_file("binxent/__init__.py"))) == Path(binxent.__file__) for wheel in wheels)


@pytest.mark.skipif(not runs_from_its_wheel(), reason="binxent runs from its source, not from a wheel")
def test_the_wheel_installs_the_command() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="binxent")
    assert script.load() is main

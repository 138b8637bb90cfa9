"""The command line: quick help, and errors of the user in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.evaluation.__main__ import COMMANDS, main

Call = Callable[..., None]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["common.evaluation", *map(str, words)])
        monkeypatch.setattr("warnings.showwarning", None)  # main replaces it; this puts the original back
        main()

    return run


def test_help_names_every_command_and_loads_nothing_heavy(call: Call, capsys: pytest.CaptureFixture[str]):
    call("--help")
    text = capsys.readouterr().out
    assert all(f"common.evaluation {name} " in text for name in COMMANDS)
    line = (
        "import sys, common.evaluation.__main__; print({'torch', 'monai', 'plotly', 'matplotlib'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", line], capture_output=True, text=True).stdout == "set()\n"


def test_a_command_with_its_options(
    call: Call, results: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    call("compare", results("one", [20, 22]), results("two", [24, 25]), "--names", "A,B", "--output", tmp_path / "out")
    assert (tmp_path / "out" / "leaderboard.html").exists() and "PSNR (dB): A - B" in capsys.readouterr().out
    call("contribution", results("one", [20, 22]))
    assert (tmp_path / "one" / "contribution_declared.png").exists()


def test_errors_are_one_line_and_status_2(
    call: Call, results: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folders = [results("one", [20, 22]), results("two", [24, 25], truth="reference")]
    for words, message in (
        (["compare", *folders], "one and two do not compare: truth is 'images' in one"),
        (["compare", folders[0]], "two or more folders"),
        (["contribution", tmp_path], "has no scores under the convention 'declared'"),
        (["rank", tmp_path], "Unknown command 'rank'; there are: picture, report, contribution, compare"),
    ):
        with pytest.raises(SystemExit) as end:
            call(*words)
        printed = capsys.readouterr()
        assert end.value.code == 2 and printed.out == ""
        assert printed.err.startswith("error: ") and message in printed.err and printed.err.count("\n") == 1

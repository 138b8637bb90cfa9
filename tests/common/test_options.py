"""Options, however they were written."""

from __future__ import annotations

import sys

import pytest

from common.options import run_command, switch, words


@pytest.mark.parametrize(
    ("value", "meant"), [(True, True), (False, False), ("true", True), ("False", False), ("FALSE", False)]
)
def test_switch(value: bool | str, meant: bool):
    assert switch(value, "resume") is meant


@pytest.mark.parametrize("value", ["yes", "", 1, None])
def test_neither_is_refused(value):
    with pytest.raises(ValueError, match=r"resume is .* true or false"):
        switch(value, "resume")


@pytest.mark.parametrize("value", ["T1,T2", "T1, T2", ["T1", "T2"], ("T1", "T2")])
def test_words(value):
    assert words(value) == ["T1", "T2"]
    assert words("T1") == ["T1"] and words(()) == words(None) == []


def test_a_misspelt_option_stops_the_command_before_its_work(monkeypatch, capsys):
    done = []

    def work(folder: str, validation: float = 0.1, overwrite: bool = False) -> None:
        done.append((folder, validation, overwrite))

    for command, first in ((work, []), ({"list": work}, ["list"])):
        monkeypatch.setattr(sys, "argv", ["data", *first, "DIR", "--validaton", "0.3"])
        with pytest.raises(SystemExit) as end:
            run_command(command)
        assert end.value.code == 2 and not done
        assert capsys.readouterr().err == "error: There is no option --validaton; did you mean --validation?\n"
        monkeypatch.setattr(sys, "argv", ["data", *first, "DIR", "--validation=0.3", "--overwrite"])
        run_command(command)
        assert done.pop() == ("DIR", 0.3, True)
        for off in (["--overwrite", "false"], ["--overwrite=false"], ["--nooverwrite"]):
            monkeypatch.setattr(sys, "argv", ["data", *first, "DIR", *off])
            run_command(command)
            assert done.pop() == ("DIR", 0.1, False)


@pytest.mark.parametrize(
    "line", [["DIR", "--help"], ["--help"], ["-h", "DIR"], ["DIR", "--validation", "0.3", "--help"]]
)
@pytest.mark.parametrize("first", [[], ["list"]])
def test_help_starts_nothing_wherever_it_stands(monkeypatch, capsys, line: list[str], first: list[str]):
    def work(folder: str, validation: float = 0.1) -> None:
        """Works.

        Args:
            validation: share of the subjects.
        """
        raise AssertionError

    monkeypatch.setattr(sys, "argv", ["data", *first, *line])
    monkeypatch.setenv("PAGER", "cat")
    with pytest.raises(SystemExit) as end:
        run_command({"list": work} if first else work)
    said = capsys.readouterr()
    assert end.value.code == 0 and "share of the subjects" in said.out + said.err


def test_what_the_user_can_mend_is_one_line(monkeypatch, capsys):
    def work(folder: str) -> None:
        raise ValueError(f"{folder} is\nno folder.")

    monkeypatch.setattr(sys, "argv", ["data", "DIR"])
    with pytest.raises(SystemExit) as end:
        run_command(work)
    assert end.value.code == 2 and capsys.readouterr().err == "error: DIR is no folder.\n"
    monkeypatch.setattr(sys, "argv", ["data", "DIR", "--traceback"])
    with pytest.raises(ValueError, match="no folder"):
        run_command(work)


@pytest.mark.parametrize(
    ("line", "lacking"),
    [
        ([], "FOLDER, OUT not given"),
        (["DIR"], "OUT not given"),
        (["DIR", "--times", "3"], "OUT not given"),
        (["--out=x", "--times=3"], "FOLDER not given"),
    ],
)
def test_what_is_not_given_is_named_in_one_line(monkeypatch, capsys, line: list[str], lacking: str):
    def work(folder: str, out: str, times: int = 1) -> None:
        raise AssertionError

    monkeypatch.setattr(sys, "argv", ["data", *line])
    with pytest.raises(SystemExit) as end:
        run_command(work)
    assert end.value.code == 2 and capsys.readouterr().err == f"error: {lacking}; --help shows what is needed.\n"

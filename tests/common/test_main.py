"""The command: quick help for every verb, one vocabulary, and errors of the user in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.__main__ import VERBS, main

Call = Callable[..., None]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["mri-contrast", *map(str, words)])
        monkeypatch.setattr("warnings.showwarning", None)  # main replaces it; this puts the original back
        main()

    return run


def test_help_names_every_verb_and_loads_nothing_heavy(call: Call, capsys: pytest.CaptureFixture[str]):
    for words in ((), ("--help",), ("help",)):
        call(*words)
        text = capsys.readouterr().out
        assert all(f"  {name} " in text for name in VERBS)
    line = "import sys, common.__main__; print({'torch', 'monai', 'numpy', 'nibabel', 'fire'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", line], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_tells_its_arguments_options_and_an_example(verb: str, call: Call, capsys: pytest.CaptureFixture):
    call(verb, "--help")
    page = capsys.readouterr().out
    assert page.startswith(f"mri-contrast {verb} ") and f"\n  mri-contrast {verb} " in page
    taken = [word.strip("[]").lower() for word in page.split(" [--")[0].split("\n")[0].split()[2:] if word != "..."]
    assert taken and all(f"\n  {word} " in page for word in taken)
    assert "Raises" not in page and "Returns" not in page


def test_a_verb_with_its_options(
    call: Call, results: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    call(
        "compare", results("one", [20, 22]), results("two", [24, 25]), "--names", "A,B", "--output_dir", tmp_path / "o"
    )
    assert (tmp_path / "o" / "leaderboard.html").exists() and "PSNR (dB): A - B" in capsys.readouterr().out
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
        (["zzz", tmp_path], "There is no verb 'zzz'; there are: complete, list, check"),
        (["complet", tmp_path], "There is no verb 'complet'; did you mean complete?"),
        (["complete", tmp_path, tmp_path, "--ckpt_path", "x"], "no option --ckpt_path of"),
        (["complete", tmp_path, tmp_path, "--ckpt_path", "x"], "did you mean --weights?"),
        (["train", "mri_seq2seq", tmp_path, "--max_epochs", "3"], "did you mean --epochs?"),
        (["train", "mri_seq", tmp_path], "There is no bundle 'mri_seq'; there are: mri_aldm, mri_crl"),
        (["train", "mri_seq2seq", tmp_path, "--overlay", "smal"], "no configuration 'smal', and it is no file; there"),
        (["check", tmp_path, "--list", "x"], "There is no option --list; did you mean --subject_list?"),
        (["list", tmp_path, "--output", "x"], "There is no option --output; did you mean --subject_list?"),
        (["complete", tmp_path / "none", tmp_path], f"No folder {tmp_path / 'none'}"),
        (["check", tmp_path], "No subject list"),
    ):
        with pytest.raises(SystemExit) as end:
            call(*words)
        printed = capsys.readouterr()
        assert end.value.code == 2 and printed.out == ""
        assert printed.err.startswith("error: ") and message in printed.err and printed.err.count("\n") == 1


def test_a_checkout_has_the_command_without_installation(tmp_path: Path):
    done = subprocess.run([ROOT / "mri-contrast", "check", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("mri-contrast check DATASET_DIR")

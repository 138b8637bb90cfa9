"""Command line of the data tools.

python -m common.data list FOLDER                    make FOLDER/subjects.json from NIfTI files
python -m common.data check FOLDER --grid T1         read every file of the list and report what is wrong
python -m common.data phantom --output_dir FOLDER    simulate a data set
python -m common.data simulate PICTURE.png           show subjects that are simulated while a training runs
python -m common.data list --help                    the options of one command
"""

from __future__ import annotations

import sys
import warnings

from ..options import run_command
from .check import check_subjects
from .layouts import make_list


def check(
    list_path: str, output: str | None = None, grid: str | None = None, trust_headers: bool | None = None
) -> None:
    """Reads every file of a subject list and reports what is wrong; the exit status is 1 if there is an error.

    Args:
        list_path: the JSON file, or the folder that holds subjects.json.
        output: a JSON file for the findings.
        grid: the sequence, such as T1, onto whose grid the loading will resample the others.
        trust_headers: what is doubtful about where headers place voxels is a warning; by default as the list says.
    """
    findings = check_subjects(str(list_path), output=output, grid=grid, trust_headers=trust_headers)
    if any(finding.severity == "error" for finding in findings):
        sys.exit(1)


def phantom() -> None:
    """Simulates a data set with exact ground truth."""


def simulate() -> None:
    """Shows subjects that are simulated while a training runs."""


def main() -> None:
    """Runs one command; what the user can mend is one line on stderr and exit status 2."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    commands = {"list": make_list, "check": check, "phantom": phantom, "simulate": simulate}
    try:
        if sys.argv[1:2] == ["phantom"]:
            # Only now: the other commands, and their help, do without the template that the simulation loads.
            from .phantom import make_phantom

            commands["phantom"] = make_phantom
        elif sys.argv[1:2] == ["simulate"]:
            from .simulated_page import simulate as show_simulated

            commands["simulate"] = show_simulated
        run_command(commands, name="common.data")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

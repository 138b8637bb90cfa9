"""Command line of the evaluation tools.

python -m common.evaluation picture COMPLETED_DIR DATASET_DIR      a picture of every completed subject
python -m common.evaluation report RESULTS_DIR                     an HTML page of an evaluated run
python -m common.evaluation contribution RESULTS_DIR               which sequence makes the others best
python -m common.evaluation compare RESULTS_DIR RESULTS_DIR ...    a leaderboard of runs, with paired tests
python -m common.evaluation compare --help                         the options of one command
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module

from ..options import run_command

COMMANDS = {  # name: module and function; a module is imported when its command is called, so that help is quick
    "picture": ("completed", "draw_completed"),
    "report": ("report", "report"),
    "contribution": ("contribution", "contribution"),
    "compare": ("compare", "compare"),
}


def main() -> None:
    """Runs one command; what the user can mend is one line on stderr and exit status 2."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(__doc__.strip())
        return
    if name not in COMMANDS:
        print(f"error: Unknown command {name!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    module, function = COMMANDS[name]
    command = getattr(import_module(f".{module}", __package__), function)
    run_command({name: command}, name="common.evaluation")


if __name__ == "__main__":
    main()

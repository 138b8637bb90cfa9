"""What a script of this folder takes, from its module's text alone: nothing need be installed (`./ci/NAME --help`)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path


def usage(file: Path) -> str:
    """Of the function that a module gives to `run_command`: the module's words, the arguments' defaults, and theirs.

    Args:
        file: of the module.
    """
    module = ast.parse(file.read_text(encoding="utf-8"))
    [name] = [
        node.args[0].id
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run_command"
    ]
    [function] = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return "\n\n".join(
        [ast.get_docstring(module), f"{file.stem}({ast.unparse(function.args)})", ast.get_docstring(function)]
    )


if __name__ == "__main__":
    print(usage(Path(__file__).with_name(f"{sys.argv[1]}.py")))

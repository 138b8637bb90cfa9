"""What a script of this folder takes (`./ci/NAME --help`): nothing need be installed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from common.usage import usage

if __name__ == "__main__":
    file = Path(__file__).with_name(f"{sys.argv[1]}.py")
    module = ast.parse(file.read_text(encoding="utf-8"))
    [name] = [
        node.args[0].id
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run_command"
    ]
    print(ast.get_docstring(module), usage(file, name, f"./ci/{file.stem}"), sep="\n\n")

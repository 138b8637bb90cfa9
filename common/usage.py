"""What a command takes, from the text of its function alone: quick, and nothing need be installed."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

SECTION = re.compile(r"\n\n(?=(?:Returns|Raises|Yields):\n)")


def usage(file: Path, name: str, command: str, examples: Iterable[str] = ()) -> str:
    """A page of help: how the command is called, what its function's docstring says, and each option's default.

    Args:
        file: the module.
        name: of a function in it, whose docstring is in Google's style.
        command: how it is called, such as "mri-contrast check".
        examples: whole lines.
    """
    module = ast.parse(file.read_text(encoding="utf-8"))
    [function] = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name]
    about, _, told = (ast.get_docstring(function) or "").partition("\n\nArgs:\n")
    arguments = dict(_described(SECTION.split(told)[0]))
    taken = function.args
    plain = taken.args[len(taken.args) - len(taken.defaults) :]
    defaults = dict(zip((each.arg for each in plain), taken.defaults, strict=True))
    by_name = dict(zip((each.arg for each in taken.kwonlyargs), taken.kw_defaults, strict=True))
    words = [f"[{each.arg.upper()}]" if each.arg in defaults else each.arg.upper() for each in taken.args]
    words += [f"{taken.vararg.arg.upper()} ..."] if taken.vararg else []
    line = " ".join([command, *words, *(["[--OPTION VALUE ...]"] if by_name or taken.kwarg else [])])
    lines = [line, "", about, ""]
    for each, text in arguments.items():
        shown = _shown({**defaults, **by_name}.get(each))
        own = "..." if taken.kwarg and each == taken.kwarg.arg else f"{'--' if each in by_name else ''}{each}{shown}"
        lines.append(textwrap.fill(text, 110, initial_indent=f"  {own:<24} ", subsequent_indent=" " * 27))
    if examples:
        lines += ["", "For example:", *(f"  {example}" for example in examples)]
    return "\n".join(lines)


def _shown(default: ast.expr | None) -> str:
    """A default that is a plain value; others are told in words."""
    try:
        value = None if default is None else ast.literal_eval(default)
    except ValueError:
        return ""
    value = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f" ({str(value).lower() if isinstance(value, bool) else value})" if value not in (None, "") else ""


def _described(told: str) -> Iterator[tuple[str, str]]:
    """Name and words of each argument; several that share theirs, one by one."""
    for text in re.split(r"\n(?=    \S)", told):
        names, _, words = text.strip().partition(": ")
        for name in names.split(", "):
            yield name.lstrip("*"), " ".join(words.split())

"""Options as the command line delivers them."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .ending import ended_in_one_line
from .threads import taken


def switch(value: bool | str, name: str) -> bool:
    """A yes or no: `--name false` reaches a bundle as the string "false", which Python takes for true.

    Raises:
        ValueError: the value is neither, in whatever case.
    """
    word = str(value).lower()
    if word not in ("true", "false"):
        raise ValueError(f"{name} is {value!r}; it must be true or false.")
    return word == "true"


def words(value: str | Sequence[str] | None) -> list[str]:
    """Names: one, or several separated by commas, reach a bundle as a string."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else list(value or ())


def without(names: Sequence[str], left_out: str | Sequence[str]) -> list[str]:
    """Names but for some of them, one or several.

    Raises:
        ValueError: one of these is not among the names.
    """
    if unknown := [name for name in words(left_out) if name not in names]:
        raise ValueError(f"There is no {', '.join(unknown)} to leave out of {', '.join(names)}.")
    return [name for name in names if name not in words(left_out)]


# What else an option is called elsewhere, and which of this project's words are meant.
OTHER_WORDS = {
    **dict.fromkeys(("max_epochs", "n_epochs", "num_epochs"), ("epochs",)),
    **dict.fromkeys(("ckpt_path", "checkpoint", "ckpt", "model_path"), ("weights",)),
    **dict.fromkeys(("input", "input_dir", "data", "data_dir", "root", "list_path"), ("dataset_dir",)),
    **dict.fromkeys(("output", "out", "outdir"), ("output_dir", "output_file", "subject_list")),
    **dict.fromkeys(("overlays", "config", "config_file"), ("overlay",)),
    **dict.fromkeys(("gpu", "cuda"), ("device",)),
    "out_dir": ("output_dir",),
    "export_path": ("output_file",),
    "list": ("subject_list",),
    "target": ("targets",),
    "normalization": ("normalisation",),
    "lr": ("learning_rate",),
}


def nearest(word: str, known: Iterable[str]) -> str:
    """Which of the known names is meant by a word that is none of them; "" where nothing is like it."""
    known = list(known)
    meant = [name for name in OTHER_WORDS.get(word, ()) if name in known]
    return next(iter([*meant, *difflib.get_close_matches(word, known, 1)]), "")


def with_defaults(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The further options of a command, as far as they are not given with their own values.

    Raises:
        ValueError: there is no such option; its nearest is named.
    """
    for name in given:
        if name not in defaults:
            meant = nearest(name, defaults)
            hint = f"did you mean --{meant}?" if meant else f"further ones are: {', '.join(defaults)}."
            raise ValueError(f"There is no option --{name}; {hint}")
    return {**defaults, **given}


def run_command(command: Callable | Mapping[str, Callable], name: str | None = None) -> None:
    """`fire.Fire` of a function, or of several by name.

    Unknown options are met before the work, --help starts none wherever it stands, and false is False. What the user
    can mend is one line on stderr; --traceback shows the way there. --threads N is for every command
    (`common.threads.taken`).

    Raises:
        SystemExit: it failed, or there is no such option, whose nearest is named; the status is 2.
    """
    import fire

    arguments = [re.sub("(^|=)(true|false)$", lambda m: m[1] + m[2].capitalize(), word) for word in sys.argv[1:]]
    if {"-h", "--help"} & set(arguments):
        named = isinstance(command, Mapping) and arguments[0] in command
        arguments = [*arguments[:named], "--help"]
    function = command.get(arguments[0]) if isinstance(command, Mapping) and arguments else command
    show = "--traceback" in arguments
    with ended_in_one_line(show):
        arguments = taken(arguments)
    known = dict(inspect.signature(function).parameters) if callable(function) else {}
    if known and all(parameter.kind is not parameter.VAR_KEYWORD for parameter in known.values()):
        arguments = [word for word in arguments if word != "--traceback"]
        flags = [word[2:].split("=")[0].replace("-", "_") for word in arguments if word[:2] == "--" != word]
        allowed = {*known, *(f"no{option}" for option in known), "help"}
        if unknown := [flag for flag in flags if flag not in allowed]:
            meant = nearest(unknown[0], known)
            hint = f"; did you mean --{meant}?" if meant else f"; there are: {', '.join(known)}."
            print(f"error: There is no option --{unknown[0]}{hint}", file=sys.stderr)
            sys.exit(2)
    if "--help" not in arguments and (lacking := _lacking(known, arguments[isinstance(command, Mapping) :])):
        print(f"error: {', '.join(lacking)} not given; --help shows what is needed.", file=sys.stderr)
        sys.exit(2)
    with ended_in_one_line(show):
        fire.Fire(command, command=arguments, name=name)


def _lacking(known: Mapping[str, inspect.Parameter], words: Sequence[str]) -> list[str]:
    """The arguments without a default that words of a command line do not give, read as fire reads them."""
    named, plain, k = set(), 0, 0
    while k < len(words):
        is_option = words[k].startswith("--")
        takes_next = is_option and "=" not in words[k] and k + 1 < len(words) and not words[k + 1].startswith("--")
        named |= {words[k][2:].split("=")[0].replace("-", "_")} if is_option else set()
        plain, k = plain + (not is_option), k + 1 + takes_next
    open_ = [name for name, each in known.items() if name not in named and each.kind is each.POSITIONAL_OR_KEYWORD]
    return [name.upper() for name in open_[plain:] if known[name].default is inspect.Parameter.empty]


def from_caller(path: str | os.PathLike) -> Path:
    """A path that a user named, absolute: the scripts in ci/ change the folder and leave the user's in CALLED_FROM."""
    return (Path(os.environ.get("CALLED_FROM", "")) / Path(str(path)).expanduser()).resolve()

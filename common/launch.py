"""What a run was given, checked before anything is read or made (docs/configuration.md, "Misspelt options").

A configuration calls `begin` in "initialize". In the process of `python -m monai.bundle run` it also sees to the last
line of a run that fails: the reason.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow
from monai.bundle.config_item import ConfigComponent
from monai.bundle.reference_resolver import ReferenceResolver
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS, ID_SEP_KEY, MACRO_KEY, MERGE_KEY
from monai.utils import ensure_tuple

from .ending import end_in_one_line
from .options import nearest, switch
from .progress import log_above_bars
from .threads import choose_threads

# Of the run itself.
RUN = {"workflow_name", "args_file", "traceback", "threads", *inspect.signature(ConfigWorkflow).parameters}
RUN -= {"override"}
EVALUATED = ("$", "@", "%")  # beginnings of what is no text
SECTIONS = {"imports", "initialize", "run", "finalize"}  # that MONAI looks for in any configuration


def begin() -> None:
    """Refuses what nothing in the configuration knows, and ends a failing command in one line.

    MONAI tells expressions nothing of the run that they belong to, so its call is looked up; a workflow that was made
    without `create_workflow` is not checked.

    Raises:
        ValueError: an option or an overlay's key is unknown; the message names the nearest.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not create_workflow.__code__:
        frame = frame.f_back
    if frame is None or "_args" not in frame.f_locals:
        return
    files, options = ensure_tuple(frame.f_locals["config_file"]), frame.f_locals["_args"]
    command = getattr(sys.modules["__main__"].__spec__, "name", "") == "monai.bundle.__main__"
    if command:
        show = switch(options.get("traceback", False), "traceback")
        end_in_one_line(how_to_go_on(merged(files, options), options.get("run_id", "run")), show)
        log_above_bars()
    check_known(files, options, command)
    if command:
        choose_threads(options.get("threads"))


def merged(files: Iterable[str | Path], options: Mapping[str, Any]) -> ConfigParser:
    """A run's configuration as it is written, none of it made."""
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    parser.update({name: value for name, value in options.items() if name not in RUN})
    return parser


def how_to_go_on(configuration: ConfigParser, run_id: str) -> str:
    """What the same command does after a run that was stopped: a training goes on, all else begins anew."""
    run = configuration.get(run_id)
    run = str(configuration.get("run") if run == f"{MACRO_KEY}run" else run)
    if "train#trainer" in run:
        resumes = str(configuration.get("resume", False)).lower() == "true"
        return " The same command goes on after the last epoch that was finished." if resumes else ""
    return " What is written stays, and is whole. The same command begins anew."


def check_known(files: Sequence[str | Path], options: Mapping[str, Any], command: bool = True) -> None:
    """Every key of the overlays and every option is one that the configuration has, or that something in it uses.

    An overlay may serve several configurations, so that what another one in the same folder has is known, too.

    Args:
        files: the configuration, and overlays in the order in which they are laid over it.
        options: by id, those of the run itself among them.
        command: they were typed for this run; those that a program gives may serve several configurations.

    Raises:
        ValueError: see `begin`.
    """
    whole, run_id = merged(files, options), str(options.get("run_id", "run"))
    called = {run_id, str(options.get("init_id")), str(options.get("final_id"))}
    used = {*_references(whole.get()), *SECTIONS, *called, *_tracked(options.get("tracking"))}
    folder = {path: ConfigParser.load_config_file(path) for path in sorted(Path(files[0]).parent.glob("*.json"))}
    others = {path: ConfigParser(config) for path, config in folder.items() if path.name != "metadata.json"}
    elsewhere = {path.name: each for path, each in others.items()}
    for k, file in enumerate(files[1:], 1):
        others_runs = (each for path, each in others.items() if "run" in each and not path.samefile(file))
        known = [merged(files[:k], {}), *others_runs]
        for name in ConfigParser.load_config_file(file):
            if unknown := _unknown(name.removeprefix(MERGE_KEY), known, whole, used):
                hint = _hint(unknown, known, whole, {}) or ". A new key must be used by another, as @NAME or %NAME."
                raise ValueError(f"{file}: there is no '{name}' to be changed in {files[0]}{hint}")
    known = [merged(files, {}), *([] if command else others.values())]
    for name in (name for name in options if name not in RUN):
        if unknown := _unknown(name, known, whole, used):
            raise ValueError(
                f"There is no option --{name} of {files[0]}{_hint(unknown, known, whole, elsewhere, '--') or '.'}"
            )
        own, given = known[0].get(name) if name in known[0] else None, options[name]
        if type(own) in (int, float) and isinstance(given, str) and not given.startswith(EVALUATED):
            raise ValueError(f"{name} is {given!r}; it must be a number, such as {own}.")
    if "run_id" in options and run_id not in whole:
        raise ValueError(
            f"There is no '{run_id}' to run in {files[0]}{_hint([run_id], known, whole, elsewhere) or '.'}"
        )


def known_options(files: Sequence[str | Path], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that `check_known` does not refuse: for a command that serves several configurations."""
    whole = merged(files, {})
    return {name: value for name, value in options.items() if name in RUN or not _unknown(name, [whole], whole, set())}


def _unknown(name: str, known: Sequence[ConfigParser], whole: ConfigParser, used: set[str]) -> list[str]:
    """The first part of an id that nothing knows, with those before it."""
    ids = ReferenceResolver.split_id(name)
    for k, last in enumerate(ids):
        here = ID_SEP_KEY.join(ids[: k + 1])
        if any(here in each for each in known):
            continue
        arguments = _arguments(ids[:k], whole)
        is_used = any(f"{id}{ID_SEP_KEY}".startswith(f"{here}{ID_SEP_KEY}") for id in used)
        runs = whole.get(here) == f"{MACRO_KEY}run"
        wanted = last.startswith("_") or is_used or runs or arguments is None or last in arguments
        return [] if wanted else ids[: k + 1]
    return []


def _hint(
    ids: Sequence[str],
    known: Sequence[ConfigParser],
    whole: ConfigParser,
    others: Mapping[str, ConfigParser],
    dashes="",
) -> str:
    """Which name was meant; in which other configuration it would be known."""
    *parents, last = ids
    parent = ID_SEP_KEY.join(parents)
    if there := [file for file, each in others.items() if ID_SEP_KEY.join(ids) in each]:
        return f"; it belongs to {', '.join(there)}."
    own = _names(parent, known) | (_arguments(parents, whole) or set()) | (RUN if dashes and not parents else set())
    near = [name for names in (own, _names(parent, others.values())) if (name := nearest(last, names))]
    if not near:
        return f"; there are: {', '.join(sorted(own))}." if parents and own else ""
    return f"; did you mean {dashes}{'#'.join([*parents, near[0]])}?"


def _names(parent: str, configurations: Iterable[ConfigParser]) -> set[str]:
    sections = [each.get(parent) for each in configurations]
    return {name for each in sections if isinstance(each, dict) for name in each if not name.startswith("_")}


def _references(config: Any, id: str = "") -> Iterator[str]:
    """Ids that expressions, references and macros name."""
    if isinstance(config, (dict, list)):
        for _, sub_id, value in ReferenceResolver.iter_subconfigs(id=id, config=config):
            yield from _references(value, sub_id)
    elif isinstance(config, str):
        text = ConfigParser.resolve_relative_ids(id, config)
        yield from ReferenceResolver.match_refs_pattern(text)
        if text.startswith(MACRO_KEY):
            yield ConfigParser.split_path_id(text[len(MACRO_KEY) :])[1]


def _tracked(tracking: str | dict | None) -> Iterable[str]:
    """Keys of MONAI's experiment management, or of the user's own settings of it."""
    return ConfigParser.load_config_files(DEFAULT_EXP_MGMT_SETTINGS.get(str(tracking), tracking or {})).get(
        "configs", {}
    )


def _arguments(ids: Sequence[str], whole: ConfigParser) -> set[str] | None:
    """Of what a section makes; none where it makes nothing, None where it takes any."""
    section = whole.get(ID_SEP_KEY.join(ids))
    if not ConfigComponent.is_instantiable(section):
        return set()
    target = ConfigComponent(section, locator=whole.locator).resolve_module_name()
    made = locate(target) if isinstance(target, str) else None
    return None if made is None else _parameters(made)


def _parameters(made: Callable) -> set[str] | None:
    """Names that a function or class takes, those included that it hands on: to its bases, or by `passes_on`."""
    functions = (
        [each.__init__ for each in made.__mro__ if "__init__" in vars(each)] if inspect.isclass(made) else [made]
    )
    names: set[str] = set()
    for function in functions:
        try:
            parameters = inspect.signature(function).parameters
        except ValueError:  # written in C
            return None
        names |= {name for name, each in parameters.items() if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
        if all(each.kind is not each.VAR_KEYWORD for each in parameters.values()):
            return names - {"self"}
    further = getattr(made, "__self__", None) if inspect.ismethod(made) else getattr(made, "passes_on", None)
    further = made.__globals__[further] if isinstance(further, str) else further
    more = None if further is None else _parameters(further)
    return None if more is None else names | more

"""Several methods trained alike on one subject list, scored alike, and set side by side on one page."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle.utils import ID_SEP_KEY

from . import workflows
from .data.subjects import list_of, read_subjects, some
from .description import changes
from .files import prepare_folder, write_text
from .inference.weights import sha256
from .launch import known_options
from .options import words
from .threads import choose_threads
from .training.costs import peak_gib

logger = logging.getLogger(__name__)

PILOT_STEPS = 6  # that a method's time per step is taken from, where the same time is given to all
ALIKE = ("dataset_dir", "subject_list", "sequences", "split", "truth", "seed", "output_dir", "run_id")  # of all methods
OWN = ("epochs", "val_interval", "ckpt_dir", "weights", "keep", "conventions", "resume")  # which are the benchmark's


class Contestant(NamedTuple):
    """One method: the bundle, its folder in the benchmark's, and configurations laid over its own."""

    bundle: str
    folder: Path
    overlay: list[str]

    @property
    def training(self) -> Path:
        return self.folder / "training"

    @property
    def weights(self) -> Path:
        return self.training / "models" / "model.pt"

    @property
    def scores(self) -> Path:
        return self.folder / "scores"

    @property
    def trainings(self) -> list[str]:
        """Names of its trainings: a file called train*.json is one."""
        return sorted(path.stem for path in (workflows.bundle_folder(self.bundle) / "configs").glob("train*.json"))


def benchmark(
    dataset_dir: str,
    output_dir: str,
    *,
    bundles: str | Sequence[str] = "",
    steps: int = 0,
    minutes: float = 0.0,
    overlay: str | Sequence[str] = "small",
    convention: str = "declared",
    truth: str = "images",
    shown: str = "",
    **options: Any,
) -> None:
    """Trains methods alike on one list, scores them alike, and makes one page of quality, cost and pictures.

    The same command goes on where it was stopped; a method that fails does not stop the others. Each method lies in
    OUTPUT_DIR/<bundle> as `train` and `evaluate` write it, so that a method of your own joins by being a bundle.

    Args:
        dataset_dir: the folder that holds the subject list.
        output_dir: folder for all that is made: leaderboard.html, leaderboard.csv, costs.csv, pictures.png.
        bundles: the methods, such as mri_seq2seq,mri_pgan; by default all there are.
        steps: optimiser steps of each method, of all its trainings together.
        minutes: in place of steps, how long each method's steps may take on this machine.
        overlay: configurations laid over each training; "none" for the papers' sizes, which need a GPU.
        convention: whose scores are compared.
        truth: images, or reference for a phantom's noise-free ones.
        shown: the test subject in the pictures; by default the first.
        options: further ones of the trainings and of the evaluation, such as --seed 1, --amp bf16 or --lpips_weights
            FILE; each method gets those that it has. --mri_pgan::perceptual_weights FILE is for that one alone.

    Raises:
        ValueError: neither or both of steps and minutes, an option that no method has, other settings than those of
            what lies in output_dir, or what went wrong with a method.
    """
    if bool(steps) == bool(minutes):
        raise ValueError("Give each method the same number of steps (--steps 2000) or the same time (--minutes 20).")
    from .evaluation.benchmark_page import write_page

    folder, overlays = Path(output_dir), [] if overlay == "none" else words(overlay)
    names = words(bundles) or list(workflows.bundle_folders())
    contestants = [Contestant(name, folder / name, overlays) for name in names]
    given = _given(contestants, {"dataset_dir": str(dataset_dir), **options})
    subject_list = list_of(dataset_dir, options.get("subject_list", ""))
    scoring = {"conventions": convention, "truth": truth, "keep": [_shown(subject_list, shown)]}
    prepare_folder(folder, "output_dir")
    how = f"about {steps:,} optimiser steps each" if steps else f"about {minutes:g} minutes of optimiser steps each"
    asked = {"steps": steps, "minutes": minutes, "overlay": overlays, **scoring, "list": sha256(subject_list)}
    if alone := [f"--{name} {value}" for name, value in options.items() if ID_SEP_KEY in name]:
        how += f", with {', '.join(alone)}"
    logger.info(f"{', '.join(names)}: {how}")
    done, failures = _contests(contestants, asked, scoring, given)
    if done:
        scores = {c.bundle: c.scores for c in contestants if c.bundle in done}
        write_page(folder, scores, done, failures=failures, how=how, convention=convention)
    if failures:
        raise ValueError("; ".join(f"{name} failed: {reason}" for name, reason in failures.items()))


def _contests(
    contestants: Sequence[Contestant],
    asked: Mapping[str, Any],
    scoring: Mapping[str, Any],
    given: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """By method what it cost, and of those that failed why; whatever one method has, the others go on."""
    done, failures = {}, {}
    for contestant in contestants:
        name, own = contestant.bundle, given[contestant.bundle]
        try:
            _check_settings(contestant.folder / "settings.json", {**asked, **own})
            steps = asked["steps"] or _affordable(contestant, asked["minutes"], own)
            done[name] = _contest(contestant, steps, scoring, own)
        except (Exception, SystemExit) as error:
            failures[name] = "one of its trainings ended, see above" if isinstance(error, SystemExit) else str(error)
            logger.warning(f"{name} failed: {failures[name]}")
    return done, failures


def _given(contestants: Sequence[Contestant], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By method, the options that one of its trainings, or its evaluation, has; `mri_pgan::epochs` is that one's alone.

    Raises:
        ValueError: an option that no method has, or that the benchmark sets.
    """
    ahead = {c.bundle: f"{c.bundle}{ID_SEP_KEY}" for c in contestants}
    alone = {f"{each}{name}" for each in ahead.values() for name in (*OWN, *ALIKE)}
    if taken := [name for name in options if name in alone.union(OWN)]:
        raise ValueError(f"--{', --'.join(taken)}: the benchmark sets that itself, for all methods alike.")
    shared = {name: value for name, value in options.items() if not name.startswith(tuple(ahead.values()))}
    given, unknown = {}, {*shared}
    for c in contestants:
        start = ahead[c.bundle]
        own = {name.removeprefix(start): value for name, value in options.items() if name.startswith(start)}
        configurations = [*(_files(c, training) for training in c.trainings), _files(c, "train", "evaluate")]
        told = shared | own
        given[c.bundle] = {k: v for files in configurations for k, v in known_options(files, told).items()}
        unknown = unknown - given[c.bundle].keys() | {f"{start}{name}" for name in own.keys() - given[c.bundle].keys()}
    if unknown:
        raise ValueError(f"There is no option --{', --'.join(sorted(unknown))} of {', '.join(given)}.")
    return given


def _files(contestant: Contestant, training: str, *more: str) -> list[str]:
    folder = workflows.bundle_folder(contestant.bundle)
    return [str(workflows.config_file(folder, name)) for name in (training, *contestant.overlay, *more)]


def _shown(subject_list: Path, name: str) -> str:
    """The test subject in the pictures: the one that is named, or the first."""
    test = [entry["subject"] for entry in read_subjects(subject_list)["test"]]
    if not test:
        raise ValueError(f"{subject_list} has no test subjects to score the methods on.")
    if name and name not in test:
        raise ValueError(f"shown is {name!r}; it must be a test subject: {some(test)}.")
    return name or test[0]


def _check_settings(file: Path, settings: Mapping[str, Any]) -> None:
    """What lies beside the file was made with these settings, or nothing does and they are written down.

    Raises:
        ValueError: it was made with others.
    """
    if not file.is_file():
        write_text(file, json.dumps(settings, indent=2, default=str) + "\n")
    elif changed := changes(json.loads(file.read_text(encoding="utf-8")), settings):
        raise ValueError(f"{file.parent} was made with {'; '.join(changed)}. Take another output_dir, or remove it.")


def _train(contestant: Contestant, steps: int, folder: Path, options: Mapping[str, Any]) -> None:
    """All trainings of a method, for as many whole epochs as come nearest to the steps."""
    parsed = workflows.configuration_of(contestant.bundle, _files(contestant, "train"), **options)
    items, batch = parsed.get_parsed_content("train#dataset#data"), parsed.get_parsed_content("batch_size")
    epochs = max(1, round(steps / len(contestant.trainings) / math.ceil(len(items) / batch)))
    files = [_files(contestant, training) for training in contestant.trainings]
    known = {k: v for each in files for k, v in known_options(each, options).items()}
    settings = {**known, "output_dir": str(folder), "overlay": contestant.overlay, "epochs": epochs}
    _in_process(workflows.train, contestant.bundle, val_interval=max(1, epochs // 4), **settings)


def _affordable(contestant: Contestant, minutes: float, options: Mapping[str, Any]) -> int:
    """How many steps a few of them say that there are in so many minutes."""
    pilot = contestant.folder / "pilot"
    if len(list(pilot.rglob("costs.json"))) < len(contestant.trainings):
        _train(contestant, PILOT_STEPS * len(contestant.trainings), pilot, options)
    return max(1, round(60 * minutes / training_costs(pilot)["mean_seconds_per_step"]))


def _contest(
    contestant: Contestant, steps: int, scoring: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Trains, scores and measures one method, as far as that is not done; returns its costs."""
    _train(contestant, steps, contestant.training, options)
    sha, scores, used = sha256(contestant.weights), contestant.scores, contestant.folder / "use.json"
    if _weights_of(scores / f"scores_{scoring['conventions']}.json") != sha:
        known = known_options(_files(contestant, "train", "evaluate"), options)
        settings = {**known, **scoring, "weights": str(contestant.weights), "overlay": contestant.overlay}
        _in_process(workflows.evaluate, contestant.bundle, output_dir=str(scores), **settings)
    if _weights_of(used) != sha:
        costs = _in_process(use_costs, contestant.bundle, str(contestant.weights), **_of_inference(contestant, options))
        write_text(used, json.dumps({**costs, "weights_sha256": sha}, indent=2) + "\n")
    return training_costs(contestant.training) | json.loads(used.read_text(encoding="utf-8"))


def _weights_of(file: Path) -> str:
    """Whose numbers a file holds, "" where there is none."""
    return json.loads(file.read_text(encoding="utf-8")).get("weights_sha256", "") if file.is_file() else ""


def _of_inference(contestant: Contestant, options: Mapping[str, Any]) -> dict[str, Any]:
    folder = workflows.bundle_folder(contestant.bundle)
    return known_options([workflows.config_file(folder, "inference")], options)


def training_costs(folder: Path) -> dict[str, float]:
    """Of all trainings below a folder: "steps", their "seconds_per_step" (mean of medians) and
    "mean_seconds_per_step", the highest "step_gib" and "batch_size", "parameters"."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("costs.json"))]
    steps = sum(each["steps"] for each in found)
    return {
        "steps": steps,
        **{
            name: sum(each["steps"] * each[name] for each in found) / steps
            for name in ("seconds_per_step", "mean_seconds_per_step")
        },
        "batch_size": max(each["batch_size"] for each in found),
        "step_gib": max(each["peak_gib"] for each in found),
        "parameters": sum(each["parameters"] for each in found),
    }


def use_costs(bundle: str, weights: str, **options: Any) -> dict[str, float]:
    """What it costs to make the last sequence of a test subject from its others, reading and writing apart.

    Args:
        bundle, weights: of the method.
        options: of inference.json, dataset_dir among them.

    Returns:
        "subject_gmacs", counted; "subject_seconds"; "subject_gib", see `peak_gib`.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    parsed = workflows.configuration_of(bundle, ["inference"], weights=weights, **{**options, "split": "test"})
    names, items = (parsed.get_parsed_content(name) for name in ("sequences", "dataset#data"))
    complete = next((k for k, item in enumerate(items) if len(item["images"]) == len(names)), None)
    if complete is None:
        raise ValueError(f"No test subject has all of {', '.join(names)}: what an image costs cannot be measured.")
    parsed["targets"] = [names[-1]]
    network, inferer = (parsed.get_parsed_content(name) for name in ("network", "inferer"))
    device = next(network.parameters()).device
    image = parsed.get_parsed_content("dataset")[complete]["image"].as_tensor()[None].to(device)
    image[:, image.shape[1] - network.count(len(names) - 1) :] = -1  # missing, with all its frames
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        inferer(image, network.eval())
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    with torch.inference_mode():
        inferer(image, network).cpu()
    seconds = time.perf_counter() - begun
    return {"subject_gmacs": counter.get_total_flops() / 2e9, "subject_seconds": seconds, "subject_gib": peak_gib()}


def _in_process(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls it in a process of its own: its memory is what it takes, and what it has is given back."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_begin) as process:
        return process.submit(function, *args, **kwargs).result()


def _begin() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    choose_threads()

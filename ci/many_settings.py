"""CRL at settings that no training had, beside those that it had and beside the rivals from physics; simulated.

python -m ci.many_settings prepare TRAINING_DIR DIR          # unseen/ and seen/: 6 new subjects at 24 settings each
python -m ci.many_settings score DIR RUN/models/model.pt     # the table; several files make several columns
python -m ci.many_settings sweep DIR RUN/models/model.pt OUT.png
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.transforms import generate_spatial_bounding_box
from torch import Tensor, nn

from common.data.acquisition import NAMES, four
from common.data.anatomy import make_anatomy, simulate
from common.data.mr_signal import setting_of
from common.data.phantom import make_phantom
from common.evaluation.conventions import score as measure
from common.evaluation.relaxometry import FROM, PHYSICS
from common.evaluation.significance import interval
from common.files import replacing, write_text
from common.inference.inferers import plain
from common.options import run_command
from common.progress import bar
from common.threads import choose_threads
from common.workflows import configuration_of, network_of

SUBJECTS, SETTINGS, SOURCES = 6, 24, 6  # the first ones are sources, all others targets
COUNTS = (1, 3, 6)  # of sources that are used together
EVERY = 4  # axial slices that are scored
SWEEPS = {  # a row each, by what changes
    "TE": [(6000.0, te, 0.0) for te in (8, 15, 30, 60, 100, 150, 250, 400)],
    "TI": [(6000.0, 15.0, ti) for ti in (100, 300, 600, 1000, 1500, 2200, 3000, 4000)],
}
GRADIENT_ECHO_SWEEPS = {
    "FA": [(100.0, 3.0, 0.0, flip) for flip in (3, 5, 9, 15, 25, 40, 60, 80)],
    "TI of MPRAGE": [(2500.0, 3.0, ti, 9.0) for ti in (400, 500, 600, 750, 900, 1200, 1500, 1900)],
}


class Case(NamedTuple):
    """A subject's images [S, X, Y, Z] in training units, the same without noise, and their settings [S, 4]."""

    subject: str
    image: Tensor
    truth: Tensor
    settings: Tensor


def prepare(training_dir: str, output_dir: str, seed: int = 6) -> None:
    """Simulates the test subjects at settings of their own, and at settings that images of a training have.

    Args:
        training_dir: `mri-contrast phantom ... --sequences N` of another seed, with gradient echoes or without.
        output_dir: made if need be.
        seed: of the subjects, and of what is drawn.
    """
    listing = json.loads((Path(training_dir) / "subjects.json").read_text(encoding="utf-8"))
    trained = [list(each.values()) for entry in listing["training"] for each in entry["parameters"].values()]
    drawn = np.random.default_rng(seed).choice(len(trained), SETTINGS, replace=False)
    seen = {f"{'GE' if len(trained[n]) > 3 else 'SE'}{k + 1}": trained[n] for k, n in enumerate(drawn)}
    echoes = SETTINGS * sum(map(_is_gradient_echo, listing["sequences"])) // len(listing["sequences"])
    kinds = {
        "unseen": {"sequences": SETTINGS, "gradient_echoes": echoes},
        "seen": {"sequences": list(seen), "acquisitions": seen},
    }
    for kind, asked in kinds.items():
        folder = Path(output_dir) / kind
        make_phantom(folder, SUBJECTS, spacing=3, seed=seed, validation=0, test=0, one_gain=True, **asked)
        entries = json.loads((folder / "subjects.json").read_text(encoding="utf-8"))
        mixed = {"sequences": _mixed(entries["sequences"]), "training": [], "validation": []}
        entries |= {**mixed, "test": entries["training"]}
        write_text(folder / "subjects.json", json.dumps(entries, indent=1))
        clean = [{**entry, "images": entry["reference"]} for entry in entries["test"]]
        write_text(folder / "clean.json", json.dumps({**entries, "test": clean}, indent=1))


def _is_gradient_echo(name: str) -> bool:
    return name.startswith("GE")


def _mixed(names: Sequence[str]) -> list[str]:
    """Both families evenly spread, so that there are some of each among the sources."""
    families = [[name for name in names if _is_gradient_echo(name) == kind] for kind in (False, True)]
    places = {name: (k + 0.5) / len(family) for family in families for k, name in enumerate(family)}
    return sorted(places, key=places.__getitem__)


def cases(folder: Path, weights: str) -> Iterator[tuple[Case, nn.Module]]:
    """The subjects, every fourth slice of them, as weights see them, and the network."""
    names = json.loads((folder / "subjects.json").read_text(encoding="utf-8"))["sequences"]
    named = {name: [2000, 40, 0] for name in names}
    options = {"weights": weights, "dataset_dir": str(folder), "device": "cpu"}
    network, _ = network_of("mri_crl", **options)
    acquired, clean = (
        configuration_of("mri_crl", ["inference"], **options, acquisitions=named, subject_list=f"{folder}/{each}.json")
        for each in ("subjects", "clean")
    )
    acquired, clean = (each.get_parsed_content("dataset") for each in (acquired, clean))
    for one, other in zip(acquired, clean, strict=True):
        image, truth = (plain(each["image"])[..., ::EVERY] for each in (one, other))
        truth = truth * (float(other["scale"][0]) / float(one["scale"][0]))  # clean images have another percentile
        yield Case(one["subject"], image, truth, plain(one["parameters"])), network.eval()


@torch.inference_mode()
def made(case: Case, network: nn.Module, sources: Sequence[int], averaged: bool = False) -> Tensor:
    """All images [S, X, Y, Z] of some together; `averaged`: each by itself, then the mean."""
    view, targets = network.at(case.settings), list(range(SOURCES, SETTINGS))
    if not averaged:
        return view.complete(case.image[None], sources=list(sources), targets=targets)[0]
    alone = torch.stack([view.complete(case.image[None], sources=[i], targets=targets)[0] for i in sources])
    return alone.sum(0) / (case.image[list(sources)] > 0).sum(0).clamp(min=1)


def physics(case: Case, name: str, sources: Sequence[int], target: int) -> Tensor:
    """What a rival makes of some."""
    settings = case.settings.tolist()
    return PHYSICS[name](case.image[list(sources)], [settings[i] for i in sources], settings[target])


def score(folder: str, *weights: str, kinds: str = "unseen,seen") -> None:
    """Prints the mean PSNR (`declared`, against images without noise, in the brain) over all targets.

    Rows: settings, the targets' family, and how many sources; the intervals (95 %) are those over subjects of the first
    network's advantage.

    Args:
        folder: what `prepare` wrote.
        weights: files of networks.
        kinds: unseen, seen.
    """
    choose_threads()
    columns = [*weights, *(f"{file}, averaged" for file in weights), *PHYSICS, "copy"]
    print("| settings | targets | sources | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 3))
    for kind in kinds.split(","):
        found: dict[tuple[str, int, str], list[float]] = {}
        for file in weights:
            for case, network in bar(list(cases(Path(folder) / kind, file)), desc=f"{kind}, {file}", unit="subjects"):
                for name, values in _of_subject(case, network, file, file == weights[0]).items():
                    found.setdefault(name, []).append(float(np.mean(values)))
        for family, count in sorted({key[:2] for key in found}, reverse=True, key=lambda key: (key[0], -key[1])):
            cells = []
            for column in columns:
                values = found.get((family, count, column), [])
                cells.append(f"{np.mean(values):.2f}" if values else "")
                if values and column != columns[0]:
                    lead = interval(np.subtract(found[family, count, columns[0]], values).tolist())
                    cells[-1] += f" ({lead.low:+.2f} to {lead.high:+.2f})"
            print(f"| {kind} | {family} | {count} | " + " | ".join(cells) + " |", flush=True)


def _of_subject(case: Case, network: nn.Module, file: str, rivals: bool) -> dict[tuple[str, int, str], list[float]]:
    brain, found = case.truth[0] > 0, {}

    def add(count: int, name: str, target: int, image: Tensor) -> None:
        numbers = measure(image, case.truth[target], brain, convention="declared")
        family = "gradient echoes" if case.settings[target, 3] else "spin echoes"
        found.setdefault((family, count, name), []).append(numbers["psnr"])

    for count in COUNTS:
        # Of one source each in turn, so that the mean does not hang on one image.
        for sources in [[i] for i in range(SOURCES)] if count == 1 else [list(range(count))]:
            images = {file: made(case, network, sources)}
            if count > 1:
                images[f"{file}, averaged"] = made(case, network, sources, averaged=True)
            for target in range(SOURCES, SETTINGS):
                for name, each in images.items():
                    add(count, name, target, each[target])
                for name in PHYSICS if rivals else ():
                    if count >= FROM[name]:
                        add(count, name, target, physics(case, name, sources, target))
                if rivals and count == 1:
                    add(count, "copy", target, case.image[sources[0]])
    return found


def sweep(folder: str, weights: str, output_file: str, seed: int = 6) -> None:
    """Draws a subject along TE, TI and, of gradient echoes that the network is told, the flip angle and MPRAGE's TI,
    beyond what is trained too: the truth, the network, and the fit.

    Args:
        folder: what `prepare` wrote.
        weights: file of the network.
        output_file: PNG.
        seed: that `prepare` had.
    """
    from matplotlib.figure import Figure

    choose_threads()
    case, network = next(cases(Path(folder) / "unseen", weights))
    middle = case.image.shape[-1] // 2
    case = case._replace(image=case.image[..., middle : middle + 1], truth=case.truth[..., middle : middle + 1])
    number = int(case.subject.removeprefix("phantom_"))
    anatomy = make_anatomy(np.random.default_rng([seed, number]), spacing=(3.0, 3.0, 3.0))
    sweeps = SWEEPS | (GRADIENT_ECHO_SWEEPS if network.options["gradient_echoes"] else {})
    figure = Figure(figsize=(16, len(sweeps) * 3 * 2.2), layout="constrained")
    axes = figure.subplots(3 * len(sweeps), len(SWEEPS["TE"]))
    for third, (name, settings) in enumerate(sweeps.items()):
        for column, setting in enumerate(settings):
            value = setting[NAMES.index(name[:2])]
            images = _along(case, network, setting)
            images = {"truth": _clean(case, anatomy, setting), **images}
            white = float(images["truth"].max()) or 1.0
            for row, (title, image) in enumerate(images.items()):
                panel = axes[3 * third + row, column]
                panel.imshow(np.rot90(image.squeeze().numpy()), cmap="gray", vmin=0, vmax=white)
                panel.set_axis_off()
                panel.set_title(f"{title}, {name} {value:g}", fontsize=8)
    with replacing(Path(output_file)) as partial:
        figure.savefig(partial, dpi=80)


@torch.inference_mode()
def _along(case: Case, network: nn.Module, setting: Sequence[float]) -> dict[str, Tensor]:
    sources = list(range(SOURCES))
    settings = torch.cat([case.settings[:SOURCES], torch.tensor(four([setting]))])
    image = torch.cat([case.image[:SOURCES], torch.zeros_like(case.image[:1])])
    answer = network.at(settings).complete(image[None], sources=sources, targets=[SOURCES])[0, SOURCES]
    fitted = PHYSICS["fit"](case.image[:SOURCES], case.settings[:SOURCES].tolist(), setting)
    return {"network": answer, "fit": fitted}


def _clean(case: Case, anatomy: Any, setting: Sequence[float]) -> Tensor:
    """The exact image on the case's slice, in its unit."""
    exact = [simulate(anatomy, setting_of(*map(float, each))) for each in (case.settings[0], setting)]
    box = tuple(map(slice, *generate_spatial_bounding_box(exact[0][None])))
    known, wanted = (torch.as_tensor(each[box])[..., ::EVERY] for each in exact)
    middle = known.shape[-1] // 2
    gain = float(case.truth[0].sum() / known[..., middle].sum())
    return wanted[..., middle : middle + 1] * gain


if __name__ == "__main__":
    run_command({"prepare": prepare, "score": score, "sweep": sweep})

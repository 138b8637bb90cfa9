"""Packs bundles for release: `./ci/package NAME... [--weights FILE --card FILE]`.

Of each: dist/<name>_v<version>.zip with one folder <name>, which holds a copy of the shared code, and the zip's sha256
beside it. The same files give the same zip, to the byte. models/model_info.json, or with --output_dir one beside the
zip, lists what was packed, as `python -m monai.bundle download --source github` expects it in a repository.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import yaml
from monai.bundle import ConfigParser

from common.description import read, write
from common.files import replacing, write_text
from common.inference.weights import load_weights, sha256
from common.options import from_caller, run_command

ROOT = Path(__file__).resolve().parents[1]
# What of a bundle's folder is packed, besides its Python package.
CONTENTS = ("LICENSE", "configs", "docs", "large_files.yml", "models/model.pt", "models/model.json")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")
LIST = ROOT / "models" / "model_info.json"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold


def package(
    *names: str,
    weights: str = "",
    overlay: str = "",
    card: str = "",
    source: str = "",
    large: bool = False,
    output_dir: str = str(ROOT / "dist"),
) -> list[str]:
    """Packs the named bundles, or all of them; returns the zips.

    Args:
        names: folders of bundles/.
        weights: file that becomes models/model.pt; needs one name. Without it models/ is packed as it is.
        overlay: configuration that weights without a description were trained with, beside train.json: its path in the
            bundle, or a file.
        card: Markdown about the weights that becomes docs/model_card.md.
        source: address of the folder that the zips will be downloaded from, for model_info.json.
        large: the weights go beside the zip, as <name>_v<version>.pt, and not into it: its large_files.yml says that
            `python -m monai.bundle download_large_files` finds them at the source.
        output_dir: where the zips go, and all else that is written.

    Raises:
        ValueError: an unknown bundle, weights for several, or no source for large ones.
        FileNotFoundError: no such weights, overlay or card.
    """
    bundles = {path.parents[1].name: path.parents[1] for path in sorted(ROOT.glob("bundles/*/configs/metadata.json"))}
    if unknown := set(names) - bundles.keys():
        raise ValueError(f"There is no bundle {', '.join(sorted(unknown))}; there are: {', '.join(bundles)}.")
    if (weights or overlay or card) and len(names) != 1:
        raise ValueError(f"--weights, --overlay and --card belong to one bundle, but {len(names)} are named.")
    if large and not source:
        raise ValueError("--large needs --source: the address that the weights will be downloaded from.")
    weights, card = (str(from_caller(path)) if path else "" for path in (weights, card))
    options = (weights, overlay, card, source, large, from_caller(output_dir))
    return [str(_package(bundles[name], *options)) for name in names or bundles]


def _package(bundle: Path, weights: str, overlay: str, card: str, source: str, large: bool, output_dir: Path) -> Path:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    full_name = f"{bundle.name}_v{metadata['version']}"
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / bundle.name
        for path in (bundle / name for name in (bundle.name, *CONTENTS)):
            copy = packed / path.relative_to(bundle)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, copy, ignore=LEFT_OUT)
            elif path.exists():
                shutil.copyfile(path, copy)
        shutil.rmtree(packed / bundle.name / "common")  # the stub that points to the repository's
        shutil.copytree(ROOT / "common", packed / bundle.name / "common", ignore=LEFT_OUT)
        shutil.copyfile(ROOT / "mri-contrast", packed / "mri-contrast")
        if weights:
            (packed / "models").mkdir(exist_ok=True)
            (packed / "models" / "model.json").unlink(missing_ok=True)
            shutil.copyfile(weights, packed / "models" / "model.pt")
            if (description := Path(weights).with_suffix(".json")).exists():
                shutil.copyfile(description, packed / "models" / "model.json")
        if card:
            shutil.copyfile(card, packed / "docs" / "model_card.md")
        if (packed / "models" / "model.pt").exists():
            describe(packed, _overlay(bundle, overlay) if overlay else None)
        if large:
            _set_apart(packed, output_dir / f"{full_name}.pt", source)
        elif not any((packed / file).exists() for file in ("models/model.pt", "large_files.yml")):
            advice = f"Pass --weights FILE; ./ci/weights {bundle.name} makes small ones."
            print(f"{full_name} holds no weights, so that it can be trained but not used. {advice}", file=sys.stderr)
        archive = output_dir / f"{full_name}.zip"
        _zip(packed, archive)
    write_text(archive.with_suffix(".zip.sha256"), f"{sha256(archive)}  {archive.name}\n")
    sha1 = hashlib.sha1(archive.read_bytes()).hexdigest()
    listed = LIST if output_dir == ROOT / "dist" else output_dir / LIST.name
    _list(listed, full_name, {"checksum": sha1, "source": f"{source}/{archive.name}".lstrip("/")})
    return archive


def _overlay(bundle: Path, name: str) -> Path:
    file = bundle / name if (bundle / name).is_file() else from_caller(name)
    if not file.is_file():
        raise FileNotFoundError(f"{bundle.name} has no configuration {name}, and it is no file.")
    return file


def describe(bundle: Path, overlay: Path | None = None) -> None:
    """Writes models/model.json, which says what the weights are for, and makes the metadata agree with it.

    Args:
        bundle: the packed folder; its models/model.json, if there is one, is completed.
        overlay: what weights without a description were trained with.

    Raises:
        ValueError: the weights are not those of the described network.
    """
    configs, weights = bundle / "configs", bundle / "models" / "model.pt"
    sys.path.insert(0, str(ROOT / "bundles" / bundle.name))
    parser = ConfigParser()
    parser.read_config([str(configs / "inference.json"), *([str(overlay)] if overlay else [])])
    parser["weights"] = str(weights)
    subjects = parser.get_parsed_content("subjects")
    network = load_weights(parser.get_parsed_content("network_def"), str(weights), settings=subjects.trained_alike)
    described = {**read(weights), "sha256": sha256(weights), **subjects.trained_alike, **subjects.sizes}
    if "acquisitions" in parser:
        described["acquisitions"] = parser.get_parsed_content("acquisitions")
    described["reference_scale"] = network.reference_scale.tolist()
    write(weights, network, **{name: value for name, value in described.items() if name != "network"})
    agree(configs, subjects.sequences, subjects.divisible)


def agree(configs: Path, sequences: list[str], divisible: list[int]) -> None:
    """Corrects what metadata.json and tensorrt.json say of the images: sequences, their number, and the sizes."""
    metadata = json.loads((configs / "metadata.json").read_text())
    for image in (metadata["network_data_format"][way][key] for way, key in (("inputs", "image"), ("outputs", "pred"))):
        sizes = [str(size).removesuffix("n").removesuffix("*") or "1" for size in image["spatial_shape"]]
        steps = [math.lcm(int(size), step) for size, step in zip(sizes, divisible, strict=True)]
        image["spatial_shape"] = ["n" if step == 1 else f"{step}*n" for step in steps]
        image["num_channels"] = len(sequences)
        image["channel_def"] = {str(k): name for k, name in enumerate(sequences)}
    (configs / "metadata.json").write_text(json.dumps(metadata, indent=4) + "\n")
    if (configs / "tensorrt.json").exists():
        tensorrt = json.loads((configs / "tensorrt.json").read_text())
        tensorrt["input_shape"][1] = len(sequences)
        (configs / "tensorrt.json").write_text(json.dumps(tensorrt, indent=4) + "\n")


def _set_apart(bundle: Path, weights: Path, source: str) -> None:
    """Moves models/model.pt out of a bundle; large_files.yml says where it will be found."""
    if not (bundle / "models" / "model.pt").is_file():
        raise FileNotFoundError(f"{bundle.name} has no weights to set apart: pass --weights FILE.")
    with replacing(weights) as partial:
        shutil.move(bundle / "models" / "model.pt", partial)
    address = f"{source}/{weights.name}"
    entry = {"path": "models/model.pt", "url": address, "hash_val": sha256(weights), "hash_type": "sha256"}
    (bundle / "large_files.yml").write_text(yaml.safe_dump({"large_files": [entry]}))


def _zip(folder: Path, archive: Path) -> None:
    with replacing(archive) as partial, ZipFile(partial, "w", ZIP_DEFLATED) as file:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = ZipInfo(path.relative_to(folder.parent).as_posix(), EPOCH)
            entry.external_attr = (0o755 if path.name == "mri-contrast" else 0o644) << 16
            entry.compress_type = ZIP_DEFLATED
            file.writestr(entry, path.read_bytes())


def _list(file: Path, full_name: str, entry: dict[str, str]) -> None:
    known = json.loads(file.read_text()) if file.exists() else {}
    write_text(file, json.dumps(dict(sorted({**known, full_name: entry}.items())), indent=4) + "\n")


if __name__ == "__main__":
    run_command(package)

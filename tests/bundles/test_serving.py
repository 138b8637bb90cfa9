"""Arrays through an exported file, by `common.inference.serving`, are what `run inference` writes; of every bundle."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.subjects import read_subjects, write_subjects
from common.inference.serving import Served, complete_arrays

BUNDLES = ["mri_seq2seq", "mri_vq_seq2seq", "mri_crl", "mri_aldm"]
RIVALS = ("mri_resvit", "mri_wavelet_flow", "mri_mmgan", "mri_pgan", "mri_cyclegan")
BUNDLES += [pytest.param(name, marks=pytest.mark.full) for name in RIVALS]
TARGET = {"mri_crl": "FSE9", "mri_pgan": "T2", "mri_cyclegan": "T2"}


@pytest.fixture(scope="module")
def served(workflow, crl, weights_of, crl_weights, phantom_dir: Path, fse_dir: Path, tmp_path_factory):
    """By bundle: the record of its export, the subject's files, and what `run inference` made of them."""

    def create(bundle: str) -> tuple[Path, dict[str, str], nib.Nifti1Image]:
        folder, target = tmp_path_factory.mktemp(bundle), TARGET.get(bundle, "FLAIR")
        data = fse_dir if bundle == "mri_crl" else phantom_dir
        subjects = read_subjects(data)
        [patient] = subjects["test"]
        patient["images"].pop(target)
        if bundle in ("mri_pgan", "mri_cyclegan"):
            patient["images"] = {"T1": patient["images"]["T1"]}
        write_subjects(folder / "one.json", {**subjects, "training": [], "validation": []})
        options = {"dataset_dir": data, "subject_list": folder / "one.json", "output_dir": folder / "out"}
        options |= {"weights": crl_weights if bundle == "mri_crl" else knowing(weights_of(bundle), folder)}
        options |= {"output_file": folder / "model.ts", "device": "cpu"}
        if bundle == "mri_aldm":
            options |= {"sampler": "ddim", "steps": 2}
        if bundle == "mri_vq_seq2seq":  # as the authors' weights see images
            options |= {"subjects#axes": "PLS", "subjects#crop": [24, 20, -1]}
        files = ("inference.json", "export.json")
        made = crl(*files, **options) if bundle == "mri_crl" else workflow(bundle, *files, **options)
        made.parser["targets"] = target
        made.initialize()
        print(made.parser.get_parsed_content("exported"))
        made.parser.get_parsed_content("evaluator").run()
        written = folder / "out" / patient["subject"] / f"{patient['subject']}_{target}.nii.gz"
        return folder / "model.ts.json", patient["images"], nib.load(written)

    return create


def knowing(weights: Path, folder: Path) -> Path:
    """Weights of a training that showed that gains go together."""
    state = torch.load(weights, weights_only=True)
    state["reference_spread"] = 0.3 + 0.1 * torch.eye(len(state["reference_scale"]))
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


def run_file(record: Path):
    """What a server does: the file alone, and no code of this project."""
    module = torch.jit.load(record.with_suffix(""))

    def run(image: np.ndarray) -> np.ndarray:
        assert image.dtype == np.float32 and image.shape[0] == 1
        with torch.no_grad(), torch.jit.optimized_execution(False):
            return module(torch.from_numpy(image)).numpy()

    return run


@pytest.mark.parametrize("bundle", BUNDLES)
def test_arrays_become_what_inference_writes(served, bundle: str):
    record, files, written = served(bundle)
    images = {name: nib.load(file).get_fdata(dtype=np.float32) for name, file in files.items()}
    affine = nib.load(next(iter(files.values()))).affine
    module = import_module(f"{bundle}.common.inference.serving")
    made = module.complete_arrays(images, record, run_file(record), affine)
    assert list(made) == [TARGET.get(bundle, "FLAIR")]
    [volume] = made.values()
    expected = written.get_fdata(dtype=np.float32)
    assert volume.shape == expected.shape and (expected > 0).any()
    np.testing.assert_allclose(volume, expected, rtol=0, atol=1e-4 * expected.max())
    # The same patient, the arrays' axes to the left and to the back: the answer is the same, turned in the same way.
    turned = affine @ np.diag([-1, -1, 1, 1])
    turned[:3, 3] = affine[:3] @ [*(np.array(volume.shape[:2]) - 1), 0, 1]
    flipped = {name: image[::-1, ::-1] for name, image in images.items()}
    [again] = module.complete_arrays(flipped, record, run_file(record), turned).values()
    np.testing.assert_allclose(again[::-1, ::-1], volume, rtol=0, atol=1e-4 * expected.max())
    config = record.with_name("config.pbtxt").read_text()
    count = len(json.loads(record.read_text())["sequences"])
    assert 'default_model_filename: "model.ts"' in config and f"dims: [ -1, {count}, -1, -1, -1 ]" in config
    assert f'name: "{bundle}"' in config and config.count("{") == config.count("}") == 2


def test_bad_requests(served):
    record, files, _ = served("mri_seq2seq")
    images = {name: nib.load(file).get_fdata(dtype=np.float32) for name, file in files.items()}
    run = run_file(record)
    with pytest.raises(ValueError, match="images has T3; this network knows T1, T1Gd, T2, FLAIR"):
        complete_arrays({"T3": images["T1"]}, record, run)
    with pytest.raises(ValueError, match=r"images is empty; .* one or more of T1, T1Gd, T2, FLAIR"):
        complete_arrays({}, record, run)
    with pytest.raises(ValueError, match=r"one grid, but these have the shapes T1 \(25, 30, 24\), T2 \(25, 30, 23\)"):
        complete_arrays({"T1": images["T1"], "T2": images["T2"][..., 1:]}, record, run)
    with pytest.raises(ValueError, match="T2: 18000 voxels are NaN or infinite"):
        complete_arrays({"T1": images["T1"], "T2": images["T2"] * np.nan}, record, run)
    with pytest.raises(ValueError, match="T1: the background is 10, not 0"):
        complete_arrays({"T1": images["T1"] + 10}, record, run)
    with pytest.raises(ValueError, match=r"affine is .* must be an invertible 4 x 4 matrix"):
        complete_arrays({"T1": images["T1"]}, record, run, np.zeros((4, 4)))
    with pytest.raises(ValueError, match="targets has T1; the file was exported for FLAIR"):
        complete_arrays(images, record, run, targets="T1")
    with pytest.raises(ValueError, match=r"output has the shape \(1, 3, .*its input \(1, 4, "):
        complete_arrays(images, record, lambda image: image[:, :3])
    with pytest.raises(torch.jit.Error, match=r"Image size \(17, 16\) is not a multiple of 2"):
        run(np.zeros((1, 4, 17, 16, 3), np.float32))
    said = json.loads(record.read_text())
    said["preparation"] |= {"divisible": [1, 1, 1], "roi_size": [31, 32, 3]}  # as no export writes it
    record.write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"Image size \(.*\) is not a multiple of 2, .* pad it first"):
        Served(record).to_input(images)
    record.write_text(json.dumps({name: value for name, value in said.items() if name != "preparation"}))
    with pytest.raises(ValueError, match=r"model.ts.json does not say how images are prepared. Export again"):
        Served(record)

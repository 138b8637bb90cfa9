import json
from math import cos, exp, radians, sin

import nibabel as nib
import numpy as np
import pytest

from common.data.anatomy import INDEX, make_anatomy
from common.data.dynamic import DCE_TIMES, DIFFUSIVITY, DWI_B_VALUES, KINETICS, apparent_diffusion, concentration
from common.data.phantom import make_phantom
from common.data.phantom_series import FRAMES, draw_diffusivity, draw_kinetics, move, simulate_dce, simulate_dwi
from common.data.series import read_frames
from common.data.subjects import read_subjects

SPACING = 4.0
TUMOUR = 4  # a subject of seed 0 that has one
ALL = ("T1", "DCE", "DWI", "wash-in", "wash-out")


@pytest.fixture(scope="module")
def anatomy():
    return make_anatomy(np.random.default_rng([0, TUMOUR]), spacing=SPACING)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    make_phantom(folder, subjects=1, sequences=ALL, spacing=SPACING, validation=0, test=0, bias=0.1)
    (entry,) = json.loads((folder / "subjects.json").read_text())["training"]
    return folder, entry


def load(path):
    return nib.load(path).get_fdata(dtype=np.float32)


def purest(anatomy, tissue):
    return np.unravel_index(np.argmax(anatomy.fractions[INDEX[tissue]]), anatomy.brain.shape)


def test_dce_is_the_mixture_of_the_tissues(anatomy):
    series, curves = simulate_dce(anatomy)
    assert series.shape == curves.shape == (*anatomy.brain.shape, 6) and series.dtype == curves.dtype == np.float32
    assert not series[~anatomy.brain].any() and not curves[..., 0].any()
    voxel = purest(anatomy, "rim")
    water = 1 + anatomy.texture[voxel]
    for frame, time in enumerate(DCE_TIMES):
        signal = total = 0.0
        for name, share in zip(KINETICS, anatomy.fractions[(slice(None), *voxel)], strict=True):
            agent = float(concentration(time, KINETICS[name]))
            t1, t2 = (values[INDEX[name]] * water for values in (anatomy.t1, anatomy.t2))
            e1 = exp(-5 * (1 / t1 + 4.5e-3 * agent))
            ernst = sin(radians(15)) * (1 - e1) / (1 - cos(radians(15)) * e1) * exp(-1.6 * 2 / t2)
            signal += share * anatomy.pd[INDEX[name]] * np.cbrt(water) * ernst
            total += share * agent
        assert series[(*voxel, frame)] == pytest.approx(signal, rel=1e-4)
        assert curves[(*voxel, frame)] == pytest.approx(total, rel=1e-4, abs=1e-7)


def test_enhancement_tells_the_tissues_apart(anatomy):
    series, _ = simulate_dce(anatomy)
    gain = {name: series[purest(anatomy, name)] / series[purest(anatomy, name)][0] - 1 for name in KINETICS}
    assert gain["rim"].max() > 1 and gain["rim"][2] > 4 * gain["grey_matter"][2] > 8 * gain["white_matter"][2] > 0
    assert gain["vessel"].argmax() == 1  # the first pass is over at a minute, the peak of tissue is not
    assert np.abs(gain["necrosis"]).max() < 0.5 * gain["rim"].max()


def test_diffusivity_of_pure_and_mixed_voxels(anatomy):
    series, d = simulate_dwi(anatomy)
    assert (
        series.shape == (*anatomy.brain.shape, 4) and not series[~anatomy.brain].any() and not d[~anatomy.brain].any()
    )
    pure = anatomy.fractions[INDEX["white_matter"]] > 0.999
    np.testing.assert_allclose(d[pure], DIFFUSIVITY["white_matter"], rtol=5e-3)
    np.testing.assert_allclose(apparent_diffusion(series[pure], DWI_B_VALUES), d[pure], rtol=5e-3)
    # A mixture decays ever more slowly: its slope at 0, the truth, is above that of any pair of frames.
    near, _ = simulate_dwi(anatomy, b_values=(0, 1))
    inside = anatomy.brain
    np.testing.assert_allclose(-np.log(near[inside, 1] / near[inside, 0]), d[inside], atol=2e-5)
    assert (apparent_diffusion(series[inside], DWI_B_VALUES) <= d[inside] * 1.001).all()


def test_subjects_differ():
    drawn = [draw_kinetics(np.random.default_rng(seed))["rim"].ktrans for seed in range(200)]
    assert np.std(np.log(drawn)) == pytest.approx(0.4, abs=0.06) and np.median(drawn) == pytest.approx(0.12, rel=0.1)
    vessels = [draw_kinetics(np.random.default_rng(seed))["vessel"] for seed in range(200)]
    assert max(each.vp for each in vessels) <= 0.9 and all(each.ktrans == 0 for each in vessels)
    white = [draw_diffusivity(np.random.default_rng(seed))["white_matter"] for seed in range(200)]
    assert np.mean(white) == pytest.approx(0.75e-3, rel=0.01) and np.std(white) > 1e-5


def test_files_and_list(dataset):
    folder, entry = dataset
    assert list(entry["images"]) == list(entry["reference"]) == list(ALL) and list(entry["parameters"]) == ["T1"]
    assert entry["frames"] == {"DCE": {"times": list(DCE_TIMES)}, "DWI": {"b_values": list(DWI_B_VALUES)}}
    assert list(entry["maps"]) == ["concentration", "diffusivity"]
    for name, shape in (("T1", ()), ("DCE", (6,)), ("DWI", (4,)), ("wash-in", ()), ("wash-out", ())):
        for field in ("images", "reference"):
            image = nib.load(folder / entry[field][name])
            assert image.shape == (50, 59, 48, *shape) and image.get_data_dtype() == np.float32
            assert read_frames(folder / entry[field][name]) == entry["frames"].get(name, {})
    said = json.loads((folder / "phantom_000/phantom_000_DCE.json").read_text())
    assert said == {"RepetitionTime": 0.005, "EchoTime": 0.002, "FlipAngle": 15, "VolumeTiming": list(DCE_TIMES)}
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix == ".gz"}
    assert files == {file for field in ("images", "masks", "reference", "maps") for file in entry[field].values()}


def test_frames_share_gain_field_and_noise(dataset):
    folder, entry = dataset
    brain = load(folder / entry["masks"]["brain"]) > 0
    for name in ("DCE", "DWI"):
        image, truth = (load(folder / entry[field][name])[brain] for field in ("images", "reference"))
        sigma = 0.03 * np.percentile(truth[:, 0], 99)
        bright = truth.min(axis=-1) > 5 * sigma
        image, truth = image[bright], truth[bright]
        field = (image * truth).sum(-1, keepdims=True) / (truth**2).sum(-1, keepdims=True)  # least squares per voxel
        assert field.std() > 0.01 and np.all(np.abs((image / truth / field).mean(axis=0) - 1) < 0.03)
        # What is left beside one field for all frames is the noise, but for the degree of freedom that it took.
        left = np.sqrt(((image - truth * field) ** 2).sum(-1).mean() / (truth.shape[-1] - 1))
        assert left == pytest.approx(sigma, rel=0.03)


def test_wash_images_are_those_of_the_dce(dataset):
    folder, entry = dataset
    for field in ("images", "reference"):
        dce = load(folder / entry[field]["DCE"]).astype(float)
        peak = dce[..., 1:].max(-1)
        np.testing.assert_allclose(load(folder / entry[field]["wash-in"]), np.maximum(peak - dce[..., 0], 0), atol=1e-4)
        np.testing.assert_allclose(load(folder / entry[field]["wash-out"]), peak - dce[..., -1], atol=1e-4)


def test_series_do_not_depend_on_what_else_is_made(dataset, tmp_path):
    folder, entry = dataset
    for names in ("wash-in", "DWI,T1"):
        make_phantom(tmp_path, subjects=1, sequences=names, spacing=SPACING, validation=0, test=0)
        for name in names.split(","):
            np.testing.assert_array_equal(load(folder / entry["images"][name]), load(tmp_path / entry["images"][name]))
    assert not (tmp_path / entry["images"]["DCE"]).exists()


def test_motion_moves_all_but_the_first_frame_and_no_truth(dataset, tmp_path):
    folder, entry = dataset
    make_phantom(tmp_path, subjects=1, sequences="DCE", spacing=SPACING, validation=0, test=0, motion=3)
    truth, still = load(folder / entry["reference"]["DCE"]), load(folder / entry["images"]["DCE"])
    np.testing.assert_array_equal(load(tmp_path / entry["reference"]["DCE"]), truth)
    moved = load(tmp_path / entry["images"]["DCE"])
    error = [np.abs(image - truth).mean(axis=(0, 1, 2)) for image in (still, moved)]
    assert error[1][0] == pytest.approx(error[0][0], rel=0.1) and (error[1][1:] > 2 * error[0][1:]).all()


def test_shift_is_in_mm_along_the_axes():
    class Fixed:
        """No turn, then a shift of one deviation along y."""

        def __init__(self):
            self.draws = [np.zeros(3), np.array([0, 1.0, 0])]

        def standard_normal(self, _):
            return self.draws.pop(0)

    series = np.zeros((9, 9, 9, 2), np.float32)
    series[4, 4, 4] = 1
    moved = move(series, np.diag([2, 3, 4, 1.0]), Fixed(), motion=6)
    np.testing.assert_array_equal(moved[..., 0], series[..., 0])
    assert moved[4, 2, 4, 1] == pytest.approx(1) and moved[..., 1].sum() == pytest.approx(1)  # 6 mm are two voxels


def test_protocols_differ_between_subjects(tmp_path):
    make_phantom(tmp_path, 2, sequences=["DCE", "DWI"], spacing=20, test=0, validation=0, protocols=0.3)
    one, other = (entry["frames"] for entry in read_subjects(tmp_path)["training"])
    assert one != other
    for frames in (one, other):
        for name, kind in (("DCE", "times"), ("DWI", "b_values")):
            values, steps = frames[name][kind], np.diff(FRAMES[name][kind])
            assert values[0] == 0 and (np.diff(values) > 0).all() and len(values) == len(steps) + 1
            assert (np.abs(np.log(np.diff(values) / steps)) < 1.2).all(), "4 standard deviations"
    first, second = (
        nib.load(tmp_path / f"phantom_00{k}/phantom_00{k}_DCE_reference.nii.gz").get_fdata().mean((0, 1, 2))
        for k in (0, 1)
    )
    assert not np.allclose(first / first[0], second / second[0], rtol=1e-3)

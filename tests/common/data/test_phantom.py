import json

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from common.data.anatomy import INDEX, make_anatomy, other_texture, simulate
from common.data.mr_signal import FSE9, PRESETS, TISSUES, Acquisition, setting_of
from common.data.phantom import make_phantom
from common.data.subjects import read_subjects
from common.data.template import GRID, random_deformation, tissue_maps

SPACING = 4.0
TUMOUR = 4  # a subject of seed 0 that has one


def rng(number: int = TUMOUR, seed: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, number])


@pytest.fixture(scope="module")
def anatomy():
    return make_anatomy(rng(), spacing=SPACING)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    own = {"IR": (2000, 12, 400)}
    make_phantom(folder, subjects=4, sequences=["T1", "T1Gd", "IR"], spacing=SPACING, acquisitions=own)
    return folder, json.loads((folder / "subjects.json").read_text())


def load(path):
    return nib.load(path).get_fdata(dtype=np.float32)


def entries(listing):
    return [entry for part in ("training", "validation", "test") for entry in listing[part]]


def test_grid_is_that_of_the_template(anatomy):
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template(resolution=1)
    assert tissue_maps((SPACING,) * 3).shape[1:] == template.shape
    np.testing.assert_array_equal(anatomy.affine[:3, 3], template.affine[:3, 3])
    np.testing.assert_array_equal(np.diag(anatomy.affine), [4, 4, 4, 1])
    reach = (np.array(anatomy.brain.shape) - 1) * SPACING
    assert np.all(np.abs(reach - (np.array(template.shape) - 1)) < SPACING)


def test_deformation_is_invertible():
    for number in range(4):
        for ventricles in (-3, 6):
            displacement = random_deformation(rng(number), ventricles=ventricles)
            gradient = np.stack([np.stack(np.gradient(axis, GRID)) for axis in displacement])  # [3, 3, X, Y, Z]
            jacobian = np.linalg.det(np.eye(3) + np.moveaxis(gradient, (0, 1), (-2, -1)))
            assert jacobian.min() > 0
            assert 1 < np.abs(displacement).max() < 30


def test_ventricles_widen():
    csf = tissue_maps((SPACING,) * 3)[0, ::GRID, ::GRID, ::GRID]
    centre = tuple(np.array([98, 134 - 10, 72 + 14]) // GRID)
    near = tuple(slice(c - w, c + w) for c, w in zip(centre, (7, 10, 5), strict=True))
    grid = np.indices(csf.shape)

    def volume(ventricles):
        moved = grid + random_deformation(rng(), ventricles=ventricles) / GRID
        return map_coordinates(csf, moved, order=1)[near].sum()

    assert volume(5) > 1.2 * volume(0) > volume(-2)


def test_fractions(anatomy):
    total = anatomy.fractions.sum(axis=0)
    np.testing.assert_allclose(total[anatomy.brain], 1, atol=1e-5)
    assert np.all(total[~anatomy.brain] == 0) and anatomy.fractions.min() >= 0
    assert anatomy.fractions.shape == (len(TISSUES), *anatomy.brain.shape)
    assert 1200 < anatomy.brain.sum() * SPACING**3 / 1000 < 2400, "brain volume in ml"
    assert np.all(anatomy.brain[anatomy.lesion]) and 5 < anatomy.lesion.sum() * SPACING**3 / 1000 < 200
    assert np.array_equal(anatomy.tissue == 4, anatomy.lesion) and np.array_equal(anatomy.tissue > 0, anatomy.brain)
    assert set(np.unique(anatomy.tissue)) == {0, 1, 2, 3, 4}


def test_same_person_at_every_spacing(anatomy):
    fine = make_anatomy(rng(), spacing=2)
    np.testing.assert_array_equal(fine.t1, anatomy.t1)
    assert np.corrcoef(fine.tissue[::2, ::2, ::2].ravel(), anatomy.tissue.ravel())[0, 1] > 0.85
    assert fine.lesion.sum() * 8 == pytest.approx(anatomy.lesion.sum() * 64, rel=0.25)


def test_simulate_is_the_mixture_of_the_tissues(anatomy):
    image = simulate(anatomy, Acquisition(600, 10))
    assert image.dtype == np.float32 and np.all(image[~anatomy.brain] == 0)
    voxel = np.unravel_index(np.argmax(anatomy.fractions[INDEX["white_matter"]]), image.shape)
    water = 1 + anatomy.texture[voxel]
    t1, t2, pd = anatomy.t1 * water, anatomy.t2 * water, anatomy.pd * np.cbrt(water)
    signal = pd * (1 - np.exp(-600 / t1)) * np.exp(-10 / t2)
    assert image[voxel] == pytest.approx(anatomy.fractions[(slice(None), *voxel)] @ signal, rel=1e-4)


def test_contrast_of_images(anatomy):
    def means(sequence):
        image = simulate(anatomy, sequence)
        pure = anatomy.fractions > 0.95
        return [image[pure[INDEX[name]]].mean() for name in ("csf", "grey_matter", "white_matter")]

    csf, grey, white = means("T1")
    assert white > grey > csf
    csf, grey, white = means("T2")
    assert csf > grey > white
    csf, grey, white = means("FLAIR")
    assert grey > white > 5 * csf
    oedema = anatomy.fractions[INDEX["oedema"]] > 0.7
    assert simulate(anatomy, "FLAIR")[oedema].mean() > 1.1 * grey


def test_gadolinium_brightens_rim_and_vessels_only(anatomy):
    gain = simulate(anatomy, "T1Gd") - simulate(anatomy, "T1")
    doses = np.array([tissue.gadolinium for tissue in TISSUES.values()])
    enhancing = anatomy.fractions[doses > 0].sum(axis=0)
    assert np.all(gain[enhancing > 0.05] > 0)
    assert np.all(gain[enhancing == 0] == 0)
    assert gain[anatomy.fractions[INDEX["rim"]] > 0.5].min() > 0.05


def test_subject_list(dataset):
    folder, listing = dataset
    assert list(listing) == ["name", "sequences", "training", "validation", "test"]
    assert listing["name"] == "phantom (simulated)" and listing["sequences"] == ["T1", "T1Gd", "IR"]
    assert [len(listing[part]) for part in ("training", "validation", "test")] == [2, 1, 1]
    for number, entry in enumerate(entries(listing)):
        name = f"phantom_{number:03d}"
        assert entry == {
            "subject": name,
            "images": {sequence: f"{name}/{name}_{sequence}.nii.gz" for sequence in ("T1", "T1Gd", "IR")},
            "masks": {mask: f"{name}/{name}_{mask}.nii.gz" for mask in ("brain", "lesion", "tissue", "tumour")},
            "reference": {sequence: f"{name}/{name}_{sequence}_reference.nii.gz" for sequence in ("T1", "T1Gd", "IR")},
            "parameters": {
                "T1": {"TR": PRESETS["T1"].tr, "TE": PRESETS["T1"].te, "TI": 0},
                "T1Gd": {"TR": PRESETS["T1"].tr, "TE": PRESETS["T1"].te, "TI": 0},
                "IR": {"TR": 2000, "TE": 12, "TI": 400},
            },
        }
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    fields = ("images", "masks", "reference")
    listed = {path for entry in entries(listing) for field in fields for path in entry[field].values()}
    assert written == listed | {"subjects.json"}


def test_files(dataset):
    folder, listing = dataset
    for entry in entries(listing):
        brain = load(folder / entry["masks"]["brain"]) > 0
        for field, kind in (("images", np.float32), ("reference", np.float32), ("masks", np.uint8)):
            for path in entry[field].values():
                image = nib.load(folder / path)
                assert image.get_data_dtype() == kind and image.shape == brain.shape
                np.testing.assert_allclose(image.affine[:3], [[4, 0, 0, -98], [0, 4, 0, -134], [0, 0, 4, -72]])
                assert image.header["sform_code"] > 0 and image.header["qform_code"] > 0
                assert image.header.get_xyzt_units()[0] == "mm"
                assert np.all(load(folder / path)[~brain] == 0)


def test_reference_shares_the_scale(dataset):
    folder, listing = dataset
    for number, entry in enumerate(entries(listing)[:2]):
        anatomy = make_anatomy(rng(number), spacing=SPACING)
        for sequence in ("T1", "T1Gd"):
            image, reference = (load(folder / entry[field][sequence]) for field in ("images", "reference"))
            truth = simulate(anatomy, sequence)
            gain = (reference[anatomy.brain] / truth[anatomy.brain]).mean()
            assert 800 <= gain <= 1200
            np.testing.assert_allclose(reference, gain * truth, rtol=1e-4)
            ratio = image[anatomy.brain].sum() / reference[anatomy.brain].sum()
            assert ratio == pytest.approx(1, abs=0.2) and not np.array_equal(image, reference)


def test_noise_level_of_files(tmp_path):
    make_phantom(tmp_path, subjects=1, sequences="T2", spacing=SPACING, noise=0.05, bias=0)
    image, reference = (load(tmp_path / f"phantom_000/phantom_000_T2{end}.nii.gz") for end in ("", "_reference"))
    sigma = 0.05 * np.percentile(reference[reference > 0], 99)
    bright = reference > 5 * sigma
    assert (image - reference)[bright].std() == pytest.approx(sigma, rel=0.03)


def test_subject_depends_on_nothing_but_seed_and_number(dataset, tmp_path):
    folder, _ = dataset
    make_phantom(tmp_path / "again", subjects=2, sequences="T1,T2", spacing=SPACING)
    make_phantom(tmp_path / "other", subjects=1, sequences="T1", spacing=SPACING, seed=1)
    for number in range(2):
        for end in ("T1", "T1_reference", "tissue"):
            path = f"phantom_{number:03d}/phantom_{number:03d}_{end}.nii.gz"
            np.testing.assert_array_equal(load(folder / path), load(tmp_path / "again" / path))
    path = "phantom_000/phantom_000_tissue.nii.gz"
    assert np.mean(load(folder / path) != load(tmp_path / "other" / path)) > 0.02
    first, second = (load(folder / f"phantom_00{number}/phantom_00{number}_tissue.nii.gz") for number in range(2))
    assert np.mean(first != second) > 0.02


def test_anisotropic_spacing_and_foreign_files(tmp_path):
    own = tmp_path / "phantom_000" / "notes.txt"
    own.parent.mkdir()
    own.write_text("mine")
    for seed in range(2):  # the second run replaces the first one's files
        make_phantom(tmp_path, subjects=1, sequences="PD", spacing=(3, 4, 6), seed=seed)
    image = nib.load(tmp_path / "phantom_000/phantom_000_PD.nii.gz")
    assert image.header.get_zooms() == (3, 4, 6) and image.shape == (66, 59, 32)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert own.read_text() == "mine" and len(list(own.parent.iterdir())) == 1 + 2 + 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequences": "ASL"}, "'ASL'"),
        ({"sequences": ("T1", "T1")}, "different"),
        ({"sequences": "brain"}, "brain"),
        ({"sequences": ("T1/x",)}, "letters and digits"),
        ({"sequences": ()}, "sequences"),
        ({"sequences": 0}, "sequences is 0"),
        ({"sequences": True}, "sequences is True"),
        ({"sequences": 2, "acquisitions": {"SE1": (2000, 10, 0)}}, "has no acquisitions of its own"),
        ({"sequences": 2, "gradient_echoes": 3}, "gradient_echoes is 3; it lies between 0 and sequences, 2"),
        ({"gradient_echoes": 3}, "gradient_echoes go with a number of sequences"),
        ({"acquisitions": {"T1": (7, 3, 450, 12)}}, "TI must be 0 .* below TR"),
        ({"acquisitions": {"IR": (2000, 10, 400)}}, r"\['IR'\].*not among sequences"),
        ({"acquisitions": {"T1": (10, 2000, 0)}}, "TE=2000.0 ms, TR=10.0 ms"),
        ({"spacing": 0}, "spacing"),
        ({"tumours": 2}, "tumours=2"),
        ({"spacing": (1, 2)}, r"spacing.*\(1, 2\)"),
        ({"subjects": 0}, "subjects=0"),
        ({"validation": 0.6, "test": 0.5}, "validation=0.6, test=0.5"),
        ({"subjects": 3, "validation": 0.5, "test": 0.4}, "No training subject left of 3"),
        ({"noise": -1}, "noise=-1"),
        ({"bias": 1.5}, "bias=1.5"),
        ({"motion": -1}, "motion=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"mismatch": "PD"}, "mismatch is 'PD'; it must be one of T1, T1Gd, T2, FLAIR"),
        ({"mismatch": "T2", "protocols": 0.3}, "go one at a time"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_phantom(tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()


def test_nine_spin_echoes_of_one_gain(tmp_path):
    make_phantom(tmp_path, subjects=1, sequences="fse9", spacing=10, validation=0, test=0, one_gain=True)
    (entry,) = read_subjects(tmp_path)["training"]
    assert list(entry["images"]) == list(FSE9)
    assert entry["parameters"]["FSE9"] == {"TR": 8000, "TE": 98.78, "TI": 2025}
    anatomy = make_anatomy(np.random.default_rng([0, 0]), spacing=10)
    gains = []
    for name, file in entry["reference"].items():
        exact = simulate(anatomy, FSE9[name])
        gains.append(np.median(nib.load(file).get_fdata()[exact > 0.01] / exact[exact > 0.01]))
    assert np.allclose(gains, gains[0], rtol=1e-4) and 800 <= gains[0] <= 1200


def test_spin_echoes_of_each_subject_s_own_settings(tmp_path):
    make_phantom(tmp_path / "six", subjects=3, sequences=6, spacing=16, one_gain=True)
    make_phantom(tmp_path / "two", subjects=1, sequences=2, spacing=16, one_gain=True, validation=0, test=0)
    listing = read_subjects(tmp_path / "six")
    assert listing["sequences"] == [f"SE{k}" for k in range(1, 7)]
    times = [tuple(each.values()) for entry in entries(listing) for each in entry["parameters"].values()]
    assert len(set(times)) == 18 and 3 < sum(ti == 0 for *_, ti in times) < 15
    for tr, te, ti in times:
        assert 400 <= tr <= 9000 and 8 <= te <= 150 and (ti == 0 or 100 <= ti <= min(3000, 0.8 * tr + 0.01))
    [first], own = entries(read_subjects(tmp_path / "two")), listing["training"][0]
    assert first["parameters"] == {name: own["parameters"][name] for name in ("SE1", "SE2")}
    anatomy = make_anatomy(rng(0), spacing=16)
    exact = simulate(anatomy, Acquisition(*own["parameters"]["SE2"].values()))
    ratio = load(own["reference"]["SE2"])[exact > 0.01] / exact[exact > 0.01]
    assert np.ptp(ratio) < 1e-3 * ratio.mean()


def test_gradient_echoes_beside_spin_echoes(tmp_path):
    make_phantom(tmp_path, subjects=6, sequences=6, gradient_echoes=4, spacing=16, one_gain=True)
    listing = read_subjects(tmp_path)
    assert listing["sequences"] == ["SE1", "SE2", "GE1", "GE2", "GE3", "GE4"]
    drawn = [entry["parameters"][f"GE{k}"] for entry in entries(listing) for k in range(1, 5)]
    assert all("FA" not in entry["parameters"]["SE1"] for entry in entries(listing))
    prepared = [each for each in drawn if each["TI"]]
    assert 5 < len(prepared) < 19
    assert all(each["TR"] >= each["TI"] + 700 and 6 <= each["FA"] <= 15 for each in prepared)
    assert all(each["TR"] <= 300 and 5 <= each["FA"] <= 80 for each in drawn if not each["TI"])
    own, anatomy = listing["training"][0], make_anatomy(rng(0), spacing=16)
    exact = simulate(anatomy, setting_of(*own["parameters"]["GE2"].values()))
    ratio = load(own["reference"]["GE2"])[exact > 0.01] / exact[exact > 0.01]
    assert np.ptp(ratio) < 1e-3 * ratio.mean()


def test_tumours_of_every_subject_or_of_none_and_what_their_labels_are() -> None:
    """1 necrosis, 2 oedema, 3 rim: within `lesion`, the rim around the necrosis, and no other person for it."""
    usual, ill, well = (make_anatomy(np.random.default_rng([0, 2]), spacing=4, tumours=share) for share in (0.5, 1, 0))
    assert set(np.unique(ill.tumour)) == {0, 1, 2, 3} and not well.tumour.any()
    assert (ill.lesion | ~(ill.tumour > 0)).all()
    assert np.array_equal(usual.tumour, ill.tumour) or np.array_equal(usual.tumour, well.tumour)
    assert np.array_equal(ill.brain, well.brain)
    fractions = ill.fractions[[INDEX[name] for name in ("necrosis", "oedema", "rim")]]
    inside = ill.tumour > 0
    assert np.array_equal(ill.tumour[inside], 1 + fractions[:, inside].argmax(0))


def test_a_mismatch_shows_in_no_image_alone(anatomy):
    white = anatomy.tissue == 3
    t2, flair = (simulate(anatomy, name)[white] for name in ("T2", "FLAIR"))
    other = simulate(other_texture(anatomy, rng(9)), "FLAIR")[white]
    assert np.corrcoef(t2, flair)[0, 1] > np.corrcoef(t2, other)[0, 1] + 0.2
    assert other.mean() == pytest.approx(flair.mean(), rel=0.01) and other.std() == pytest.approx(flair.std(), rel=0.2)


def test_subjects_with_a_mismatch_are_told_by_the_list(tmp_path):
    for name, mismatch in (("plain", ""), ("labelled", "FLAIR")):
        make_phantom(tmp_path / name, 2, sequences="T2,FLAIR", spacing=10, seed=2, mismatch=mismatch)
    plain, labelled = (json.loads((tmp_path / name / "subjects.json").read_text()) for name in ("plain", "labelled"))
    labels = [entry["labels"]["mismatch"] for entry in entries(labelled)]
    assert set(labels) == {0, 1} and "labels" not in entries(plain)[0]
    for entry, label in zip(entries(labelled), labels, strict=True):
        for name, is_other in (("T2", False), ("FLAIR", label == 1)):
            both = [load(tmp_path / folder / entry["reference"][name]) for folder in ("plain", "labelled")]
            assert np.array_equal(*both) is not is_other

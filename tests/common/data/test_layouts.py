import json
import os
import sys

import nibabel as nib
import numpy as np
import pytest

from common.__main__ import main
from common.data.layouts import make_list
from common.data.names import bids, brats, from_pattern, ixi
from common.data.subjects import PAIRS, SPLITS, read_subjects


@pytest.fixture
def make(tmp_path):
    """Writes tiny NIfTI files below a folder and returns it."""

    def write(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4)), tmp_path / path)
        return tmp_path

    return write


def subjects_of(path, field="images"):
    """Subject to its files, of all splits, as they stand in the JSON file."""
    content = json.loads(path.read_text())
    return {entry["subject"]: entry.get(field, {}) for split in SPLITS for entry in content[split]}


def splits_of(path):
    return {split: [entry["subject"] for entry in read_subjects(path)[split]] for split in SPLITS}


def test_brats_2021(make):
    folder = "BraTS2021_00001/BraTS2021_00001_"
    root = make(*(f"{folder}{name}.nii.gz" for name in ("t1", "t1ce", "t2", "flair", "seg")))
    path = make_list(root)
    assert path == root / "subjects.json"
    assert json.loads(path.read_text())["sequences"] == ["T1", "T1Gd", "T2", "FLAIR"]
    assert subjects_of(path) == {
        "BraTS2021_00001": {
            "T1": f"{folder}t1.nii.gz",
            "T1Gd": f"{folder}t1ce.nii.gz",
            "T2": f"{folder}t2.nii.gz",
            "FLAIR": f"{folder}flair.nii.gz",
        }
    }
    assert subjects_of(path, "masks") == {"BraTS2021_00001": {"tumour": f"{folder}seg.nii.gz"}}


def test_brats_2023_keeps_the_visits_of_a_person_together(make):
    names = [f"BraTS-GLI-{person:05}-{visit:03}" for person in range(5) for visit in range(2)]
    root = make(*(f"{name}/{name}-{kind}.nii.gz" for name in names for kind in ("t1n", "t1c", "t2w", "t2f", "seg")))
    path = make_list(root, validation=0.2, test=0.2)
    assert list(subjects_of(path)[names[0]]) == ["T1", "T1Gd", "T2", "FLAIR"]
    assert subjects_of(path, "masks")[names[3]] == {"tumour": f"{names[3]}/{names[3]}-seg.nii.gz"}
    people = [{name[:-4] for name in split} for split in splits_of(path).values()]
    assert [len(split) for split in people] == [3, 1, 1] and len(set.union(*people)) == 5


def test_ixi(make):
    root = make(
        "IXI-T1/IXI002-Guys-0828-T1.nii.gz",
        "IXI-T2/IXI002-Guys-0828-T2.nii.gz",
        "IXI-PD/IXI012-HH-1211-PD.nii.gz",
        "IXI-MRA/IXI002-Guys-0828-MRA.nii.gz",
    )
    with pytest.warns(UserWarning, match="1 of 4 NIfTI files do not fit ixi and are left out: IXI-MRA"):
        path = make_list(root, validation=0, test=0)
    assert subjects_of(path) == {
        "IXI002-Guys-0828": {"T1": "IXI-T1/IXI002-Guys-0828-T1.nii.gz", "T2": "IXI-T2/IXI002-Guys-0828-T2.nii.gz"},
        "IXI012-HH-1211": {"PD": "IXI-PD/IXI012-HH-1211-PD.nii.gz"},
    }


def test_bids_sessions_gadolinium_sidecars_and_repeated_runs(make):
    one, two = "sub-01/ses-01/anat/sub-01_ses-01", "sub-01/ses-02/anat/sub-01_ses-02"
    root = make(
        f"{one}_T1w.nii.gz",
        f"{one}_ce-gadolinium_T1w.nii.gz",
        f"{one}_T2w.nii.gz",
        f"{one}_FLAIR.nii.gz",
        f"{one}_desc-brain_mask.nii.gz",
        f"{one}_part-phase_T1w.nii.gz",
        f"{two}_run-2_T1w.nii.gz",
        f"{two}_run-1_T1w.nii.gz",
        f"{two}_ce-GADOLINIUM_T1w.nii.gz",
        "sub-02/anat/sub-02_acq-tse_PDw.nii",
        "sub-02/dwi/sub-02_dwi.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_T2w.nii.gz",
    )
    (root / "T1w.json").write_text('{"RepetitionTime": 2.3, "EchoTime": 0.003}')
    (root / f"{one}_T1w.json").write_text('{"EchoTime": 0.00298, "InversionTime": 0.9, "FlipAngle": 9}')
    with pytest.warns(UserWarning) as warned:
        path = make_list(root, validation=0, test=0)
    messages = [str(warning.message) for warning in warned]
    assert len(messages) == 2 and messages[0].startswith("2 of 12 NIfTI files do not fit bids")
    assert messages[1].startswith("1 further files") and messages[1].endswith("run-2_T1w.nii.gz")
    assert subjects_of(path) == {
        "sub-01_ses-01": {
            "T1": f"{one}_T1w.nii.gz",
            "T1Gd": f"{one}_ce-gadolinium_T1w.nii.gz",
            "T2": f"{one}_T2w.nii.gz",
            "FLAIR": f"{one}_FLAIR.nii.gz",
        },
        "sub-01_ses-02": {"T1": f"{two}_run-1_T1w.nii.gz", "T1Gd": f"{two}_ce-GADOLINIUM_T1w.nii.gz"},
        "sub-02": {"PD": "sub-02/anat/sub-02_acq-tse_PDw.nii", "DWI": "sub-02/dwi/sub-02_dwi.nii.gz"},
    }
    assert subjects_of(path, "masks")["sub-01_ses-01"] == {"brain": f"{one}_desc-brain_mask.nii.gz"}
    inherited = {"TR": 2300, "TE": 3}
    assert subjects_of(path, "parameters") == {
        "sub-01_ses-01": {"T1": {"TR": 2300, "TE": 2.98, "TI": 900, "FA": 9}, "T1Gd": inherited},
        "sub-01_ses-02": {"T1": inherited, "T1Gd": inherited},
        "sub-02": {},
    }


def test_bids_sessions_of_a_person_share_a_split(make):
    root = make(*(f"sub-{i:02}/ses-{j}/anat/sub-{i:02}_ses-{j}_T1w.nii.gz" for i in range(6) for j in range(3)))
    splits = splits_of(make_list(root, validation=0.34, test=0.34))
    assert [len(names) for names in splits.values()] == [6, 6, 6]
    assert all(len({name[:6] for name in names}) == 2 for names in splits.values())


@pytest.mark.parametrize(
    ("match", "path", "person", "subject", "field", "name"),
    [
        (brats, "x/BraTS20_Training_001_t1.nii", "BraTS20_Training_001", "BraTS20_Training_001", "images", "T1"),
        (brats, "BraTS-MET-00002-001-t2f.nii.gz", "BraTS-MET-00002", "BraTS-MET-00002-001", "images", "FLAIR"),
        (ixi, "IXI002-Guys-0828-PD.nii.gz", "IXI002", "IXI002-Guys-0828", "images", "PD"),
        (bids, "sub-1/anat/sub-1_T2w.nii.gz", "sub-1", "sub-1", "images", "T2"),
        (from_pattern("{subject}_{sequence}.nii.gz"), "A_lesion_mask.nii.gz", "A", "A", "masks", "lesion"),
        (from_pattern("{subject}_{sequence}.nii.gz"), "A_1_T1post.nii.gz", "A_1", "A_1", "images", "T1Gd"),
        (from_pattern("{subject}/{session}/*_{sequence}.nii"), "A/2/x_fla.nii", "A", "A_2", "images", "FLAIR"),
        (from_pattern("{subject}/{sequence}.nii.gz"), "A/T1.nii", "A", "A", "images", "T1"),
        (from_pattern("{sequence}/{subject}.nii"), "PDW/A.nii", "A", "A", "images", "PD"),
        (from_pattern("{subject}/{sequence}.nii", {"roi": "lesion"}), "A/ROI.nii", "A", "A", "masks", "lesion"),
        (from_pattern("{subject}/{sequence}.nii", {"t2": "T2-TSE"}), "A/t2.nii", "A", "A", "images", "T2-TSE"),
    ],
)
def test_known_file_names(match, path, person, subject, field, name):
    found = match(path)
    assert (found.person, found.subject, found.field, found.name) == (person, subject, field, name)


@pytest.mark.parametrize(
    ("match", "path"),
    [
        (brats, "BraTS2021_00001_t1_brain.nii.gz"),
        (ixi, "IXI002-Guys-0828-DTI-01.nii.gz"),
        (bids, "sub-1/anat/sub-1_ce-ferumoxytol_T1w.nii.gz"),
        (bids, "sub-1/anat/sub-1_ce-gadolinium_FLAIR.nii.gz"),
        (bids, "sub-1/anat/sub-1_label-lesion_mask.nii.gz"),
        (bids, "sub-1/anat/sub-1_T2starw.nii.gz"),
        (from_pattern("{subject}/{sequence}.nii"), "A/t1.nii.gz"),
        (from_pattern("{subject}/{subject}_{sequence}.nii.gz"), "A/B_t1.nii.gz"),
        (from_pattern("{subject}/{sequence}.nii.gz"), "A/t1_mean.nii.gz"),
    ],
)
def test_unknown_file_names(match, path):
    assert match(path) is None


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("{subject}/{sequence}.nii.gz", ("A/t1.nii.gz", "A/brain_mask.nii.gz")),
        ("{subject}/{subject}_{sequence}.nii.gz", ("A/A_T1.nii.gz", "A/A_brain_mask.nii.gz")),
        ("{sequence}/{subject}.nii", ("T1w/A.nii", "mask/A.nii")),
    ],
)
def test_pattern(make, pattern, files):
    path = make_list(make(*files), pattern=pattern)
    assert subjects_of(path) == {"A": {"T1": files[0]}}
    assert subjects_of(path, "masks") == {"A": {"brain": files[1]}}


def test_names_and_sequences_choose_and_order(make):
    root = make("A/mprage.nii.gz", "A/dark.nii.gz", "A/t2.nii.gz", "B/t2.nii.gz", "C/seg.nii.gz")
    names = {"MPRAGE": "T1", "dark": "DIR"}
    path = make_list(root, names=names)
    assert json.loads(path.read_text())["sequences"] == ["T1", "T2", "DIR"]
    assert sorted(subjects_of(path)) == ["A", "B"], "a mask alone makes no subject"
    path = make_list(root, names=names, sequences="DIR,T1", overwrite=True)
    assert json.loads(path.read_text())["sequences"] == ["DIR", "T1"]
    assert subjects_of(path) == {"A": {"DIR": "A/dark.nii.gz", "T1": "A/mprage.nii.gz"}}
    with pytest.raises(ValueError, match=r"No file of FLAIR in .*: found T1"):
        make_list(root, names=names, sequences=("T1", "FLAIR"), overwrite=True)


def test_nothing_found_says_what_it_saw(make, tmp_path):
    root = make("A/scan.nii.gz", ".hidden/t1.nii.gz", "A/._t1.nii.gz")
    with pytest.raises(
        ValueError,
        match=r"fits pattern \{subject\}/\{sequence\}.nii.gz: it has 1 NIfTI files, such as "
        r"A/scan.nii.gz; pass --pattern",
    ):
        make_list(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"it has no \.nii or \.nii\.gz file"):
        make_list(tmp_path / "empty")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "bidz"}, "Unknown layout 'bidz'"),
        ({"pattern": "{subject}.nii.gz"}, "lacks {sequence}"),
        ({"layout": "ixi", "names": {"a": "T1"}}, "layout ixi has its own file names"),
        ({"validation": 0.5, "test": 0.5}, "leave some for training"),
        ({"drop": "some"}, "Unknown drop rule"),
    ],
)
def test_wrong_options(make, options, message):
    with pytest.raises(ValueError, match=message):
        make_list(make("A/t1.nii.gz"), **options)


def test_an_existing_list_is_kept_unless_overwrite(make):
    root = make("A/t1.nii.gz")
    make_list(root)
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        make_list(root)
    make_list(root, overwrite=True)
    with pytest.raises(FileNotFoundError, match="No folder"):
        make_list(root / "nowhere")


@pytest.mark.parametrize(
    ("people", "validation", "test", "sizes"),
    [
        (1, 0.1, 0.1, [1, 0, 0]),
        (2, 0.1, 0.1, [2, 0, 0]),
        (3, 0.1, 0.1, [1, 1, 1]),
        (3, 0.6, 0.1, [1, 1, 1]),
        (3, 0.1, 0.8, [1, 1, 1]),
        (5, 0, 0.2, [4, 0, 1]),
        (20, 0.1, 0.2, [14, 2, 4]),
        (2, 0, 1, [0, 0, 2]),
    ],
)
def test_split_sizes(make, people, validation, test, sizes):
    path = make_list(make(*(f"S{i:02}/t1.nii.gz" for i in range(people))), validation=validation, test=test)
    assert [len(names) for names in splits_of(path).values()] == sizes


def test_splits_depend_on_the_seed_and_on_nothing_else(make, monkeypatch):
    root = make(*(f"S{i:02}/t1.nii.gz" for i in range(20)))
    first, other = (splits_of(make_list(root, seed=seed, overwrite=True)) for seed in (0, 1))
    assert first != other
    walk = os.walk

    def backwards(*arguments, **options):
        for folder, folders, files in walk(*arguments, **options):
            folders.reverse()
            yield folder, folders, files[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    assert splits_of(make_list(root, overwrite=True)) == first


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_fixed_splits_by_subject_or_person(make, kind):
    root = make(
        "sub-1/ses-1/anat/sub-1_ses-1_T1w.nii.gz",
        "sub-1/ses-2/anat/sub-1_ses-2_T1w.nii.gz",
        "sub-2/anat/sub-2_T1w.nii.gz",
    )
    file = root / f"splits.{kind}"
    file.write_text(
        '{"training": ["sub-1"], "test": ["sub-2"]}'
        if kind == "json"
        else "split,subject\ntest,sub-2\ntraining,sub-1_ses-1\ntraining,sub-1_ses-2\n"
    )
    assert splits_of(make_list(root, splits=file)) == {
        "training": ["sub-1_ses-1", "sub-1_ses-2"],
        "validation": [],
        "test": ["sub-2"],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"training": ["A_1", "A_2"]}', "1 of 3 subjects found are not listed: B_1"),
        ('{"training": ["A_1", "B"], "test": ["A_2"]}', "visits of one person stand in different splits: A"),
        ('{"training": ["A", "B"], "test": ["B"]}', "'B' stands in training and in test"),
        ('{"train": ["A", "B"]}', "unknown split 'train' of 'A'"),
        ('{"test": "A"}', "'test' must be a list of names"),
        ("[]", "must hold a JSON object"),
        ("{", "not a readable JSON file"),
    ],
)
def test_wrong_fixed_splits(make, content, message):
    root = make("A/1/t1.nii.gz", "A/2/t1.nii.gz", "B/1/t1.nii.gz")
    (root / "splits.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        make_list(root, pattern="{subject}/{session}/{sequence}.nii.gz", splits=root / "splits.json")


def test_fixed_splits_that_name_absent_subjects_or_lack_columns(make):
    root = make("A/t1.nii.gz")
    (root / "splits.csv").write_text("subject,split\nA,training\nZ,test\n")
    with pytest.warns(UserWarning, match="1 listed names have no files: Z"):
        make_list(root, splits=root / "splits.csv")
    (root / "splits.csv").write_text("name,split\nA,training\n")
    with pytest.raises(ValueError, match="needs the columns subject,split, has name, split"):
        make_list(root, splits=root / "splits.csv", overwrite=True)
    with pytest.raises(FileNotFoundError, match="No splits file"):
        make_list(root, splits=root / "none.csv", overwrite=True)


def test_drop_is_applied_to_the_asked_splits_only(make, capsys):
    root = make(*(f"S{i}/{name}.nii.gz" for i in range(8) for name in ("t1", "t1ce", "t2", "flair")))
    subjects = read_subjects(make_list(root, drop="pairs", drop_splits="training,validation"))
    for split in ("training", "validation"):
        assert {tuple(entry["images"]) for entry in subjects[split]} <= set(PAIRS)
        assert all(len(entry["withheld"]) == 2 for entry in subjects[split])
    assert [len(entry["images"]) for entry in subjects["test"]] == [4]
    assert capsys.readouterr().out.splitlines() == [
        "training       6 subjects: T1 2, T1Gd 4, T2 4, FLAIR 2",
        "validation     1 subjects: T1 1, T1Gd 1, T2 0, FLAIR 0",
        "test           1 subjects: T1 1, T1Gd 1, T2 1, FLAIR 1",
    ]


def test_sequences_are_dropped_from_a_list_that_is_there(phantom_dir, tmp_path):
    """Splits, masks and references stay, which no file name tells."""
    path = make_list(phantom_dir, layout="listed", drop="pairs", subject_list=tmp_path / "pairs.json")
    before, after = read_subjects(phantom_dir), read_subjects(path)
    assert [tuple(entry["images"]) in PAIRS for entry in after["training"]] == [True, True]
    for old, new in zip(before["training"], after["training"], strict=True):
        assert new["images"] | new["withheld"] == old["images"]
        assert {field: new[field] for field in ("subject", "masks", "reference", "parameters")} == {
            field: old[field] for field in ("subject", "masks", "reference", "parameters")
        }
    assert all(after[split] == before[split] for split in ("validation", "test"))
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        make_list(phantom_dir, layout="listed", drop="pairs")


def test_command_line_makes_a_list_and_tells_errors_in_one_line(make, monkeypatch, capsys):
    root = make("t1ce/A.nii.gz", "t2/A.nii.gz", "dir/A.nii.gz")
    command = [
        "data",
        "list",
        str(root),
        "--pattern",
        "{sequence}/{subject}.nii.gz",
        "--sequences",
        "T1Gd,DIR",
        "--names",
        '{"dir": "DIR"}',
        "--subject_list",
        "new/list.json",
    ]
    monkeypatch.setattr(sys, "argv", command)
    main()
    assert capsys.readouterr().out.splitlines()[-1] == str(root / "new" / "list.json")
    assert list(read_subjects(root / "new" / "list.json")["training"][0]["images"]) == ["T1Gd", "DIR"]
    with pytest.raises(SystemExit) as exit_:
        main()
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and "--overwrite" in error

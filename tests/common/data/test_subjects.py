import copy
import json
import os
import shutil
from collections import Counter

import pytest

from common.data.subjects import (
    NO_DATASET_DIR,
    PAIRS,
    drop_sequences,
    read_subjects,
    subject_items,
    write_subjects,
)

SEQUENCES = ["T1", "T1Gd", "T2", "FLAIR"]


def entry(name, sequences=SEQUENCES, **more):
    return {"subject": name, "images": {key: f"{name}/{key}.nii.gz" for key in sequences}, **more}


def listing(**splits):
    return {"sequences": list(SEQUENCES), "training": [], "validation": [], "test": [], **splits}


def test_a_written_list_reads_back_with_absolute_paths(tmp_path):
    full = entry(
        "A",
        masks={"brain": "A/brain.nii.gz"},
        reference={"T1": "A/clean.nii.gz"},
        parameters={"T1": {"TR": 500, "TE": 10.5, "TI": 0}},
    )
    write_subjects(tmp_path / "subjects.json", listing(training=[full], test=[entry("B", ["T2"])]))
    subjects = read_subjects(tmp_path)
    assert subjects == read_subjects(tmp_path / "subjects.json")
    assert subjects["training"][0]["images"]["T2"] == str(tmp_path / "A" / "T2.nii.gz")
    assert subjects["training"][0]["masks"] == {"brain": str(tmp_path / "A" / "brain.nii.gz")}
    assert subjects["training"][0]["reference"] == {"T1": str(tmp_path / "A" / "clean.nii.gz")}
    assert subjects["training"][0]["parameters"] == {"T1": {"TR": 500, "TE": 10.5, "TI": 0}}
    assert subjects["test"][0]["images"] == {"T2": str(tmp_path / "B" / "T2.nii.gz")}
    assert os.listdir(tmp_path) == ["subjects.json"], "no temporary file stays"


def test_written_paths_are_relative_posix_and_survive_moving_the_folder(tmp_path):
    old, new, elsewhere = tmp_path / "old", tmp_path / "new", tmp_path / "elsewhere" / "T1.nii.gz"
    subject = {"subject": "A", "images": {"T1": str(old / "A" / "T1.nii.gz"), "T2": str(elsewhere)}}
    write_subjects(old / "subjects.json", listing(training=[subject]))
    written = json.loads((old / "subjects.json").read_text())["training"][0]["images"]
    assert written == {"T1": "A/T1.nii.gz", "T2": elsewhere.as_posix()}
    shutil.move(old, new)
    assert read_subjects(new)["training"][0]["images"]["T1"] == str(new / "A" / "T1.nii.gz")


def test_a_missing_split_is_an_empty_one(tmp_path):
    (tmp_path / "subjects.json").write_text(json.dumps({"sequences": ["T1"], "test": [entry("A", ["T1"])]}))
    assert read_subjects(tmp_path)["training"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(sequences=[]), "'sequences' must be a list of different names"),
        (lambda s: s.update(sequences=["T1", "T1"]), "'sequences' must be a list of different names"),
        (lambda s: s.update(train=[]), "unknown field 'train'; the splits are called training, validation, test"),
        (lambda s: s.update(name=3), "'name' must be a text, not 3"),
        (lambda s: s.update(test={}), "'test' must be a list of subjects, not dict"),
        (lambda s: s["training"].append("A"), r"training\[1\]: 'subject' must be a name without slashes, not None"),
        (lambda s: s["training"][0].update(subject="../A"), "'subject' must be a name without slashes, not '../A'"),
        (lambda s: s["training"][0].update(images={}), r"subject 'A' \(training\): 'images' is empty"),
        (lambda s: s["training"][0].update(images={"T1w": "f"}), "'images' has 'T1w', which is not in 'sequences'"),
        (lambda s: s["training"][0].update(images={"T1": 3}), "'images' of 'T1' must be a file path, not 3"),
        (lambda s: s["training"][0].update(masks=["f"]), "'masks' must map names to values"),
        (
            lambda s: s["training"][0].update(parameters={"T1": {"TR": "long"}}),
            "parameters of 'T1' must be numbers in ms",
        ),
        (lambda s: s["training"][0].update(parameters={"T1": {"TR": -1}}), "parameters of 'T1' must be numbers in ms"),
        (lambda s: s.update(acquisitions={"T9": [500, 10, 0]}), "'acquisitions' must map names of 'sequences'"),
        (lambda s: s.update(acquisitions={"T1": [500, 10]}), r"'acquisitions' of 'T1' must be \[TR, TE, TI\] in ms"),
        (lambda s: s.update(acquisitions={"T1": [500, "x", 0]}), "acquisitions of 'T1' must be numbers in ms"),
        (lambda s: s["test"].append(entry("A")), "subject 'A' stands twice, in training and in test"),
    ],
)
def test_a_malformed_list_says_where_and_what(tmp_path, change, message):
    subjects = listing(training=[entry("A")])
    change(subjects)
    with pytest.raises(ValueError, match=message):
        write_subjects(tmp_path / "new.json", subjects)
    (tmp_path / "subjects.json").write_text(json.dumps(subjects))
    with pytest.raises(ValueError, match=message) as error:
        read_subjects(tmp_path)
    assert str(tmp_path / "subjects.json") in str(error.value)
    assert not (tmp_path / "new.json").exists()


def test_a_list_that_is_no_json_or_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No subject list .*subjects\.json: make one with"):
        read_subjects(tmp_path)
    (tmp_path / "subjects.json").write_text('{"sequences": ')
    with pytest.raises(ValueError, match="not valid JSON"):
        read_subjects(tmp_path)
    (tmp_path / "subjects.json").write_text("[]")
    with pytest.raises(ValueError, match="a subject list is a JSON object"):
        read_subjects(tmp_path)


def test_items_are_restricted_to_the_wanted_sequences_in_their_order(tmp_path):
    full = entry(
        "A",
        masks={"brain": "b"},
        reference={"T1": "r1", "T2": "r2"},
        withheld={"FLAIR": "w"},
        parameters={"T1": {"TR": 500}, "FLAIR": {"TR": 9000}},
    )
    write_subjects(tmp_path / "subjects.json", listing(training=[full], test=[entry("B")]))
    here = str(tmp_path)
    assert subject_items(here, "training", ["T2", "PD", "T1"]) == [
        {
            "subject": "A",
            "images": {"T2": os.path.join(here, "A", "T2.nii.gz"), "T1": os.path.join(here, "A", "T1.nii.gz")},
            "masks": {"brain": os.path.join(here, "b")},
            "reference": {"T2": os.path.join(here, "r2"), "T1": os.path.join(here, "r1")},
            "withheld": {},
            "parameters": {"T1": {"TR": 500}},
        }
    ]
    assert list(subject_items(here, "training", ["T2", "T1"])[0]["images"]) == ["T2", "T1"]
    assert [item["subject"] for item in subject_items(here, "all", ["T1"])] == ["A", "B"]
    assert subject_items(here, "training", ["FLAIR"])[0]["withheld"] == {"FLAIR": os.path.join(here, "w")}


def test_items_of_another_list(tmp_path):
    other = write_subjects(tmp_path / "lists" / "pairs.json", listing(test=[entry("B")]))
    expected = str(tmp_path / "lists" / "B" / "T1.nii.gz")
    for folder, subject_list in ((tmp_path, "lists/pairs.json"), (tmp_path, str(other)), ("", other)):
        assert subject_items(folder, "test", ["T1"], subject_list)[0]["images"] == {"T1": expected}


@pytest.mark.parametrize("dataset_dir", ["", None])
def test_no_dataset_dir_says_what_to_pass(dataset_dir):
    with pytest.raises(ValueError) as error:
        subject_items(dataset_dir, "training", ["T1"])
    assert str(error.value) == NO_DATASET_DIR
    assert "--dataset_dir FOLDER" in NO_DATASET_DIR and "mri-contrast list" in NO_DATASET_DIR


def test_a_subject_with_none_of_the_sequences_is_left_out_aloud(tmp_path):
    write_subjects(tmp_path / "subjects.json", listing(training=[entry("A", ["T1"]), entry("B", ["T2"])]))
    with pytest.warns(UserWarning, match="1 of 2 subjects in 'training' do not have any of T2 and are left out: A"):
        items = subject_items(tmp_path, "training", ["T2"])
    assert [item["subject"] for item in items] == ["B"]
    with pytest.raises(ValueError, match="the split 'training' is empty, none of its subjects has any of PD"):
        subject_items(tmp_path, "training", ["PD"])
    with pytest.raises(ValueError, match=r"subjects\.json: the split 'test' is empty, it lists no subject"):
        subject_items(tmp_path, "test", ["T1"])
    with pytest.raises(ValueError, match="Unknown split 'val'"):
        subject_items(tmp_path, "val", ["T1"])


def test_a_subject_without_a_pair_is_left_out_where_only_pairs_train(tmp_path):
    write_subjects(tmp_path / "subjects.json", listing(training=[entry("A", ["T1"]), entry("B")]))
    with pytest.warns(UserWarning, match="1 of 2 subjects in 'training' do not have 2 of T1, .* are left out: A"):
        items = subject_items(tmp_path, "training", SEQUENCES, fewest=2)
    assert [item["subject"] for item in items] == ["B"]


def test_sequences_that_list_and_configuration_do_not_share_are_named(tmp_path, recwarn):
    write_subjects(tmp_path / "subjects.json", {**listing(training=[entry("A", ["T1", "T2"])]), "test": [entry("B")]})
    subject_items(tmp_path, "training", ["T2", "T1", "PD"])
    assert "leaves out T1Gd, FLAIR; no training subject has PD" in str(recwarn.pop().message)
    subject_items(tmp_path, "test", [*SEQUENCES, "PD"])
    assert not recwarn, "what is missing there is what inference makes"


def test_random_silence_leaves_at_least_one_and_loses_nothing():
    subjects = listing(training=[entry(f"S{i:03}") for i in range(300)], test=[entry("T")])
    before = copy.deepcopy(subjects)
    dropped = drop_sequences(subjects, rule="random", seed=1)
    assert subjects == before, "the input is not changed"
    assert dropped["test"] == before["test"]
    for old, new in zip(before["training"], dropped["training"], strict=True):
        assert {**new["images"], **new["withheld"]} == old["images"]
        assert list(new["images"]) == [name for name in SEQUENCES if name in new["images"]]
    silenced = Counter(len(item["withheld"]) for item in dropped["training"])
    assert set(silenced) == {1, 2, 3} and min(silenced.values()) > 70
    kept = Counter(name for item in dropped["training"] for name in item["images"])
    assert set(kept) == set(SEQUENCES) and min(kept.values()) > 110


def test_random_silence_is_seeded_per_subject():
    few, more = (listing(training=[entry(f"S{i}") for i in numbers]) for numbers in (range(5), range(-5, 5)))
    first = drop_sequences(few, rule="random", seed=7)["training"]
    assert first == drop_sequences(more, rule="random", seed=7)["training"][5:]
    assert first != drop_sequences(few, rule="random", seed=8)["training"]


def test_random_silence_keeps_an_only_sequence():
    dropped = drop_sequences(listing(training=[entry("A", ["T2"])]), rule="random")
    assert dropped["training"] == [entry("A", ["T2"])]


def test_pairs_are_spread_evenly_and_seeded():
    subjects = listing(training=[entry(f"S{i}") for i in range(31)], validation=[entry("V")], test=[entry("T")])
    dropped = drop_sequences(subjects, rule="pairs", seed=3)
    pairs = Counter(tuple(item["images"]) for item in dropped["training"])
    assert set(pairs) == set(PAIRS) and sorted(pairs.values()) == [10, 10, 11]
    assert (dropped["validation"], dropped["test"]) == (subjects["validation"], subjects["test"])
    assert dropped == drop_sequences(subjects, rule="pairs", seed=3) != drop_sequences(subjects, rule="pairs", seed=4)


def test_own_pairs_on_own_splits_and_incomplete_subjects():
    subjects = listing(training=[entry("A")], validation=[entry("B", ["T1", "FLAIR", "T2"])])
    dropped = drop_sequences(subjects, rule="pairs", pairs=[["T1Gd", "T2"], ["T1", "FLAIR"]], splits=["validation"])
    assert dropped["training"] == subjects["training"]
    assert dropped["validation"] == [
        {"subject": "B", "images": {"T1": "B/T1.nii.gz", "FLAIR": "B/FLAIR.nii.gz"}, "withheld": {"T2": "B/T2.nii.gz"}}
    ]
    with pytest.raises(ValueError, match="Subject 'B' has T1, FLAIR, T2, which holds none of the pairings T1Gd-T2"):
        drop_sequences(subjects, rule="pairs", pairs=[["T1Gd", "T2"]], splits=["validation"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "most"}, "Unknown drop rule 'most'"),
        ({"rule": "random", "splits": ["train"]}, "Unknown split 'train'"),
    ],
)
def test_unknown_drop_options(options, message):
    with pytest.raises(ValueError, match=message):
        drop_sequences(listing(), **options)


def test_acquisitions_of_the_list_hold_where_a_subject_says_nothing(tmp_path):
    own = {"TR": 600, "TE": 12, "TI": 0}
    subjects = listing(training=[entry("A"), entry("B", parameters={"T1": own})])
    write_subjects(
        tmp_path / "subjects.json", {**subjects, "acquisitions": {"T1": [500, 10, 0], "T2": [200, 4, 0, 70]}}
    )
    first, second = subject_items(tmp_path, "training", ["T1", "T2"])
    echo = {"TR": 200, "TE": 4, "TI": 0, "FA": 70}
    assert first["parameters"] == {"T1": {"TR": 500, "TE": 10, "TI": 0}, "T2": echo}
    assert second["parameters"] == {"T1": own, "T2": echo}

import json

import pytest

from common.downstream.labels import Labelled, people_seen, person, read_labels, unseen_by


@pytest.fixture
def folder(tmp_path):
    def entries(names, **labels):
        return [{"subject": n, "images": {"T1": f"{n}.nii.gz"}, "labels": {"MGMT": k % 2, **labels}} for k, n in enumerate(names)]  # fmt: skip # noqa: E501

    listed = {"sequences": ["T1"], "training": entries(["sub-1_ses-1", "sub-1_ses-2"]), "validation": entries(["c"]),
              "test": entries(["d", "e", "BraTS-GLI-00001-000", "BraTS-GLI-00001-001"])}  # fmt: skip
    (tmp_path / "subjects.json").write_text(json.dumps(listed))
    return tmp_path


def test_labels_of_the_list(folder):
    found = read_labels(str(folder), "", "test", "MGMT")
    assert found[:2] == [Labelled("d", "d", 0), Labelled("e", "e", 1)]
    assert {each.person for each in found[2:]} == {"BraTS-GLI-00001"}
    assert len(read_labels(str(folder), "", "all", "MGMT")) == 7


def test_labels_of_a_table(folder, tmp_path, caplog):
    table = tmp_path / "table.csv"
    table.write_text("subject,person,state\nd,Ann,methylated\ne,Ben,no\nc,,\n")
    found = read_labels(str(folder), "", "all", "state", str(table), positive="methylated")
    assert found == [Labelled("d", "Ann", 1), Labelled("e", "Ben", 0)]
    assert "5 of 7 subjects have no state" in caplog.text
    with pytest.raises(ValueError, match="'state' is methylated, no; it must have two values"):
        read_labels(str(folder), "", "all", "state", str(table))
    with pytest.raises(ValueError, match="has no column MGMT; it has subject, person, state"):
        read_labels(str(folder), "", "all", "MGMT", str(table))
    with pytest.raises(FileNotFoundError, match="No table"):
        read_labels(str(folder), "", "all", "MGMT", str(tmp_path / "none.csv"))


def test_a_label_that_nobody_has(folder):
    with pytest.raises(ValueError, match="no subject of the split 'test' has the label 'IDH'"):
        read_labels(str(folder), "", "test", "IDH")


def test_a_coin_is_tossed_for_each_person(folder):
    tossed = [read_labels(str(folder), "", "all", "coin", seed=seed) for seed in range(40)]
    by_person = [{(each.person, each.label) for each in found} for found in tossed]
    assert all(len(pairs) == len({person for person, _ in pairs}) for pairs in by_person)
    share = sum(each.label for found in tossed for each in found) / sum(map(len, tossed))
    assert 0.35 < share < 0.65 and tossed[0] == read_labels(str(folder), "", "all", "coin", seed=0)


def test_whose_a_subject_is():
    assert person({"subject": "sub-01_ses-2"}) == "sub-01"
    assert person({"subject": "x", "person": "Ann"}) == "Ann"


def test_maps_of_people_whom_the_network_saw_are_refused(folder):
    seen = people_seen(str(folder))
    assert {"sub-1", "c"} <= seen
    unknown = read_labels(str(folder), "", "test", "MGMT")
    assert unseen_by(unknown, [seen]) == [0, 0, 0, 0]
    everybody = read_labels(str(folder), "", "all", "MGMT")
    with pytest.raises(
        ValueError, match=r"3 of 7 subjects are of people whom the maps' network was trained on \(sub-1_"
    ):
        unseen_by(everybody, [seen])
    assert unseen_by(everybody, [seen, {"d"}]) == [1, 1, 1, 0, 0, 0, 0]  # cross-fitted


def test_a_table_s_own_names_of_people_hide_nobody():
    """The network's list knows subjects and what their names say; the table calls their people P0 and P1."""
    seen = {"s0", "sub-01", "sub-01_ses-1"}
    labelled = [Labelled("s0", "P0", 1), Labelled("s9", "P0", 0), Labelled("sub-01_ses-2", "P1", 1)]
    with pytest.raises(ValueError, match="3 of 3 subjects are of people whom the maps' network was trained on"):
        unseen_by(labelled, [seen])
    assert unseen_by([*labelled, Labelled("s5", "P2", 0)], [seen, set()]) == [1, 1, 1, 0]

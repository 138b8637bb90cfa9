"""DICOM: what scanners and archives leave is sorted, converted to the same image, or answered with what is wrong."""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.preparing.series import Series, choose, times_of
from common.preparing.sources import find_sessions

pydicom = pytest.importorskip("pydicom", reason="requirements-prepare.txt is not installed")
pytest.importorskip("dcm2niix", reason="requirements-prepare.txt is not installed")
Write = Callable[..., list[Path]]


def read(root: Path, room: Path) -> list[Series]:
    [session] = find_sessions(root, room / "unpacked")
    return session.series(room / "series")


def the_one(root: Path, room: Path) -> Series:
    [series] = read(root, room)
    return series


def same(file: Path, image: nib.Nifti1Image) -> bool:
    """Whether a file shows an image at the same places, whichever way its axes run."""
    found, wanted = nib.as_closest_canonical(nib.load(file)), nib.as_closest_canonical(image)
    return np.allclose(found.affine, wanted.affine, atol=1e-3) and np.array_equal(found.dataobj, wanted.dataobj)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_session_of_several_series(zipped: bool, head: Callable, write_series: Write, tmp_path: Path):
    images = {name: head(name, spacing)[0] for name, spacing in (("T1", (3, 3, 4)), ("FLAIR", (4, 4, 5)))}
    root = tmp_path / "session"
    write_series(root, images["T1"], 2)
    write_series(root / "deep" / "er", images["FLAIR"], 3, "FLAIR")
    write_series(root / "adc", images["T1"], 4, SeriesDescription="ep2d_ADC", ImageType=["DERIVED", "PRIMARY", "ADC"])
    turned = [[1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]]
    write_series(root / "loc", images["T1"].slicer[:, :, :3], 1, ImageOrientationPatient=lambda k: turned[k])
    write_series(root / "twice", images["T1"], 2)  # the same instances once more
    (root / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (root / "report.txt").write_text("no image")
    if zipped:
        with zipfile.ZipFile(tmp_path / "session.zip", "w") as archive:
            for path in root.rglob("*"):
                archive.write(path, path.relative_to(root))
        root = tmp_path / "session.zip"
    series = read(root, tmp_path)
    chosen = choose(series)
    assert {name: each.name for name, each in chosen.items()} == {"T1": "series2", "FLAIR": "series3"}
    assert all(same(each.file, images[name]) for name, each in chosen.items())
    assert chosen["FLAIR"].said["InversionTime"] == 2.5
    left = {each.name: each.reason for each in series if not each.sequence}
    assert left.keys() == {"series1", "series4"} and "3 directions" in left["series1"] and "a map" in left["series4"]
    assert not any("Doe" in str(each.said) + str(each.source) for each in series)


def test_an_mprage_is_known_by_its_headers(head: Callable, write_series: Write, tmp_path: Path, caplog):
    echo = {"ScanningSequence": ["GR", "IR"], "SequenceVariant": ["SP", "MP"], "FlipAngle": "9"}
    times = {"RepetitionTime": "2300", "EchoTime": "2.98", "InversionTime": "900"}
    write_series(tmp_path / "s", head()[0], 2, **echo, **times)
    (series,) = read(tmp_path / "s", tmp_path)
    assert times_of(series.said, "T1") == {"TR": 2300, "TE": 2.98, "TI": 900, "FA": 9} and not caplog.messages
    assert times_of({**series.said, "RepetitionTime": 0.007}, "T1, series2") == {}
    assert (
        "will not say TR, TE and TI of T1, series2" in caplog.text and "from one inversion to the next" in caplog.text
    )


def test_no_single_volume(head: Callable, write_series: Write, tmp_path: Path):
    image = head()[0]
    last, place = image.shape[2], np.diag([-1, -1, 1, 1]) @ image.affine
    write_series(tmp_path / "a" / "gap", image, 1)[last // 2].unlink()
    write_series(tmp_path / "a" / "slice", image.slicer[:, :, :1], 2)
    shifted = lambda k: list(place[:3, :3] @ [0, 2.0 * k, k] + place[:3, 3])  # noqa: E731
    write_series(tmp_path / "a" / "tilt", image, 3, ImagePositionPatient=shifted)
    write_series(tmp_path / "a" / "sizes", image, 4)
    smaller = image.slicer[:-8, :-8, :2]
    write_series(tmp_path / "a" / "smaller", smaller, 5, SeriesInstanceUID="1.2.826.0.1.3680043.8.498.1.4")
    write_series(tmp_path / "a" / "mosaic", image, 6, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    write_series(tmp_path / "a" / "nowhere", image, 7, ImagePositionPatient=None)
    series = read(tmp_path / "a", tmp_path)
    reasons = {each.name: each.refused for each in series}
    assert [reasons[f"series{k}"].split(":")[0] for k in (1, 2, 3, 4, 6)] == [
        "slices are missing",
        "one slice, no volume",
        "a gantry tilt of 56.3 degree",
        "slices of different size",
        "a mosaic, whose slices lie in one picture",
    ]
    assert "8 mm between" in reasons["series1"] and "slices without a place" in reasons["series7"]
    assert not choose(series)
    with pytest.raises(ValueError, match="--map T1=series1: slices are missing"):
        choose(series, {"T1": "series1"})


def test_mixed_patients_and_studies(head: Callable, write_series: Write, tmp_path: Path):
    image = head()[0]
    root = tmp_path / "export"
    write_series(root / "DICOM" / "a", image, 1)
    write_series(root / "DICOM" / "b", image, 2, PatientID="P2", PatientName="Roe^Max")
    with pytest.raises(ValueError, match=r"2 patients, P1 \(Doe\^Jane\) and P2 \(Roe\^Max\): give each a folder"):
        find_sessions(root, tmp_path)
    (root / "DICOM" / "a").rename(root / "a")
    (root / "DICOM" / "b").rename(root / "b")
    assert [session.subject for session in find_sessions(root, tmp_path)] == ["a", "b"]
    other = {"PatientID": "P2", "PatientName": "Roe^Max", "StudyInstanceUID": "1.2.3", "StudyDate": "20210101"}
    write_series(root / "b" / "later", image, 3, **other)
    with pytest.raises(ValueError, match=r"2 studies, .*of 20200101 and 1\.2\.3 of 20210101"):
        find_sessions(root, tmp_path)


def test_encrypted_and_damaged(head: Callable, write_series: Write, tmp_path: Path):
    file = tmp_path / "a" / "envelope.dcm"
    file.parent.mkdir()
    file.write_bytes(bytes.fromhex("3080 06092a864886f70d010703 a080".replace(" ", "")) + b"x" * 500)
    with pytest.raises(ValueError, match=r"envelope\.dcm is encrypted as a whole"):
        find_sessions(file.parent, tmp_path)
    archive = tmp_path / "session.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("IM1", b"x")
    data = bytearray(archive.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    archive.write_bytes(data)
    with pytest.raises(ValueError, match=r"session\.zip is encrypted with a password"):
        find_sessions(archive, tmp_path / "room")
    archive.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match=r"session\.zip is a damaged zip"):
        find_sessions(archive, tmp_path / "room")
    with pytest.raises(FileNotFoundError, match="No folder or zip"):
        find_sessions(tmp_path / "none", tmp_path)


def test_compressed(head: Callable, write_series: Write, tmp_path: Path):
    """Run-length encoding is read; what dcm2niix cannot read is named."""
    image = head()[0]
    for path in write_series(tmp_path / "a", image, 1):
        each = pydicom.dcmread(path)
        each.compress(pydicom.uid.RLELossless)
        each.save_as(path)
    assert same(the_one(tmp_path / "a", tmp_path).file, image)
    for path in (tmp_path / "a").iterdir():
        each = pydicom.dcmread(path)
        each.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
        each.save_as(path)
    assert "compressed as MPEG2" in the_one(tmp_path / "a", tmp_path / "again").refused


def test_enhanced_multi_frame(head: Callable, write_series: Write, tmp_path: Path):
    image = head()[0]
    slices = [pydicom.dcmread(path) for path in write_series(tmp_path / "classic", image, 1)]
    (tmp_path / "a").mkdir()
    enhanced(slices).save_as(tmp_path / "a" / "IM1", enforce_file_format=True)
    series = the_one(tmp_path / "a", tmp_path)
    assert not series.refused and same(series.file, image) and choose([series]) == {"T1": series}


def enhanced(slices: list) -> pydicom.Dataset:
    """One multi-frame image of classic ones."""
    whole = copy.deepcopy(slices[0])
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "EchoTime"):
        delattr(whole, name)
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedMRImageStorage
    whole.NumberOfFrames = len(slices)
    whole.PixelData = b"".join(each.PixelData for each in slices)
    shared, frames = pydicom.Dataset(), []
    measures, orientation, echo = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = slices[0].PixelSpacing, slices[0].SliceThickness
    measures.SpacingBetweenSlices = slices[0].SliceThickness
    orientation.ImageOrientationPatient = slices[0].ImageOrientationPatient
    echo.EffectiveEchoTime = float(slices[0].EchoTime)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    shared.MREchoSequence = [echo]
    for k, each in enumerate(slices):
        frame, position, content = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        position.ImagePositionPatient = each.ImagePositionPatient
        content.DimensionIndexValues, content.InStackPositionNumber, content.StackID = [k + 1], k + 1, "1"
        frame.PlanePositionSequence, frame.FrameContentSequence = [position], [content]
        frames.append(frame)
    whole.SharedFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence = [shared], frames
    return whole

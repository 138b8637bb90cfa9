"""The module for 3D Slicer, without Slicer: its talk with a server is real, its windows are stand-ins."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import nibabel as nib
import numpy as np
import pytest

from .serving import PYTHON, ROOT, Server

FOLDER = ROOT / "label_app" / "slicer"
FILES = sorted(FOLDER.rglob("*.py"))
OTHERS = {"MRIContrastLib", "MONAILabelLib", "monailabel", "qt", "slicer"}


@pytest.fixture(scope="module")
def library() -> Iterator[ModuleType]:
    """MRIContrastLib with the client's file as MONAI Label ships it, under the name that it has in Slicer."""
    if not PYTHON.exists():
        pytest.skip("there is no .venv-label, MONAI Label's environment; `./ci/label --install` makes it")
    where = "import importlib.util as u; print(u.find_spec('monailabel').submodule_search_locations[0])"
    found = subprocess.run([PYTHON, "-c", where], capture_output=True, text=True, check=True)
    spec = importlib.util.spec_from_file_location("MONAILabelLib", Path(found.stdout.strip(), "client", "client.py"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "MONAILabelLib", client := importlib.util.module_from_spec(spec))
        spec.loader.exec_module(client)
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("MRIContrastLib")
        sys.modules.pop("MRIContrastLib")


def test_needs_only_what_slicer_has():
    """Slicer 5.8 has Python 3.9, and neither torch nor nibabel; of its own modules, the library needs none."""
    for file in FILES:
        tree = ast.parse(file.read_text(), feature_version=(3, 9))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        names = {name.split(".")[0] for name in names}
        assert names - sys.stdlib_module_names <= OTHERS
        assert not (file.parent.name == "MRIContrastLib" and names & {"qt", "slicer"})


def test_asks_a_server_through_monai_label_s_client(library: ModuleType, server: Server, tmp_path: Path):
    asked = library.LabelServer(f"http://127.0.0.1:{server.port}/", str(tmp_path))
    assert asked.bundles()["mri_seq2seq"] == ["missing", "T1", "T1Gd", "T2", "FLAIR"]
    assert len(asked.images()) == 15 and "phantom_003_T1" in asked.images()
    file, made_of = asked.synthesise("mri_seq2seq", "phantom_003_T1", "FLAIR")
    assert made_of["target"] == "FLAIR" and Path(file).parent == tmp_path and file.endswith(".nii.gz")
    like = nib.load(server.entry("phantom_003")["images"]["T1"])
    assert np.array_equal(nib.load(file).affine, like.affine) and nib.load(file).get_fdata().std() > 0
    file, made_of = asked.synthesise("mri_seq2seq", "phantom_003_T1", "FLAIR", source="T1")
    assert list(made_of["sources"]) == ["T1"]


def test_errors_are_the_server_s_words(library: ModuleType, server: Server):
    asked = library.LabelServer(f"http://127.0.0.1:{server.port}")
    with pytest.raises(
        library.ServerError, match=r'^phantom_003 lacks nothing: say which image is wanted with "target"'
    ):
        asked.synthesise("mri_seq2seq", "phantom_003_T1", "missing")
    with pytest.raises(library.ServerError, match=r"^There is no image 'nobody_T1' in the studies"):
        asked.synthesise("mri_seq2seq", "nobody_T1", "T2")
    with pytest.raises(
        library.ServerError, match=r"No label server answers at http://127.0.0.1:9 .*\./ci/label STUDIES"
    ):
        library.LabelServer("http://127.0.0.1:9").bundles()


class Box:
    """A combo box: its first item is chosen, and whoever listens is told."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self.currentText, self.heard = "", lambda text: None
        self.currentTextChanged = SimpleNamespace(connect=lambda heard: setattr(self, "heard", heard))

    def clear(self) -> None:
        self.items = []

    def addItems(self, items: list[str]) -> None:
        self.items += items
        self.choose(items[0])

    def choose(self, text: str) -> None:
        self.currentText = text
        self.heard(text)


@pytest.fixture
def panel(library: ModuleType, server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module's panel between stand-ins of Slicer's parts, connected."""
    slicer, qt, base = MagicMock(), MagicMock(QComboBox=Box), ModuleType("slicer.ScriptedLoadableModule")
    qt.QLineEdit.return_value.text = f"http://127.0.0.1:{server.port}"
    base.ScriptedLoadableModule = type("Module", (), {"__init__": lambda self, parent: None})
    base.ScriptedLoadableModuleWidget = type("Widget", (), {"setup": lambda self: None, "layout": MagicMock()})
    for name, module in (("slicer", slicer), ("qt", qt), ("slicer.ScriptedLoadableModule", base)):
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("MRIContrast", FOLDER / "MRIContrast.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    about = MagicMock()
    module.MRIContrast(about)
    assert about.title == "MRI Contrast"
    widget = module.MRIContrastWidget()
    widget.setup()
    assert not widget.makeButton.enabled
    widget.onConnect()
    return SimpleNamespace(widget=widget, slicer=slicer, qt=qt)


def test_the_image_appears_as_a_volume(panel: Any):
    panel.widget.image.choose("phantom_003_T1")
    panel.widget.target.choose("FLAIR")
    assert panel.widget.target.items[0] == "missing" and panel.widget.makeButton.enabled
    panel.widget.onMake()
    (file, properties), _ = panel.slicer.util.loadVolume.call_args
    assert Path(file).is_file() and properties == {"name": "phantom_003 FLAIR (mri_seq2seq)"}
    panel.slicer.util.errorDisplay.assert_not_called()
    waited, restored = (getattr(panel.qt.QApplication, f"{each}OverrideCursor") for each in ("set", "restore"))
    assert waited.call_count == restored.call_count == 2, "once to connect, once to make"


def test_errors_stand_in_a_message_box(panel: Any):
    panel.widget.image.choose("phantom_003_T1")
    panel.widget.onMake()
    (text,), _ = panel.slicer.util.errorDisplay.call_args
    assert "lacks nothing: say which image is wanted" in text
    panel.slicer.util.loadVolume.assert_not_called()
    assert panel.qt.QApplication.restoreOverrideCursor.call_count == 2

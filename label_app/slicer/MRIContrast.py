"""A module of 3D Slicer: choose a scan, a bundle and a target, and the image that is made appears as a volume.

How to load it: docs/label.md.
"""

import qt
import slicer
from MRIContrastLib import LabelServer, ServerError
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleWidget

HELP = """Start a server with <tt>./ci/label STUDIES</tt>, press <b>Connect</b>, choose, and press <b>Make image</b>.
For research only. Not for clinical use."""


class MRIContrast(ScriptedLoadableModule):
    """What Slicer's list of modules shows."""

    def __init__(self, parent):
        super().__init__(parent)
        parent.title = "MRI Contrast"
        parent.categories = ["Active Learning"]
        parent.dependencies = []
        parent.contributors = ["MRI contrast synthesis"]
        parent.helpText = HELP


class MRIContrastWidget(ScriptedLoadableModuleWidget):
    """The module's panel."""

    def setup(self):
        super().setup()
        self.server, self.targets = None, {}
        self.address = qt.QLineEdit("http://127.0.0.1:8000")
        self.connectButton = qt.QPushButton("Connect")
        self.image, self.bundle, self.target = qt.QComboBox(), qt.QComboBox(), qt.QComboBox()
        self.makeButton = qt.QPushButton("Make image")
        self.makeButton.enabled = False
        form = qt.QFormLayout()
        form.addRow("Server:", self.address)
        form.addRow(self.connectButton)
        for name, box in (("Scan:", self.image), ("Bundle:", self.bundle), ("Target:", self.target)):
            form.addRow(name, box)
        form.addRow(self.makeButton)
        self.layout.addLayout(form)
        self.layout.addStretch(1)
        self.connectButton.clicked.connect(self.onConnect)
        self.bundle.currentTextChanged.connect(self.onBundle)
        self.makeButton.clicked.connect(self.onMake)

    def onConnect(self, *_):
        """Lists what the server has."""
        self._waiting("Asking the server ...", self._connect)

    def onBundle(self, name):
        """Lists what this bundle makes."""
        self.target.clear()
        self.target.addItems(self.targets.get(name, []))

    def onMake(self, *_):
        """Makes the image, and shows it."""
        self._waiting("Making the image ...", self._make)

    def _connect(self):
        self.makeButton.enabled = False
        self.server = LabelServer(self.address.text)
        self.targets, images = self.server.bundles(), self.server.images()
        for box, names in ((self.image, images), (self.bundle, list(self.targets))):
            box.clear()
            box.addItems(names)
        self.makeButton.enabled = bool(images and self.targets)

    def _make(self):
        image, bundle, target = (box.currentText for box in (self.image, self.bundle, self.target))
        file, made_of = self.server.synthesise(bundle, image, target)
        name = f"{made_of['subject']} {made_of['target']} ({bundle})"
        slicer.util.setSliceViewerLayers(background=slicer.util.loadVolume(file, {"name": name}))

    def _waiting(self, message, action):
        slicer.util.showStatusMessage(message)
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        slicer.app.processEvents()
        failure = None
        try:
            action()
        except ServerError as error:
            failure = str(error)
        finally:
            qt.QApplication.restoreOverrideCursor()
            slicer.util.showStatusMessage("")
        if failure:  # the message box waits, and its cursor should not
            slicer.util.errorDisplay(failure, windowTitle="MRI Contrast")

"""The panel: wires the .ui to the parameter node and to the logic, and says what goes on.  Nothing is computed here."""

import logging
import time

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from . import environment, review
from .logic import OUTPUTS, InputError
from .parameters import SynthMorphParameterNode
from .setup_section import SetupSection

POLL_MILLISECONDS = 50
FOLLOW_MILLISECONDS = 150  # between two lambdas sent to the worker while the slider moves
STAGES = {"loading model": _("Loading the model"), "preparing images": _("Preparing the images"),
          "affine transform": _("Affine transform"), "deformable transform": _("Deformable transform"),
          "refinement": _("Refinement"), "writing transforms": _("Writing transforms"),
          "writing results": _("Writing results"), "Jacobian": _("Jacobian map"),
          "carrying labels": _("Carrying labels along"), "trying again on the CPU": _("Trying again on the CPU"),
          "downloading": _("Downloading"), "done": _("Done")}


class Panel(slicer.util.VTKObservationMixin):
    """What the module's widget shows and does."""

    def __init__(self, uiWidget, logic, getParameterNode, isEntered):
        """
        :param getParameterNode: function returning the MRML parameter node.
        :param isEntered: function returning True while the module is the current one.
        """
        super().__init__()
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        self.logic = logic
        self.review = review.Review()
        self.parameters = None
        self._getParameterNode, self._isEntered = getParameterNode, isEntered
        self._guiTag = None
        self._started = 0.0
        self._stage = ""
        self._followed = None  # lambda of the shown result
        self._updating = False
        self._pollTimer, self._followTimer = qt.QTimer(), qt.QTimer()
        self._pollTimer.interval = POLL_MILLISECONDS
        self._followTimer.interval = FOLLOW_MILLISECONDS
        self._followTimer.singleShot = True
        self._probe = environment.DeviceProbe()
        self._shownDevices = None
        self.setupSection = SetupSection(self.ui, logic, self)
        self._connect()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self._onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self._onSceneEndImport)
        self.setParameterNode(self._getParameterNode())

    # Life cycle

    def enter(self):
        self._probe.start()
        self._pollTimer.start()
        self.setParameterNode(self._getParameterNode())
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None and not self.hasObserver(
                crosshair, slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent, self._onMouseMoved):
            self.addObserver(crosshair, slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent, self._onMouseMoved)
        self.setupSection.refresh()

    def exit(self):
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None:
            self.removeObserver(crosshair, slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent, self._onMouseMoved)
        self.review.restore()
        self.setParameterNode(None)
        if not self.logic.isBusy():
            self._pollTimer.stop()

    def cleanup(self):
        self._pollTimer.stop()
        self._followTimer.stop()
        self.setParameterNode(None)
        self.removeObservers()
        self.logic.close()

    def setParameterNode(self, node):
        """Bind the widgets to a parameter node, or to none."""
        if self.parameters is not None:
            self.parameters.disconnectGui(self._guiTag)
            self.removeObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersChanged)
            self.parameters = None
        if node is not None:
            self.parameters = SynthMorphParameterNode(node)
            self._followed = self.parameters.regularization if self._followed is None else self._followed
            self._guiTag = self.parameters.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onParametersChanged)
            self._showCarried()
        self._onParametersChanged()

    def _onSceneStartClose(self, caller, event):
        self.setParameterNode(None)
        self.review.forget()
        self.logic.close()
        self.showStatus("")

    def _onSceneEndClose(self, caller, event):
        if self._isEntered():
            self.setParameterNode(self._getParameterNode())

    def _onSceneEndImport(self, caller, event):
        # later, because the node selectors only now begin to list what was imported
        qt.QTimer.singleShot(0, lambda: self._onSceneEndClose(caller, event))

    def _connect(self):
        ui = self.ui
        self._pollTimer.connect("timeout()", self._onPoll)
        self._followTimer.connect("timeout()", self._onFollow)
        ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        ui.deviceComboBox.connect("currentIndexChanged(int)", self._onDeviceChosen)
        for selector in (ui.carriedLabelsSelector, ui.carriedPointsSelector):
            selector.connect("checkedNodesChanged()", self._onCarriedChecked)
        ui.detailsButton.connect("toggled(bool)", ui.detailsTextEdit.setVisible)
        ui.opacitySlider.connect("valueChanged(double)", self.review.setOpacity)
        ui.beforeButton.connect("clicked(bool)", self.onBefore)
        ui.overlayButton.connect("clicked(bool)", self.onOverlay)
        ui.swapButton.connect("clicked(bool)", self.onSwap)
        ui.checkerboardButton.connect("clicked(bool)", self.onCheckerboard)
        ui.jacobianButton.connect("clicked(bool)", self.onJacobian)
        ui.gridButton.connect("clicked(bool)", self.onGrid)
        ui.magnitudeButton.connect("clicked(bool)", self.onMagnitude)
        ui.measuresButton.connect("clicked(bool)", self.onMeasures)

    # Parameters that have no ready-made connection

    def _onCarriedChecked(self):
        if self.parameters is not None and not self._updating and not slicer.mrmlScene.IsBatchProcessing():
            self.parameters.carriedLabels = list(self.ui.carriedLabelsSelector.checkedNodes())
            self.parameters.carriedPoints = list(self.ui.carriedPointsSelector.checkedNodes())

    def _showCarried(self):
        self._updating = True
        for selector, nodes in ((self.ui.carriedLabelsSelector, self.parameters.carriedLabels),
                                (self.ui.carriedPointsSelector, self.parameters.carriedPoints)):
            wanted = {node.GetID() for node in nodes if node is not None}
            for node in list(selector.checkedNodes()):
                if node.GetID() not in wanted:
                    selector.setCheckState(node, qt.Qt.Unchecked)
            for node in nodes:
                if node is not None:
                    selector.setCheckState(node, qt.Qt.Checked)
        self._updating = False

    def _onDeviceChosen(self, index):
        if self.parameters is not None and not self._updating and index >= 0:
            self.parameters.device = self.ui.deviceComboBox.itemData(index)

    def _showDevices(self):
        """List the devices once they are known; a chosen one that is not there stays in the list."""
        devices = self._probe.devices()
        chosen = self.parameters.device if self.parameters is not None else "auto"
        if self._shownDevices == (devices, chosen):
            return
        self._shownDevices = (devices, chosen)
        entries = {"auto": _("Automatic"), **{d["id"]: environment.deviceLabel(d) for d in devices or ()},
                   "cpu": _("CPU")}
        entries.setdefault(chosen, _("{device} (not found)").format(device=chosen))
        self._updating = True
        self.ui.deviceComboBox.clear()
        for identifier, label in entries.items():
            self.ui.deviceComboBox.addItem(label, identifier)
        self.ui.deviceComboBox.currentIndex = list(entries).index(chosen)
        self._updating = False

    # State

    def wanted(self):
        """Outputs that are asked for: name -> node, or True for a new one."""
        if self.parameters is None:
            return {}
        nodes = {name: (getattr(self.parameters, f"make{name.capitalize()}"),
                        getattr(self.parameters, f"output{name.capitalize()}")) for name in OUTPUTS}
        return {name: node or True for name, (make, node) in nodes.items() if make}

    def problem(self):
        """Why Register is not possible now, as one sentence, or an empty string."""
        if self.parameters is None:
            return _("No scene is open.")
        if not environment.isReady():
            return _("PyTorch is missing: install it in the Setup section.")
        parameters = self.parameters
        wanted = {name: ("" if node is True else node.GetID()) for name, node in self.wanted().items()}
        return self.logic.problem(parameters.fixedVolume, parameters.movingVolume, wanted, parameters.initialTransform,
                                  self._carried("carriedLabels"), self._carried("carriedPoints"))

    def _carried(self, name):
        return [node for node in getattr(self.parameters, name) if node is not None]

    def _onParametersChanged(self, caller=None, event=None):
        self._updateButtons()
        if self.parameters is None:
            return
        self._showDevices()
        follows = self.logic.canChangeRegularization() and self.parameters.regularization != self._followed
        if follows and not self._followTimer.active:
            self._followTimer.start()

    def _updateButtons(self):
        ui, parameters = self.ui, self.parameters
        busy = self.logic.isBusy()
        problem = "" if busy else self.problem()
        ui.applyButton.text = _("Cancel") if busy else _("Register")
        ui.applyButton.enabled = not problem
        ui.applyButton.toolTip = problem or (_("Stop now; the scene stays as it is") if busy else
                                             _("Bring the moving volume onto the fixed one"))
        ui.regularizationSlider.enabled = parameters is not None and parameters.transformType.deforms()
        both = parameters is not None and parameters.fixedVolume is not None and parameters.movingVolume is not None
        result = parameters is not None and parameters.fixedVolume is not None and self._front() is not None
        transform = parameters is not None and parameters.outputTransform is not None
        jacobian = parameters is not None and parameters.outputJacobian is not None
        for button, possible, why in (
                (ui.beforeButton, both, _("Choose a fixed and a moving volume first")),
                (ui.overlayButton, result, _("Register with a moved volume first")),
                (ui.swapButton, both, _("Choose a fixed and a moving volume first")),
                (ui.checkerboardButton, parameters is not None and parameters.outputVolume is not None and both,
                 _("Register with a moved volume first")),
                (ui.jacobianButton, jacobian and both, _("Register with a Jacobian map first")),
                (ui.gridButton, transform and both, _("Register with a transform first")),
                (ui.magnitudeButton, transform and both, _("Register with a transform first")),
                (ui.measuresButton, bool(self.logic.job and self.logic.job.outputs), _("Register first"))):
            button.enabled = bool(possible)
            button.setProperty("whatItDoes", button.property("whatItDoes") or button.toolTip)
            button.toolTip = button.property("whatItDoes") if possible else why
        ui.gridButton.checked = bool(transform and review.isGridVisible(parameters.outputTransform))

    # Register and Cancel

    def onApplyButton(self, checked=False):
        """Register, or cancel what is under way."""
        if self.logic.isBusy():
            self.logic.cancel()
            self.showStatus(_("Cancelled; the scene is as it was."))
            return
        parameters = self.parameters
        self.logic.keepTemporaryFiles = parameters.keepTemporaryFiles
        outputs = {f"output{name.capitalize()}": node for name, node in self.wanted().items()}
        outputs.setdefault("outputTransform", None)
        self.watch(_("Starting"))
        try:
            self.logic.register(
                parameters.fixedVolume, parameters.movingVolume, transform=parameters.transformType.value,
                regularization=parameters.regularization, carriedLabels=self._carried("carriedLabels"),
                carriedPoints=self._carried("carriedPoints"), initialTransform=parameters.initialTransform,
                attachMoving=parameters.attachMoving, model=parameters.model.value, device=parameters.device,
                extent=parameters.extent, steps=parameters.steps,
                refinement=None if parameters.refinement < 0 else parameters.refinement,
                precision=parameters.precision.value, threads=parameters.threads, blocking=False,
                onProgress=self.showProgress, onFinished=self._onFinished, onError=self.showError, **outputs)
        except (InputError, OSError, RuntimeError) as error:
            self.showError({"kind": "user", "message": str(error), "details": ""})
        self._updateButtons()

    def _onFollow(self):
        """Send the slider's lambda if the result does not show it yet."""
        if self.parameters is None or not self.logic.canChangeRegularization():
            return
        value = self.parameters.regularization
        if value == self._followed:
            return
        self._followed = value
        if not self.logic.isBusy():
            self.watch(_("Changing lambda"))
        self.logic.changeRegularization(value, blocking=False, onProgress=self.showProgress,
                                        onFinished=self._onFinished, onError=self.showError)
        self._updateButtons()

    def _onFinished(self, outputs):
        parameters = self.parameters
        if parameters is None:
            return
        job = self.logic.job
        self._followed = job.settings.regularization if not self.logic.isBusy() else self._followed
        with slicer.util.NodeModify(parameters.parameterNode):
            for name, node in outputs.items():
                setattr(parameters, f"output{name.capitalize()}", node)
        message = _("Registered in {seconds:.1f} s with the {model} model on {device}.").format(
            seconds=job.seconds, model=job.provenance.get("model", ""),
            device=job.provenance.get("device", "").replace("cpu", _("the CPU")))
        self.showStatus(" ".join(filter(None, (message, job.note))))
        if self.ui.jacobianButton.checked and "jacobian" in outputs:
            self.onJacobian(True)
        elif self._front() is not None:
            self.onOverlay()

    # What the user sees

    def _onPoll(self):
        self.logic.poll()
        self._showDevices()
        if self.logic.isBusy():
            self.ui.statusLabel.text = _("{stage}, {seconds:.0f} s").format(
                stage=self._stage, seconds=time.monotonic() - self._started)
        elif not self._isEntered():
            self._pollTimer.stop()

    def watch(self, stage):
        """Show that something has been started."""
        self._started, self._stage = time.monotonic(), stage
        self.ui.errorLabel.visible = self.ui.detailsButton.visible = self.ui.detailsButton.checked = False
        self.ui.progressBar.value = 0
        self.ui.progressBar.visible = True
        self.ui.statusLabel.text = stage
        self._pollTimer.start()
        self._updateButtons()

    def showProgress(self, stage, fraction, message):
        """One step of the worker: its stage, the share of the work done before it, and a remark."""
        label = STAGES.get(stage, stage)
        if label != self._stage:
            self.log(label)
        self._stage = " ".join(filter(None, (label, message)))
        self.ui.progressBar.value = int(100 * fraction)

    def showStatus(self, message):
        """Nothing is under way; one sentence on how things are."""
        self.ui.progressBar.visible = False
        self.ui.statusLabel.text = message
        if message:
            self.log(message)
        self._updateButtons()

    def showError(self, error):
        """One sentence in the panel, the rest on demand and in the application's log."""
        self.showStatus("")
        self.ui.errorLabel.text = error["message"]
        self.ui.errorLabel.visible = True
        self.ui.detailsTextEdit.setPlainText(error["details"])
        self.ui.detailsButton.visible = bool(error["details"])
        self.log(error["message"])

    def log(self, text):
        """A line in the panel's log (bounded) and in the application's."""
        logging.info("SynthMorph: %s", text)
        self.ui.logTextEdit.appendPlainText(f"{time.strftime('%H:%M:%S')}  {text}")

    # Review

    def _front(self):
        """The volume that shows the result: the moved one, or the moving one under the transform."""
        if self.parameters.outputVolume is not None:
            return self.parameters.outputVolume
        moving = self.parameters.movingVolume
        return moving if moving is not None and moving.GetTransformNodeID() and self.parameters.attachMoving else None

    def onBefore(self, checked=False):
        self.ui.jacobianButton.checked = False
        self.review.showOverlay(self.parameters.fixedVolume, self.parameters.movingVolume,
                                self.parameters.overlayOpacity)

    def onOverlay(self, checked=False):
        self.ui.jacobianButton.checked = False
        self.review.showOverlay(self.parameters.fixedVolume, self._front(), self.parameters.overlayOpacity)

    def onSwap(self, checked=False):
        front = self._front() or self.parameters.movingVolume
        if not self.review.shows(self.parameters.fixedVolume, front):
            self.review.showOverlay(self.parameters.fixedVolume, front, 1.0)
        self.review.swap()

    def onCheckerboard(self, checked=False):
        self.ui.jacobianButton.checked = False
        self.review.showCheckerboard(self.parameters.fixedVolume, self.parameters.outputVolume)

    def onJacobian(self, checked):
        if checked:
            self.review.showOverlay(self.parameters.fixedVolume, self.parameters.outputJacobian,
                                    self.parameters.overlayOpacity)
        elif self._front() is not None:
            self.review.showOverlay(self.parameters.fixedVolume, self._front(), self.parameters.overlayOpacity)
        self.ui.jacobianButton.checked = checked
        review.showLegend(self.parameters.outputJacobian, checked)

    def onGrid(self, checked):
        review.showGrid(self.parameters.outputTransform, self.parameters.fixedVolume, checked)

    def onMagnitude(self, checked=False):
        volume = review.displacementMagnitude(self.parameters.outputTransform, self.parameters.fixedVolume)
        self.review.showOverlay(self.parameters.fixedVolume, volume, self.parameters.overlayOpacity)

    def onMeasures(self, checked=False):
        table = review.measuresTable(self.logic.job, self._carried("carriedLabels"))
        self.showStatus(_("The measures are in the table '{name}'.").format(name=table.GetName()))

    def _onMouseMoved(self, caller, event):
        point = [0.0] * 3
        if self.parameters is None or not caller.GetCursorPositionRAS(point):
            self.ui.mouseLabel.text = "-"
            return
        self.ui.mouseLabel.text = review.valuesAt(point, self.parameters.outputTransform,
                                                  self.parameters.outputJacobian) or "-"

"""The panel: wires the .ui to the parameter node and to the logic, and says what goes on.  Nothing is computed here."""

import time

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from . import environment, maps, output_nodes, scene, segments, views
from .atlas_section import AtlasSection
from .compare_section import CompareSection
from .device_section import DeviceSection
from .examine_section import ExamineSection
from .import_section import ImportSection
from .job import OUTPUTS, InputError, isSameLambda, lambdaOf, settingsOf
from .landmark_section import LandmarkSection
from .moving_section import MovingSection
from .parameters import SynthMorphParameterNode
from .review_section import ReviewSection
from .setup_section import SetupSection
from .status import StatusDisplay
from .subject import Subject
from .ticked_section import TickedSection
from .workbench import Workbench

POLL_MILLISECONDS = 50
DOUBLE_CLICK_SECONDS = 0.4  # in which the second click on Register does not mean Cancel
FOLLOW_MILLISECONDS = 150  # between two lambdas sent to the worker while the slider moves
CANCELLED, LACKING = _("Cancelled."), _("What is shown lacks the finest details.")


class Panel(StatusDisplay, slicer.util.VTKObservationMixin):
    """What the module's widget shows and does."""

    def __init__(self, uiWidget, logic, getParameterNode, isEntered):
        """
        :param getParameterNode: function returning the MRML parameter node.
        :param isEntered: function returning True while the module is the current one.
        """
        slicer.util.VTKObservationMixin.__init__(self)
        StatusDisplay.__init__(self, slicer.util.childWidgetVariables(uiWidget))
        self.logic = logic
        self.parameters = None
        self._getParameterNode, self._isEntered = getParameterNode, isEntered
        self._guiTag = None
        self._pair = (None, None)  # fixed and moving volume that the outputs belong to
        self._followed = None  # lambda of the shown result
        self._pollTimer, self._followTimer = qt.QTimer(), qt.QTimer()
        self._pollTimer.setInterval(POLL_MILLISECONDS)
        self._followTimer.setInterval(FOLLOW_MILLISECONDS)
        self._followTimer.setSingleShot(True)
        self.deviceSection = DeviceSection(self.ui, self)
        self.tickedSection = TickedSection(self.ui, self)
        self.ticked = self.tickedSection.ticked  # nodes of one of the lists with check marks, by name
        self.setupSection = SetupSection(self.ui, logic, self)
        self.reviewSection = ReviewSection(self.ui, logic, self)
        self.importSection = ImportSection(self.ui, logic, self)
        self.bench = Workbench(logic)
        self.examineSection = ExamineSection(self.ui, self.bench, self)
        self.landmarkSection = LandmarkSection(self.ui, self.bench, self)
        self.compareSection = CompareSection(self.ui, self.bench, self)
        self.atlasSection = AtlasSection(self.ui, logic, self)
        self.movingSection = MovingSection(self.ui, logic, self)
        self._sections = (self.reviewSection, self.examineSection, self.landmarkSection, self.compareSection,
                          self.atlasSection)  # those that remember something of the scene
        self._connect()
        for event in ("StartClose", "EndClose", "StartImport", "EndImport"):
            self.addObserver(slicer.mrmlScene, getattr(slicer.mrmlScene, f"{event}Event"),
                             getattr(self, f"_onScene{event}"))
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAboutToBeRemovedEvent, self._onNodeAboutToBeRemoved,
                         priority=1.0)  # before the selectors
        self.setParameterNode(self._getParameterNode())

    # Life cycle

    def enter(self):
        self.deviceSection.look()
        self._pollTimer.start()
        self.setParameterNode(self._getParameterNode())
        self.reviewSection.enter()
        self.atlasSection.enter()
        self.setupSection.refresh()
        maps.repaint()

    def exit(self):
        self.reviewSection.exit()
        self.atlasSection.exit()
        views.restoreCrosshair()
        self.setParameterNode(None)
        if not self._isWorking():
            self._pollTimer.stop()

    def cleanup(self):
        self.logic.close()  # first of all: whatever goes wrong below, no worker is left behind
        views.restoreCrosshair()
        self._pollTimer.stop()
        self._followTimer.stop()
        self.reviewSection.exit()
        self.atlasSection.exit()
        self.setParameterNode(None)
        self.removeObservers()
        self.setupSection.close()

    def setParameterNode(self, node):
        """Bind the widgets to a parameter node, or to none."""
        self._pair = (None, None)  # or it would keep the volumes of a closed scene
        if self.parameters is not None:
            self.parameters.disconnectGui(self._guiTag)
            self.removeObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersChanged)
            self.parameters = None
        if node is not None:
            self.parameters = SynthMorphParameterNode(node)
            self._followed = lambdaOf(self.parameters) if self._followed is None else self._followed
            self._guiTag = self.parameters.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onParametersChanged)
            self.tickedSection.show()
            self._pair = self._chosenPair()
        self._onParametersChanged()

    def _onSceneStartClose(self, caller, event):
        self.setParameterNode(None)
        self._followed = None
        for section in self._sections:
            section.forget()
        self.logic.close()
        self.showStatus("")

    def _onSceneEndClose(self, caller, event):
        if self._isEntered():
            self.setParameterNode(self._getParameterNode())

    def _onSceneStartImport(self, caller, event):
        # selectors that do not list a node yet would put None in the place of what is being imported
        self.setParameterNode(None)
        self._followed = None

    def _onSceneEndImport(self, caller, event):
        # later, because the node selectors only now begin to list what was imported
        qt.QTimer.singleShot(0, lambda: self._onSceneEndClose(caller, event))
        maps.repaint()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeAboutToBeRemoved(self, caller, event, node):
        # a selector would go on to the node below, which the next run would then overwrite
        if self.parameters is not None:
            output_nodes.drop(self.parameters, lambda other: other is node, "atlasSegmentation")

    def _connect(self):
        ui = self.ui
        self._pollTimer.connect("timeout()", self._onPoll)
        self._followTimer.connect("timeout()", self._onFollow)
        ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        ui.detailsButton.connect("toggled(bool)", ui.detailsTextEdit.setVisible)

    # State

    def wanted(self):
        """Outputs that are asked for: name -> node, or True for a new one."""
        return {} if self.parameters is None else output_nodes.wanted(self.parameters)

    def settings(self):
        """The settings, also when the user has left the module meanwhile: they learn of results all the same."""
        return self.parameters or SynthMorphParameterNode(self._getParameterNode())

    def problem(self):
        """Why Register is not possible now, as one sentence, or an empty string."""
        if self.parameters is None:
            return _("No scene is open.")
        if self.setupSection.isInstalling():
            return _("Wait until the installation is done.")
        if not environment.isReady():
            return _("PyTorch is missing: install it in the Setup section.")
        parameters = self.parameters
        wanted = {name: ("" if node is True else node.GetID()) for name, node in self.wanted().items()}
        return self.logic.problem(parameters.fixedVolume, parameters.movingVolume, wanted, parameters.initialTransform,
                                  self.ticked("carriedLabels"), self.ticked("carriedPoints"))

    def subject(self, transform=None):
        """The result that is reviewed, or another one of the same volumes; None without a scene."""
        parameters = self.parameters
        return None if parameters is None else Subject(
            parameters.fixedVolume, parameters.movingVolume, transform or parameters.outputTransform,
            tuple(self.ticked("carriedLabels")), parameters.fixedLabels,
            parameters.fixedLandmarks, parameters.movingLandmarks)

    def _onParametersChanged(self, caller=None, event=None):
        self.updateButtons()
        if self.parameters is None:
            return
        self.logic.keepTemporaryFiles = self.parameters.keepTemporaryFiles
        self.deviceSection.update(self.parameters)
        self._startAfresh()
        if self._hasNewLambda() and not self._followTimer.isActive():
            self._followTimer.start()
        elif self._cannotFollow():
            self._followed = lambdaOf(self.parameters)  # said once
            self.showStatus(_("Press Register to get this lambda."))

    def _chosenPair(self):
        return self.parameters.fixedVolume, self.parameters.movingVolume

    def _startAfresh(self):
        """Another pair of volumes makes new outputs, and leaves alone those that belong to the pair of before."""
        pair = self._chosenPair()
        if pair == self._pair or None in pair:
            return
        self._pair = pair
        output_nodes.drop(self.parameters, lambda node: scene.originOf(node) not in ((None, None), pair))

    def _hasNewLambda(self):
        """True if the slider asks for another lambda of the registration that is shown."""
        parameters = self.parameters
        return (parameters is not None and self.logic.canChangeRegularization()
                and not isSameLambda(lambdaOf(parameters), self._followed) and _isAbout(self.logic.job, parameters))

    def _cannotFollow(self):
        """True if the slider has been moved away from results that are no longer in the worker's memory."""
        shown = [scene.lambdaOf(node) for node in self.wanted().values() if node is not True and scene.isResult(node)]
        asked = lambdaOf(self.parameters)
        return (bool(shown) and not self._isWorking() and not self.logic.canChangeRegularization()
                and self.parameters.transformType.deforms()
                and not isSameLambda(asked, self._followed) and not isSameLambda(asked, shown[0]))

    def updateButtons(self):
        """All buttons say what they would do, or what is missing; to be called when work has been started."""
        ui, parameters = self.ui, self.parameters
        busy = self.logic.isBusy()
        problem = "" if busy else self.problem()
        ui.applyButton.text = _("Cancel") if busy else _("Register")
        ui.applyButton.enabled = not problem
        ui.applyButton.toolTip = problem or (_("Stop now; the scene stays as it is") if busy else
                                             _("Bring the moving volume onto the fixed one"))
        for name in map(str.capitalize, OUTPUTS):  # here, because a selector that gets its scene enables itself
            getattr(ui, f"output{name}Selector").enabled = getattr(ui, f"make{name}CheckBox").checked
        ui.attachMovingCheckBox.enabled = ui.makeTransformCheckBox.checked
        ui.regularizationSlider.enabled = parameters is not None and parameters.transformType.deforms()
        for section in (*self._sections, self.movingSection):
            section.update(parameters)
        self.importSection.update()
        self.setupSection.update()

    # Register and Cancel

    def onApplyButton(self, checked=False):
        """Register, or cancel what is under way."""
        if self.logic.isBusy():
            if time.monotonic() - self._started > DOUBLE_CLICK_SECONDS:
                self.logic.cancel()
                self.showStatus(self._whenCancelled)
            return
        self.register()

    def register(self, changes=None, onFinished=None):
        """Register with the settings as they are shown.

        :param changes: settings to change first, by name.  :param onFinished: called with the outputs when all is done;
          without it, they are shown without the finest details first.
        """
        parameters = self.parameters
        self._followed = (changes or {}).get("regularization", self._followed)  # there is nothing to follow
        with slicer.util.NodeModify(parameters.parameterNode):
            for name, value in (changes or {}).items():
                setattr(parameters, name, value)

        def finished(outputs):
            self._onFinished(outputs)
            if onFinished:
                onFinished(outputs)

        outputs = {output_nodes.MEMBERS[name]: node for name, node in self.wanted().items()}
        outputs.setdefault("outputTransform", None)
        replaceEdited = bool(parameters.carriedLabels) and self.mayReplace(outputs.get("outputSegmentation"))
        self.watch(_("Starting"))
        try:
            self.logic.register(
                parameters.fixedVolume, parameters.movingVolume, carriedLabels=self.ticked("carriedLabels"),
                carriedPoints=self.ticked("carriedPoints"), initialTransform=parameters.initialTransform,
                attachMoving=parameters.attachMoving, replaceEdited=replaceEdited, preview=onFinished is None,
                blocking=False, onProgress=self.showProgress, onFinished=finished, onError=self.showError,
                **vars(settingsOf(parameters)), **outputs)
            if parameters.keepTemporaryFiles:
                self.log(_("Temporary files are in '{folder}'.").format(folder=self.logic.job.folder))
        except (InputError, OSError, RuntimeError) as error:
            self._cannotStart(error)
        self.updateButtons()

    def _cannotStart(self, error):
        if isinstance(error, InputError):
            self.refuse(error)
        else:
            self.showError({"message": scene.noRoom(), "details": str(error)})

    @staticmethod
    def mayReplace(node):
        """Ask before a segmentation that was changed by hand is overwritten; if not, a new one will be made."""
        return (isinstance(node, slicer.vtkMRMLSegmentationNode) and segments.isEdited(node)
                and slicer.util.confirmYesNoDisplay(
                    _("'{name}' was changed by hand. Replace it? No keeps it and makes a new segmentation.").format(
                        name=node.GetName()), _("Replace the segmentation")))

    def _onFollow(self):
        """Send the slider's lambda if the result does not show it yet."""
        if self._hasNewLambda():
            if not self.logic.isBusy():
                self.watch(_("Changing lambda"))
            self._changeLambda(lambdaOf(self.parameters), True, self.showError)
        elif not self.logic.isBusy():
            self._addDetails()

    def _changeLambda(self, value, preview, onError):
        self._followed = value
        try:
            self.logic.changeRegularization(value, preview, blocking=False, onProgress=self.showProgress,
                                            onFinished=self._onFinished, onError=onError)
        except (InputError, OSError) as error:
            self._cannotStart(error)
        self.updateButtons()

    def _addDetails(self):
        """Go on in full if what is shown is a preview."""
        if not (self.logic.canChangeRegularization() and self.logic.job.preview):
            return
        started = self._started
        self.watch(_("Finest details"), whenCancelled=f"{CANCELLED} {LACKING}")
        self._started = started
        self._changeLambda(self.logic.job.settings.regularization, False, lambda error: self.showError(
            {**error, "message": f"{error['message']} {LACKING}"}))

    def _onFinished(self, outputs):
        parameters, job = self.settings(), self.logic.job
        isNewest = not self.logic.isBusy()
        if isNewest:
            self._followed = job.settings.regularization
        elif job.preview:
            self._whenCancelled = f"{CANCELLED} {LACKING}"
        isShown = _isAbout(job, parameters)  # not of a pair that was chosen before the work was done
        if isShown:
            with slicer.util.NodeModify(parameters.parameterNode):
                output_nodes.take(parameters, outputs)
        self._tell(job)
        if isShown and self.parameters is not None:
            self.reviewSection.showResult(job.goesOn)
        if self._hasNewLambda():
            self._followTimer.start()  # it was moved while there was no result to follow it
        elif isNewest and job.preview:
            self._addDetails()
        elif isNewest:
            self.deviceSection.look()
            self.logic.check(self._onDoubt)

    def _tell(self, job):
        """Say what has been done."""
        if job.preview:
            message = _("First look after {seconds:.1f} s; the finest details follow.")
        else:
            message = _("Registered in {seconds:.1f} s with the {model} model on {device}.")
        message = message.format(seconds=job.seconds, model=job.provenance.get("model", ""),
                                 device=job.provenance.get("device", "").replace("cpu", _("the CPU")))
        self.showStatus(" ".join(filter(None, (message, job.note))))
        if job.preview:
            return
        self.log(job.reason)
        if job.provenance.get("one_head"):
            self.log(_("Both scans show one head: its rigid motion was found on the images themselves, and the warp "
                       "bends only smoothly."))

    def _onDoubt(self):
        self.warn(_("The two images do not look alike where this result puts them: look at it closely, and give an "
                    "initial transform if it is wrong."))

    def showLambda(self, value):
        """Move the slider to the lambda of the result in front, which is not made again for it."""
        self._followed = value
        self.parameters.regularization = value

    # What the user sees

    def _onPoll(self):
        self.logic.poll()
        self.deviceSection.update(self.parameters)
        self.setupSection.poll()
        if self._isWorking():
            self.showElapsed()
        elif not self._isEntered():
            self._pollTimer.stop()

    def _isWorking(self):
        return self.logic.isBusy() or self.setupSection.isInstalling()

    def watch(self, stage, indefinite=False, whenCancelled=""):
        super().watch(stage, indefinite, whenCancelled)
        self._pollTimer.start()
        self.updateButtons()

    def showStatus(self, message):
        super().showStatus(message)
        self.updateButtons()


def _isAbout(job, parameters):
    """True if a job is about the chosen pair of volumes."""
    chosen = (parameters.fixedVolume, parameters.movingVolume)
    return chosen == tuple(slicer.mrmlScene.GetNodeByID(identifier) for identifier in (job.fixedID, job.movingID))

"""The section of the panel for pairs of landmarks: their errors, live, and a correction by them."""

import json

import qt
import slicer
from slicer.i18n import tr as _

from . import subject, tables, views
from .job import InputError

# mm, of one pair: the first is that of AAPM TG-132, the second ours
TOLERANCE = (("ok", 5.0), ("look", 10.0), ("bad", float("inf")))


class LandmarkSection(slicer.util.VTKObservationMixin):
    """Two lists of points, a table, and the buttons to place and to correct."""

    def __init__(self, ui, bench, panel):
        super().__init__()
        self.ui, self.bench, self.panel = ui, bench, panel
        self._watched = ()
        self._placing = ""  # the list that waits for a point: "fixed", "moving" or none
        self._defined = 0  # points in that list before
        self.toolTips = {}
        for name in ("placePair", "correct", "undoCorrection"):
            button = getattr(ui, f"{name}Button")
            button.connect("clicked(bool)", getattr(self, f"on{name[0].upper()}{name[1:]}"))
            self.toolTips[name] = button.toolTip

    def update(self, parameters):
        """Watch the chosen points and the transform, and show what they give."""
        what = self.panel.subject()
        nodes = () if what is None else tuple(
            node for node in (what.fixedPoints, what.movingPoints, what.transform) if node is not None)
        if nodes != self._watched:
            self._watched = nodes
            self.removeObservers()
            for node in nodes:
                event = (slicer.vtkMRMLTransformableNode.TransformModifiedEvent if node.IsA("vtkMRMLTransformNode")
                         else slicer.vtkMRMLMarkupsNode.PointModifiedEvent)
                self.addObserver(node, event, self._onMoved)
                if node.IsA("vtkMRMLMarkupsNode"):
                    for event in (slicer.vtkMRMLMarkupsNode.PointAddedEvent,
                                  slicer.vtkMRMLMarkupsNode.PointRemovedEvent,
                                  slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent):
                        self.addObserver(node, event, self._onMoved)
        self._show()

    def forget(self):
        """The scene is going away."""
        self.removeObservers()
        self._watched = ()
        self._placing = ""

    def _onMoved(self, caller, event):
        if self._isPlaced():
            qt.QTimer.singleShot(0, self._placed)  # when the click is over: it ends the mode in which points are placed
        self._show()

    def _show(self):
        what = self.panel.subject()
        problem = _("No scene is open.") if what is None else what.problem()
        landmarks, sentence = None, problem
        if not problem:
            try:
                landmarks = subject.pairs(what.fixedPoints, what.movingPoints)
                sentence = "" if landmarks else _("Place at least one pair of points.")
            except InputError as error:
                sentence = str(error)
                landmarks = subject.pairs(what.fixedPoints, what.movingPoints, strict=False)
        errors = subject.pointErrors(what.transform, landmarks) if landmarks else []
        statuses = [next(word for word, limit in TOLERANCE if error <= limit) for error in errors]
        rows = [[name or str(number + 1), f"{error:.2f}"]
                for number, (name, error) in enumerate(zip(landmarks["names"] if landmarks else (), errors))]
        tables.fill(self.ui.landmarksTable, [_("Landmark"), _("Error (mm)")], rows, statuses, 1, stretched=True)
        parts = [sentence]
        if errors:
            parts.append(_("Target registration error: mean {mean:.2f} mm, largest {largest:.2f} mm.").format(
                mean=sum(errors) / len(errors), largest=max(errors)))
        if not problem and what.transform.GetAttribute(subject.CORRECTION):
            parts.append(_("Corrected by {number} landmarks.").format(
                number=json.loads(what.transform.GetAttribute(subject.CORRECTION))["landmarks"]))
        self.ui.landmarksLabel.text = " ".join(filter(None, parts))
        busy = _("Wait until the work under way is done.") if self.panel.logic.isBusy() else ""
        missing = {"placePair": problem or busy, "correct": sentence or busy,
                   "undoCorrection": busy or ("" if self.bench.canUndo() else _("There is no correction to undo."))}
        for name, why in missing.items():
            button = getattr(self.ui, f"{name}Button")
            button.enabled = not why
            button.toolTip = why or self.toolTips[name]

    # Placing

    def onPlacePair(self, checked=False):
        """Wait for a click on the fixed volume, then for one on the moving volume; make the lists if there are none."""
        parameters = self.panel.parameters
        for side in ("fixed", "moving"):
            if getattr(parameters, f"{side}Landmarks") is None:
                name = _("Landmarks on {volume}").format(volume=getattr(parameters, f"{side}Volume").GetName())
                setattr(parameters, f"{side}Landmarks",
                        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name))
        counts = [node.GetNumberOfDefinedControlPoints()
                  for node in (parameters.fixedLandmarks, parameters.movingLandmarks)]
        self._waitFor("moving" if counts[1] < counts[0] else "fixed")

    def _list(self):
        parameters = self.panel.parameters
        return getattr(parameters, f"{self._placing}Landmarks") if parameters is not None and self._placing else None

    def _isPlaced(self):
        return self._list() is not None and self._list().GetNumberOfDefinedControlPoints() > self._defined

    def _waitFor(self, side):
        """Show the volume of one side alone, and let the next click place a point of its list."""
        self._placing = side
        node = self._list()
        self._defined = node.GetNumberOfDefinedControlPoints()
        self.panel.reviewSection.showAlone(side)
        if side == "moving":  # where the result takes the partner: a good place to begin the search
            here = [0.0] * 3
            self.panel.parameters.fixedLandmarks.GetNthControlPointPositionWorld(self._defined, here)
            views.jumpTo(self.panel.parameters.outputTransform.GetTransformFromParent().TransformPoint(here))
        slicer.modules.markups.logic().SetActiveList(node)
        slicer.modules.markups.logic().StartPlaceMode(False)
        self.panel.showStatus(_("Click the place in the fixed volume.") if side == "fixed" else
                              _("Click the same place in the moving volume."))

    def _placed(self):
        if not self._isPlaced():  # one click comes as several events
            return
        if self._placing == "fixed":
            self._waitFor("moving")
            return
        self._placing = ""
        self.panel.reviewSection.showResult()
        self.panel.showStatus(_("The pair is placed."))

    # Correcting

    def onCorrect(self, checked=False):
        """Let the worker bend the result, and change the outputs in place."""
        self.panel.watch(_("Correcting by landmarks"))
        try:
            self.bench.correct(self.panel.subject(), self.panel.reviewSection.outputs(),
                               self.panel.parameters.correctionRadius, blocking=False,
                               onProgress=self.panel.showProgress, onFinished=self._onFinished,
                               onError=self.panel.showError)
        except InputError as error:
            self.panel.refuse(error)

    def _onFinished(self, answer):
        if self.panel.parameters is not None:
            self.panel.reviewSection.showResult()
        self.panel.showStatus(_("Corrected: mean error {before:.2f} mm before, {after:.2f} mm after; Undo takes it "
                                "back.").format(before=_mean(answer["errors_before"]),
                                                after=_mean(answer["errors_after"])))

    def onUndoCorrection(self, checked=False):
        """Bring the outputs back as they were."""
        self.bench.undo()
        self.panel.reviewSection.showResult()
        self.panel.showStatus(_("The correction is undone."))


def _mean(values):
    return sum(values) / len(values)

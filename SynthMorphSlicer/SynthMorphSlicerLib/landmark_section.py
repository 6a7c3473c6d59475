"""The section of the panel for pairs of landmarks: their errors, live, and a correction by them."""

import json

import slicer
from slicer.i18n import tr as _

from . import subject, tables
from .job import InputError

# mm, of one pair: the first is that of AAPM TG-132, the second ours
TOLERANCE = (("ok", 5.0), ("look", 10.0), ("bad", float("inf")))


class LandmarkSection(slicer.util.VTKObservationMixin):
    """Two lists of points, a table, two buttons."""

    def __init__(self, ui, bench, panel):
        super().__init__()
        self.ui, self.bench, self.panel = ui, bench, panel
        self._watched = ()
        for name in ("correct", "undoCorrection"):
            getattr(ui, f"{name}Button").connect("clicked(bool)", getattr(self, f"on{name[0].upper()}{name[1:]}"))
        self.toolTips = {"correct": ui.correctButton.toolTip, "undoCorrection": ui.undoCorrectionButton.toolTip}

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

    def _onMoved(self, caller, event):
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
        tables.fill(self.ui.landmarksTable, [_("Landmark"), _("Error (mm)")], rows, statuses, 1)
        parts = [sentence]
        if errors:
            parts.append(_("Target registration error: mean {mean:.2f} mm, largest {largest:.2f} mm.").format(
                mean=sum(errors) / len(errors), largest=max(errors)))
        if not problem and what.transform.GetAttribute(subject.CORRECTION):
            parts.append(_("Corrected by {number} landmarks.").format(
                number=json.loads(what.transform.GetAttribute(subject.CORRECTION))["landmarks"]))
        self.ui.landmarksLabel.text = " ".join(filter(None, parts))
        busy = _("Wait until the work under way is done.") if self.panel.logic.isBusy() else ""
        missing = {"correct": sentence or busy,
                   "undoCorrection": busy or ("" if self.bench.canUndo() else _("There is no correction to undo."))}
        for name, why in missing.items():
            button = getattr(self.ui, f"{name}Button")
            button.enabled = not why
            button.toolTip = why or self.toolTips[name]

    def onCorrect(self, checked=False):
        """Let the worker bend the result, and change the outputs in place."""
        self.panel.watch(_("Correcting by landmarks"))
        try:
            self.bench.correct(self.panel.subject(), self.panel.reviewSection.outputs(),
                               self.panel.parameters.correctionRadius, blocking=False,
                               onProgress=self.panel.showProgress, onFinished=self._onFinished,
                               onError=self.panel.showError)
        except InputError as error:
            self.panel.showError({"message": str(error), "details": ""})

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

"""The Review section of the panel: its buttons, and what they show of the result."""

import slicer
from slicer.i18n import tr as _

from . import review

BUTTONS = ("before", "overlay", "swap", "checkerboard", "jacobian", "grid", "magnitude", "measures")


class ReviewSection(slicer.util.VTKObservationMixin):
    """Wires the buttons to :mod:`.review`; which of them make sense follows from the settings."""

    def __init__(self, ui, logic, panel):
        super().__init__()
        self.ui, self.logic, self.panel = ui, logic, panel
        self.review = review.Review()
        self.toolTips = {}
        ui.opacitySlider.connect("valueChanged(double)", self.review.setOpacity)
        for name in BUTTONS:
            button = self._button(name)
            button.connect("clicked(bool)", getattr(self, f"on{name.capitalize()}"))
            self.toolTips[name] = button.toolTip

    def enter(self):
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None:
            self.removeObservers()
            self.addObserver(crosshair, slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent, self._onMouseMoved)

    def exit(self):
        self.removeObservers()
        self.review.restore()

    def forget(self):
        """The scene is going away."""
        self.review.forget()

    def update(self, parameters):
        """Enable the buttons that have something to show; the others say what is missing."""
        both = bool(parameters and parameters.fixedVolume and parameters.movingVolume)
        moved = both and parameters.outputVolume is not None
        transform = both and parameters.outputTransform is not None
        volumes, registered = _("Choose a fixed and a moving volume first"), _("Register with {output} first")
        for name, possible, why in (
                ("before", both, volumes), ("swap", both, volumes),
                ("overlay", both and self._front() is not None, registered.format(output=_("a moved volume"))),
                ("checkerboard", moved, registered.format(output=_("a moved volume"))),
                ("jacobian", both and parameters.outputJacobian is not None,
                 registered.format(output=_("a Jacobian map"))),
                ("grid", transform, registered.format(output=_("a transform"))),
                ("magnitude", transform, registered.format(output=_("a transform"))),
                ("measures", bool(self.logic.job and self.logic.job.outputs), _("Register first"))):
            self._button(name).enabled = possible
            self._button(name).toolTip = self.toolTips[name] if possible else why
        self.ui.gridButton.checked = bool(transform and review.isGridVisible(parameters.outputTransform))

    def showResult(self):
        """A registration has just been finished or changed: show it the way the last one was looked at."""
        if self.ui.jacobianButton.checked and self.parameters.outputJacobian is not None:
            self.onJacobian(True)
        elif self._front() is not None:
            self.onOverlay()

    @property
    def parameters(self):
        """The panel's parameter node."""
        return self.panel.parameters

    def _button(self, name):
        return getattr(self.ui, f"{name}Button")

    def _front(self):
        """The volume that shows the result: the moved one, or the moving one under the transform."""
        if self.parameters.outputVolume is not None:
            return self.parameters.outputVolume
        moving = self.parameters.movingVolume
        return moving if moving is not None and moving.GetTransformNodeID() and self.parameters.attachMoving else None

    def _show(self, front):
        self.review.showOverlay(self.parameters.fixedVolume, front, self.parameters.overlayOpacity)

    def onBefore(self, checked=False):
        self.ui.jacobianButton.checked = False
        self._show(self.parameters.movingVolume)

    def onOverlay(self, checked=False):
        self.ui.jacobianButton.checked = False
        self._show(self._front())

    def onSwap(self, checked=False):
        front = self._front() or self.parameters.movingVolume
        if not self.review.shows(self.parameters.fixedVolume, front):
            self.review.showOverlay(self.parameters.fixedVolume, front, 1.0)
        self.review.swap()

    def onCheckerboard(self, checked=False):
        self.ui.jacobianButton.checked = False
        self.review.showCheckerboard(self.parameters.fixedVolume, self.parameters.outputVolume)

    def onJacobian(self, checked):
        jacobian = self.parameters.outputJacobian
        front = jacobian if checked else self._front()
        if front is not None:
            self._show(front)
        self.ui.jacobianButton.checked = checked
        review.showLegend(jacobian, checked)

    def onGrid(self, checked):
        review.showGrid(self.parameters.outputTransform, self.parameters.fixedVolume, checked)

    def onMagnitude(self, checked=False):
        self._show(review.displacementMagnitude(self.parameters.outputTransform, self.parameters.fixedVolume))

    def onMeasures(self, checked=False):
        table = review.measuresTable(self.logic.job, self.panel.carried("carriedLabels"))
        self.panel.showStatus(_("The measures are in the table '{name}'.").format(name=table.GetName()))

    def _onMouseMoved(self, caller, event):
        point = [0.0] * 3
        text = ""
        if self.parameters is not None and caller.GetCursorPositionRAS(point):
            text = review.valuesAt(point, self.parameters.outputTransform, self.parameters.outputJacobian)
        self.ui.mouseLabel.text = text or "-"

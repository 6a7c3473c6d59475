"""The Review section of the panel: its buttons, and what they show of the result."""

import qt
import slicer
from slicer.i18n import tr as _

from . import maps, measures, review, scene, shortcuts, surfaces, tables, views
from .job import OUTPUTS

BUTTONS = ("before", "overlay", "swap", "flicker", "checkerboard", "curtain", "difference", "edges", "sideBySide",
           "grid", "arrows", "jacobian", "magnitude", "surfaces", "measures", "copyMeasures", "saveMeasures")
PICTURES = ("before", "overlay", *review.MADE, "jacobian", "magnitude")  # one of them is in the views
FLICKER_MILLISECONDS = 500
MAPS = ("jacobian", "magnitude")


class ReviewSection(slicer.util.VTKObservationMixin):
    """Wires the buttons to :mod:`.review`, :mod:`.maps` and :mod:`.measures`; the settings say which make sense."""

    def __init__(self, ui, logic, panel):
        super().__init__()
        self.ui, self.logic, self.panel = ui, logic, panel
        self.review = review.Review()
        self.toolTips = {}
        self._picture = ""  # the one of PICTURES that is shown
        ui.opacitySlider.connect("valueChanged(double)", self.review.setOpacity)
        for name in BUTTONS:
            button = self._button(name)
            button.connect("clicked(bool)", getattr(self, f"on{name[0].upper()}{name[1:]}"))
            self.toolTips[name] = button.toolTip = shortcuts.withKey(name, button.toolTip)
        self.shortcuts = shortcuts.Shortcuts(ui)
        self._flickerTimer = qt.QTimer()
        self._flickerTimer.setInterval(FLICKER_MILLISECONDS)
        self._flickerTimer.connect("timeout()", self.onSwap)
        ui.curtainSlider.connect("valueChanged(double)", self._onCurtainMoved)

    def enter(self):
        self.shortcuts.enter()
        crosshair = views.crosshair()
        if crosshair is not None:
            self.removeObservers()
            self.addObserver(crosshair, slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent, self._onMouseMoved)

    def exit(self):
        self.removeObservers()
        self.shortcuts.exit()
        self._mark("")
        self.review.restore()
        qt.QTimer.singleShot(0, self.review.sideBySide.restorePlaces)

    def forget(self):
        """The scene is going away."""
        self._flickerTimer.stop()
        self._picture = ""
        self.ui.flickerButton.checked = False
        self.review.forget()
        self._fillTable([])

    def update(self, parameters):
        """Enable the buttons that have something to show; the others say what is missing."""
        both = bool(parameters and parameters.fixedVolume and parameters.movingVolume)
        volumes, registered = _("Choose a fixed and a moving volume first"), _("Register with {output} first")
        noVolume = "" if both and parameters.outputVolume else registered.format(output=_("a moved volume"))
        noTransform = "" if both and parameters.outputTransform else registered.format(output=_("a transform"))
        noPair = "" if both else volumes
        missing = {
            "before": noPair or (_("The moving volume is shown through the transform, so it is not where it was")
                                 if self._isAttached() else ""),
            "overlay": "" if both and self._front() is not None else noVolume,
            "swap": noPair, "flicker": noPair, **dict.fromkeys(review.MADE, noVolume),
            "sideBySide": noPair or ("" if slicer.app.layoutManager() else _("There are no views to arrange")),
            "grid": noTransform, "arrows": noTransform, "magnitude": noTransform,
            "jacobian": "" if both and parameters.outputJacobian else registered.format(output=_("a Jacobian map")),
            "surfaces": noTransform or ("" if parameters.outputSegmentation else
                                        registered.format(output=_("labels to carry along"))),
            "measures": "" if measures.areThere(self.outputs()) else _("Register first"),
            "copyMeasures": "", "saveMeasures": ""}
        for name, why in missing.items():
            self._button(name).enabled = not why
            self._button(name).toolTip = why or self.toolTips[name]
        for name in ("grid", "arrows"):
            self._button(name).checked = not noTransform and review.isGridVisible(parameters.outputTransform,
                                                                                 name == "arrows")
        self.ui.surfacesButton.checked = not noTransform and surfaces.areVisible(parameters.outputTransform)
        self.ui.sideBySideButton.checked = self.review.sideBySide.isOn()

    def showResult(self, goesOn=False):
        """A registration has just been finished or changed: show it the way the last one was looked at.

        :param goesOn: the same result in more detail; the volumes that are shown have changed by themselves.
        """
        parameters = self.parameters
        if self.ui.measuresButton.checked:
            self.onMeasures(True)
        if self.ui.surfacesButton.checked and parameters.outputSegmentation is not None:
            self.onSurfaces(True)
        if self._picture == "jacobian" and parameters.outputJacobian is not None:
            self.show("jacobian")
        elif self._picture == "magnitude" and parameters.outputTransform is not None:
            self.show("magnitude")
        elif self._picture in review.MADE and parameters.outputVolume is not None:
            self.show(self._picture)
        elif self._front() is not None and not (goesOn and self._picture):
            self.show("overlay")

    def show(self, picture):
        """Bring one of :data:`PICTURES` into the views."""
        parameters = self.parameters
        if picture not in ("before", "overlay"):
            self._flicker(False)
        if picture in review.MADE:
            self.review.showMade(parameters.fixedVolume, parameters.outputVolume, picture,
                                 self.ui.curtainSlider.value)
        else:
            if picture == "before":
                front = parameters.movingVolume
            elif picture == "jacobian":
                front = parameters.outputJacobian
            elif picture == "magnitude":
                front = maps.displacement(parameters.outputTransform, parameters.fixedVolume)
            else:
                front = self._front()
            self.review.showOverlay(parameters.fixedVolume, front, parameters.overlayOpacity, isMap=picture in MAPS)
        self._mark(picture)

    def showAlone(self, side):
        """The fixed or the moving volume by itself, each where it lies."""
        if not self._isAttached():
            self.show("before")
            self.review.setOpacity(0.0 if side == "fixed" else 1.0)

    def _mark(self, picture):
        """Note what is shown; legends and folding marks are there only with their map."""
        self._picture = picture
        self.ui.curtainSlider.visible = picture == "curtain"
        if not picture:
            self._flicker(False)
        for name in MAPS:
            self._button(name).checked = picture == name
        parameters = self.parameters
        if parameters is not None and parameters.outputJacobian is not None:
            maps.showMarks(parameters.outputJacobian, picture == "jacobian")
        if parameters is not None and parameters.outputTransform is not None:
            displacement = parameters.outputTransform.GetNodeReference(maps.DISPLACEMENT_ROLE)
            if displacement is not None:
                maps.showLegend(displacement, picture == "magnitude", "mm")
        if parameters is not None and parameters.outputSegmentation is not None:
            maps.uncover(parameters.outputSegmentation, picture in MAPS)

    @property
    def parameters(self):
        """The panel's parameter node."""
        return self.panel.parameters

    def _button(self, name):
        return getattr(self.ui, f"{name}Button")

    def outputs(self):
        """Output nodes by name, whether from this session or from a scene that was opened."""
        if self.parameters is None:
            return {}
        nodes = {name: getattr(self.parameters, f"output{name.capitalize()}") for name in OUTPUTS}
        return {name: node for name, node in nodes.items() if node is not None}

    def _isAttached(self):
        parameters = self.parameters
        return parameters.outputTransform in scene.parents(parameters.movingVolume, ownCounts=True)

    def _front(self):
        """The volume that shows the result: the moved one, or the moving one under the transform."""
        if self.parameters.outputVolume is not None:
            return self.parameters.outputVolume
        return self.parameters.movingVolume if self._isAttached() else None

    # Buttons

    def onBefore(self, checked=False):
        self.show("before")

    def onOverlay(self, checked=False):
        self.show("overlay")

    def onSwap(self, checked=False):
        """Flicker between the fixed volume and the one that is shown with it."""
        if self._picture not in ("before", "overlay"):
            self.show("overlay" if self._front() is not None else "before")
        self.review.swap()

    def onFlicker(self, checked):
        """Let the two volumes take turns by themselves, or stop."""
        if checked:
            self.onSwap()
        self._flicker(checked)

    def _flicker(self, on):
        self.ui.flickerButton.checked = on
        if on:
            self._flickerTimer.start()
        elif self._flickerTimer.isActive():
            self._flickerTimer.stop()
            self.review.setOpacity(self.parameters.overlayOpacity if self.parameters is not None else 0.5)

    def onCheckerboard(self, checked=False):
        self.show("checkerboard")

    def onCurtain(self, checked=False):
        self.show("curtain")

    def onDifference(self, checked=False):
        self.show("difference")

    def onEdges(self, checked=False):
        self.show("edges")

    def _onCurtainMoved(self, value):
        if self._picture == "curtain":
            self.show("curtain")

    def onSideBySide(self, checked):
        if checked and not self._picture:
            self.show("overlay" if self._front() is not None else "before")
        self.review.setSideBySide(checked)
        # the views get their size only when the event loop runs again
        rows = self.review.sideBySide
        qt.QTimer.singleShot(0, rows.match if checked else rows.restorePlaces)

    def onJacobian(self, checked):
        self._showMap("jacobian", checked)

    def onMagnitude(self, checked):
        self._showMap("magnitude", checked)

    def _showMap(self, picture, checked):
        if checked:
            self.show(picture)
        elif self._front() is not None:
            self.show("overlay")
        else:
            self._mark("")

    def onGrid(self, checked):
        review.showGrid(self.parameters.outputTransform, self.parameters.fixedVolume, checked)
        self.update(self.parameters)

    def onArrows(self, checked):
        review.showGrid(self.parameters.outputTransform, self.parameters.fixedVolume, checked, arrows=True)
        self.update(self.parameters)

    def onSurfaces(self, checked):
        """Show the carried segments in 3D, coloured by displacement, or hide them."""
        parameters = self.parameters
        known = surfaces.modelOf(parameters.outputTransform)
        if not checked:
            surfaces.setVisible(parameters.outputTransform, False)
        elif surfaces.show(parameters.outputTransform, parameters.outputSegmentation, parameters.fixedVolume) is None:
            self.panel.showError({"message": _("The segments are empty: carry others along."), "details": ""})
        elif known is None:
            for view in views.shownThreeDViews():
                view.resetFocalPoint()
                view.resetCamera()
        self.update(parameters)

    # Measures

    def _rows(self):
        return measures.measuresOf(self.outputs(), self.panel.ticked("carriedLabels"))

    def onMeasures(self, checked):
        """Show the measures below the button, and keep them in a table node of the scene."""
        self.ui.measuresButton.checked = checked
        self._fillTable(self._rows() if checked else [])
        if checked:
            measures.table(self.outputs(), self.panel.ticked("carriedLabels"))

    def _fillTable(self, rows):
        self.ui.measuresButton.checked = bool(rows)
        self.ui.measuresFrame.visible = bool(rows)
        tables.fill(self.ui.measuresTable, measures.titles(), rows, stretched=True)

    def onCopyMeasures(self, checked=False):
        tables.copy(self.panel, measures.titles(), self._rows())

    def onSaveMeasures(self, checked=False):
        tables.save(self.panel, self.ui.measuresFrame, _("Save the table"), "SynthMorph measures.csv",
                    measures.titles(), self._rows())

    def _onMouseMoved(self, caller, event):
        point = [0.0] * 3
        text = ""
        if self.parameters is not None and caller.GetCursorPositionRAS(point):
            text = measures.valuesAt(point, self.parameters.outputTransform, self.parameters.outputJacobian)
        self.ui.mouseLabel.text = text or "-"

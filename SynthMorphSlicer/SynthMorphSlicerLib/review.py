"""What the slice views show of a result: overlay, swap, checkerboard, warp grid, side by side.

Only the layers of the slice views are touched; slice position and zoom stay the user's, and so does the layout unless
the two rows of :mod:`.side_by_side` are asked for.  What was shown before is put back by :meth:`Review.restore`.
"""

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from . import comparisons, scene
from .side_by_side import LOWER, SideBySide

MADE = ("checkerboard", "curtain", "difference", "edges")  # pictures made of both volumes
GRID_LINES = 20  # across the field of view


class Review:
    """State of the views while the module is open."""

    def __init__(self):
        self.sideBySide = SideBySide()
        self._before = {}
        self._checkerboardID = ""
        self._shown = None  # (ID behind, ID in front, opacity, whether the one in front needs the other behind it)
        self._swapped = False

    def showOverlay(self, fixedNode, frontNode, opacity, isMap=False):
        """The fixed volume behind, another one in front, in linked views.

        :param isMap: the one in front is a map of the fixed volume, and side by side it is shown over it.
        """
        self._shown, self._swapped = (fixedNode.GetID(), frontNode.GetID(), opacity, isMap), False
        empty = all(node.GetBackgroundVolumeID() is None for node in _compositeNodes())
        self._setLayers()
        if empty:  # nothing was shown before, so there is no position to keep
            slicer.util.setSliceViewerLayers(fit=True)

    def setOpacity(self, opacity):
        """Of the volume in front."""
        self._swapped = False
        if self._shown is not None:
            self._shown = (*self._shown[:2], opacity, self._shown[3])
        for node in _compositeNodes():
            if node.GetID() in self._before:
                node.SetForegroundOpacity(opacity)

    def shows(self, fixedNode, frontNode):
        """True if these two are in the views."""
        return self._shown is not None and self._shown[:2] == (fixedNode.GetID(), frontNode.GetID())

    def swap(self):
        """Show only the volume in front, then only the fixed one, in turn."""
        self._swapped = not self._swapped
        for node in _compositeNodes():
            if node.GetID() in self._before:
                node.SetForegroundOpacity(0.0 if self._swapped else 1.0)

    def showCheckerboard(self, fixedNode, movedNode):
        """Squares of the two volumes in turn, as a volume of its own that is not saved."""
        self.showMade(fixedNode, movedNode, "checkerboard")

    def showMade(self, fixedNode, movedNode, kind, share=0.5):
        """A picture made of both volumes, one of :data:`MADE`; ``share`` is where the curtain hangs."""
        node = slicer.mrmlScene.GetNodeByID(self._checkerboardID)
        if node is None:
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "SynthMorph")
            node.SetSaveWithScene(False)
            self._checkerboardID = node.GetID()
        node.SetName(_("SynthMorph {picture}").format(picture=kind))
        first, second = _windowed(fixedNode), _windowed(movedNode)
        if kind == "curtain":
            matrix = vtk.vtkMatrix4x4()
            fixedNode.GetIJKToRASMatrix(matrix)
            made = comparisons.curtain(first, second, scene.toArray(matrix), share)
        elif kind == "difference":
            made = comparisons.difference(first, second)
        else:
            made = getattr(comparisons, kind)(first, second, fixedNode.GetSpacing())
        scene.setVolumeOnFixed(node, made, fixedNode)
        if node.GetDisplayNode() is None:
            node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevel(1.0, 0.5)
        self.showOverlay(fixedNode, node, 1.0)

    def setSideBySide(self, on):
        """Show the fixed volume above and what is in front below, or go back to the layout of before."""
        if on:
            self.sideBySide.show()
        else:
            self.sideBySide.hide()
            self._restoreViews([node for node in _compositeNodes() if node.GetLayoutName() in LOWER])
        if self._shown is not None:
            self._setLayers()

    def restore(self):
        """Put back what the slice views showed before; called on leaving the module."""
        self.sideBySide.hide()
        self._restoreViews(_compositeNodes())
        self._before, self._shown, self._swapped = {}, None, False
        checkerboardNode = slicer.mrmlScene.GetNodeByID(self._checkerboardID)
        if checkerboardNode is not None:
            slicer.mrmlScene.RemoveNode(checkerboardNode)
        self._checkerboardID = ""

    def forget(self):
        """Drop the remembered state, because the scene it belongs to is going; the layout outlives it."""
        self.sideBySide.hide()
        self._before, self._shown, self._swapped, self._checkerboardID = {}, None, False, ""

    def _setLayers(self):
        behind, front, opacity, isMap = self._shown
        split = self.sideBySide.isOn()
        for node in _compositeNodes():
            if node.GetID() not in self._before:
                self._before[node.GetID()] = (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID(),
                                              node.GetLabelVolumeID(), node.GetForegroundOpacity(),
                                              node.GetLinkedControl(), node.GetHotLinkedControl())
            layers = (behind, front)
            if split:
                below = (behind, front) if isMap else (front, None)
                layers = below if node.GetLayoutName() in LOWER else (behind, None)
            node.SetBackgroundVolumeID(layers[0])
            node.SetForegroundVolumeID(layers[1])
            node.SetForegroundOpacity(opacity)
            node.SetLinkedControl(True)
            node.SetHotLinkedControl(True)

    def _restoreViews(self, compositeNodes):
        for node in compositeNodes:
            state = self._before.pop(node.GetID(), None)
            if state is None:
                continue
            background, foreground, label, opacity, linked, hot = state
            present = [identifier if identifier and slicer.mrmlScene.GetNodeByID(identifier) else None
                       for identifier in (background, foreground, label)]
            node.SetBackgroundVolumeID(present[0])
            node.SetForegroundVolumeID(present[1])
            node.SetLabelVolumeID(present[2])
            node.SetForegroundOpacity(opacity)
            node.SetLinkedControl(linked)
            node.SetHotLinkedControl(hot)


def showGrid(transformNode, fixedNode, visible, arrows=False):
    """The warped grid, or arrows of the displacement, in the slice views, as dense as the field of view asks for."""
    if transformNode.GetDisplayNode() is None:
        transformNode.CreateDefaultDisplayNodes()
    display = transformNode.GetDisplayNode()
    if visible:
        spacing = max(fieldOfView(fixedNode)) / GRID_LINES
        kind = slicer.vtkMRMLTransformDisplayNode
        display.SetVisualizationMode(kind.VIS_MODE_GLYPH if arrows else kind.VIS_MODE_GRID)
        display.SetGlyphSpacingMm(spacing / 2)
        display.SetGlyphScalePercent(100)
        display.SetAndObserveRegionNode(fixedNode)
        display.SetGridSpacingMm(spacing)
        display.SetGridResolutionMm(spacing / 4)
        display.SetGridLineDiameterMm(spacing / 20)
        display.SetGridScalePercent(100)
    display.SetVisibility(visible)
    display.SetVisibility2D(visible)
    display.SetVisibility3D(False)


def isGridVisible(transformNode, arrows=False):
    """True if :func:`showGrid` has the grid on, or the arrows."""
    display, kind = transformNode.GetDisplayNode(), slicer.vtkMRMLTransformDisplayNode
    mode = kind.VIS_MODE_GLYPH if arrows else kind.VIS_MODE_GRID
    return display is not None and bool(display.GetVisibility2D()) and display.GetVisualizationMode() == mode


def fieldOfView(volumeNode):
    """Edges of the volume's box in the world, mm."""
    bounds = [0.0] * 6
    volumeNode.GetRASBounds(bounds)
    return [bounds[1] - bounds[0], bounds[3] - bounds[2], bounds[5] - bounds[4]]


def _windowed(volumeNode):
    """Voxels as they are shown: 0 is black, 1 is white."""
    array = slicer.util.arrayFromVolume(volumeNode).astype(np.float32)
    display = volumeNode.GetDisplayNode()
    low, width = ((display.GetLevel() - display.GetWindow() / 2, display.GetWindow()) if display is not None
                  else (float(array.min()), float(np.ptp(array))))
    return np.clip((array - low) / max(width, 1e-9), 0, 1)


def _compositeNodes():
    return slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")  # the scene's own method leaks its collection

"""Looking at a result: overlay, swap, checkerboard, Jacobian, warp grid, values under the mouse, measures.

Only the layers of the slice views are touched; slice position, zoom and layout stay the user's.  What was shown
before is put back by :meth:`Review.restore`.
"""

import math

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from . import scene, segments

SQUARES = 8  # of the checkerboard, along the longest axis
GRID_LINES = 20  # across the field of view
MAGNITUDE_SPACING = 3.0  # mm


class Review:
    """State of the views while the module is open."""

    def __init__(self):
        self._before = {}
        self._checkerboardID = ""
        self._pair = None
        self._swapped = False

    # Layers

    def showOverlay(self, fixedNode, movedNode, opacity):
        """The fixed volume behind, the moved one in front, in linked views."""
        self._pair, self._swapped = (fixedNode.GetID(), movedNode.GetID()), False
        empty = all(node.GetBackgroundVolumeID() is None for node in _compositeNodes())
        self._setLayers(fixedNode.GetID(), movedNode.GetID(), opacity)
        if empty:  # nothing was shown before, so there is no position to keep
            slicer.util.setSliceViewerLayers(fit=True)

    def setOpacity(self, opacity):
        """Of the volume in front."""
        self._swapped = False
        for node in _compositeNodes():
            if node.GetID() in self._before:
                node.SetForegroundOpacity(opacity)

    def shows(self, fixedNode, frontNode):
        """True if these two are in the views."""
        return self._pair == (fixedNode.GetID(), frontNode.GetID())

    def swap(self):
        """Show only the volume in front, then only the fixed one, in turn."""
        self._swapped = not self._swapped
        for node in _compositeNodes():
            if node.GetID() in self._before:
                node.SetForegroundOpacity(0.0 if self._swapped else 1.0)

    def showCheckerboard(self, fixedNode, movedNode):
        """Squares of the two volumes in turn, as a volume of its own that is not saved."""
        node = slicer.mrmlScene.GetNodeByID(self._checkerboardID)
        if node is None:
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", _("SynthMorph checkerboard"))
            node.SetSaveWithScene(False)
            self._checkerboardID = node.GetID()
        scene.setVolumeOnFixed(node, checkerboard(_windowed(fixedNode), _windowed(movedNode), fixedNode.GetSpacing()),
                               fixedNode)
        if node.GetDisplayNode() is None:
            node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevel(1.0, 0.5)
        self.showOverlay(fixedNode, node, 1.0)

    def restore(self):
        """Put back what the slice views showed before; called on leaving the module."""
        for node in _compositeNodes():
            state = self._before.get(node.GetID())
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
        self.forget()
        checkerboardNode = slicer.mrmlScene.GetNodeByID(self._checkerboardID)
        if checkerboardNode is not None:
            slicer.mrmlScene.RemoveNode(checkerboardNode)
        self._checkerboardID = ""

    def forget(self):
        """Drop the remembered state, because the scene it belongs to is gone."""
        self._before, self._pair, self._swapped = {}, None, False

    def _setLayers(self, backgroundID, foregroundID, opacity):
        for node in _compositeNodes():
            if node.GetID() not in self._before:
                self._before[node.GetID()] = (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID(),
                                              node.GetLabelVolumeID(), node.GetForegroundOpacity(),
                                              node.GetLinkedControl(), node.GetHotLinkedControl())
            node.SetBackgroundVolumeID(backgroundID)
            node.SetForegroundVolumeID(foregroundID)
            node.SetForegroundOpacity(opacity)
            node.SetLinkedControl(True)
            node.SetHotLinkedControl(True)


# Pictures of a result


def showLegend(volumeNode, visible):
    """The colour legend of a Jacobian map."""
    logic = slicer.modules.colors.logic()
    legend = logic.GetColorLegendDisplayNode(volumeNode) or (
        logic.AddDefaultColorLegendDisplayNode(volumeNode) if visible else None)
    if legend is not None:
        legend.SetTitleText("log2 J")
        legend.SetLabelFormat("%.1f")
        legend.SetVisibility(visible)


def showGrid(transformNode, fixedNode, visible):
    """The warped grid in the slice views, with lines as far apart as the field of view asks for."""
    if transformNode.GetDisplayNode() is None:
        transformNode.CreateDefaultDisplayNodes()
    display = transformNode.GetDisplayNode()
    if visible:
        spacing = max(fieldOfView(fixedNode)) / GRID_LINES
        display.SetVisualizationMode(slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID)
        display.SetAndObserveRegionNode(fixedNode)
        display.SetGridSpacingMm(spacing)
        display.SetGridResolutionMm(spacing / 4)
        display.SetGridLineDiameterMm(spacing / 20)
        display.SetGridScalePercent(100)
    display.SetVisibility(visible)
    display.SetVisibility2D(visible)
    display.SetVisibility3D(False)


def isGridVisible(transformNode):
    """True if :func:`showGrid` has the grid on."""
    display = transformNode.GetDisplayNode()
    return display is not None and bool(display.GetVisibility2D())


def displacementMagnitude(transformNode, fixedNode):
    """Volume of how far, in millimetres, each point of the fixed volume is from its partner in the moving one."""
    bounds = [0.0] * 6
    fixedNode.GetRASBounds(bounds)
    sizes = [max(2, math.ceil((bounds[2 * axis + 1] - bounds[2 * axis]) / MAGNITUDE_SPACING) + 1) for axis in range(3)]
    sampler = vtk.vtkTransformToGrid()
    sampler.SetInput(transformNode.GetTransformFromParent())
    sampler.SetGridOrigin(bounds[0], bounds[2], bounds[4])
    sampler.SetGridSpacing(*[MAGNITUDE_SPACING] * 3)
    sampler.SetGridExtent(0, sizes[0] - 1, 0, sizes[1] - 1, 0, sizes[2] - 1)
    sampler.SetGridScalarTypeToFloat()
    sampler.Update()
    vectors = vtk_to_numpy(sampler.GetOutput().GetPointData().GetScalars()).reshape(*sizes[::-1], 3)
    matrix = np.diag([MAGNITUDE_SPACING] * 3 + [1.0])
    matrix[:3, 3] = bounds[::2]
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLScalarVolumeNode", _("Displacement {name} (mm)").format(name=transformNode.GetName()))
    node.SetIJKToRASMatrix(scene.toVTKMatrix(matrix))
    slicer.util.updateVolumeFromArray(node, np.linalg.norm(vectors, axis=-1).astype(np.float32))
    node.CreateDefaultDisplayNodes()
    return node


# Numbers


def valuesAt(point, transformNode, jacobianNode):
    """What the result says about a point (RAS) of the fixed volume: millimetres moved and per cent of volume."""
    parts = []
    if transformNode is not None and transformNode.GetTransformFromParent() is not None:
        partner = transformNode.GetTransformFromParent().TransformPoint(point)
        parts.append(_("displacement {distance:.1f} mm").format(distance=math.dist(point, partner)))
    value = _voxelAt(jacobianNode, point) if jacobianNode is not None else None
    if value is not None:
        parts.append(_("folding") if value == scene.FOLDED
                     else _("local volume {percent:+.0f} %").format(percent=100 * (2.0**value - 1)))
    return ", ".join(parts)


def measuresTable(job, labelNodes):
    """A table node of what the registration did: settings, time, folding, and segment volumes before and after."""
    rows = [(_("Model"), job.provenance.get("model", "")), (_("Device"), job.provenance.get("device", "")),
            (_("Lambda"), f"{job.settings.regularization:g}"), (_("Seconds"), f"{job.seconds:.1f}")]
    jacobian = job.outputs.get("jacobian")
    if jacobian is not None:
        for label, key in ((_("Folding voxels"), "foldingVoxels"), (_("Folding (%)"), "foldingPercent"),
                           (_("Smallest J"), "smallestJacobian")):
            rows.append((label, jacobian.GetAttribute(scene.ATTRIBUTE + key)))
    segmentation = job.outputs.get("segmentation")
    if segmentation is not None:
        rows += _volumeChanges(segmentation, labelNodes)
    node = slicer.mrmlScene.GetNodeByID(job.tableID) if job.tableID else None
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", _("SynthMorph measures"))
        job.tableID = node.GetID()
    node.RemoveAllColumns()
    for title, values in zip((_("Measure"), _("Value")), zip(*rows)):
        column = vtk.vtkStringArray()
        column.SetName(title)
        for value in values:
            column.InsertNextValue(str(value))
        node.AddColumn(column)
    return node


def _volumeChanges(segmentation, labelNodes):
    before = {}
    for node in labelNodes:
        if node.IsA("vtkMRMLSegmentationNode"):
            before.update(segments.volumesOf(node))
    rows = []
    for name, volume in segments.volumesOf(segmentation).items():
        text = _("{volume:.2f} ml").format(volume=volume)
        if before.get(name):
            text += _(", was {volume:.2f} ml ({change:+.0f} %)").format(
                volume=before[name], change=100 * (volume / before[name] - 1))
        rows.append((_("Volume of {name}").format(name=name), text))
    return rows


def checkerboard(first, second, spacing):
    """Cubes of two arrays (k, j, i) in turn; spacing (i, j, k) in mm keeps them cubes in the world."""
    side = max(n * s for n, s in zip(first.shape[::-1], spacing)) / SQUARES
    k, j, i = (np.floor(np.arange(n) * s / side).astype(int) for n, s in zip(first.shape, spacing[::-1]))
    odd = (k[:, None, None] + j[None, :, None] + i[None, None, :]) % 2
    return np.where(odd, second, first).astype(np.float32)


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


def _voxelAt(volumeNode, point):
    if volumeNode.GetImageData() is None:
        return None
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetRASToIJKMatrix(matrix)
    parent = np.linalg.inv(scene.parentToWorld(volumeNode))
    index = np.round(scene.toArray(matrix) @ parent @ np.array([*point, 1.0]))[:3].astype(int)
    dimensions = volumeNode.GetImageData().GetDimensions()
    if any(n < 0 or n >= size for n, size in zip(index, dimensions)):
        return None
    return float(slicer.util.arrayFromVolume(volumeNode)[tuple(index[::-1])])


def _compositeNodes():
    nodes = slicer.mrmlScene.GetNodesByClass("vtkMRMLSliceCompositeNode")
    return [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]

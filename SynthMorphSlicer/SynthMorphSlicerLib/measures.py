"""Numbers of a result: under the mouse, in a table, on the clipboard, in a CSV file.

They are read from the output nodes themselves, so they are there again when a saved scene is opened.
"""

import math

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from . import maps, scene, segments

DEFORMING = ("joint", "deform")  # transforms for which lambda has a meaning
TABLE_ROLE = "SynthMorphMeasures"  # from an output node to the table
STEP = 0.5  # mm to each side, for the volume change at a point


def valuesAt(point, transformNode, jacobianNode):
    """What the result says about a point (RAS) of the fixed volume: millimetres moved and per cent of volume."""
    parts = []
    if transformNode is not None and transformNode.GetTransformFromParent() is not None:
        partner = transformNode.GetTransformFromParent().TransformPoint(point)
        parts.append(_("displacement {distance:.1f} mm").format(distance=math.dist(point, partner)))
    determinant = _determinantAt(point, transformNode, jacobianNode)
    if determinant is not None:
        parts.append(_("local volume {percent:+d} %").format(percent=round(100 * (determinant - 1))) if determinant > 0
                     else _("folding"))
    return ", ".join(parts)


def _determinantAt(point, transformNode, jacobianNode):
    """Local volume change at a point: as the map has it, or by differences of the transform where there is none."""
    value = _voxelAt(jacobianNode, point) if jacobianNode is not None else None
    if value is not None:
        return 0.0 if value == maps.FOLDED else 2.0**value
    if transformNode is None or transformNode.GetTransformFromParent() is None:
        return None
    transform = transformNode.GetTransformFromParent()
    steps = np.eye(3) * STEP
    columns = [np.subtract(transform.TransformPoint(point + step), transform.TransformPoint(point - step))
               for step in steps]
    return float(np.linalg.det(np.array(columns).T / (2 * STEP)))


def areThere(outputs):
    """True if there is something to measure; quick, unlike the measures themselves."""
    return any(_attribute(node, "lambda") for node in outputs.values())


def measuresOf(outputs, labelNodes=()):
    """What a registration was and did: settings, time, folding, and segment volumes before and after.

    :param outputs: dictionary of output nodes by name.
    :param labelNodes: the segmentations that were carried along, to compare with.
    :return: list of (name, value) pairs of text; empty if the nodes are not results of a registration.
    """
    if not areThere(outputs):
        return []
    first = next(node for node in outputs.values() if _attribute(node, "lambda"))
    rows = [(label, _attribute(first, key)) for label, key in (
        (_("Moving volume"), "moving"), (_("Fixed volume"), "fixed"), (_("Model"), "model"), (_("Device"), "device"),
        (_("Transform"), "transform"), (_("Lambda"), "lambda"), (_("Seconds"), "seconds"), (_("Date"), "date"))
            if key != "lambda" or _attribute(first, "transform") in DEFORMING]
    jacobian = outputs.get("jacobian")
    if jacobian is not None:
        rows += [(label, _attribute(jacobian, key)) for label, key in (
            (_("Folding voxels"), "foldingVoxels"), (_("Folding (%)"), "foldingPercent"),
            (_("Smallest J"), "smallestJacobian"), (_("Largest J"), "largestJacobian"))]
    if outputs.get("segmentation") is not None:
        rows += _volumeChanges(outputs["segmentation"], labelNodes)
    return rows


def titles():
    """Column titles of :func:`measuresOf`."""
    return [_("Measure"), _("Value")]


def table(outputs, labelNodes=()):
    """The measures as a table node of the scene, one for a registration."""
    rows = measuresOf(outputs, labelNodes)
    owner = next(iter(outputs.values()))
    node = owner.GetNodeReference(TABLE_ROLE)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", _("SynthMorph measures"))
        for output in outputs.values():
            output.SetNodeReferenceID(TABLE_ROLE, node.GetID())
        scene.putBeside(node, owner)
    node.RemoveAllColumns()
    for title, values in zip(titles(), zip(*rows)):
        column = vtk.vtkStringArray()
        column.SetName(title)
        for value in values:
            column.InsertNextValue(value)
        node.AddColumn(column)
    return node


def _attribute(node, key):
    return node.GetAttribute(scene.ATTRIBUTE + key) or ""


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

"""Propagated structures in 3D, coloured by how far, in millimetres, each point of their surface was displaced."""

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from . import maps, scene, segments

ARRAY = "Displacement (mm)"
ROLE = "SynthMorphSurfaces"  # from the transform to the model


def show(transformNode, segmentationNode, fixedNode):
    """Make or update the model of all segments' surfaces, and show it with its legend.

    The model lies where the segmentation does; the affine part counts, as in the map of the displacement.

    :return: the model node; None if no segment has a surface.
    """
    surface = _surface(segmentationNode)
    if surface.GetNumberOfPoints() == 0:
        return None
    lengths = _lengths(surface, transformNode, segmentationNode)
    scalars = numpy_to_vtk(lengths, deep=True)
    scalars.SetName(ARRAY)
    surface.GetPointData().SetScalars(scalars)
    node = modelOf(transformNode)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLModelNode", _("Displaced surfaces {name} (mm)").format(name=transformNode.GetName()))
        transformNode.SetNodeReferenceID(ROLE, node.GetID())
        node.CreateDefaultDisplayNodes()
        scene.putBeside(node, transformNode)
    node.SetAndObservePolyData(surface)
    node.SetAndObserveTransformNodeID(fixedNode.GetTransformNodeID())
    display = node.GetDisplayNode()
    display.SetActiveScalar(ARRAY, vtk.vtkAssignAttribute.POINT_DATA)
    display.SetScalarVisibility(True)
    display.SetAndObserveColorNodeID(maps.colors("SynthMorph displacement in 3D").GetID())
    display.SetScalarRangeFlag(slicer.vtkMRMLDisplayNode.UseManualScalarRange)
    display.SetScalarRange(*_range(lengths))
    display.SetVisibility2D(False)
    display.SetAmbient(0.3)  # so that the shaded side keeps its colour
    setVisible(transformNode, True)
    return node


def setVisible(transformNode, visible):
    """Show or hide the surfaces of a transform, if there are any, together with their legend."""
    node = modelOf(transformNode)
    if node is not None:
        node.GetDisplayNode().SetVisibility(visible)
        maps.showLegend(node, visible, "mm")


def areVisible(transformNode):
    """True if the surfaces are shown."""
    node = modelOf(transformNode)
    return node is not None and bool(node.GetDisplayNode().GetVisibility())


def modelOf(transformNode):
    """The model of a transform's surfaces, or None."""
    return transformNode.GetNodeReference(ROLE)


def _surface(segmentationNode):
    """Closed surfaces of all segments in one; the segmentation itself stays as it is."""
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentationNode.GetSegmentation())
    for identifier in copy.GetSegmentIDs():
        voxels = copy.GetSegment(identifier).GetRepresentation(segments.BINARY)
        if voxels is not None and voxels.IsEmpty():  # the conversion complains of these
            copy.RemoveSegment(identifier)
    name = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    copy.CreateRepresentation(name)
    append, filled = vtk.vtkAppendPolyData(), False
    for index in range(copy.GetNumberOfSegments()):
        surface = copy.GetNthSegment(index).GetRepresentation(name)
        if surface is not None and surface.GetNumberOfPoints():
            append.AddInputData(surface)
            filled = True
    if filled:
        append.Update()
    return append.GetOutput()


def _lengths(surface, transformNode, segmentationNode):
    """Distance in mm from each point of the surface, in the fixed world, to its partner in the moving world."""
    points = vtk_to_numpy(surface.GetPoints().GetData()).astype(np.float64)
    parent = scene.parentToWorld(segmentationNode)
    world = points @ parent[:3, :3].T + parent[:3, 3]
    here, there = vtk.vtkPoints(), vtk.vtkPoints()
    for target in (here, there):
        target.SetDataTypeToDouble()
    here.SetData(numpy_to_vtk(np.ascontiguousarray(world), deep=True))
    transformNode.GetTransformFromParent().TransformPoints(here, there)
    return np.linalg.norm(vtk_to_numpy(there.GetData()) - world, axis=-1).astype(np.float32)


def _range(lengths):
    """From the least to nearly the greatest displacement, so that all colours are used; never narrower than 0.5 mm."""
    low, high = float(np.floor(2 * lengths.min()) / 2), float(np.percentile(lengths, 99.5))
    return low, max(high, low + 0.5)

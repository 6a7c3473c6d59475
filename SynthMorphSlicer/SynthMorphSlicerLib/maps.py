"""Maps of a result: the Jacobian determinant with its folding marked, and the length of the displacement.

Colours and windows are set so that a map can be read without touching anything, and so that the next map can be
compared with it.
"""

import math

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from . import scene, segments

FOLDED = -99.0  # stands in Jacobian maps where there is no logarithm
FOLDING_COLOR = (1.0, 0.0, 1.0)  # in no other colour scale of this module
FOLDING_ROLE = "SynthMorphFolding"  # from a Jacobian map to the segmentation that marks its folding
DISPLACEMENT_ROLE = "SynthMorphDisplacement"  # from a transform to its displacement map
LIMITS = (0.5, 1.0, 2.0, 3.0)  # of the colours, log2 J: the first that leaves out less than one voxel in a thousand
DISPLACEMENT_SPACING = 3.0  # mm
DIVERGING = ((0.02, 0.19, 0.38), (0.26, 0.58, 0.76), (1, 1, 1), (0.84, 0.38, 0.30), (0.40, 0, 0.12))
SURFACES = ((0.27, 0.0, 0.33), (0.23, 0.32, 0.55), (0.13, 0.57, 0.55), (0.37, 0.79, 0.38), (0.99, 0.91, 0.14))
SEQUENTIAL = ((0.0, 0.0, 0.02), (0.34, 0.06, 0.43), (0.73, 0.21, 0.33), (0.98, 0.55, 0.04), (0.99, 1.0, 0.64))
TABLES = {"SynthMorph volume change": DIVERGING, "SynthMorph agreement": SEQUENTIAL[:0:-1],
          "SynthMorph displacement": SEQUENTIAL, "SynthMorph displacement in 3D": SURFACES}


def setJacobian(volumeNode, determinant, fixedNode):
    """Fill a volume with log2 of the Jacobian determinant and colour it: red grows, blue shrinks, white stays.

    Folding voxels get a mark of their own, a magenta segment over the map: as a colour of the map they could not be
    told from voxels that shrink beyond its scale.  Their number and share are kept as attributes.

    :return: list of further nodes that belong to the map: the segmentation that marks the folding, if there is any.
    """
    folds = ~(determinant > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.where(folds, FOLDED, np.log2(determinant)).astype(np.float32)
    scene.setVolumeOnFixed(volumeNode, logarithm, fixedNode)
    for name, value in (("foldingVoxels", str(int(folds.sum()))), ("foldingPercent", f"{100 * folds.mean():.4f}"),
                        ("smallestJacobian", f"{determinant.min():.4f}"),
                        ("largestJacobian", f"{determinant.max():.4f}")):
        volumeNode.SetAttribute(scene.ATTRIBUTE + name, value)
    limit = next((limit for limit in LIMITS if np.mean(np.abs(logarithm[~folds]) > limit) < 0.001), LIMITS[-1])
    _show(volumeNode, colors("SynthMorph volume change"), -limit, limit)
    volumeNode.GetDisplayNode().SetInterpolate(False)  # or folding voxels would bleed into their neighbours' colours
    return markFolding(volumeNode, fixedNode)


def markFolding(volumeNode, fixedNode):
    """Mark where a Jacobian map says that the transform folds.

    :return: list of the segmentation that marks it, empty if nothing folds.
    """
    folds = slicer.util.arrayFromVolume(volumeNode) == FOLDED
    node = volumeNode.GetNodeReference(FOLDING_ROLE)
    if not folds.any():
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)
        return []
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode",
                                                  _("Folding in {name}").format(name=volumeNode.GetName()))
        volumeNode.SetNodeReferenceID(FOLDING_ROLE, node.GetID())
    segment = slicer.vtkSegment()
    segment.SetName(_("Folding (J <= 0)"))
    segment.SetColor(*FOLDING_COLOR)
    segment.SetLabelValue(1)
    segments.fill(node, [(folds.astype(np.uint8), [("folding", segment)])], [], fixedNode)
    node.GetDisplayNode().SetOpacity2DFill(1.0)
    return [node]


def setAgreement(volumeNode, share, referenceNode):
    """Fill a volume with the share of the votes that went to a voxel's label (0 to 1), and colour it.

    Where all agree nothing is drawn, so that the patient is seen there.
    """
    scene.setVolumeOnFixed(volumeNode, share, referenceNode)
    _show(volumeNode, colors("SynthMorph agreement"), 0.0, 1.0)
    volumeNode.GetDisplayNode().SetThreshold(0.0, 0.999)
    volumeNode.GetDisplayNode().SetApplyThreshold(True)
    volumeNode.GetDisplayNode().SetInterpolate(False)


def showMarks(jacobianNode, visible):
    """Show or hide what belongs to a Jacobian map in the views: its legend and its folding marks."""
    showLegend(jacobianNode, visible, "log2 J")
    folding = jacobianNode.GetNodeReference(FOLDING_ROLE)
    if folding is not None and folding.GetDisplayNode() is not None:
        folding.GetDisplayNode().SetVisibility(visible)


def uncover(segmentationNode, mapIsShown):
    """Take the fill of segments away while a map is to be read, and only then; the outlines stay."""
    display, mark = segmentationNode.GetDisplayNode(), scene.ATTRIBUTE + "fillTakenAway"
    if display is None:
        return
    if mapIsShown and display.GetVisibility2DFill():
        display.SetVisibility2DFill(False)
        display.SetAttribute(mark, "1")
    elif not mapIsShown and display.GetAttribute(mark):
        display.SetVisibility2DFill(True)
        display.SetAttribute(mark, None)


def showLegend(volumeNode, visible, title):
    """The colour legend of a map."""
    logic = slicer.modules.colors.logic()
    legend = logic.GetColorLegendDisplayNode(volumeNode) or (
        logic.AddDefaultColorLegendDisplayNode(volumeNode) if visible else None)
    if legend is not None:
        legend.SetTitleText(title)
        legend.SetLabelFormat("%.1f")
        legend.SetVisibility(visible)
        legend.Modified()  # it does not notice by itself that the range of its map has changed


def displacement(transformNode, fixedNode):
    """Volume of how far, in millimetres, each point of the fixed volume is from its partner in the moving one.

    The affine part counts.  There is one such volume for a transform; it is updated in place.
    """
    bounds = [0.0] * 6
    fixedNode.GetRASBounds(bounds)
    sizes = [max(2, math.ceil((bounds[2 * axis + 1] - bounds[2 * axis]) / DISPLACEMENT_SPACING) + 1)
             for axis in range(3)]
    sampler = vtk.vtkTransformToGrid()
    sampler.SetInput(transformNode.GetTransformFromParent())
    sampler.SetGridOrigin(bounds[0], bounds[2], bounds[4])
    sampler.SetGridSpacing(*[DISPLACEMENT_SPACING] * 3)
    sampler.SetGridExtent(0, sizes[0] - 1, 0, sizes[1] - 1, 0, sizes[2] - 1)
    sampler.SetGridScalarTypeToFloat()
    sampler.Update()
    vectors = vtk_to_numpy(sampler.GetOutput().GetPointData().GetScalars()).reshape(*sizes[::-1], 3)
    lengths = np.linalg.norm(vectors, axis=-1).astype(np.float32)
    matrix = np.diag([DISPLACEMENT_SPACING] * 3 + [1.0])
    matrix[:3, 3] = bounds[::2]
    node = transformNode.GetNodeReference(DISPLACEMENT_ROLE)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLScalarVolumeNode", _("Displacement {name} (mm)").format(name=transformNode.GetName()))
        transformNode.SetNodeReferenceID(DISPLACEMENT_ROLE, node.GetID())
        scene.putBeside(node, transformNode)
    with slicer.util.NodeModify(node):
        node.SetIJKToRASMatrix(scene.toVTKMatrix(matrix))
        slicer.util.updateVolumeFromArray(node, lengths)
    _show(node, colors("SynthMorph displacement"), 0.0, max(float(np.percentile(lengths, 99.5)), 1.0))
    return node


def colors(name):
    """A colour table of this module: the one that is in the scene, or a new one."""
    existing = slicer.mrmlScene.GetFirstNodeByName(name)
    table = existing or slicer.vtkMRMLColorTableNode()
    if existing is None:
        table.SetTypeToUser()
        table.SetName(name)
    with slicer.util.NodeModify(table):
        table.HideFromEditorsOff()  # hidden ones are not saved
        table.SetNumberOfColors(256)
        places = np.linspace(0, 255, len(TABLES[name]))
        for index in range(256):
            color = [np.interp(index, places, channel) for channel in zip(*TABLES[name])]
            table.SetColor(index, f"{index}", *color, 1.0)
    return existing or slicer.mrmlScene.AddNode(table)


def repaint():
    """Fill the colour tables of this module that came with a scene: without their files they are black."""
    for name in TABLES:
        if slicer.mrmlScene.GetFirstNodeByName(name) is not None:
            colors(name)


def _show(volumeNode, colorNode, low, high):
    if volumeNode.GetDisplayNode() is None:
        volumeNode.CreateDefaultDisplayNodes()
    display = volumeNode.GetDisplayNode()
    display.SetAndObserveColorNodeID(colorNode.GetID())
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(high - low, (high + low) / 2)

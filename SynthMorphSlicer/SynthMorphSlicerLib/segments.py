"""Segmentations and label maps on their way through a registration, segment by segment and yet in few files.

Slicer keeps segments that do not overlap in one shared label image, a layer.  Layers are what is warped: nothing is
flattened, and a hundred segments are one file.
"""

import hashlib

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from . import scene

BINARY, SURFACE = "Binary labelmap", "Closed surface"
MADE = scene.ATTRIBUTE + "made"  # attribute: what a segmentation held when this module made it
IN_3D = scene.ATTRIBUTE + "in3D"  # attribute: the surfaces that there were are still to be made
KEPT = _("'{name}' was changed by hand and is kept as it is.")
NAMED = 3  # of the segments that are lost
COUNTED = 65535  # largest label up to which counting is quicker than sorting


class Layer:
    """One label image in the moving world and the segments whose values it holds."""

    def __init__(self, array, ijkToWorld, segments):
        self.array, self.ijkToWorld, self.segments = array, ijkToWorld, segments


def layersOf(node, referenceVolume):
    """Layers of a segmentation or label map node.

    :param referenceVolume: gives the geometry for a segmentation that was not drawn on voxels.
    :return: list of layers, and list of (ID, segment) of the segments that are empty.
    """
    segmentation = _onVoxels(node, referenceVolume)
    parent = scene.detached(node)
    layers, empty = [], []
    for index in range(segmentation.GetNumberOfLayers(BINARY)):
        identifiers = segmentation.GetSegmentIDsForLayer(index, BINARY)
        segments = [(identifier, _withoutVoxels(segmentation.GetSegment(identifier))) for identifier in identifiers]
        image = segmentation.GetLayerDataObject(index, BINARY)
        if image is None or image.IsEmpty():
            empty += segments
        else:
            array, matrix = _arrayOf(image)
            held = _labelsIn(array)
            drawn = []
            for one in segments:
                (drawn if one[1].GetLabelValue() in held else empty).append(one)
            if drawn:  # copies: a segmentation that goes away takes its segments out of the image they share
                layers.append(Layer(array.copy(), parent @ matrix, drawn))
    return layers, empty


def fill(node, warped, empty, fixedNode, in3D=True):
    """Replace a segmentation node's segments with warped ones, on the fixed volume's grid.

    :param warped: list of (array (k, j, i) on the fixed grid, segments) pairs.
    :param empty: (ID, segment) pairs that have no voxels.
    :param in3D: make surfaces anew if there were any, which takes a while; if not, the next call makes them.

    IDs, names, colours, terminology and layers stay as they were; an ID that two inputs share gets a number.
    """
    node.SetReferenceImageGeometryParameterFromVolumeNode(fixedNode)
    node.SetAndObserveTransformNodeID(fixedNode.GetTransformNodeID())
    segmentation = node.GetSegmentation()
    hadSurfaces = segmentation.ContainsRepresentation(SURFACE) or bool(node.GetAttribute(IN_3D))
    with slicer.util.NodeModify(node):
        segmentation.RemoveAllSegments()
        segmentation.SetSourceRepresentationName(BINARY)  # a chosen node may have held surfaces, which cannot be edited
        for array, segments in warped:
            image = _orientedImage(array, fixedNode)
            for identifier, source in segments:
                _add(segmentation, identifier, source, image)
        for identifier, source in empty:
            _add(segmentation, identifier, source, slicer.vtkOrientedImageData())
    node.SetAttribute(IN_3D, "wanted" if hadSurfaces and not in3D else None)
    if hadSurfaces and in3D:
        node.CreateClosedSurfaceRepresentation()
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    markMade(node)


def lossNote(warped):
    """One sentence on segments of which nothing is left, or an empty string; ``warped`` as for :func:`fill`."""
    lost = []
    for array, segments in warped:
        held = _labelsIn(array)
        lost += [segment.GetName() or identifier for identifier, segment in segments
                 if segment.GetLabelValue() not in held]
    if not lost:
        return ""
    names = ", ".join(lost[:NAMED]) + (", ..." if len(lost) > NAMED else "")
    return _("Nothing is left of {number} segments ({names}): they lie outside the fixed volume, or are too small or "
             "too thin for its voxels.").format(number=len(lost), names=names)


def markMade(node):
    """Note what a segmentation holds now as made by this module, not by hand."""
    node.SetAttribute(MADE, _contents(node))


def isEdited(node):
    """True if a segmentation holds anything that a person made: drawn, renamed, coloured, added, removed or loaded."""
    made = node.GetAttribute(MADE)
    return made != _contents(node) if made else node.GetSegmentation().GetNumberOfSegments() > 0


def _contents(node):
    """Text that changes with voxels, names and colours; the same after saving and loading, which crop the images."""
    segmentation = node.GetSegmentation()
    told, images = [], []
    for number in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(number)
        told.append((segment.GetName(), [round(100 * part) for part in segment.GetColor()]))
    for layer in range(segmentation.GetNumberOfLayers(BINARY)):
        image = segmentation.GetLayerDataObject(layer, BINARY)
        if image is None or image.IsEmpty():
            continue
        array, matrix = _arrayOf(image)
        order = np.zeros(max(int(array.max()), 0) + 1, np.uint16)  # the labels may be numbered anew, too
        for identifier in segmentation.GetSegmentIDsForLayer(layer, BINARY):
            value = segmentation.GetSegment(identifier).GetLabelValue()
            if 0 < value < len(order):
                order[value] = segmentation.GetSegmentIndex(identifier) + 1
        where = [np.flatnonzero(array.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        if where[0].size:
            box = tuple(slice(int(found[0]), int(found[-1]) + 1) for found in where)
            corner = matrix @ [box[2].start, box[1].start, box[0].start, 1]
            place = [round(10 * value) for value in corner[:3]]
            voxels = order[array[box].astype(np.int64)]
            images.append((place, voxels.shape, hashlib.sha256(voxels.tobytes()).hexdigest()))
    return hashlib.sha256(repr((told, sorted(images))).encode()).hexdigest()


def volumesOf(node):
    """Volumes in millilitres by segment name, to compare before and after."""
    return {node.GetSegmentation().GetSegment(identifier).GetName(): volume / 1000
            for identifier, (_voxels, volume) in sizesOf(node).items()}


def sizesOf(node):
    """Number of voxels and volume in cubic millimetres by segment ID; the node must hold binary label images."""
    sizes, counted = {}, {}
    segmentation = node.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        image = segment.GetRepresentation(BINARY)
        voxels, cell = 0, 0.0
        if image is not None and not image.IsEmpty():
            if image not in counted:  # many segments share one image
                array, matrix = _arrayOf(image)
                counted[image] = dict(zip(*np.unique(array, return_counts=True))), abs(np.linalg.det(matrix[:3, :3]))
            counts, cell = counted[image]
            voxels = int(counts.get(segment.GetLabelValue(), 0))
        sizes[segmentation.GetNthSegmentID(index)] = (voxels, float(voxels * cell))
    return sizes


def _onVoxels(node, referenceVolume):
    """The node's segments as binary label images in the node's own space; the node itself stays as it is."""
    if node.IsA("vtkMRMLSegmentationNode") and node.GetSegmentation().ContainsRepresentation(BINARY):
        return node.GetSegmentation()
    temporary = slicer.vtkMRMLSegmentationNode()
    temporary.SetHideFromEditors(True)
    slicer.mrmlScene.AddNode(temporary)
    try:
        temporary.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        if node.IsA("vtkMRMLSegmentationNode"):
            temporary.GetSegmentation().DeepCopy(node.GetSegmentation())
            temporary.SetReferenceImageGeometryParameterFromVolumeNode(referenceVolume)
            temporary.CreateBinaryLabelmapRepresentation()
        else:
            slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(node, temporary)
        segmentation = slicer.vtkSegmentation()
        segmentation.DeepCopy(temporary.GetSegmentation())
        return segmentation
    finally:
        slicer.mrmlScene.RemoveNode(temporary)


def _withoutVoxels(source):
    """A segment of the same name, colour, terminology and label value."""
    segment = slicer.vtkSegment()
    segment.DeepCopyMetadata(source)
    segment.SetLabelValue(source.GetLabelValue())
    return segment


def _add(segmentation, identifier, source, image):
    segment = _withoutVoxels(source)
    segment.AddRepresentation(BINARY, image)
    unique, number = identifier, 2
    while segmentation.GetSegment(unique) is not None:
        unique, number = f"{identifier}_{number}", number + 1
    if not segment.GetName():
        segment.SetName(unique)  # Slicer crashes when it exports a segment without a name
    segmentation.AddSegment(segment, unique)


def _ijkToRAS(volumeNode):
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return matrix


def _arrayOf(image):
    """Voxels (k, j, i) of an oriented image, whose extent need not start at zero, and its index-to-world matrix."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    shift = np.eye(4)
    shift[:3, 3] = image.GetExtent()[::2]
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    return array, scene.toArray(matrix) @ shift


def _labelsIn(array):
    """Label values that an array holds."""
    if array.size and array.max() > COUNTED:
        return set(np.unique(array).tolist())
    return set(np.flatnonzero(np.bincount(array.ravel().clip(0).astype(np.int64))).tolist())


def _orientedImage(array, volumeNode):
    """An oriented image of an array on a volume's grid."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*array.shape[::-1])
    image.SetImageToWorldMatrix(_ijkToRAS(volumeNode))
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
    return image

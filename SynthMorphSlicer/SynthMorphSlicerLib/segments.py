"""Segmentations and label maps on their way through a registration, segment by segment and yet in few files.

Slicer keeps segments that do not overlap in one shared label image, a layer.  Layers are what is warped: nothing is
flattened, and a hundred segments are one file.
"""

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from . import scene

BINARY = "Binary labelmap"


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
            # copies: a segmentation that goes away takes its segments out of the image they share
            layers.append(Layer(array.copy(), parent @ matrix, segments))
    return layers, empty


def fill(node, warped, empty, fixedNode):
    """Replace a segmentation node's segments with warped ones, on the fixed volume's grid.

    :param warped: list of (array (k, j, i) on the fixed grid, segments) pairs.
    :param empty: (ID, segment) pairs that have no voxels.

    IDs, names, colours, terminology and layers stay as they were; an ID that two inputs share gets a number.
    """
    node.SetReferenceImageGeometryParameterFromVolumeNode(fixedNode)
    node.SetAndObserveTransformNodeID(fixedNode.GetTransformNodeID())
    segmentation = node.GetSegmentation()
    with slicer.util.NodeModify(node):
        segmentation.RemoveAllSegments()
        segmentation.SetSourceRepresentationName(BINARY)  # a chosen node may have held surfaces, which cannot be edited
        for array, segments in warped:
            image = _orientedImage(array, fixedNode)
            for identifier, source in segments:
                _add(segmentation, identifier, source, image)
        for identifier, source in empty:
            _add(segmentation, identifier, source, slicer.vtkOrientedImageData())
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()


def volumesOf(node):
    """Volumes in millilitres by segment name, to compare before and after."""
    volumes, counted = {}, {}
    segmentation = node.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        image = segment.GetRepresentation(BINARY)
        volumes[segment.GetName()] = 0.0
        if image is not None and not image.IsEmpty():
            if image not in counted:  # many segments share one image
                array, matrix = _arrayOf(image)
                counted[image] = dict(zip(*np.unique(array, return_counts=True))), abs(np.linalg.det(matrix[:3, :3]))
            counts, voxel = counted[image]
            volumes[segment.GetName()] = float(counts.get(segment.GetLabelValue(), 0) * voxel / 1000)
    return volumes


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


def _orientedImage(array, volumeNode):
    """An oriented image of an array on a volume's grid."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*array.shape[::-1])
    image.SetImageToWorldMatrix(_ijkToRAS(volumeNode))
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
    return image

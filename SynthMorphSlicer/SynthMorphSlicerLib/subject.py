"""What is reviewed, in nodes: two volumes, a transform, and whatever else is known; and the same as files.

SimpleITK, whose import takes a while, is imported where it is needed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from . import scene, segments
from .job import InputError

DEFINED = 2  # vtkMRMLMarkupsNode.PositionDefined
LATTICE = 5  # points along each side of the box in which two transforms are compared
SAME_MM = 0.05  # a file adds up to 0.02 to what a transform does
INVERSE_SPACING = 3.0  # mm
CORRECTION = scene.ATTRIBUTE + "landmarkCorrection"  # attribute of outputs that landmarks have changed


@dataclass
class Subject:
    """A registration result in the scene.

    ``labels`` are segmentations and label maps of the moving volume, ``fixedLabels`` a segmentation of the fixed one;
    structures are the same if they have the same name.  Landmarks are pairs by their order in the two lists.
    """

    fixed: object
    moving: object
    transform: object
    labels: tuple = ()
    fixedLabels: object = None
    fixedPoints: object = None
    movingPoints: object = None

    def problem(self):
        """Why there is nothing to review, as one sentence, or an empty string."""
        if self.fixed is None or self.moving is None:
            return _("Choose a fixed and a moving volume first.")
        if self.transform is None or self.transform.GetTransformFromParent() is None:
            return _("Register with a transform first, or choose one as output.")
        return ""

    def key(self):
        """Text that changes when anything of it changes."""
        parts = [(node.GetID(), node.GetImageData().GetMTime()) for node in (self.fixed, self.moving)]
        parts.append((self.transform.GetID(), fingerprint(self.transform, self.fixed)))
        parts += [(node.GetID(), node.GetMTime()) for node in (*self.labels, self.fixedLabels) if node is not None]
        return repr((parts, pairs(self.fixedPoints, self.movingPoints, strict=False)))


def fingerprint(transformNode, fixedNode):
    """Where some points of the fixed volume come to lie, in hundredths of a millimetre, as text.

    It is the same after saving and loading, whatever numbers the file holds, within :data:`SAME_MM`.
    """
    bounds = [0.0] * 6
    fixedNode.GetRASBounds(bounds)
    axes = [np.linspace(bounds[2 * axis], bounds[2 * axis + 1], LATTICE + 2)[1:-1] for axis in range(3)]
    transform = transformNode.GetTransformFromParent()
    points = [transform.TransformPoint(x, y, z) for x in axes[0] for y in axes[1] for z in axes[2]]
    return " ".join(f"{value:.2f}" for point in points for value in point)


def isSame(first, second):
    """True if two fingerprints are those of one transform."""
    one, other = (np.array(text.split(), float) for text in (first, second))
    return one.shape == other.shape and bool(np.all(np.abs(one - other) <= SAME_MM))


def pairs(fixedPoints, movingPoints, strict=True):
    """Landmarks as the engine takes them: points in LPS millimetres of the two worlds, and names; None without any.

    :param strict: raise :class:`InputError` if a point lacks its partner; else leave it out.
    """
    if fixedPoints is None or movingPoints is None:
        return None
    # a point that follows the mouse before it is placed is in the list, too, but not defined
    placed = [node.GetNumberOfDefinedControlPoints() for node in (fixedPoints, movingPoints)]
    if strict and placed[0] != placed[1]:
        raise InputError(_("There are {fixed} landmarks in the fixed and {moving} in the moving volume: every point "
                           "needs its partner.").format(fixed=placed[0], moving=placed[1]))
    found = {"fixed": [], "moving": [], "names": []}
    for index in range(min(node.GetNumberOfControlPoints() for node in (fixedPoints, movingPoints))):
        if any(node.GetNthControlPointPositionStatus(index) != DEFINED for node in (fixedPoints, movingPoints)):
            continue
        found["fixed"].append(worldPoint(fixedPoints, index, scene.parentToWorld(fixedPoints)).tolist())
        found["moving"].append(worldPoint(movingPoints, index, scene.detached(movingPoints)).tolist())
        found["names"].append(fixedPoints.GetNthControlPointLabel(index))
    return found if found["fixed"] else None


def worldPoint(markupsNode, index, parent):
    """A control point in LPS millimetres under a linear parent (RAS matrix)."""
    point = np.array([*markupsNode.GetNthControlPointPosition(index), 1.0])
    return (scene.FLIP @ parent @ point)[:3]


def pointErrors(transformNode, landmarks):
    """Distance in mm from where the transform takes each fixed landmark to its moving partner."""
    transform, errors = transformNode.GetTransformFromParent(), []
    for fixed, moving in zip(landmarks["fixed"], landmarks["moving"]):
        there = transform.TransformPoint(-fixed[0], -fixed[1], fixed[2])
        errors.append(float(np.linalg.norm(np.subtract(there, (-moving[0], -moving[1], moving[2])))))
    return errors


def write(subject, folder, last=False, strict=False):
    """The subject as files for the worker, see ``case`` in ``synthmorph_torch.protocol``.

    :param last: the transform is that of the worker's last registration.
    :param strict: every landmark must have its partner.
    """
    folder = Path(folder)
    told = {"fixed": scene.writeVolume(subject.fixed, folder / "fixed.mha", scene.parentToWorld(subject.fixed)),
            "moving": scene.writeVolume(subject.moving, folder / "moving.mha", scene.detached(subject.moving)),
            "forward": writeTransform(subject.transform, folder / "forward.h5"), "last": last,
            "landmarks": pairs(subject.fixedPoints, subject.movingPoints, strict),
            "provenance": provenance(subject.transform)}
    names = _commonNames(subject)
    if names:
        numbers = {name: number + 1 for number, name in enumerate(names)}
        moving, fixed = scene.detached(subject.moving), scene.parentToWorld(subject.fixed)
        told["moving_labels"] = _writeLabels(subject.labels, subject.moving, moving, numbers, folder / "moved.mha")
        told["fixed_labels"] = _writeLabels([subject.fixedLabels], subject.fixed, fixed, numbers, folder / "truth.mha")
        told["names"] = {str(number): name for name, number in numbers.items()}
    return told


def provenance(transformNode):
    """How a result was made, from the attributes of its transform node, by the engine's names."""
    prefix = scene.ATTRIBUTE
    names = [name for name in transformNode.GetAttributeNames() if name.startswith(prefix)]
    found = {name[len(prefix):]: transformNode.GetAttribute(name) for name in names}
    hidden = ("signatures", "kept", "keptTitle", "keptMeasures", "landmarkCorrection")
    renamed = {"lambda": "regularization", "seconds": "duration (s)"}
    return {renamed.get(name, name): value for name, value in found.items() if name not in hidden and value}


def writeTransform(transformNode, path):
    """Write a transform node as ITK file, fixed to moving."""
    return store(transformNode, path)


def writeInverse(transformNode, volumeNode, path):
    """Write the opposite of a transform as displacements around a moving volume: what VTK finds by searching."""
    shape = volumeNode.GetImageData().GetDimensions()
    corners = np.array([[i, j, k, 1] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])])
    places = (scene.detached(volumeNode) @ scene.ijkToRAS(volumeNode) @ corners.T)[:3]
    low, high = places.min(axis=1) - 20.0, places.max(axis=1) + 20.0
    sizes = [int(size) for size in np.ceil((high - low) / INVERSE_SPACING) + 1]
    sampler = vtk.vtkTransformToGrid()
    sampler.SetInput(transformNode.GetTransformToParent())
    sampler.SetGridOrigin(*low)
    sampler.SetGridSpacing(*[INVERSE_SPACING] * 3)
    sampler.SetGridExtent(0, sizes[0] - 1, 0, sizes[1] - 1, 0, sizes[2] - 1)
    sampler.SetGridScalarTypeToFloat()
    sampler.Update()
    grid = slicer.vtkOrientedGridTransform()
    grid.SetDisplacementGridData(sampler.GetOutput())
    node = slicer.vtkMRMLTransformNode()
    node.SetAndObserveTransformFromParent(grid)
    return store(node, path)


def store(node, path):
    """Write a transform node, which need not be in the scene, as ITK file."""
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(path))
    if not storage.WriteData(node):
        raise InputError(_("The transform could not be written: check the free space of the temporary folder."))
    return str(path)


def writeRegion(segmentationNode, segmentID, fixedNode, path):
    """Write one segment on the fixed volume's grid; raises :class:`InputError` if it has no voxel there."""
    parent = scene.parentToWorld(fixedNode)
    array = labelArray([segmentationNode], fixedNode, parent,
                       lambda identifier, segment: 1 if identifier == segmentID else 0)
    if not array.any():
        raise InputError(_("The segment has no voxel on the fixed volume: choose another segment."))
    return scene.writeArray(array, parent @ scene.ijkToRAS(fixedNode), path)


def labelArray(nodes, volumeNode, parent, numberOf):
    """Segments as one label array (k, j, i) on a volume's grid; where segments overlap the later one counts.

    :param parent: the volume's parent transform (matrix, RAS).
    :param numberOf: function of a segment's ID and the segment, giving its number, or 0 to leave it out.
    """
    import SimpleITK as sitk
    shape = slicer.util.arrayFromVolume(volumeNode).shape
    merged = np.zeros(shape, np.int16)
    reference = scene.toImage(merged, parent @ scene.ijkToRAS(volumeNode))
    for node in nodes:
        layers, _empty = segments.layersOf(node, volumeNode)
        for layer in layers:
            numbers = {segment.GetLabelValue(): numberOf(identifier, segment) for identifier, segment in layer.segments}
            if not any(numbers.values()):
                continue
            mapped = np.zeros(layer.array.shape, np.int16)
            for value, number in numbers.items():
                mapped[layer.array == value] = number
            image = sitk.Resample(scene.toImage(mapped, layer.ijkToWorld), reference,
                                  sitk.Transform(3, sitk.sitkIdentity), sitk.sitkNearestNeighbor, 0, sitk.sitkInt16)
            there = sitk.GetArrayViewFromImage(image)
            merged[there != 0] = there[there != 0]
    return merged


def _commonNames(subject):
    """Names of structures that both sides have, in the order of the fixed segmentation."""
    if subject.fixedLabels is None or not subject.labels:
        return []
    known = {segment.GetName() for node in subject.labels
             for layer in segments.layersOf(node, subject.moving)[0] for _identifier, segment in layer.segments}
    segmentation = subject.fixedLabels.GetSegmentation()
    names = [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]
    return [name for name in dict.fromkeys(names) if name in known]


def _writeLabels(nodes, volumeNode, parent, numbers, path):
    array = labelArray(nodes, volumeNode, parent, lambda _identifier, segment: numbers.get(segment.GetName(), 0))
    return scene.writeArray(array, parent @ scene.ijkToRAS(volumeNode), path)

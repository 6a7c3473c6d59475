"""Many items, one transform: volumes, label maps, segmentations, markups and models, each moved as it must be.

    mover = moving.Mover(logic)
    copies = mover.move(transformNode, [scan, labelMap, segmentation, points, model])
    back = mover.move(transformNode, [correctedSegmentation], inverse=True)

Scans are interpolated linearly, labels keep their numbers, points and surfaces are moved themselves.
"""

import time
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from . import scene, segments, subject
from .job import InputError

TRANSFORM_ROLE = "SynthMorphMovedBy"  # from a copy to the transform that moved it
DIRECTION = scene.ATTRIBUTE + "direction"
FORWARD, INVERSE = "forward", "inverse"
CLASSES = ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLMarkupsNode", "vtkMRMLModelNode")


class Mover:
    """Moves what has voxels in the worker and what has points in the scene."""

    def __init__(self, logic):
        self.logic = logic

    def move(self, transformNode, items, inverse=False, reference=None, replace=(), blocking=True,
             onProgress=None, onFinished=None, onError=None):
        """Make moved copies of some items; copies of an earlier time are updated.

        :param transformNode: forward it moves things to where it shows what is put under it: what belongs to the moving
          volume to the fixed one.  :param inverse: the other way round.
        :param reference: volume whose grid the copies of volumes and segmentations get; None for the volume that the
          transform was made for.
        :param replace: those of :meth:`editedCopies` that may be overwritten; the others are left alone, and new ones
          are made.
        :param onProgress: called with the worker's progress messages.  :param onFinished: with the copies.
        :param onError: as for :meth:`RegistrationLogic.register`.
        :return: the copies in the order of the items when blocking.
        :raises InputError: something is missing or cannot be moved.
        """
        reference = reference or defaultReference(transformNode, inverse)
        problem = self.problem(transformNode, items, inverse, reference)
        if problem:
            raise InputError(problem)
        pieces = {}  # ID of an item -> the number of its first image, and its layers and empty segments

        def message(folder):
            images = []
            for item in items:
                if hasVoxels(item):
                    found, layers = _write(item, reference, folder, len(images))
                    pieces[item.GetID()] = (len(images), layers)
                    images += found
            grid = np.zeros(slicer.util.arrayFromVolume(reference).shape, np.uint8)
            place = (scene.detached if inverse else scene.parentToWorld)(reference) @ scene.ijkToRAS(reference)
            return {"transform": writeTransform(transformNode, inverse, reference, Path(folder) / "transform.h5"),
                    "reference": scene.writeArray(grid, place, Path(folder) / "grid.mha"), "images": images,
                    "folder": folder}

        def digest(answer):
            if any(slicer.mrmlScene.GetNodeByID(node.GetID() or "") is not node
                   for node in (transformNode, reference, *items) if node is not None):
                raise InputError(_("Something that was to be moved has left the scene meanwhile: try again."))
            copies = [self._copy(item, transformNode, inverse, reference, replace, pieces, answer["moved"])
                      for item in items]
            values = {"transformName": transformNode.GetName(), "date": time.strftime("%Y-%m-%dT%H:%M:%S")}
            scene.subjectHierarchyFolder(_("SynthMorph: moved by {transform}").format(
                transform=transformNode.GetName()), copies, {**values, "direction": INVERSE if inverse else FORWARD})
            scene.setAttributes(copies, values)
            return copies

        if not any(hasVoxels(item) for item in items):  # nothing for the worker
            copies = digest({"moved": []})
            if onFinished:
                onFinished(copies)
            return copies if blocking else None
        return self.logic.request("move", message, digest, blocking, onProgress, onFinished, onError)

    @staticmethod
    def problem(transformNode, items, inverse=False, reference=None):
        """Why the items cannot be moved, as one sentence, or an empty string."""
        if transformNode is None or transformNode.GetTransformFromParent() is None:
            return _("Choose a transform first.")
        if not items:
            return _("Choose what to move.")
        for item in items:
            if item.GetParentTransformNode() is transformNode and not scene.isResult(transformNode):
                return _("'{name}' is under this transform already: take it out in the module Transforms "
                         "first.").format(name=item.GetName())
            if hasVoxels(item):
                problem = scene.parentProblem(item) or _voxelProblem(item)
                if problem:
                    return problem
        if any(hasVoxels(item) for item in items):
            reference = reference or defaultReference(transformNode, inverse)
            if reference is None:
                return _("Choose a reference volume: it gives the grid of the copies.")
            return scene.parentProblem(reference, ownCounts=not inverse)
        return ""

    def editedCopies(self, transformNode, items, inverse=False):
        """Copies of an earlier time that a person has changed since."""
        copies = [earlierCopy(item, transformNode, inverse) for item in items
                  if item.IsA("vtkMRMLSegmentationNode")]
        return [copy for copy in copies if copy is not None and segments.isEdited(copy)]

    def _copy(self, item, transformNode, inverse, reference, replace, pieces, moved):
        copy = earlierCopy(item, transformNode, inverse)
        if copy not in replace and copy in self.editedCopies(transformNode, [item], inverse):
            copy.SetNodeReferenceID(TRANSFORM_ROLE, None)  # it is the person's now
            copy = None
        if copy is None:
            name = (_("{name} on {place}").format(name=item.GetName(), place=reference.GetName()) if hasVoxels(item)
                    else _("{name} (moved)").format(name=item.GetName()))
            copy = slicer.mrmlScene.AddNewNodeByClass(item.GetClassName(), name)
        way = "points"
        if hasVoxels(item):
            first, layers = pieces[item.GetID()]
            way = _fill(copy, item, reference, moved[first:], layers)
        else:
            scene.carryPoints(item, copy, transformNode.GetTransformFromParent() if inverse
                              else transformNode.GetTransformToParent())
        copy.SetNodeReferenceID(scene.CARRIED_ROLE, item.GetID())
        copy.SetNodeReferenceID(TRANSFORM_ROLE, transformNode.GetID())
        copy.SetAttribute(DIRECTION, INVERSE if inverse else FORWARD)
        copy.SetAttribute(scene.ATTRIBUTE + "interpolation", way)
        return copy


def hasVoxels(node):
    """True for what needs a grid: volumes, label maps and segmentations."""
    return node.IsA("vtkMRMLVolumeNode") or node.IsA("vtkMRMLSegmentationNode")


def defaultReference(transformNode, inverse=False):
    """The volume that a transform was made for: the fixed one, or for the inverse the moving one; None if unknown."""
    if transformNode is None:
        return None
    fixed, moving = scene.originOf(transformNode)
    return moving if inverse else fixed


def earlierCopy(item, transformNode, inverse=False):
    """The copy that :meth:`Mover.move` made of an item before, or None."""
    direction = INVERSE if inverse else FORWARD
    for node in slicer.util.getNodesByClass(item.GetClassName()):
        if (node.GetNodeReferenceID(scene.CARRIED_ROLE) == item.GetID() and node.GetAttribute(DIRECTION) == direction
                and node.GetNodeReferenceID(TRANSFORM_ROLE) == transformNode.GetID()):
            return node
    return None


def writeTransform(transformNode, inverse, reference, path):
    """Write the transform with which voxels are sampled, as ITK file: from the reference to the items."""
    if not inverse:
        return subject.writeTransform(transformNode, path)
    if not transformNode.IsLinear():
        return subject.writeInverse(transformNode, reference, path)
    matrix, opposite = vtk.vtkMatrix4x4(), vtk.vtkTransform()
    transformNode.GetMatrixTransformToParent(matrix)
    opposite.SetMatrix(matrix)
    node = slicer.vtkMRMLTransformNode()
    node.SetAndObserveTransformFromParent(opposite)
    return subject.store(node, path)


def _voxelProblem(item):
    if item.IsA("vtkMRMLSegmentationNode"):
        return "" if item.GetSegmentation().GetNumberOfSegments() else _("'{name}' has no segments.").format(
            name=item.GetName())
    if item.GetImageData() is None:
        return _("'{name}' has no voxels: load it again or leave it out.").format(name=item.GetName())
    if item.IsA("vtkMRMLVectorVolumeNode") or item.GetImageData().GetNumberOfScalarComponents() != 1:
        return _("'{name}' has several values per voxel (colour, vector or 4-D): leave it out.").format(
            name=item.GetName())
    return ""


def _write(item, reference, folder, number):
    """Images of an item for the worker, and what they hold: layers' segments and empty segments, or None."""
    if item.IsA("vtkMRMLSegmentationNode"):
        layers, empty = segments.layersOf(item, reference)
        images = [{"name": item.GetName(), "labels": True, "path": scene.writeArray(
            layer.array, layer.ijkToWorld, Path(folder) / f"image{number + index}.mha")}
            for index, layer in enumerate(layers)]
        return images, ([layer.segments for layer in layers], empty)
    path = scene.writeVolume(item, Path(folder) / f"image{number}.mha", scene.detached(item))
    return [{"name": item.GetName(), "labels": bool(item.IsA("vtkMRMLLabelMapVolumeNode")), "path": path}], None


def _fill(copy, item, reference, moved, layers):
    """Bring moved images into a copy; returns how they were interpolated."""
    if layers is not None:
        held, empty = layers
        warped = [(scene.readArray(one["path"]), layer) for one, layer in zip(moved, held)]
        segments.fill(copy, warped, empty, reference)
        return "label"
    new = copy.GetDisplayNode() is None
    scene.setVolumeOnFixed(copy, scene.readArray(moved[0]["path"]), reference)
    if new:
        copy.CreateDefaultDisplayNodes()
        if copy.IsA("vtkMRMLLabelMapVolumeNode"):
            if item.GetDisplayNode() is not None:
                copy.GetDisplayNode().SetAndObserveColorNodeID(item.GetDisplayNode().GetColorNodeID())
        else:
            scene.copyWindow(item, copy)
    return moved[0]["interpolation"]

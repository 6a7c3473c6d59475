"""MRML nodes to and from what the worker reads and writes: the one place with RAS/LPS flips and (k, j, i) arrays.

SimpleITK, whose import takes a while, is imported where it is needed.

MRML works in RAS millimetres, the worker (ITK) in LPS.  Matrices here are 4 x 4 numpy arrays; "world" includes a
node's parent transforms.
"""

import shutil
import tempfile

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from .job import InputError

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS <-> LPS
ATTRIBUTE = "SynthMorph."
CARRIED_ROLE = "SynthMorphCarriedFrom"  # from a carried copy to what it is a copy of
SMALLEST_SIDE = 8  # voxels; below it a volume is a slice, not a head


def inputProblem(node):
    """What keeps a volume's voxels from being registered, as one sentence, or an empty string."""
    name = node.GetName()
    if node.GetImageData() is None:
        return _("'{name}' has no voxels: load it again or choose another volume.").format(name=name)
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        return _("'{name}' is a label map: choose the scan itself, and carry the labels along under Inputs.").format(
            name=name)
    scalars = node.GetImageData().GetPointData().GetScalars()  # diffusion tensors have none
    if node.IsA("vtkMRMLVectorVolumeNode") or scalars is None or scalars.GetNumberOfComponents() != 1:
        return _("'{name}' has several values per voxel (colour, vector or 4-D): choose or extract a volume with "
                 "one.").format(name=name)
    if min(node.GetImageData().GetDimensions()) < SMALLEST_SIDE:
        return _("'{name}' is a single slice or a thin slab: SynthMorph needs a volume of at least {number} voxels "
                 "in every direction.").format(name=name, number=SMALLEST_SIDE)
    return ""


def parentProblem(node, ownCounts=False):
    """Why the node's place in the world cannot be taken over, or an empty string.

    :param ownCounts: False if a transform of ours, to which :func:`attach` has tied the node, is to be looked past.
    """
    parent = node.GetParentTransformNode()
    while parent is not None and parent.GetAttribute(ATTRIBUTE + "copyOf") and not ownCounts:
        parent = parent.GetParentTransformNode()
    own = parent is not None and isResult(parent) and not ownCounts
    if parent is not None and not own and not parent.IsTransformToWorldLinear():
        return _("'{name}' is under a non-linear transform: harden the transform on a copy, or remove it.").format(
            name=node.GetName())
    determinant = np.linalg.det(parentToWorld(node)[:3, :3]) if parent is not None and not own else 1.0
    if not abs(determinant) > 1e-6:  # also if it is no number
        return _("'{name}' is under a transform that makes it flat: correct the transform, or remove it.").format(
            name=node.GetName())
    return ""


def toArray(matrix):
    """A vtkMatrix4x4 as an array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def toVTKMatrix(array):
    """An array as a vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, float(array[row][column]))
    return matrix


def parentToWorld(node):
    """The linear parent transform of a node, RAS; identity without one."""
    parent = node.GetParentTransformNode()
    return np.eye(4) if parent is None else _toWorld(parent)


def ijkToRAS(volumeNode):
    """Voxel indices to the volume's own space, as an array."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return toArray(matrix)


def toImage(array, ijkToRAS):
    """A SimpleITK image (LPS) of a (k, j, i) array whose voxels lie where ``ijkToRAS`` puts them."""
    import SimpleITK as sitk
    image = sitk.GetImageFromArray(array)
    matrix = FLIP @ ijkToRAS
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetSpacing([float(s) for s in spacing])
    image.SetDirection([float(d) for d in (matrix[:3, :3] / spacing).ravel()])
    image.SetOrigin([float(o) for o in matrix[:3, 3]])
    return image


def writeArray(array, ijkToRAS, path):
    """Write an array (k, j, i) as an image file."""
    import SimpleITK as sitk
    sitk.WriteImage(toImage(array, ijkToRAS), str(path))
    return str(path)


def writeVolume(volumeNode, path, parent):
    """Write a volume as the world sees it under the parent transform ``parent`` (a matrix, RAS)."""
    return writeArray(slicer.util.arrayFromVolume(volumeNode), parent @ ijkToRAS(volumeNode), path)


def readArray(path):
    """Voxels of an image file, (k, j, i)."""
    import SimpleITK as sitk
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def readVolume(volumeNode, path):
    """Fill a volume node with an image file, where that lies in the world."""
    import SimpleITK as sitk
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    with slicer.util.NodeModify(volumeNode):
        volumeNode.SetIJKToRASMatrix(toVTKMatrix(FLIP @ matrix))
        slicer.util.updateVolumeFromArray(volumeNode, sitk.GetArrayFromImage(image))


def initialMatrix(transformNode):
    """Fixed world to moving world, LPS, as nested lists, of a transform that brings the moving to the fixed volume."""
    return (FLIP @ np.linalg.inv(_toWorld(transformNode)) @ FLIP).tolist()


def isFlat(transformNode):
    """Whether a linear transform has no inverse, as one that was scaled to nothing along an axis."""
    return abs(np.linalg.det(_toWorld(transformNode)[:3, :3])) < 1e-6


def _toWorld(transformNode):
    matrix = vtk.vtkMatrix4x4()
    transformNode.GetMatrixTransformToWorld(matrix)
    return toArray(matrix)


def vtkTransform(description):
    """A transform the worker described (see ``synthmorph_torch.protocol``) as a VTK transform in RAS millimetres.

    The same map of points: first the residual displacement, then the affine part.  An affine transform is returned
    as ``vtkTransform``, the composite as ``vtkGeneralTransform``.
    """
    affine = vtk.vtkTransform()
    affine.SetMatrix(toVTKMatrix(FLIP @ np.asarray(description["affine"]) @ FLIP))
    if description["field"] is None:
        return affine
    general = vtk.vtkGeneralTransform()
    general.PostMultiply()
    general.Concatenate(gridTransform(np.load(description["field"]), FLIP @ np.asarray(description["matrix"])))
    general.Concatenate(affine)
    return general


def gridTransform(displacement, ijkToRAS):
    """A grid transform of a displacement field (k, j, i, 3) in LPS millimetres on the grid ``ijkToRAS``."""
    spacing = np.linalg.norm(ijkToRAS[:3, :3], axis=0)
    vectors = np.ascontiguousarray(displacement * np.array([-1, -1, 1], displacement.dtype)).reshape(-1, 3)
    image = vtk.vtkImageData()
    image.SetDimensions(*displacement.shape[2::-1])
    image.SetOrigin(*ijkToRAS[:3, 3])
    image.SetSpacing(*spacing)
    # as scalars: a grid transform does not look at the image's vectors
    image.GetPointData().SetScalars(numpy_to_vtk(vectors, deep=True))
    direction = np.eye(4)
    direction[:3, :3] = ijkToRAS[:3, :3] / spacing
    transform = slicer.vtkOrientedGridTransform()
    transform.SetGridDirectionMatrix(toVTKMatrix(direction))
    transform.SetDisplacementGridData(image)
    return transform


def setTransform(transformNode, fixedToMoving):
    """Let a transform node show the moving volume where the fixed one is: volumes are sampled from the parent."""
    transformNode.SetAndObserveTransformFromParent(fixedToMoving)


def setVolumeOnFixed(volumeNode, array, fixedNode):
    """Fill a volume with an array (k, j, i) on the fixed volume's grid, under the fixed volume's parent transform."""
    with slicer.util.NodeModify(volumeNode):
        matrix = vtk.vtkMatrix4x4()
        fixedNode.GetIJKToRASMatrix(matrix)
        volumeNode.SetIJKToRASMatrix(matrix)
        volumeNode.SetAndObserveTransformNodeID(fixedNode.GetTransformNodeID())
        slicer.util.updateVolumeFromArray(volumeNode, array)


def copyWindow(source, target):
    """Give a volume the window, level and colours of another."""
    if target.GetDisplayNode() is None:
        target.CreateDefaultDisplayNodes()
    display = source.GetDisplayNode()
    if display is not None:
        target.GetDisplayNode().SetAutoWindowLevel(False)
        target.GetDisplayNode().SetWindowLevel(display.GetWindow(), display.GetLevel())
        target.GetDisplayNode().SetAndObserveColorNodeID(display.GetColorNodeID())


def isResult(node):
    """Whether a transform, volume or segmentation is the result of a registration."""
    return bool(node.GetAttribute(ATTRIBUTE + "lambda"))


def lambdaOf(node):
    """The lambda that a result was made with."""
    return float(node.GetAttribute(ATTRIBUTE + "lambda"))


def parents(node, ownCounts=False):
    """The transforms under which a node lies; results of this module only if ``ownCounts``."""
    found = []
    parent = node.GetParentTransformNode() if node is not None else None
    while parent is not None:
        if ownCounts or not isResult(parent):
            found.append(parent)
        parent = parent.GetParentTransformNode()
    return found


def nodeIDs():
    """IDs of all nodes of the scene."""
    return {slicer.mrmlScene.GetNthNode(n).GetID() for n in range(slicer.mrmlScene.GetNumberOfNodes())}


def attach(movingNode, transformNode):
    """Show the moving volume through the transform; an own linear parent stays in effect below it.

    The parent node itself may carry other nodes, so a copy of it goes between the two. The result of an earlier
    registration is replaced.
    """
    parent = movingNode.GetParentTransformNode()
    if parent is None or isResult(parent):
        movingNode.SetAndObserveTransformNodeID(transformNode.GetID())
        return
    if parent.GetAttribute(ATTRIBUTE + "copyOf"):
        parent.SetAndObserveTransformNodeID(transformNode.GetID())
        return
    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode",
                                              _("{name} (before registration)").format(name=parent.GetName()))
    copy.SetMatrixTransformToParent(toVTKMatrix(parentToWorld(movingNode)))
    copy.SetAttribute(ATTRIBUTE + "copyOf", parent.GetID())
    copy.SetAndObserveTransformNodeID(transformNode.GetID())
    movingNode.SetAndObserveTransformNodeID(copy.GetID())


def detached(node):
    """A node's linear parent transform (to world, RAS) as it was before :func:`attach`."""
    parent = node.GetParentTransformNode()
    if parent is None or isResult(parent):
        return np.eye(4)
    if parent.GetAttribute(ATTRIBUTE + "copyOf"):
        matrix = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToParent(matrix)
        return toArray(matrix)
    return parentToWorld(node)


def carryPoints(source, target, movingToFixed):
    """Make ``target`` the markups or model ``source`` in the fixed volume's space."""
    parent = source.GetParentTransformNode()
    target.CopyContent(source)
    target.SetNodeReferenceID(CARRIED_ROLE, source.GetID())
    target.SetAndObserveTransformNodeID(None)
    if parent is not None:
        toWorld = vtk.vtkGeneralTransform()
        if parentProblem(source):  # non-linear, and points can bear that
            parent.GetTransformToWorld(toWorld)
        else:
            toWorld.Concatenate(toVTKMatrix(detached(source)))
        target.ApplyTransform(toWorld)
    target.ApplyTransform(movingToFixed)
    if target.GetDisplayNode() is None:
        target.CreateDefaultDisplayNodes()
        if source.GetDisplayNode() is not None:
            target.GetDisplayNode().CopyContent(source.GetDisplayNode())


def carriedCopy(source, relatives):
    """The copy that :func:`carryPoints` made of a node for an earlier run with the same outputs, or None.

    :param relatives: the outputs that are updated in place; the copy lies in their folder.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folders = {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in relatives}
    for node in slicer.util.getNodesByClass(source.GetClassName()):
        if (node.GetNodeReferenceID(CARRIED_ROLE) == source.GetID()
                and hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) in folders):
            return node
    return None


def subjectHierarchyFolder(name, nodes, values):
    """The folder of one registration: the one its nodes already share, or a new one; then put the nodes there.

    :param values: what to write on the folder, as on the nodes.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    items = [hierarchy.GetItemByDataNode(node) for node in nodes]
    folder = 0
    for item in items:
        parent = hierarchy.GetItemParent(item) if item else 0
        if parent and hierarchy.HasItemAttribute(parent, ATTRIBUTE + "folder"):
            folder = parent
    if not folder:
        folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), name)
        hierarchy.SetItemAttribute(folder, ATTRIBUTE + "folder", name)
    elif _isNamedByUs(hierarchy, folder) and _children(hierarchy, folder) <= set(items):
        # all of it is of another pair now
        hierarchy.SetItemName(folder, name)
        hierarchy.SetItemAttribute(folder, ATTRIBUTE + "folder", name)
    for key, value in values.items():
        hierarchy.SetItemAttribute(folder, ATTRIBUTE + key, str(value))
    for item in items:
        if item:
            hierarchy.SetItemParent(item, folder)
    return folder


def _isNamedByUs(hierarchy, folder):
    return hierarchy.GetItemName(folder) == hierarchy.GetItemAttribute(folder, ATTRIBUTE + "folder")


def _children(hierarchy, folder):
    found = vtk.vtkIdList()
    hierarchy.GetItemChildren(folder, found)
    return {found.GetId(number) for number in range(found.GetNumberOfIds())}


def putBeside(node, other):
    """Put a node into the folder in which another one lies."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item, beside = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(other)
    if item and beside:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(beside))


def originOf(node):
    """Fixed and moving volume that a node came from, or None and None."""
    return (node.GetNodeReference(slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole()),
            node.GetNodeReference(slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole()))


def setProvenance(nodes, fixedNode, movingNode, values):
    """Write on each node where it came from: the two volumes as references, the settings as attributes."""
    roles = ((slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole(), fixedNode),
             (slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole(), movingNode))
    for node in nodes:
        for role, volume in roles:
            node.SetNodeReferenceID(role, volume.GetID())
    setAttributes(nodes, values)


def setAttributes(nodes, values):
    """Write values on each node, under names of ours."""
    for node in nodes:
        for key, value in values.items():
            node.SetAttribute(ATTRIBUTE + key, str(value))


def temporaryFolder():
    """A new folder for files that are handed over; raises :class:`InputError` if none can be made."""
    try:
        return tempfile.mkdtemp(prefix="SynthMorph-", dir=slicer.app.temporaryPath)
    except OSError as error:
        raise InputError(noRoom()) from error


def noRoom():
    """What to say when files cannot be written to the temporary folder."""
    return _("Nothing can be handed over in the folder '{folder}': make room there, or choose another temporary folder "
             "in Edit > Application Settings.").format(folder=slicer.app.temporaryPath)


def removeFolder(path):
    """Delete a folder of temporary files; a file still in use is left behind rather than reported."""
    shutil.rmtree(path, ignore_errors=True)

"""MRML against the worker's files: directions, frames, segments.  Runs in Slicer (ctest) and on the host."""

import os
import tempfile
import unittest

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from SynthMorphSlicerLib import scene, segments
from SynthMorphSlicerLib.selftest import checkSigns, headVolume

OBLIQUE = np.array([[0.8, -0.5, 0.1, 10], [0.4, 0.9, -0.6, -20], [0.1, 0.6, 2.1, 5], [0, 0, 0, 1]])
LEFT_HANDED = np.array([[-1.5, 0, 0, 40], [0, 1.5, 0, -50], [0, 0, 2.0, -30], [0, 0, 0, 1]])


def orthogonal(matrix):
    """The nearest matrix with perpendicular axes of the same lengths, as scanners write them."""
    result = np.array(matrix)
    spacing = np.linalg.norm(result[:3, :3], axis=0)
    u, _, v = np.linalg.svd(result[:3, :3] / spacing)
    result[:3, :3] = (u @ v) * spacing
    return result


def volume(ijkToRAS, shape=(20, 24, 28), name="volume"):
    """A volume of smooth values that name each place in the world."""
    k, j, i = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    points = np.stack([i, j, k], -1) @ ijkToRAS[:3, :3].T + ijkToRAS[:3, 3]
    values = (np.sin(points / 15).sum(-1) * 100).astype(np.float32)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(scene.toVTKMatrix(ijkToRAS))
    slicer.util.updateVolumeFromArray(node, values)
    return node


def description(folder, affine=None, field=None, matrix=None):
    """What the worker would send for a transform (LPS)."""
    path = None
    if field is not None:
        path = os.path.join(folder, "field.npy")
        np.save(path, field.astype(np.float32))
    return {"affine": np.eye(4) if affine is None else affine, "field": path, "matrix": matrix}


def smoothField(shape=(14, 15, 16), matrix=None, size=6.0):
    """A smooth field (k, j, i, 3) that vanishes at its border, with its index-to-LPS matrix."""
    matrix = orthogonal(OBLIQUE) @ np.diag([4, 4, 2, 1.0]) if matrix is None else matrix
    windows = [np.sin(np.pi * np.arange(n) / (n - 1)) for n in shape]
    bump = windows[0][:, None, None] * windows[1][None, :, None] * windows[2][None, None, :]
    return np.stack([size * bump, -size / 2 * bump, size / 3 * bump], -1), matrix


class EmptyScene(unittest.TestCase):
    """Each test begins with an empty scene and a folder of its own."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)
        self.folder = tempfile.mkdtemp(dir=slicer.app.temporaryPath)

    def tearDown(self):
        scene.removeFolder(self.folder)


class SynthMorphSceneTest(EmptyScene):
    def test_signs(self):
        checkSigns(self)

    def test_imageGeometry(self):
        """A voxel of the written file lies where Slicer shows it, for any orientation and under a parent transform."""
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        turn = orthogonal(OBLIQUE @ np.diag([1, 1, 0.5, 1]))
        parent.SetMatrixTransformToParent(scene.toVTKMatrix(turn))
        for matrix in (np.diag([1.0, 1, 1, 1]), orthogonal(OBLIQUE), LEFT_HANDED):
            for parentID in (None, parent.GetID()):
                node = volume(matrix)
                node.SetAndObserveTransformNodeID(parentID)
                path = scene.writeVolume(node, os.path.join(self.folder, "v.mha"), scene.parentToWorld(node))
                image = sitk.ReadImage(path)
                world = (turn if parentID else np.eye(4)) @ matrix
                for index in ((0, 0, 0), (27, 3, 11)):
                    expected = (scene.FLIP @ world @ [*index, 1])[:3]
                    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), expected, atol=1e-3)
                    self.assertAlmostEqual(image[index], slicer.util.arrayFromVolume(node)[index[::-1]], places=4)

    def test_transformEqualsWorker(self):
        """The VTK transform maps points as the worker's ITK composite does: residual first, then affine."""
        field, matrix = smoothField()
        affine = np.array([[1.05, 0.02, 0, 4], [-0.03, 0.95, 0.05, -6], [0, 0.02, 1.1, 8], [0, 0, 0, 1.0]])
        transform = scene.vtkTransform(description(self.folder, affine, field, matrix))
        image = sitk.GetImageFromArray(field.astype(np.float64), isVector=True)
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(matrix[:3, 3].tolist())
        linear = sitk.AffineTransform(3)
        linear.SetMatrix(affine[:3, :3].ravel().tolist())
        linear.SetTranslation(affine[:3, 3].tolist())
        composite = sitk.CompositeTransform([linear, sitk.DisplacementFieldTransform(image)])
        generator = np.random.default_rng(0)
        inside = generator.uniform(1, np.array(field.shape[2::-1]) - 2, (50, 3)) @ matrix[:3, :3].T + matrix[:3, 3]
        for point in (*inside, [500.0, 400.0, -300.0]):  # the last one far outside, where only the affine part acts
            flip = np.array([-1, -1, 1])
            np.testing.assert_allclose(flip * transform.TransformPoint(flip * point), composite.TransformPoint(point),
                                       atol=2e-3)

    def test_movingViewedEqualsMoved(self):
        """A moving volume hardened under the transform equals the resampled one, within interpolation."""
        fixed, moving = volume(orthogonal(OBLIQUE), name="fixed"), volume(LEFT_HANDED, (30, 40, 50), "moving")
        field, matrix = smoothField()
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
        scene.setTransform(node, scene.vtkTransform(description(self.folder, field=field, matrix=matrix)))
        movingArray, movingInverse = slicer.util.arrayFromVolume(moving), np.linalg.inv(LEFT_HANDED)
        from_ = node.GetTransformFromParent()
        generator = np.random.default_rng(1)
        world = vtk.vtkGeneralTransform()
        scene.attach(moving, node)
        moving.GetParentTransformNode().GetTransformFromWorld(world)
        checked = 0
        for index in generator.uniform(2, np.array(fixed.GetImageData().GetDimensions()) - 3, (200, 3)):
            point = (orthogonal(OBLIQUE) @ [*index, 1])[:3]
            sampled = movingInverse @ [*from_.TransformPoint(point), 1]
            viewed = movingInverse @ [*world.TransformPoint(point), 1]
            np.testing.assert_allclose(sampled, viewed, atol=1e-6)
            checked += all(0 <= n < s for n, s in zip(viewed[:3], movingArray.shape[::-1]))
        self.assertGreater(checked, 20)

    def test_saveAndReload(self):
        field, matrix = smoothField()
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "composite")
        scene.setTransform(node, scene.vtkTransform(description(self.folder, np.diag([1.1, 1, 0.9, 1]), field, matrix)))
        path = os.path.join(self.folder, "transform.h5")
        storage = node.CreateDefaultStorageNode()
        storage.SetFileName(path)
        self.assertTrue(storage.WriteData(node))
        again = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
        storage = slicer.vtkMRMLTransformStorageNode()
        slicer.mrmlScene.AddNode(storage)
        storage.SetFileName(path)
        self.assertTrue(storage.ReadData(again))
        for point in ((0, 0, 0), (12, -8, 20), (200, 0, 0)):
            np.testing.assert_allclose(again.GetTransformFromParent().TransformPoint(point),
                                       node.GetTransformFromParent().TransformPoint(point), atol=1e-3)

    def test_attachKeepsLinearParent(self):
        moving = volume(LEFT_HANDED)
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "scanner")
        shift = np.eye(4)
        shift[:3, 3] = [5, 6, 7]
        parent.SetMatrixTransformToParent(scene.toVTKMatrix(shift))
        other = volume(LEFT_HANDED, name="other")
        for node in (moving, other):
            node.SetAndObserveTransformNodeID(parent.GetID())
        registered = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
        registered.SetAttribute(scene.ATTRIBUTE + "lambda", "0.5")
        scene.setTransform(registered, scene.vtkTransform(description(self.folder, scene.FLIP @ shift @ scene.FLIP)))
        scene.attach(moving, registered)
        np.testing.assert_allclose(scene.detached(moving), shift)
        toWorld = vtk.vtkMatrix4x4()
        moving.GetParentTransformNode().GetMatrixTransformToWorld(toWorld)
        np.testing.assert_allclose(scene.toArray(toWorld), np.eye(4), atol=1e-9)  # one shift undoes the other
        self.assertIs(other.GetParentTransformNode(), parent)
        self.assertIsNone(parent.GetParentTransformNode())
        self.assertEqual(scene.parentProblem(moving), "")

    def test_refusals(self):
        fixed = headVolume("fixed")
        self.assertEqual(scene.inputProblem(fixed), "")
        field, matrix = smoothField()
        bend = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
        scene.setTransform(bend, scene.vtkTransform(description(self.folder, field=field, matrix=matrix)))
        fixed.SetAndObserveTransformNodeID(bend.GetID())
        self.assertIn("non-linear", scene.parentProblem(fixed))
        flat = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        flat.SetMatrixTransformToParent(scene.toVTKMatrix(np.diag([1, 1, 0, 1])))
        fixed.SetAndObserveTransformNodeID(flat.GetID())
        self.assertIn("flat", scene.parentProblem(fixed))
        self.assertIn("single slice", scene.inputProblem(volume(np.eye(4), (1, 30, 30))))
        labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        slicer.util.updateVolumeFromArray(labels, np.ones((10, 10, 10), np.uint8))
        self.assertIn("label map", scene.inputProblem(labels))
        vectors = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode")
        slicer.util.updateVolumeFromArray(vectors, np.ones((10, 10, 10, 3), np.float32))
        self.assertIn("several values", scene.inputProblem(vectors))
        tensors = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLDiffusionTensorVolumeNode")
        image, values = vtk.vtkImageData(), vtk.vtkFloatArray()
        image.SetDimensions(10, 10, 10)
        values.SetNumberOfComponents(9)
        values.SetNumberOfTuples(1000)
        image.GetPointData().SetTensors(values)
        tensors.SetAndObserveImageData(image)
        self.assertIn("several values", scene.inputProblem(tensors))
        self.assertIn("no voxels", scene.inputProblem(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")))

    def test_segmentsKeepEverything(self):
        """Overlapping, empty and ordinary segments come out with their IDs, names, colours and terminology."""
        moving = volume(LEFT_HANDED, (30, 40, 50), "moving")
        source = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "source")
        source.CreateDefaultDisplayNodes()
        source.SetReferenceImageGeometryParameterFromVolumeNode(moving)
        shape = slicer.util.arrayFromVolume(moving).shape
        for number, (identifier, box) in enumerate((("large", (slice(5, 20),) * 3), ("inside", (slice(8, 14),) * 3),
                                                    ("apart", (slice(22, 28),) * 3), ("empty", (slice(0, 0),) * 3))):
            array = np.zeros(shape, np.uint8)
            array[box] = 1
            source.GetSegmentation().AddEmptySegment(identifier, f"Segment {identifier}", [0.1 * number, 0.5, 1.0])
            if array.any():
                slicer.util.updateSegmentBinaryLabelmapFromArray(array, source, identifier, moving)
        source.GetSegmentation().GetSegment("apart").SetTag("TerminologyEntry", "Segmentation category~x^y^z~")
        layers, empty = segments.layersOf(source, moving)
        target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "target")
        warped = []
        for layer in layers:  # the identity: the same world, sampled on the moving volume's own grid
            image = scene.toImage(layer.array, layer.ijkToWorld)
            reference = scene.toImage(slicer.util.arrayFromVolume(moving), LEFT_HANDED)
            warped.append((sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform(),
                                                                sitk.sitkNearestNeighbor)), layer.segments))
        segments.fill(target, warped, empty, moving)
        self.assertEqual([identifier for identifier, _ in empty], ["empty"])
        self.assertEqual(segments.lossNote(warped), "")
        self.assertIn("3 segments (Segment large, Segment", segments.lossNote([(a * 0, s) for a, s in warped]))
        self.assertEqual(set(target.GetSegmentation().GetSegmentIDs()), {"large", "inside", "apart", "empty"})
        for identifier in ("large", "inside", "apart"):
            np.testing.assert_array_equal(
                slicer.util.arrayFromSegmentBinaryLabelmap(target, identifier, moving) != 0,
                slicer.util.arrayFromSegmentBinaryLabelmap(source, identifier, moving) != 0)
        for identifier in target.GetSegmentation().GetSegmentIDs():
            old, new = (node.GetSegmentation().GetSegment(identifier) for node in (source, target))
            self.assertEqual(new.GetName(), old.GetName())
            self.assertEqual(new.GetColor(), old.GetColor())
        expected = {f"Segment {identifier}": voxels * 1.5 * 1.5 * 2 / 1000 for identifier, voxels in
                    (("large", 15**3), ("inside", 6**3), ("apart", 6**3), ("empty", 0))}
        for node in (source, target):
            self.assertEqual(segments.volumesOf(node), {name: expected[name] for name in segments.volumesOf(node)})
            self.assertEqual(len(segments.volumesOf(node)), 4)
        tag = vtk.mutable("")
        self.assertTrue(target.GetSegmentation().GetSegment("apart").GetTag("TerminologyEntry", tag))
        self.assertIn("Segmentation category", str(tag))

    def test_labelMapsBecomeSegments(self):
        moving = volume(LEFT_HANDED, (30, 40, 50), "moving")
        labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
        labels.SetIJKToRASMatrix(scene.toVTKMatrix(LEFT_HANDED))
        array = np.zeros((30, 40, 50), np.int16)
        array[5:9, 5:9, 5:9], array[12:20, 12:20, 12:20] = 4, 1030
        slicer.util.updateVolumeFromArray(labels, array)
        labels.CreateDefaultDisplayNodes()
        layers, empty = segments.layersOf(labels, moving)
        self.assertEqual(sum(len(layer.segments) for layer in layers), 2)
        self.assertEqual(empty, [])
        self.assertEqual(sorted(int((layer.array == s.GetLabelValue()).sum()) for layer in layers
                                for _, s in layer.segments), [64, 512])

    def test_surfacesGiveWayToLabels(self):
        """A chosen output that held surfaces ends up as the Segment Editor wants it: made of labels."""
        fixed = volume(LEFT_HANDED, (30, 40, 50), "fixed")
        target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "target")
        target.GetSegmentation().SetSourceRepresentationName("Closed surface")
        sphere = vtk.vtkSphereSource()
        sphere.Update()
        target.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "sphere", [1, 0, 0])
        array = np.zeros((30, 40, 50), np.uint8)
        array[10:20, 10:20, 10:20] = 1
        segment = slicer.vtkSegment()
        segment.SetLabelValue(1)
        segments.fill(target, [(array, [("cube", segment)])], [("empty", segment)], fixed)
        self.assertEqual(target.GetSegmentation().GetSourceRepresentationName(), segments.BINARY)
        self.assertEqual(target.GetSegmentation().GetSegmentIDs(), ("cube", "empty"))
        np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(target, "cube", fixed), array)

    def test_folderHasTheNameOfItsPair(self):
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        made = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"result {n}") for n in range(2)]
        folder = scene.subjectHierarchyFolder("a to b", made, {"lambda": 0.5})
        for nodes, name, expected in ((made[:1], "c to b", "a to b"), (made, "c to b", "c to b")):
            self.assertEqual(scene.subjectHierarchyFolder(name, nodes, {}), folder)
            self.assertEqual(hierarchy.GetItemName(folder), expected)
        hierarchy.SetItemName(folder, "by hand")
        scene.subjectHierarchyFolder("d to b", made, {})
        self.assertEqual(hierarchy.GetItemName(folder), "by hand")

    def test_surfacesAreThereAgain(self):
        """Who has pressed Show 3D sees the new segments in 3D, too."""
        factory = slicer.vtkSegmentationConverterFactory.GetInstance()
        rule = slicer.vtkBinaryLabelmapToClosedSurfaceConversionRule()  # Slicer knows it, a bare scene does not
        factory.RegisterConverterRule(rule)
        fixed = volume(LEFT_HANDED, (30, 40, 50), "fixed")
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "node")
        for number, (in3D, there) in enumerate(((True, False), (False, False), (True, True))):
            array = np.zeros((30, 40, 50), np.uint8)
            array[10:20, 10:20, 10:20 + 5 * number] = 1
            segment = slicer.vtkSegment()
            segment.SetLabelValue(1)
            segments.fill(node, [(array, [("cube", segment)])], [("empty", slicer.vtkSegment())], fixed, in3D)
            self.assertEqual(node.GetSegmentation().ContainsRepresentation(segments.SURFACE), there)
            if number == 0:
                self.assertTrue(node.CreateClosedSurfaceRepresentation())  # the button Show 3D
        surface = node.GetSegmentation().GetSegment("cube").GetRepresentation(segments.SURFACE)
        self.assertGreater(surface.GetNumberOfPoints(), 100)

    def test_carriedFromUnderANonLinearParent(self):
        """Points can bear a bend: markups and models are taken from where they are seen, through every parent."""
        field, matrix = smoothField()
        bend = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "bend")
        scene.setTransform(bend, scene.vtkTransform(description(self.folder, field=field, matrix=matrix)))
        turn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "turn")
        turn.SetMatrixTransformToParent(scene.toVTKMatrix(orthogonal(OBLIQUE @ np.diag([1, 1, 0.5, 1]))))
        turn.SetAndObserveTransformNodeID(bend.GetID())
        middle = (scene.FLIP @ matrix @ [8, 7, 7, 1])[:3]  # where the bend is strongest
        own = (np.linalg.inv(orthogonal(OBLIQUE @ np.diag([1, 1, 0.5, 1]))) @ [*middle, 1])[:3]
        markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
        markups.AddControlPoint(vtk.vtkVector3d(*own))
        sphere = vtk.vtkSphereSource()
        sphere.SetCenter(*own)
        sphere.SetRadius(0.1)
        sphere.Update()
        model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")
        model.SetAndObservePolyData(sphere.GetOutput())
        shift = np.eye(4)
        shift[:3, 3] = [3, -4, 5]
        inverse = scene.vtkTransform(description(self.folder, scene.FLIP @ shift @ scene.FLIP))
        for source in (markups, model):
            source.SetAndObserveTransformNodeID(turn.GetID())
        seen = [0.0] * 3
        markups.GetNthControlPointPositionWorld(0, seen)
        self.assertGreater(np.linalg.norm(np.subtract(seen, middle)), 3.0)  # the bend is not nothing here
        carried = [slicer.mrmlScene.AddNewNodeByClass(node.GetClassName()) for node in (markups, model)]
        for source, target in zip((markups, model), carried):
            scene.carryPoints(source, target, inverse)
            self.assertIs(source.GetParentTransformNode(), turn)
            self.assertIsNone(target.GetParentTransformNode())
        expected = np.add(seen, shift[:3, 3])
        np.testing.assert_allclose(list(carried[0].GetNthControlPointPositionVector(0)), expected, atol=0.05)
        np.testing.assert_allclose(carried[1].GetPolyData().GetCenter(), expected, atol=0.05)
        np.testing.assert_allclose(model.GetPolyData().GetCenter(), own, atol=0.05)

    def test_carriedPointsAndModels(self):
        """Markups and models, under a parent or not, land where the moving-to-fixed map puts them."""
        shift = np.eye(4)
        shift[:3, 3] = [3, -4, 5]
        inverse = scene.vtkTransform(description(self.folder, scene.FLIP @ shift @ scene.FLIP))
        markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
        markups.AddControlPoint(vtk.vtkVector3d(1, 2, 3))
        model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")
        sphere = vtk.vtkSphereSource()
        sphere.Update()
        model.SetAndObservePolyData(sphere.GetOutput())
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        parent.SetMatrixTransformToParent(scene.toVTKMatrix(shift))
        model.SetAndObserveTransformNodeID(parent.GetID())
        carried = [slicer.mrmlScene.AddNewNodeByClass(node.GetClassName()) for node in (markups, model)]
        for _ in range(2):  # a second run updates, it does not add up
            for source, target in zip((markups, model), carried):
                scene.carryPoints(source, target, inverse)
        np.testing.assert_allclose(list(carried[0].GetNthControlPointPositionVector(0)), [4, -2, 8], atol=1e-6)
        np.testing.assert_allclose(carried[1].GetPolyData().GetCenter(), [6, -8, 10], atol=1e-3)
        np.testing.assert_allclose(model.GetPolyData().GetCenter(), [0, 0, 0], atol=1e-3)


if __name__ == "__main__":
    unittest.main()

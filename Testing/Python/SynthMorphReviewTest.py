"""What a person looks at: maps, kept results, surfaces, curves, views.  Runs in Slicer (ctest) and on the host."""

import os
import unittest

import numpy as np
import slicer
import vtk
from SynthMorphSceneTest import EmptyScene, description, volume
from SynthMorphSlicerLib import curve, kept, maps, measures, printing, review, scene, subject, surfaces
from SynthMorphSlicerLib.job import InputError
from SynthMorphSlicerLib.selftest import headVolume


class SynthMorphReviewTest(EmptyScene):
    def test_landmarkThatFollowsTheMouse(self):
        """A point that is not placed yet neither lacks a partner nor is one."""
        lists = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode") for _ in range(2)]
        for node in lists:
            node.AddControlPoint(vtk.vtkVector3d(1, 2, 3), "spot")
        for node, placed in ((lists[0], 2), (lists[1], 1)):
            node.AddControlPoint(vtk.vtkVector3d(4, 5, 6))
            node.SetNthControlPointPosition(1, 4, 5, 6, slicer.vtkMRMLMarkupsNode.PositionPreview)
            if placed == 2:
                self.assertEqual(subject.pairs(*lists)["names"], ["spot"])
                node.SetNthControlPointPosition(1, 4, 5, 6, slicer.vtkMRMLMarkupsNode.PositionDefined)
            with self.assertRaisesRegex(InputError, "2 landmarks in the fixed and 1 in the moving"):
                subject.pairs(*lists)
        lists[1].SetNthControlPointPosition(1, 4, 5, 6, slicer.vtkMRMLMarkupsNode.PositionDefined)
        self.assertEqual(len(subject.pairs(*lists)["names"]), 2)

    def test_jacobianMap(self):
        """Folding is told from shrinking, however strong; the map's neighbours in value keep a colour of the scale."""
        fixed = volume(np.diag([2.0, 2, 2, 1]))
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        determinant = np.full((20, 24, 28), 2.0, np.float32)
        determinant[:5], determinant[5, 5, 5], determinant[6, 6, 6] = 1.0, -0.2, 1e-6
        marks = maps.setJacobian(node, determinant, fixed)
        values = slicer.util.arrayFromVolume(node)
        self.assertEqual((values[0, 0, 0], values[10, 0, 0], values[5, 5, 5]), (0.0, 1.0, maps.FOLDED))
        self.assertEqual(node.GetAttribute("SynthMorph.foldingVoxels"), "1")
        self.assertEqual(node.GetDisplayNode().GetLevel(), 0.0)
        table = node.GetDisplayNode().GetColorNode()
        color = [0.0] * 4
        for index in range(table.GetNumberOfColors()):
            table.GetColor(index, color)
            self.assertGreater(np.abs(np.subtract(color[:3], maps.FOLDING_COLOR)).max(), 0.3)
        table.GetColor(128, color)
        self.assertGreater(min(color[:3]), 0.97)  # white where nothing changes
        folding = slicer.util.arrayFromSegmentBinaryLabelmap(marks[0], "folding", fixed)
        self.assertEqual(np.argwhere(folding).tolist(), [[5, 5, 5]])
        self.assertEqual(marks[0].GetSegmentation().GetSegment("folding").GetColor(), maps.FOLDING_COLOR)
        self.assertEqual(measures.valuesAt((30, 20, 30), None, node), "local volume +100 %")
        self.assertEqual(measures.valuesAt((10, 10, 10), None, node), "folding")
        self.assertEqual(measures.valuesAt((12, 12, 12), None, node), "local volume -100 %")

        maps.showMarks(node, False)
        self.assertFalse(marks[0].GetDisplayNode().GetVisibility())
        self.assertEqual(maps.setJacobian(node, determinant, fixed), marks)  # updated in place
        determinant[5, 5, 5] = 0.5
        self.assertEqual(maps.setJacobian(node, determinant, fixed), [])
        self.assertIsNone(node.GetNodeReference(maps.FOLDING_ROLE))
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)

    def test_lambdaIsListedWhereItHasAMeaning(self):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
        for transform, there in (("joint", True), ("deform", True), ("affine", False), ("rigid", False)):
            scene.setProvenance([node], node, node, {"lambda": 0.5, "transform": transform})
            self.assertEqual("Lambda" in dict(measures.measuresOf({"transform": node})), there)

    def test_displacementMagnitudeAndGrid(self):
        fixed = headVolume("fixed")
        shift = np.eye(4)
        shift[:3, 3] = [6, 0, 8]
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "t")
        scene.setTransform(node, scene.vtkTransform(description(self.folder, shift)))
        magnitude = maps.displacement(node, fixed)
        np.testing.assert_allclose(slicer.util.arrayFromVolume(magnitude), 10.0, atol=1e-4)
        self.assertIn("(mm)", magnitude.GetName())
        scene.setTransform(node, scene.vtkTransform(description(self.folder)))
        self.assertIs(maps.displacement(node, fixed), magnitude)  # one for a transform
        np.testing.assert_allclose(slicer.util.arrayFromVolume(magnitude), 0.0, atol=1e-4)
        review.showGrid(node, fixed, True)
        self.assertAlmostEqual(node.GetDisplayNode().GetGridSpacingMm(), 224 / review.GRID_LINES, delta=0.5)
        self.assertTrue(review.isGridVisible(node))
        self.assertFalse(node.GetDisplayNode().GetVisibility3D())
        review.showGrid(node, fixed, False)
        self.assertFalse(review.isGridVisible(node))

    def test_keptResults(self):
        fixed, moving = headVolume("fixed"), headVolume("moving")
        outputs = {"transform": slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "t"),
                   "volume": headVolume("moved")}
        shifts = []
        for value in (0.2, 0.8):
            shift = np.eye(4)
            shift[0, 3] = 10 * value
            scene.setTransform(outputs["transform"], scene.vtkTransform(description(self.folder, shift)))
            slicer.util.updateVolumeFromArray(outputs["volume"], np.full((4, 5, 6), value, np.float32))
            scene.setProvenance(outputs.values(), fixed, moving, {"lambda": value, "transform": "joint"})
            kept.keep(outputs, fixed, moving)
            shifts.append(outputs["transform"].GetTransformFromParent().TransformPoint(0, 0, 0))
        results = kept.results(fixed, moving)
        self.assertEqual([one.title for one in results], ["\u03bb 0.2", "\u03bb 0.8"])
        self.assertEqual(kept.inFront(results, outputs["transform"], fixed).number, 2)
        self.assertEqual(kept.keep(outputs, fixed, moving).number, 2)  # the same result is kept once
        self.assertEqual(kept.show(results[0], outputs, fixed, moving), outputs)
        self.assertEqual(outputs["transform"].GetTransformFromParent().TransformPoint(0, 0, 0), shifts[0])
        np.testing.assert_allclose(slicer.util.arrayFromVolume(outputs["volume"]), 0.2)
        self.assertEqual(outputs["transform"].GetAttribute("SynthMorph.lambda"), "0.2")
        self.assertIsNone(outputs["transform"].GetAttribute("SynthMorph.kept"))
        kept.remove(results[0])
        self.assertEqual(len(kept.results(fixed, moving)), 1)

    def test_surfacesShowDisplacement(self):
        fixed = headVolume("fixed")
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(fixed)
        identifier = segmentation.GetSegmentation().AddEmptySegment("brain", "Brain")
        voxels = (slicer.util.arrayFromVolume(fixed) == 100).astype(np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, segmentation, identifier, fixed)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "t")
        shift = np.eye(4)
        shift[:3, 3] = [6, 0, 8]
        scene.setTransform(node, scene.vtkTransform(description(self.folder, shift)))
        model = surfaces.show(node, segmentation, fixed)
        lengths = slicer.util.arrayFromModelPointData(model, surfaces.ARRAY)
        self.assertGreater(len(lengths), 1000)
        np.testing.assert_allclose(lengths, 10.0, atol=1e-4)
        self.assertTrue(surfaces.areVisible(node))
        surfaces.setVisible(node, False)
        self.assertFalse(surfaces.areVisible(node))
        segmentation.GetSegmentation().RemoveAllSegments()
        self.assertIsNone(surfaces.show(node, segmentation, fixed))

    def test_curveAndPDF(self):
        points = [{"regularization": value, "sd_log": 0.3 - 0.2 * value, "similarity": 1.4 - 0.1 * value,
                   "dice": None, "folding": 0} for value in (0.2, 0.5, 0.8)]
        drawing, path = (os.path.join(self.folder, name) for name in ("curve.png", "page.pdf"))
        self.assertTrue(curve.draw(points, 0.5).save(drawing))
        page = "<html><body><h1>Report</h1>" + 90 * "<p>Not for clinical use.</p>" + "<svg></svg></body></html>"
        printing.write(page, path, drawing)
        with open(path, "rb") as file:
            data = file.read()
        self.assertTrue(data.startswith(b"%PDF") and data.rstrip().endswith(b"%%EOF"))
        self.assertGreater(data.count(b"/Type /Page\n"), 1)
        self.assertIn(b"/Subtype /Image", data)

    def test_viewsAreRestored(self):
        fixed, moved = headVolume("fixed"), headVolume("moved", (5, 0, 0))
        views = [slicer.mrmlScene.GetNthNodeByClass(n, "vtkMRMLSliceCompositeNode")
                 for n in range(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode"))]
        slices = [slicer.mrmlScene.GetNthNodeByClass(n, "vtkMRMLSliceNode")
                  for n in range(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSliceNode"))]
        slicer.util.setSliceViewerLayers(background=moved, foreground=None, fit=True)
        for node in slices:
            node.SetSliceOffset(12.5)
        before = [list(node.GetFieldOfView()) for node in slices]
        shown = review.Review()
        shown.showOverlay(fixed, moved, 0.4)
        self.assertTrue(views)
        held = views[0].GetReferenceCount()
        for _ in range(3):
            shown.setOpacity(0.4)
        self.assertEqual(views[0].GetReferenceCount(), held)  # looking for the views leaves nothing behind
        for node in views:
            self.assertEqual((node.GetBackgroundVolumeID(), node.GetForegroundVolumeID()),
                             (fixed.GetID(), moved.GetID()))
            self.assertAlmostEqual(node.GetForegroundOpacity(), 0.4)
        shown.swap()
        self.assertEqual(views[0].GetForegroundOpacity(), 0.0)
        shown.showCheckerboard(fixed, moved)
        shown.restore()
        for node in views:
            self.assertEqual((node.GetBackgroundVolumeID(), node.GetForegroundVolumeID()), (moved.GetID(), None))
        self.assertIsNone(slicer.mrmlScene.GetFirstNodeByName("SynthMorph checkerboard"))
        self.assertEqual([list(node.GetFieldOfView()) for node in slices], before)
        for node in slices:
            self.assertAlmostEqual(node.GetSliceOffset(), 12.5)


if __name__ == "__main__":
    unittest.main()

"""The core scenario, for the module's test class: made-up heads, so that no data has to be fetched."""

import time

import numpy as np
import slicer
import vtk

from . import environment, measures, scene, segments
from .parameters import ModelChoice, TransformType

SHIFT = np.array([10.0, 0.0, 0.0])  # RAS mm


def headVolume(name, center=(0.0, 0.0, 0.0), ijkToRAS=None, size=(96, 112, 96)):
    """A volume with a made-up head: skull, brain, two ventricles, and a bright spot on the right."""
    matrix = np.diag([2.0, 2.0, 2.0, 1.0]) if ijkToRAS is None else np.array(ijkToRAS, float)
    if ijkToRAS is None:
        matrix[:3, 3] = [-size[0] + 1.0, -size[1] + 1.0, -size[2] + 1.0]
    k, j, i = np.meshgrid(*[np.arange(n) for n in size[::-1]], indexing="ij")
    points = np.stack([i, j, k], -1) @ matrix[:3, :3].T + matrix[:3, 3] - np.asarray(center)

    def inside(middle, radii):
        return (((points - middle) / radii) ** 2).sum(-1) < 1

    voxels = np.zeros(k.shape, np.float32)
    for middle, radii, value in (((0, 0, 0), (75, 92, 75), 60), ((0, 0, 0), (68, 85, 68), 10),
                                 ((0, 0, 0), (64, 81, 64), 100),
                                 ((10, 5, 10), (6, 25, 10), 20), ((-10, 5, 10), (6, 25, 10), 20),
                                 ((0, -50, -35), (40, 25, 20), 80), ((35, 20, 0), (6, 6, 6), 140)):
        voxels[inside(middle, radii)] = value
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(scene.toVTKMatrix(matrix))
    slicer.util.updateVolumeFromArray(node, voxels)
    node.CreateDefaultDisplayNodes()
    return node


def checkSigns(test):
    """A displacement of +10 mm towards the right: where the moving volume and its points must then appear."""
    field = np.zeros((5, 6, 7, 3), np.float32)
    field[..., :] = SHIFT * [-1, -1, 1]  # the worker writes LPS
    matrix = np.diag([20.0, 20.0, 20.0, 1.0])
    matrix[:3, 3] = -50
    grid = scene.gridTransform(field, matrix)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    scene.setTransform(node, grid)
    # a volume is sampled from the parent: at a fixed point one sees what lies 10 mm to its right in the moving volume
    np.testing.assert_allclose(node.GetTransformFromParent().TransformPoint(0, 0, 0), SHIFT, atol=1e-5)
    # so a point of the moving volume moves the other way
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    markups.AddControlPoint(vtk.vtkVector3d(*SHIFT))
    markups.SetAndObserveTransformNodeID(node.GetID())
    world = [0.0] * 3
    markups.GetNthControlPointPositionWorld(0, world)
    np.testing.assert_allclose(world, [0, 0, 0], atol=0.01)
    test.assertTrue(measures.valuesAt((0, 0, 0), node, None).startswith("displacement 10.0 mm"))


def checkRegistration(test, logic):
    """Register two made-up heads; without PyTorch, see that the reason is given in one sentence instead."""
    fixed, moving = headVolume("fixed"), headVolume("moving", center=(8.0, -5.0, 4.0))
    if not environment.isReady():
        with test.assertRaises(RuntimeError) as caught:
            logic.register(fixed, moving)
        test.assertIn("PyTorch", str(caught.exception))
        return
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "labels")
    labels.CreateDefaultDisplayNodes()
    labels.SetReferenceImageGeometryParameterFromVolumeNode(moving)
    identifier = labels.GetSegmentation().AddEmptySegment("spot", "Bright spot", [1.0, 0.5, 0.0])
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        (slicer.util.arrayFromVolume(moving) == 140).astype(np.uint8), labels, identifier, moving)
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "landmark")
    markups.AddControlPoint(vtk.vtkVector3d(43.0, 15.0, 4.0))  # in the middle of the spot

    outputs = logic.register(fixed, moving, transform="joint", model="compact", device="cpu", refinement=0,
                             outputVolume=True, outputJacobian=True, outputSegmentation=True, carriedLabels=[labels],
                             carriedPoints=[markups])
    test.assertEqual(set(outputs), {"transform", "volume", "jacobian", "segmentation"})
    before, after = (_difference(fixed, node) for node in (moving, outputs["volume"]))
    test.assertLess(after, 0.6 * before)

    segment = outputs["segmentation"].GetSegmentation().GetSegment("spot")
    test.assertEqual(segment.GetName(), "Bright spot")
    test.assertGreater(segments.volumesOf(outputs["segmentation"])["Bright spot"], 0.2)
    spot = np.array(slicer.util.getNode("landmark (carried)").GetNthControlPointPositionVector(0))
    test.assertLess(np.linalg.norm(spot - [35.0, 20.0, 0.0]), 6.0)  # 10 before; no network has seen such a head
    test.assertEqual(outputs["transform"].GetNodeReference("spatialRegistrationFixed"), fixed)

    shown = {name: node.GetID() for name, node in outputs.items()}
    logic.changeRegularization(0.9)
    test.assertEqual({name: node.GetID() for name, node in logic.job.outputs.items()}, shown)
    test.assertEqual(outputs["transform"].GetAttribute("SynthMorph.lambda"), "0.9")


def checkPanel(test):
    """Press the buttons: register, look at it, start again and cancel.  Works without a main window, too."""
    widget = slicer.util.getModuleWidget("SynthMorphSlicer")
    fixed, moving = headVolume("fixed"), headVolume("moving", center=(8.0, -5.0, 4.0))
    entered = widget.parent.isEntered  # pressed in the open module, which must stay as it is
    if not entered:
        widget.enter()
    panel, ui = widget.panel, widget.panel.ui
    try:
        test.assertFalse(ui.applyButton.enabled)
        ui.fixedVolumeSelector.setCurrentNode(fixed)
        ui.movingVolumeSelector.setCurrentNode(moving)
        if not environment.isReady():
            test.assertIn("PyTorch", ui.applyButton.toolTip)
            return
        _choose(ui.modelComboBox, ModelChoice.COMPACT.label())
        _choose(ui.transformTypeComboBox, TransformType.AFFINE.label())
        ui.deviceComboBox.currentIndex = ui.deviceComboBox.findData("cpu")
        ui.applyButton.click()
        test.assertTrue(panel.logic.isBusy())
        _wait(test, lambda: not panel.logic.isBusy())
        test.assertTrue(ui.errorLabel.isHidden(), ui.errorLabel.text)
        moved = panel.parameters.outputVolume
        test.assertLess(_difference(fixed, moved), 0.6 * _difference(fixed, moving))
        for number in range(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
            view = slicer.mrmlScene.GetNthNodeByClass(number, "vtkMRMLSliceCompositeNode")
            test.assertEqual((view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()),
                             (fixed.GetID(), moved.GetID()))
        before = slicer.util.arrayFromVolume(moved).copy()
        ui.applyButton.click()
        _wait(test, lambda: ui.progressBar.value > 0)
        started = time.monotonic()
        _wait(test, lambda: time.monotonic() - started > 0.5)  # a click right after the first would be a double click
        ui.applyButton.click()
        test.assertFalse(panel.logic.isBusy())
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(moved), before)
    finally:
        panel.logic.cancel()
        if not entered:
            widget.exit()


def _choose(comboBox, text):
    comboBox.currentIndex = comboBox.findText(text)


def _wait(test, condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        test.assertLess(time.monotonic(), end, "the panel takes too long")
        slicer.app.processEvents()
        time.sleep(0.01)


def _difference(first, second):
    return float(np.abs(slicer.util.arrayFromVolume(first) - slicer.util.arrayFromVolume(second)).mean())

"""The logic as scripts use it, without any panel: real nodes, the real worker, made-up heads whose truth is known."""

import os
import time
import unittest

import numpy as np
import pytest
from workplace import needsTorch, strangeWorker

OBLIQUE = np.array([[1.9, -0.55, 0.3, -70], [0.55, 1.9, -0.35, -105], [-0.2, 0.4, 2.9, -95], [0, 0, 0, 1]])
LEFT_HANDED = np.array([[-1.8, 0, 0, 85], [0, 2.0, 0, -110], [0, 0, 2.5, -95], [0, 0, 0, 1]])
SHIFT = (8.0, -5.0, 4.0)


@pytest.fixture
def logic(module):
    import slicer

    import SynthMorphSlicer
    slicer.mrmlScene.Clear(0)
    logic = SynthMorphSlicer.SynthMorphSlicerLogic()
    yield logic
    logic.close()
    slicer.mrmlScene.Clear(0)


def heads(**options):
    from SynthMorphSlicerLib.selftest import headVolume
    return headVolume("fixed"), headVolume("moving", SHIFT, **options)


def linearParent(degrees=0.0, shift=(0, 0, 0)):
    import slicer
    from SynthMorphSlicerLib import scene
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = shift
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "parent")
    node.SetMatrixTransformToParent(scene.toVTKMatrix(matrix))
    return node, matrix


def test_scripts_find_the_logic(module):
    """As the README has it."""
    import slicer
    assert slicer.util.getModuleLogic("SynthMorphSlicer") is module.widgetRepresentation().self().logic


FAST = {"model": "compact", "device": "cpu", "refinement": 0}


@needsTorch
@pytest.mark.parametrize("name", ["test_signs", "test_registration", "test_panel"])
def test_self_test_of_the_module(module, name):
    """The class that ctest runs in Slicer."""
    import SynthMorphSlicer
    result = unittest.TestResult()
    SynthMorphSlicer.SynthMorphSlicerTest(name).run(result)
    problems = [text for _, text in result.failures + result.errors]
    assert not problems, problems[0]
    assert result.testsRun == 1


@needsTorch
def test_self_test_leaves_an_open_module_open(module):
    """As the developer's button Reload and Test runs it."""
    import SynthMorphSlicer
    widget = module.widgetRepresentation()
    widget.enter()
    result = unittest.TestResult()
    SynthMorphSlicer.SynthMorphSlicerTest("test_panel").run(result)
    assert result.wasSuccessful() and widget.self().panel.parameters is not None
    widget.exit()


@needsTorch
@pytest.mark.parametrize("case", ["oblique and anisotropic", "left-handed"])
def test_any_geometry_finds_the_same_place(logic, case):
    """The bright spot of the moving head lands on that of the fixed one, however the voxels are stored."""
    import slicer
    matrix, size = (OBLIQUE, (88, 100, 70)) if case != "left-handed" else (LEFT_HANDED, (96, 112, 78))
    fixed, moving = heads(ijkToRAS=matrix, size=size)
    outputs = logic.register(fixed, moving, transform="affine", outputVolume=True, **FAST)
    spot = np.array([35.0, 20.0, 0.0])
    found = outputs["transform"].GetTransformFromParent().TransformPoint(spot)
    assert np.linalg.norm(found - (spot + SHIFT)) < 8  # mm, with voxels of 2 to 3 mm; 10 and more before
    assert slicer.util.arrayFromVolume(outputs["volume"]).shape == slicer.util.arrayFromVolume(fixed).shape


@needsTorch
def test_linear_parents_count_as_if_they_were_hardened(logic):
    fixed, moving = heads(ijkToRAS=OBLIQUE, size=(88, 100, 70))
    for volume, parent in ((moving, linearParent(12, (10, -6, 4))[0]), (fixed, linearParent(-5, (0, 3, 8))[0])):
        volume.SetAndObserveTransformNodeID(parent.GetID())
    outputs = logic.register(fixed, moving, transform="affine", outputVolume=True, **FAST)
    assert outputs["volume"].GetParentTransformNode() is fixed.GetParentTransformNode()
    for volume in (fixed, moving):
        volume.HardenTransform()
        assert volume.GetParentTransformNode() is None
    hardened = logic.register(fixed, moving, transform="affine", **FAST)
    for point in ((35.0, 20.0, 0.0), (-30.0, -40.0, 25.0)):
        places = [o["transform"].GetTransformFromParent().TransformPoint(point) for o in (outputs, hardened)]
        np.testing.assert_allclose(*places, atol=0.1)


def test_non_linear_parents_are_refused_with_advice(logic):
    import slicer
    from SynthMorphSlicerLib import scene
    from SynthMorphSlicerLib.logic import InputError
    fixed, moving = heads()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "warp")
    matrix = np.diag([40.0, 40, 40, 1])
    matrix[:3, 3] = -100
    scene.setTransform(node, scene.gridTransform(np.zeros((6, 6, 6, 3), np.float32), matrix))
    for volume in (fixed, moving):
        volume.SetAndObserveTransformNodeID(node.GetID())
        with pytest.raises(InputError, match="harden"):
            logic.register(fixed, moving)
        volume.SetAndObserveTransformNodeID(None)
    # the moving volume may hang on a result of ours, for it is known where it was; the fixed one may not
    node.SetAttribute("SynthMorph.lambda", "0.5")
    fixed.SetAndObserveTransformNodeID(node.GetID())
    with pytest.raises(InputError, match="harden"):
        logic.register(fixed, moving)
    assert not logic.client.isRunning()


@needsTorch
def test_outputs_none_existing_and_new_and_nothing_multiplies(logic):
    """A second run with the first one's nodes adds no node, not even copies of what was carried along."""
    import slicer
    import vtk
    fixed, moving = heads()
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "landmark")
    markups.AddControlPoint(vtk.vtkVector3d(43.0, 15.0, 4.0))
    chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "chosen")
    options = {"transform": "affine", "carriedPoints": [markups], "outputTransform": chosen, **FAST}
    outputs = logic.register(fixed, moving, **options)
    assert outputs == {"transform": chosen}
    count = slicer.mrmlScene.GetNumberOfNodes()
    logic.register(fixed, moving, **options)
    assert slicer.mrmlScene.GetNumberOfNodes() == count
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(chosen))
    assert hierarchy.GetNumberOfItemChildren(folder) == 2
    outputs = logic.register(fixed, moving, **{**options, "outputTransform": True})
    assert outputs["transform"] is not chosen
    other = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(outputs["transform"]))
    assert other != folder and hierarchy.GetNumberOfItemChildren(other) == 2
    for name in ("lambda", "model", "checksum", "device", "date"):
        assert chosen.GetAttribute(f"SynthMorph.{name}"), name
    assert chosen.GetNodeReference("spatialRegistrationMoving") is moving


@needsTorch
def test_several_segmentations_and_a_label_map_become_one(logic):
    import slicer
    from SynthMorphSlicerLib import scene
    fixed, moving = heads()
    voxels = slicer.util.arrayFromVolume(moving)
    nodes = []
    for number, (identifier, value) in enumerate((("spot", 140), ("ventricles", 20))):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", identifier)
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(moving)
        node.GetSegmentation().AddEmptySegment(identifier, identifier.title(), (0.2, 0.3 + number / 2, 0.9))
        slicer.util.updateSegmentBinaryLabelmapFromArray((voxels == value).astype(np.uint8), node, identifier, moving)
        nodes.append(node)
    labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    scene.setVolumeOnFixed(labelmap, np.where(voxels == 80, 7, 0).astype(np.int16), moving)
    labelmap.CreateDefaultDisplayNodes()
    outputs = logic.register(fixed, moving, transform="affine", outputTransform=None, outputSegmentation=True,
                             carriedLabels=[*nodes, labelmap], **FAST)
    assert set(outputs) == {"segmentation"}
    segmentation = outputs["segmentation"].GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 3
    assert segmentation.GetSegment("ventricles").GetColor() == (0.2, 0.8, 0.9)
    spot = np.argwhere(slicer.util.arrayFromSegmentBinaryLabelmap(outputs["segmentation"], "spot", fixed))
    truth = np.argwhere(slicer.util.arrayFromVolume(fixed) == 140)
    assert np.linalg.norm(spot.mean(0) - truth.mean(0)) * 2 < 6  # mm


@needsTorch
def test_initial_transform_bridges_what_is_far_apart(logic):
    """Heads that lie 300 mm apart and are turned: the initial transform says roughly how they belong together."""
    from SynthMorphSlicerLib.selftest import headVolume
    fixed, moving = headVolume("fixed"), headVolume("moving")
    away, matrix = linearParent(25, (300, 40, -60))
    moving.SetAndObserveTransformNodeID(away.GetID())
    initial, _ = linearParent()
    from SynthMorphSlicerLib import scene
    initial.SetMatrixTransformToParent(scene.toVTKMatrix(np.linalg.inv(matrix)))
    outputs = logic.register(fixed, moving, transform="rigid", initialTransform=initial, **FAST)
    for point in ((35.0, 20.0, 0.0), (-20.0, -30.0, 25.0)):
        found = outputs["transform"].GetTransformFromParent().TransformPoint(point)
        assert np.linalg.norm(found - (matrix @ [*point, 1])[:3]) < 5


@needsTorch
def test_idle_worker_gives_its_memory_back_and_lambda_still_follows(logic, monkeypatch):
    monkeypatch.setenv("SYNTHMORPH_IDLE_SECONDS", "0.3")
    fixed, moving = heads()
    outputs = logic.register(fixed, moving, **FAST)
    process = logic.client.processID()
    time.sleep(1.5)
    stages = []
    logic.changeRegularization(0.8, onProgress=lambda stage, fraction, message: stages.append(stage))
    assert "affine transform" in stages  # it had to start over
    assert logic.client.processID() == process
    assert outputs["transform"].GetAttribute("SynthMorph.lambda") == "0.8"
    assert logic.job.outputs == outputs


def test_what_moves_an_input_cannot_be_an_output(logic):
    fixed, moving = heads()
    parent, _ = linearParent(10)
    grandparent, _ = linearParent(5)
    parent.SetAndObserveTransformNodeID(grandparent.GetID())
    for volume in (fixed, moving):
        volume.SetAndObserveTransformNodeID(parent.GetID())
        for node in (parent, grandparent):
            assert "moves one of the inputs" in logic.problem(fixed, moving, {"transform": node.GetID()})
        volume.SetAndObserveTransformNodeID(None)
    # the moving volume's own result is updated in place; that of the fixed one would move it
    parent.SetAttribute("SynthMorph.lambda", "0.5")
    parent.SetAndObserveTransformNodeID(None)
    moving.SetAndObserveTransformNodeID(parent.GetID())
    assert logic.problem(fixed, moving, {"transform": parent.GetID()}) == ""
    moving.SetAndObserveTransformNodeID(None)
    fixed.SetAndObserveTransformNodeID(parent.GetID())
    assert "moves one of the inputs" in logic.problem(fixed, moving, {"transform": parent.GetID()})


def test_a_flat_initial_transform_is_refused(logic):
    import vtk
    fixed, moving = heads()
    flat, _ = linearParent()
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(2, 2, 0.0)
    flat.SetMatrixTransformToParent(matrix)
    assert "flat" in logic.problem(fixed, moving, {"transform": ""}, flat)


def unfinished(logic, fixed, moving, disturb):
    """What is told of a registration that is disturbed once it runs."""
    errors = []
    logic.register(fixed, moving, "affine", outputVolume=True, blocking=False, onError=errors.append, **FAST)
    disturb()
    deadline = time.monotonic() + 120
    while logic.isBusy() and time.monotonic() < deadline:
        logic.poll()
        time.sleep(0.05)
    return [error["message"] for error in errors]


@needsTorch
def test_a_volume_that_leaves_the_scene_in_mid_run_is_told_of(logic):
    import slicer
    fixed, moving = heads()
    told = unfinished(logic, fixed, moving, lambda: slicer.mrmlScene.RemoveNode(moving))
    assert len(told) == 1 and "has left the scene" in told[0]


@needsTorch
def test_a_result_that_does_not_fit_into_memory_leaves_nothing_half_made(logic, monkeypatch):
    import slicer
    from SynthMorphSlicerLib import scene
    fixed, moving = heads()
    count = slicer.mrmlScene.GetNumberOfNodes()

    def full(*_):
        raise MemoryError("no memory left")

    monkeypatch.setattr(scene, "setVolumeOnFixed", full)
    told = unfinished(logic, fixed, moving, lambda: None)
    assert len(told) == 1 and "no memory left" in told[0]
    assert slicer.mrmlScene.GetNumberOfNodes() == count


@needsTorch
def test_the_moving_volume_shows_one_result_at_a_time(logic):
    import slicer
    fixed, moving = heads()
    from SynthMorphSlicerLib.selftest import headVolume
    other = headVolume("other", (-4.0, 6.0, 2.0))
    results = [logic.register(volume, moving, "affine", attachMoving=True, **FAST)["transform"]
               for volume in (fixed, other)]
    assert moving.GetParentTransformNode() is results[1] and results[1].GetParentTransformNode() is None
    again = logic.register(other, moving, "affine", attachMoving=True, **FAST)["transform"]
    points = [node.GetTransformFromParent().TransformPoint(10, 20, 30) for node in (results[1], again)]
    np.testing.assert_allclose(*points, atol=1e-3)
    assert not [node for node in slicer.util.getNodesByClass("vtkMRMLTransformNode") if "before" in node.GetName()]
    assert again.GetAttribute("SynthMorph.extent") == "256"


@needsTorch
def test_blocking_raises_what_the_worker_says(logic):
    fixed, moving = heads()
    logic.client._command = lambda: strangeWorker("memory")
    with pytest.raises(RuntimeError, match="emory"):
        logic.register(fixed, moving, **FAST)
    assert fixed.GetScene() is moving.GetScene() and logic.job.outputs == {}


def writtenTransforms(folder):
    """Files in FreeSurfer's formats, each with the ITK transform that is in it."""
    import SimpleITK as sitk
    from synthmorph_torch import transforms
    grid = sitk.Image([12, 14, 10], sitk.sitkFloat32)
    grid.SetSpacing([12.0, 10.0, 14.0])
    grid.SetOrigin([-60.0, -65.0, -66.0])
    affine = sitk.AffineTransform(3)
    affine.SetMatrix([1.02, 0.05, 0, -0.05, 0.98, 0, 0, 0, 1.05])
    affine.SetTranslation([5.0, -3.0, 8.0])
    field = sitk.TransformToDisplacementField(affine, sitk.sitkVectorFloat64, grid.GetSize(), grid.GetOrigin(),
                                              grid.GetSpacing(), grid.GetDirection())
    warp = sitk.DisplacementFieldTransform(field)
    for name, transform in (("matrix.lta", affine), ("warp.mgz", warp), ("warp.nii.gz", warp)):
        path = folder / name
        transforms.write_transform(transform, path, grid, grid)
        yield path, affine


def test_freesurfer_transforms_are_loaded_even_without_torch(logic, tmp_path):
    """What mri_synthmorph writes maps points in Slicer as it does in ITK."""
    logic.client._command = lambda: strangeWorker("torchless")
    for path, transform in writtenTransforms(tmp_path):
        node = logic.loadTransform(path)
        assert node.GetName() == path.name.split(".")[0]
        for point in ((0.0, 0.0, 0.0), (20.0, -30.0, 15.0)):
            expected = np.array(transform.TransformPoint((-point[0], -point[1], point[2]))) * [-1, -1, 1]
            np.testing.assert_allclose(node.GetTransformFromParent().TransformPoint(point), expected, atol=1e-3)
    from SynthMorphSlicerLib.logic import InputError
    with pytest.raises(InputError, match="Add Data"):
        logic.loadTransform(tmp_path / "transform.h5")
    (tmp_path / "broken.lta").write_text("nothing")
    with pytest.raises(RuntimeError, match="damaged"):
        logic.loadTransform(tmp_path / "broken.lta")
    import slicer
    assert not [name for name in os.listdir(slicer.app.temporaryPath) if name.startswith("SynthMorph-")]

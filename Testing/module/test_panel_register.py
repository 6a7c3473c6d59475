"""Register, Cancel and Lambda, by clicks, with the real worker process and real scans where there are any."""

import os
import signal
import time

import pytest
from workplace import DATA, chooseVolumes, error, finished, loadVolume, needsTorch, outputNodes, strangeWorker


def register(host, panel):
    """Press Register and wait until all is well."""
    panel.ui.applyButton.click()
    finished(host, panel)
    assert error(panel) == ""


def compositeNode():
    import slicer
    return slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()


@needsTorch
def test_register_fills_the_scene(host, ready):
    import slicer
    ready.ui.makeJacobianCheckBox.click()
    ready.ui.applyButton.click()
    assert ready.ui.applyButton.text == "Cancel"
    assert host.wait(lambda: ready.ui.progressBar.value > 20, 120)  # the event loop runs meanwhile
    assert " s" in ready.ui.statusLabel.text
    finished(host, ready)
    assert error(ready) == "" and ready.ui.applyButton.text == "Register"
    assert ready.ui.statusLabel.text.startswith("Registered in")
    parameters = ready.parameters
    fixed, moving, moved = parameters.fixedVolume, parameters.movingVolume, parameters.outputVolume
    names = outputNodes()
    assert f"{moving.GetName()} to {fixed.GetName()}" in names and len(names) == 3

    # the overlay, in linked views
    composite = compositeNode()
    assert (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()) == (fixed.GetID(), moved.GetID())
    assert composite.GetLinkedControl()

    # provenance and the folder
    transform = parameters.outputTransform
    assert transform.GetNodeReference("spatialRegistrationMoving") is moving
    assert transform.GetAttribute("SynthMorph.model") == "compact" and transform.GetAttribute("SynthMorph.checksum")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folders = {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in
               (transform, moved, parameters.outputJacobian)}
    assert len(folders) == 1 and hierarchy.GetItemName(folders.pop()).startswith("SynthMorph: ")

    ready.ui.applyButton.click()  # again: the same nodes
    finished(host, ready)
    assert outputNodes() == names


@needsTorch
def test_moved_volume_is_what_the_moving_one_shows_under_the_transform(host, ready):
    import numpy as np
    import slicer
    import vtk
    from SynthMorphSlicerLib import scene
    register(host, ready)
    parameters = ready.parameters
    transform = parameters.outputTransform.GetTransformFromParent()
    moved = slicer.util.arrayFromVolume(parameters.outputVolume)
    moving = slicer.util.arrayFromVolume(parameters.movingVolume).astype(float)
    toWorld, toIndex = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    parameters.fixedVolume.GetIJKToRASMatrix(toWorld)
    parameters.movingVolume.GetRASToIJKMatrix(toIndex)
    differences = []
    for index in np.random.default_rng(0).integers(20, np.array(moved.shape[::-1]) - 20, (400, 3)):
        point = (scene.toArray(toWorld) @ [*index, 1])[:3]
        place = (scene.toArray(toIndex) @ [*transform.TransformPoint(point), 1])[2::-1]
        if all(1 <= n < size - 2 for n, size in zip(place, moving.shape)):
            differences.append(abs(moved[tuple(index[::-1])] - linearly(moving, place)))
    assert len(differences) > 50 and np.percentile(differences, 95) < 0.02 * moving.max()


def linearly(array, place):
    """An array between its voxels, by trilinear interpolation."""
    import numpy as np
    corner = np.floor(place).astype(int)
    weights = [np.array([1 - share, share]) for share in place - corner]
    return np.einsum("kji,k,j,i->", array[tuple(slice(c, c + 2) for c in corner)], *weights)


@needsTorch
def test_only_the_newest_lambda_counts(host, ready):
    import numpy as np
    import slicer
    red = slicer.app.layoutManager().sliceWidget("Red")
    ready.ui.beforeButton.click()
    red.mrmlSliceNode().SetSliceOffset(11.0)
    register(host, ready)
    moved, names = ready.parameters.outputVolume, outputNodes()
    before = slicer.util.arrayFromVolume(moved).copy()
    for value in np.linspace(0.05, 0.95, 10):
        ready.ui.regularizationSlider.value = float(value)
        host.wait(lambda: False, 0.05)
    assert host.wait(lambda: moved.GetAttribute("SynthMorph.lambda") == "0.95" and not ready.logic.isBusy(), 120)
    assert outputNodes() == names
    assert np.abs(slicer.util.arrayFromVolume(moved) - before).max() > 0
    assert red.mrmlSliceNode().GetSliceOffset() == pytest.approx(11.0)  # where the user looked

    # the slider's sum of steps is not a lambda of its own: nothing is made twice, and nobody reads it
    ready.ui.regularizationSlider.value = 0.35
    assert ready.parameters.regularization == 7 * 0.05 != 0.35
    assert host.wait(lambda: moved.GetAttribute("SynthMorph.lambda") == "0.35" and not ready.logic.isBusy(), 120)
    ready.showLambda(0.35)
    host.wait(lambda: False, 0.4)
    assert not ready.logic.isBusy() and ready.logic.job.settings.regularization == 0.35


@needsTorch
def test_ways_to_look_at_a_result(host, ready):
    import slicer
    ready.ui.makeJacobianCheckBox.click()
    register(host, ready)
    composite = compositeNode()
    ready.ui.jacobianButton.click()
    assert composite.GetForegroundVolumeID() == ready.parameters.outputJacobian.GetID()
    ready.ui.jacobianButton.click()
    ready.ui.swapButton.click()
    assert composite.GetForegroundOpacity() == 0.0
    ready.ui.swapButton.click()
    assert composite.GetForegroundOpacity() == 1.0
    ready.ui.checkerboardButton.click()
    ready.ui.gridButton.click()
    assert ready.parameters.outputTransform.GetDisplayNode().GetVisibility2D()
    ready.ui.measuresButton.click()
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLTableNode").GetNumberOfRows() > 10


@needsTorch
def test_cancel_in_mid_run(host, ready):
    ready.logic.client._command = lambda: strangeWorker("slow")
    ready.ui.applyButton.click()
    assert host.wait(lambda: ready.ui.progressBar.value >= 20, 120)
    process = ready.logic.client.processID()
    began = time.monotonic()
    ready.ui.applyButton.click()
    assert time.monotonic() - began < 1
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert ready.ui.applyButton.text == "Register" and ready.ui.applyButton.enabled
    assert outputNodes() == set()
    from SynthMorphSlicerLib import environment
    ready.logic.client._command = environment.workerCommand


@needsTorch
@pytest.mark.parametrize(("fault", "words"), [("memory", "emory"), ("abort", "crashed"), ("torchless", "PyTorch")])
def test_faults_become_one_sentence_and_the_scene_is_untouched(host, ready, fault, words):
    from SynthMorphSlicerLib import environment
    ready.logic.cancel()
    ready.logic.client._command = lambda: strangeWorker(fault)
    ready.ui.applyButton.click()
    finished(host, ready)
    ready.logic.client._command = environment.workerCommand
    assert words in error(ready) and error(ready).rstrip().count(". ") == 0
    assert outputNodes() == set() and ready.ui.applyButton.enabled


@needsTorch
def test_worker_killed_by_signal(host, ready):
    ready.ui.applyButton.click()
    assert host.wait(lambda: ready.ui.progressBar.value >= 20, 120)
    os.kill(ready.logic.client.processID(), signal.SIGKILL)
    finished(host, ready)
    assert "memory ran out" in error(ready)
    assert outputNodes() == set()


@needsTorch
def test_closing_the_scene_in_mid_run_leaves_nothing_behind(host, ready):
    import slicer
    ready.ui.applyButton.click()
    assert host.wait(lambda: ready.ui.progressBar.value >= 20, 120)
    folder = ready.logic.job.folder
    process = ready.logic.client.processID()
    slicer.mrmlScene.Clear(0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    host.wait(lambda: False, 0.3)
    assert not os.path.exists(folder)
    assert outputNodes() == set() and not ready.logic.isBusy()
    assert ready.ui.applyButton.text == "Register"


@needsTorch
def test_lambda_is_previewed_first_and_refined_when_the_slider_rests(host, ready):
    ready.ui.refinementSpinBox.value = 1
    ready.ui.applyButton.click()
    finished(host, ready)
    ready.ui.regularizationSlider.value = 0.2
    volume = ready.parameters.outputVolume
    assert host.wait(lambda: volume.GetAttribute("SynthMorph.lambda") == "0.2", 60)
    assert ready.logic.job.preview and ready.logic.isBusy()  # the refined one is under way
    finished(host, ready)
    assert not ready.logic.job.preview and error(ready) == ""


@needsTorch
def test_first_result_is_shown_before_its_finest_details(host, ready):
    import slicer
    ready.ui.refinementSpinBox.value = 8
    ready.ui.applyButton.click()
    assert host.wait(lambda: ready.parameters.outputVolume is not None, 60)
    volume, moving = ready.parameters.outputVolume, ready.parameters.movingVolume
    assert volume.GetAttribute("SynthMorph.preview") == "yes" and ready.ui.applyButton.text == "Cancel"
    assert compositeNode().GetForegroundVolumeID() == volume.GetID()
    first = slicer.util.arrayFromVolume(volume).copy()
    ready.ui.beforeButton.click()
    finished(host, ready)
    assert error(ready) == "" and volume.GetAttribute("SynthMorph.preview") == ""
    assert len(outputNodes()) == 2 and (slicer.util.arrayFromVolume(volume) != first).any()
    assert "First look" in ready.ui.logTextEdit.toPlainText()
    assert compositeNode().GetForegroundVolumeID() == moving.GetID()  # what was looked at meanwhile


@needsTorch
@pytest.mark.parametrize("leave", ["the module", "the pair", "lambda"])
def test_first_look_becomes_the_whole_result_whatever_is_done_meanwhile(host, module, ready, leave):
    import slicer
    ready.ui.refinementSpinBox.value = 8
    fixed, moving = ready.parameters.fixedVolume, ready.parameters.movingVolume
    ready.ui.applyButton.click()
    if leave == "the module":
        module.widgetRepresentation().exit()
        finished(host, ready)
        module.widgetRepresentation().enter()
    else:
        assert host.wait(lambda: ready.parameters.outputVolume is not None, 60)
        volume = ready.parameters.outputVolume
        if leave == "the pair":
            chooseVolumes(ready, moving, fixed)
        else:
            ready.ui.regularizationSlider.value = 0.3
            assert host.wait(lambda: volume.GetAttribute("SynthMorph.lambda") == "0.3", 60)
        finished(host, ready)
    results = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
               if node.GetAttribute("SynthMorph.lambda")]
    assert error(ready) == "" and [node.GetAttribute("SynthMorph.preview") for node in results] == [""]


@needsTorch
def test_a_scene_with_results_of_another_lambda_says_nothing(host, ready):
    import slicer
    ready.ui.regularizationSlider.value = 0.2
    register(host, ready)
    ready.logic.cancel()
    ready._followed = 0.5  # of the scene before
    slicer.mrmlScene.StartState(slicer.mrmlScene.ImportState)
    slicer.mrmlScene.EndState(slicer.mrmlScene.ImportState)
    host.wait(lambda: False, 0.2)
    assert ready.parameters.regularization == 0.2
    assert "Press Register to get" not in ready.ui.logTextEdit.toPlainText()


@needsTorch
def test_cancel_keeps_what_is_shown_and_lambda_then_needs_register(host, ready):
    ready.ui.refinementSpinBox.value = 8
    ready.ui.applyButton.click()
    assert host.wait(lambda: ready.parameters.outputVolume is not None, 60)
    ready.ui.applyButton.click()
    assert not ready.logic.isBusy() and "lacks the finest details" in ready.ui.statusLabel.text
    assert ready.parameters.outputVolume.GetAttribute("SynthMorph.preview") == "yes"
    ready.ui.regularizationSlider.value = 0.2
    assert "Press Register to get this lambda" in ready.ui.statusLabel.text and not ready.logic.isBusy()
    register(host, ready)
    assert ready.parameters.outputVolume.GetAttribute("SynthMorph.lambda") == "0.2" and len(outputNodes()) == 2


@needsTorch
def test_lambda_that_is_moved_while_there_is_no_result_counts_afterwards(host, ready):
    register(host, ready)
    ready.ui.applyButton.click()
    ready.ui.regularizationSlider.value = 0.8
    volume = ready.parameters.outputVolume
    assert host.wait(lambda: volume.GetAttribute("SynthMorph.lambda") == "0.8" and not ready.logic.isBusy(), 120)
    assert error(ready) == ""


@needsTorch
def test_leaving_the_module_in_mid_run_keeps_the_result(host, module, ready):
    ready.ui.transformTypeComboBox.currentIndex = ready.ui.transformTypeComboBox.findText("Rigid only")
    ready.ui.applyButton.click()
    module.widgetRepresentation().exit()
    finished(host, ready)
    module.widgetRepresentation().enter()
    assert ready.parameters.outputVolume is not None
    assert ready.ui.outputTransformSelector.currentNode() is ready.parameters.outputTransform


@needsTorch
def test_setup_lists_the_weights_without_blocking_register(host, ready):
    ready.ui.setupCollapsibleButton.collapsed = False
    assert ready.ui.applyButton.text == "Register" and not ready.logic.isBusy()
    assert host.wait(lambda: "Cache folder" in ready.ui.weightsLabel.text, 60)
    assert "synthmorph.deform" in ready.ui.weightsLabel.text


@needsTorch
def test_carried_labels_and_points(host, ready):
    import slicer
    import vtk
    if DATA is None:
        pytest.skip("needs the manual labels of the data pack")
    labels = loadVolume(DATA / "malf" / "1000_glm.nii.gz", "structures", labels=True)
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "landmark")
    markups.AddControlPoint(vtk.vtkVector3d(0, 0, 0))
    ready.ui.carriedLabelsSelector.check(labels)
    ready.ui.carriedPointsSelector.check(markups)
    assert list(ready.parameters.carriedLabels) == [labels]
    ready.ui.applyButton.click()
    finished(host, ready)
    assert error(ready) == ""
    output = ready.parameters.outputSegmentation
    assert output.GetSegmentation().GetNumberOfSegments() > 100
    copy = slicer.mrmlScene.GetFirstNodeByName("landmark (carried)")
    point = list(copy.GetNthControlPointPositionVector(0))
    back = ready.parameters.outputTransform.GetTransformFromParent().TransformPoint(point)
    assert max(abs(c) for c in back) < 0.5  # mm: the two directions undo each other


@needsTorch
def test_attached_moving_volume_is_registered_from_where_it_was(host, ready):
    ready.ui.attachMovingCheckBox.click()
    ready.ui.transformTypeComboBox.currentIndex = ready.ui.transformTypeComboBox.findText("Affine only")
    assert not ready.ui.regularizationSlider.enabled
    results = []
    for _ in range(2):
        ready.ui.applyButton.click()
        finished(host, ready)
        assert error(ready) == ""
        assert ready.parameters.movingVolume.GetParentTransformNode() is ready.parameters.outputTransform
        results.append(ready.parameters.outputTransform.GetTransformFromParent().TransformPoint(10, 20, 30))
    assert max(abs(a - b) for a, b in zip(*results)) < 1e-3


def test_a_temporary_folder_that_is_gone_is_told(ready, monkeypatch):
    import slicer
    monkeypatch.setattr(slicer.app, "temporaryPath", "/nowhere")
    ready.ui.applyButton.click()
    assert "'/nowhere'" in error(ready) and "Application Settings" in error(ready)
    assert not ready.logic.isBusy() and ready.ui.applyButton.enabled and outputNodes() == set()


@needsTorch
def test_double_click_registers_once(host, ready):
    ready.ui.transformTypeComboBox.currentIndex = ready.ui.transformTypeComboBox.findText("Rigid only")
    ready.ui.applyButton.click()
    ready.ui.applyButton.click()
    assert ready.logic.isBusy() and ready.ui.applyButton.text == "Cancel"
    finished(host, ready)
    assert error(ready) == "" and len(outputNodes()) == 2
    assert host.wait(lambda: not ready.logic.isBusy(), 1)

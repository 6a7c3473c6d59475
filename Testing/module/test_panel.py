"""The panel, driven by clicks on its real widgets, with the real worker process and real scans where there are any."""

import os
import signal
import sys
import time

import pytest
from conftest import DATA
from workplace import error, finished, loadVolume, needsTorch, outputNodes, strangeWorker, twoHeads

# What is missing


def test_register_says_what_is_missing(panel):
    assert not panel.ui.applyButton.enabled
    assert panel.ui.applyButton.toolTip == "Choose a fixed volume."
    fixed, moving = twoHeads()
    panel.ui.fixedVolumeSelector.setCurrentNode(fixed)
    assert panel.ui.applyButton.toolTip == "Choose a moving volume."
    panel.ui.movingVolumeSelector.setCurrentNode(fixed)
    assert "the same" in panel.ui.applyButton.toolTip
    panel.ui.movingVolumeSelector.setCurrentNode(moving)
    assert panel.ui.applyButton.enabled
    for name in ("Transform", "Volume"):
        getattr(panel.ui, f"make{name}CheckBox").click()
    assert panel.ui.applyButton.toolTip.startswith("Choose labels to carry along")
    panel.ui.makeSegmentationCheckBox.click()
    assert panel.ui.applyButton.toolTip == "Choose at least one output."
    for name in ("Transform", "Volume", "Jacobian", "Segmentation"):
        assert not getattr(panel.ui, f"output{name}Selector").enabled, name
    panel.ui.makeJacobianCheckBox.click()
    assert panel.ui.outputJacobianSelector.enabled


def test_only_what_can_hold_a_result_is_offered_for_it(panel):
    import slicer
    nodes = {name: slicer.mrmlScene.AddNewNodeByClass(f"vtkMRML{name}VolumeNode") for name in
             ("Scalar", "LabelMap", "Vector")}
    for selector in (panel.ui.outputVolumeSelector, panel.ui.outputJacobianSelector):
        for name, node in nodes.items():
            selector.setCurrentNode(node)
            assert (selector.currentNode() is node) == (name == "Scalar"), name


def test_without_torch_the_setup_opens_and_explains(panel, monkeypatch):
    from SynthMorphSlicerLib import environment
    monkeypatch.setattr(environment, "isReady", lambda: False)
    panel.setupSection.refresh()
    panel.updateButtons()
    assert not panel.ui.setupCollapsibleButton.collapsed
    assert not panel.ui.installButton.isHidden()
    assert "PyTorch extension" in panel.ui.setupLabel.text
    assert panel.ui.applyButton.toolTip.startswith("PyTorch is missing")
    asked = []
    monkeypatch.setattr("slicer.util.confirmOkCancelDisplay", lambda text, title: asked.append(text) or False)
    panel.ui.installButton.click()
    assert len(asked) == 1  # and nothing was installed, because the answer was no


def test_wrong_inputs_are_refused_with_advice(panel):
    import numpy as np
    import slicer
    fixed, moving = twoHeads()
    flat = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "slice")
    slicer.util.updateVolumeFromArray(flat, np.ones((1, 50, 50), np.float32))
    panel.ui.fixedVolumeSelector.setCurrentNode(fixed)
    panel.ui.movingVolumeSelector.setCurrentNode(flat)
    assert "single slice" in panel.ui.applyButton.toolTip and not panel.ui.applyButton.enabled


@needsTorch
def test_images_with_nothing_in_common_are_warned_of(host, ready):
    import numpy as np
    import slicer
    for number, node in enumerate((ready.parameters.fixedVolume, ready.parameters.movingVolume)):
        array = slicer.util.arrayFromVolume(node)
        array[:] = 1 + 50 * np.random.default_rng(number).random(array.shape)
        node.Modified()
    ready.ui.transformTypeComboBox.currentIndex = ready.ui.transformTypeComboBox.findText("Affine only")
    ready.ui.applyButton.click()
    finished(host, ready)
    assert host.wait(lambda: error(ready) != "", 60)
    assert "do not look alike" in error(ready) if outputNodes() else "could not be aligned" in error(ready)


@needsTorch
def test_what_only_the_engine_notices_is_told_in_the_panel(host, ready):
    import slicer
    array = slicer.util.arrayFromVolume(ready.parameters.movingVolume)
    array[:] = 0
    ready.ui.applyButton.click()
    finished(host, ready)
    assert "every voxel" in error(ready) or "background" in error(ready)
    assert outputNodes() == set()
    assert not ready.ui.detailsButton.isHidden()
    ready.ui.detailsButton.click()
    assert "Traceback" in ready.ui.detailsTextEdit.toPlainText()


# Register


@needsTorch
def test_register_then_move_lambda(host, ready):
    import numpy as np
    import slicer
    ready.ui.makeJacobianCheckBox.click()
    red = slicer.app.layoutManager().sliceWidget("Red")
    ready.ui.beforeButton.click()
    red.mrmlSliceNode().SetSliceOffset(11.0)
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
    composite = red.mrmlSliceCompositeNode()
    assert (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()) == (fixed.GetID(), moved.GetID())
    assert composite.GetLinkedControl()

    # the moved volume is what the moving one shows under the transform
    transform, array = parameters.outputTransform, slicer.util.arrayFromVolume(moved)
    import vtk
    from SynthMorphSlicerLib import scene
    toWorld, toIndex = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    fixed.GetIJKToRASMatrix(toWorld)
    moving.GetRASToIJKMatrix(toIndex)
    movingArray = slicer.util.arrayFromVolume(moving).astype(float)
    checked = []
    for index in np.random.default_rng(0).integers(20, np.array(array.shape[::-1]) - 20, (400, 3)):
        point = (scene.toArray(toWorld) @ [*index, 1])[:3]
        i, j, k = (scene.toArray(toIndex) @ [*transform.GetTransformFromParent().TransformPoint(point), 1])[:3]
        if all(1 <= n < s - 2 for n, s in zip((i, j, k), movingArray.shape[::-1])):
            corner = np.floor([k, j, i]).astype(int)
            block = movingArray[tuple(slice(c, c + 2) for c in corner)]
            weights = [np.array([1 - f, f]) for f in np.array([k, j, i]) - corner]
            expected = np.einsum("kji,k,j,i->", block, *weights)
            checked.append(abs(array[tuple(index[::-1])] - expected))
    assert len(checked) > 50 and np.percentile(checked, 95) < 0.02 * movingArray.max()

    # provenance and the folder
    assert transform.GetNodeReference("spatialRegistrationMoving") is moving
    assert transform.GetAttribute("SynthMorph.model") == "compact" and transform.GetAttribute("SynthMorph.checksum")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folders = {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in
               (transform, moved, parameters.outputJacobian)}
    assert len(folders) == 1 and hierarchy.GetItemName(folders.pop()).startswith("SynthMorph: ")

    # lambda, ten times quickly: the nodes stay, the last value counts
    before = array.copy()
    for value in np.linspace(0.05, 0.95, 10):
        ready.ui.regularizationSlider.value = float(value)
        host.wait(lambda: False, 0.05)
    assert host.wait(lambda: moved.GetAttribute("SynthMorph.lambda") == "0.95" and not ready.logic.isBusy(), 120)
    assert outputNodes() == names
    assert np.abs(slicer.util.arrayFromVolume(moved) - before).max() > 0
    assert red.mrmlSliceNode().GetSliceOffset() == pytest.approx(11.0)

    # the slider's sum of steps is not a lambda of its own: nothing is made twice, and nobody reads it
    ready.ui.regularizationSlider.value = 0.35
    assert ready.parameters.regularization == 7 * 0.05 != 0.35
    assert host.wait(lambda: moved.GetAttribute("SynthMorph.lambda") == "0.35" and not ready.logic.isBusy(), 120)
    ready.showLambda(0.35)
    host.wait(lambda: False, 0.4)
    assert not ready.logic.isBusy() and ready.logic.job.settings.regularization == 0.35

    # register again: the same nodes
    ready.ui.applyButton.click()
    finished(host, ready)
    assert outputNodes() == names

    # review
    ready.ui.jacobianButton.click()
    assert composite.GetForegroundVolumeID() == parameters.outputJacobian.GetID()
    ready.ui.jacobianButton.click()
    ready.ui.swapButton.click()
    assert composite.GetForegroundOpacity() == 0.0
    ready.ui.swapButton.click()
    assert composite.GetForegroundOpacity() == 1.0
    ready.ui.checkerboardButton.click()
    ready.ui.gridButton.click()
    assert transform.GetDisplayNode().GetVisibility2D()
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


# Scene and life cycle


def test_settings_survive_save_and_reload(host, panel, tmp_path):
    import slicer
    from SynthMorphSlicerLib.parameters import TransformType
    fixed = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "fixed")
    landmarks = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "landmarks")
    panel.ui.fixedVolumeSelector.setCurrentNode(fixed)
    panel.ui.carriedPointsSelector.check(landmarks)
    panel.ui.transformTypeComboBox.currentIndex = 2
    panel.ui.regularizationSlider.value = 0.35
    panel.ui.extentComboBox.currentIndex = 0
    panel.ui.stepsSpinBox.value = 9
    panel.ui.makeJacobianCheckBox.click()
    path = str(tmp_path / "scene.mrml")
    slicer.mrmlScene.SetURL(path)
    assert slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(0)
    assert panel.ui.regularizationSlider.value == 0.5 and not panel.ui.makeJacobianCheckBox.checked
    slicer.mrmlScene.SetURL(path)
    assert slicer.mrmlScene.Import()
    host.wait(lambda: False, 0.1)
    assert panel.ui.fixedVolumeSelector.currentNode().GetName() == "fixed"
    assert [n.GetName() for n in panel.ui.carriedPointsSelector.checkedNodes()] == ["landmarks"]
    assert panel.parameters.transformType is TransformType.RIGID
    assert panel.ui.regularizationSlider.value == pytest.approx(0.35)
    assert panel.parameters.extent == 192 and panel.ui.stepsSpinBox.value == 9
    assert panel.ui.makeJacobianCheckBox.checked


def test_an_output_that_is_removed_is_not_replaced_by_its_neighbour(panel):
    import slicer
    for member, selector in (("outputTransform", panel.ui.outputTransformSelector),
                             ("outputVolume", panel.ui.outputVolumeSelector),
                             ("outputJacobian", panel.ui.outputJacobianSelector),
                             ("outputSegmentation", panel.ui.outputSegmentationSelector),
                             ("atlasSegmentation", panel.ui.atlasSegmentationSelector)):
        nodes = [slicer.mrmlScene.AddNewNodeByClass(selector.nodeTypes[0], name) for name in ("a", "b", "c")]
        selector.setCurrentNode(nodes[1])
        slicer.mrmlScene.RemoveNode(nodes[0])
        assert getattr(panel.parameters, member) is nodes[1], member
        slicer.mrmlScene.RemoveNode(nodes[1])
        assert selector.currentNode() is None and getattr(panel.parameters, member) is None, member
    panel.ui.fixedVolumeSelector.setCurrentNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"))
    panel.parameters.outputVolume = panel.parameters.fixedVolume
    slicer.mrmlScene.RemoveNode(panel.parameters.fixedVolume)
    assert panel.parameters.outputVolume is None


def test_devices_are_listed_and_a_missing_one_stays_chosen(host, panel):
    panel.parameters.device = "cuda:7"
    assert panel.ui.deviceComboBox.currentText == "cuda:7 (not found)"
    from SynthMorphSlicerLib.environment import deviceLabel, parseDevice
    device = parseDevice("0, NVIDIA H200, 140000, 143771")
    assert device["id"] == "cuda:0" and deviceLabel(device) == "NVIDIA H200 (136.7 of 140.4 GB free)"


def test_leaving_restores_the_views_and_reload_works(host, module, panel):
    import slicer
    fixed, moving = twoHeads()
    slicer.util.setSliceViewerLayers(background=moving)
    panel.ui.fixedVolumeSelector.setCurrentNode(fixed)
    panel.ui.movingVolumeSelector.setCurrentNode(moving)
    panel.ui.beforeButton.click()
    composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == fixed.GetID()
    widget = module.widgetRepresentation()
    widget.exit()
    assert composite.GetBackgroundVolumeID() == moving.GetID()
    widget.enter()
    library = {name: sys.modules[name] for name in list(sys.modules) if name.startswith("SynthMorphSlicerLib.")}
    assert len(library) > 15
    made = {name: next(value for value in vars(source).values() if getattr(value, "__module__", "") == name)
            for name, source in library.items()}
    old = widget.self()
    old.onReload()
    assert widget.self() is not old and old.panel is None
    again = widget.self().panel
    assert again.parameters.fixedVolume is fixed
    again.deviceSection._probe._thread.join(10)  # the new panel is open as the old one was
    assert again.ui.setupLabel.text != ""
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    assert [section for section in (panel.reviewSection, again.reviewSection) if section.Observations] == [
        again.reviewSection]
    assert again.reviewSection.Observations[0][0] is crosshair
    old.exit()  # does nothing any more
    for name, value in made.items():  # every file was read again
        assert getattr(sys.modules[name], value.__name__) is not value, name


def test_log_is_bounded(panel):
    for number in range(1000):
        panel.log(f"line {number}")
    lines = panel.ui.logTextEdit.toPlainText().splitlines()
    assert len(lines) == 300 and lines[-1].endswith("line 999")


def test_segments_do_not_cover_a_map(panel):
    import numpy as np
    import slicer
    from SynthMorphSlicerLib import maps
    fixed, moving = twoHeads()
    panel.ui.fixedVolumeSelector.setCurrentNode(fixed)
    panel.ui.movingVolumeSelector.setCurrentNode(moving)
    jacobian = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    maps.setJacobian(jacobian, np.ones(slicer.util.arrayFromVolume(fixed).shape, np.float32), fixed)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.CreateDefaultDisplayNodes()
    display = segmentation.GetDisplayNode()
    panel.parameters.outputJacobian, panel.parameters.outputSegmentation = jacobian, segmentation
    panel.ui.jacobianButton.click()
    assert not display.GetVisibility2DFill() and display.GetVisibility2DOutline()
    panel.ui.beforeButton.click()
    assert display.GetVisibility2DFill()
    display.SetVisibility2DFill(False)  # as the user likes it
    panel.ui.jacobianButton.click()
    panel.ui.beforeButton.click()
    assert not display.GetVisibility2DFill()


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

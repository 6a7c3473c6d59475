"""The panel, driven by clicks on its real widgets: what it refuses, and its life in a scene."""

import sys

import pytest
from workplace import error, finished, needsTorch, openScene, outputNodes, twoHeads

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
    others = {"model": 1, "precision": 2}
    for name, index in others.items():
        getattr(panel.ui, f"{name}ComboBox").currentIndex = index
    chosen = {name: getattr(panel.parameters, name) for name in others}
    panel.ui.deviceComboBox.currentIndex = panel.ui.deviceComboBox.findData("cpu")
    panel.ui.refinementSpinBox.value, panel.ui.threadsSpinBox.value = 12, 3
    panel.ui.keepTemporaryFilesCheckBox.click()
    path = str(tmp_path / "scene.mrml")
    slicer.mrmlScene.SetURL(path)
    assert slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(0)
    assert not panel.parameters.keepTemporaryFiles and panel.parameters.refinement == -1
    assert panel.ui.regularizationSlider.value == 0.5 and not panel.ui.makeJacobianCheckBox.checked
    slicer.mrmlScene.SetURL(path)
    assert slicer.mrmlScene.Import()
    host.wait(lambda: False, 0.1)
    assert panel.ui.fixedVolumeSelector.currentNode().GetName() == "fixed"
    assert [n.GetName() for n in panel.ui.carriedPointsSelector.checkedNodes()] == ["landmarks"]
    assert panel.parameters.transformType is TransformType.RIGID
    assert panel.ui.regularizationSlider.value == pytest.approx(0.35)
    assert panel.parameters.extent == 192 and panel.ui.stepsSpinBox.value == 9
    assert {name: getattr(panel.parameters, name) for name in others} == chosen
    assert panel.parameters.device == "cpu" == panel.ui.deviceComboBox.currentData
    assert (panel.parameters.refinement, panel.parameters.threads) == (12, 3)
    assert panel.parameters.keepTemporaryFiles and panel.ui.keepTemporaryFilesCheckBox.checked
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
    device = parseDevice("0, GPU-8932f937, 140000, 143771, NVIDIA H200")
    assert device["id"] == "cuda:0" and deviceLabel(device) == "GPU 0: NVIDIA H200 (136.7 of 140.4 GB free)"


@pytest.mark.parametrize(("visible", "ids", "passed"), [
    (None, ["cuda:0", "cuda:1", "cuda:2"], None), ("2,0", ["cuda:0", "cuda:1"], "0,2"), ("1", ["cuda:0"], "1"),
    ("", [], ""), ("-1", [], ""), ("GPU-2,GPU-0", ["cuda:0", "cuda:1"], "GPU-2,GPU-0"), ("MIG-1", [], "MIG-1"),
    ("GPU-no,GPU-0", [], "GPU-no,GPU-0")])
def test_devices_have_the_numbers_that_the_worker_gives_them(monkeypatch, host, visible, ids, passed):
    from SynthMorphSlicerLib import environment
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = environment.seen([{"id": f"cuda:{n}", "uuid": f"GPU-{n}abc", "name": f"card {n}"} for n in range(3)])
    assert [device["id"] for device in found] == ids
    assert environment.workerEnvironment().get("CUDA_VISIBLE_DEVICES") == passed
    order = {"2,0": ["card 0", "card 2"], "GPU-2,GPU-0": ["card 2", "card 0"]}  # numbers are sorted for the worker
    assert [device["name"] for device in found] == order.get(visible, [device["name"] for device in found])


def test_colours_of_maps_come_back_with_a_scene(host, panel, tmp_path):
    import slicer
    from SynthMorphSlicerLib import maps
    names = list(maps.TABLES)
    for name in names:
        assert not maps.colors(name).GetHideFromEditors()  # or they would not be saved
    path = str(tmp_path / "scene.mrml")
    slicer.mrmlScene.SetURL(path)
    assert slicer.mrmlScene.Commit()  # without the files of the tables
    slicer.mrmlScene.Clear(0)
    openScene(host, path)
    for name in names:
        table, color = slicer.mrmlScene.GetFirstNodeByName(name), [0.0] * 4
        assert table.GetColor(255, color) and color[3] == 1.0
        assert color[:3] == pytest.approx(maps.TABLES[name][-1], abs=0.01)
        assert maps.colors(name) is table


def test_new_outputs_are_named_for_what_they_are(panel):
    assert panel.ui.outputJacobianSelector.baseName == "Volume change (log2 J)"
    assert panel.ui.outputJacobianSelector.addNode().GetName() == "Volume change (log2 J)"


def test_leaving_restores_the_views_and_reload_works(host, module, panel):
    import slicer
    from SynthMorphSlicerLib import views
    fixed, moving = twoHeads()
    slicer.util.setSliceViewerLayers(background=moving)
    panel.ui.fixedVolumeSelector.setCurrentNode(fixed)
    panel.ui.movingVolumeSelector.setCurrentNode(moving)
    panel.ui.beforeButton.click()
    composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == fixed.GetID()
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    views.jumpTo((10.0, 0.0, 0.0))
    views.jumpTo((20.0, 0.0, 0.0))
    assert crosshair.GetCrosshairMode() == crosshair.ShowBasic
    widget = module.widgetRepresentation()
    widget.exit()
    assert composite.GetBackgroundVolumeID() == moving.GetID()
    assert crosshair.GetCrosshairMode() == crosshair.NoCrosshair
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

"""The Review section after a registration: what the buttons put into the real slice views, and the numbers."""

import csv

import numpy as np
import pytest
from workplace import chooseVolumes, finished, needsTorch, openScene, outputNodes, saveScene

pytestmark = needsTorch
SIZE = (200, 200)


@pytest.fixture(scope="module")
def registered(host, module):
    """Made-up heads, registered once for all tests of this file by clicks on the panel."""
    import slicer
    from SynthMorphSlicerLib.selftest import headVolume
    slicer.mrmlScene.Clear(0)
    widget = module.widgetRepresentation()
    widget.enter()
    panel = widget.self().panel
    fixed, moving = headVolume("fixed"), headVolume("moving", (8.0, -5.0, 4.0))
    slicer.util.setSliceViewerLayers(background=fixed, fit=True)
    chooseVolumes(panel, fixed, moving)
    panel.ui.transformTypeComboBox.currentIndex = panel.ui.transformTypeComboBox.findText("Affine only")
    panel.ui.makeJacobianCheckBox.checked = True
    panel.ui.applyButton.click()
    finished(host, panel)
    yield panel
    panel.logic.cancel()
    slicer.mrmlScene.Clear(0)
    widget.exit()


@pytest.fixture
def panel(registered):
    """As after the registration: the overlay is shown, in the user's own layout."""
    ui = registered.ui
    for button in (ui.sideBySideButton, ui.gridButton, ui.measuresButton):
        if button.checked:
            button.click()
    ui.opacitySlider.value = 0.5
    ui.overlayButton.click()
    return registered


def composite(name):
    import slicer
    return slicer.app.layoutManager().sliceWidget(name).mrmlSliceCompositeNode()


def layers(name):
    import slicer
    node = composite(name)
    found = [slicer.mrmlScene.GetNodeByID(i) if i else None
             for i in (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID())]
    return tuple(node and node.GetName() for node in found)


def picture(name="Red"):
    import slicer
    return slicer.app.layoutManager().sliceWidget(name).picture(SIZE).astype(int)


def test_log_says_that_both_show_one_head(panel):
    assert panel.logic.job.provenance["one_head"]
    assert "Both scans show one head" in panel.ui.logTextEdit.plainText
    assert panel.ui.errorLabel.isHidden()  # and nothing is doubtful about it


def test_before_and_after_and_opacity(panel):
    ui = panel.ui
    assert layers("Red") == ("fixed", "moving on fixed")
    ui.opacitySlider.value = 1.0
    after = picture()
    ui.beforeButton.click()
    assert layers("Red") == ("fixed", "moving")
    before = picture()
    ui.opacitySlider.value = 0.0
    fixed = picture()
    assert np.abs(after - fixed).mean() < 0.5 * np.abs(before - fixed).mean()


def test_swap_flickers_between_fixed_and_what_is_shown(panel):
    ui = panel.ui
    ui.opacitySlider.value = 0.0
    fixed = picture()
    ui.opacitySlider.value = 1.0
    moved = picture()
    for _ in range(2):
        ui.swapButton.click()
        np.testing.assert_array_equal(picture(), fixed)
        ui.swapButton.click()
        np.testing.assert_array_equal(picture(), moved)
    ui.beforeButton.click()
    ui.swapButton.click()
    np.testing.assert_array_equal(picture(), fixed)
    assert layers("Red") == ("fixed", "moving")


def test_checkerboard_takes_squares_of_both_in_turn(panel):
    import slicer
    panel.ui.checkerboardButton.click()
    board = slicer.mrmlScene.GetFirstNodeByName("SynthMorph checkerboard")
    assert layers("Red") == ("fixed", "SynthMorph checkerboard") and not board.GetSaveWithScene()
    from SynthMorphSlicerLib.review import _windowed
    voxels = slicer.util.arrayFromVolume(board)
    fixed, moved = (_windowed(node) for node in (panel.parameters.fixedVolume, panel.parameters.outputVolume))
    side = 224 / 8 / 2  # voxels of 2 mm
    for k, j, i in np.random.default_rng(0).integers(0, voxels.shape, (200, 3)):
        odd = sum(int(n / side) for n in (k, j, i)) % 2
        assert voxels[k, j, i] == (moved if odd else fixed)[k, j, i]


def test_difference_is_grey_where_the_volumes_are_alike(panel):
    import slicer
    panel.ui.differenceButton.click()
    assert layers("Red") == ("fixed", "SynthMorph difference")
    voxels = slicer.util.arrayFromVolume(slicer.mrmlScene.GetFirstNodeByName("SynthMorph difference"))
    from SynthMorphSlicerLib.review import _windowed
    fixed, moved = (_windowed(node) for node in (panel.parameters.fixedVolume, panel.parameters.outputVolume))
    assert np.median(np.abs(voxels - 0.5)) < 0.01
    brighter = moved > fixed + 0.1
    assert brighter.any() and (voxels[brighter] > 0.54).all()


def test_curtain_moves(panel):
    import slicer
    from SynthMorphSlicerLib.review import _windowed
    assert panel.ui.curtainSlider.isHidden()
    panel.ui.curtainButton.click()
    assert not panel.ui.curtainSlider.isHidden()
    fixed, moved = (_windowed(node) for node in (panel.parameters.fixedVolume, panel.parameters.outputVolume))
    for share in (0.25, 0.8):
        panel.ui.curtainSlider.value = share
        voxels = slicer.util.arrayFromVolume(slicer.mrmlScene.GetFirstNodeByName("SynthMorph curtain"))
        edge = round(96 * (1 - share))  # the first axis runs from left to right, and the fixed volume is on the right
        np.testing.assert_array_equal(voxels[..., edge + 1:], fixed[..., edge + 1:])
        np.testing.assert_array_equal(voxels[..., :edge - 1], moved[..., :edge - 1])
    panel.ui.overlayButton.click()
    assert panel.ui.curtainSlider.isHidden()


def test_edges_of_one_lie_on_the_other(panel):
    import slicer
    panel.ui.edgesButton.click()
    voxels = slicer.util.arrayFromVolume(slicer.mrmlScene.GetFirstNodeByName("SynthMorph edges"))
    drawn = voxels == 1.0
    assert 0.01 < drawn.mean() < 0.08
    gradient = np.linalg.norm(np.gradient(slicer.util.arrayFromVolume(panel.parameters.outputVolume)), axis=0)
    assert gradient[drawn].mean() > 5 * gradient[~drawn].mean()


def test_flicker_goes_by_itself_until_it_is_stopped(host, panel):
    panel.ui.flickerButton.click()
    seen = set()
    host.wait(lambda: seen.add(composite("Red").GetForegroundOpacity()), 1.3)
    assert seen == {0.0, 1.0}
    panel.ui.flickerButton.click()
    assert not panel.ui.flickerButton.checked and composite("Red").GetForegroundOpacity() == 0.5
    panel.ui.flickerButton.click()
    panel.ui.checkerboardButton.click()  # another picture ends it
    assert not panel.ui.flickerButton.checked and composite("Red").GetForegroundOpacity() == 1.0


def test_arrows_and_grid_take_turns(panel):
    plain = picture()
    panel.ui.arrowsButton.click()
    assert panel.ui.arrowsButton.checked and not panel.ui.gridButton.checked
    arrows = picture()
    assert np.abs(arrows - plain).max() > 50
    panel.ui.gridButton.click()
    assert panel.ui.gridButton.checked and not panel.ui.arrowsButton.checked
    assert np.abs(picture() - arrows).max() > 50
    panel.ui.gridButton.click()
    np.testing.assert_array_equal(picture(), plain)


def test_keys_answer_only_while_the_module_is_open(host, module, panel):
    import qt
    from SynthMorphSlicerLib.shortcuts import KEYS
    assert "(key: Shift+D)" in panel.ui.differenceButton.toolTip and len(set(KEYS.values())) == len(KEYS)
    shortcuts = panel.reviewSection.shortcuts
    installed = {shortcut.key.toString(): shortcut for shortcut in shortcuts._installed}
    assert set(installed) == set(KEYS.values())
    installed["Shift+D"].activated.emit()
    assert layers("Red")[1] == "SynthMorph difference"
    module.widgetRepresentation().exit()
    assert not shortcuts._installed and not installed["Shift+D"].enabled
    module.widgetRepresentation().enter()
    assert len(shortcuts._installed) == len(KEYS) and qt.QShortcut is not None


def test_side_by_side_keeps_place_and_zoom_and_moves_together(host, panel):
    import slicer
    manager = slicer.app.layoutManager()
    red = manager.sliceWidget("Red").mrmlSliceNode()
    red.SetSliceOffset(7.0)
    layout, zoom = manager.layout, red.GetFieldOfView()
    panel.ui.sideBySideButton.click()
    host.wait(lambda: False, 0.05)
    assert manager.layout != layout and panel.ui.sideBySideButton.checked
    assert (layers("Red"), layers("Red+")) == (("fixed", None), ("moving on fixed", None))
    lower = manager.sliceWidget("Red+").mrmlSliceNode()
    assert lower.GetSliceOffset() == pytest.approx(7.0) and lower.GetFieldOfView()[1] == pytest.approx(zoom[1])
    assert lower.GetOrientation() == red.GetOrientation()
    logic = manager.sliceWidget("Red").sliceLogic()
    logic.StartSliceOffsetInteraction()
    logic.SetSliceOffset(-12.0)
    logic.EndSliceOffsetInteraction()
    assert lower.GetSliceOffset() == pytest.approx(-12.0)
    panel.ui.jacobianButton.click()  # a map lies over the fixed volume, below
    assert layers("Red") == ("fixed", None)
    assert layers("Red+")[0] == "fixed" and layers("Red+")[1].startswith("Volume change")
    panel.ui.overlayButton.click()
    opacity = panel.ui.opacitySlider.value
    panel.ui.opacitySlider.value = 0.2
    panel.ui.sideBySideButton.click()
    assert manager.sliceWidget("Red").mrmlSliceCompositeNode().GetForegroundOpacity() == pytest.approx(0.2)
    panel.ui.opacitySlider.value = opacity
    host.wait(lambda: False, 0.05)
    assert manager.layout == layout and layers("Red") == ("fixed", "moving on fixed")
    assert lower.GetViewGroup() == 1
    np.testing.assert_allclose(red.GetFieldOfView(), zoom)
    red.SetSliceOffset(0.0)


def test_leaving_brings_the_layout_back_too(host, module, panel):
    import slicer
    manager = slicer.app.layoutManager()
    layout = manager.layout
    panel.ui.sideBySideButton.click()
    panel.ui.jacobianButton.click()
    module.widgetRepresentation().exit()
    host.wait(lambda: False, 0.05)
    assert manager.layout == layout
    assert (layers("Red"), layers("Red+")) == (("fixed", None), (None, None))
    module.widgetRepresentation().enter()
    assert not panel.ui.sideBySideButton.checked and not panel.ui.jacobianButton.checked
    panel.ui.sideBySideButton.click()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)  # the user goes elsewhere
    module.widgetRepresentation().exit()
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView
    manager.setLayout(layout)
    module.widgetRepresentation().enter()


def test_jacobian_has_a_legend_and_marks_folding(panel):
    import slicer
    from SynthMorphSlicerLib import maps
    node, fixed = panel.parameters.outputJacobian, panel.parameters.fixedVolume
    assert "log2 J" in node.GetName()
    determinant = np.full(slicer.util.arrayFromVolume(fixed).shape, 0.9, np.float32)
    determinant[40:56, 50:60, 44:54] = -0.5
    determinant[40:56, 70:80, 44:54] = 1e-5  # shrinks beyond the scale, and does not fold
    maps.setJacobian(node, determinant, fixed)
    panel.ui.opacitySlider.value = 1.0
    panel.ui.jacobianButton.click()
    drawn = picture()
    magenta = (drawn[..., 0] > 180) & (drawn[..., 1] < 60) & (drawn[..., 2] > 180)
    assert magenta.sum() > 20
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(node)
    assert legend.GetVisibility() and legend.GetTitleText() == "log2 J"
    panel.ui.jacobianButton.click()
    assert layers("Red") == ("fixed", "moving on fixed") and not legend.GetVisibility()
    drawn = picture()
    assert not ((drawn[..., 0] > 180) & (drawn[..., 1] < 60) & (drawn[..., 2] > 180)).any()


def test_displacement_map_is_one_and_in_millimetres(panel):
    import slicer
    names = []
    for _ in range(2):
        panel.ui.magnitudeButton.click()
        assert panel.ui.magnitudeButton.checked and layers("Red")[1].endswith("(mm)")
        names.append(layers("Red")[1])
        panel.ui.magnitudeButton.click()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folders = {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in
               (panel.parameters.outputTransform, slicer.mrmlScene.GetFirstNodeByName(names[0]))}
    assert len(folders) == 1 and hierarchy.GetItemAttribute(folders.pop(), "SynthMorph.model") == "compact"
    assert names[0] == names[1] and slicer.mrmlScene.GetNodesByName(names[0]).GetNumberOfItems() == 1
    assert layers("Red") == ("fixed", "moving on fixed")


def test_warp_grid_is_drawn(panel):
    plain = picture()
    panel.ui.gridButton.click()
    assert np.abs(picture() - plain).max() > 50
    panel.ui.gridButton.click()
    np.testing.assert_array_equal(picture(), plain)


def test_value_under_the_mouse(panel):
    import slicer
    from SynthMorphSlicerLib import maps
    fixed = panel.parameters.fixedVolume
    determinant = np.full(slicer.util.arrayFromVolume(fixed).shape, 1.25, np.float32)
    maps.setJacobian(panel.parameters.outputJacobian, determinant, fixed)
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    crosshair.SetCursorPositionRAS([10.0, 5.0, -3.0])
    moved = panel.parameters.outputTransform.GetTransformFromParent().TransformPoint(10.0, 5.0, -3.0)
    distance = np.linalg.norm(np.subtract(moved, (10.0, 5.0, -3.0)))
    assert panel.ui.mouseLabel.text == f"displacement {distance:.1f} mm, local volume +25 %"
    kept = panel.parameters.outputJacobian
    panel.parameters.outputJacobian = None  # without a map the transform itself tells
    crosshair.SetCursorPositionRAS([10.0, 5.0, -2.0])
    change = round(100 * (np.linalg.det(matrixOf(panel.parameters.outputTransform)[:3, :3]) - 1))
    assert panel.ui.mouseLabel.text.endswith(f", local volume {change:+d} %")
    panel.parameters.outputJacobian = kept
    crosshair.SetCursorPositionInvalid()
    assert panel.ui.mouseLabel.text == "-"


def matrixOf(transformNode):
    import vtk
    from SynthMorphSlicerLib import scene
    matrix = vtk.vtkMatrix4x4()
    transformNode.GetMatrixTransformFromParent(matrix)
    return scene.toArray(matrix)


def test_measures_are_shown_copied_and_saved(panel, tmp_path, monkeypatch):
    import qt
    import slicer
    ui = panel.ui
    assert ui.measuresFrame.isHidden()
    ui.measuresButton.click()
    assert not ui.measuresFrame.isHidden()
    shown = {ui.measuresTable.item(row, 0).text(): ui.measuresTable.item(row, 1).text()
             for row in range(ui.measuresTable.rowCount)}
    assert shown["Model"] == "compact" and shown["Folding voxels"] == "0" and float(shown["Seconds"]) > 0
    table = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLTableNode")
    assert table.GetNumberOfRows() == len(shown)
    ui.copyMeasuresButton.click()
    lines = slicer.app.clipboard().text().splitlines()
    assert dict(line.split("\t") for line in lines) == {"Measure": "Value", **shown}
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: str(tmp_path / "measures.csv"))
    ui.saveMeasuresButton.click()
    with open(tmp_path / "measures.csv", newline="", encoding="utf-8-sig") as file:
        assert dict(csv.reader(file)) == {"Measure": "Value", **shown}
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: str(tmp_path / "nowhere" / "m.csv"))
    ui.saveMeasuresButton.click()
    assert "choose another place" in ui.errorLabel.text
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: "")
    ui.saveMeasuresButton.click()  # the user thought better of it
    ui.measuresButton.click()
    assert ui.measuresFrame.isHidden()
    ui.measuresButton.click()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLTableNode") == 1


def test_another_pair_makes_outputs_of_its_own(panel):
    """The results of the first pair are left alone, and the buttons that would show them say what is missing."""
    from SynthMorphSlicerLib.selftest import headVolume
    ui, parameters = panel.ui, panel.parameters
    first, moving = parameters.outputVolume, parameters.movingVolume
    ui.movingVolumeSelector.setCurrentNode(headVolume("another"))
    assert parameters.outputVolume is None and parameters.outputTransform is None
    assert ui.checkerboardButton.toolTip == "Register with a moved volume first" and not ui.checkerboardButton.enabled
    ui.outputVolumeSelector.setCurrentNode(first)  # unless the user wants it so
    assert parameters.outputVolume is first
    ui.movingVolumeSelector.setCurrentNode(moving)
    for name, node in panel.logic.job.outputs.items():
        setattr(parameters, f"output{name.capitalize()}", node)


def test_results_are_there_again_in_a_scene_that_is_opened(host, panel, tmp_path):
    """The last test of this file, because it closes the scene: settings, outputs, measures and maps come back."""
    import slicer
    names, transform = outputNodes(), panel.parameters.outputTransform
    expected = transform.GetTransformFromParent().TransformPoint(10.0, 20.0, 30.0)
    path = saveScene(tmp_path)
    layout = slicer.app.layoutManager().layout
    panel.ui.sideBySideButton.click()
    slicer.mrmlScene.Clear(0)
    assert slicer.app.layoutManager().layout == layout
    assert panel.ui.measuresFrame.isHidden() and not panel.ui.measuresButton.enabled
    openScene(host, path)
    assert outputNodes() == names
    again = panel.ui.outputTransformSelector.currentNode()
    np.testing.assert_allclose(again.GetTransformFromParent().TransformPoint(10.0, 20.0, 30.0), expected, atol=1e-3)
    panel.ui.measuresButton.click()
    assert panel.ui.measuresTable.rowCount > 5
    panel.ui.jacobianButton.click()
    assert layers("Red")[1].startswith("Volume change")
    assert not panel.logic.canChangeRegularization()

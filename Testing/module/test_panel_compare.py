"""Several results of one pair: kept, flipped between in place, measured side by side, the best kept; a lambda sweep."""

import csv

import numpy as np
import pytest
from test_panel_examine import cells, ventricles
from workplace import chooseVolumes, error, finished, needsTorch, openScene, saveScene

pytestmark = needsTorch


@pytest.fixture(scope="module")
def compared(host, module):
    """Made-up heads with a segment on each side; registered with each lambda, kept and measured, by one click."""
    import slicer
    from SynthMorphSlicerLib.selftest import headVolume
    slicer.mrmlScene.Clear(0)
    widget = module.widgetRepresentation()
    widget.enter()
    panel = widget.self().panel
    fixed, moving = headVolume("fixed"), headVolume("moving", (8.0, -5.0, 4.0))
    chooseVolumes(panel, fixed, moving)
    panel.ui.refinementSpinBox.value = 0
    panel.ui.extentComboBox.currentIndex = panel.ui.extentComboBox.findText("192")
    panel.ui.makeJacobianCheckBox.checked = True
    panel.ui.carriedLabelsSelector.check(ventricles(moving, "of moving"))
    panel.ui.fixedLabelsSelector.setCurrentNode(ventricles(fixed, "of fixed"))
    for button in (panel.ui.keepButton, panel.ui.sweepButton):
        assert not button.enabled and "Register" in button.toolTip
    assert not panel.ui.nextKeptButton.enabled and "Keep a result first" in panel.ui.nextKeptButton.toolTip
    panel.ui.variantsComboBox.currentIndex = panel.ui.variantsComboBox.findText("Lambda 0.2, 0.5 and 0.8")
    panel.ui.variantsButton.click()
    finished(host, panel, 600)
    assert not error(panel)
    yield panel
    panel.logic.cancel()
    slicer.mrmlScene.Clear(0)
    widget.exit()


def headers(table):
    return [table.horizontalHeaderItem(column).text() for column in range(table.columnCount)]


def displaced(panel):
    """Where the transform in front takes a point."""
    return np.array(panel.parameters.outputTransform.GetTransformFromParent().TransformPoint(20.0, 10.0, 5.0))


def voxels(node):
    import slicer
    return slicer.util.arrayFromVolume(node).copy()


def show(panel, column):
    panel.ui.keptTable.cellClicked.emit(2, column)


def test_one_click_registers_keeps_and_measures_each(compared):
    table = compared.ui.keptTable
    assert headers(table) == ["Measure", "\u03bb 0.2, not refined", "\u03bb 0.5, not refined",
                              "\u25b8 \u03bb 0.8, not refined"]
    rows = {row[0]: row[1:] for row in cells(table)}
    assert rows["Lambda"] == ["0.2", "0.5", "0.8"] and rows["Transform"] == ["joint"] * 3
    roughness = [float(value) for value in rows["SD of log J"]]
    assert roughness[0] > roughness[2] > 0
    assert all(float(value) > 0.3 for value in rows["Ventricles: Dice"])
    assert all(rows["Inverse consistency, 95th percentile (mm)"])  # each was measured while both directions were known
    assert all(word in ("Good", "Look closely", "Failed") for word in rows["Verdict"])
    line = [row[0] for row in cells(table)].index("Folding (%)")
    assert table.item(line, 1).background().color().name() in ("#1b7f4b", "#b3261e")


def test_flips_in_place_and_back(compared):
    import slicer
    parameters = compared.parameters
    nodes = [parameters.outputTransform, parameters.outputVolume, parameters.outputJacobian]
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    show(compared, 3)
    slicer.modules.markups.logic().JumpSlicesToLocation(3.0, 4.0, 7.0, True)
    smooth, moved, jacobian = displaced(compared), voxels(nodes[1]), voxels(nodes[2])
    show(compared, 1)
    assert [parameters.outputTransform, parameters.outputVolume, parameters.outputJacobian] == nodes
    assert np.abs(displaced(compared) - smooth).max() > 0.05
    assert np.abs(voxels(nodes[1]) - moved).max() > 5 and np.abs(voxels(nodes[2]) - jacobian).max() > 0.02
    assert parameters.regularization == pytest.approx(0.2) and not compared.logic.isBusy()
    assert red.GetSliceOffset() == pytest.approx(7.0)
    assert headers(compared.ui.keptTable)[1].startswith("\u25b8") and "\u03bb 0.2" in compared.ui.compareLabel.text
    compared.ui.nextKeptButton.click()
    compared.ui.nextKeptButton.click()
    np.testing.assert_allclose(displaced(compared), smooth, atol=1e-6)
    np.testing.assert_array_equal(voxels(nodes[1]), moved)
    compared.ui.nextKeptButton.click()
    assert parameters.regularization == pytest.approx(0.2)  # round again


def test_a_result_that_is_not_kept_is_kept_before_another_is_shown(host, compared):
    from SynthMorphSlicerLib import kept
    compared.ui.regularizationSlider.value = 0.35
    assert host.wait(lambda: not compared.logic.isBusy() and compared._followed == 0.35, 120)
    finished(host, compared)
    assert "is not kept" in compared.ui.compareLabel.text and not compared.ui.removeKeptButton.enabled
    show(compared, 2)
    results = kept.results(compared.parameters.fixedVolume, compared.parameters.movingVolume)
    assert [one.title for one in results][3] == "\u03bb 0.35, not refined"
    assert compared.parameters.regularization == pytest.approx(0.5)
    assert results[3].measured is None
    compared.ui.measureKeptButton.click()
    finished(host, compared)
    assert not error(compared) and all(cells(compared.ui.keptTable)[-1][1:])
    show(compared, 4)
    compared.ui.removeKeptButton.click()
    assert len(headers(compared.ui.keptTable)) == 4 and compared.parameters.regularization == pytest.approx(0.35)
    show(compared, 2)
    show(compared, 4)
    compared.ui.removeKeptButton.click()
    show(compared, 2)


def test_what_was_done_by_hand_travels_with_its_result(compared):
    import slicer
    from SynthMorphSlicerLib import signing
    show(compared, 1)
    compared.ui.initialsLineEdit.text = "AB"
    compared.ui.acceptButton.click()
    node = compared.parameters.outputSegmentation
    node.GetSegmentation().GetSegment("v").SetName("Ventricles, drawn")
    show(compared, 2)
    assert not signing.signatures(compared.parameters.outputTransform)
    assert node.GetSegmentation().GetSegment("v").GetName() == "Ventricles"
    show(compared, 1)
    assert signing.signatures(compared.parameters.outputTransform)[0]["initials"] == "AB"
    assert compared.ui.signatureLabel.text.startswith("Accepted by AB")
    assert node.GetSegmentation().GetSegment("v").GetName() == "Ventricles, drawn"
    assert slicer.mrmlScene.GetNodeByID(node.GetID()) is node


def test_table_is_copied_and_saved(compared, tmp_path, monkeypatch):
    import qt
    import slicer
    compared.ui.copyKeptButton.click()
    copied = [line.split("\t") for line in slicer.app.clipboard().text().splitlines()]
    assert copied[0][:2] == ["Measure", "\u03bb 0.2, not refined"] and copied[1:] == cells(compared.ui.keptTable)
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: str(tmp_path / "m.csv"))
    compared.ui.saveKeptButton.click()
    with open(tmp_path / "m.csv", newline="", encoding="utf-8-sig") as file:
        assert list(csv.reader(file)) == copied


def test_sweep_draws_its_curve_and_a_click_takes_a_lambda(host, compared, tmp_path, monkeypatch):
    show(compared, 1)
    compared.ui.applyButton.click()
    finished(host, compared)
    compared.ui.sweepButton.click()
    finished(host, compared, 300)
    assert not error(compared) and not compared.ui.sweepFrame.isHidden()
    rows = cells(compared.ui.sweepTable)
    assert [row[0] for row in rows] == ["0.2", "0.35", "0.5", "0.65", "0.8"]
    assert float(rows[0][3]) > float(rows[-1][3]) and all(float(row[2]) > 0.3 for row in rows)  # rougher; Dice
    picture = compared.ui.curveLabel.pixmap.toImage()
    colors = {picture.pixelColor(x, y).name() for x in range(picture.width()) for y in range(picture.height())}
    assert {"#2b6cb0", "#d9480f"} <= colors  # the line, and the point of the slider's lambda
    before = displaced(compared)
    compared.ui.sweepTable.cellClicked.emit(4, 0)
    assert host.wait(lambda: not compared.logic.isBusy() and compared._followed == 0.8, 120)
    finished(host, compared)
    assert np.abs(displaced(compared) - before).max() > 0.05
    import qt
    compared.ui.examineButton.click()
    finished(host, compared)
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: str(tmp_path / "page.html"))
    compared.ui.reportButton.click()
    finished(host, compared)
    assert "Other values of lambda" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_best_is_kept_and_the_others_go_after_asking(compared, monkeypatch):
    import slicer
    from SynthMorphSlicerLib import kept
    show(compared, 2)
    asked = []
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text, *arguments: asked.append(text))
    compared.ui.keepOnlyButton.click()
    assert "\u03bb 0.2, not refined (signature, edited segments)" in asked[0]
    pair = compared.parameters.fixedVolume, compared.parameters.movingVolume
    number = len(kept.results(*pair))
    assert number >= 3
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text, *arguments: True)
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    compared.ui.keepOnlyButton.click()
    assert [one.title for one in kept.results(*pair)] == ["\u03bb 0.5, not refined"]
    assert slicer.mrmlScene.GetNumberOfNodes() < nodes - 4
    assert not compared.ui.keepOnlyButton.enabled and "no other" in compared.ui.keepOnlyButton.toolTip


def test_affine_against_deformable(host, compared):
    compared.ui.variantsComboBox.currentIndex = compared.ui.variantsComboBox.findText("Affine, then deformable too")
    compared.ui.variantsButton.click()
    finished(host, compared, 300)
    assert not error(compared)
    rows = {row[0]: row[1:] for row in cells(compared.ui.keptTable)}
    column = rows["Transform"].index("affine")
    assert rows["Lambda"][column] == "" and float(rows["SD of log J"][column]) == pytest.approx(0, abs=1e-3)
    show(compared, column + 1)
    assert compared.ui.transformTypeComboBox.currentText == "Affine only"
    assert not compared.ui.regularizationSlider.enabled
    assert not compared.ui.sweepButton.enabled


def test_without_and_with_refinement(host, compared):
    compared.ui.transformTypeComboBox.currentIndex = compared.ui.transformTypeComboBox.findText(
        "Affine and deformable")
    before = len(headers(compared.ui.keptTable))
    compared.ui.variantsComboBox.currentIndex = compared.ui.variantsComboBox.findText("Without and with refinement")
    compared.ui.variantsButton.click()
    finished(host, compared, 600)
    assert not error(compared)
    titles, rows = headers(compared.ui.keptTable), {row[0]: row[1:] for row in cells(compared.ui.keptTable)}
    assert len(titles) in (before + 1, before + 2)  # the one without may have been kept before
    assert titles[-1].startswith("\u25b8") and "not refined" not in titles[-1]
    assert rows["Refinement"][-1] == "standard" and "0" in rows["Refinement"][:-1]
    refined, plain = len(titles) - 1, 1 + rows["Refinement"].index("0")
    at = displaced(compared)
    show(compared, plain)
    assert np.abs(displaced(compared) - at).max() > 0.02 and compared.ui.refinementSpinBox.value == 0
    show(compared, refined)
    np.testing.assert_allclose(displaced(compared), at, atol=1e-6)
    assert compared.ui.refinementSpinBox.value == -1


def test_kept_results_are_there_when_a_scene_is_opened_again(host, compared, tmp_path):
    """The last test of this file, because it closes the scene."""
    import slicer
    column = next(n for n, title in enumerate(headers(compared.ui.keptTable)) if "0.5" in title)
    show(compared, column)
    compared.ui.initialsLineEdit.text = "CD"
    compared.ui.rejectButton.click()
    signed = compared.ui.signatureLabel.text
    smooth, moved = displaced(compared), voxels(compared.parameters.outputVolume)
    table, path = cells(compared.ui.keptTable), saveScene(tmp_path)
    slicer.mrmlScene.Clear(0)
    assert compared.ui.keptFrame.isHidden()
    openScene(host, path)
    assert cells(compared.ui.keptTable) == table
    assert signed.startswith("Rejected by CD") and compared.ui.signatureLabel.text == signed
    show(compared, column % (len(table[0]) - 1) + 1)
    assert np.abs(displaced(compared) - smooth).max() > 0.05
    show(compared, column)
    np.testing.assert_allclose(displaced(compared), smooth, atol=0.02)  # files hold single precision
    np.testing.assert_allclose(voxels(compared.parameters.outputVolume), moved, atol=1e-3)
    segmentation = compared.parameters.outputSegmentation.GetSegmentation()
    assert [segmentation.GetNthSegment(n).GetName() for n in range(2)] == ["Ventricles", "Nothing"]
    assert not compared.ui.sweepButton.enabled and "Register" in compared.ui.sweepButton.toolTip

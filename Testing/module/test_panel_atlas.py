"""Atlases in the panel, by clicks: the library, onto a patient, stopping, the Segment Editor, volumes, and back."""

import csv

import atlas_heads
import numpy as np
import pytest
from workplace import error, finished, needsTorch

pytestmark = needsTorch


@pytest.fixture(scope="module")
def place(host, module, tmp_path_factory):
    """The panel with the section unfolded, a library on the disk, and a patient in the scene; settings are quick."""
    import slicer
    from SynthMorphSlicerLib import atlases
    slicer.mrmlScene.Clear(0)
    slicer.app.userSettings().pop(atlases.FOLDERS_SETTING, None)
    widget = module.widgetRepresentation()
    widget.enter()
    panel = widget.self().panel
    folder = atlas_heads.library(tmp_path_factory.mktemp("atlases"))
    patient, truth = atlas_heads.patient(tmp_path_factory.mktemp("patient"))
    ui = panel.ui
    ui.modelComboBox.currentIndex = ui.modelComboBox.findText("Compact (comes with this extension)")
    ui.deviceComboBox.currentIndex = ui.deviceComboBox.findData("cpu")
    ui.transformTypeComboBox.currentIndex = ui.transformTypeComboBox.findText("Affine only")
    ui.refinementSpinBox.value = 0
    ui.atlasCollapsibleButton.collapsed = False
    assert host.wait(lambda: not panel.atlasSection._isReading, 60)
    panel.folder, panel.patient, panel.truth = folder, patient, truth
    yield panel
    panel.logic.cancel()
    slicer.mrmlScene.Clear(0)
    ui.atlasCollapsibleButton.collapsed = True
    widget.exit()


@pytest.fixture
def chooseFolder(monkeypatch):
    """Answers the next question for a folder."""
    import qt
    return lambda folder: monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *given: str(folder))


def cells(table):
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]


def rowOf(panel, name):
    return [row[0] for row in cells(panel.ui.atlasesTable)].index(name)


def tick(panel, name, on=True):
    import qt
    panel.ui.atlasesTable.item(rowOf(panel, name), 0).setCheckState(qt.Qt.Checked if on else qt.Qt.Unchecked)


def read(host, panel):
    assert host.wait(lambda: not panel.atlasSection._isReading, 60)
    assert not error(panel)


def test_folders_are_added_in_one_step_and_a_broken_one_is_named(host, place, chooseFolder):
    ui = place.ui
    assert "Choose the patient" in ui.carryAtlasesButton.toolTip
    chooseFolder("")  # the user thought better of it
    ui.addAtlasButton.click()
    chooseFolder(place.folder)
    ui.addAtlasButton.click()
    read(host, place)
    rows = cells(ui.atlasesTable)
    names = [row[0] for row in rows]
    assert {"anna", "bert", "broken"} <= set(names)
    assert "has no label map" in rows[names.index("broken")][2]
    assert rows[names.index("anna")][1] == "4"
    assert ui.atlasesTable.item(names.index("broken"), 2).background().color().name() == "#b3261e"
    ui.addAtlasButton.click()
    assert "in the list already" in error(place)
    ui.patientSelector.setCurrentNode(place.patient)
    assert ui.carryAtlasesButton.toolTip == "Tick at least one atlas."
    assert not ui.removeAtlasButton.enabled
    ui.atlasesTable.selectRow(names.index("bert"))
    assert ui.removeAtlasButton.enabled
    ui.removeAtlasButton.click()
    read(host, place)
    assert "anna" not in [row[0] for row in cells(ui.atlasesTable)]
    ui.addAtlasButton.click()
    read(host, place)


def test_two_atlases_become_a_segmentation_with_agreement_and_volumes(host, place):
    import slicer
    ui = place.ui
    tick(place, "anna")
    tick(place, "bert")
    ui.fusionComboBox.currentIndex = ui.fusionComboBox.findText("Majority")
    assert ui.carryAtlasesButton.enabled and not ui.openEditorButton.enabled
    ui.carryAtlasesButton.click()
    seen = set()
    host.wait(lambda: seen.update(row[2] for row in cells(ui.atlasesTable)) or not place.logic.isBusy(), 180)
    finished(host, place)
    assert not error(place)
    assert {"waiting", "Affine transform", "Done"} <= seen
    states = {row[0]: row[2] for row in cells(ui.atlasesTable)}
    assert states["anna"] == states["bert"] == "Done"
    assert "anna, bert" in ui.atlasLabel.text
    node = ui.atlasSegmentationSelector.currentNode()
    for label in (59, 60):
        carried = slicer.util.arrayFromSegmentBinaryLabelmap(node, f"Label_{label}", place.patient) > 0
        assert atlas_heads.dice(carried, place.truth == label) > 0.6
    rows = {row[0]: row for row in cells(ui.structuresTable)}
    assert set(rows) == set(atlas_heads.STRUCTURES.values()) and all(float(row[1]) > 0 for row in rows.values())
    assert rows["Left Thalamus"][2] == rows["Right Thalamus"][2] != ""
    assert [ui.carryBackComboBox.itemText(n) for n in range(2)] == ["anna", "bert"]
    composite = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == place.patient.GetID()
    ui.agreementButton.click()
    agreement = slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID())
    assert agreement.GetName() == "Agreement of the atlases on patient"
    assert set(np.unique(slicer.util.arrayFromVolume(agreement))) == {0.5, 1.0}
    ui.agreementButton.click()
    assert composite.GetForegroundVolumeID() is None


def test_volumes_are_copied_and_saved(place, tmp_path, monkeypatch):
    import qt
    import slicer
    place.ui.copyStructuresButton.click()
    lines = [line.split("\t") for line in slicer.app.clipboard().text().splitlines()]
    assert lines[0][1] == "mm³" and lines[1:] == cells(place.ui.structuresTable)
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *given: str(tmp_path / "v.csv"))
    place.ui.saveStructuresButton.click()
    with open(tmp_path / "v.csv", newline="", encoding="utf-8-sig") as file:
        assert list(csv.reader(file)) == lines


def test_corrections_are_kept_shown_and_carried_back(host, place, module, monkeypatch, chooseFolder, tmp_path):
    import slicer
    ui = place.ui
    node = ui.atlasSegmentationSelector.currentNode()
    ui.openEditorButton.click()
    editor = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert editor.GetSegmentationNode() is node and editor.GetSourceVolumeNode() is place.patient
    module.widgetRepresentation().exit()
    corrected = place.truth == 60
    slicer.util.updateSegmentBinaryLabelmapFromArray(corrected.astype(np.uint8), node, "Label_60", place.patient)
    module.widgetRepresentation().enter()
    rows = {row[0]: row for row in cells(ui.structuresTable)}
    assert int(rows["Left Thalamus"][1]) == 8 * corrected.sum()
    asked = []
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text, title: asked.append(text))  # No
    tick(place, "bert", False)
    ui.carryAtlasesButton.click()
    finished(host, place)
    assert not error(place) and len(asked) == 1 and "changed by hand" in asked[0]
    assert ui.atlasSegmentationSelector.currentNode() is not node and "is kept as it is" in ui.atlasLabel.text
    kept = slicer.util.arrayFromSegmentBinaryLabelmap(node, "Label_60", place.patient) > 0
    np.testing.assert_array_equal(kept, corrected)
    ui.atlasSegmentationSelector.setCurrentNode(node)
    ui.carryBackComboBox.currentIndex = 0
    ui.carryBackButton.click()
    finished(host, place)
    assert not error(place)
    back, atlas = ui.makeAtlasLabelsSelector.currentNode(), ui.makeAtlasVolumeSelector.currentNode()
    assert (atlas.GetName(), back.GetName()) == ("anna", "Atlas labels of patient on anna")
    atlas.SetName("anna, corrected")
    chooseFolder(tmp_path)
    ui.makeAtlasButton.click()
    read(host, place)
    assert "anna_ corrected" in [row[0] for row in cells(ui.atlasesTable)]
    ui.makeAtlasButton.click()
    assert "exists already" in error(place)
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text, title: True)
    ui.carryAtlasesButton.click()
    finished(host, place)
    assert ui.atlasSegmentationSelector.currentNode() is node
    replaced = slicer.util.arrayFromSegmentBinaryLabelmap(node, "Label_60", place.patient) > 0
    assert (replaced != corrected).any()


def test_stopping_keeps_what_is_done(host, place):
    import slicer
    ui = place.ui
    tick(place, "anna")
    tick(place, "bert")
    ui.atlasSegmentationSelector.setCurrentNode(None)
    ui.carryAtlasesButton.click()
    assert ui.carryAtlasesButton.text == "Stop, keep what is done"
    assert host.wait(lambda: "Done" in [row[2] for row in cells(ui.atlasesTable)], 120)
    ui.carryAtlasesButton.click()
    finished(host, place)
    assert not error(place)
    states = {row[0]: row[2] for row in cells(ui.atlasesTable)}
    assert states["anna"] == "Done" and states["bert"] == "not done"
    assert "Stopped" in ui.atlasLabel.text
    made = ui.atlasSegmentationSelector.currentNode()
    assert made.GetAttribute("SynthMorph.atlases") == "anna"
    ui.atlasSegmentationSelector.setCurrentNode(None)
    nodes = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    ui.carryAtlasesButton.click()
    assert host.wait(lambda: "Affine transform" in [row[2] for row in cells(ui.atlasesTable)], 120)
    place._started = 0.0  # a double click is no Cancel
    ui.applyButton.click()  # Cancel ends the work at once
    assert not place.logic.isBusy() and ui.carryAtlasesButton.text == "Carry labels over"
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == nodes
    assert "Done" not in [row[2] for row in cells(ui.atlasesTable)]


def test_many_items_are_moved_by_a_click_and_corrections_go_on(host, place):
    import slicer
    ui = place.ui
    transform = slicer.mrmlScene.GetFirstNodeByName("anna to patient")
    atlas = slicer.mrmlScene.GetFirstNodeByName("anna, corrected")
    labels = slicer.mrmlScene.GetFirstNodeByName("Atlas labels of patient on anna")
    ui.movingCollapsibleButton.collapsed = False
    assert ui.moveButton.toolTip == "Choose a transform first." and not ui.moveButton.enabled
    ui.movingTransformSelector.setCurrentNode(transform)
    assert ui.moveButton.toolTip == "Choose what to move."
    ui.movingItemsSelector.check(atlas)
    ui.movingItemsSelector.check(labels)
    assert ui.moveButton.enabled
    ui.moveButton.click()
    finished(host, place)
    assert not error(place)
    moved = slicer.mrmlScene.GetFirstNodeByName("anna, corrected on patient")
    assert slicer.util.arrayFromVolume(moved).shape == place.truth.shape
    assert moved.GetAttribute("SynthMorph.interpolation") == "linear"
    onward = slicer.mrmlScene.GetFirstNodeByName("Atlas labels of patient on anna on patient")
    carried = slicer.util.arrayFromSegmentBinaryLabelmap(onward, "Label_60", place.patient) > 0
    assert atlas_heads.dice(carried, place.truth == 60) > 0.9  # to the atlas and back
    assert onward.GetSegmentation().GetSegment("Label_60").HasTerminology()
    ui.movingDirectionComboBox.currentIndex = 1
    ui.movingReferenceSelector.setCurrentNode(moved)
    assert ui.moveButton.enabled
    assert ui.movingItemsSelector.checkedNodes() == tuple(place.parameters.movingItems)


def test_errors_are_one_sentence(host, place):
    import shutil
    ui = place.ui
    tick(place, "anna")
    tick(place, "bert", False)
    shutil.move(place.folder / "anna" / "labels.nrrd", place.folder / "gone.nrrd")
    ui.carryAtlasesButton.click()
    finished(host, place)
    shutil.move(place.folder / "gone.nrrd", place.folder / "anna" / "labels.nrrd")
    assert "has no label map" in error(place) and "Traceback" not in error(place)
    assert ui.carryAtlasesButton.enabled

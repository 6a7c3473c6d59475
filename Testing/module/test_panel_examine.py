"""Measures, verdict, places to go to, signature and report of a real registration, by clicks."""

import csv

import numpy as np
import pytest
from workplace import error, finished, needsTorch

pytestmark = needsTorch


@pytest.fixture(scope="module")
def registered(host, module):
    """Made-up heads with a segment on each side, registered once."""
    import slicer
    from SynthMorphSlicerLib.selftest import headVolume
    slicer.mrmlScene.Clear(0)
    widget = module.widgetRepresentation()
    widget.enter()
    panel = widget.self().panel
    fixed, moving = headVolume("fixed"), headVolume("moving", (8.0, -5.0, 4.0))
    panel.ui.fixedVolumeSelector.setCurrentNode(fixed)
    panel.ui.movingVolumeSelector.setCurrentNode(moving)
    panel.ui.modelComboBox.currentIndex = panel.ui.modelComboBox.findText("Compact (comes with this extension)")
    panel.ui.deviceComboBox.currentIndex = panel.ui.deviceComboBox.findData("cpu")
    panel.ui.transformTypeComboBox.currentIndex = panel.ui.transformTypeComboBox.findText("Affine only")
    panel.ui.carriedLabelsSelector.check(ventricles(moving, "of moving"))
    panel.ui.fixedLabelsSelector.setCurrentNode(ventricles(fixed, "of fixed"))
    assert not panel.ui.examineButton.enabled and "transform" in panel.ui.examineButton.toolTip
    panel.ui.applyButton.click()
    finished(host, panel)
    assert not error(panel)
    yield panel
    panel.logic.cancel()
    slicer.mrmlScene.Clear(0)
    widget.exit()


@pytest.fixture
def examined(host, registered):
    if not registered.bench.isCurrent(registered.subject()):
        registered.ui.examineButton.click()
        finished(host, registered)
        assert not error(registered)
    return registered


def ventricles(volume, name):
    """A segmentation of a made-up head's ventricles, and an empty segment."""
    import slicer
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    identifier = node.GetSegmentation().AddEmptySegment("v", "Ventricles", [0.1, 0.5, 1.0])
    node.GetSegmentation().AddEmptySegment("none", "Nothing", [1, 0, 0])
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        (slicer.util.arrayFromVolume(volume) == 20).astype(np.uint8), node, identifier, volume)
    return node


def cells(table):
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]


def test_table_has_values_units_tolerances_and_colours(examined):
    table = examined.ui.examineTable
    rows = {row[0]: row for row in cells(table)}
    assert rows["Folding"][1:4] == ["0", "%", "ok"] and rows["Folding"][4].startswith("≤ 0")
    assert rows["Inverse consistency, 95th percentile"][3] == "ok"  # known, for the worker still has both directions
    assert float(rows["Ventricles: Dice"][1]) > float(rows["Mean Dice, before"][1]) > 0
    assert float(rows["Mutual information (normalised), after"][1]) > float(
        rows["Mutual information (normalised), before"][1])
    names = [row[0] for row in cells(table)]
    color = table.item(names.index("Folding"), 3).background().color().name()
    assert color == "#1b7f4b"
    assert "TG-132" in table.item(names.index("Folding"), 0).toolTip()
    assert any(word in examined.ui.verdictLabel.text for word in ("Good", "Look closely", "Failed"))


def test_table_is_copied_and_saved(examined, tmp_path, monkeypatch):
    import qt
    import slicer
    examined.ui.copyExaminedButton.click()
    copied = [line.split("\t") for line in slicer.app.clipboard().text().splitlines()]
    assert copied[0] == ["Measure", "Value", "Unit", "Verdict", "Tolerance"] and copied[1:] == cells(
        examined.ui.examineTable)
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: str(tmp_path / "m.csv"))
    examined.ui.saveExaminedButton.click()
    with open(tmp_path / "m.csv", newline="", encoding="utf-8-sig") as file:
        assert list(csv.reader(file)) == copied


def test_a_click_goes_there(examined):
    import slicer
    ui, spots = examined.ui, examined.bench.found["hot_spots"]
    assert len(spots) >= 2 and ui.spotsTable.rowCount == len(spots)
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    ui.nextSpotButton.click()
    assert red.GetSliceOffset() == pytest.approx(spots[0]["ras"][2], abs=0.01)
    ui.spotsTable.cellClicked.emit(1, 0)
    assert red.GetSliceOffset() == pytest.approx(spots[1]["ras"][2], abs=0.01)
    yellow = slicer.app.layoutManager().sliceWidget("Yellow").mrmlSliceNode()
    assert yellow.GetSliceToRAS().GetElement(0, 3) == pytest.approx(spots[1]["ras"][0], abs=0.01)
    ui.previousSpotButton.click()
    ui.previousSpotButton.click()
    assert red.GetSliceOffset() == pytest.approx(spots[-1]["ras"][2], abs=0.01)


def test_signature_needs_initials_and_knows_its_result(examined):
    from SynthMorphSlicerLib import scene, signing
    ui, transform = examined.ui, examined.parameters.outputTransform
    ui.initialsLineEdit.text = ""
    ui.acceptButton.click()
    assert "initials" in error(examined) and not signing.signatures(transform)
    ui.initialsLineEdit.text = "A"
    ui.initialsLineEdit.cursorPosition = 0
    ui.initialsLineEdit.insert("C")
    assert ui.initialsLineEdit.cursorPosition == 1 and examined.parameters.initials == "CA"
    examined.parameters.initials = "AB"
    assert ui.initialsLineEdit.text == "AB"
    ui.commentLineEdit.text = 'fine; "but": look'
    ui.acceptButton.click()
    assert ui.signatureLabel.text.startswith("Accepted by AB") and ui.signatureLabel.text.endswith('"but": look')
    assert ui.commentLineEdit.text == ""
    assert examined.bench.isCurrent(examined.subject())
    before = transform.GetTransformFromParent()
    other = np.eye(4)
    other[0, 3] = 1.0
    scene.setTransform(transform, scene.vtkTransform({"affine": other, "field": None}))
    examined.updateButtons()
    assert "has changed since" in ui.signatureLabel.text and not ui.reportButton.enabled
    assert ui.examineTable.isHidden()
    scene.setTransform(transform, before)
    examined.updateButtons()
    assert "has changed" not in ui.signatureLabel.text and ui.reportButton.enabled


def test_report_shows_the_views_as_seen(host, examined, tmp_path, monkeypatch):
    import qt
    examined.ui.overlayButton.click()
    examined.ui.initialsLineEdit.text = "CD"
    examined.ui.rejectButton.click()
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: str(tmp_path / "page"))
    examined.ui.reportButton.click()
    finished(host, examined)
    assert not error(examined) and "page.html, page.csv, page.pdf" in examined.ui.statusLabel.text
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") > 3 and "Axial, " in page and "rejected by CD" in page
    assert "not for clinical use" in page and "Ventricles" in page and "moving on fixed" in page
    assert "rejected" in (tmp_path / "page.csv").read_text(encoding="utf-8")


def test_inside_a_segment(host, examined):
    ui = examined.ui
    whole = {row[0]: row[1] for row in cells(ui.examineTable)}
    ui.regionSelector.setCurrentNode(examined.parameters.fixedLabels)
    assert ui.regionSegmentComboBox.currentText == "Ventricles" and examined.parameters.reviewSegment == "v"
    ui.examineButton.click()
    finished(host, examined)
    inside = {row[0]: row[1] for row in cells(ui.examineTable)}
    assert inside["Mutual information (normalised), after"] != whole["Mutual information (normalised), after"]
    assert "Ventricles" in ui.statusLabel.text
    ui.regionSegmentComboBox.currentIndex = 1
    ui.examineButton.click()
    assert "no voxel" in error(examined) and not examined.logic.isBusy()
    ui.regionSelector.setCurrentNode(None)


def test_landmarks_are_measured_live_and_correct_the_result(host, examined):
    import slicer
    import vtk
    ui, transform = examined.ui, examined.parameters.outputTransform
    lists = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name) for name in ("fixed", "moving")]
    ui.fixedLandmarksSelector.setCurrentNode(lists[0])
    ui.movingLandmarksSelector.setCurrentNode(lists[1])
    assert not ui.correctButton.enabled and "at least one pair" in ui.landmarksLabel.text
    point = (35.0, 20.0, 0.0)
    there = np.array(transform.GetTransformFromParent().TransformPoint(point))
    lists[0].AddControlPoint(vtk.vtkVector3d(*point), "spot")
    assert "needs its partner" in ui.landmarksLabel.text and not ui.correctButton.enabled
    lists[1].AddControlPoint(vtk.vtkVector3d(*(there + [0.0, 3.0, 0.0])))
    assert cells(ui.landmarksTable) == [["spot", "3.00"]]
    lists[1].SetNthControlPointPosition(0, *(there + [0.0, 6.0, 0.0]))
    assert cells(ui.landmarksTable) == [["spot", "6.00"]]
    moved = slicer.util.arrayFromVolume(examined.parameters.outputVolume).copy()
    far = transform.GetTransformFromParent().TransformPoint(-50.0, -60.0, 0.0)
    ui.correctButton.click()
    finished(host, examined)
    assert not error(examined) and "6.00 mm before" in ui.statusLabel.text
    assert float(cells(ui.landmarksTable)[0][1]) < 0.5 and "Corrected by 1 landmarks" in ui.landmarksLabel.text
    now = transform.GetTransformFromParent()
    np.testing.assert_allclose(now.TransformPoint(-50.0, -60.0, 0.0), far, atol=0.01)
    assert np.abs(slicer.util.arrayFromVolume(examined.parameters.outputVolume) - moved).max() > 20
    assert set(examined.parameters.outputSegmentation.GetSegmentation().GetSegmentIDs()) == {"v", "none"}
    ui.undoCorrectionButton.click()
    assert cells(ui.landmarksTable) == [["spot", "6.00"]] and not ui.undoCorrectionButton.enabled
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(examined.parameters.outputVolume), moved)
    assert "Corrected" not in ui.landmarksLabel.text


def test_a_pair_is_placed_by_two_clicks(host, examined):
    import slicer
    import vtk
    ui, parameters = examined.ui, examined.parameters
    ui.fixedLandmarksSelector.setCurrentNode(None)
    ui.movingLandmarksSelector.setCurrentNode(None)
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    red = slicer.app.layoutManager().sliceWidget("Red")
    ui.placePairButton.click()
    assert parameters.fixedLandmarks.GetName() == "Landmarks on fixed"
    logic = slicer.modules.markups.logic()
    there = parameters.outputTransform.GetTransformFromParent().TransformPoint(35.0, 20.0, 0.0)
    for node, opacity, words, point in ((parameters.fixedLandmarks, 0.0, "fixed", (35.0, 20.0, 0.0)),
                                        (parameters.movingLandmarks, 1.0, "moving", there)):
        assert logic.GetActiveListID() == node.GetID()
        assert interaction.GetCurrentInteractionMode() == interaction.Place
        assert red.mrmlSliceCompositeNode().GetForegroundOpacity() == opacity and words in ui.statusLabel.text
        interaction.SetCurrentInteractionMode(interaction.ViewTransform)
        node.AddControlPoint(vtk.vtkVector3d(*point))  # as a click does
        host.wait(lambda: False, 0.05)
    assert red.mrmlSliceNode().GetSliceOffset() == pytest.approx(there[2], abs=0.01)
    assert ui.statusLabel.text == "The pair is placed." and cells(ui.landmarksTable)[0][1] == "0.00"
    assert interaction.GetCurrentInteractionMode() != interaction.Place


def test_report_comes_as_pdf_too(host, examined, tmp_path, monkeypatch):
    import qt
    examined.ui.overlayButton.click()
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: str(tmp_path / "page.html"))
    examined.ui.examineButton.click()
    finished(host, examined)
    examined.ui.reportButton.click()
    finished(host, examined)
    assert "page.html, page.csv, page.pdf" in examined.ui.statusLabel.text and not error(examined)
    data = (tmp_path / "page.pdf").read_bytes()
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert data.startswith(b"%PDF") and data.rstrip().endswith(b"%%EOF")
    assert data.count(b"/Type /Page\n") >= 2
    assert data.count(b"/Subtype /Image") >= 0.9 * page.count("data:image/png")  # equal pictures are stored once
    (tmp_path / "page.pdf").unlink()
    (tmp_path / "page.pdf").mkdir()
    examined.ui.reportButton.click()
    finished(host, examined)
    assert "not the PDF" in error(examined)


def test_pdf_has_the_words_of_the_page():
    from SynthMorphSlicerLib import printing
    page = ('<html><head><title>x</title><style>p { color: red }</style></head><body><h1>A &amp; B</h1>'
            '<div class="verdict bad"><strong>failed</strong><ul><li><span class="bad">J &lt; 0</span></li></ul></div>'
            '<table class="measures"><tr><th>Name</th></tr><tr><td class="number">1</td></tr></table>'
            '<h2>Curve</h2><svg><text>axis</text></svg></body></html>')
    import qt
    document = qt.QTextDocument()
    document.setHtml(printing.simplified(page, 600))
    words = document.toPlainText().split()
    assert words == ["A", "&", "B", "Failed", "J", "<", "0", "Name", "1", "Curve"]


def test_surfaces_are_coloured_by_displacement(host, module, examined):
    import slicer
    from SynthMorphSlicerLib import shortcuts, surfaces
    from vtk.util.numpy_support import vtk_to_numpy
    transform, view = examined.parameters.outputTransform, slicer.app.layoutManager().threeDWidget(0)
    size = (300, 300)
    view.picture(size)  # Slicer's views are there before anything is shown
    shortcut = next(one for one in examined.reviewSection.shortcuts._installed
                    if one.key.toString() == shortcuts.KEYS["surfaces"])
    shortcut.activated.emit()
    assert examined.ui.surfacesButton.checked
    model = surfaces.modelOf(transform)
    points = vtk_to_numpy(model.GetPolyData().GetPoints().GetData())
    lengths = vtk_to_numpy(model.GetPolyData().GetPointData().GetScalars())
    assert len(points) > 500
    for point, length in zip(points[::100].astype(float), lengths[::100]):
        there = transform.GetTransformFromParent().TransformPoint(point)
        assert length == pytest.approx(np.linalg.norm(np.subtract(there, point)), abs=1e-3)
    bounds = [0.0] * 6
    model.GetRASBounds(bounds)
    assert bounds[0] == pytest.approx(-16, abs=6) and bounds[1] == pytest.approx(16, abs=6)  # on the fixed ventricles
    shown = view.picture(size).astype(int)
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(model)
    assert legend.GetVisibility() and legend.GetTitleText() == "mm"
    legend.SetVisibility(False)
    assert np.abs(view.picture(size).astype(int) - shown)[:, 200:].max() > 60  # the legend was drawn
    examined.ui.surfacesButton.click()
    assert not model.GetDisplayNode().GetVisibility() and not examined.ui.surfacesButton.checked
    examined.ui.surfacesButton.click()
    assert surfaces.modelOf(transform) is model
    examined.ui.surfacesButton.click()

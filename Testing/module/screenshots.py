"""Draw the pictures of the README: the panel, and the views before and after a registration.

    python Testing/module/screenshots.py [FOLDER]

Runs the module on the test host and presses its buttons.  The scans are two patients of the open MS data of Ljubljana
(CC BY, Lesjak et al., Neuroinformatics 2016 and 2017), where the data pack is found, else made-up heads.  One of them
comes without the skull.  The other's is taken off, by a registration of its own that tells which voxels belong to the
brain: a map of how a skull shrinks to nothing would be true, and would show little of the brain.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from workplace import DATA, MODULE, ROOT  # noqa: E402

SIZE = (420, 420)
PANEL_WIDTH = 470
PLACE = (4.0, -20.0, 14.0)  # RAS mm, where the three views meet
ROWS = (("Red", "Yellow", "Green"), ("Red+", "Yellow+", "Green+"))


def main(folder):
    import slicer
    import testhost  # workplace put it on the path, and it sets up the imports below
    host = testhost.start()
    widget = host.loadModule(str(MODULE)).widgetRepresentation()
    widget.enter()
    panel = widget.self().panel
    ui = panel.ui
    fixed, moving = twoBrains(panel.logic)
    ui.fixedVolumeSelector.setCurrentNode(fixed)
    ui.movingVolumeSelector.setCurrentNode(moving)
    ui.carriedLabelsSelector.check(ventricles(moving))
    ui.makeJacobianCheckBox.checked = True
    ui.deviceComboBox.currentIndex = ui.deviceComboBox.findData("cpu")

    ui.beforeButton.click()
    picture(folder / "before.png")
    ui.applyButton.click()
    waitFor(host, panel)
    ui.outputSegmentationSelector.currentNode().GetDisplayNode().SetVisibility(False)
    picture(folder / "after.png")
    grab(widget, folder / "panel.png")
    drawViews(host, ui, folder)
    drawSections(host, panel, widget, folder)
    widget.exit()
    widget.self().cleanup()
    host.close()
    slicer.mrmlScene.Clear(0)


def drawViews(host, ui, folder):
    """One picture for each way to look at a result."""
    ui.checkerboardButton.click()
    picture(folder / "checkerboard.png")
    ui.overlayButton.click()
    ui.sideBySideButton.click()
    host.wait(lambda: False, 0.1)
    picture(folder / "side-by-side.png", ROWS)
    ui.sideBySideButton.click()
    ui.opacitySlider.value = 0.7
    ui.jacobianButton.click()
    picture(folder / "jacobian.png")
    ui.jacobianButton.click()
    ui.gridButton.click()
    picture(folder / "grid.png")
    ui.gridButton.click()
    ui.opacitySlider.value = 0.0
    ui.outputSegmentationSelector.currentNode().GetDisplayNode().SetVisibility(True)
    picture(folder / "segmentation.png")


def drawSections(host, panel, widget, folder):
    """The sections below, each after its buttons have been pressed."""
    ui = panel.ui
    ui.overlayButton.click()
    ui.examineCollapsibleButton.collapsed = False
    ui.examineButton.click()
    waitFor(host, panel)
    grab(widget, folder / "examine.png", ui.examineCollapsibleButton)
    ui.examineCollapsibleButton.collapsed = True

    ui.compareCollapsibleButton.collapsed = False
    ui.variantsComboBox.currentIndex = ui.variantsComboBox.findText("Without and with refinement")
    ui.variantsButton.click()
    waitFor(host, panel)
    ui.sweepButton.click()
    waitFor(host, panel)
    grab(widget, folder / "compare.png", ui.compareCollapsibleButton)
    ui.compareCollapsibleButton.collapsed = True
    drawAtlases(host, panel, widget, folder)


def drawAtlases(host, panel, widget, folder):
    """Two scans with their labels as atlases of a later scan of the same patient."""
    import qt
    ui = panel.ui
    ui.atlasCollapsibleButton.collapsed = False
    patient, sources, labels = threeHeads(panel)
    with tempfile.TemporaryDirectory() as library:
        qt.QFileDialog.getExistingDirectory = lambda *arguments: library
        ui.makeAtlasLabelsSelector.setCurrentNode(labels)
        for volume in sources:
            ui.makeAtlasVolumeSelector.setCurrentNode(volume)
            ui.makeAtlasButton.click()
        wanted = {volume.GetName() for volume in sources}
        assert host.wait(lambda: wanted <= set(names(ui.atlasesTable)), 120)
        for row, name in enumerate(names(ui.atlasesTable)):
            if name in wanted:
                ui.atlasesTable.item(row, 0).setCheckState(qt.Qt.Checked)
        ui.patientSelector.setCurrentNode(patient)
        ui.carryAtlasesButton.click()
        waitFor(host, panel)
    grab(widget, folder / "atlas.png", ui.atlasCollapsibleButton)


def names(table):
    """Texts of the first column."""
    return [table.item(row, 0).text() for row in range(table.rowCount)]


def threeHeads(panel):
    """Whole heads: the one that gets labels, those that give them, and the labels."""
    if DATA is None:
        fixed, moving = panel.parameters.fixedVolume, panel.parameters.movingVolume
        return fixed, [moving], panel.ui.carriedLabelsSelector.checkedNodes()[0]
    from workplace import loadVolume
    files = {"Later-T1": "ms12_study2_T1W", "First-T2": "ms12_study1_T2W", "First-FLAIR": "ms12_study1_FLAIR"}
    patient, *sources = (loadVolume(DATA / f"multicontrast/{file}.nii.gz", name) for name, file in files.items())
    window(patient)
    return patient, sources, ventricles(sources[0])


def waitFor(host, panel):
    """Until the work under way is done, which must be without an error."""
    assert host.wait(lambda: not panel.logic.isBusy(), 1800), "the work takes too long"
    host.wait(lambda: False, 0.2)
    assert panel.ui.errorLabel.isHidden(), panel.ui.errorLabel.text


def twoBrains(logic):
    """The fixed and the moving volume, both without the skull, windowed alike."""
    from workplace import loadVolume, twoHeads
    if DATA is None:
        return twoHeads()
    fixed = loadVolume(DATA / "multicontrast/msx19_mni_T1_brain.nii.gz", "Patient19-T1")
    moving = loadVolume(DATA / "multicontrast/ms12_study1_T2W.nii.gz", "Patient12-T2")
    takeSkullOff(logic, moving, fixed)
    for node in (fixed, moving):
        window(node)
    return fixed, moving


def takeSkullOff(logic, head, brain):
    """Blacken what a registration of the head onto another's brain takes to places outside that brain."""
    import numpy as np
    import slicer
    import vtk
    from SynthMorphSlicerLib import scene
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    transform = logic.register(brain, head, device="cpu")["transform"]
    array, inside = slicer.util.arrayFromVolume(head), slicer.util.arrayFromVolume(brain) > 1e-3
    toWorld, toIndex = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    head.GetIJKToRASMatrix(toWorld)
    brain.GetRASToIJKMatrix(toIndex)
    voxels = np.argwhere(array > 0)
    places, there = vtk.vtkPoints(), vtk.vtkPoints()
    world = voxels[:, ::-1] @ scene.toArray(toWorld)[:3, :3].T + scene.toArray(toWorld)[:3, 3]
    places.SetData(numpy_to_vtk(np.ascontiguousarray(world), deep=True))
    transform.GetTransformToParent().TransformPoints(places, there)
    index = vtk_to_numpy(there.GetData()) @ scene.toArray(toIndex)[:3, :3].T + scene.toArray(toIndex)[:3, 3]
    index = np.clip(np.round(index).astype(int)[:, ::-1], 0, np.array(inside.shape) - 1)
    kept = np.zeros(array.shape, np.uint8)
    kept[tuple(voxels[inside[tuple(index.T)]].T)] = 1
    array[largest(kept) == 0] = 0
    slicer.util.arrayFromVolumeModified(head)
    slicer.mrmlScene.RemoveNode(transform)
    logic.close()


def largest(mask):
    """The largest part of a mask (k, j, i) without what is thin, such as the skull squeezed between brain and air."""
    import SimpleITK as sitk
    opened = sitk.BinaryMorphologicalOpening(sitk.GetImageFromArray(mask), (5, 5, 1))
    return sitk.GetArrayFromImage(sitk.RelabelComponent(sitk.ConnectedComponent(opened))) == 1


def window(volumeNode):
    """From black to the brightest of the brain."""
    import numpy as np
    import slicer
    array = slicer.util.arrayFromVolume(volumeNode)
    top = float(np.percentile(array[array > 1e-3], 99))
    volumeNode.GetDisplayNode().SetAutoWindowLevel(False)
    volumeNode.GetDisplayNode().SetWindowLevel(top, top / 2)


def ventricles(volumeNode):
    """A rough segmentation of the ventricles: what is bright on T2 and near the middle of the head."""
    import numpy as np
    import SimpleITK as sitk
    import slicer
    array = slicer.util.arrayFromVolume(volumeNode).astype(np.float32)
    places = np.argwhere(array > 0) * np.array(volumeNode.GetSpacing()[::-1])
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in array.shape], indexing="ij"), -1)
    distance = np.linalg.norm(indices * np.array(volumeNode.GetSpacing()[::-1]) - places.mean(0), axis=-1)
    bright = (array > np.percentile(array[array > 0], 93)) & (distance < 45)
    opened = sitk.OpeningByReconstruction(sitk.GetImageFromArray(bright.astype(np.uint8)), (4, 4, 0))
    parts = sitk.GetArrayFromImage(sitk.RelabelComponent(sitk.ConnectedComponent(opened), 1500))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Structures")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    identifier = node.GetSegmentation().AddEmptySegment("ventricles", "Ventricles", (0.95, 0.45, 0.2))
    slicer.util.updateSegmentBinaryLabelmapFromArray((parts > 0).astype(np.uint8), node, identifier, volumeNode)
    node.GetDisplayNode().SetVisibility(False)
    return node


def picture(path, rows=ROWS[:1]):
    """The slice views in rows."""
    import numpy as np
    import slicer
    rows = [[slicer.app.layoutManager().sliceWidget(name) for name in row] for row in rows]
    for row in rows:
        for view in row:
            view.picture(SIZE)  # takes its size first, then fits and draws
    slicer.util.setSliceViewerLayers(fit=True)
    for row in rows:
        for view, first in zip(row, rows[0]):
            view.mrmlSliceNode().JumpSliceByOffsetting(*PLACE)
            view.mrmlSliceNode().SetFieldOfView(*first.mrmlSliceNode().GetFieldOfView())
    save(np.vstack([np.hstack([view.picture(SIZE) for view in row]) for row in rows]), path)


def grab(widget, path, part=None):
    """The panel, or a part of it, as Qt draws it."""
    import slicer
    widget.show()
    for _ in range(2):  # texts take more lines once the width is known
        slicer.app.processEvents()
        widget.resize(PANEL_WIDTH, widget.layout().heightForWidth(PANEL_WIDTH))
    slicer.app.processEvents()
    (part or widget).grab().save(str(path))
    print(path)


def save(pixels, path):
    from PySide6 import QtGui
    rows, columns, _ = pixels.shape
    data = pixels.tobytes()
    assert QtGui.QImage(data, columns, rows, 3 * columns, QtGui.QImage.Format_RGB888).save(str(path))
    print(path)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "Resources" / "Screenshots"
    target.mkdir(parents=True, exist_ok=True)
    main(target)

"""What the tests that register have in common: which Python has torch, which scans to use, how to load them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "SynthMorphSlicer" / "SynthMorphSlicer.py"
DATA = next((folder for folder in (Path(os.environ.get("SYNTHMORPH_DATA", "")), ROOT / "shared/data",
                                   ROOT.parent / "shared/data") if (folder / "malf").is_dir()), None)
sys.path[:0] = [str(ROOT / "Testing" / "host"), str(ROOT / "Testing" / "Python"), str(MODULE.parent)]
STRANGE_WORKER = Path(__file__).with_name("strange_worker.py")
PYTHON = os.environ.get("SYNTHMORPH_PYTHON") or sys.executable
HAS_TORCH = (importlib.util.find_spec("torch") is not None if PYTHON == sys.executable else
             subprocess.run([PYTHON, "-c", "import torch"], capture_output=True, check=False).returncode == 0)
needsTorch = pytest.mark.skipif(not HAS_TORCH, reason=f"{PYTHON} has no PyTorch (set SYNTHMORPH_PYTHON)")


def loadVolume(path, name, labels=False):
    """A volume node of an image file; Slicer's I/O manager is not on the host, its storage nodes are."""
    import slicer
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLLabelMapVolumeNode" if labels else "vtkMRMLScalarVolumeNode", name)
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node), path
    node.SetAndObserveStorageNodeID(storage.GetID())
    node.CreateDefaultDisplayNodes()
    return node


def twoHeads():
    """A fixed and a moving volume: real scans of two people where the data pack is, else made-up heads."""
    if DATA is None:
        from SynthMorphSlicerLib.selftest import headVolume
        return headVolume("fixed"), headVolume("moving", (8.0, -5.0, 4.0))
    return (loadVolume(DATA / "oasis" / "oasis_test_t1.nii.gz", "oasis"),
            loadVolume(DATA / "malf" / "1000_t1.nii.gz", "malf1000"))


def chooseVolumes(panel, fixed, moving):
    """What to register, with the compact model on the CPU, by the widgets."""
    panel.ui.fixedVolumeSelector.setCurrentNode(fixed)
    panel.ui.movingVolumeSelector.setCurrentNode(moving)
    panel.ui.modelComboBox.currentIndex = panel.ui.modelComboBox.findText("Compact (comes with this extension)")
    panel.ui.deviceComboBox.currentIndex = panel.ui.deviceComboBox.findData("cpu")


def strangeWorker(fault):
    """Command line of the worker with a fault put in."""
    return [PYTHON, "-u", str(STRANGE_WORKER), fault]


def workerEnvironment():
    """Environment in which the worker finds the engine."""
    return {**os.environ, "PYTHONPATH": str(MODULE.parent)}


def outputNodes():
    """Names of the nodes that registrations have made."""
    import slicer
    nodes = slicer.mrmlScene.GetNodes()
    found = [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]
    return {node.GetName() for node in found if node.GetAttribute("SynthMorph.lambda")}


def saveScene(folder):
    """Write the scene with its volumes, transforms, segmentations and tables; returns the file to open."""
    import slicer
    for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
        if node.GetSaveWithScene() and any(node.IsA(f"vtkMRML{kind}Node") for kind in (
                "Volume", "Transform", "Segmentation", "Table")):
            storage = node.CreateDefaultStorageNode()
            slicer.mrmlScene.AddNode(storage)
            ending = "seg.nrrd" if node.IsA("vtkMRMLSegmentationNode") else storage.GetDefaultWriteFileExtension()
            storage.SetFileName(str(folder / f"{node.GetID()}.{ending}"))
            assert storage.WriteData(node)
            node.SetAndObserveStorageNodeID(storage.GetID())
    path = str(folder / "scene.mrml")
    slicer.mrmlScene.SetURL(path)
    assert slicer.mrmlScene.Commit()
    return path


def openScene(host, path):
    """Read a scene as Slicer does, and let the panel hear of it."""
    import slicer
    slicer.mrmlScene.SetURL(path)
    assert slicer.mrmlScene.Import()
    host.wait(lambda: False, 0.1)


def finished(host, panel, seconds=180):
    """Let the event loop run until the panel's work is done."""
    assert host.wait(lambda: not panel.logic.isBusy(), seconds)
    host.wait(lambda: False, 0.1)


def error(panel):
    """The error the panel shows, or an empty string."""
    return panel.ui.errorLabel.text if panel.ui.errorLabel.visible or not panel.ui.errorLabel.isHidden() else ""

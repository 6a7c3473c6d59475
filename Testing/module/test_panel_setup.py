"""The Setup section: installing, another Python, weights; with real processes, a real server and real files.

What cannot be here is PyTorch's extension itself: a module of its name stands in, whose installer is a real program
that puts a small 'torch' where Python finds it.
"""

import importlib.util
import os
import sys
import textwrap
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from workplace import error, finished, needsTorch, twoHeads

INSTALLER = """
import pathlib, sys, time
print("Collecting torch", sys.argv[1:], flush=True)
time.sleep({seconds})
if {fails}:
    sys.exit("ERROR: no space left on the device")
site = pathlib.Path(__file__).parent
(site / "torch-2.99.dist-info").mkdir()
(site / "torch-2.99.dist-info" / "METADATA").write_text("Name: torch\\nVersion: 2.99\\n")
(site / "torch.py").write_text('''
import types
__version__ = "2.99"
cuda = types.SimpleNamespace(device_count=lambda: 0, is_initialized=lambda: False)
def get_num_threads(): return 1
''')
print("Successfully installed torch-2.99")
"""


class ExtensionLogic:
    """PyTorchUtilsLogic as far as it is called."""

    @staticmethod
    def _getPipInstallArguments(forceComputationBackend=None, torchVersionRequirement=None):
        return ["install", "torch" + torchVersionRequirement, "torchvision"]

    @staticmethod
    def _installLightTheTorch():
        raise AssertionError("light-the-torch is there")

    def installTorch(self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None):
        raise RuntimeError("no network\nand more")


@pytest.fixture
def setup(host, module, tmp_path, monkeypatch):
    """The panel where Slicer's own Python is used, which has no torch; returns a function that makes the installer."""
    import slicer
    from SynthMorphSlicerLib import environment
    monkeypatch.delenv("SYNTHMORPH_PYTHON", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(str(tmp_path))
    if importlib.util.find_spec("torch") is not None:  # then this Python's own is looked past
        monkeypatch.setattr(environment, "torchVersion", lambda: "2.99" if (tmp_path / "torch.py").exists() else "")
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=ExtensionLogic))
    asked = []
    monkeypatch.setattr("slicer.util.confirmOkCancelDisplay", lambda text, title: asked.append(text) or True)
    slicer.mrmlScene.Clear(0)
    widget = module.widgetRepresentation()
    panel = widget.self().panel
    panel.logic.cancel()

    def install(seconds=0.0, fails=False):
        (tmp_path / "light_the_torch.py").write_text(textwrap.dedent(INSTALLER.format(seconds=seconds, fails=fails)))
        widget.enter()
        return panel

    install.asked = asked
    yield install
    panel.setupSection.close()
    panel.logic.cancel()
    widget.exit()


def test_torch_is_installed_in_the_background_and_tried(host, setup):
    panel = setup(seconds=1.0)
    fixed, moving = twoHeads()
    panel.ui.fixedVolumeSelector.setCurrentNode(fixed)
    panel.ui.movingVolumeSelector.setCurrentNode(moving)
    assert not panel.ui.setupCollapsibleButton.collapsed and not panel.ui.installButton.isHidden()
    assert "GB" in panel.ui.setupLabel.text and "go on working" in panel.ui.setupLabel.text
    began = time.monotonic()
    panel.ui.installButton.click()
    assert time.monotonic() - began < 0.9  # Slicer does not wait
    assert setup.asked == [panel.ui.setupLabel.text]  # what was shown is what was asked
    assert panel.ui.installButton.text == "Cancel the installation"
    assert panel.ui.applyButton.toolTip == "Wait until the installation is done."
    assert host.wait(lambda: "Collecting torch" in panel.ui.logTextEdit.toPlainText(), 10)
    assert "'torch>=2.2'" in panel.ui.logTextEdit.toPlainText()
    assert host.wait(lambda: panel.ui.statusLabel.text == "PyTorch 2.99 works, on the CPU.", 30)
    assert panel.ui.installButton.isHidden() and panel.ui.applyButton.enabled
    assert panel.ui.setupLabel.text == "PyTorch 2.99 is installed."


def test_installation_can_be_cancelled(host, setup):
    panel = setup(seconds=60.0)
    panel.ui.installButton.click()
    assert host.wait(lambda: "Collecting torch" in panel.ui.logTextEdit.toPlainText(), 10)
    process = panel.setupSection._installation._process
    began = time.monotonic()
    panel.ui.installButton.click()
    assert time.monotonic() - began < 1 and process.poll() is not None
    assert panel.ui.installButton.text == "Install PyTorch" and "cancelled" in panel.ui.statusLabel.text
    assert panel.ui.applyButton.toolTip.startswith("PyTorch is missing")


def test_failed_installation_says_why(host, setup):
    panel = setup(fails=True)
    panel.ui.installButton.click()
    assert host.wait(lambda: not panel.setupSection.isInstalling(), 20)
    assert "no space left" in panel.ui.statusLabel.text and "another Python" in panel.ui.statusLabel.text


def test_an_installer_that_cannot_be_fetched_is_told(host, setup, monkeypatch):
    """Without a network pip fails already at the extension's installer, light-the-torch."""
    import subprocess
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "light_the_torch" else found(name))
    monkeypatch.setattr(ExtensionLogic, "_installLightTheTorch", staticmethod(
        lambda: subprocess.run([sys.executable, "-c", "raise SystemExit(1)"], check=True)))
    panel = setup()
    panel.ui.installButton.click()
    assert "installer could not be fetched" in error(panel) and "another Python" in error(panel)
    assert "exit status 1" in panel.ui.detailsTextEdit.toPlainText()
    assert not panel.setupSection.isInstalling() and panel.ui.installButton.text == "Install PyTorch"


def test_an_extension_that_cannot_be_asked_installs_its_own_way(host, setup, monkeypatch):
    monkeypatch.delattr(ExtensionLogic, "_getPipInstallArguments")
    panel = setup()
    assert "does not respond" in panel.ui.setupLabel.text
    panel.ui.installButton.click()
    assert "(no network)" in panel.ui.statusLabel.text


class ExtensionsManager:
    """qSlicerExtensionsManagerModel as far as it is called."""

    interactive = True

    def installExtensionFromServer(self, name, restart):
        self.asked = (name, restart, self.interactive)
        return True


def test_the_extension_is_installed_after_one_question(host, setup, monkeypatch):
    import slicer
    manager = ExtensionsManager()
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    monkeypatch.setattr(slicer.app, "extensionsManagerModel", lambda: manager)
    panel = setup()
    panel.ui.installButton.click()
    assert len(setup.asked) == 1 and manager.asked == ("PyTorch", False, False) and manager.interactive
    assert "restart Slicer" in panel.ui.statusLabel.text


# Weights and Python


class Slow(BaseHTTPRequestHandler):
    """Serves zeros of the right size, a mebibyte at a time."""

    def do_GET(self):
        size = 51455312  # bytes of synthmorph.affine.2.h5
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.starts.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(size - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        try:
            for position in range(start, size, 2**20):
                self.wfile.write(bytes(min(2**20, size - position)))
                time.sleep(self.server.pause)
        except OSError:  # the other side was cancelled
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.starts, server.pause = [], 0.1
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    monkeypatch.setenv("SYNTHMORPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SYNTHMORPH_WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("no_proxy", "*")
    yield server
    server.shutdown()
    server.server_close()


@needsTorch
def test_weights_are_fetched_cancelled_resumed_and_checked(host, panel, server, monkeypatch, tmp_path):
    from SynthMorphSlicerLib import installing
    monkeypatch.setattr(installing, "needsHdf5", lambda: False)
    asked = []
    monkeypatch.setattr("slicer.util.confirmOkCancelDisplay", lambda text, title: asked.append(text) or True)
    panel.logic.cancel()  # the next worker shall see the new environment
    ui = panel.ui
    ui.transformTypeComboBox.currentIndex = ui.transformTypeComboBox.findText("Affine only")
    ui.fetchButton.click()
    assert "CC BY 4.0" in asked[0] and "synthmorph.affine.2.h5 (0.05 GB)" in asked[0] and "cite" in asked[0]
    assert ui.applyButton.text == "Cancel"
    assert host.wait(lambda: ui.progressBar.value >= 10, 60)
    assert "MB" in ui.statusLabel.text
    ui.applyButton.click()
    assert "continues" in ui.statusLabel.text and not panel.logic.isBusy()
    part = next((tmp_path / "cache").rglob("*.part"))
    kept = part.stat().st_size
    assert 2**20 < kept < 51455312
    server.pause = 0.0
    ui.fetchButton.click()
    finished(host, panel, 60)
    assert server.starts[0] == 0 and server.starts[1] >= kept - 2**20 > 0
    assert "wrong content" in error(panel) and "download again" in error(panel)  # zeros are not the weights
    server.shutdown()
    server.server_close()
    ui.fetchButton.click()
    finished(host, panel, 60)
    assert error(panel).endswith("start it again, and it continues there.") and "command" not in error(panel)
    ui.clearCacheButton.click()
    finished(host, panel, 60)
    assert host.wait(lambda: "freed" in ui.statusLabel.text, 30)
    assert not list((tmp_path / "cache").rglob("*.h5*"))


@pytest.fixture
def noFolder():
    from SynthMorphSlicerLib import environment
    yield
    environment.setWeightsFolder("")


def choosePath(host, widget, path):
    """Give a path field a path and wait until it counts as typed."""
    from SynthMorphSlicerLib.setup_section import TYPING_MILLISECONDS
    widget.currentPath = path
    host.wait(lambda: False, TYPING_MILLISECONDS / 1000 + 0.2)


def test_weights_folder_may_be_a_freesurfer_installation(host, panel, noFolder, tmp_path, monkeypatch):
    from SynthMorphSlicerLib import environment
    monkeypatch.setattr(panel.logic, "ask", lambda *arguments, **named: None)
    monkeypatch.setenv("SYNTHMORPH_WEIGHTS", "/of/the/user")
    (tmp_path / "models").mkdir()
    choosePath(host, panel.ui.weightsPathLineEdit, str(tmp_path))
    assert "holds none of the official weights" in panel.ui.weightsLabel.text
    assert environment.workerEnvironment()["SYNTHMORPH_WEIGHTS"] == "/of/the/user"
    (tmp_path / "models" / "synthmorph.affine.2.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    panel.setupSection.refresh()
    assert "holds none" not in panel.ui.weightsLabel.text
    assert environment.workerEnvironment()["SYNTHMORPH_WEIGHTS"] == str(tmp_path / "models")
    choosePath(host, panel.ui.weightsPathLineEdit, str(tmp_path / "models"))
    assert environment.workerEnvironment()["SYNTHMORPH_WEIGHTS"] == str(tmp_path / "models")
    choosePath(host, panel.ui.weightsPathLineEdit, "")
    assert environment.weightsFolder() == "" and environment.workerEnvironment()["SYNTHMORPH_WEIGHTS"] == "/of/the/user"


def test_a_path_counts_when_it_is_typed(host, panel, noFolder, monkeypatch):
    from SynthMorphSlicerLib import environment
    monkeypatch.setattr(panel.logic, "ask", lambda *arguments, **named: None)
    chosen, field = [], panel.ui.weightsPathLineEdit
    choose = environment.setWeightsFolder
    monkeypatch.setattr(environment, "setWeightsFolder", lambda path: chosen.append(path) or choose(path))
    for end in range(1, 9):
        field.currentPath = "/weights"[:end]
        host.wait(lambda: False, 0.02)
    panel.setupSection.refresh()
    assert field.currentPath == "/weights" and chosen == []  # not taken away while it is typed
    field._edit.setCursorPosition(3)
    assert host.wait(lambda: chosen == ["/weights"], 5)
    assert field._edit.cursorPosition() == 3
    choosePath(host, field, "")
    assert chosen == ["/weights", ""] and "holds none" not in panel.ui.weightsLabel.text


def test_another_python_by_setting_and_by_variable(host, panel, monkeypatch):
    from SynthMorphSlicerLib import environment
    monkeypatch.delenv("SYNTHMORPH_PYTHON", raising=False)
    fixed, moving = twoHeads()
    panel.ui.fixedVolumeSelector.setCurrentNode(fixed)
    panel.ui.movingVolumeSelector.setCurrentNode(moving)
    try:
        choosePath(host, panel.ui.pythonPathLineEdit, "/nowhere/python")
        assert environment.workerCommand()[0] == "/nowhere/python"
        assert environment.workerEnvironment()["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"  # so that cuda:1 is the one named
        assert panel.ui.setupLabel.text == "Registrations run in /nowhere/python."
        panel.ui.applyButton.click()
        finished(host, panel, 20)
        assert "cannot be started" in error(panel) and panel.ui.applyButton.enabled
        monkeypatch.setenv("SYNTHMORPH_PYTHON", "/of/the/variable/python")
        assert environment.workerCommand()[0] == "/of/the/variable/python"
        monkeypatch.delenv("SYNTHMORPH_PYTHON")
    finally:
        choosePath(host, panel.ui.pythonPathLineEdit, "")
    assert environment.workerCommand()[0] == sys.executable


def test_windows_runs_the_python_behind_the_launcher(host, monkeypatch):
    from SynthMorphSlicerLib import environment
    monkeypatch.setattr(environment.shutil, "which", lambda name: f"/bin/{name}")
    assert environment.slicerPython() == "/bin/PythonSlicer"
    monkeypatch.setattr(environment.os, "name", "nt")
    assert environment.slicerPython() == "/bin/python-real"


@needsTorch
def test_release_ends_the_worker(host, panel):
    panel.ui.setupCollapsibleButton.collapsed = False
    assert host.wait(lambda: "Cache folder" in panel.ui.weightsLabel.text, 60)
    process = panel.logic.client.processID()
    panel.ui.releaseButton.click()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert panel.ui.statusLabel.text == "Memory released."


def test_freesurfer_transforms_are_loaded_by_the_panel(host, panel, tmp_path, monkeypatch):
    import slicer
    from test_logic import writtenTransforms
    ui = panel.ui
    assert not ui.loadTransformButton.enabled and ui.loadTransformButton.toolTip == "Choose a file first."
    for name in ("a.lta", "a.nii", "a.mgh", "warp.nii.gz"):
        ui.transformPathLineEdit.currentPath = str(tmp_path / name)
        assert ui.loadTransformButton.enabled, name
        ui.transformPathLineEdit.currentPath = ""
        assert not ui.loadTransformButton.enabled
    ui.transformPathLineEdit.currentPath = str(tmp_path / "scan.gz")
    ui.loadTransformButton.click()
    assert "no FreeSurfer transform" in error(panel)
    path = next(path for path, _ in writtenTransforms(tmp_path) if path.suffix == ".mgz")
    ui.transformPathLineEdit.currentPath = str(path)
    with monkeypatch.context() as gone:
        gone.setattr(slicer.app, "temporaryPath", str(tmp_path / "gone"))
        ui.loadTransformButton.click()
        assert "choose another temporary folder" in error(panel) and not panel.logic.isBusy()
    ui.loadTransformButton.click()
    finished(host, panel, 60)
    assert ui.statusLabel.text.startswith("Loaded 'warp'") and error(panel) == ""
    assert slicer.mrmlScene.GetFirstNodeByName("warp").IsA("vtkMRMLTransformNode")
    ui.transformPathLineEdit.currentPath = ""


@needsTorch
def test_a_python_chosen_in_mid_run_is_used_from_the_next_run_on(host, ready, monkeypatch):
    ready.ui.transformTypeComboBox.currentIndex = ready.ui.transformTypeComboBox.findText("Rigid only")
    ready.ui.applyButton.click()
    assert not ready.ui.fetchButton.enabled and not ready.ui.clearCacheButton.enabled
    process = ready.logic.client.processID()
    ready.setupSection.onWeightsFolder("")
    assert ready.logic.isBusy() and ready.logic.client.processID() == process
    finished(host, ready)
    assert error(ready) == "" and ready.parameters.outputTransform is not None
    assert host.wait(lambda: not ready.logic.client.isRunning(), 5)
    assert ready.ui.fetchButton.enabled

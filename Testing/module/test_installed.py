"""The three ways to have the module: from the checkout (every other test), as an additional module path, installed.

The last two are the same to Python: a folder with the listed files.  Here it is made of nothing but what CMakeLists.txt
lists, and a host of its own, without a main window, loads it: Slicer's generic module test.
"""

import os
import shutil
import subprocess
import sys

from test_manifest import listed
from workplace import MODULE, ROOT

SCRIPT = """
import sys, time
sys.path.insert(0, {host!r})
import testhost
host = testhost.start()
import slicer
slicer.app._layoutManager = None  # --no-main-window
heavy = ("torch", "SimpleITK", "scipy", "h5py", "nibabel", "matplotlib")
known = set(sys.modules)
started = time.monotonic()
module = host.loadModule({path!r})
assert module.title == "SynthMorph" and module.categories == ["Registration"]
assert module.contributors and module.helpText and module.acknowledgementText
widget = module.widgetRepresentation()
seconds = time.monotonic() - started
assert not [name for name in heavy if name in set(sys.modules) - known], "heavy at import"
widget.setMRMLScene(None)
widget.setMRMLScene(slicer.mrmlScene)
widget.enter()
panel = widget.self().panel
assert panel.ui.applyButton.toolTip and not panel.ui.applyButton.enabled
assert not panel.logic.client.isRunning()  # nothing was started either
from SynthMorphSlicerLib import environment
from SynthMorphSlicerLib.selftest import headVolume
assert str(environment.MODULE_FOLDER) == {folder!r} and environment.catalogue()["official"]
panel.ui.fixedVolumeSelector.setCurrentNode(headVolume("fixed"))
panel.ui.movingVolumeSelector.setCurrentNode(headVolume("moving"))
panel.ui.beforeButton.click()  # views that are not there are no trouble
assert not panel.ui.sideBySideButton.enabled
widget.self().onReload()
assert widget.self().panel.parameters.fixedVolume.GetName() == "fixed"
slicer.mrmlScene.Clear(0)
widget.exit()
widget.self().cleanup()
print("seconds", seconds)
"""


def test_listed_files_make_a_module_without_a_main_window(tmp_path):
    folder = tmp_path / "lib" / "Slicer-5.12" / "qt-scripted-modules"
    for name in [*listed("MODULE_PYTHON_SCRIPTS"), *listed("MODULE_PYTHON_RESOURCES")]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(MODULE.parent / name, folder / name)
    script = SCRIPT.format(host=str(ROOT / "Testing" / "host"), path=str(folder / MODULE.name), folder=str(folder))
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment,
                            cwd=tmp_path, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Traceback" not in result.stderr, result.stderr[-3000:]
    assert float(result.stdout.split()[-1]) < 5  # it opens at once; the limit is for a machine that is busy

"""The test host, one for the whole session, and what the tests of the module share."""

import importlib.util
import sys

import pytest
from workplace import DATA, MODULE, chooseVolumes, twoHeads

NEEDED = ("slicer_core", "PySide6", "SimpleITK")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

if MISSING:
    collect_ignore_glob = ["test_panel*.py", "test_scene.py", "test_host.py", "test_worker*.py", "test_logic.py",
                           "test_installed.py"]


def pytest_report_header(config):
    if MISSING:
        return (f"the Slicer module's tests are left out: {', '.join(MISSING)} cannot be imported (slicer-core has "
                "wheels for Python 3.10 to 3.13; see Testing/host/requirements.txt)")
    return f"test host: slicer-core; scans: {DATA or 'none found, made-up heads are used'}"


@pytest.fixture(scope="session")
def host():
    """The running test host."""
    import testhost
    host = testhost.start()
    yield host
    host.close()


@pytest.fixture(scope="session")
def module(host):
    """The module, loaded as Slicer loads it."""
    return host.loadModule(str(MODULE))


@pytest.fixture(autouse=True)
def noSwallowedErrors(request):
    """Errors in slots and observers, which Qt and VTK only print, fail the test."""
    swallowed = []
    previous = sys.excepthook, sys.unraisablehook
    sys.excepthook = lambda kind, value, trace: swallowed.append(value)
    yield
    sys.excepthook, sys.unraisablehook = previous
    assert not swallowed, swallowed


@pytest.fixture
def panel(host, module, monkeypatch):
    """The panel as a user finds it: entered, empty scene."""
    import slicer
    from SynthMorphSlicerLib import environment
    monkeypatch.setattr(environment, "isReady", lambda: True)
    widget = module.widgetRepresentation()
    slicer.mrmlScene.Clear(0)
    if not widget.isEntered:
        widget.enter()
    panel = widget.self().panel
    panel.ui.setupCollapsibleButton.collapsed = True
    panel._followed = panel.parameters.regularization
    yield panel
    panel.logic.cancel()
    slicer.mrmlScene.Clear(0)
    widget.exit()


@pytest.fixture
def ready(panel):
    """Two volumes chosen, the fast settings set, everything by the widgets."""
    fixed, moving = twoHeads()
    chooseVolumes(panel, fixed, moving)
    panel.ui.refinementSpinBox.value = 0
    return panel

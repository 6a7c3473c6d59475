"""SynthMorph: registers two brain scans of any contrast in seconds.  The module as Slicer sees it; the work is in
SynthMorphSlicerLib (Slicer) and synthmorph_torch (networks, in a process of its own)."""

import importlib
import sys

import slicer
import SynthMorphSlicerLib
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from SynthMorphSlicerLib.logic import RegistrationLogic

SECTIONS = {"compareCollapsibleButton": "Compare", "atlasCollapsibleButton": "Atlas",
            "movingCollapsibleButton": "Moving"}  # filled by .ui files of their own


class SynthMorphSlicer(ScriptedLoadableModule):
    """Name, place and help of the module."""

    def __init__(self, parent):
        super().__init__(parent)
        parent.title = _("SynthMorph")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        parent.dependencies = []
        parent.contributors = ["The SynthMorphSlicer contributors"]
        parent.helpText = _(
            "Registers two brain scans of any contrast and resolution, with or without the skull, using the SynthMorph "
            "networks. Choose a fixed and a moving volume and press Register; then move the lambda slider to make the "
            "deformation smoother or more detailed. For research, not for clinical use.")
        parent.acknowledgementText = _(
            "SynthMorph is the work of Malte Hoffmann and colleagues at the Martinos Center for Biomedical Imaging: "
            "please cite Hoffmann et al., IEEE TMI 41(3), 2022, and Hoffmann et al., Imaging Neuroscience 2, 2024.")


class SynthMorphSlicerWidget(ScriptedLoadableModuleWidget):
    """Loads the .ui files and hands them to the panel."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self.logic = None
        self.panel = None

    def setup(self):
        super().setup()
        from SynthMorphSlicerLib.panel import Panel
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SynthMorphSlicer.ui"))
        for place, name in SECTIONS.items():
            section = slicer.util.loadUI(self.resourcePath(f"UI/{name}.ui"))
            slicer.util.findChild(uiWidget, place).layout().addWidget(section)
            section.setMRMLScene(slicer.mrmlScene)
        self.layout.addWidget(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SynthMorphSlicerLogic()
        self.panel = Panel(uiWidget, self.logic, self.logic.getParameterNode, lambda: self.parent.isEntered)
        if self.parent.isEntered:  # Reload makes a new widget in an open module, and does not enter it
            self.panel.enter()

    def enter(self):
        if self.panel is not None:  # else setup has failed, and said why
            self.panel.enter()

    def exit(self):
        if self.panel is not None:
            self.panel.exit()

    def cleanup(self):
        if self.panel is not None:
            self.panel.cleanup()
            self.panel = None

    def onReload(self):
        """Refresh the library's modules in the order of their imports, then the module itself."""
        self.cleanup()  # with the modules that know what is to be put back
        importlib.reload(SynthMorphSlicerLib)
        for name in ("synthmorph_torch.protocol", *(f"SynthMorphSlicerLib.{m}" for m in SynthMorphSlicerLib.MODULES)):
            if name in sys.modules:
                importlib.reload(sys.modules[name])
        super().onReload()


class SynthMorphSlicerLogic(RegistrationLogic, ScriptedLoadableModuleLogic):
    """Registration for scripts and for the panel; see :meth:`RegistrationLogic.register`."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleLogic.__init__(self, parent)
        RegistrationLogic.__init__(self)


class SynthMorphSlicerTest(ScriptedLoadableModuleTest):
    """The core scenario; the same in a real Slicer (by ctest) and on the test host."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)
        self.logic = SynthMorphSlicerLogic()

    def tearDown(self):
        self.logic.close()

    def runTest(self):
        for scenario in (self.test_signs, self.test_registration, self.test_panel):
            self.setUp()
            try:
                scenario()
            finally:  # or the worker would outlive a failure
                self.tearDown()

    def test_signs(self):
        from SynthMorphSlicerLib import selftest
        selftest.checkSigns(self)

    def test_registration(self):
        from SynthMorphSlicerLib import selftest
        selftest.checkRegistration(self, self.logic)

    def test_panel(self):
        from SynthMorphSlicerLib import selftest
        selftest.checkPanel(self)

"""The test host: enough of a Slicer application around the real MRML library to load and drive the module.

``start()`` sets up `slicer`, `qt` and `ctk`; ``Host.loadModule`` does what Slicer's module factory does with a
scripted module.  README.md in this folder lists what is real and what is stood in for.
"""

import importlib
import os
import shutil
import sys
import tempfile
import time
import types

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import ctkwidgets  # noqa: E402
import parameternode  # noqa: E402
import pythonqt  # noqa: E402
import qmrmlwidgets  # noqa: E402
import scriptedmodule  # noqa: E402
import slicer  # noqa: E402
import slicer.util  # noqa: E402
import views  # noqa: E402
import vtk  # noqa: E402


class Environment(dict):
    """QProcessEnvironment, as far as slicer.util.startupEnvironment() asks."""

    def value(self, name):
        return self[name]


class Settings(dict):
    """QSettings kept in memory, so that tests leave nothing behind."""

    def value(self, key, default=None):
        return self.get(key, default)

    def setValue(self, key, value):
        self[key] = value

    def contains(self, key):
        return key in self


class ModuleManager:
    def connect(self, signal, slot):
        return True

    def disconnect(self, signal, slot):
        return True

    def module(self, name):
        return getattr(slicer.modules, name.lower(), None)


class ModuleWidget(qmrmlwidgets.qMRMLWidget):
    """qSlicerScriptedLoadableModuleWidget: the frame a scripted module's widget fills."""

    def attach(self, module):
        self._module, self._entered = module, False
        return self

    def setup(self):
        source = importlib.import_module(self._module.name)
        widget = getattr(source, self._module.name + "Widget")(self)
        setattr(slicer.modules, self._module.name + "Widget", widget)
        self._self = widget
        widget.setup()

    def self(self):
        return self._self

    def reload(self):
        """As in Slicer, the new widget of an open module is not entered: that is left to its own setup()."""
        self.setup()

    @property
    def isEntered(self):
        return self._entered

    def enter(self):
        self._entered = True
        self._self.enter()

    def exit(self):
        self._entered = False
        self._self.exit()


class Module:
    """qSlicerScriptedLoadableModule: metadata filled in by the module class, and its one widget."""

    def __init__(self, name, path):
        self.name, self.path, self.icon, self._widget = name, path, None, None

    def widgetRepresentation(self):
        if self._widget is None:
            import qt
            self._widget = ModuleWidget()
            self._widget.attach(self)
            self._widget.setLayout(qt.QVBoxLayout())
            self._widget.setMRMLScene(slicer.mrmlScene)
            self._widget.setup()
        return self._widget


class CoreModule:
    """A C++ module of which only the logic is asked for."""

    def __init__(self, logic):
        self._logic = logic

    def logic(self):
        return self._logic


class Application:
    majorVersion, minorVersion = 5, 13

    def __init__(self, applicationLogic, layoutManager):
        self._applicationLogic, self._layoutManager = applicationLogic, layoutManager
        self._moduleManager, self._settings = ModuleManager(), Settings()
        self.temporaryPath = tempfile.mkdtemp(prefix="synthmorph-host-")
        self.startupCallbacks = []

    def applicationLogic(self):
        return self._applicationLogic

    def layoutManager(self):
        return self._layoutManager

    def moduleManager(self):
        return self._moduleManager

    def userSettings(self):
        return self._settings

    settings = userSettings

    def extensionsManagerModel(self):
        return None

    def startupEnvironment(self):
        return Environment(os.environ)

    def clipboard(self):
        from PySide6 import QtGui
        return QtGui.QGuiApplication.clipboard()

    def topLevelWidgets(self):
        """None: a main window would be among them."""
        return ()

    def testingEnabled(self):
        return True

    def commandOptions(self):
        return types.SimpleNamespace(noMainWindow=True)

    def connect(self, signal, slot):
        if signal == "startupCompleted()":
            self.startupCallbacks.append(slot)
        return True

    def disconnect(self, signal, slot):
        return True

    def processEvents(self, *args):
        from PySide6 import QtCore
        QtCore.QCoreApplication.processEvents()

    def pauseRender(self):
        pass

    def resumeRender(self):
        pass

    def setOverrideCursor(self, cursor):
        pass

    def restoreOverrideCursor(self):
        pass


class Host:
    """The running host: load modules, let time pass, tear down."""

    def __init__(self):
        self.qt = pythonqt.install()
        ctkwidgets.install()
        qmrmlwidgets.install()
        parameternode.install()
        scriptedmodule.install()
        scene = slicer.vtkMRMLScene()
        slicer.mrmlScene = scene
        applicationLogic = slicer.vtkMRMLApplicationLogic()
        applicationLogic.SetMRMLScene(scene)
        applicationLogic.SetSliceLogics(vtk.vtkCollection())
        self._addCoreModules(scene, applicationLogic)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetSingletonTag("default")
        scene.AddNode(crosshair)
        scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, self._nodeAdded)
        layoutManager = views.LayoutManager(applicationLogic, scene)
        slicer.app = Application(applicationLogic, layoutManager)
        slicer.qSlicerScriptedLoadableModule, slicer.qSlicerScriptedLoadableModuleWidget = Module, ModuleWidget

    def _addCoreModules(self, scene, applicationLogic):
        slicer.modules = types.SimpleNamespace()
        self._logics = []
        for name, logicName in (("colors", "vtkSlicerColorLogic"), ("volumes", "vtkSlicerVolumesLogic"),
                                ("transforms", "vtkSlicerTransformLogic"),
                                ("segmentations", "vtkSlicerSegmentationsModuleLogic"),
                                ("markups", "vtkSlicerMarkupsLogic"), ("models", "vtkSlicerModelsLogic")):
            logic = getattr(slicer, logicName)()
            if hasattr(logic, "SetMRMLApplicationLogic"):
                logic.SetMRMLApplicationLogic(applicationLogic)
            logic.SetMRMLScene(scene)
            applicationLogic.SetModuleLogic(name.capitalize(), logic)
            setattr(slicer.modules, name, CoreModule(logic))
            self._logics.append(logic)
        colorLogic = slicer.modules.colors.logic()
        colorLogic.AddDefaultColorNodes()
        applicationLogic.SetColorLogic(colorLogic)

    def _nodeAdded(self, scene, event):
        """Subject hierarchy items; in Slicer its plugins make them when a data node is added."""
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        for node in slicer.util.getNodesByClass("vtkMRMLDisplayableNode"):
            if not node.GetHideFromEditors() and not hierarchy.GetItemByDataNode(node):
                hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    def loadModule(self, path):
        """Import a scripted module from its file and register it as Slicer does; returns the module."""
        directory, name = os.path.dirname(path), os.path.splitext(os.path.basename(path))[0]
        if directory not in sys.path:
            sys.path.insert(0, directory)
        module = Module(name, path)
        source = importlib.import_module(name)
        setattr(slicer.modules, name.lower(), module)
        module.instance = getattr(source, name)(module)
        for callback in slicer.app.startupCallbacks:
            callback()
        return module

    def wait(self, condition, seconds=30.0):
        """Run the event loop until the condition holds; True if it did in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            slicer.app.processEvents()
            if condition():
                return True
            time.sleep(0.005)
        return bool(condition())

    def close(self):
        slicer.app.layoutManager().close()
        shutil.rmtree(slicer.app.temporaryPath, ignore_errors=True)


def start():
    return Host()

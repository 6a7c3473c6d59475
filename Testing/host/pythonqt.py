"""The accent of PythonQt on PySide6: what the module's code may assume of `import qt` inside Slicer.

PythonQt differs from PySide6 in a few habits that module code relies on: Qt properties are attributes
(``w.text``, ``w.enabled = False``), ``name`` is short for ``objectName``, signals can be named by a string
(``w.connect("clicked(bool)", f)``), and a misspelt attribute raises instead of being stored.  Every Qt class is
given those habits in a subclass of the same name; the widgets themselves stay PySide6's.
"""

import enum
import functools
import sys
import types

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

_MODULES = (QtWidgets, QtGui, QtCore)
_ALIASES = {"name": "objectName"}
widgetRegistry = {}  # class name -> class, for names in .ui files that Qt itself does not know (ctk, qMRML)


@functools.cache
def _metaProperty(cls, name):
    """The Qt meta-property of that name, or None; PythonQt looks for one before it looks for methods."""
    index = cls.staticMetaObject.indexOfProperty(_ALIASES.get(name, name))
    return cls.staticMetaObject.property(index) if index >= 0 else None


def _plain(value):
    """Enumerations as integers and string lists as tuples, the way PythonQt hands them out."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    return value


class Accent:
    """Attribute access as in PythonQt; mixed into every QObject class of the stand-in `qt` module."""

    def __getattribute__(self, name):
        if name in ("connect", "disconnect"):  # Qt's own static functions would be found first
            return functools.partial(_connect if name == "connect" else _disconnect, self)
        if not name.startswith("_"):
            metaProperty = _metaProperty(type(self), name)
            if metaProperty is not None:
                return _plain(metaProperty.read(self))
        return super().__getattribute__(name)

    def __setattr__(self, name, value):
        metaProperty = None if name.startswith("_") else _metaProperty(type(self), name)
        if metaProperty is None:
            if UiLoader.busy and not name.startswith("_"):
                return  # PySide hangs the children of a loaded .ui on its root, PythonQt does not
            if not name.startswith("_"):
                raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")
            super().__setattr__(name, value)
            return
        kind = metaProperty.metaType().name()
        if kind == "int" and isinstance(value, float):
            value = int(value)
        if kind == "QString" and not isinstance(value, str):
            raise AttributeError(f"property '{name}' of '{type(self).__name__}' takes a string, not {value!r}")
        if not metaProperty.write(self, value):
            raise AttributeError(f"property '{name}' of '{type(self).__name__}' cannot be set to {value!r}")

    def __bool__(self):
        return True

    def findChildren(self, kind=None, name=None):
        if isinstance(kind, str):
            kind, name = None, kind
        kind = getattr(kind, "_qtClass", kind) or QtCore.QObject
        found = QtCore.QObject.findChildren(self, kind)
        return tuple(child for child in found if name is None or child.objectName == name)

    def findChild(self, kind=None, name=None):
        return next(iter(self.findChildren(kind, name)), None)

    def className(self):
        return type(self).__name__

    def delete(self):
        self.deleteLater()


def _signal(sender, signature):
    """A signal by its exact signature; types of VTK are unknown to PySide, so those are not looked at."""
    if "vtk" not in signature and sender.staticMetaObject.indexOfSignal(signature) < 0:
        raise ValueError(f"{type(sender).__name__} has no signal {signature!r}")
    return getattr(sender, signature.partition("(")[0])


def _connect(sender, signal, slot):
    _signal(sender, signal).connect(slot)
    return True


def _disconnect(sender, signal, slot):
    _signal(sender, signal).disconnect(slot)
    return True


@functools.cache
def accented(qtClass):
    """The class of the same name that speaks with PythonQt's accent."""
    return type(qtClass.__name__, (Accent, qtClass), {"_qtClass": qtClass, "__module__": "qt"})


class UiLoader(QtUiTools.QUiLoader):
    """Loads .ui files into accented widgets, and custom widgets from the registry."""

    busy = False

    def load(self, *arguments):
        UiLoader.busy = True
        try:
            return super().load(*arguments)
        finally:
            UiLoader.busy = False

    def createWidget(self, className, parent=None, name=""):
        widgetClass = widgetRegistry.get(className)
        if widgetClass is None:
            qtClass = getattr(QtWidgets, className, None)
            if qtClass is None:
                raise RuntimeError(f"the .ui file names a widget this host does not know: {className}")
            widgetClass = accented(qtClass)
        widget = widgetClass(parent)
        QtCore.QObject.setObjectName(widget, name)
        return widget


class QtModule(types.ModuleType):
    """`import qt`: every Qt class and namespace under one roof, classes accented on first use."""

    def __getattr__(self, name):
        if name == "QUiLoader":
            return UiLoader
        for module in _MODULES:
            value = getattr(module, name, None)
            if value is None:
                continue
            if isinstance(value, type) and issubclass(value, QtCore.QObject) and value not in (
                    QtWidgets.QApplication, QtCore.QCoreApplication, QtGui.QGuiApplication):
                value = accented(value)
            setattr(self, name, value)
            return value
        raise AttributeError(f"module 'qt' has no attribute '{name}'")


def install():
    """Make `import qt` work and create the application object; returns the module."""
    if "qt" not in sys.modules:
        if QtWidgets.QApplication.instance() is None:
            QtWidgets.QApplication(["SynthMorphSlicer test host"])
        sys.modules["qt"] = QtModule("qt")
    return sys.modules["qt"]

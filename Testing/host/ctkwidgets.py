"""Stand-ins for the CTK widgets that the module's .ui names, with CTK's property and signal names.

Drawn with plain Qt widgets: behaviour is CTK's as far as the module uses it, looks are close, not equal.
"""

import re
import sys
import types

import pythonqt
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal


def _store(name):
    """A property setter that keeps the value under a private name."""
    return lambda self, value: setattr(self, name, value)


class ctkCollapsibleButton(pythonqt.Accent, QtWidgets.QWidget):
    """A header button that folds its content away; children are laid out below the header."""

    contentsCollapsed = Signal(bool)
    clicked = Signal(bool)
    HEADER = 24

    def __init__(self, parent=None):
        if isinstance(parent, str):
            raise ValueError("ctkCollapsibleButton takes no text: construct it, then set .text")
        super().__init__(parent)
        self._collapsed = False
        self._header = QtWidgets.QPushButton("", self)
        self._header.setObjectName("")
        self._header.setStyleSheet("text-align: left; padding: 2px 6px; font-weight: 600;")
        self._header.clicked.connect(self._toggle)
        self._text = ""

    def _toggle(self):
        self._setCollapsed(not self._collapsed)
        self.clicked.emit(self._collapsed)

    def click(self):
        self._toggle()

    def _setCollapsed(self, collapsed):
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self._showChildren()
        self.contentsCollapsed.emit(collapsed)

    def _showChildren(self):
        for child in QtCore.QObject.children(self):
            if isinstance(child, QtWidgets.QWidget) and child is not self._header:
                child.setVisible(not self._collapsed)
        self._header.setText(("▸  " if self._collapsed else "▾  ") + self._text)
        self.setMaximumHeight(self.HEADER if self._collapsed else 16777215)
        self.updateGeometry()

    def _setText(self, text):
        self._text = text
        self._showChildren()

    def resizeEvent(self, event):
        self._header.setGeometry(0, 0, event.size().width(), self.HEADER)

    def event(self, event):
        if event.type() == QtCore.QEvent.LayoutRequest or event.type() == QtCore.QEvent.Show:
            layout = self.layout()
            if layout is not None:
                margins = layout.contentsMargins()
                layout.setContentsMargins(margins.left(), self.HEADER + 4, margins.right(), margins.bottom())
            if self._collapsed:
                self._showChildren()
        return super().event(event)

    text = Property(str, lambda self: self._text, _setText)
    collapsed = Property(bool, lambda self: self._collapsed, _setCollapsed)
    checked = Property(bool, lambda self: not self._collapsed, lambda self, on: self._setCollapsed(not on))


class ctkSliderWidget(pythonqt.Accent, QtWidgets.QWidget):
    """A slider and a spin box that hold one number; ``tracking`` off reports only when the slider is released.

    Like CTK's it counts in steps, and does not round what comes of it: seven times 0.05 is 0.35000000000000003.
    """

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    STEPS = 1000

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal, self)
        self._slider.setRange(0, self.STEPS)
        self._spinBox = QtWidgets.QDoubleSpinBox(self)
        layout.addWidget(self._slider)
        layout.addWidget(self._spinBox)
        self._tracking = True
        self._number = 0.0
        self._slider.valueChanged.connect(self._sliderMoved)
        self._slider.sliderReleased.connect(lambda: self._setValue(self._fromSlider()))
        self._spinBox.valueChanged.connect(self._setValue)

    def _fromSlider(self):
        low, high = self._spinBox.minimum(), self._spinBox.maximum()
        return self._inSteps(low + (high - low) * self._slider.value() / self.STEPS)

    def _inSteps(self, value):
        step = self._spinBox.singleStep()
        return min(max(step * round(value / step), self._spinBox.minimum()), self._spinBox.maximum())

    def _sliderMoved(self):
        value = self._fromSlider()
        self.valueIsChanging.emit(value)
        if self._tracking or not self._slider.isSliderDown():
            self._setValue(value)

    def _setValue(self, value):
        value = round(min(max(value, self._spinBox.minimum()), self._spinBox.maximum()), self._spinBox.decimals())
        low, high = self._spinBox.minimum(), self._spinBox.maximum()
        for widget, number in ((self._spinBox, value),
                               (self._slider, round((value - low) / max(high - low, 1e-9) * self.STEPS))):
            widget.blockSignals(True)
            widget.setValue(number)
            widget.blockSignals(False)
        if abs(value - self._inSteps(value)) < 1e-9:
            value = self._inSteps(value)
        if value != self._number:
            self._number = value
            self.valueChanged.emit(value)

    def _setRange(self, low, high):
        self._spinBox.setRange(low, high)
        self._setValue(self._number)

    value = Property(float, lambda self: self._number, _setValue)
    minimum = Property(float, lambda self: self._spinBox.minimum(),
                       lambda self, low: self._setRange(low, self._spinBox.maximum()))
    maximum = Property(float, lambda self: self._spinBox.maximum(),
                       lambda self, high: self._setRange(self._spinBox.minimum(), high))
    singleStep = Property(float, lambda self: self._spinBox.singleStep(),
                          lambda self, step: self._spinBox.setSingleStep(step))
    pageStep = Property(float, lambda self: self._slider.pageStep() / self.STEPS,
                        lambda self, step: self._slider.setPageStep(int(step * self.STEPS)))
    decimals = Property(int, lambda self: self._spinBox.decimals(), lambda self, n: self._spinBox.setDecimals(n))
    tracking = Property(bool, lambda self: self._tracking, _store("_tracking"))


class ctkPathLineEdit(pythonqt.Accent, QtWidgets.QWidget):
    """A path with a browse button (which the host leaves without a dialog).

    Speaks of a path only if the name filters accept it, and never of an empty one, as CTK does.  Has no ``Files`` and
    ``Dirs``, as with some builds on Qt 6: such filters belong into the .ui file, where the host does not look at them.
    """

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._edit = QtWidgets.QLineEdit(self)
        self._edit.textChanged.connect(self._textChanged)
        layout.addWidget(self._edit)
        layout.addWidget(QtWidgets.QToolButton(self, text="…"))
        self._filters = 0
        self._nameFilters = []
        self._isValid = False
        self._settingKey = ""

    def _isAcceptable(self, text):
        """CTK's rule: one word after "*." of every filter counts, and its last letter may be missing."""
        words = [match[1] for names in self._nameFilters for name in re.sub(r".*\((.*)\)$", r"\1", names).split()
                 if (match := re.search(r"\*\.(\w+)", name))]
        return re.fullmatch("|".join(rf".*\.{word}?" for word in words) or ".+", text) is not None

    def _textChanged(self, text):
        wasValid, self._isValid = self._isValid, self._isAcceptable(text)
        if self._isValid:
            self.currentPathChanged.emit(text)
        if self._isValid != wasValid:
            self.validInputChanged.emit(self._isValid)

    currentPath = Property(str, lambda self: self._edit.text(), lambda self, path: self._edit.setText(path))
    filters = Property(int, lambda self: self._filters, _store("_filters"))
    nameFilters = Property("QStringList", lambda self: self._nameFilters, _store("_nameFilters"))
    settingKey = Property(str, lambda self: self._settingKey, _store("_settingKey"))


def install():
    """Make `import ctk` work and let .ui files name these widgets."""
    import qt
    module = types.ModuleType("ctk")
    for cls in (ctkCollapsibleButton, ctkSliderWidget, ctkPathLineEdit):
        setattr(module, cls.__name__, cls)
        pythonqt.widgetRegistry[cls.__name__] = cls
    module.ctkMessageBox = qt.QMessageBox
    sys.modules["ctk"] = module
    return module

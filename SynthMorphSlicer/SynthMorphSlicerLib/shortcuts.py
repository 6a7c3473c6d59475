"""One key for each way of looking at a result, while the module is the current one."""

import qt
import slicer
from slicer.i18n import tr as _

KEYS = {"before": "Shift+B", "overlay": "Shift+A", "swap": "Shift+X", "flicker": "Shift+F", "checkerboard": "Shift+C",
        "curtain": "Shift+U", "difference": "Shift+D", "edges": "Shift+E", "jacobian": "Shift+J",
        "magnitude": "Shift+M", "grid": "Shift+W", "arrows": "Shift+R", "surfaces": "Shift+T", "sideBySide": "Shift+S",
        "nextSpot": "Shift+N", "previousSpot": "Shift+P", "nextKept": "Shift+K"}


class Shortcuts:
    """Clicks buttons by keys; a disabled button does not answer."""

    def __init__(self, ui):
        self.ui = ui
        self._installed = []

    def enter(self):
        """Listen to the keys."""
        self.exit()
        parent = slicer.util.mainWindow() or self.ui.reviewCollapsibleButton.window()
        for name, key in KEYS.items():
            shortcut = qt.QShortcut(parent)
            shortcut.setKey(qt.QKeySequence(key))
            shortcut.setContext(qt.Qt.ApplicationShortcut)  # views may lie in windows of their own
            shortcut.connect("activated()", getattr(self.ui, f"{name}Button").click)
            self._installed.append(shortcut)

    def exit(self):
        """Give the keys back."""
        for shortcut in self._installed:
            shortcut.setEnabled(False)  # at once; it goes when the event loop runs again
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._installed = []


def withKey(name, toolTip):
    """A tool tip with the key of its button."""
    return _("{toolTip} (key: {key})").format(toolTip=toolTip, key=KEYS[name]) if name in KEYS else toolTip

"""Stand-ins for Slicer's MRML widgets that the module's .ui names: node selectors and the MRML container.

The node lists come from the real scene through the real scene events.
"""

import pythonqt
import slicer
import vtk
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal, Slot

_ROLE = QtCore.Qt.UserRole


def _flag(name):
    """A stored boolean property whose change rebuilds the list."""
    def write(self, value):
        setattr(self, "_" + name, value)
        self._rebuild()
    return Property(bool, lambda self: getattr(self, "_" + name), write)


class qMRMLNodeComboBox(pythonqt.Accent, QtWidgets.QWidget):
    """Lists the scene's nodes of some classes, with optional None and Create entries."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAddedByUserAction = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        for name, value in (("noneEnabled", False), ("addEnabled", True), ("removeEnabled", True),
                            ("renameEnabled", False), ("editEnabled", False), ("showHidden", False),
                            ("showChildNodeTypes", True), ("selectNodeUponCreation", True)):
            setattr(self, "_" + name, value)
        self._nodeTypes, self._noneDisplay, self._baseName, self._scene, self._tags = [], "None", "", None, []
        self._currentID = ""
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._box = QtWidgets.QComboBox(self)
        self._box.setMinimumContentsLength(8)
        self._box.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self._box.activated.connect(self._activated)
        layout.addWidget(self._box)
        self.setEnabled(False)

    @Slot("vtkMRMLScene*")
    def setMRMLScene(self, scene):
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene = scene
        self._tags = []
        if scene is not None:
            for event in (slicer.vtkMRMLScene.NodeAddedEvent, slicer.vtkMRMLScene.NodeRemovedEvent,
                          slicer.vtkMRMLScene.EndCloseEvent, slicer.vtkMRMLScene.EndImportEvent):
                self._tags.append(scene.AddObserver(event, lambda *_: self._rebuild()))
            self._tags.append(scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._onRemoval, -10.0))
        self.setEnabled(scene is not None)
        self._rebuild()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onRemoval(self, scene, event, node):
        """The node that moves up to the place of the current one is the next current one, as in Slicer."""
        if node.GetID() == self._currentID and not scene.IsBatchProcessing():
            identifiers = [other.GetID() for other in self.nodes()]
            self._setCurrentID(next(iter(identifiers[identifiers.index(self._currentID) + 1:]), ""))

    def mrmlScene(self):
        return self._scene

    def nodes(self):
        if self._scene is None:
            return ()
        found = {}
        for className in self._nodeTypes:
            for node in slicer.util.getNodesByClass(className, self._scene):
                exact = self._showChildNodeTypes or node.GetClassName() == className
                if exact and (self._showHidden or not node.GetHideFromEditors()):
                    found[node.GetID()] = node
        return tuple(found.values())

    def nodeCount(self):
        return len(self.nodes())

    def currentNode(self):
        return self._scene.GetNodeByID(self._currentID) if self._scene is not None and self._currentID else None

    def setCurrentNode(self, node):
        self._setCurrentID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, nodeID):
        self._setCurrentID(nodeID)

    def addNode(self, className=None):
        className = className or self._nodeTypes[0]
        node = self._scene.AddNewNodeByClass(className, self._baseName)
        if self._selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUserAction.emit(node)
        return node

    def _setCurrentID(self, nodeID):
        known = {node.GetID() for node in self.nodes()}
        nodeID = nodeID if nodeID in known else ""
        if not nodeID and not self._noneEnabled and known:
            nodeID = self._currentID if self._currentID in known else ""
        changed = nodeID != self._currentID
        self._currentID = nodeID
        self._box.setCurrentIndex(max(self._box.findData(nodeID, _ROLE), -1))
        if changed:
            self.currentNodeIDChanged.emit(nodeID)
            self.currentNodeChanged.emit(self.currentNode())

    def _rebuild(self):
        if self._scene is not None and self._scene.IsBatchProcessing():
            return
        self._box.blockSignals(True)
        self._box.clear()
        if self._noneEnabled:
            self._box.addItem(self._noneDisplay, "")
        for node in self.nodes():
            self._box.addItem(node.GetName(), node.GetID())
        if self._addEnabled and self._nodeTypes:
            self._box.addItem(f"Create new {self._nodeTypes[0].replace('vtkMRML', '').replace('Node', '')}", "+")
        self._box.blockSignals(False)
        self._setCurrentID(self._currentID)

    def _activated(self, index):
        data = self._box.itemData(index)
        if data == "+":
            self.addNode()
        else:
            self._setCurrentID(data or "")

    def _setNodeTypes(self, nodeTypes):
        self._nodeTypes = list(nodeTypes)
        self._rebuild()

    def _setNoneDisplay(self, text):
        self._noneDisplay = text
        self._rebuild()

    def _setBaseName(self, text):
        self._baseName = text

    nodeTypes = Property("QStringList", lambda self: self._nodeTypes, _setNodeTypes)
    currentNodeID = Property(str, lambda self: self._currentID, _setCurrentID)
    noneDisplay = Property(str, lambda self: self._noneDisplay, _setNoneDisplay)
    baseName = Property(str, lambda self: self._baseName, _setBaseName)
    noneEnabled, addEnabled, removeEnabled = _flag("noneEnabled"), _flag("addEnabled"), _flag("removeEnabled")
    renameEnabled, editEnabled, showHidden = _flag("renameEnabled"), _flag("editEnabled"), _flag("showHidden")
    showChildNodeTypes = _flag("showChildNodeTypes")
    selectNodeUponCreation = _flag("selectNodeUponCreation")


class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """Lists nodes with a check mark each."""

    checkedNodesChanged = Signal()

    def __init__(self, parent=None):
        self._checked = {}
        super().__init__(parent)
        self._box.model().itemChanged.connect(self._itemChanged)

    def checkState(self, node):
        return QtCore.Qt.Checked if node is not None and node.GetID() in self._checked else QtCore.Qt.Unchecked

    def setCheckState(self, node, state):
        if self.checkState(node) == QtCore.Qt.CheckState(state):
            return
        if QtCore.Qt.CheckState(state) == QtCore.Qt.Checked:
            self._checked[node.GetID()] = True
        else:
            self._checked.pop(node.GetID(), None)
        self._rebuild()
        self.checkedNodesChanged.emit()

    def check(self, node):
        self.setCheckState(node, QtCore.Qt.Checked)

    def uncheck(self, node):
        self.setCheckState(node, QtCore.Qt.Unchecked)

    def checkedNodes(self):
        return tuple(node for node in self.nodes() if node.GetID() in self._checked)

    def noneChecked(self):
        return not self.checkedNodes()

    def _rebuild(self):
        super()._rebuild()
        known = {node.GetID() for node in self.nodes()}  # the check mark of a node goes with it
        self._checked = {identifier: True for identifier in self._checked if identifier in known}
        self._box.model().blockSignals(True)
        for index in range(self._box.count()):
            item = self._box.model().item(index)
            item.setCheckable(True)
            item.setCheckState(QtCore.Qt.Checked if item.data(_ROLE) in self._checked else QtCore.Qt.Unchecked)
        self._box.model().blockSignals(False)
        names = [node.GetName() for node in self.checkedNodes()]
        self._box.setPlaceholderText(", ".join(names) or "None")
        self._box.setCurrentIndex(-1)

    def _itemChanged(self, item):
        node = self._scene.GetNodeByID(item.data(_ROLE))
        if node is not None:
            self.setCheckState(node, item.checkState())


class qMRMLWidget(pythonqt.Accent, QtWidgets.QWidget):
    """The container that hands the scene to the widgets inside it.

    In Slicer the .ui file's connections pass the scene on; Qt's loader cannot connect Python signals with MRML
    arguments, so the host passes it on itself, to the widgets the .ui file names.
    """

    mrmlSceneChanged = Signal("vtkMRMLScene*")  # so that the .ui file's connections find it

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        self._scene = scene
        for child in self.findChildren(qMRMLNodeComboBox):
            child.setMRMLScene(scene)


def install():
    """Hang the widgets on `slicer` as Slicer does, and let .ui files name them."""
    for cls in (qMRMLNodeComboBox, qMRMLCheckableNodeComboBox, qMRMLWidget):
        setattr(slicer, cls.__name__, cls)
        pythonqt.widgetRegistry[cls.__name__] = cls
    slicer.qSlicerWidget = qMRMLWidget

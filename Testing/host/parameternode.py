"""The part of slicer.parameterNodeWrapper that the module uses.

Typed members with defaults, ranges, choices, enumerations, node references and lists of node references, kept in a
real vtkMRMLScriptedModuleNode under the names and in the text forms Slicer uses, so a scene written here opens
there; and ``connectGui``, which refuses widgets by exact type as Slicer does.
"""

import enum
import sys
import types
import typing

import slicer
import vtk


class WithinRange:
    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within the range [{self.minimum}, {self.maximum}], not {value}")


class Choice:
    def __init__(self, choices):
        self.choices = choices

    def validate(self, value):
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, not {value!r}")


class ObservedList(list):
    """What Slicer hands out for a list: a change of it is written to the node (not here), and it cannot be added."""

    def __add__(self, other):
        raise NotImplementedError("Slicer's lists of parameters cannot be added")

    __radd__ = __mul__ = __rmul__ = __add__


class Parameter:
    """One typed member: how it is written to and read from the MRML node."""

    def __init__(self, name, hint, default):
        self.name, self.hint = name, hint
        self.type = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        self.annotations = [item for item in getattr(hint, "__metadata__", ()) if hasattr(item, "validate")]
        self.isNode = isinstance(self.type, type) and issubclass(self.type, slicer.vtkMRMLNode)
        self.isNodeList = typing.get_origin(self.type) is list
        self.default = default if default is not None or self.isNode else ([] if self.isNodeList else self.type())

    def read(self, node):
        text = node.GetParameter(self.name)
        if self.isNode:
            return node.GetNodeReference(self.name)
        if self.isNodeList:
            count = int(node.GetParameter(f"{self.name}_len") or 0)
            return ObservedList(node.GetNodeReference(f"{self.name}_{index}") for index in range(count))
        if issubclass(self.type, enum.Enum):
            return self.type[text]
        return text == "True" if self.type is bool else self.type(text)

    def write(self, node, value):
        for annotation in self.annotations:
            annotation.validate(value)
        if self.isNode:
            if value is not None and not isinstance(value, self.type):
                raise TypeError(f"{self.name} takes a {self.type.__name__}, not {value!r}")
            node.SetParameter(self.name, "")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        elif self.isNodeList:
            for index, item in enumerate(value):
                node.SetParameter(f"{self.name}_{index}", "")
                node.SetNodeReferenceID(f"{self.name}_{index}", item.GetID())
            node.SetParameter(f"{self.name}_len", str(len(value)))
        else:
            accepted = (int, float) if self.type is float else self.type
            if not isinstance(value, accepted) or (self.type is not bool and isinstance(value, bool)):
                raise TypeError(f"{self.name} takes {self.type}, not {value!r}")
            node.SetParameter(self.name, value.name if isinstance(value, enum.Enum) else str(value))

    def isIn(self, node):
        return node.HasParameter(f"{self.name}_len" if self.isNodeList else self.name)


class _Wrapper:
    """What the decorator adds to a class of typed members."""

    def __init__(self, parameterNode):
        self.parameterNode = parameterNode
        self._guis = {}
        self._nextTag = 0
        self._updating = False
        for parameter in self.allParameters.values():
            if not parameter.isIn(parameterNode):
                parameter.write(parameterNode, parameter.default)

    def getValue(self, name):
        return self.allParameters[name].read(self.parameterNode)

    def setValue(self, name, value):
        with slicer.util.NodeModify(self.parameterNode):
            self.allParameters[name].write(self.parameterNode, value)

    def connectGui(self, gui):
        widgets = {}
        for widget in vars(gui).values():
            name = widget.property("SlicerParameterName")
            if name:
                widgets[name] = widget
        connectors = {name: _connector(widget, self.allParameters[name]) for name, widget in widgets.items()}
        tag = self._nextTag
        self._nextTag += 1
        self._guis[tag] = connectors
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.start(lambda name=name, connector=connector: self._fromGui(name, connector))
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._toGui())
        self._guis[tag]["observer"] = observer
        return tag

    def disconnectGui(self, tag):
        connectors = self._guis.pop(tag, {})
        if connectors:
            self.RemoveObserver(connectors.pop("observer"))
        for connector in connectors.values():
            connector.stop()

    def _fromGui(self, name, connector):
        if not self._updating:
            self.setValue(name, connector.read())

    def _toGui(self):
        if self._updating:
            return
        self._updating = True
        try:
            for connectors in self._guis.values():
                for name, connector in connectors.items():
                    if name != "observer":
                        connector.write(self.getValue(name))
        finally:
            self._updating = False

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        self.parameterNode.RemoveObserver(tag)

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified):
        self.parameterNode.EndModify(wasModified)


class _Connector:
    """Binds one widget's value; ``attribute`` is a Qt property, ``signal`` announces its change."""

    def __init__(self, widget, signal, attribute):
        self.widget, self.signal, self.attribute, self.slot = widget, getattr(widget, signal), attribute, None

    def start(self, callback):
        self.slot = lambda *_: callback()
        self.signal.connect(self.slot)

    def stop(self):
        self.signal.disconnect(self.slot)

    def read(self):
        return getattr(self.widget, self.attribute)

    def write(self, value):
        setattr(self.widget, self.attribute, value)


class _ComboConnector(_Connector):
    def __init__(self, widget, choices):
        super().__init__(widget, "currentIndexChanged", "currentIndex")
        self.choices = list(choices)
        widget.clear()
        for choice in self.choices:
            widget.addItem(choice.label() if hasattr(choice, "label") else str(getattr(choice, "name", choice)))

    def read(self):
        return self.choices[self.widget.currentIndex]

    def write(self, value):
        self.widget.currentIndex = self.choices.index(value)


class _NodeConnector(_Connector):
    def __init__(self, widget, nodeType):
        super().__init__(widget, "currentNodeChanged", None)
        widget.nodeTypes = [nodeType.__name__]

    def read(self):
        return self.widget.currentNode()

    def write(self, value):
        self.widget.setCurrentNode(value)


def _connector(widget, parameter):
    import ctk
    import qt
    kind, exact = parameter.type, type(widget)
    bounds = next((item for item in parameter.annotations if isinstance(item, WithinRange)), None)
    choice = next((item for item in parameter.annotations if isinstance(item, Choice)), None)
    if parameter.isNode and exact is slicer.qMRMLNodeComboBox:
        return _NodeConnector(widget, kind)
    if kind is bool and exact is qt.QCheckBox:
        return _Connector(widget, "stateChanged", "checked")
    if kind is bool and exact is qt.QPushButton:
        return _Connector(widget, "toggled", "checked")
    if exact is qt.QComboBox and isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _ComboConnector(widget, kind)
    if exact is qt.QComboBox and choice:
        return _ComboConnector(widget, choice.choices)
    if (kind is int and exact is qt.QSpinBox) or (kind is float and exact in (qt.QDoubleSpinBox, ctk.ctkSliderWidget)):
        if bounds:
            widget.minimum, widget.maximum = bounds.minimum, bounds.maximum
        elif exact is ctk.ctkSliderWidget:
            raise RuntimeError("a ctkSliderWidget needs a bounded parameter")
        return _Connector(widget, "valueChanged", "value")
    if kind is str and exact is qt.QLineEdit:
        return _Connector(widget, "textChanged", "text")
    raise RuntimeError(f"no GUI connector from '{parameter.hint}' to widget type '{exact}'")


def parameterNodeWrapper(cls):
    members = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: Parameter(name, hint, getattr(cls, name, None)) for name, hint in members.items()}
    properties = {name: property(lambda self, name=name: self.getValue(name),
                                 lambda self, value, name=name: self.setValue(name, value)) for name in parameters}
    namespace = {"__doc__": cls.__doc__, "__module__": cls.__module__, "allParameters": parameters, **properties}
    return type(cls.__name__, (_Wrapper,), namespace)


def install():
    """Make `from slicer.parameterNodeWrapper import ...` work."""
    module = types.ModuleType("slicer.parameterNodeWrapper")
    for item in (parameterNodeWrapper, WithinRange, Choice):
        setattr(module, item.__name__, item)
    sys.modules["slicer.parameterNodeWrapper"] = module
    slicer.parameterNodeWrapper = module

"""Fixed above, moved below: Slicer's own layout of three over three slice views, at the same places and zoom.

The layout and the zoom of before come back by :meth:`SideBySide.hide`.  Without a main window there is no layout to
change, and nothing happens.
"""

import slicer
import vtk

PAIRS = (("Red", "Red+"), ("Green", "Green+"), ("Yellow", "Yellow+"))  # above and below, by layout name
LOWER = tuple(lower for _upper, lower in PAIRS)


class SideBySide:
    """Switches the layout, and remembers what it was."""

    def __init__(self):
        self._layout = None  # arrangement of before
        self._places = {}  # layout name of a slice view -> its place and zoom of before
        self._groups = {}

    def isOn(self):
        """True while the two rows are shown."""
        node = _layoutNode()
        return self._layout is not None and node is not None and node.GetViewArrangement() == _arrangement(node)

    def show(self):
        """Change the layout; the rows then move together."""
        node = _layoutNode()
        if node is None or self.isOn():
            return
        self._layout = node.GetViewArrangement()
        self._places = {name: _place(_sliceNode(name)) for name, _lower in PAIRS if _sliceNode(name) is not None}
        node.SetViewArrangement(_arrangement(node))
        for upper, lower in PAIRS:
            if _sliceNode(lower) is not None and _sliceNode(upper) is not None:
                # the rows are in groups of their own, and only views of one group are linked
                self._groups[lower] = _sliceNode(lower).GetViewGroup()
                _sliceNode(lower).SetViewGroup(_sliceNode(upper).GetViewGroup())
        self.match()

    def match(self):
        """Let the lower views look where the upper ones do; call it again when the views have got their size."""
        for upper, lower in PAIRS:
            if _sliceNode(upper) is not None and _sliceNode(lower) is not None:
                _setPlace(_sliceNode(lower), _place(_sliceNode(upper)))

    def hide(self):
        """Bring the former layout and zoom back, unless the user has meanwhile chosen another layout."""
        if self.isOn():
            _layoutNode().SetViewArrangement(self._layout)
        for name, group in self._groups.items():
            if _sliceNode(name) is not None:
                _sliceNode(name).SetViewGroup(group)
        self._layout, self._groups = None, {}
        self.restorePlaces()

    def restorePlaces(self):
        """The zoom of before; call it again when the views have got their size."""
        for name, place in self._places.items():
            if _sliceNode(name) is not None:
                _setZoom(_sliceNode(name), place)


def _arrangement(layoutNode):
    return layoutNode.SlicerLayoutThreeOverThreeView


def _layoutNode():
    manager = slicer.app.layoutManager()
    return manager.layoutLogic().GetLayoutNode() if manager is not None else None


def _sliceNode(name):
    nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode")
    return next((node for node in nodes if node.GetLayoutName() == name), None)


def _place(sliceNode):
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(sliceNode.GetSliceToRAS())
    return matrix, list(sliceNode.GetXYZOrigin()), list(sliceNode.GetFieldOfView())


def _setPlace(sliceNode, place):
    matrix, _origin, _fieldOfView = place
    with slicer.util.NodeModify(sliceNode):
        sliceNode.GetSliceToRAS().DeepCopy(matrix)
        _setZoom(sliceNode, place)
        sliceNode.UpdateMatrices()


def _setZoom(sliceNode, place):
    """Zoom and pan; the height of a view is what zoom goes by, its width follows from its shape."""
    _matrix, origin, fieldOfView = place
    width, height = sliceNode.GetDimensions()[:2]
    with slicer.util.NodeModify(sliceNode):
        sliceNode.SetXYZOrigin(*origin)
        sliceNode.SetFieldOfView(fieldOfView[1] * width / max(height, 1), fieldOfView[1], sliceNode.GetFieldOfView()[2])

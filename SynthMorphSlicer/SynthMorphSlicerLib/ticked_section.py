"""The lists of the panel in which many nodes can be ticked, for which there is no ready-made connection."""

import slicer

TICKED = ("carriedLabels", "carriedPoints", "movingItems")  # parameters; their selectors are called after them


class TickedSection:
    """Brings check marks into the parameter node and back."""

    def __init__(self, ui, panel):
        self.selectors = {name: getattr(ui, f"{name}Selector") for name in TICKED}
        self.panel = panel
        self._updating = False
        for selector in self.selectors.values():
            selector.connect("checkedNodesChanged()", self._onTicked)

    def ticked(self, name):
        """Nodes of one of the lists that are still in the scene."""
        return [node for node in getattr(self.panel.parameters, name) if node is not None]

    def show(self):
        """Set the check marks of a parameter node that has just become the current one."""
        self._updating = True
        for name, selector in self.selectors.items():
            nodes = self.ticked(name)
            for node in list(selector.checkedNodes()):
                if node not in nodes:
                    selector.uncheck(node)
            for node in nodes:
                selector.check(node)
        self._updating = False

    def _onTicked(self):
        if self.panel.parameters is None or self._updating or slicer.mrmlScene.IsBatchProcessing():
            return
        for name, selector in self.selectors.items():
            setattr(self.panel.parameters, name, list(selector.checkedNodes()))

"""The section of the panel that moves many items by one transform."""

from slicer.i18n import tr as _

from . import environment, moving
from .job import InputError
from .parameters import Direction


class MovingSection:
    """Wires the widgets to a :class:`.moving.Mover`."""

    def __init__(self, ui, logic, panel):
        self.ui, self.logic, self.panel = ui, logic, panel
        self.mover = moving.Mover(logic)
        self.toolTip = ui.moveButton.toolTip
        ui.moveButton.connect("clicked(bool)", self.onMove)

    def update(self, parameters):
        """The button says what is missing."""
        if parameters is None:
            return
        problem = (_("Wait until the work under way is done.") if self.logic.isBusy() else
                   self.mover.problem(parameters.movingTransform, self.items(), self._isInverse(),
                                      parameters.movingReference))
        if not problem and not environment.isReady():
            problem = _("PyTorch is missing: install it in the Setup section.")
        self.ui.moveButton.enabled = not problem
        self.ui.moveButton.toolTip = problem or self.toolTip

    def items(self):
        """What is to be moved and is still in the scene."""
        return self.panel.ticked("movingItems")

    def _isInverse(self):
        return self.panel.parameters.movingDirection is Direction.INVERSE

    def onMove(self, checked=False):
        """Make the copies."""
        parameters, inverse = self.panel.parameters, self._isInverse()
        edited = self.mover.editedCopies(parameters.movingTransform, self.items(), inverse)
        replace = list(filter(self.panel.mayReplace, edited))
        self.panel.watch(_("Moving"))
        try:
            self.mover.move(parameters.movingTransform, self.items(), inverse, parameters.movingReference,
                            replace, blocking=False, onFinished=self._onMoved, onError=self.panel.showError,
                            onProgress=self.panel.showMessage)
        except InputError as error:
            self.panel.refuse(error)
        self.panel.updateButtons()

    def _onMoved(self, copies):
        self.panel.showStatus(_("Made {names}.").format(names=", ".join(f"'{copy.GetName()}'" for copy in copies)))

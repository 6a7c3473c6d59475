"""The section of the panel that loads FreeSurfer's transforms, which Slicer itself does not read."""

from slicer.i18n import tr as _

from .job import InputError
from .logic import FREESURFER_FILES


class ImportSection:
    """A path and a button."""

    def __init__(self, ui, logic, panel):
        self.ui, self.logic, self.panel = ui, logic, panel
        # CTK reads one word after "*." and would accept no file with two endings
        patterns = " ".join("*." + ending.rpartition(".")[2] for ending in FREESURFER_FILES)
        ui.transformPathLineEdit.nameFilters = [_("FreeSurfer transforms ({patterns})").format(patterns=patterns)]
        ui.transformPathLineEdit.connect("currentPathChanged(QString)", lambda path: self.update())
        ui.transformPathLineEdit.connect("validInputChanged(bool)", lambda isValid: self.update())
        ui.loadTransformButton.connect("clicked(bool)", self.onLoad)
        self.toolTip = ui.loadTransformButton.toolTip

    def update(self):
        """The button says what is missing."""
        button, path = self.ui.loadTransformButton, self.ui.transformPathLineEdit.currentPath
        problem = _("Choose a file first.") if not path else _("Wait until the work under way is done.") if (
            self.logic.isBusy()) else ""
        button.enabled = not problem
        button.toolTip = problem or self.toolTip

    def onLoad(self, checked=False):
        """Read the file into a new transform node."""
        try:
            self.logic.loadTransform(self.ui.transformPathLineEdit.currentPath, blocking=False,
                                     onFinished=self._loaded, onError=self.panel.showError)
        except InputError as error:
            self.panel.refuse(error)
            return
        self.panel.watch(_("Loading the transform"))

    def _loaded(self, node):
        self.panel.showStatus(_("Loaded '{name}': put the volume that was registered under it in the module "
                                "Transforms.").format(name=node.GetName()))

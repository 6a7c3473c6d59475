"""The Setup section of the panel: PyTorch, another Python, weights, memory.  Nothing happens unasked."""

import ctk
import slicer
from slicer.i18n import tr as _

from . import environment

ROLES = {"joint": ("affine", "deform"), "affine": ("affine",), "rigid": ("rigid",), "deform": ("deform",)}


class SetupSection:
    """What is there, what is missing, and the buttons that change it."""

    def __init__(self, ui, logic, panel):
        self.ui, self.logic, self.panel = ui, logic, panel
        self._updating = False
        ui.pythonPathLineEdit.filters = ctk.ctkPathLineEdit.Files
        ui.weightsPathLineEdit.filters = ctk.ctkPathLineEdit.Dirs
        ui.installButton.connect("clicked(bool)", self.onInstall)
        ui.fetchButton.connect("clicked(bool)", self.onFetch)
        ui.clearCacheButton.connect("clicked(bool)", self.onClearCache)
        ui.releaseButton.connect("clicked(bool)", self.onRelease)
        ui.pythonPathLineEdit.connect("currentPathChanged(QString)", self.onPython)
        ui.weightsPathLineEdit.connect("currentPathChanged(QString)", self.onWeightsFolder)
        ui.setupCollapsibleButton.connect("contentsCollapsed(bool)", self.onCollapsed)

    def refresh(self):
        """Say what is there; unfold the section if something is missing."""
        ui = self.ui
        ready = environment.isReady()
        self._updating = True
        ui.pythonPathLineEdit.currentPath = environment.otherPython()
        ui.weightsPathLineEdit.currentPath = environment.weightsFolder()
        self._updating = False
        ui.installButton.visible = not ready
        ui.fetchButton.enabled = ui.clearCacheButton.enabled = ready
        if not ready:
            ui.setupLabel.text = environment.installDescription()
            ui.setupCollapsibleButton.collapsed = False
        elif environment.otherPython():
            ui.setupLabel.text = _("Registrations run in {python}.").format(python=environment.otherPython())
        else:
            ui.setupLabel.text = _("PyTorch {version} is installed.").format(version=environment.torchVersion())
        catalogue = environment.catalogue()
        ui.weightsLabel.text = _("The compact model comes with this extension. The official weights (FreeSurfer's "
                                 "SynthMorph, {licence}) take {size:.1f} GB.").format(
            licence=catalogue["official_licence"], size=sum(e["bytes"] for e in catalogue["official"]) / 1e9)

    def onCollapsed(self, collapsed):
        """Look at the weights when the section is unfolded; that is the first time anyone wants to know."""
        if not collapsed and environment.isReady() and not self.logic.isBusy():
            self.logic.ask("weights", onResult=self._showWeights, onError=self.panel.showError, inquiry=True)

    def _showWeights(self, answer):
        states = {"absent": _("not here"), "incomplete": _("partly downloaded"), "present": _("downloaded"),
                  "verified": _("downloaded"), "corrupt": _("damaged")}
        lines = [_("{name}: {state}").format(name=model["name"], state=states[model["state"]])
                 for model in answer["models"]]
        lines.append(_("Cache folder: {folder}").format(folder=answer["folder"]))
        lines.append(answer["choice"])
        self.ui.weightsLabel.text = "\n".join(lines)

    def onInstall(self, checked=False):
        """Install what the text above the button says."""
        if slicer.util.confirmOkCancelDisplay(environment.installDescription(), _("Install PyTorch")):
            with slicer.util.WaitCursor():
                message = environment.installTorch()
            self.panel.showStatus(message)
            self.refresh()

    def onFetch(self, checked=False):
        """Download the official weights that the chosen transform type needs, after showing their licence."""
        roles = ROLES[self.panel.parameters.transformType.value]
        catalogue = environment.catalogue()
        entries = [entry for entry in catalogue["official"] if entry["role"] in roles]
        text = _("{attribution}\n\nLicence: {licence}\n\nDownload {files} ({size:.2f} GB)? The download can be "
                 "cancelled and continued later.").format(
            attribution=catalogue["official_attribution"], licence=catalogue["official_licence"],
            files=", ".join(entry["name"] for entry in entries), size=sum(e["bytes"] for e in entries) / 1e9)
        if environment.needsHdf5():
            text += "\n\n" + _("The small Python package h5py, which reads these files, is installed too.")
        if not slicer.util.confirmOkCancelDisplay(text, _("Official SynthMorph weights")):
            return
        if environment.needsHdf5():
            slicer.util.pip_install("h5py")
        self.logic.ask("fetch", onResult=self._fetched, onError=self.panel.showError,
                       onProgress=lambda m: self.panel.showProgress(m["stage"], m["fraction"], m["message"]),
                       roles=list(roles))
        self.panel.watch(_("Downloading"))

    def _fetched(self, answer):
        self._showWeights(answer)
        self.panel.showStatus(_("The official weights are ready."))

    def onClearCache(self, checked=False):
        """Delete downloaded weights and prepared networks, and the checksums noted beside them."""
        if slicer.util.confirmOkCancelDisplay(
                _("Delete downloaded weights and prepared networks from this computer?"), _("Clear cache")):
            self.logic.ask("clear", onResult=self._cleared, onError=self.panel.showError, inquiry=True)

    def _cleared(self, answer):
        self._showWeights(answer)
        self.panel.showStatus(_("{size:.2f} GB freed on the disk.").format(size=answer["freed"] / 1e9))

    def onRelease(self, checked=False):
        """End the worker; it starts again when it is needed."""
        self.logic.cancel()
        self.panel.showStatus(_("Memory released."))

    def onPython(self, path):
        """Another Python was chosen, or Slicer's own again."""
        if not self._updating:
            environment.setOtherPython(path)
            self._restart()

    def onWeightsFolder(self, path):
        """Another folder of weights was chosen."""
        if not self._updating:
            environment.setWeightsFolder(path)
            self._restart()

    def _restart(self):
        if not self.logic.isBusy():
            self.logic.cancel()
        self.refresh()
        self.panel.showStatus("")

"""The Setup section of the panel: PyTorch, another Python, weights, memory.  Nothing happens unasked."""

import qt
import slicer
from slicer.i18n import tr as _

from . import environment, installing

ROLES = {"joint": ("affine", "deform"), "affine": ("affine",), "rigid": ("rigid",), "deform": ("deform",)}
TYPING_MILLISECONDS = 600  # after the last keystroke a path counts as typed


class PathField:
    """A path that the user may change or empty; half-typed paths are not acted on."""

    def __init__(self, widget, onChanged):
        self._widget, self._onChanged, self._known = widget, onChanged, ""
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(TYPING_MILLISECONDS)
        self._timer.connect("timeout()", self._onPause)
        widget.connect("currentPathChanged(QString)", lambda path: self._timer.start())
        widget.connect("validInputChanged(bool)", lambda isValid: self._timer.start())  # all that is heard of emptying

    def show(self, path):
        """Show a path, unless the user is just typing one."""
        if self._timer.isActive():
            return
        self._known = path
        if self._widget.currentPath != path:  # the same text again would move the cursor
            self._widget.currentPath = path
            self._timer.stop()

    def close(self):
        """Forget what was just typed."""
        self._timer.stop()

    def _onPause(self):
        path = self._widget.currentPath
        if path != self._known:
            self._known = path
            self._onChanged(path)


class SetupSection:
    """What is there, what is missing, and the buttons that change it."""

    def __init__(self, ui, logic, panel):
        self.ui, self.logic, self.panel = ui, logic, panel
        self._installation = None
        self._ready = False
        self._outdated = False  # the worker does not know the Python or the weights that were chosen last
        ui.installButton.connect("clicked(bool)", self.onInstall)
        ui.fetchButton.connect("clicked(bool)", self.onFetch)
        ui.clearCacheButton.connect("clicked(bool)", self.onClearCache)
        ui.releaseButton.connect("clicked(bool)", self.onRelease)
        self._python = PathField(ui.pythonPathLineEdit, self.onPython)
        self._weightsFolder = PathField(ui.weightsPathLineEdit, self.onWeightsFolder)
        ui.setupCollapsibleButton.connect("contentsCollapsed(bool)", self.onCollapsed)

    def refresh(self):
        """Say what is there; unfold the section if something is missing."""
        ui = self.ui
        ready = environment.isReady()
        self._python.show(environment.otherPython())
        self._weightsFolder.show(environment.weightsFolder())
        ui.missingLabel.visible = not ready and not self.isInstalling()
        ui.installButton.visible = not ready or self.isInstalling()
        ui.installButton.text = _("Cancel the installation") if self.isInstalling() else _("Install PyTorch")
        self._ready = ready
        self.update()
        if not ready:
            ui.setupLabel.text = installing.description()
            ui.setupCollapsibleButton.collapsed = False
        elif environment.otherPython():
            ui.setupLabel.text = _("Registrations run in {python}.").format(python=environment.otherPython())
        else:
            ui.setupLabel.text = _("PyTorch {version} is installed.").format(version=environment.torchVersion())
        catalogue = environment.catalogue()
        ui.weightsLabel.text = environment.weightsFolderProblem() or _(
            "The compact model comes with this extension and is ready. The official weights (FreeSurfer's SynthMorph, "
            "{licence}) take {size:.1f} GB.").format(
                licence=catalogue["official_licence"], size=sum(e["bytes"] for e in catalogue["official"]) / 1e9)
        self.onCollapsed(ui.setupCollapsibleButton.collapsed)

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
        lines.append(environment.weightsFolderProblem() or answer["choice"])
        self.ui.weightsLabel.text = "\n".join(lines)

    # Installing

    def isInstalling(self):
        """True while packages are installed in the background."""
        return self._installation is not None and self._installation.isRunning()

    def poll(self):
        """Hear what the installer says, and do what had to wait for the worker; called regularly."""
        if self._installation is not None:
            self._installation.poll()
        if self._outdated and not self.logic.isBusy():
            self._outdated = False
            self.logic.cancel()

    def update(self):
        """Weights are left alone while something is under way."""
        self.ui.fetchButton.enabled = self.ui.clearCacheButton.enabled = self._ready and not self.logic.isBusy()

    def close(self):
        """End an installation that is under way, and hear of no more paths."""
        self._python.close()
        self._weightsFolder.close()
        if self._installation is not None:
            self._installation.cancel()

    def onInstall(self, checked=False):
        """Install what the text above the button says, after asking; or stop doing so."""
        if self.isInstalling():
            self._installation.cancel()
            self.refresh()
            self.panel.showStatus(_("The installation was cancelled; press Install PyTorch to start again."))
            return
        if not slicer.util.confirmOkCancelDisplay(installing.description(), _("Install PyTorch")):
            return
        if installing.torchLogic() is None:
            self.panel.showStatus(installing.installExtension())
            return
        with slicer.util.WaitCursor():
            try:
                commands = installing.torchCommands()
            except Exception as error:  # whatever pip and the network do
                self.panel.showError({"message": installing.failure(_("its installer could not be fetched")),
                                      "details": str(error)})
                return
            if commands is None:
                self._torchInstalled(installing.installTorchBlocking())
                return
        self._install(_("Installing PyTorch"), commands,
                      lambda why: self._torchInstalled(installing.failure(why) if why else ""))

    def _install(self, stage, commands, onFinished):
        self._installation = installing.Installation(commands, self.panel.log, onFinished)
        self.panel.watch(stage, indefinite=True)
        self.refresh()

    def _torchInstalled(self, message):
        """Try the new torch in a process of its own, where a broken one does no harm."""
        self.refresh()
        self.panel.showStatus(message)
        if environment.isReady():
            self.logic.ask("probe", onResult=self._probed, onError=self.panel.showError, inquiry=True)

    def _probed(self, answer):
        devices = ", ".join(device["name"] for device in answer["devices"]) or _("the CPU")
        self.panel.showStatus(_("PyTorch {version} works, on {devices}.").format(
            version=answer["torch"], devices=devices))

    # Weights

    def onFetch(self, checked=False):
        """Download the official weights that the chosen transform type needs, after showing their licence."""
        roles = ROLES[self.panel.parameters.transformType.value]
        catalogue = environment.catalogue()
        entries = [entry for entry in catalogue["official"] if entry["role"] in roles]
        text = _("{attribution}\n\nLicence: {licence}\n\nDownload {files} ({size:.2f} GB)? The download can be "
                 "cancelled and continued later.").format(
            attribution=catalogue["official_attribution"], licence=catalogue["official_licence"],
            files=", ".join(entry["name"] for entry in entries), size=sum(e["bytes"] for e in entries) / 1e9)
        if installing.needsHdf5():
            text += "\n\n" + _("The small Python package h5py, which reads these files, is installed too.")
        if not slicer.util.confirmOkCancelDisplay(text, _("Official SynthMorph weights")):
            return
        if installing.needsHdf5():
            self._install(_("Installing h5py"), installing.hdf5Commands(), lambda why: self._hdf5Installed(why, roles))
        else:
            self._fetch(roles)

    def _hdf5Installed(self, why, roles):
        self.refresh()
        if why:
            self.panel.showError({"message": _("h5py could not be installed ({why}).").format(why=why), "details": ""})
        else:
            self._fetch(roles)

    def _fetch(self, roles):
        self.logic.ask("fetch", onResult=self._fetched, onError=self.panel.showError,
                       onProgress=self.panel.showMessage, roles=list(roles))
        self.panel.watch(_("Downloading"), whenCancelled=_("Cancelled; the next download continues where this one "
                                                           "stopped."))

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
        """End the worker, and what it is doing; it starts again when it is needed."""
        wasBusy = self.logic.isBusy()
        self.logic.cancel()
        self.panel.showStatus(_("Cancelled, and memory released.") if wasBusy else _("Memory released."))

    def onPython(self, path):
        """Another Python was chosen, or Slicer's own again."""
        environment.setOtherPython(path)
        self._restart()

    def onWeightsFolder(self, path):
        """Another folder of weights was chosen."""
        environment.setWeightsFolder(path)
        self._restart()

    def _restart(self):
        """End the worker, so that the next one finds what has changed; what it is doing comes first."""
        self._outdated = self.logic.isBusy()
        if not self._outdated:
            self.logic.cancel()
            self.panel.showStatus("")
        self.refresh()

"""The list of devices in the panel, which is known a while after the module is opened."""

from slicer.i18n import tr as _

from . import environment


class DeviceSection:
    """Looks for devices in the background, and lists them."""

    def __init__(self, ui, panel):
        self.ui, self.panel = ui, panel
        self._probe = environment.DeviceProbe()
        self._shown = None
        self._updating = False
        ui.deviceComboBox.connect("currentIndexChanged(int)", self._onChosen)

    def look(self):
        """Look anew: what is free changes with every registration."""
        self._probe.start()

    def update(self, parameters):
        """List the devices once they are known; a chosen one that is not there stays in the list."""
        devices = self._probe.devices()
        chosen = parameters.device if parameters is not None else "auto"
        if self._shown == (devices, chosen):
            return
        self._shown = (devices, chosen)
        entries = {"auto": _("Automatic"), **{d["id"]: environment.deviceLabel(d) for d in devices or ()},
                   "cpu": _("CPU")}
        entries.setdefault(chosen, _("{device} (not found)").format(device=chosen))
        self._updating = True
        self.ui.deviceComboBox.clear()
        for identifier, label in entries.items():
            self.ui.deviceComboBox.addItem(label, identifier)
        self.ui.deviceComboBox.currentIndex = list(entries).index(chosen)
        self._updating = False

    def _onChosen(self, index):
        if self.panel.parameters is not None and not self._updating and index >= 0:
            self.panel.parameters.device = self.ui.deviceComboBox.itemData(index)

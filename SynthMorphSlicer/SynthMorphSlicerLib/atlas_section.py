"""The section of the panel for atlases: the library, their labels on a patient, to the Segment Editor, and back."""

import json

import qt
import slicer
from slicer.i18n import tr as _

from . import atlases, environment, maps, segments, stages, tables, transferring, views, volumes
from .job import InputError, settingsOf

BUTTONS = ("addAtlas", "removeAtlas", "readAtlases", "makeAtlas", "carryAtlases", "openEditor", "agreement",
           "copyStructures", "saveStructures", "carryBack")
AGREEMENT_OPACITY = 0.6


class AtlasSection:
    """Wires the widgets to the library and to the transfer."""

    def __init__(self, ui, logic, panel):
        self.ui, self.logic, self.panel = ui, logic, panel
        self.library = atlases.Library(logic)
        self.transfer = transferring.AtlasTransfer(logic)
        self._rows, self._states = [], {}  # what the table of atlases shows; by folder what is being done
        self._running = self._updating = self._hasRead = self._isReading = False
        self._layers = []  # what the slice views showed before the agreement
        self._shownStructures = None
        self.toolTips = {}
        for name in BUTTONS:
            button = getattr(ui, f"{name}Button")
            button.connect("clicked(bool)", getattr(self, f"on{name[0].upper()}{name[1:]}"))
            self.toolTips[name] = button.toolTip
        ui.atlasesTable.connect("itemChanged(QTableWidgetItem*)", self._onTicked)
        ui.atlasesTable.connect("itemSelectionChanged()", lambda: self.update(panel.parameters))
        ui.atlasCollapsibleButton.connect("contentsCollapsed(bool)", self.onCollapsed)
        for selector in (ui.makeAtlasVolumeSelector, ui.makeAtlasLabelsSelector):
            selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self.update(panel.parameters))
        ui.atlasLabel.visible = False
        self._showAtlases()

    # Life cycle

    def enter(self):
        """The user may have been in the Segment Editor."""
        self._shownStructures = None
        self.onCollapsed(self.ui.atlasCollapsibleButton.collapsed)

    def exit(self):
        """Leave the slice views as they were."""
        self._showAgreement(False)

    def forget(self):
        """The scene is going away."""
        self.exit()
        self._running, self._states, self._shownStructures = False, {}, None
        self.ui.atlasLabel.visible = False

    def onCollapsed(self, collapsed):
        """Look into the folders when the section is unfolded; that is the first time anyone wants to know."""
        if not collapsed and not self._hasRead and environment.isReady():
            self.onReadAtlases()
        self.update(self.panel.parameters)

    def update(self, parameters):
        """The buttons say what is missing; the table of structures is about the chosen segmentation."""
        if parameters is None or self._updating:
            return
        if self._running and not self.logic.isBusy():  # ended from elsewhere
            self._ended()
        self._dropOthers(parameters)
        busy = _("Wait until the work under way is done.") if self.logic.isBusy() else ""
        ready = "" if environment.isReady() else _("PyTorch is missing: install it in the Setup section.")
        node = parameters.atlasSegmentation
        unmade = "" if node is not None else _("Carry labels over first, or choose a segmentation.")
        agreement = node.GetNodeReference(transferring.AGREEMENT_ROLE) if node is not None else None
        self._listTransforms(node)
        self._showStructures(node)
        missing = {
            "addAtlas": "", "readAtlases": ready, "removeAtlas": self._removeProblem(),
            "makeAtlas": atlases.sceneProblem(self.ui.makeAtlasVolumeSelector.currentNode(),
                                              self.ui.makeAtlasLabelsSelector.currentNode()),
            "carryAtlases": "" if self._running else ready or busy or self.transfer.problem(parameters.patientVolume,
                                                                                            self.chosen()),
            "openEditor": unmade, "copyStructures": unmade, "saveStructures": unmade,
            "agreement": unmade or ("" if agreement is not None else _("This segmentation has no map of agreement.")),
            "carryBack": unmade or busy or ("" if self.ui.carryBackComboBox.count else
                                            _("This segmentation did not come from atlases."))}
        for name, why in missing.items():
            button = getattr(self.ui, f"{name}Button")
            button.enabled = not why
            button.toolTip = why or self.toolTips[name]
        self.ui.carryAtlasesButton.text = _("Stop, keep what is done") if self._running else _("Carry labels over")
        if agreement is None and self.ui.agreementButton.checked:
            self._showAgreement(False)

    @staticmethod
    def _dropOthers(parameters):
        """Another patient makes a new segmentation, and leaves alone that of the one before."""
        node, patient = parameters.atlasSegmentation, parameters.patientVolume
        if node is not None and patient is not None:
            owner = node.GetNodeReference(transferring.PATIENT_ROLE)
            if owner is not None and owner is not patient:
                parameters.atlasSegmentation = None

    # The library

    def chosen(self):
        """Folders of the atlases that are ticked and can be used, in the order of the list."""
        try:
            ticked = json.loads(self.panel.parameters.atlases or "[]")
        except ValueError:
            ticked = []
        return [row["folder"] for row in self._rows if not row["fault"] and row["folder"] in ticked]

    def onReadAtlases(self, checked=False):
        """Let the worker look into the folders."""
        self._hasRead = self._isReading = True
        self._showAtlases()
        self.library.read(blocking=False, onFinished=self._onRead, onError=self._onReadFailed)

    def _onRead(self):
        self._isReading = False
        self._showAtlases()
        self.update(self.panel.parameters)

    def _onReadFailed(self, error):
        self._isReading = self._hasRead = False
        self._showAtlases()
        self.panel.showError(error)

    def _showAtlases(self):
        """The list with check marks; a broken folder stands in it with its fault."""
        self._rows = [{**one, "fault": "", "text": str(one["labels"])} for one in self.library.atlases]
        self._rows += [{**one, "name": one["folder"].rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1], "text": "",
                        "fault": one["sentence"]} for one in self.library.faults]
        ticked = self.chosen() if self.panel.parameters is not None else []
        self._updating = True
        texts = [[row["name"], row["text"], row["fault"] or self._states.get(row["folder"], "")] for row in self._rows]
        state = _("Reading...") if self._isReading else _("State")
        tables.fill(self.ui.atlasesTable, [_("Atlas"), _("Labels"), state], texts,
                    ["bad" if row["fault"] else "" for row in self._rows], 2, stretched=True)
        for number, row in enumerate(self._rows):
            item = self.ui.atlasesTable.item(number, 0)
            if not row["fault"]:
                item.setCheckState(qt.Qt.Checked if row["folder"] in ticked else qt.Qt.Unchecked)
            for column in range(3):
                self.ui.atlasesTable.item(number, column).setToolTip(row["fault"] or row["folder"])
        for column in range(2):
            self.ui.atlasesTable.resizeColumnToContents(column)  # again, with the check marks
        self.ui.atlasesTable.resizeRowsToContents()  # a fault may take several lines
        self._updating = False

    def _onTicked(self, item):
        if self._updating or self.panel.parameters is None:
            return
        ticked = [row["folder"] for number, row in enumerate(self._rows) if not row["fault"]
                  and self.ui.atlasesTable.item(number, 0).checkState() == qt.Qt.Checked]
        self.panel.parameters.atlases = json.dumps(ticked)

    def _removeProblem(self):
        row = self.ui.atlasesTable.currentRow()
        if not 0 <= row < len(self._rows):
            return _("Select a row of the list first.")
        return "" if self._rows[row]["given"] in self.library.folders() else _("MNI152 is part of the list.")

    def onAddAtlas(self, checked=False):
        """Ask for a folder and add it."""
        folder = qt.QFileDialog.getExistingDirectory(self.ui.atlasesTable, _("Folder of an atlas or of several"))
        if folder:
            self._change(lambda: self.library.add(folder))

    def onRemoveAtlas(self, checked=False):
        """Forget the folder of the selected row."""
        row = self._rows[self.ui.atlasesTable.currentRow()]
        self._change(lambda: self.library.remove(row["given"]))

    def onMakeAtlas(self, checked=False):
        """Write a volume and a segmentation of the scene as a new atlas."""
        folder = qt.QFileDialog.getExistingDirectory(self.ui.atlasesTable, _("Where to put the folder of the atlas"))
        if not folder:
            return

        def make():
            made = self.library.addFromScene(self.ui.makeAtlasVolumeSelector.currentNode(),
                                             self.ui.makeAtlasLabelsSelector.currentNode(), folder)
            self.panel.showStatus(_("The atlas is in '{folder}'.").format(folder=made))

        self._change(make)

    def _change(self, action):
        self.panel.hideError()
        try:
            action()
        except InputError as error:
            self.panel.refuse(error)
            return
        self.onReadAtlases()

    # Onto the patient

    def onCarryAtlases(self, checked=False):
        """Carry the labels of the ticked atlases over; while that is done, stop and keep what is done."""
        if self._running:
            self.transfer.stop()
            self.panel.log(_("Stopping; the atlases that are done are kept"))
            return
        parameters, output = self.panel.parameters, self.panel.parameters.atlasSegmentation
        folders = self.chosen()
        replaceEdited = self.panel.mayReplace(output)
        self.panel.watch(_("Carrying labels over"))
        self._states = dict.fromkeys(folders, _("waiting"))
        try:
            self.transfer.carry(parameters.patientVolume, folders, parameters.fusion.value, output,
                                settingsOf(parameters), replaceEdited, blocking=False, onProgress=self._onProgress,
                                onFinished=self._onCarried, onError=self._onFailed)
        except InputError as error:
            self._ended()
            self.panel.refuse(error)
            return
        self._running = True
        self._showAtlases()
        self.panel.updateButtons()

    def _onProgress(self, message):
        stage = stages.label(message.get("state") or message["stage"])
        if message.get("folder"):
            self._states[message["folder"]] = stage
            self._showAtlases()
            stage = f"{message['atlas']}: {stage}"
        self.panel.showProgress(stage, message["fraction"], "")

    def _ended(self, faults=()):
        self._running = False
        done = stages.label("done")
        self._states = {folder: state if state == done else _("not done") for folder, state in self._states.items()}
        self._states.update({fault["folder"]: fault["sentence"] for fault in faults})
        self._showAtlases()

    def _onFailed(self, error):
        self._ended()
        self.panel.showError(error)

    def _onCarried(self, made):
        self._ended(made["faults"])
        self._shownStructures = None
        settings = self.panel.settings()
        if made["segmentation"].GetNodeReference(transferring.PATIENT_ROLE) is settings.patientVolume:
            settings.atlasSegmentation = made["segmentation"]
        parts = [_("Labels of {atlases} carried over in {seconds:.1f} s.").format(
            atlases=", ".join(made["done"]), seconds=made["seconds"])]
        if made["cancelled"]:
            parts.append(_("Stopped: what was done is kept."))
        if made["kept"] is not None:
            parts.append(segments.KEPT.format(name=made["kept"].GetName()))
        parts += [fault["sentence"] for fault in made["faults"]]
        self.ui.atlasLabel.text = " ".join(parts)
        self.ui.atlasLabel.visible = True
        self.panel.showStatus(parts[0])
        if made["doubtful"]:
            self.panel.warn(_("Look closely at these atlases, which do not look like the patient where the "
                              "registration puts them: {atlases}.").format(atlases=", ".join(made["doubtful"])))
        if self.panel.parameters is not None:
            views.show(settings.patientVolume)

    # What came of it

    def onOpenEditor(self, checked=False):
        """Go to the Segment Editor with the segmentation and its volume."""
        transferring.openInSegmentEditor(self.panel.parameters.atlasSegmentation)

    def onAgreement(self, checked=False):
        """Show the map of agreement over the patient, or what was there before."""
        self._showAgreement(self.ui.agreementButton.checked)

    def _showAgreement(self, on):
        for composite, volume, opacity in self._layers:
            composite.SetForegroundVolumeID(volume)
            composite.SetForegroundOpacity(opacity)
        self._layers = []
        node = self.panel.parameters.atlasSegmentation if self.panel.parameters is not None else None
        agreement = node.GetNodeReference(transferring.AGREEMENT_ROLE) if node is not None else None
        self.ui.agreementButton.checked = on and agreement is not None
        if agreement is None:
            return
        maps.showLegend(agreement, self.ui.agreementButton.checked, _("Agreement"))
        if not self.ui.agreementButton.checked:
            return
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            self._layers.append((composite, composite.GetForegroundVolumeID(), composite.GetForegroundOpacity()))
            composite.SetForegroundVolumeID(agreement.GetID())
            composite.SetForegroundOpacity(AGREEMENT_OPACITY)

    def _showStructures(self, node):
        """Fill the table of structures, once for each segmentation and each time the module is entered."""
        if self.ui.atlasCollapsibleButton.collapsed or self._shownStructures == (node and node.GetID() or ""):
            return
        self._shownStructures = node.GetID() if node is not None else ""
        tables.fill(self.ui.structuresTable, volumes.titles(), self._structures(node), stretched=True)

    @staticmethod
    def _structures(node):
        return volumes.table(node) if node is not None else []

    def onCopyStructures(self, checked=False):
        tables.copy(self.panel, volumes.titles(), self._structures(self.panel.parameters.atlasSegmentation))

    def onSaveStructures(self, checked=False):
        tables.save(self.panel, self.ui.structuresTable, _("Save the table"), "SynthMorph volumes.csv",
                    volumes.titles(), self._structures(self.panel.parameters.atlasSegmentation))

    # Back to the atlas

    def _listTransforms(self, node):
        box = self.ui.carryBackComboBox
        names = {} if node is None else {one.GetID(): one.GetAttribute(transferring.ATLAS_NAME) or one.GetName()
                                         for one in transferring.transformsOf(node)}
        if {box.itemData(n): box.itemText(n) for n in range(box.count)} != names:
            box.clear()
            for identifier, name in names.items():
                box.addItem(name, identifier)
        box.enabled = bool(names)

    def onCarryBack(self, checked=False):
        """Carry the segmentation as it is now back onto the chosen atlas."""
        node, box = self.panel.parameters.atlasSegmentation, self.ui.carryBackComboBox
        transform = slicer.mrmlScene.GetNodeByID(box.itemData(box.currentIndex))
        edited = self.transfer.mover.editedCopies(transform, [node], inverse=True)
        self.panel.watch(_("Carrying corrections back"))
        try:
            self.transfer.carryBack(
                node, transform, list(filter(self.panel.mayReplace, edited)), blocking=False,
                onProgress=self.panel.showMessage,
                onFinished=self._onCarriedBack, onError=self.panel.showError)
        except InputError as error:
            self.panel.refuse(error)
        self.panel.updateButtons()

    def _onCarriedBack(self, segmentation):
        volume = transferring.sourceOf(segmentation)
        self.ui.makeAtlasVolumeSelector.setCurrentNode(volume)
        self.ui.makeAtlasLabelsSelector.setCurrentNode(segmentation)
        self.panel.showStatus(_("'{name}' has the corrections; Make an atlas of the scene saves it.").format(
            name=segmentation.GetName()))

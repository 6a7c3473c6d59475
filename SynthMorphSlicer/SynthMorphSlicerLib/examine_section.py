"""The section of the panel that measures and judges a result, leads to the places to look at, and signs it."""

import html
import os

from slicer.i18n import tr as _

from . import curve, printing, scene, shortcuts, signing, surfaces, tables, views
from .job import InputError

STATUS = {"ok": _("ok"), "look": _("look"), "bad": _("out of tolerance"), "": ""}
NAME_WIDTH = 150  # of the column with the names of measures, pixels
WORDS = {"good": (_("Good"), "ok"), "look closely": (_("Look closely"), "look"), "failed": (_("Failed"), "bad")}
# Slicer's own connection of a parameter with an edit takes the cursor to the end at every key (Slicer issue 8620)
EDITS = {"initialsLineEdit": "initials", "commentLineEdit": "signComment"}
BUTTONS = ("examine", "copyExamined", "saveExamined", "previousSpot", "nextSpot", "accept", "reject", "report")


class ExamineSection:
    """Wires the buttons to a :class:`.workbench.Workbench`."""

    def __init__(self, ui, bench, panel):
        self.ui, self.bench, self.panel = ui, bench, panel
        self.toolTips, self._spot, self._shownKey, self._updating = {}, -1, "", False
        for name in BUTTONS:
            button = getattr(ui, f"{name}Button")
            button.connect("clicked(bool)", getattr(self, f"on{name[0].upper()}{name[1:]}"))
            self.toolTips[name] = button.toolTip = shortcuts.withKey(name, button.toolTip)
        for name, member in EDITS.items():
            getattr(ui, name).connect("textChanged(QString)", lambda text, member=member: self._onTyped(member, text))
        ui.spotsTable.connect("cellClicked(int,int)", self.onSpot)
        ui.regionSegmentComboBox.connect("currentIndexChanged(int)", self._onSegmentChosen)
        self._show()

    def update(self, parameters):
        """The buttons say what is missing; a finding that is no longer about what is shown goes."""
        what = self.panel.subject()
        problem = _("No scene is open.") if what is None else what.problem()
        busy = _("Wait until the work under way is done.") if self.panel.logic.isBusy() else ""
        current = not problem and self.bench.isCurrent(what)
        if self._shownKey != (self.bench.foundKey if current else ""):
            self._show()
        unseen = "" if current else _("Examine the result first.")
        nowhere = unseen or ("" if self._spots() else _("No place stands out."))
        missing = {"examine": problem or busy, "copyExamined": unseen, "saveExamined": unseen, "previousSpot": nowhere,
                   "nextSpot": nowhere, "accept": problem or busy, "reject": problem or busy, "report": unseen or busy}
        for name, why in missing.items():
            button = getattr(self.ui, f"{name}Button")
            button.enabled = not why
            button.toolTip = why or self.toolTips[name]
        self.ui.signatureLabel.text = "" if problem else signing.describe(what.transform, what.fixed)
        self._listSegments(parameters)
        for name, member in EDITS.items():
            edit, text = getattr(self.ui, name), getattr(parameters, member) if parameters is not None else ""
            if edit.text != text:
                edit.text = text

    def _onTyped(self, member, text):
        if self.panel.parameters is not None:
            setattr(self.panel.parameters, member, text)

    def forget(self):
        """The scene is going away."""
        self.bench.forget()
        self._show()

    # Inside which segment

    def _listSegments(self, parameters):
        node = parameters.reviewRegion if parameters is not None else None
        segmentation = node.GetSegmentation() if node is not None else None
        names = {} if segmentation is None else {
            segmentation.GetNthSegmentID(n): segmentation.GetNthSegment(n).GetName()
            for n in range(segmentation.GetNumberOfSegments())}
        box = self.ui.regionSegmentComboBox
        box.enabled = bool(names)
        if {box.itemData(n): box.itemText(n) for n in range(box.count)} != names:
            self._updating = True
            box.clear()
            for identifier, name in names.items():
                box.addItem(name, identifier)
            self._updating = False
        if names:
            chosen = parameters.reviewSegment
            if chosen not in names:
                chosen = next(iter(names))
                parameters.reviewSegment = chosen
            self._updating = True
            box.currentIndex = list(names).index(chosen)
            self._updating = False

    def _onSegmentChosen(self, index):
        if index >= 0 and not self._updating and self.panel.parameters is not None:
            self.panel.parameters.reviewSegment = self.ui.regionSegmentComboBox.itemData(index)

    # Examine

    def onExamine(self, checked=False):
        """Let the worker find out all there is."""
        parameters = self.panel.parameters
        self.panel.watch(_("Examining the result"))
        try:
            self.bench.examine(self.panel.subject(), parameters.reviewRegion, parameters.reviewSegment,
                               parameters.reviewDisagreement, blocking=False, onProgress=self.panel.showProgress,
                               onFinished=self._onFinished, onError=self.panel.showError)
        except InputError as error:
            self.panel.refuse(error)

    def _onFinished(self, found):
        self._show()
        self.panel.showStatus(_("Examined {region}: {headline}").format(region=found["region"],
                                                                        headline=found["headline"]))

    def _show(self):
        """The finding in the widgets, or nothing if there is none about what is shown."""
        what = self.panel.subject()
        found = self.bench.found if what is not None and self.bench.isCurrent(what) else None
        self._shownKey = self.bench.foundKey if found else ""
        self._spot = -1
        for name in ("verdictLabel", "examineTable", "spotsTable"):
            getattr(self.ui, name).visible = found is not None
        self.ui.verdictLabel.text = "" if found is None else _verdict(found)
        rows = [] if found is None else found["measures"]
        titles, texts = self._measured(rows)
        tables.fill(self.ui.examineTable, titles, texts, [row["status"] for row in rows], 3, stretched=True)
        self.ui.examineTable.setColumnWidth(0, NAME_WIDTH)  # so that the tolerances can be seen; long names wrap
        self.ui.examineTable.resizeRowsToContents()
        for number, row in enumerate(rows):
            tip = ". ".join(filter(None, (row["note"], row["source"])))
            self.ui.examineTable.item(number, 0).setToolTip(tip)
        tables.fill(self.ui.spotsTable, [_("Go to"), _("Value")], [_spotTexts(spot) for spot in self._spots()],
                    stretched=True)

    def _measured(self, rows):
        titles = [_("Measure"), _("Value"), _("Unit"), _("Verdict"), _("Tolerance")]
        return titles, [[row["name"], number(row["value"]), row["unit"], STATUS[row["status"]], row["tolerance"]]
                        for row in rows]

    def onCopyExamined(self, checked=False):
        tables.copy(self.panel, *self._measured(self.bench.found["measures"]))

    def onSaveExamined(self, checked=False):
        tables.save(self.panel, self.ui.examineTable, _("Save the table"), "SynthMorph review.csv",
                    *self._measured(self.bench.found["measures"]))

    # Go there

    def _spots(self):
        return self.bench.found["hot_spots"] if self.bench.found is not None and self._shownKey else []

    def onSpot(self, row, column=0):
        """Move the slice views to a place of the list."""
        spots = self._spots()
        if not spots:
            return
        self._spot = row % len(spots)
        self.ui.spotsTable.selectRow(self._spot)
        views.jumpTo(spots[self._spot]["ras"])

    def onNextSpot(self, checked=False):
        self.onSpot(self._spot + 1)

    def onPreviousSpot(self, checked=False):
        self.onSpot(max(self._spot, 0) - 1)

    # Sign and report

    def onAccept(self, checked=False):
        self._sign(signing.ACCEPTED)

    def onReject(self, checked=False):
        self._sign(signing.REJECTED)

    def _sign(self, decision):
        what, parameters = self.panel.subject(), self.panel.parameters
        try:
            signing.sign(what.transform, what.fixed, decision, parameters.initials, parameters.signComment)
        except InputError as error:
            self.panel.refuse(error)
            return
        parameters.signComment = ""
        self.panel.showStatus(signing.describe(what.transform, what.fixed))

    def onReport(self, checked=False):
        """Ask for a file, take pictures of the views, let the worker write the page, and print it."""
        path = tables.askPath(self.ui.examineTable, _("Save the report"), "SynthMorph report.html",
                              _("Web page (*.html)"))
        if not path:
            return
        path = path if path.lower().endswith(".html") else f"{path}.html"
        what = self.panel.subject()
        try:
            folder = scene.temporaryFolder()
        except InputError as error:
            self.panel.refuse(error)
            return
        title = _("{moving} on {fixed}").format(moving=what.moving.GetName(), fixed=what.fixed.GetName())

        def finished(files):
            try:
                files = [*files, self._print(path, self.bench.sweepOf(what), folder)]
            except OSError as error:
                failed({"message": _("The page is written, but not the PDF ({why}): close it if it is open elsewhere, "
                                     "and try again.").format(why=error.strerror), "details": str(error)})
                return
            scene.removeFolder(folder)
            names = ", ".join(os.path.basename(file) for file in files)
            self.panel.showStatus(_("The report is in '{folder}': {names}.").format(
                folder=os.path.dirname(path), names=names))

        def failed(error):
            scene.removeFolder(folder)
            self.panel.showError(error)

        self.panel.watch(_("Writing the report"))
        try:
            seen = views.takePictures(folder, threeD=surfaces.areVisible(what.transform))
            self.bench.report(path, title, seen, blocking=False, onProgress=self.panel.showProgress,
                              onFinished=finished, onError=failed)
        except InputError as error:
            failed({"message": str(error), "details": ""})

    @staticmethod
    def _print(path, points, folder):
        """The page as PDF beside it; gives its path."""
        drawing = None
        if points:
            drawing = os.path.join(folder, "curve.png")
            curve.draw(points).save(drawing)
        with open(path, encoding="utf-8") as file:
            page = file.read()
        target = f"{os.path.splitext(path)[0]}.pdf"
        printing.write(page, target, drawing)
        return target


def number(value):
    """A measured value as text: three significant digits, whole numbers in full."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e9 else f"{value:.3g}"


def _spotTexts(spot):
    value = number(spot["value"])
    return [spot["name"], f"{value} mm" if spot["unit"] == "mm" else f"{spot['unit']} = {value}"]


def _verdict(found):
    """The verdict and its reasons as rich text."""
    word, status = WORDS[found["verdict"]]
    reasons = "".join(f'<p>{_mark("!", reason["status"])} {html.escape(reason["sentence"])}</p>'
                      for reason in found["reasons"])
    return f'{_mark(word, status)} {html.escape(found["headline"])}{reasons}'


def _mark(text, status):
    """A word on a coloured ground, which can be read in light and dark styles."""
    return f'<b style="color:white; background-color:{tables.COLORS[status]}">&nbsp;{html.escape(text)}&nbsp;</b>'

"""The section of the panel that keeps results, flips between them in place, and sets their measures side by side."""

import slicer
from slicer.i18n import tr as _

from . import curve, kept, scene, shortcuts, tables
from .examine_section import WORDS, number
from .job import OUTPUTS, InputError
from .parameters import TransformType

BUTTONS = ("keep", "nextKept", "removeKept", "keepOnly", "variants", "measureKept", "copyKept", "saveKept", "sweep")
NAME_WIDTH = 190  # of the column with the names of measures, pixels


class CompareSection:
    """Wires the buttons to :mod:`.kept` and to the sweep of a :class:`.workbench.Workbench`."""

    def __init__(self, ui, bench, panel):
        self.ui, self.bench, self.panel = ui, bench, panel
        self.toolTips, self._filledWith, self._steps, self._swept = {}, None, [], None
        for name in BUTTONS:
            button = getattr(ui, f"{name}Button")
            button.connect("clicked(bool)", getattr(self, f"on{name[0].upper()}{name[1:]}"))
            self.toolTips[name] = button.toolTip = shortcuts.withKey(name, button.toolTip)
        ui.keptTable.connect("cellClicked(int,int)", self.onKeptCell)
        ui.keptTable.horizontalHeader().sectionClicked.connect(lambda column: self.onKeptCell(0, column))
        ui.sweepTable.connect("cellClicked(int,int)", self.onSweepPoint)

    def update(self, parameters):
        """The buttons say what is missing; the table and the curve follow the scene."""
        what = self.panel.subject()
        problem = _("No scene is open.") if what is None else what.problem()
        busy = _("Wait until the work under way is done.") if self.panel.logic.isBusy() else ""
        results, present = self._results(), self._inFront()
        none = "" if results else _("Keep a result first.")
        others = "" if len(results) > (present is not None) else _("There is no other kept result.")
        unkept = "" if present else _("The result in front is not among the kept ones: keep it first.")
        swept = "" if problem or self._canSweep(what) else _(
            "Register with a deformable transform first: the sweep goes on from the last registration.")
        missing = {"keep": problem or busy, "nextKept": none or others or busy, "removeKept": none or unkept or busy,
                   "keepOnly": none or unkept or others or busy, "variants": self._whyNoVariants() or busy,
                   "measureKept": none or busy, "copyKept": none, "saveKept": none,
                   "sweep": problem or swept or busy}
        for name, why in missing.items():
            button = getattr(self.ui, f"{name}Button")
            button.enabled = not why
            button.toolTip = why or self.toolTips[name]
        self._fill(results, present)
        self._showSweep([] if problem else self.bench.sweepOf(what))

    def forget(self):
        """The scene is going away."""
        self._steps = []
        self._fill([], None)
        self._showSweep([])

    def _results(self):
        what = self.panel.subject()
        return [] if what is None or None in (what.fixed, what.moving) else kept.results(what.fixed, what.moving)

    def _inFront(self):
        what = self.panel.subject()
        return None if what is None or what.problem() else kept.inFront(self._results(), what.transform, what.fixed)

    # The table

    def _fill(self, results, present):
        told = [(one.number, one.title, one.measured) for one in results], present and present.number
        if told == self._filledWith:
            return
        self._filledWith = told
        ui = self.ui
        ui.keptFrame.visible = bool(results)
        ui.compareLabel.text = (
            _("Nothing is kept yet.") if not results else
            _("In front: {title}. Click a column to see another.").format(title=present.title) if present else
            _("The result in front is not kept. Click a column to see a kept one; this one is then kept, too."))
        titles, rows = self._texts(results)
        titles = [f"\u25b8 {title}" if present and one and one.number == present.number else title
                  for title, one in zip(titles, [None, *results])]
        tables.fill(ui.keptTable, titles, rows)
        statuses = _statuses(results)
        ui.keptTable.setColumnWidth(0, NAME_WIDTH)  # so that there is room for the results
        for line, row in enumerate(rows):
            ui.keptTable.item(line, 0).setToolTip(row[0])
            for column, one in enumerate(results, 1):
                tables.paint(ui.keptTable, line, column, statuses.get((one.number, row[0]), ""))

    def _texts(self, results):
        """Titles and rows of text: settings, verdict, and every measure that any of the results has."""
        if not results:
            return [_("Measure")], []
        rows = [[name] for name, _text in kept.settings(results[0].transform)]
        for one in results:
            for row, (_title, value) in zip(rows, kept.settings(one.transform)):
                row.append(value)
        measured = [one.measured for one in results]
        rows.append([_("Verdict"), *(WORDS[found["verdict"]][0] if found else "" for found in measured)])
        if len({found["region"] for found in measured if found}) > 1:
            rows.append([_("Measured in"), *(found["region"] if found else "" for found in measured)])
        tabled = [{_rowName(row): row for row in found["measures"]} if found else {} for found in measured]
        for name in dict.fromkeys(name for rowsByName in tabled for name in rowsByName):
            rows.append([name, *(number(of[name]["value"]) if name in of else "" for of in tabled)])
        return [_("Measure"), *(one.title for one in results)], rows

    def onKeptCell(self, row, column):
        """Show the result of a column."""
        results = self._results()
        if 1 <= column <= len(results) and not self.panel.logic.isBusy():
            self._show(results[column - 1])

    def onCopyKept(self, checked=False):
        tables.copy(self.panel, *self._texts(self._results()))

    def onSaveKept(self, checked=False):
        tables.save(self.panel, self.ui.keptTable, _("Save the table"), "SynthMorph comparison.csv",
                    *self._texts(self._results()))

    # Keep, flip, choose

    def onKeep(self, checked=False):
        """Put a copy of the result in front aside."""
        one = self._keep()
        self.panel.showStatus(_("Kept as '{title}'.").format(title=one.title))

    def _keep(self):
        what = self.panel.subject()
        one = kept.keep(self.panel.reviewSection.outputs(), what.fixed, what.moving)
        if self.bench.isCurrent(what):
            one.setMeasured(self.bench.found)
        return one

    def onNextKept(self, checked=False):
        """Show the next of the kept results, after the last one the first."""
        results, present = self._results(), self._inFront()
        numbers = [one.number for one in results]
        following = numbers.index(present.number) + 1 if present else 0
        self._show(results[following % len(results)])

    def _show(self, one):
        """Let the views show a kept result; what was in front is kept as it is now."""
        present = self._inFront()
        if present is not None and present.number == one.number:
            return
        panel, what = self.panel, self.panel.subject()
        outputs = panel.reviewSection.outputs()
        if not what.problem():
            self._keep()
        self._adopt(kept.show(one, outputs, what.fixed, what.moving))
        panel.showStatus(_("In front: {title}.").format(title=one.title))

    def _adopt(self, outputs):
        """Bring other outputs to the front; the settings tell how they were made."""
        parameters, made = self.panel.parameters, outputs["transform"].GetAttribute
        with slicer.util.NodeModify(parameters.parameterNode):
            for name in OUTPUTS:
                setattr(parameters, f"output{name.capitalize()}", outputs.get(name))
            if made(scene.ATTRIBUTE + "transform"):
                parameters.transformType = TransformType(made(scene.ATTRIBUTE + "transform"))
                if parameters.transformType.deforms():
                    parameters.refinement = int(made(scene.ATTRIBUTE + "refine") or -1)
            if made(scene.ATTRIBUTE + "lambda"):
                self.panel.showLambda(float(made(scene.ATTRIBUTE + "lambda")))
        self.panel.reviewSection.showResult()

    def onRemoveKept(self, checked=False):
        """Take the result in front off the list; it stays in front."""
        present = self._inFront()
        kept.remove(present)
        self.panel.showStatus(_("'{title}' is no longer kept; it is still in front.").format(title=present.title))

    def onKeepOnly(self, checked=False):
        """Keep what is in front and let the others go, after asking if a person has worked on them."""
        present = self._inFront()
        others = [one for one in self._results() if one.number != present.number]
        worked = [f"{one.title} ({', '.join(one.handMade())})" for one in others if one.handMade()]
        if worked and not slicer.util.confirmYesNoDisplay(
                _("This was made by hand and cannot be computed again: {list}. Delete it all the same?").format(
                    list="; ".join(worked)), _("Keep only one result")):
            return
        for one in others:
            kept.remove(one)
        self.panel.showStatus(_("Kept: {title}. The others are gone ({number}).").format(
            title=present.title, number=len(others)))

    # Several registrations in a row

    def _whyNoVariants(self):
        why = self.panel.problem()
        if not why and "transform" not in self.panel.wanted():
            why = _("Tick the transform under Outputs: a kept result needs one.")
        return why

    def onVariants(self, checked=False):
        """Register with one setting after the other; keep and measure each."""
        if not self.panel.subject().problem():
            self._keep()  # the first run will overwrite it
        self._steps = self.panel.parameters.variants.steps()
        self._next()

    def _next(self):
        if self._steps and self.panel.parameters is not None:
            step = self._steps.pop(0)
            self.panel.register(step, onFinished=self._registered)
        else:
            self.panel.showStatus(_("Done: click a column to see its result."))

    def _registered(self, outputs):
        if self.panel.parameters is None:  # the user has left the module
            self._steps = []
        else:
            self._measure([self._keep()], self._next)

    # Measures

    def onMeasureKept(self, checked=False):
        """Measure what is not yet measured; if all is, measure all again."""
        results = self._results()
        self._measure([one for one in results if one.measured is None] or results,
                      lambda: self.panel.showStatus(_("All kept results are measured.")))

    def _measure(self, results, whenDone):
        """Let the worker examine one result after the other."""
        if not results or self.panel.parameters is None:
            whenDone()
            return
        one, parameters = results[0], self.panel.parameters

        def finished(found):
            one.setMeasured(found)
            self._measure(results[1:], whenDone)

        self.panel.watch(_("Measuring '{title}'").format(title=one.title))
        try:
            self.bench.measure(self.panel.subject(one.transform), parameters.reviewRegion, parameters.reviewSegment,
                               blocking=False, onProgress=self.panel.showProgress, onFinished=finished,
                               onError=self.panel.showError)
        except InputError as error:
            self.panel.refuse(error)

    # Sweep

    def _canSweep(self, what):
        job = self.panel.logic.job
        return (job is not None and job.settings.transform in ("joint", "deform")
                and self.panel.logic.holds(what.transform, what.fixed))

    def onSweep(self, checked=False):
        """Repeat the last registration with other lambdas, and draw what comes of it."""
        self.panel.watch(_("Trying other lambdas"))
        try:
            self.bench.sweep(self.panel.subject(), blocking=False, onProgress=self.panel.showProgress,
                             onFinished=lambda points: self.panel.showStatus(
                                 _("{number} lambdas tried: click one in the table to use it.").format(
                                     number=len(points))), onError=self.panel.showError)
        except InputError as error:
            self.panel.refuse(error)

    def _showSweep(self, points):
        parameters = self.panel.parameters
        regularization = parameters.regularization if parameters is not None else None
        if self._swept == (points, regularization):
            return
        self._swept = (points, regularization)
        self.ui.sweepFrame.visible = bool(points)
        if points:
            self.ui.curveLabel.setPixmap(curve.draw(points, regularization))
        columns = (("regularization", _("Lambda")), ("similarity", _("Similarity")), ("dice", _("Dice")),
                   ("sd_log", _("SD of log J")), ("folding", _("Folding voxels")))
        rows = [[f"{point[key]:.4f}" if key == "similarity" else number(point[key]) for key, _title in columns]
                for point in points]
        tables.fill(self.ui.sweepTable, [title for _key, title in columns], rows, stretched=True)

    def onSweepPoint(self, row, column):
        """Use the lambda of a line: the result follows as it follows the slider."""
        self.panel.parameters.regularization = self._swept[0][row]["regularization"]


def _rowName(row):
    return f"{row['name']} ({row['unit']})" if row["unit"] else row["name"]


def _statuses(results):
    """Which colour a cell has, by the number of the result and the name of the row."""
    found = {}
    for one in results:
        if one.measured:
            found[one.number, _("Verdict")] = WORDS[one.measured["verdict"]][1]
            found.update({(one.number, _rowName(row)): row["status"] for row in one.measured["measures"]})
    return found

"""Tables of the panel: filled, coloured, copied and saved the same way everywhere."""

import csv
import io
import os

import qt
import slicer
from slicer.i18n import tr as _

COLORS = {"ok": "#1b7f4b", "look": "#9a6200", "bad": "#b3261e"}  # white text can be read on each, in any style
SMALLEST = 60  # pixels, of a stretched column


def fill(table, titles, rows, statuses=(), statusColumn=-1, stretched=False):
    """Fill a QTableWidget with text.

    :param statuses: colour the cells of one column: "ok", "look", "bad" or "".
    :param stretched: the last column has the width that is left, as its header is set to.
    """
    table.setColumnCount(len(titles))
    table.setHorizontalHeaderLabels(list(titles))
    table.setRowCount(len(rows))
    for number, row in enumerate(rows):
        for column, text in enumerate(row):
            table.setItem(number, column, qt.QTableWidgetItem(text))
    for number, status in enumerate(statuses):
        paint(table, number, statusColumn, status)
    for column in range(len(titles) - stretched):
        table.resizeColumnToContents(column)
    if stretched:
        table.setColumnWidth(len(titles) - 1, SMALLEST)


def paint(table, row, column, status):
    """Colour a cell by a status, if that has a colour."""
    if status in COLORS:
        table.item(row, column).setBackground(qt.QBrush(qt.QColor(COLORS[status])))
        table.item(row, column).setForeground(qt.QBrush(qt.QColor("#ffffff")))


def asText(titles, rows):
    """For the clipboard, as spreadsheets take it."""
    return "".join("\t".join(row) + "\n" for row in [titles, *rows])


def asCSV(titles, rows):
    """The same as comma-separated values."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([titles, *rows])
    return buffer.getvalue()


def copy(panel, titles, rows):
    """Put a table on the clipboard."""
    slicer.app.clipboard().setText(asText(titles, rows))
    panel.showStatus(_("The table is on the clipboard."))


def save(panel, parent, title, name, titles, rows):
    """Ask for a file and write a table there as CSV."""
    path = askPath(parent, title, name, _("Comma-separated values (*.csv)"))
    if not path:
        return
    try:
        with open(path, "w", newline="", encoding="utf-8-sig") as file:  # the mark tells Excel that it is UTF-8
            file.write(asCSV(titles, rows))
    except OSError as error:
        message = _("The table could not be written ({why}): choose another place.").format(why=error.strerror)
        panel.showError({"message": message, "details": str(error)})
        return
    panel.showStatus(_("The table is in '{path}'.").format(path=path))


def askPath(parent, title, name, kinds):
    """A file to write, chosen by the user; an empty string if they thought better of it."""
    suggestion = os.path.join(slicer.mrmlScene.GetRootDirectory() or "", name)
    return qt.QFileDialog.getSaveFileName(parent, title, suggestion, kinds)

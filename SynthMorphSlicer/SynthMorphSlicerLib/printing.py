"""The report as PDF: the engine's page, brought into the simpler HTML that Qt can lay out, and printed by Qt.

Qt alone lays it out, so it works in every Slicer.  Qt's text documents know tables and pictures, but neither flowing
boxes nor drawings: rows of figures become tables, and the curve of a sweep comes as a picture of its own.
"""

import base64
import html
import struct
from html.parser import HTMLParser

import qt

from .tables import COLORS

RESOLUTION = 96  # pixels per inch, in which the page is laid out; pictures keep their own
MARGIN_MM = 9.0  # beyond those of the PDF writer
FOOTER = 18  # pixels
GAP = 6  # pixels between figures
FIGURES = 7  # in a row
SPOTS = 3  # in a row
LARGEST = {"close": 105, "seen": 330}  # width of a figure, pixels
COLUMNS = {"measures": (36, 3, 11, 8, 42)}  # per cent, so that the tables of measures line up
STYLE = """
body, p, td, th, li, span { color: #1a1f24; }
h1 { font-size: 17pt; margin: 0px; } h2 { font-size: 12.5pt; margin-top: 14px; margin-bottom: 4px; }
h3 { font-size: 10pt; color: #5b6570; margin-top: 8px; margin-bottom: 2px; }
p { margin-top: 2px; margin-bottom: 2px; }
.quiet, .caption, .note, .small, th { color: #5b6570; } .caption, .note, .small { font-size: 7.5pt; }
.notice { color: #b3261e; font-weight: bold; } strong { font-size: 12.5pt; }
.ok { color: #1b7f4b; } .look { color: #9a6200; } .bad { color: #b3261e; }
"""
DROPPED = ("style", "title", "svg")  # with all that is in them
UNKNOWN = ("!doctype", "meta", "figure", "html", "head", "body", "div")  # only themselves


def write(page, path, curve=None):
    """Print a report.

    :param page: the engine's HTML as text.  :param path: the PDF file.
    :param curve: PNG file that stands where the page has its drawing.
    :raises OSError: the file cannot be written.
    """
    with open(path, "wb"):  # or Qt would only print a warning
        pass
    device = qt.QPdfWriter(str(path))
    device.setResolution(RESOLUTION)
    device.setCreator("SynthMorphSlicer")
    rectangle = device.pageLayout().paintRectPixels(RESOLUTION)
    margin = round(MARGIN_MM / 25.4 * RESOLUTION)
    width, height = rectangle.width() - 2 * margin, rectangle.height() - 2 * margin - FOOTER
    document = qt.QTextDocument()
    font = qt.QFont("Helvetica")
    font.setPointSizeF(8.5)
    document.setDefaultFont(font)
    document.setDocumentMargin(0)
    document.setDefaultStyleSheet(STYLE)
    document.documentLayout().setPaintDevice(device)
    document.setHtml(simplified(page, width, curve))
    document.setPageSize(qt.QSizeF(width, height))
    painter = qt.QPainter()
    if not painter.begin(device):
        raise OSError(0, "the PDF cannot be begun", str(path))
    try:
        _paint(painter, device, document, margin, width, height)
    finally:
        painter.end()


def simplified(page, width, curve=None):
    """The same content in the HTML of Qt's text documents, for a page that is ``width`` pixels wide."""
    parser = _Simplifier(width, _source(open(curve, "rb").read()) if curve else "")
    parser.feed(page)
    parser.close()
    return f"<html><body>{''.join(parser.parts)}</body></html>"


def _paint(painter, device, document, margin, width, height):
    number = document.pageCount()
    for page in range(number):
        if page:
            device.newPage()
        painter.save()
        painter.translate(margin, margin - page * height)
        document.drawContents(painter, qt.QRectF(0, page * height, width, height))
        painter.restore()
        painter.setFont(document.defaultFont)
        painter.drawText(qt.QRectF(margin, margin + height, width, FOOTER), int(qt.Qt.AlignRight | qt.Qt.AlignBottom),
                         f"{page + 1} / {number}")


def _source(png):
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


class _Simplifier(HTMLParser):
    """Rewrites the engine's page tag by tag; ``parts`` is what comes out."""

    def __init__(self, width, curve):
        super().__init__(convert_charrefs=True)
        self.width, self.curve, self.parts = width, curve, []
        self._dropping = ""  # the tag whose content is left out
        self._divisions = []  # class of every div that is open
        self._figures = []  # (source, caption) of the row that is open
        self._spots = 0  # sections so far
        self._widths = []  # of the columns of the table whose first row is open, per cent
        self._tag = ""

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        kind = values.get("class", "")
        if self._dropping:
            return
        self._tag = tag
        if tag in DROPPED:
            self._dropping = tag
            if tag == "svg" and self.curve:
                self._beginPage()
                self.parts.append(f'<p><img src="{self.curve}"></p>')
        elif tag == "div":
            self._divisions.append(kind)
            if kind.startswith("verdict"):
                color = COLORS.get(kind.split()[-1], "#5b6570")
                self.parts.append(f'<table width="100%" cellspacing="0" cellpadding="6"><tr><td width="4" '
                                  f'bgcolor="{color}"></td><td bgcolor="#f5f7f9">')
            elif kind == "spots":
                self._beginPage()
                self.parts.append('<table width="100%" cellspacing="0" cellpadding="0">')
        elif tag == "section":
            start = "<tr>" if self._spots % SPOTS == 0 else ""
            self.parts.append(f'{start}<td width="{100 // SPOTS}%" valign="top">')
            self._spots += 1
        elif tag == "img":
            self._figures.append([values["src"], ""])
        elif tag == "table":
            self._widths = list(COLUMNS.get(kind, ()))
            self.parts.append('<table width="100%" cellspacing="0" cellpadding="2">')
        elif tag in ("td", "th"):
            side = "right" if "number" in kind else "left"
            width = f' width="{self._widths.pop(0)}%"' if self._widths else ""
            self.parts.append(f'<{tag} align="{side}" class="{kind}"{width}>')
        elif tag != "figcaption" and tag not in UNKNOWN:
            self.parts.append(f'<{tag} class="{kind}">' if kind else f"<{tag}>")

    def handle_endtag(self, tag):
        self._tag = ""
        if self._dropping:
            self._dropping = "" if tag == self._dropping else self._dropping
        elif tag == "div":
            kind = self._divisions.pop()
            if kind.startswith("verdict"):
                self.parts.append("</td></tr></table>")
            elif kind.startswith("panels"):
                self._row(LARGEST.get(kind.split()[-1], self.width))
            elif kind == "spots":
                self.parts.append("</table>" if self._spots % SPOTS == 0 else "</tr></table>")
        elif tag == "section":
            self.parts.append("</td></tr>" if self._spots % SPOTS == 0 else "</td>")
        elif tag not in ("figcaption", "img", *UNKNOWN):
            self.parts.append(f"</{tag}>")

    def handle_data(self, data):
        if self._dropping:
            return
        if self._figures:
            self._figures[-1][1] += data
        else:
            self.parts.append(html.escape(data.capitalize() if self._tag == "strong" else data))

    def _beginPage(self):
        """Begin a page at the heading that came last: no page ends between it and the pictures that follow."""
        if "<h2>" in self.parts:
            heading = len(self.parts) - 1 - self.parts[::-1].index("<h2>")
            self.parts[heading] = '<h2 style="page-break-before: always">'

    def _row(self, largest):
        """The figures of a row that ends here, as a table."""
        number = min(len(self._figures), FIGURES)
        for first in range(0, len(self._figures), FIGURES):
            cells = []
            for source, caption in self._figures[first:first + FIGURES]:
                width = min((self.width - GAP * number) // number, largest)
                across, down = struct.unpack(">II", base64.b64decode(source.split(",", 1)[1][:32])[16:24])
                cells.append(f'<td valign="top" width="{width + GAP}"><img src="{source}" width="{width}" '
                             f'height="{round(width * down / across)}"><br><span class="caption">'
                             f"{html.escape(caption.strip())}</span></td>")
            self.parts.append(f'<table cellspacing="0" cellpadding="0"><tr>{"".join(cells)}</tr></table>'
                              '<p style="font-size: 4pt"></p>')
        self._figures = []

"""The curve of a lambda sweep as a picture: how alike the images become, against how rough the warp gets for it."""

import qt
from slicer.i18n import tr as _

from .job import isSameLambda

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 62, 56, 14, 40
INK, QUIET, LINE, MARKED = "#1a1f24", "#5b6570", "#2b6cb0", "#d9480f"
RADIUS = 4


def measured(points):
    """Name of what is drawn upwards and the points that have it: Dice when all have it, else similarity."""
    key, name = (("dice", _("Mean Dice")) if points and all(point["dice"] is not None for point in points)
                 else ("similarity", _("Mutual information (normalised)")))
    return name, [(point["sd_log"], point[key], point["regularization"]) for point in points
                  if point["sd_log"] is not None and point[key] is not None]


def draw(points, regularization=None):
    """A pixmap of the points of a sweep, joined in the order of lambda; the one with ``regularization`` is marked."""
    name, known = measured(points)
    pixmap = qt.QPixmap(WIDTH, HEIGHT)
    pixmap.fill(qt.QColor("#ffffff"))
    painter = qt.QPainter()
    painter.begin(pixmap)
    painter.setRenderHint(qt.QPainter.Antialiasing)
    font = qt.QFont()
    font.setPixelSize(11)
    painter.setFont(font)
    across, up = _Axis([x for x, _y, _l in known], LEFT, WIDTH - RIGHT), _Axis([y for _x, y, _l in known],
                                                                               HEIGHT - BOTTOM, TOP)
    _axes(painter, across, up, name)
    places = [(across.place(x), up.place(y)) for x, y, _l in known]
    painter.setPen(qt.QPen(qt.QColor(LINE), 2))
    for (x0, y0), (x1, y1) in zip(places, places[1:]):
        painter.drawLine(x0, y0, x1, y1)
    for (x, y), (_x, _y, value) in zip(places, known):
        isMarked = regularization is not None and isSameLambda(value, regularization)
        painter.setPen(qt.QPen(qt.QColor(MARKED if isMarked else LINE), 2))
        painter.setBrush(qt.QBrush(qt.QColor(MARKED if isMarked else LINE)))
        painter.drawEllipse(x - RADIUS, y - RADIUS, 2 * RADIUS, 2 * RADIUS)
        painter.setPen(qt.QPen(qt.QColor(INK)))
        painter.drawText(x + 7, y - 5, f"\u03bb {value:g}")
    painter.end()
    return pixmap


class _Axis:
    """From values to pixels, with a margin beyond the values."""

    def __init__(self, values, first, last):
        low, high = min(values, default=0.0), max(values, default=1.0)
        margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        self.low, self.high, self.first, self.last = low - margin, high + margin, first, last

    def place(self, value):
        return round(self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first))

    def ticks(self):
        return [self.low + part * (self.high - self.low) for part in (0.0, 0.5, 1.0)]


def _axes(painter, across, up, name):
    painter.setPen(qt.QPen(qt.QColor(QUIET)))
    painter.drawLine(LEFT, TOP, LEFT, HEIGHT - BOTTOM)
    painter.drawLine(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM)
    centered, right = int(qt.Qt.AlignCenter), int(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    for value in across.ticks():
        painter.drawText(qt.QRect(across.place(value) - 30, HEIGHT - BOTTOM + 3, 60, 14), centered, f"{value:.3g}")
    for value in up.ticks():
        painter.drawText(qt.QRect(16, up.place(value) - 8, LEFT - 22, 16), right, f"{value:.4g}")
    painter.setPen(qt.QPen(qt.QColor(INK)))
    painter.drawText(qt.QRect(LEFT, HEIGHT - 20, WIDTH - LEFT - RIGHT, 16), centered, _("SD of log J"))
    painter.save()
    painter.translate(2, HEIGHT - BOTTOM)
    painter.rotate(-90)
    painter.drawText(qt.QRect(0, 0, HEIGHT - TOP - BOTTOM, 16), centered, name)
    painter.restore()

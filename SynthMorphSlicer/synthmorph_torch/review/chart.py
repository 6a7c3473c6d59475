"""A curve as SVG: no drawing library needed, sharp in print."""
from __future__ import annotations

import html
from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 280, 64, 40, 16, 44
INK, QUIET, LINE = "#1a1f24", "#5b6570", "#1f5ac8"


def curve(points: Sequence[tuple[float, float, str]], across: str, up: str) -> str:
    """A line through labelled points, in the order in which they are given.

    Args:
        points: x, y and label of each.
        across, up: what the axes mean.
    """
    if not points:
        return ""
    (x0, x1), (y0, y1) = _limits([x for x, _, _ in points]), _limits([y for _, y, _ in points])

    def place(x: float, y: float) -> tuple[float, float]:
        return (LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM))

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(up)} against '
             f'{html.escape(across)}" font-family="sans-serif" font-size="11">',
             f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="{QUIET}"/>']
    for part in (0.0, 0.5, 1.0):
        x, y = x0 + part * (x1 - x0), y0 + part * (y1 - y0)
        px, py = place(x, y)
        parts += [f'<text x="{px:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle" fill="{QUIET}">{x:.3g}</text>',
                  f'<text x="{LEFT - 6}" y="{py + 4:.1f}" text-anchor="end" fill="{QUIET}">{y:.4g}</text>']
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts += [f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle" fill="{INK}">'
              f"{html.escape(across)}</text>",
              f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle" fill="{INK}">'
              f"{html.escape(up)}</text>"]
    places = [place(x, y) for x, y, _ in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{LINE}" stroke-width="2"/>')
    for (x, y), (_, _, label) in zip(places, points, strict=True):
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{LINE}"/>',
                  f'<text x="{x + 7:.1f}" y="{y + 14:.1f}" fill="{INK}">{html.escape(label)}</text>']
    return "".join([*parts, "</svg>"])


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """The range of an axis, a little wider than the values."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin

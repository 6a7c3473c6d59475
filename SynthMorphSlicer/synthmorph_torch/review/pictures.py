"""Pictures of a registration as PNG, drawn with numpy alone: inside Slicer there is no matplotlib."""
from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .. import montage
from ..geometry import Space
from .case import Case
from .hotspots import HotSpot

Floats = NDArray[np.float64]
Colours = NDArray[np.uint8]
ORANGE, CYAN, RED, BLUE = ((255, 150, 40), (120, 200, 255), (214, 39, 40), (31, 90, 200))
SQUARE_MM = 18.0  # of the checkerboard
CLOSE_MM, CLOSE_PIXEL = 70.0, 0.5  # width of a close-up, and of its pixels
SPREAD = np.log(2.0)  # natural logarithm of J at the ends of the colour scale: half and double


@dataclass(frozen=True)
class Picture:
    """A PNG with words beside it; ``group`` keeps those together that belong together."""

    caption: str
    png: bytes
    group: str = ""


def png(pixels: Colours) -> bytes:
    """RGB pixels (rows, columns, 3) uint8 as PNG."""
    height, width, _ = pixels.shape
    raw = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9))
            + chunk(b"IEND", b""))


def pictures(case: Case) -> list[Picture]:
    """Three planes through the middle of the fixed image, each in six ways."""
    affine = case.affine
    rows = [montage.picture(plane, case.fixed, case.moving, case.forward, case.before, affine)
            for plane in montage.planes_through(case.fixed)]
    still = window([row.fixed for row in rows])
    moved = window([row.before for row in rows] + [row.after for row in rows])
    result = []
    for row in rows:
        for caption, pixels in _panels(row, still, moved):
            result.append(Picture(caption, png(pixels), row.plane.name))
    return result


def _panels(row: montage.Picture, still: tuple[float, float], moved: tuple[float, float]
            ) -> Iterator[tuple[str, Colours]]:
    fixed, after = grey(row.fixed, still), grey(row.after, moved)
    edge = outline(row.fixed)
    yield "fixed", fixed
    yield "before", painted(grey(row.before, moved), edge, ORANGE)
    yield "after", painted(after, edge, ORANGE)
    yield "checkerboard", np.where(checker(row.plane)[..., None], after, fixed)
    yield "difference", diverging(row.difference, 0.6 * (still[1] - still[0]))
    inside = montage.content(row.fixed)
    yield "volume change", np.where(inside[..., None], diverging(row.log_jacobian, SPREAD), fixed // 3)
    yield "warped grid", painted(fixed // 2, grid_lines(row), CYAN)


def window(images: list[Floats]) -> tuple[float, float]:
    """Grey values shown as black and white."""
    values = np.concatenate([image[np.isfinite(image)].ravel() for image in images])
    if not values.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.quantile(values, (0.005, 0.998)))
    return low, high if high > low else low + 1


def grey(image: Floats, shown: tuple[float, float]) -> Colours:
    """Pixels between two grey values as RGB; black where there is nothing."""
    scaled = (np.nan_to_num(image, nan=shown[0]) - shown[0]) / (shown[1] - shown[0])
    return np.repeat((255 * np.clip(scaled, 0, 1)).astype(np.uint8)[..., None], 3, axis=-1)


def diverging(values: Floats, spread: float) -> Colours:
    """Blue below zero, white at zero, red above; light grey where there is no value."""
    part = np.clip(np.nan_to_num(values) / spread, -1, 1)[..., None]
    end = np.where(part > 0, np.array(RED, float), np.array(BLUE, float))
    colour = 255 + (end - 255) * np.abs(part)
    return np.where(np.isfinite(values)[..., None], colour, 235).astype(np.uint8)


def outline(image: Floats) -> NDArray[np.bool_]:
    """The edge of the content, smoothed as an eye would draw it."""
    mask = sitk.GetImageFromArray(montage.content(image).astype(np.float32))
    return border(sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(mask, 2.0)) > 0.5)


def border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask beside one outside it."""
    inner = mask.copy()
    for axis in (0, 1):
        for step in (1, -1):
            inner &= np.roll(mask, step, axis)
    return mask & ~inner


def painted(pixels: Colours, where: NDArray[np.bool_], colour: tuple[int, int, int]) -> Colours:
    """A copy with a colour in some places."""
    result = pixels.copy()
    result[where] = colour
    return result


def checker(plane: montage.Plane) -> NDArray[np.bool_]:
    """Squares of 18 mm in turn."""
    columns, rows, _ = plane.space.shape
    x, y = (np.floor(np.arange(n) * s / SQUARE_MM).astype(int)
            for n, s in zip((columns, rows), plane.space.spacing, strict=False))
    return (y[:, None] + x[None, :]) % 2 == 1


def grid_lines(row: montage.Picture) -> NDArray[np.bool_]:
    """Where lines of equal origin run: a regular grid of the affinely aligned moving image, bent by the warp."""
    matrix = row.plane.space.matrix
    lines = np.zeros(row.fixed.shape, bool)
    for axis in (0, 1):
        direction = matrix[:3, axis] / np.linalg.norm(matrix[:3, axis])
        cell = np.floor((row.grid - matrix[:3, 3]) @ direction / montage.GRID_MM)
        lines[:, 1:] |= cell[:, 1:] != cell[:, :-1]
        lines[1:] |= cell[1:] != cell[:-1]
    return lines


def close_ups(case: Case, spots: list[HotSpot]) -> list[Picture]:
    """Fixed and moved image around each hot spot, in the axial plane, with a cross on it."""
    result = []
    still, moved = (window([sitk.GetArrayViewFromImage(image)[::4, ::4, ::4].astype(float)])
                    for image in (case.fixed, case.moving))
    for number, spot in enumerate(spots):
        plane = _close_plane(spot)
        for caption, image, transform, shown in (("fixed", case.fixed, None, still),
                                                 ("moved", case.moving, case.forward, moved)):
            pixels = grey(montage.slice_of(image, plane, transform), shown)
            result.append(Picture(caption, png(painted(pixels, _cross(pixels.shape[0]), ORANGE)), str(number)))
    return result


def _close_plane(spot: HotSpot) -> montage.Plane:
    n = round(CLOSE_MM / CLOSE_PIXEL)
    matrix = np.diag([CLOSE_PIXEL, CLOSE_PIXEL, CLOSE_PIXEL, 1.0])
    matrix[:3, 3] = np.array(spot.point) - [CLOSE_PIXEL * n / 2, CLOSE_PIXEL * n / 2, 0]
    return montage.Plane("axial", Space((n, n, 1), matrix))


def _cross(size: int) -> NDArray[np.bool_]:
    """Four arms that leave the middle free, so that one sees what is there."""
    lines = np.zeros((size, size), bool)
    middle = size // 2
    arms = np.r_[middle - 16:middle - 4, middle + 5:middle + 17]
    lines[middle, arms] = lines[arms, middle] = True
    return lines

"""One picture of a registration: fixed, moving before and after, difference, Jacobian, warped grid.

Rows are axial, coronal and sagittal planes through the middle of the fixed image's content, shown as radiologists do
(the patient's left is on the right). All panels lie on the fixed image's world, so that they can be compared by eye.
"""
from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from . import files, quality, transforms
from .geometry import Space, transform_points
from .images import foreground

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
PLANES = ("axial", "coronal", "sagittal")
PANELS = ("fixed", "moving before", "moving after", "difference", "volume change", "warped grid")
GRID_MM = 8.0  # distance between the lines of the warped grid
INK, PAPER, ACCENT = "#e8e8e8", "#101418", "#ffb347"


@dataclass(frozen=True)
class Plane:
    """A plane of pixels in the world: pixel (column, row) lies at ``space`` index (column, row, 0)."""

    name: str
    space: Space

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height."""
        width, height, _ = (float(n * s) for n, s in zip(self.space.shape, self.space.spacing, strict=True))
        return width, height


def planes_through(image: sitk.Image) -> list[Plane]:
    """Three planes in anatomical orientation through the middle of an image's content, cropped to it.

    Columns run from right to left (axial, coronal) or anterior to posterior (sagittal), rows from anterior to
    posterior or superior to inferior: pictures of the head as one expects them, whatever the orientation of the voxels.
    """
    space = Space.of(image)
    inside = np.argwhere(sitk.GetArrayFromImage(foreground(image)).transpose(2, 1, 0))
    world = space.to_world(inside if len(inside) else np.array([[0, 0, 0], space.shape]))
    low, high = np.percentile(world, 0.2, axis=0) - 8, np.percentile(world, 99.8, axis=0) + 8
    middle = (low + high) / 2
    aside = middle + [8.0, 0.0, 0.0]  # between the hemispheres there is little to see
    pixel = float(np.clip(np.min(space.spacing), 0.5, 1.0))
    down = np.array([0.0, 0.0, -1.0])
    axes = {"axial": (np.array([1.0, 0, 0]), np.array([0, 1.0, 0])), "coronal": (np.array([1.0, 0, 0]), down),
            "sagittal": (np.array([0, 1.0, 0]), down)}
    planes = []
    for name, (column, row) in axes.items():
        width, height = (float(np.abs(axis) @ (high - low)) for axis in (column, row))
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([column, row, np.cross(column, row)], axis=1) * pixel
        matrix[:3, 3] = (aside if name == "sagittal" else middle) - column * width / 2 - row * height / 2
        planes.append(Plane(name, Space((round(width / pixel), round(height / pixel), 1), matrix)))
    return planes


def slice_of(image: sitk.Image, plane: Plane, transform: sitk.Transform | None = None) -> Floats:
    """Pixels (rows, columns) of an image in a plane, seen through a pull transform; NaN outside its field of view."""
    transform = transform or sitk.Transform(3, sitk.sitkIdentity)
    moved = transforms.apply(transform, sitk.Cast(image, sitk.sitkFloat32), plane.space, "linear", float("nan"))
    return sitk.GetArrayFromImage(moved)[0].astype(np.float64)


def points_of(plane: Plane, transform: sitk.Transform) -> Floats:
    """Where a transform takes the pixels of a plane, (rows, columns, 3) LPS millimetres."""
    shift = sitk.GetArrayFromImage(transforms.to_displacement_field(transform, plane.space))[0]
    columns, rows = np.meshgrid(np.arange(plane.space.shape[0]), np.arange(plane.space.shape[1]))
    return plane.space.to_world(np.stack([columns, rows, np.zeros_like(rows)], axis=-1)) + shift


def explain_intensities(moved: Floats, fixed: Floats, where: NDArray[np.bool_], bins: int = 48) -> Floats:
    """Give a moved image the intensities of the fixed one: the mean fixed value of every moved value.

    A plain difference of two contrasts would show the contrast, not the misalignment.

    Args:
        moved, fixed: pixels (any shape).
        where: pixels from which to learn the relation.
    """
    if np.count_nonzero(where) < bins:
        return moved
    edges = np.quantile(moved[where], np.linspace(0, 1, bins + 1)[1:-1])
    index = np.searchsorted(edges, moved)
    count = np.bincount(index[where], minlength=bins)
    mean = np.bincount(index[where], weights=fixed[where], minlength=bins) / np.maximum(count, 1)
    return np.interp(np.arange(bins), np.flatnonzero(count), mean[count > 0])[index]


def difference(moved: Floats, fixed: Floats) -> Floats:
    """Moved minus fixed image on the fixed image's scale of grey values; NaN where both are background."""
    inside, covered = content(fixed), content(moved)
    moved, fixed = np.nan_to_num(moved), np.nan_to_num(fixed)
    background = 0.0 if inside.all() else float(fixed[~inside].mean())
    explained = np.where(covered, explain_intensities(moved, fixed, inside & covered), background)
    return np.where(inside | covered, explained - fixed, np.nan)


@dataclass
class Picture:
    """All that the panels of one plane show."""

    plane: Plane
    fixed: Floats
    before: Floats
    after: Floats
    difference: Floats
    log_jacobian: Floats
    grid: Floats  # (rows, columns, 3): where points come from, without the affine part


def picture(plane: Plane, fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform,
            before: sitk.Transform | None, affine: Floats) -> Picture:
    """Compute the panels of one plane; only this plane is resampled, so that pictures cost next to nothing."""
    still = slice_of(fixed, plane)
    after = slice_of(moving, plane, transform)
    straight = transform_points(np.linalg.inv(affine), points_of(plane, transform))
    normal = plane.space.matrix[:3, 2]
    thick = Space((*plane.space.shape[:2], 3), _shifted(plane.space.matrix, -normal))
    jacobian = sitk.GetArrayFromImage(quality.jacobian_map(transform, thick, log=True))[1].astype(np.float64)
    return Picture(plane, still, slice_of(moving, plane, before), after,
                   difference(after, still), jacobian, straight)


def _shifted(matrix: Floats, by: Floats) -> Floats:
    shifted = matrix.copy()
    shifted[:3, 3] += by
    return shifted


def draw(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform, title: str = "",
         before: sitk.Transform | None = None) -> Figure:
    """Draw the montage.

    Args:
        fixed, moving: the images.
        transform: fixed to moving.
        title: a line above the pictures.
        before: alignment shown as "before"; by default that of the headers.
    """
    from matplotlib.figure import Figure

    planes = planes_through(fixed)
    affine = transforms.linear_part(transform)
    if affine is None:
        affine = _least_squares(planes, transform)
    rows = [picture(plane, fixed, moving, transform, before, affine) for plane in planes]
    heights = [plane.size_mm[1] for plane in planes]
    widest = max(plane.size_mm[0] for plane in planes)
    cell = 2.6  # inches
    figure = Figure(figsize=(cell * len(PANELS), cell * sum(heights) / widest + 0.8), dpi=110, facecolor=PAPER)
    top, bottom = 1 - (0.5 if title else 0.3) / figure.get_figheight(), 0.42 / figure.get_figheight()
    axes = figure.subplots(len(planes), len(PANELS), squeeze=False, gridspec_kw={
        "height_ratios": heights, "wspace": 0.02, "hspace": 0.02, "left": 0.005, "right": 0.995, "top": top,
        "bottom": bottom})
    shown = {name: _window([getattr(row, name) for row in rows]) for name in ("fixed", "before", "after")}
    shown["before"] = shown["after"] = _window([row.before for row in rows] + [row.after for row in rows])
    spread = max(0.2, float(np.nanquantile(np.abs(np.concatenate(
        [row.log_jacobian[content(row.fixed)] for row in rows])), 0.995)))
    contrast = shown["fixed"][1] - shown["fixed"][0]
    for number, row in enumerate(rows):
        _draw_row(axes[number], row, shown, contrast, spread)
    for panel, name in zip(axes[0], PANELS, strict=True):
        panel.set_title(name, color=INK, fontsize=11, pad=4)
    _scale_bar(figure, axes[-1][4], spread)
    if title:
        figure.suptitle(title, color=INK, fontsize=12, y=1 - 0.05 / figure.get_figheight(), va="top")
    return figure


def _draw_row(axes: NDArray[Any], row: Picture, shown: dict[str, tuple[float, float]], contrast: float, spread: float
              ) -> None:
    inside = content(row.fixed)
    for panel, name in zip(axes, ("fixed", "before", "after"), strict=False):
        low, high = shown[name]
        pixels = np.nan_to_num(getattr(row, name), nan=low)
        panel.imshow(pixels, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
        if name != "fixed":
            _outline(panel, inside)
    axes[3].imshow(row.difference, cmap="RdBu_r", vmin=-0.6 * contrast, vmax=0.6 * contrast, interpolation="bilinear")
    low, high = shown["fixed"]
    axes[4].imshow(np.nan_to_num(row.fixed, nan=low), cmap="gray", vmin=low, vmax=high)
    axes[4].imshow(np.where(inside, row.log_jacobian, np.nan), cmap="RdBu_r", vmin=-spread, vmax=spread,
                   interpolation="nearest", alpha=0.85)
    _draw_grid(axes[5], row)
    for panel in axes:
        panel.set(xticks=[], yticks=[], facecolor=PAPER)
        panel.set_anchor("C")
        for side in panel.spines.values():
            side.set_visible(False)


def _draw_grid(panel: Axes, row: Picture) -> None:
    """Lines of equal origin: where a regular grid of the (affinely aligned) moving image ends up."""
    panel.imshow(np.nan_to_num(row.fixed), cmap="gray", alpha=0.35)
    matrix = row.plane.space.matrix
    for axis in (0, 1):
        direction = matrix[:3, axis] / np.linalg.norm(matrix[:3, axis])
        position = (row.grid - matrix[:3, 3]) @ direction
        levels = np.arange(np.ceil(position.min() / GRID_MM), position.max() / GRID_MM) * GRID_MM
        panel.contour(position, levels=levels, colors="#7fd4ff", linewidths=0.7)


def _outline(panel: Axes, inside: NDArray[np.bool_]) -> None:
    """The contour of the fixed image's content, to judge alignment by."""
    mask = sitk.GetImageFromArray(inside.astype(np.float32))
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(mask, 2.0))
    if smooth.min() < 0.5 < smooth.max():
        panel.contour(smooth, levels=[0.5], colors=ACCENT, linewidths=0.8)


def content(pixels: Floats) -> NDArray[np.bool_]:
    """What is not background, holes filled; a little more generous than :func:`.images.foreground`."""
    finite = np.nan_to_num(pixels, nan=float(np.nanmin(pixels)) if np.isfinite(pixels).any() else 0.0)
    low, high = finite.min(), np.percentile(finite, 99.5)
    mask = sitk.GetImageFromArray((finite > low + 0.06 * (high - low)).astype(np.uint8))
    closed = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(mask, [3, 3]))
    opened = sitk.BinaryMorphologicalOpening(closed, [2, 2])
    return sitk.GetArrayFromImage(opened).astype(bool)


def _window(pictures: list[Floats]) -> tuple[float, float]:
    """Grey values shown as black and white."""
    values = np.concatenate([p[np.isfinite(p)] for p in pictures])
    if not values.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.quantile(values, (0.005, 0.998)))
    return low, high if high > low else low + 1


def _scale_bar(figure: Figure, panel: Axes, spread: float) -> None:
    """Colour scale below the Jacobian panels, labelled with factors rather than logarithms."""
    box = panel.get_position()
    height = figure.get_figheight()
    axes = figure.add_axes((box.x0 + 0.15 * box.width, 0.3 / height, 0.7 * box.width, 0.09 / height))
    axes.imshow(np.linspace(-spread, spread, 256)[None], aspect="auto", cmap="RdBu_r", extent=(-spread, spread, 0, 1))
    ticks = (-spread, 0.0, spread)
    axes.set_yticks([])
    axes.set_xticks(ticks, [f"×{np.exp(t):.2g}" for t in ticks], color=INK, fontsize=8)
    axes.tick_params(length=0, pad=2)
    for side in axes.spines.values():
        side.set_visible(False)


def _least_squares(planes: list[Plane], transform: sitk.Transform) -> Floats:
    """(4, 4) affine closest to a transform over three planes."""
    identity = sitk.Transform(3, sitk.sitkIdentity)
    source, target = (np.concatenate([points_of(p, t)[::4, ::4].reshape(-1, 3) for p in planes])
                      for t in (identity, transform))
    solution = np.linalg.lstsq(np.column_stack([source, np.ones(len(source))]), target, rcond=None)[0]
    matrix = np.eye(4)
    matrix[:3] = solution.T
    return matrix


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor())
    return buffer.getvalue()


def write_montage(path: str | Path, fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform, title: str = "",
                  before: sitk.Transform | None = None) -> None:
    """Write the picture of :func:`draw` as PNG, whole or not at all."""
    files.check_output_path(path, "png")
    content = png(draw(fixed, moving, transform, title, before))
    with files.replacing(path) as temporary:
        temporary.write_bytes(content)

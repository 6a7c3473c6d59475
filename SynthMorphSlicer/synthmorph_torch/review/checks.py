"""Checks that need no ground truth: can this be a registration of two brains at all?

Three questions. Is the affine part one that turns a head into a head? Does what the fixed image shows still have a
partner in the moving one? And do edges meet edges: are the directions of the two images' gradients alike where the
result puts them, and less alike a centimetre beside it? The last one holds for any two contrasts. The likeness of
directions is the squared cosine of Haber and Modersitzki's normalised gradient fields (Methods of Information in
Medicine 46, 292-299, 2007), averaged over the edges of the fixed image; unrelated directions give 1/3.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .. import transforms
from ..geometry import Matrix, Space
from .case import Case, filled

WORK_MM = 2.5  # grid of the comparison
SMOOTH_MM = 2.0
NEAR_MM, FAR_MM = 10.0, 25.0  # shifts that a good alignment beats, and that tell what chance gives
MARGIN_MM = 6.0  # from the outline of the fixed content: the outline alone is no proof
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AffineShape:
    """What a (4, 4) matrix does: ``scales`` are its singular values, ascending; ``degrees`` the angle it turns by."""

    flips: bool
    scales: tuple[float, float, float]
    degrees: float

    @classmethod
    def of(cls, matrix: Matrix) -> AffineShape:
        """Decompose the linear part into a rotation and stretches (polar decomposition)."""
        left, scales, right = np.linalg.svd(matrix[:3, :3])
        rotation = left @ right
        flips = bool(np.linalg.det(rotation) < 0)
        trace = np.trace(-rotation if flips else rotation)
        angle = float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))
        low, middle, high = sorted(float(s) for s in scales)
        return cls(flips, (low, middle, high), angle)

    @property
    def stretch(self) -> float:
        """How much more the most stretched direction grows than the least; a shear shows here, too."""
        return self.scales[2] / max(self.scales[0], 1e-9)


@dataclass(frozen=True)
class Overlap:
    """Shares of the fixed content: ``seen`` lies in the moving image's field of view, ``met`` meets its content.

    ``contained`` is the common part as a share of the smaller of the two contents: near 1 for a brain in a head.
    ``lopsided`` is how far, as a share of the fixed content's size, the common part lies off its middle.
    """

    seen: float
    met: float
    contained: float
    lopsided: float


def overlap(case: Case) -> Overlap:
    """Compare where the two contents are, on a grid of about 2.5 mm around the fixed content."""
    grid = working_grid(case)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    fixed = _mask(identity, case.foreground, grid)
    seen = _seen(case, grid)
    moving = _mask(case.forward, filled(case.moving), grid)
    both, size = fixed & moving, max(int(fixed.sum()), 1)
    if not both.any():
        return Overlap(float((fixed & seen).sum() / size), 0.0, 0.0, 1.0)
    points, common = (np.argwhere(mask) for mask in (fixed, both))
    spread = np.ptp(points, axis=0) + 1
    lopsided = float(np.abs((common.mean(0) - points.mean(0)) / spread)[2])  # left to right; heads are not even else
    return Overlap(float((fixed & seen).sum() / size), float(both.sum() / size),
                   float(both.sum() / max(min(fixed.sum(), moving.sum()), 1)), lopsided)


@dataclass(frozen=True)
class Edges:
    """Likeness of gradient directions: ``here``, the best of ``beside`` (1 cm away), and ``chance`` (2.5 cm away)."""

    here: float
    beside: float
    chance: float

    @property
    def gain(self) -> float:
        """How much better than chance."""
        return self.here - self.chance


def edges(case: Case) -> Edges:
    """Compare the directions of edges where the registration puts them, and where it does not."""
    grid = working_grid(case)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    fixed, moved = (_smooth(image, grid, transform)
                    for image, transform in ((case.fixed, identity), (case.moving, case.forward)))
    inside = _mask(identity, case.foreground, grid)
    depth = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(
        grid.image(inside.astype(np.uint8)), insideIsPositive=True, squaredDistance=False, useImageSpacing=True))
    seen = _seen(case, grid)
    one, other = _directions(fixed), _directions(moved)
    weight = np.where(depth > MARGIN_MM, np.linalg.norm(_gradient(fixed), axis=-1), 0.0)
    strong = weight > np.quantile(weight[weight > 0], 0.5) if (weight > 0).any() else weight > 0

    def likeness(shift: tuple[int, ...]) -> float:
        there = np.roll(other, shift, axis=(0, 1, 2))
        where = strong & np.roll(seen, shift, axis=(0, 1, 2))
        return float(((one * there).sum(-1)[where] ** 2).mean()) if where.any() else 0.0

    near, far = (round(mm / WORK_MM) for mm in (NEAR_MM, FAR_MM))
    shifts = [tuple(int(s) for s in sign * np.eye(3, dtype=int)[axis]) for axis in range(3) for sign in (1, -1)]
    beside = max(likeness(tuple(near * s for s in shift)) for shift in shifts)
    chance = float(np.mean([likeness(tuple(far * s for s in shift)) for shift in shifts]))
    return Edges(likeness((0, 0, 0)), beside, chance)


def working_grid(case: Case) -> Space:
    """An axis-parallel grid of 2.5 mm around the fixed content, axes of the world."""
    mask = sitk.GetArrayViewFromImage(case.foreground)[::2, ::2, ::2]
    points = Space.of(case.fixed).to_world(2 * np.argwhere(mask)[:, ::-1])
    low, high = points.min(0) - 3 * WORK_MM, points.max(0) + 3 * WORK_MM
    matrix = np.diag([WORK_MM] * 3 + [1.0])
    matrix[:3, 3] = low
    x, y, z = (int(n) for n in np.ceil((high - low) / WORK_MM) + 1)
    return Space((x, y, z), matrix)


def _mask(transform: sitk.Transform, mask: sitk.Image, grid: Space) -> NDArray[np.bool_]:
    return sitk.GetArrayFromImage(transforms.apply(transform, mask, grid, "nearest")) != 0


def _seen(case: Case, grid: Space) -> NDArray[np.bool_]:
    """Which points of the grid lie in the moving image's field of view."""
    everywhere = sitk.Image(case.moving.GetSize(), sitk.sitkUInt8) + 1
    everywhere.CopyInformation(case.moving)
    return _mask(case.forward, everywhere, grid)


def is_thin(image: sitk.Image) -> bool:
    """True if an image has too few voxels along an axis, its own or those of the working grid, to be smoothed."""
    return any(min(n, n * s / WORK_MM) < 4 for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True))


def _smooth(image: sitk.Image, grid: Space, transform: sitk.Transform) -> Floats:
    """An image on the working grid, free of detail that the grid cannot hold; (Z, Y, X)."""
    plain = sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), [0.4 * WORK_MM] * 3)
    low = float(sitk.GetArrayViewFromImage(plain).min())
    resampled = transforms.apply(transform, plain, grid, fill=low)
    return sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(resampled, [SMOOTH_MM] * 3)).astype(np.float64)


def _gradient(volume: Floats) -> Floats:
    return np.stack([np.gradient(volume, axis=axis) for axis in range(3)], axis=-1)


def _directions(volume: Floats) -> Floats:
    """Unit vectors of the gradient, shorter where there is next to no edge; (Z, Y, X, 3)."""
    gradient = _gradient(volume)
    length = np.linalg.norm(gradient, axis=-1, keepdims=True)
    floor = 0.1 * np.quantile(length, 0.9) + 1e-12
    return gradient / np.sqrt(length**2 + floor**2)

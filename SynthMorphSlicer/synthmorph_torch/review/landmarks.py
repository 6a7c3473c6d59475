"""Pairs of points: how far a registration misses them, and a local correction that meets them.

The correction C is the flow of a velocity field v that is a sum of smooth kernels at the landmarks, so it is invertible
whatever the points ask for, and does nothing farther from them than the radius of a kernel. The new transform is
``p -> T(C(p))``; the old one stays as it was, so undoing is keeping it. Kernel: Wendland's function of minimal degree
in three dimensions with two derivatives, (1 - r)^4 (4 r + 1) (Advances in Computational Mathematics 4, 389-396, 1995),
which is positive definite.
"""
from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from .. import files, transforms
from ..errors import ImageError, UsageError
from ..geometry import Matrix, Space

RADIUS = 40.0  # mm within which a landmark has influence
SPACING = 2.0  # mm between the voxels of the correction's field
STEPS = 12  # of the integration
ROUNDS = 30  # of adapting the velocity to the flow it makes
RIDGE = 1e-3  # relative to the kernel's value at the landmark itself
MAX_VOXELS = 6_000_000
SMALLEST_JACOBIAN = 0.05
COLUMNS = ("name", "fixed_l", "fixed_p", "fixed_s", "moving_l", "moving_p", "moving_s")


@dataclass(frozen=True)
class Landmarks:
    """Corresponding points: ``fixed`` and ``moving`` are (N, 3) LPS millimetres."""

    fixed: Matrix
    moving: Matrix
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.fixed.shape != self.moving.shape or self.fixed.ndim != 2 or self.fixed.shape[1] != 3:
            raise UsageError(f"There are {len(self.fixed)} landmarks in the fixed and {len(self.moving)} in the moving "
                             "image: every point needs its partner.")
        if not (np.isfinite(self.fixed).all() and np.isfinite(self.moving).all()):
            raise UsageError("A landmark has no position: place it or remove it.")

    def __len__(self) -> int:
        return len(self.fixed)

    def name(self, index: int) -> str:
        """What a pair is called."""
        return self.names[index] if index < len(self.names) and self.names[index] else f"{index + 1}"

    @classmethod
    def pair(cls, fixed: ArrayLike, moving: ArrayLike, names: tuple[str, ...] = ()) -> Landmarks:
        """Pairs from two lists of points."""
        first, second = (np.asarray(p, dtype=np.float64).reshape(-1, 3) for p in (fixed, moving))
        return cls(first, second, names)


def errors(forward: sitk.Transform, landmarks: Landmarks) -> NDArray[np.float64]:
    """Target registration error of each pair, (N,) mm: distance from T(fixed point) to the moving point.

    Args:
        forward: fixed to moving.
        landmarks: the pairs.
    """
    if not len(landmarks):
        return np.zeros(0)
    return np.linalg.norm(transforms.apply_to_points(forward, landmarks.fixed) - landmarks.moving, axis=-1)


@dataclass(frozen=True)
class Correction:
    """A corrected registration: transforms, errors in mm before and after, and the correction's smallest Jacobian."""

    forward: sitk.Transform
    backward: sitk.Transform
    errors_before: NDArray[np.float64]
    errors_after: NDArray[np.float64]
    smallest_jacobian: float


def correct(forward: sitk.Transform, backward: sitk.Transform, landmarks: Landmarks, radius: float = RADIUS,
            spacing: float = SPACING) -> Correction:
    """Bend a registration near landmarks so that it meets them, without folding.

    Args:
        forward: fixed to moving. backward: its opposite.
        landmarks: the pairs; points beside each other that ask for opposite things are met half-way.
        radius: how far, in mm, a landmark has influence.
        spacing: voxels of the field in which the correction is stored, mm.

    Returns:
        New transforms; those given are not changed.

    Raises:
        UsageError: no landmarks, or a radius of zero or below.
    """
    if not len(landmarks):
        raise UsageError("There are no landmarks to correct by: place at least one pair.")
    if radius <= 0:
        raise UsageError(f"A radius of {radius:g} mm corrects nothing: choose one above 0, for example {RADIUS:g}.")
    targets = transforms.apply_to_points(backward, landmarks.moving)
    weights = _fit_velocity(landmarks.fixed, targets, radius)
    grid = _grid(landmarks.fixed, radius, spacing)
    while True:
        there, smallest = _flow_field(grid, landmarks.fixed, weights, radius)
        back, other = _flow_field(grid, landmarks.fixed, -weights, radius)
        if min(smallest, other) > SMALLEST_JACOBIAN:
            break
        weights = weights * 0.8  # the flow is invertible, but its samples on a grid need not be
    new_forward = _joined(forward, there)
    new_backward = _joined(back, backward)
    return Correction(new_forward, new_backward, errors(forward, landmarks), errors(new_forward, landmarks),
                      min(smallest, other))


def _kernel(points: Matrix, centers: Matrix, radius: float) -> Matrix:
    r = np.minimum(np.linalg.norm(points[:, None] - centers[None], axis=-1) / radius, 1.0)
    return (1 - r) ** 4 * (4 * r + 1)


def _flow(points: Matrix, centers: Matrix, weights: Matrix, radius: float) -> Matrix:
    """Where points are after following the velocity for unit time (classical Runge-Kutta)."""
    def velocity(p: Matrix) -> Matrix:
        return _kernel(p, centers, radius) @ weights

    h = 1.0 / STEPS
    for _ in range(STEPS):
        a = velocity(points)
        b = velocity(points + h / 2 * a)
        c = velocity(points + h / 2 * b)
        d = velocity(points + h * c)
        points = points + h / 6 * (a + 2 * b + 2 * c + d)
    return points


def _fit_velocity(source: Matrix, target: Matrix, radius: float) -> Matrix:
    """Weights (N, 3) of the kernels whose flow takes the source points to the target points, or near them."""
    solve = np.linalg.inv(_kernel(source, source, radius) + RIDGE * np.eye(len(source)))
    weights = solve @ (target - source)
    best, least = weights, np.inf
    for _ in range(ROUNDS):
        missing = target - _flow(source, source, weights, radius)
        total = float((missing**2).sum())
        if total > 0.9 * least:  # what is left cannot be met: larger weights would only tear at the surroundings
            break
        best, least = weights, total
        if total < 1e-6:
            break
        weights = weights + 0.7 * solve @ missing
    return best


def _grid(points: Matrix, radius: float, spacing: float) -> Space:
    """Voxels around everything that the kernels reach; coarser than asked if they would be too many."""
    low, high = points.min(0) - radius - spacing, points.max(0) + radius + spacing
    spacing = max(spacing, float(np.prod(high - low) / MAX_VOXELS) ** (1 / 3))
    x, y, z = (int(n) for n in np.ceil((high - low) / spacing) + 1)
    matrix = np.diag([spacing] * 3 + [1.0])
    matrix[:3, 3] = low
    return Space((x, y, z), matrix)


def _flow_field(grid: Space, centers: Matrix, weights: Matrix, radius: float) -> tuple[sitk.Transform, float]:
    """The flow as a displacement field transform, and the smallest Jacobian determinant of its samples."""
    from ..quality import jacobian_map

    shape = grid.shape[::-1]
    field = np.zeros((*shape, 3))
    for k in range(shape[0]):
        index = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij"), -1).reshape(-1, 2)
        world = grid.to_world(np.column_stack([index[:, 1], index[:, 0], np.full(len(index), k)]))
        near = np.flatnonzero((np.linalg.norm(world[:, None] - centers[None], axis=-1) < radius).any(1))
        if len(near):
            moved = _flow(world[near], centers, weights, radius) - world[near]
            field[k, index[near, 0], index[near, 1]] = moved
    transform = sitk.DisplacementFieldTransform(sitk.Cast(grid.image(field, vector=True), sitk.sitkVectorFloat64))
    return transform, float(sitk.GetArrayFromImage(jacobian_map(transform, grid)).min())


def _joined(last: sitk.Transform, first: sitk.Transform) -> sitk.CompositeTransform:
    """p -> last(first(p)) as one flat composite, as files hold it."""
    composite = sitk.CompositeTransform([last, first])
    composite.FlattenTransform()
    return composite


# Files


def read_points(path: str | Path) -> tuple[Matrix, tuple[str, ...]]:
    """Points and their names from Slicer's .mrk.json and .fcsv, or from a CSV with columns l, p, s or r, a, s (mm).

    Returns:
        (N, 3) LPS millimetres, and names.

    Raises:
        ImageError: the file cannot be understood.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise ImageError(f"'{path}' cannot be read: check the file name, and save the points as .mrk.json.") from None
    try:
        if path.name.lower().endswith(".json"):
            points, names, ras = _from_json(text)
        elif path.suffix.lower() == ".fcsv":
            points, names, ras = _from_fcsv(text)
        else:
            points, names, ras = _from_csv(text)
        array = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ImageError(f"'{path}' holds no points that can be read: save them from Slicer as .mrk.json.") from None
    if not len(array):
        raise ImageError(f"'{path}' holds no points: place some and save it again.")
    return array * ([-1, -1, 1] if ras else [1, 1, 1]), tuple(names)


def _from_json(text: str) -> tuple[list[Any], list[str], bool]:
    markup = json.loads(text)["markups"][0]
    points = markup["controlPoints"]
    return [p["position"] for p in points], [p.get("label", "") for p in points], _is_ras(markup["coordinateSystem"])


def _from_fcsv(text: str) -> tuple[list[Any], list[str], bool]:
    system = "RAS"
    rows = []
    for line in text.splitlines():
        if line.startswith("#"):
            if "coordinatesystem" in line.lower():
                system = line.split("=")[1]
        elif line.strip():
            rows.append(next(csv.reader([line])))
    return [row[1:4] for row in rows], [row[11] if len(row) > 11 else "" for row in rows], _is_ras(system)


def _from_csv(text: str) -> tuple[list[Any], list[str], bool]:
    rows = [{(k or "").strip().lower(): v for k, v in row.items()} for row in csv.DictReader(io.StringIO(text))]
    ras = "r" in rows[0]
    axes = "ras" if ras else "lps"
    return ([[row[a] for a in axes] for row in rows], [row.get("label") or row.get("name") or "" for row in rows], ras)


def _is_ras(system: str) -> bool:
    name = str(system).strip().upper()
    if name not in ("RAS", "LPS", "0", "1"):
        raise ValueError(name)
    return name in ("RAS", "0")


def read_pairs(fixed: str | Path, moving: str | Path) -> Landmarks:
    """Pairs from two files of points in the same order (see :func:`read_points`)."""
    (first, names), (second, _) = read_points(fixed), read_points(moving)
    return Landmarks(first, second, names)


def write_landmarks(landmarks: Landmarks, path: str | Path) -> None:
    """Write pairs as CSV: a name, then the fixed and the moving point in LPS millimetres."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, (a, b) in enumerate(zip(landmarks.fixed, landmarks.moving, strict=True)):
        writer.writerow([landmarks.name(number), *(f"{v:.4f}" for v in (*a, *b))])
    files.write_text(path, buffer.getvalue())


def read_landmarks(path: str | Path) -> Landmarks:
    """Read what :func:`write_landmarks` wrote.

    Raises:
        ImageError: the file cannot be understood.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        values = np.array([[float(row[c]) for c in COLUMNS[1:]] for row in rows]).reshape(-1, 6)
        return Landmarks(values[:, :3], values[:, 3:], tuple(row["name"] for row in rows))
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError):
        raise ImageError(f"'{path}' holds no pairs of landmarks: it needs the columns {', '.join(COLUMNS)}.") from None

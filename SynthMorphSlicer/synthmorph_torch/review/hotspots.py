"""Where to look first: the places where a registration is most extreme."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .. import agreement
from ..geometry import Space
from ..transforms import displacement_slabs
from . import landmarks as marks
from .case import Case

APART = 10.0  # mm between two places of one kind
THIN = 3.0  # mm between the points at which displacements are looked at
KINDS = {"folding": "Worst folding", "expansion": "Largest expansion", "compression": "Largest compression",
         "displacement": "Largest displacement", "structure": "Worst structure", "landmark": "Worst landmark"}


@dataclass(frozen=True)
class HotSpot:
    """A place to go to: ``point`` is its position in the fixed image, LPS millimetres."""

    kind: str
    name: str
    value: float
    unit: str
    point: tuple[float, float, float]

    @property
    def ras(self) -> tuple[float, float, float]:
        """The same position as Slicer has it."""
        x, y, z = self.point
        return -x, -y, z

    @property
    def text(self) -> str:
        """The value with its meaning, "J = 0.12" or "8.4 mm"."""
        return f"{self.value:.3g} mm" if self.unit == "mm" else f"{self.unit} = {self.value:.3g}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ras": self.ras}


def hot_spots(case: Case, mask: sitk.Image | None = None, count: int = 1) -> list[HotSpot]:
    """Places worth going to, the kinds in the order of :data:`KINDS`, the worst of a kind first.

    Args:
        case: the registration.
        mask: where to look, by default the fixed foreground; structures and landmarks are always looked at.
        count: how many of each kind at most; two of a kind are at least 10 mm apart.
    """
    region = sitk.GetArrayFromImage(case.region(mask)) != 0
    return [*_jacobian_spots(case, region, count), *_displacement_spots(case, region, count),
            *_structure_spots(case, count), *_landmark_spots(case, count)]


def _jacobian_spots(case: Case, region: NDArray[np.bool_], count: int) -> Iterator[HotSpot]:
    values, space = sitk.GetArrayViewFromImage(case.jacobian), Space.of(case.fixed)
    index = np.argwhere(region)
    inside = np.nan_to_num(values[region], nan=-np.inf)
    for kind, chosen, order in (("folding", inside <= 0, inside), ("expansion", inside > 1, -inside),
                                ("compression", (inside < 1) & (inside > 0), inside)):
        points = space.to_world(index[chosen][:, ::-1])
        for n in _apart(points, order[chosen], count):
            yield _spot(kind, KINDS[kind], float(inside[chosen][n]), "J", points[n])


def _displacement_spots(case: Case, region: NDArray[np.bool_], count: int) -> Iterator[HotSpot]:
    """The warp without its affine part: how far from the affine place |A^-1 T(p) - p|."""
    space = Space.of(case.fixed)
    step = [max(1, round(THIN / s)) for s in space.spacing]
    x, y, z = (-(-n // s) for n, s in zip(space.shape, step, strict=True))
    thin = Space((x, y, z), space.matrix @ np.diag([*step, 1.0]))
    inside = region[::step[2], ::step[1], ::step[0]]
    inverse = np.linalg.inv(case.affine)
    points, lengths = [np.zeros((0, 3))], [np.zeros(0)]
    for first, end, slab, field in displacement_slabs(case.forward, thin):
        chosen = inside[first:end]
        world = slab.to_world(np.argwhere(chosen)[:, ::-1])
        straight = (world + field[chosen]) @ inverse[:3, :3].T + inverse[:3, 3]
        points.append(world)
        lengths.append(np.linalg.norm(straight - world, axis=-1))
    where, length = np.concatenate(points), np.concatenate(lengths)
    for n in _apart(where, -length, count):
        if length[n] > 0.01:
            yield _spot("displacement", KINDS["displacement"], float(length[n]), "mm", where[n])


def _structure_spots(case: Case, count: int) -> Iterator[HotSpot]:
    """The structures that overlap least, each where its two versions differ most."""
    if case.moved_labels is None or case.fixed_labels is None:
        return
    found = agreement.dice(case.moved_labels, case.fixed_labels)
    space = Space.of(case.fixed_labels)
    for label in sorted(found, key=lambda one: found[one])[:count]:
        first, second = (sitk.GetArrayViewFromImage(image) == label for image in (case.moved_labels, case.fixed_labels))
        differs = first != second
        image = space.image((differs if differs.any() else second).astype(np.uint8))
        depth = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, insideIsPositive=True,
                                                                    squaredDistance=False, useImageSpacing=True))
        point = space.to_world(np.array(np.unravel_index(int(depth.argmax()), depth.shape))[::-1])
        yield _spot("structure", f"{KINDS['structure']}: {case.name(label)}", found[label], "Dice", point)


def _landmark_spots(case: Case, count: int) -> Iterator[HotSpot]:
    if not case.landmarks:
        return
    found = marks.errors(case.forward, case.landmarks)
    for n in np.argsort(-found)[:count]:
        yield _spot("landmark", f"{KINDS['landmark']}: {case.landmarks.name(int(n))}", float(found[n]), "mm",
                    case.landmarks.fixed[n])


def _apart(points: NDArray[np.float64], order: NDArray[np.floating], count: int) -> list[int]:
    """Indices of the smallest values of ``order``, leaving out those near an earlier one."""
    chosen: list[int] = []
    left = np.arange(len(points))
    while len(left) and len(chosen) < count:
        best = int(left[np.argmin(order[left])])
        chosen.append(best)
        left = left[np.linalg.norm(points[left] - points[best], axis=-1) >= APART]
    return chosen


def _spot(kind: str, name: str, value: float, unit: str, point: NDArray[np.float64]) -> HotSpot:
    x, y, z = (round(float(v), 3) for v in point)
    return HotSpot(kind, name, value, unit, (x, y, z))

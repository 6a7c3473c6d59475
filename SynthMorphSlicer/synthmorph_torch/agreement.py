"""How well two label maps on one grid agree: overlap and distance between surfaces, per label."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import SimpleITK as sitk

from .errors import ImageError
from .geometry import Space


def dice(first: sitk.Image, second: sitk.Image, labels: Iterable[int] | None = None) -> dict[int, float]:
    """Dice coefficient 2 |A and B| / (|A| + |B|) of each label.

    Args:
        first, second: integer label maps on the same grid.
        labels: which labels; default: all that occur in either, but 0. Those that occur in neither are left out.

    Raises:
        ImageError: the grids differ.
    """
    _check_grids(first, second)
    a, b = sitk.GetArrayViewFromImage(first), sitk.GetArrayViewFromImage(second)
    sizes: dict[int, int] = {}
    for array in (a, b):
        for label, count in zip(*np.unique(array, return_counts=True), strict=True):
            sizes[int(label)] = sizes.get(int(label), 0) + int(count)
    common = {int(label): int(n) for label, n in zip(*np.unique(a[a == b], return_counts=True), strict=True)}
    chosen = sorted(sizes.keys() - {0}) if labels is None else [label for label in labels if label in sizes]
    return {label: 2 * common.get(label, 0) / sizes[label] for label in chosen}


def surface_distances(first: sitk.Image, second: sitk.Image, label: int) -> tuple[float, float] | None:
    """Distances between the surfaces of one label in two maps on the same grid, in millimetres.

    The surface is made of the voxels of the label that touch another label by a face. Distances from each surface
    voxel of one map to the nearest of the other are pooled from both directions.

    Returns:
        The 95th percentile (the larger of the two directions, HD95) and the mean (mean distance to agreement); None
        if the label is missing in either map.
    """
    masks = [sitk.Equal(image, label) for image in (first, second)]
    box = _bounding_box(masks)
    if box is None:
        return None
    start, size = box
    surfaces = [sitk.LabelContour(sitk.ConstantPad(sitk.RegionOfInterest(mask, size, start), [1] * 3, [1] * 3))
                for mask in masks]
    values = []
    for source, target in (surfaces, surfaces[::-1]):
        distance = sitk.Abs(sitk.SignedMaurerDistanceMap(target, squaredDistance=False, useImageSpacing=True))
        values.append(sitk.GetArrayViewFromImage(distance)[sitk.GetArrayViewFromImage(source) != 0].copy())
    hd95 = max(float(np.percentile(v, 95)) for v in values)
    return hd95, float(np.concatenate(values).mean())


def _bounding_box(masks: list[sitk.Image]) -> tuple[list[int], list[int]] | None:
    """Start and size of the box around both masks, or None if one is empty."""
    lows, highs = [], []
    for mask in masks:
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.ComputePerimeterOff()
        shape.Execute(mask)
        if not shape.HasLabel(1):
            return None
        box = np.array(shape.GetBoundingBox(1))
        lows.append(box[:3])
        highs.append(box[:3] + box[3:])
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    return low.tolist(), (high - low).tolist()


def label_agreement(moved: sitk.Image, fixed: sitk.Image, distances: bool = True) -> dict[str, Any]:
    """Dice and surface distances of every label of the fixed map.

    Args:
        moved: propagated labels on the grid of ``fixed``.
        fixed: true labels.
        distances: compute surface distances too, which takes a fraction of a second per label.

    Returns:
        ``mean_dice``, ``mean_hd95_mm`` and ``per_label`` with ``dice``, ``hd95_mm`` and ``mean_distance_mm`` by label.
        A label that the moved map lacks has a Dice of 0 and no distance.
    """
    _check_grids(moved, fixed)
    labels = [int(n) for n in np.unique(sitk.GetArrayViewFromImage(fixed)) if n]
    overlap = dice(moved, fixed, labels)
    per_label: dict[str, dict[str, float | None]] = {}
    for label in labels:
        entry: dict[str, float | None] = {"dice": overlap[label]}
        if distances:
            found = surface_distances(moved, fixed, label)
            entry["hd95_mm"], entry["mean_distance_mm"] = found or (None, None)
        per_label[str(label)] = entry
    result: dict[str, Any] = {"mean_dice": float(np.mean(list(overlap.values()))) if overlap else None}
    if distances:
        known = [entry["hd95_mm"] for entry in per_label.values() if entry["hd95_mm"] is not None]
        result["mean_hd95_mm"] = float(np.mean(known)) if known else None
    return {**result, "per_label": per_label}


def _check_grids(first: sitk.Image, second: sitk.Image) -> None:
    if not Space.of(first).same_as(Space.of(second), 0.1 * min(second.GetSpacing())):
        raise ImageError("The two label maps lie on different grids: resample one onto the other with "
                         "nearest-neighbour interpolation.")

"""Carrying label maps from one image to another."""
from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .errors import UsageError
from .geometry import Space
from .transforms import Grid, apply, displacement_slabs

METHODS = ("nearest", "smooth")


def warp_labels(transform: sitk.Transform, labels: sitk.Image, reference: Grid, method: str = "nearest") -> sitk.Image:
    """Resample a label map: integers in, the same integers out and nothing new (0 outside the field of view).

    Args:
        transform: maps points of the reference to points of the label map.
        labels: integer label map.
        reference: image or grid of the result.
        method: "nearest" takes the label of the nearest voxel. "smooth" interpolates the mask of every label
            linearly and takes the largest, background included: smoother borders where the reference is finer.

    Returns:
        Label map of the same type as ``labels``.

    Raises:
        UsageError: the labels are no integers, or the method is unknown.
    """
    if method not in METHODS:
        raise UsageError(f"Label interpolation '{method}' is unknown: choose one of {', '.join(METHODS)}.")
    if "float" in labels.GetPixelIDTypeAsString():
        raise UsageError("A label map must have an integer type: convert it first.")
    if method == "nearest":
        return apply(transform, labels, reference, "nearest")
    space, source = (g if isinstance(g, Space) else Space.of(g) for g in (reference, labels))
    voxels = sitk.GetArrayViewFromImage(labels)
    result = np.zeros(space.shape[::-1], voxels.dtype)
    for first, end, slab, displacement in displacement_slabs(transform, space, slices=8):
        index = np.stack(np.meshgrid(*map(np.arange, displacement.shape[:3]), indexing="ij"), -1)[..., ::-1]
        coordinates = source.to_index(slab.to_world(index) + displacement)
        result[first:end] = _largest_share(voxels, coordinates)
    return space.image(result)


def _largest_share(voxels: NDArray[Any], coordinates: NDArray[np.float64]) -> NDArray[Any]:
    """The label with the largest sum of trilinear weights among the eight voxels around each point.

    This equals interpolating every label's mask and taking the largest, at a cost that does not grow with the
    number of labels.

    Args:
        voxels: label map (Z, Y, X).
        coordinates: (..., 3) index coordinates (i, j, k).
    """
    size = np.array(voxels.shape[::-1])
    inside = np.all((coordinates >= -0.5) & (coordinates < size - 0.5), axis=-1)
    points = np.clip(coordinates[inside], 0, size - 1)
    base = np.minimum(points.astype(np.int64), np.maximum(size - 2, 0))
    fraction = (points - base).astype(np.float32)
    corners, weights = [], []
    for corner in np.ndindex(2, 2, 2):
        i, j, k = np.minimum(base + corner, size - 1).T
        corners.append(voxels[k, j, i])
        weights.append(np.prod(np.where(corner, fraction, 1 - fraction), axis=-1))
    label, weight = np.stack(corners), np.stack(weights)
    best = label[0].copy()
    mixed = np.flatnonzero((label != label[0]).any(0))
    label, weight = label[:, mixed], weight[:, mixed]
    share = np.stack([(weight * (label == one)).sum(0) for one in label])
    best[mixed] = np.take_along_axis(label, share.argmax(0)[None], axis=0)[0]
    result = np.zeros(inside.shape, voxels.dtype)
    result[inside] = best
    return result

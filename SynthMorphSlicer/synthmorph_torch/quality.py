"""How good is a registration? Measures of one result, in world millimetres.

None of these proves that a registration is right. They show where it cannot be (folding, inconsistency) and how it
compares (similarity, overlap of labels). Whole volumes are worked on a few slices at a time: a 256^3 image needs
well under 2 GB.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .agreement import dice, label_agreement, surface_distances
from .geometry import Matrix, Space
from .images import foreground
from .labels import warp_labels
from .transforms import Grid, apply, displacement_slabs, linear_part

__all__ = ["affine_part", "dice", "displacement_statistics", "inverse_consistency", "jacobian_map",
           "jacobian_statistics", "json_ready", "label_agreement", "measures", "similarity", "surface_distances"]

Floats = NDArray[np.float32]
PERCENTILES = (1, 5, 50, 95, 99)
LOG_FLOOR = 1e-3  # smallest Jacobian determinant whose logarithm is mapped; folded voxels get log(1e-3) = -6.9
_HISTOGRAM_BINS = 64
_SAMPLES = 2_000_000  # points at which displacements and inverse consistency are measured, about


def jacobian_map(transform: sitk.Transform, reference: Grid, log: bool = False) -> sitk.Image:
    """Jacobian determinant of the whole map at every voxel of a grid: the local change of volume.

    A fixed-to-moving map with J > 1 means that a small volume of the fixed image corresponds to a larger one of the
    moving image. The derivatives are central differences between neighbouring voxels (one-sided at the border),
    taken in the world, so the result does not depend on the voxel size or orientation of the grid: it is 1 for the
    identity and det(A) for an affine A.

    Args:
        transform: fixed to moving; all of it counts, the affine part too.
        reference: fixed image or its grid.
        log: give the natural logarithm, clipped from below at log(0.001) where the map folds.

    Returns:
        float32 image on the grid.
    """
    space = reference if isinstance(reference, Space) else Space.of(reference)
    result = np.empty(space.shape[::-1], np.float32)
    for first, end, slab, displacement in displacement_slabs(transform, space, overlap=1):
        low = round(float((np.linalg.inv(space.matrix) @ slab.matrix)[2, 3]))
        determinant = _determinant(displacement, space.matrix[:3, :3])
        result[first:end] = determinant[first - low:end - low]
    return space.image(np.log(np.maximum(result, LOG_FLOOR)) if log else result)


def _determinant(displacement: Floats, steps: Matrix) -> Floats:
    """det(I + du/dx) of a field (Z, Y, X, 3) in mm; the columns of ``steps`` lead from voxel to voxel of the grid.

    That is the volume of what the map makes of a voxel, divided by the volume of the voxel.
    """
    edges = [np.gradient(displacement, axis=axis) + np.asarray(step, np.float32)
             for axis, step in zip((2, 1, 0), steps.T, strict=True)]
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (np.moveaxis(edge, -1, 0) for edge in edges)
    volume = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
    return np.asarray(volume / float(np.linalg.det(steps)), dtype=np.float32)


def jacobian_statistics(jacobian: sitk.Image, mask: sitk.Image | None = None) -> dict[str, Any]:
    """Summary of a Jacobian map (not of its logarithm).

    Args:
        jacobian: from :func:`jacobian_map`.
        mask: where to look; non-zero voxels count. Default: everywhere.

    Returns:
        ``voxels`` looked at; ``folding_count`` and ``folding_percent`` of those with J <= 0 (or not finite);
        ``min``, ``max``, ``mean``, ``percentiles``; ``sd_log``: standard deviation of log J where J > 0; ``worst``:
        the smallest J with its voxel and its position in LPS and RAS millimetres. All values are None in an empty mask.
    """
    voxels = sitk.GetArrayViewFromImage(jacobian)
    inside = np.ones(voxels.shape, bool) if mask is None else sitk.GetArrayViewFromImage(mask) != 0
    values = voxels[inside]
    if not values.size:
        return {"voxels": 0, "folding_count": 0, **dict.fromkeys(
            ("folding_percent", "min", "max", "mean", "percentiles", "sd_log", "worst"))}
    folded = int(values.size - np.count_nonzero(values > 0))
    lowest = int(np.argmin(np.where(inside, np.nan_to_num(voxels, nan=-np.inf), np.inf)))
    k, j, i = (int(n) for n in np.unravel_index(lowest, voxels.shape))
    lps = Space.of(jacobian).to_world([i, j, k])
    worst = {"jacobian": float(voxels[k, j, i]), "voxel": [i, j, k], "lps_mm": _rounded(lps),
             "ras_mm": _rounded(lps * [-1, -1, 1])}
    positive = values[values > 0]
    return {"voxels": int(values.size), "folding_count": folded, "folding_percent": 100 * folded / values.size,
            "min": float(values.min()), "max": float(values.max()), "mean": float(values.mean(dtype=np.float64)),
            "percentiles": _percentiles(values),
            "sd_log": float(np.log(positive).std(dtype=np.float64)) if positive.size else None, "worst": worst}


def displacement_statistics(transform: sitk.Transform, reference: Grid, mask: sitk.Image | None = None
                            ) -> dict[str, dict[str, Any]]:
    """How far the map moves points, in millimetres.

    Args:
        transform: fixed to moving.
        reference: fixed image or its grid; large grids are thinned out evenly.
        mask: where to look (on the same grid).

    Returns:
        ``total``: distances |T(p) - p|; ``residual``: the same after removing the affine part A, |A^-1 T(p) - p|.
        A is the linear part of a composite transform, or else the least-squares fit to T. Each has ``mean``,
        ``max`` and ``percentiles``.
    """
    points, mapped = _sampled(transform, reference, mask)
    if not len(points):
        empty = dict.fromkeys(("mean", "max", "percentiles"))
        return {"total": empty, "residual": dict(empty)}
    affine = linear_part(transform)
    affine = _fit_affine(points, mapped) if affine is None else affine
    inverse = np.linalg.inv(affine)
    straight = mapped @ inverse[:3, :3].T + inverse[:3, 3]
    return {"total": _distances(mapped - points), "residual": _distances(straight - points)}


def affine_part(transform: sitk.Transform, reference: Grid, mask: sitk.Image | None = None) -> Matrix:
    """(4, 4) linear part of a composite transform, or else the least-squares affine fit to it inside a mask.

    Args:
        transform: fixed to moving.
        reference: fixed image or its grid. mask: where to fit, on that grid.
    """
    affine = linear_part(transform)
    return _fit_affine(*_sampled(transform, reference, mask)) if affine is None else affine


def inverse_consistency(forward: sitk.Transform, backward: sitk.Transform, reference: Grid,
                        mask: sitk.Image | None = None) -> dict[str, Any]:
    """Distance in millimetres by which going forward and then backward misses the point of departure.

    Args:
        forward: fixed to moving. backward: moving to fixed.
        reference: fixed image or its grid; large grids are thinned out evenly.
        mask: where to look, usually the fixed foreground.

    Returns:
        ``mean``, ``max`` and ``percentiles``.
    """
    there_and_back = sitk.CompositeTransform([backward, forward])  # the last one acts first
    points, mapped = _sampled(there_and_back, reference, mask)
    return _distances(mapped - points) if len(points) else dict.fromkeys(("mean", "max", "percentiles"))


def _sampled(transform: sitk.Transform, reference: Grid, mask: sitk.Image | None) -> tuple[Matrix, Matrix]:
    """World points of a thinned grid inside the mask and where they are mapped, both (N, 3)."""
    space = reference if isinstance(reference, Space) else Space.of(reference)
    step = max(1, math.ceil((np.prod(space.shape, dtype=float) / _SAMPLES) ** (1 / 3)))
    shape = tuple(-(-n // step) for n in space.shape)
    thin = Space(shape, space.matrix @ np.diag([step, step, step, 1.0]))  # type: ignore[arg-type]
    inside = None if mask is None else sitk.GetArrayViewFromImage(mask)[::step, ::step, ::step] != 0
    points, mapped = [], []
    for first, end, slab, displacement in displacement_slabs(transform, thin):
        chosen = np.ones(displacement.shape[:3], bool) if inside is None else inside[first:end]
        world = slab.to_world(np.argwhere(chosen)[:, ::-1])
        points.append(world)
        mapped.append(world + displacement[chosen])
    return np.concatenate(points), np.concatenate(mapped)


def _fit_affine(points: Matrix, mapped: Matrix) -> Matrix:
    """(4, 4) least-squares affine from points to their images; the identity if there are too few."""
    matrix = np.eye(4)
    center = points.mean(0)
    design = np.hstack([points - center, np.ones((len(points), 1))])
    solution, _, rank, _ = np.linalg.lstsq(design, mapped, rcond=None)
    if rank == 4:
        matrix[:3, :3] = solution[:3].T
        matrix[:3, 3] = solution[3] - matrix[:3, :3] @ center
    return matrix


def similarity(moved: sitk.Image, fixed: sitk.Image, mask: sitk.Image | None = None) -> dict[str, float | None]:
    """Likeness of two images on one grid.

    Args:
        moved, fixed: images on the same grid.
        mask: where to compare, usually the fixed foreground.

    Returns:
        ``ncc``: Pearson's correlation over the mask, for like contrasts; ``nmi``: Studholme's normalised mutual
        information (H(a) + H(b)) / H(a, b) with 64 bins, 1 for unrelated and 2 for identical images, for any contrast.
        None where an image is constant.
    """
    images = [sitk.GetArrayViewFromImage(image) for image in (moved, fixed)]
    inside = slice(None) if mask is None else sitk.GetArrayViewFromImage(mask) != 0
    a, b = (np.asarray(image[inside], dtype=np.float64).ravel() for image in images)
    if not a.size or a.min() == a.max() or b.min() == b.max():
        return {"ncc": None, "nmi": None}
    return {"ncc": _number(np.corrcoef(a, b)[0, 1]), "nmi": _number(_mutual_information(a, b))}


def _mutual_information(a: Matrix, b: Matrix) -> float:
    ranges = [np.percentile(x, (0.1, 99.9)) for x in (a, b)]
    bins = [np.clip((x - low) / max(high - low, 1e-12) * _HISTOGRAM_BINS, 0, _HISTOGRAM_BINS - 1).astype(np.int64)
            for x, (low, high) in zip((a, b), ranges, strict=True)]
    joint = np.bincount(bins[0] * _HISTOGRAM_BINS + bins[1], minlength=_HISTOGRAM_BINS**2) / a.size
    joint = joint.reshape(_HISTOGRAM_BINS, _HISTOGRAM_BINS)

    def entropy(p: Matrix) -> float:
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    both = entropy(joint)
    return (entropy(joint.sum(0)) + entropy(joint.sum(1))) / both if both > 0 else math.nan


def measures(forward: sitk.Transform, backward: sitk.Transform | None, moving: sitk.Image, fixed: sitk.Image, *,
             moving_labels: sitk.Image | None = None, fixed_labels: sitk.Image | None = None,
             before: sitk.Transform | None = None) -> dict[str, Any]:
    """All measures of one registration, ready for JSON: plain numbers, strings and None, no NaN or infinity.

    Args:
        forward, backward: fixed to moving and its opposite (None: no inverse consistency).
        moving, fixed: the images.
        moving_labels, fixed_labels: label maps on any grid in the worlds of these images; both or none count.
        before: alignment to compare with, fixed to moving; by default the one that the headers give.

    Returns:
        ``folding`` (over the whole fixed grid: count, percent, worst), ``jacobian``, ``displacement_mm`` and
        ``inverse_consistency_mm`` (in the fixed foreground), ``similarity`` (``before`` and ``after``, and which
        alignment ``before`` is) and, with labels, ``labels`` (see :func:`agreement.label_agreement`).
    """
    mask = foreground(fixed)
    jacobian = jacobian_map(forward, fixed)
    everywhere, inside = jacobian_statistics(jacobian), jacobian_statistics(jacobian, mask)
    start = before or sitk.Transform(3, sitk.sitkIdentity)
    fill = float(sitk.GetArrayViewFromImage(moving).min())
    result: dict[str, Any] = {
        "folding": {"count": everywhere["folding_count"], "percent": everywhere["folding_percent"],
                    "worst": everywhere["worst"]},
        "jacobian": {key: value for key, value in inside.items() if key not in ("folding_percent", "worst")},
        "displacement_mm": displacement_statistics(forward, fixed, mask),
        "inverse_consistency_mm": backward and inverse_consistency(forward, backward, fixed, mask),
        "similarity": {"before_is": "initial alignment" if before else "headers",
                       "before": similarity(apply(start, moving, fixed, fill=fill), fixed, mask),
                       "after": similarity(apply(forward, moving, fixed, fill=fill), fixed, mask)},
    }
    if moving_labels is not None and fixed_labels is not None:
        moved = warp_labels(forward, moving_labels, fixed_labels)
        initial = apply(start, moving_labels, fixed_labels, "nearest")
        result["labels"] = label_agreement(moved, fixed_labels)
        result["labels"]["mean_dice_before"] = label_agreement(initial, fixed_labels, distances=False)["mean_dice"]
    return json_ready(result)


def json_ready(value: Any) -> Any:
    """Copy of nested values in which numpy numbers are plain and NaN and infinity are None."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [json_ready(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _rounded(point: Matrix) -> list[float]:
    return [round(float(x), 3) for x in point]


def _percentiles(values: NDArray[Any]) -> dict[str, float]:
    return {str(p): float(x) for p, x in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}


def _distances(vectors: Matrix) -> dict[str, Any]:
    lengths = np.linalg.norm(vectors, axis=-1)
    return {"mean": float(lengths.mean()), "max": float(lengths.max()), "percentiles": _percentiles(lengths)}

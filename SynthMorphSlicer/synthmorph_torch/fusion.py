"""Many opinions, one label map: fusing what several atlases say about one patient.

Majority: every atlas has one vote. STAPLE: votes are weighted by how reliable each atlas turns out to be for each
structure (Warfield, Zou, Wells, IEEE Transactions on Medical Imaging 23(7), 903-921, 2004; SimpleITK's multi-label
version). Local: votes are weighted, voxel by voxel, by how alike patient and moved atlas look there, and an atlas may
also speak from beside the voxel, where its registration is a little off (after Artaechevarria et al., IEEE Transactions
on Medical Imaging 28(8), 1266-1277, 2009, and the patches of Coupe et al., NeuroImage 54(2), 940-954, 2011).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .errors import ImageError, UsageError
from .geometry import Space

METHODS = ("local", "majority", "staple")
WINDOW_MM = 1.5  # standard deviation of the neighbourhood in which two images are compared
GAIN = 6.0  # exponent of the squared correlation: how much a likelier place outvotes the others
STAPLE_ROUNDS = 50
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Fused:
    """The fused label map, and for every voxel the share of the votes that went to its label (float32, 0 to 1)."""

    labels: sitk.Image
    agreement: sitk.Image
    method: str


def fuse(opinions: Sequence[sitk.Image], method: str = "local", patient: sitk.Image | None = None,
         moved: Sequence[sitk.Image] = ()) -> Fused:
    """Fuse label maps on one grid.

    Args:
        opinions: integer label maps of one patient, one from each atlas, on one grid.
        method: "majority", "staple", or "local" (needs the images).
        patient: the patient's image on that grid, for "local".
        moved: the volume of each atlas on that grid, for "local".

    Returns:
        Labels of the type of the first opinion that holds all of them.

    Raises:
        UsageError: unknown method, nothing to fuse, missing images. ImageError: different grids.
    """
    _check(opinions, method, patient, moved)
    space = Space.of(opinions[0])
    votes = [sitk.GetArrayViewFromImage(image) for image in opinions]
    top = max(int(v.max()) for v in votes)
    kind = np.uint16 if top < 2**16 and min(int(v.min()) for v in votes) >= 0 else np.int32
    stack = np.stack([v.astype(kind) for v in votes])
    disputed = np.zeros(stack.shape[1:], bool)
    for other in stack[1:]:
        disputed |= other != stack[0]
    labels, agreement = stack[0].copy(), np.ones(stack.shape[1:], np.float32)
    if disputed.any():
        if method == "staple":
            labels[disputed], agreement[disputed] = _staple(stack, disputed)
        elif method == "local" and patient is not None:
            labels[disputed], agreement[disputed] = _supported(stack, disputed, patient, moved)
        else:
            labels[disputed], agreement[disputed] = _vote(stack, disputed)
    return Fused(space.image(labels.astype(votes[0].dtype if top <= np.iinfo(votes[0].dtype).max else kind)),
                 space.image(agreement), method)


def _check(opinions: Sequence[sitk.Image], method: str, patient: sitk.Image | None, moved: Sequence[sitk.Image]
           ) -> None:
    if method not in METHODS:
        raise UsageError(f"Fusion '{method}' is unknown: choose one of {', '.join(METHODS)}.")
    if not opinions:
        raise UsageError("There is nothing to fuse: propagate at least one atlas.")
    if method == "local" and (patient is None or len(moved) != len(opinions)):
        raise UsageError("Local fusion compares images: give the patient's and one moved image per atlas.")
    grid = Space.of(opinions[0])
    for image in (*opinions, *moved, *([patient] if patient is not None else [])):
        if not Space.of(image).same_as(grid):
            raise ImageError("The label maps and images to be fused lie on different grids: bring all onto the "
                             "patient's grid first.")
    if any("float" in image.GetPixelIDTypeAsString() for image in opinions):
        raise UsageError("Label maps must have an integer type: convert them first.")


def _vote(stack: NDArray[Any], where: NDArray[np.bool_]) -> tuple[NDArray[Any], Floats]:
    """One vote each, in some voxels; the votes of the neighbourhood settle a tie.

    The sum is taken over pairs of atlases, at a cost that does not grow with the number of labels: an atlas' own vote
    gets support from every atlas that says the same.
    """
    voices = stack[:, where]
    share = np.stack([(voices == voice).mean(0, dtype=np.float32) for voice in voices])
    chosen = (share + 1e-3 * _neighbours(stack, where)).argmax(0)[None]
    return np.take_along_axis(voices, chosen, 0)[0], np.take_along_axis(share, chosen, 0)[0]


def _neighbours(stack: NDArray[Any], where: NDArray[np.bool_]) -> Floats:
    """For each atlas and voxel, the share of all votes in the 27 voxels around that agree with the atlas' vote."""
    places = np.argwhere(where)
    voices = stack[:, where]
    support = np.zeros(voices.shape, np.float32)
    limits = np.array(where.shape) - 1
    for offset in np.ndindex(3, 3, 3):
        k, j, i = np.clip(places + np.array(offset) - 1, 0, limits).T
        for other in stack:
            near = other[k, j, i]
            support += voices == near
    return support / (27 * len(stack))


def _supported(stack: NDArray[Any], where: NDArray[np.bool_], patient: sitk.Image, moved: Sequence[sitk.Image]
               ) -> tuple[NDArray[Any], Floats]:
    """Vote of likely neighbours in some voxels.

    Every atlas is looked at in all 27 places around a voxel, which makes up for errors of its registration: what it
    says there counts by how alike the patient around the voxel and the atlas around that place are (the squared local
    correlation, to a power, so that the likeliest places decide). Only labels that some atlas has at the voxel itself
    can win.
    """
    voices = stack[:, where]
    support, total = np.zeros(voices.shape, np.float32), np.zeros(voices.shape[1], np.float32)
    a = sitk.GetArrayFromImage(sitk.Cast(patient, sitk.sitkFloat32))
    sigma = [WINDOW_MM / s for s in patient.GetSpacing()]
    mean_a = _smooth(a, sigma)
    spread_a = np.maximum(_smooth(a * a, sigma) - mean_a**2, 0)
    for votes, image in zip(stack, moved, strict=True):
        b = sitk.GetArrayFromImage(sitk.Cast(image, sitk.sitkFloat32))
        mean_b = _smooth(b, sigma)
        spread_b = np.maximum(_smooth(b * b, sigma) - mean_b**2, 0)
        floor = 1e-4 * float(np.quantile(spread_a, 0.99) * np.quantile(spread_b, 0.99)) + 1e-12
        for offset in np.ndindex(3, 3, 3):
            def there(volume: NDArray[Any], offset: tuple[int, ...] = offset) -> NDArray[Any]:
                return np.roll(volume, [1 - step for step in offset], (0, 1, 2))

            common = (_smooth(a * there(b), sigma) - mean_a * there(mean_b))[where]
            alike = np.clip(common**2 / (spread_a[where] * there(spread_b)[where] + floor), 0, 1)
            weight = alike**GAIN + 1e-6
            support += weight * (voices == there(votes)[where])
            total += weight
    chosen = support.argmax(0)[None]
    share = np.take_along_axis(support, chosen, 0)[0] / total
    return np.take_along_axis(voices, chosen, 0)[0], share.astype(np.float32)


def _smooth(volume: Floats, sigma: list[float]) -> Floats:
    """Gaussian mean, (Z, Y, X); ``sigma`` along x, y, z in voxels."""
    image = sitk.GetImageFromArray(volume.astype(np.float32))
    return sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, [max(s, 0.3) for s in sigma]))


def _staple(stack: NDArray[Any], disputed: NDArray[np.bool_]) -> tuple[NDArray[Any], Floats]:
    """SimpleITK's STAPLE on the voxels that any atlas labels; undisputed background would drown the rest.

    The voxels are handed over as a row, for the method looks at each by itself. Labels are renumbered without gaps,
    because time and memory grow with the largest.
    """
    region = (stack != 0).any(0)
    voices = stack[:, region]
    known, numbers = np.unique(voices, return_inverse=True)
    numbers = numbers.reshape(voices.shape).astype(np.uint16)
    staple = sitk.MultiLabelSTAPLEImageFilter()
    staple.SetLabelForUndecidedPixels(len(known))
    staple.SetTerminationUpdateThreshold(1e-4)
    staple.SetMaximumNumberOfIterations(STAPLE_ROUNDS)
    fused = sitk.GetArrayFromImage(staple.Execute([sitk.GetImageFromArray(row[None, None]) for row in numbers]))[0, 0]
    fused = fused.astype(np.int64)
    undecided = fused == len(known)
    fused[undecided] = numbers[0][undecided]
    whole = np.zeros(stack.shape[1:], stack.dtype)
    whole[region] = known[fused]
    labels = whole[disputed]
    return labels, (stack[:, disputed] == labels).mean(0).astype(np.float32)

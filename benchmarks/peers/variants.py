"""The same pair of people as scans really are: turned, thick, in another contrast, noisy, cut, with a skull, oblique.

Every variant is made by one function from a plain pair, the same on every run: what is random comes from a generator
seeded with the names. Labels are never resampled; they keep their full resolution and move, if at all, by their header,
so that all methods are scored on the truth.
"""
from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from synthmorph_torch.geometry import Space, sitk_affine_to_matrix

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """Two labelled scans of different people; label maps share the world, but not the grid, of their images.

    ``scheme`` says how labels are numbered, and ``data`` is the folder of all data.
    """

    name: str
    moving: sitk.Image
    moving_labels: sitk.Image
    fixed: sitk.Image
    fixed_labels: sitk.Image
    data: Path
    scheme: str = "malf"


def plain(pair: Pair) -> Pair:
    """As it comes."""
    return pair


def turned(pair: Pair) -> Pair:
    """Moving: turned by 30 degrees about (1, 1, 1), shifted by 30 mm and enlarged by 10 %; headers do not show it."""
    centre = middle(pair.moving)
    turn = sitk.Similarity3DTransform()
    turn.SetCenter(centre)
    turn.SetRotation((3**-0.5,) * 3, np.deg2rad(30))
    turn.SetTranslation((30 / 3**0.5,) * 3)
    turn.SetScale(1.1)
    image, labels = (moved_header(x, turn) for x in (pair.moving, pair.moving_labels))
    return replace(pair, moving=straightened(image), moving_labels=labels)


def thick(pair: Pair) -> Pair:
    """Moving: axial slices of 10 mm, each the mean of what it covers."""
    image = sitk.Cast(pair.moving, sitk.sitkFloat32)
    slices = round(10 / image.GetSpacing()[2])
    missing = -image.GetSize()[2] % slices
    image = sitk.ConstantPad(image, [0, 0, missing // 2], [0, 0, missing - missing // 2])
    return replace(pair, moving=sitk.BinShrink(image, [1, 1, slices]))


def resliced(pair: Pair) -> Pair:
    """Moving: the same slices, brought to voxels of 1 mm by linear interpolation, as many pipelines do."""
    slices = thick(pair).moving
    return replace(pair, moving=sitk.Resample(slices, pair.moving, sitk.Transform(), sitk.sitkLinear, 0.0))


def inverted(pair: Pair) -> Pair:
    """Moving: dark where it was bright; the background stays black."""
    values = sitk.GetArrayFromImage(pair.moving).astype(np.float32)
    brain = values > 0
    top = np.percentile(values[brain], 99.5)
    return replace(pair, moving=like(pair.moving, np.where(brain, np.maximum(1.02 * top - values, 0.02 * top), 0)))


def t2_like(pair: Pair) -> Pair:
    """Moving: the tone curve of T2 (fluid bright, white matter dark), and iron makes the pallidum darker."""
    return replace(pair, moving=toned(pair, {"csf": 1.0, "grey": 0.55, "white": 0.38}, iron=0.15))


def flair_like(pair: Pair) -> Pair:
    """Moving: the tone curve of FLAIR (fluid dark, grey matter brighter than white), and iron as in T2."""
    return replace(pair, moving=toned(pair, {"csf": 0.10, "grey": 0.75, "white": 0.58}, iron=0.10))


def noisy(pair: Pair) -> Pair:
    """Moving: a smooth bias field from one half to twice, then Rician noise of 8 % of white matter everywhere."""
    random = generator("noisy", pair.name)
    values = sitk.GetArrayFromImage(pair.moving).astype(np.float32)
    level = 0.08 * np.median(values[structure(pair, "Cerebral-White-Matter")])
    values = values * np.exp(np.log(2) * smooth(random, values.shape, 4))
    noise = [level * random.standard_normal(values.shape, np.float32) for _ in range(2)]
    return replace(pair, moving=like(pair.moving, np.hypot(values + noise[0], noise[1])))


def cut_top(pair: Pair) -> Pair:
    """Fixed: the upper third of the field of view was not scanned; only the rest is scored."""
    return replace(pair, fixed=scanned(pair.fixed, "cut-top"), fixed_labels=scanned(pair.fixed_labels, "cut-top"))


def cut_bottom(pair: Pair) -> Pair:
    """Fixed: the lower third of the field of view was not scanned; only the rest is scored."""
    return replace(pair, fixed=scanned(pair.fixed, "cut-bottom"), fixed_labels=scanned(pair.fixed_labels, "cut-bottom"))


def skull(pair: Pair) -> Pair:
    """Moving: the brain sits in a head, the fixed image stays stripped.

    The head is that of a whole-head label map, brought around the brain by the affine fit of the structures' centroids,
    and painted in the manner of T1; what lies between brain and skull is fluid.
    """
    from .heads import around

    return replace(pair, moving=around(pair))


def oblique(pair: Pair) -> Pair:
    """Moving: acquired on a grid turned by 45 degrees about the left-right axis; headers tell it."""
    turn = sitk.Euler3DTransform(middle(pair.moving), np.deg2rad(45), 0, 0)
    size, low = bounds(moved_header(pair.moving, turn.GetInverse()))
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetOrigin(low)
    grid = moved_header(grid, turn)
    return replace(pair, moving=sitk.Resample(sitk.Cast(pair.moving, sitk.sitkFloat32), grid))


VARIANTS: dict[str, Callable[[Pair], Pair]] = {
    "plain": plain, "turned": turned, "thick": thick, "resliced": resliced, "inverted": inverted, "t2-like": t2_like,
    "flair-like": flair_like, "noisy": noisy, "cut-top": cut_top, "cut-bottom": cut_bottom, "skull": skull,
    "oblique": oblique}
CUTS = ("cut-top", "cut-bottom")


# Helpers -----------------------------------------------------------------------------------------------------

def generator(*names: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("/".join(names).encode()))


def like(image: sitk.Image, values: NDArray) -> sitk.Image:
    """An image on the grid of another from float voxels (k, j, i)."""
    result = sitk.GetImageFromArray(np.ascontiguousarray(values, dtype=np.float32))
    result.CopyInformation(image)
    return result


def middle(image: sitk.Image) -> tuple[float, ...]:
    return image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])


def moved_header(image: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """The same voxels where a rigid or similarity transform takes them."""
    return Space.of(image).transformed(sitk_affine_to_matrix(transform)).stamp(sitk.Image(image))


def bounds(image: sitk.Image) -> tuple[list[int], list[float]]:
    """Size and origin of the smallest upright 1-mm grid that holds an image."""
    ends = np.stack(np.meshgrid(*[(0, n - 1) for n in image.GetSize()], indexing="ij"), -1).reshape(8, 3)
    corners = np.array([image.TransformIndexToPhysicalPoint(corner) for corner in ends.tolist()])
    size = np.ceil(np.ptp(corners, axis=0)).astype(int) + 1
    return size.tolist(), corners.min(0).tolist()


def straightened(image: sitk.Image) -> sitk.Image:
    """An image resampled onto an upright 1-mm grid that holds all of it."""
    size, low = bounds(image)
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetOrigin(low)
    return sitk.Resample(sitk.Cast(image, sitk.sitkFloat32), grid)


def toned(pair: Pair, target: dict[str, float], iron: float) -> sitk.Image:
    """The moving image under a tone curve through the median intensities of fluid, grey and white matter.

    The medians are measured under the labels, so that partial volume, the unlabelled fluid on the surface and deep
    grey matter follow their own intensity. ``iron`` is what the pallidum loses, smoothly. Noise of 1 % is added, for
    a curve has none of its own.
    """
    values = sitk.GetArrayFromImage(pair.moving).astype(np.float32)
    brain = values > 0
    medians = {name: float(np.median(values[structure(pair, label)])) for name, label in
               (("csf", "Lateral-Ventricle"), ("grey", "Cerebral-Cortex"), ("white", "Cerebral-White-Matter"))}
    order = sorted(medians, key=medians.__getitem__)
    curve = np.interp(values, [medians[name] for name in order], [target[name] for name in order])
    pallidum = like(pair.moving, structure(pair, "Pallidum"))
    curve = curve - iron * sitk.GetArrayFromImage(sitk.DiscreteGaussian(pallidum, 1.0))
    curve += 0.01 * generator("tone", pair.name).standard_normal(curve.shape)
    return like(pair.moving, np.where(brain, 1000 * np.clip(curve, 0.02, None), 0))


def structure(pair: Pair, name: str) -> NDArray[np.bool_]:
    """Where a common structure lies in the moving label map, (k, j, i)."""
    from .cases import label_table

    wanted = [label for label, entry in label_table(pair.data, pair.scheme).items() if entry.name == name]
    return np.isin(sitk.GetArrayViewFromImage(pair.moving_labels), wanted)


def smooth(random: np.random.Generator, shape: tuple[int, ...], cells: int) -> Array:
    """A smooth random field between -1 and 1."""
    coarse = sitk.GetImageFromArray(random.standard_normal((cells + 3,) * 3))
    grid = sitk.Image(list(shape[::-1]), sitk.sitkUInt8)
    coarse.SetSpacing([n / cells for n in shape[::-1]])
    coarse.SetOrigin([-n / cells for n in shape[::-1]])
    fine = sitk.Resample(coarse, grid, sitk.Transform(), sitk.sitkBSpline, 0.0, sitk.sitkFloat32)
    field = sitk.GetArrayFromImage(fine)
    return field / np.abs(field).max()


def scanned(image: sitk.Image, cut: str) -> sitk.Image:
    """What remains when a third of the field of view along the head-foot axis (k) is missing."""
    upward = image.GetDirection()[8] > 0
    size = list(image.GetSize())
    third = size[2] // 3
    size[2] -= third
    first = third if (cut == "cut-bottom") == upward else 0
    return sitk.RegionOfInterest(image, size, [0, 0, first])

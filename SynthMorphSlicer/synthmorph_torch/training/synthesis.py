"""Random brain images from label maps, the only training data that SynthMorph needs (paper, section 2.3).

A *subject* is a label map on a 2-mm grid, prepared once by :func:`load_subject`. Every training image is drawn
anew: :func:`render` paints the labels with random intensities, moves them with a random transform onto the network
grid and degrades the result the way scanners do. World coordinates are RAS millimetres; network grids are LIA as in
SPEC 6. All tensors live on one device, so that a GPU synthesizes as fast as it trains.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import images, matrices, spatial
from ..errors import ImageError
from ..geometry import Space

# Structures that the detector finds and the overlap loss compares, left and right apart (FreeSurfer ids).
STRUCTURES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("left-cerebral-white-matter", (2, 25, 78)), ("right-cerebral-white-matter", (41, 57, 79)),
    ("left-cerebral-cortex", (3,)), ("right-cerebral-cortex", (42,)),
    ("left-lateral-ventricle", (4, 31, 136)), ("right-lateral-ventricle", (43, 63, 163)),
    ("left-cerebellum-white-matter", (7,)), ("right-cerebellum-white-matter", (46,)),
    ("left-cerebellum-cortex", (8,)), ("right-cerebellum-cortex", (47,)),
    ("left-thalamus", (10,)), ("right-thalamus", (49,)),
    ("left-caudate", (11,)), ("right-caudate", (50,)),
    ("left-putamen", (12,)), ("right-putamen", (51,)),
    ("left-pallidum", (13,)), ("right-pallidum", (52,)),
    ("left-hippocampus", (17,)), ("right-hippocampus", (53,)),
    ("left-amygdala", (18,)), ("right-amygdala", (54,)),
    ("left-accumbens", (26,)), ("right-accumbens", (58,)),
    ("left-ventral-dc", (28,)), ("right-ventral-dc", (60,)),
    ("third-ventricle", (14,)), ("fourth-ventricle", (15,)), ("brain-stem", (16,)),
)
NONE = len(STRUCTURES)  # class of everything else
MIRROR = tuple(i ^ 1 if i < 26 else i for i in range(NONE + 1))  # class after a left-right flip

# Tissue that structures share in real scans; intensities of one tissue are close in half of the images.
TISSUES = ((0, 1, 6, 7, 28), (2, 3, 8, 9, 18, 19, 20, 21, 22, 23), (4, 5, 26, 27), (10, 11, 24, 25), (12, 13, 14, 15),
           (16, 17))
CSF_IDS = (24, 5, 44, 137, 164, 72)
EXTRACEREBRAL = 500  # labels from here on are skull, scalp and face


@dataclass(frozen=True)
class Subject:
    """One person's label map.

    ``labels`` is (X, Y, Z) int64 with paint classes: the structures of :data:`STRUCTURES`, then NONE + n for
    further classes; ``structure`` maps a paint class to its structure or NONE; ``brain`` tells which paint classes
    survive skull-stripping and ``fluid`` which of these are CSF. ``matrix`` maps RAS millimetres relative to the
    brain's centre to voxels; ``centroids`` is (NONE, 3) in the same frame. ``others`` are the original labels of the
    paint classes NONE, NONE + 1, ...
    """

    labels: Tensor
    structure: Tensor
    brain: Tensor
    fluid: Tensor
    matrix: Tensor
    centroids: Tensor
    others: tuple[int, ...] = ()


def load_subject(path: Path, device: torch.device | str = "cpu", mirror: bool = False) -> Subject:
    """Read a FreeSurfer-style label map and reduce it to about 2 mm.

    Raises:
        ImageError: the file cannot be read, is no label map, or lacks one of the :data:`STRUCTURES`.
    """
    image = images.read_labels(path)
    step = [max(1, round(2.0 / s)) for s in image.GetSpacing()]
    labels = sitk.GetArrayViewFromImage(image).T[:: step[0], :: step[1], :: step[2]].astype(np.int64)
    found = set(np.unique(labels).tolist())
    missing = [name for name, ids in STRUCTURES if not found.intersection(ids)]
    if missing:
        raise ImageError(f"'{path}' lacks {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}: training "
                         "needs whole-brain label maps with FreeSurfer's numbers.")
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ Space.of(image).matrix @ np.diag([*step, 1.0])
    return make_subject(labels, to_ras, device, mirror)


def make_subject(labels: np.ndarray, to_ras: np.ndarray, device: torch.device | str = "cpu", mirror: bool = False
                 ) -> Subject:
    """Crop a label map to its content and centre it on the brain; optionally mirror it.

    Args:
        labels: (X, Y, Z) integers, FreeSurfer's numbers; all of :data:`STRUCTURES` occur.
        to_ras: (4, 4) matrix from its indices to RAS millimetres.
        device: where the subject shall live.
        mirror: swap left and right, in the world and in the names of the structures.
    """
    filled = np.argwhere(labels)
    first, last = np.maximum(filled.min(0) - 2, 0), filled.max(0) + 3
    labels = labels[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    labels = labels[tuple(slice(0, n - n % 2) for n in labels.shape)]
    to_ras = to_ras.copy()
    to_ras[:3, 3] += to_ras[:3, :3] @ first
    painted, others = _paint_classes(labels)
    count = NONE + len(others)
    if mirror:
        to_ras = np.diag([-1.0, 1.0, 1.0, 1.0]) @ to_ras
        swap = np.arange(count)
        swap[:NONE] = MIRROR[:NONE]
        painted = swap[painted]
    to_ras[:3, 3] -= to_ras[:3, :3] @ np.argwhere(painted < NONE).mean(0) + to_ras[:3, 3]
    centroids = np.stack([to_ras[:3, :3] @ np.argwhere(painted == i).mean(0) + to_ras[:3, 3] for i in range(NONE)])
    tissue = [0 < value < EXTRACEREBRAL for value in others]
    fluid = [value in CSF_IDS for value in others]

    def tensor(values: object) -> Tensor:
        return torch.as_tensor(values, device=device)

    return Subject(tensor(painted), tensor(np.arange(count).clip(max=NONE)), tensor([True] * NONE + tissue),
                   tensor([False] * NONE + fluid), tensor(np.linalg.inv(to_ras)), tensor(centroids), tuple(others))


def _paint_classes(labels: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The paint class of every voxel, and the labels that are no structure, in the order of their classes."""
    ids = np.unique(labels)
    lookup = {value: i for i, (_, values) in enumerate(STRUCTURES) for value in values}
    others = [int(v) for v in ids if int(v) not in lookup]
    lookup.update({value: NONE + i for i, value in enumerate(others)})
    return np.array([lookup[int(v)] for v in ids])[np.searchsorted(ids, labels)], others


def load_subjects(paths: Iterable[Path], device: torch.device | str = "cpu") -> list[Subject]:
    """Label maps and their mirror images."""
    return [load_subject(path, device, mirror) for path in paths for mirror in (False, True)]


def mean_centroids(subjects: Sequence[Subject]) -> Tensor:
    """Mean barycentre of every structure, (M, 3) RAS millimetres from the centre of the brain."""
    return torch.stack([s.centroids for s in subjects]).mean(0)


def network_axes(shape: Sequence[int], spacing: float, device: torch.device | str) -> Tensor:
    """(4, 4) matrix from indices of an LIA grid centred on the origin to RAS millimetres (SPEC 6)."""
    matrix = torch.zeros(4, 4, dtype=torch.float64, device=device)
    matrix[0, 0], matrix[2, 1], matrix[1, 2], matrix[3, 3] = -spacing, -spacing, spacing, 1
    matrix[:3, 3] = -(matrix[:3, :3] @ (matrix.new_tensor(list(shape)) / 2))
    return matrix


# Random transforms -------------------------------------------------------------------------------------------

def uniform(low: float, high: float, *shape: int, device: torch.device | str = "cpu") -> Tensor:
    """Uniform random numbers in [low, high), float32."""
    return torch.empty(shape or (1,), device=device).uniform_(low, high)


def random_affine(shift: float, angle: float, scale: float, shear: float, device: torch.device | str) -> Tensor:
    """Affine matrix in millimetres, uniformly drawn: +-shift mm, +-angle degrees, 1 +- scale, +-shear."""
    draw = lambda limit: uniform(-limit, limit, 3).double()  # noqa: E731
    return matrices.recompose(draw(shift), draw(angle), 1 + draw(scale), draw(shear)).to(device)


def smooth_field(shape: tuple[int, ...], cells: int, std: float, device: torch.device | str, channels: int = 3
                 ) -> Tensor:
    """Random field (1, channels, *shape) of standard deviation about ``std``, smooth at ``1/cells`` of the grid."""
    coarse = std * torch.randn(1, channels, cells, cells, cells, device=device)
    middle = F.interpolate(coarse, size=[min(2 * cells, n) for n in shape], mode="trilinear", align_corners=True)
    return F.interpolate(middle, size=shape, mode="trilinear", align_corners=True)


# Painting ----------------------------------------------------------------------------------------------------

def random_palette(subject: Subject) -> Tensor:
    """Mean intensity of every paint class, in [0, 1]."""
    count = len(subject.structure)
    device = subject.labels.device
    means = uniform(0, 1, count, device=device)
    if torch.rand(1) < 0.6:  # left and right alike
        means[:26] = means[:26].view(13, 2)[:, :1].expand(13, 2).reshape(-1)
    if torch.rand(1) < 0.5:  # one intensity per tissue, as in most sequences
        for tissue in TISSUES:
            index = torch.tensor(tissue, device=device)
            means[index] = uniform(0, 1, device=device) + uniform(-0.08, 0.08, len(tissue), device=device)
        if torch.rand(1) < 0.8:
            means[subject.fluid] = means[4]
        if torch.rand(1) < 0.4:  # T1-like order: fluid < grey < deep grey < white
            order = means.new_tensor([0.85, 0.55, 0.12, 0.68, 0.60, 0.75]) + uniform(-0.12, 0.12, 6, device=device)
            for members, value in zip(TISSUES, order, strict=True):
                means[list(members)] = value + uniform(-0.04, 0.04, len(members), device=device)
            means[subject.fluid] = order[2]
    return _around_the_brain(means.clamp(0, 1), subject)


def _around_the_brain(means: Tensor, subject: Subject) -> Tensor:
    """Keep the skull, or strip it as tools do: with or without the outer CSF, onto black."""
    outside = ~subject.brain
    choice = float(torch.rand(1))
    if choice < 0.5:
        means = means.masked_fill(outside, 0)
        if torch.rand(1) < 0.3:
            means = means.masked_fill(subject.fluid, 0)
    elif choice < 0.9:
        means[NONE] = 0 if torch.rand(1) < 0.8 else means[NONE]  # air is the first class outside
    else:
        means = torch.where(outside, uniform(0, 1, device=means.device), means)
    return means


def same_palette(means: Tensor, source: Subject, target: Subject) -> Tensor:
    """Mean intensities for one subject that make it look like another; a label that the other lacks becomes black."""
    known = dict(zip(source.others, means[NONE:].tolist(), strict=True))
    others = means.new_tensor([known.get(label, 0.0) for label in target.others])
    return torch.cat([means[:NONE], others])


def paint(subject: Subject, means: Tensor | None = None) -> Tensor:
    """Image of a subject on its own 2-mm grid, (1, 1, X, Y, Z), with texture noise; by default in random colours."""
    means = random_palette(subject) if means is None else means
    spread = uniform(0, 0.12, len(means), device=means.device) * (means > 0)
    image = means[subject.labels]
    # texture: noise at 4 mm, cheap and correlated as in real tissue
    noise = torch.randn([n // 2 for n in image.shape], device=image.device)[None, None]
    noise = F.interpolate(noise, size=image.shape, mode="nearest")[0, 0]
    return (image + noise * spread[subject.labels])[None, None]


def blur(image: Tensor, sigma: float | Sequence[float]) -> Tensor:
    """Separable Gaussian smoothing with standard deviations in voxels, zero outside.

    Shifted sums: for one channel on a CPU these are ten times faster than a convolution.
    """
    sigmas = (sigma,) * 3 if isinstance(sigma, float) else sigma
    for axis, s in enumerate(sigmas, start=2):
        if s < 0.15:
            continue
        radius = max(1, round(2.5 * s))
        weights = [math.exp(-0.5 * (x / s) ** 2) for x in range(radius + 1)]
        total = 2 * sum(weights) - 1
        n = image.shape[axis]
        smooth = image * (1 / total)
        for x in range(1, min(radius, n - 1) + 1):
            smooth.narrow(axis, x, n - x).add_(image.narrow(axis, 0, n - x), alpha=weights[x] / total)
            smooth.narrow(axis, 0, n - x).add_(image.narrow(axis, x, n - x), alpha=weights[x] / total)
        image = smooth
    return image


def degrade(image: Tensor, spacing: float) -> Tensor:
    """Bias field, thick slices, blur, noise, gamma and a cut field of view on the network grid; then min-max."""
    shape, device = tuple(image.shape[2:]), image.device
    image = (image / image.amax().clamp(min=1e-3)).clamp(0, 1)
    if torch.rand(1) < 0.8:
        image = image * smooth_field(shape, int(torch.randint(2, 5, (1,))), float(uniform(0, 0.5)), device, 1).exp()
    if torch.rand(1) < 0.5:
        image = thick_slices(image, float(uniform(1, 10)) / spacing, int(torch.randint(3, (1,))))
    if torch.rand(1) < 0.3:
        image = blur(image, float(uniform(0.3, 1.0)) * 3 / spacing)
    image = normalise(image)
    if torch.rand(1) < 0.7:
        image = image ** float(torch.exp(0.4 * torch.randn(1)))
    if torch.rand(1) < 0.7:
        noise = float(uniform(0, 0.08)) * torch.randn_like(image)
        image = (image + (noise * (image > 0.01) if torch.rand(1) < 0.5 else noise)).clamp(min=0)
    if torch.rand(1) < 0.25:
        image = cut_view(image)
    return normalise(image)


def thick_slices(image: Tensor, thickness: float, axis: int) -> Tensor:
    """Average over ``thickness`` voxels along one axis and interpolate back, as in a scan of thick slices."""
    if thickness <= 1.2:
        return image
    sigma = [0.0, 0.0, 0.0]
    sigma[axis] = thickness / 2.355
    size = list(image.shape[2:])
    coarse = list(size)
    coarse[axis] = max(4, round(size[axis] / thickness))
    image = F.interpolate(blur(image, sigma), size=coarse, mode="trilinear")
    return F.interpolate(image, size=size, mode="trilinear")


def cut_view(image: Tensor) -> Tensor:
    """Blank a slab of up to a third of the content at one end of a random axis."""
    axis = int(torch.randint(3, (1,)))
    profile = image.amax(dim=[d for d in range(5) if d != axis + 2]) > 0.05
    filled = profile.nonzero().flatten()
    if len(filled) < 8:
        return image
    first, last = int(filled[0]), int(filled[-1])
    cut = int(float(uniform(0, 0.35)) * (last - first))
    keep = torch.zeros_like(profile)
    if torch.rand(1) < 0.5:
        keep[first + cut:] = True
    else:
        keep[:last + 1 - cut] = True
    shape = [1, 1, 1, 1, 1]
    shape[axis + 2] = -1
    return image * keep.view(shape)


def normalise(image: Tensor) -> Tensor:
    """Subtract the minimum, divide by the maximum (SPEC 6); a constant image becomes zero."""
    image = image - image.amin()
    return image / image.amax().clamp(min=1e-6)


def aligned(subject: Subject, template: Tensor) -> Tensor:
    """(4, 4) affine matrix from template to subject, RAS millimetres, fitted to the centroids (NONE, 3) of both."""
    return matrices.fit_affine(subject.centroids[None], template[None], torch.ones(1, NONE).to(template))[0]


def place(subject: Subject, shape: Sequence[int], spacing: float, to_subject: Tensor, warp_mm: float) -> Tensor:
    """Where the points of a network grid lie in a subject, (1, 3, *shape) voxels of its label map.

    Args:
        subject: the label map.
        shape, spacing: size and voxel size (mm) of the LIA network grid around the origin.
        to_subject: (4, 4) float64, RAS millimetres of the network grid to millimetres of the subject.
        warp_mm: amplitude of an additional smooth random displacement.
    """
    device = subject.labels.device
    coordinates = spatial.affine_grid(subject.matrix @ to_subject @ network_axes(shape, spacing, device), shape)
    if warp_mm > 0:
        coordinates = coordinates + smooth_field(tuple(shape), int(torch.randint(4, 9, (1,))), warp_mm / 2, device)
    return coordinates


def render(subject: Subject, coordinates: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    """Synthesize one image and its structures at given points of a subject.

    Args:
        subject: the label map.
        coordinates: (1, 3, X, Y, Z), see :func:`place`.
        spacing: voxel size of the network grid in millimetres.

    Returns:
        image (1, 1, X, Y, Z) in [0, 1] and structures (1, X, Y, Z) int64 in 0..NONE.
    """
    painted = blur(paint(subject), float(uniform(0.15, 0.25)) * spacing)  # average what a voxel covers
    return degrade(spatial.sample(painted, coordinates, fill=0.0), spacing), structures_at(subject, coordinates)


def structures_at(subject: Subject, coordinates: Tensor) -> Tensor:
    """Structures (1, X, Y, Z) int64 in 0..NONE at given points (1, 3, X, Y, Z) of a subject."""
    classes = spatial.sample(subject.labels[None, None].float(), coordinates, "nearest", fill=float(NONE))
    return subject.structure[classes[0].long()]

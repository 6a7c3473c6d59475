"""Whole heads: a head around a stripped brain, and heads synthesized from label maps that no model was trained on."""
from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from synthmorph_torch import images, spatial
from synthmorph_torch.geometry import Space, matrix_to_sitk_affine
from synthmorph_torch.training import synthesis

from .variants import Pair, generator, like, structure

HELD_OUT = ("15", "16")  # label maps left out of the training of the bundled models
MARGIN, BELOW = 32, 64  # mm around the brain's field of view in which the head appears; below for jaw and neck
# Intensities outside the brain in T1, white matter being 1. The source does not name its classes; these follow where
# they lie: 506 eyeball, 508 lens or nerve, 507 soft tissue, 509 nasal cavity, 511 skin, 512 cord, 514 dura and sinuses,
# 515 bone, 516 marrow, 530 pituitary.
T1 = {502: 0.30, 506: 0.25, 507: 0.75, 508: 0.60, 509: 0.60, 511: 0.65, 512: 0.80, 514: 0.30, 515: 0.15, 516: 0.85,
      530: 0.70}
FLUID = 0.20


def label_map(data: Path, person: str) -> sitk.Image:
    return images.read_labels(data / "synthseg" / f"training_seg_{person}.nii.gz")


def around(pair: Pair) -> sitk.Image:
    """The moving image of a pair with a head around its brain; see :func:`variants.skull`."""
    size, upward = pair.moving.GetSize(), pair.moving.GetDirection()[8] > 0
    below = BELOW if upward else MARGIN
    brain = sitk.ConstantPad(sitk.Cast(pair.moving, sitk.sitkFloat32), [MARGIN, MARGIN, below],
                             [MARGIN, MARGIN, BELOW + MARGIN - below])
    assert len(size) == 3
    person = HELD_OUT[zlib.crc32(pair.name.encode()) % 2]
    head = label_map(pair.data, person)
    to_head = fit(centroids(pair.moving_labels, pair.data, pair.scheme), centroids(head, pair.data, "fs"))
    classes = sitk.GetArrayFromImage(sitk.Resample(head, brain, matrix_to_sitk_affine(to_head),
                                                   sitk.sitkNearestNeighbor))
    values = sitk.GetArrayFromImage(brain)
    white = np.median(sitk.GetArrayViewFromImage(pair.moving)[structure(pair, "Cerebral-White-Matter")])
    return like(brain, np.where(values > 0, values, white * painted(classes, generator("skull", pair.name))))


def painted(classes: NDArray, random: np.random.Generator) -> NDArray[np.float32]:
    """T1-like intensities outside the brain with some texture, slightly blurred; air is black."""
    lookup = np.full(int(classes.max()) + 1, FLUID, np.float32)
    lookup[0] = 0
    for label, value in T1.items():
        if label < len(lookup):
            lookup[label] = value
    texture = sitk.GetImageFromArray(random.standard_normal(classes.shape, np.float32))
    texture = sitk.GetArrayFromImage(sitk.DiscreteGaussian(texture, 1.0))
    tissue = lookup[classes] * (1 + 0.1 * texture / texture.std())
    return sitk.GetArrayFromImage(sitk.DiscreteGaussian(sitk.GetImageFromArray(tissue.astype(np.float32)), 0.4))


def centroids(labels: sitk.Image, data: Path, scheme: str) -> dict[tuple[int, str], NDArray[np.float64]]:
    """World positions of the core structures' centroids, left and right apart."""
    from .cases import label_table

    found: dict[tuple[int, str], list[NDArray]] = {}
    array = sitk.GetArrayViewFromImage(labels)
    for label, entry in label_table(data, scheme).items():
        if entry.core:
            voxels = np.argwhere(array == label)
            if len(voxels):
                found.setdefault((entry.common, entry.side), []).append(voxels[:, ::-1])
    space = Space.of(labels)
    return {key: space.to_world(np.concatenate(parts).mean(0)) for key, parts in found.items()}


def fit(source: dict[tuple[int, str], NDArray], target: dict[tuple[int, str], NDArray]) -> NDArray[np.float64]:
    """(4, 4) least-squares affine matrix from the points of one set to those of the other with the same names."""
    keys = sorted(source.keys() & target.keys())
    points = np.array([[*source[key], 1.0] for key in keys])
    matrix = np.eye(4)
    matrix[:3] = np.linalg.lstsq(points, np.array([target[key] for key in keys]), rcond=None)[0].T
    return matrix


def whole_heads(name: str, data: Path) -> Pair:
    """Two synthesized heads with known labels, "15-16-1" being map 15 onto 16 with the first seed.

    Random contrasts by SynthMorph's own synthesis, at 1 mm and with the skull always there; random poses (20 degrees,
    20 mm, 10 % scale, 5 % shear) and a smooth random warp of 5 mm; bias field, noise and gamma. Thick slices and cut
    fields of view are variants of their own.
    """
    moving, fixed, _ = name.split("-")
    made = [synthesized(label_map(data, person), f"{name}/{role}") for person, role in
            ((moving, "moving"), (fixed, "fixed"))]
    return Pair(name, made[0][0], made[0][1], made[1][0], made[1][1], data, "fs")


def synthesized(labels: sitk.Image, seed: str) -> tuple[sitk.Image, sitk.Image]:
    """One synthesized head and its structures, cropped to the head."""
    torch.manual_seed(zlib.crc32(seed.encode()))
    subject = synthesis.make_subject(sitk.GetArrayViewFromImage(labels).T.astype(np.int64), Space.of(labels).ras)
    means = synthesis.random_palette(subject)
    outside = (~subject.brain) & (torch.arange(len(means)) != synthesis.NONE)
    while float(means[outside].max()) < 0.2:
        means = synthesis.random_palette(subject)
    shape = (256, 256, 256)
    pose = synthesis.random_affine(20, 20, 0.1, 0.05, "cpu")
    where = synthesis.place(subject, shape, 1.0, pose, 5.0)
    structures = synthesis.structures_at(subject, where)[0]
    image = spatial.sample(synthesis.blur(synthesis.paint(subject, means), 0.5), where, fill=0.0)
    content = np.argwhere(image[0, 0].numpy() > 0.02)
    image = image * synthesis.smooth_field(shape, 3, 0.3, "cpu", 1).exp()
    image = synthesis.normalise(image) ** float(torch.exp(0.25 * torch.randn(1)))
    image = (image + 0.03 * torch.randn_like(image)).clamp(min=0)[0, 0]
    ids = torch.tensor([values[0] for _, values in synthesis.STRUCTURES] + [0])
    space = Space.from_ras(shape, synthesis.network_axes(shape, 1.0, "cpu").numpy())
    low, high = np.maximum(content.min(0) - 4, 0), np.minimum(content.max(0) + 5, shape)
    made = images.from_array(image.numpy(), space), images.from_array(ids[structures].numpy().astype(np.int16), space)
    first, second = (sitk.RegionOfInterest(x, (high - low).tolist(), low.tolist()) for x in made)
    return first, second

"""Small made-up heads with all of FreeSurfer's structures, so that training can be tested without any data."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

SPACING = 3.0
SIZE = (56, 64, 60)
SHELLS = ((515, 515, (78, 92, 84)), (24, 24, (68, 82, 72)), (3, 42, (64, 78, 66)), (2, 41, (52, 66, 54)))
# left and right label; distance from the mid-line, y and z of the centre, radius; RAS millimetres
PAIRS = ((8, 47, 25, -52, -34, 19), (7, 46, 16, -52, -30, 9), (4, 43, 8, 0, 18, 8), (10, 49, 11, -15, 4, 8),
         (11, 50, 13, 16, 9, 6), (12, 51, 28, 4, 1, 7), (13, 52, 19, 0, -1, 5), (17, 53, 30, -22, -14, 7),
         (18, 54, 24, -2, -20, 6), (26, 58, 11, 14, -6, 5), (28, 60, 10, -16, -10, 5))
SINGLE = ((14, 0, -4, 3, 5), (15, 0, -46, -26, 6), (16, 0, -30, -36, 10))


def head(scale: tuple[float, float, float] = (1, 1, 1)) -> tuple[np.ndarray, np.ndarray]:
    """Label map (X, Y, Z) int64 on LIA axes, and its (4, 4) matrix from indices to RAS millimetres."""
    to_ras = np.array([[-SPACING, 0, 0, 0], [0, 0, SPACING, 0], [0, -SPACING, 0, 0], [0, 0, 0, 1.0]])
    to_ras[:3, 3] = -to_ras[:3, :3] @ (np.array(SIZE) / 2) + (2, -3, 5)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SIZE], indexing="ij"))
    ras = np.einsum("cd,dxyz->cxyz", to_ras[:3, :3], index) + to_ras[:3, 3, None, None, None]
    x, y, z = ras / np.reshape(scale, (3, 1, 1, 1))
    labels = np.zeros(SIZE, np.int64)

    def fill(left: int, right: int, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> None:
        inside = sum(((a - c) / r) ** 2 for a, c, r in zip((np.abs(x), y, z), centre, radii, strict=True)) <= 1
        labels[inside] = np.where(x < 0, left, right)[inside]

    for left, right, radii in SHELLS:
        fill(left, right, (0, 0, 0), radii)
    for left, right, side, front, up, radius in PAIRS:
        fill(left, right, (side, front, up), (radius,) * 3)
    for label, side, front, up, radius in SINGLE:
        fill(label, label, (side, front, up), (radius,) * 3)
    return labels, to_ras


def image_of(array: np.ndarray, to_ras: np.ndarray) -> sitk.Image:
    """A SimpleITK image of an array (X, Y, Z) with a RAS matrix."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ to_ras
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(matrix[:3, 3].tolist())
    return image


def write_maps(folder: Path, count: int) -> list[Path]:
    """Label maps of a few people of different shape."""
    paths = []
    for number in range(count):
        labels, to_ras = head((1 - 0.03 * number, 1, 1 - 0.02 * number))
        paths.append(folder / f"person_{number}.nii.gz")
        sitk.WriteImage(image_of(labels.astype(np.int16), to_ras), str(paths[-1]))
    return paths


def write_scans(folder: Path, count: int, suffix: str = "_t1.nii.gz", label_suffix: str = "_seg.nii.gz") -> list[Path]:
    """Scans of a few people, the brighter the deeper, with their label maps."""
    paths = []
    for number in range(count):
        labels, to_ras = head((1 - 0.03 * number, 1, 1 - 0.02 * number))
        colours = np.random.default_rng(0).uniform(20, 200, labels.max() + 1)
        colours[0] = 0
        paths.append(folder / f"p{number}{suffix}")
        sitk.WriteImage(image_of(colours[labels].astype(np.float32), to_ras), str(paths[-1]))
        sitk.WriteImage(image_of(labels.astype(np.int16), to_ras), str(folder / f"p{number}{label_suffix}"))
    return paths

"""A registration whose truth is known: two made-up heads, one a scaled copy of the other."""
from __future__ import annotations

import re

import numpy as np
import SimpleITK as sitk
from people import head, image_of
from synthmorph_torch import transforms
from synthmorph_torch.review import Case

SCALE = (0.86, 1.1, 1.06)


def person(scale: tuple[float, float, float] = (1, 1, 1), seed: int = 0) -> tuple[sitk.Image, sitk.Image]:
    """A scan, smooth and with a little noise, and its label map, at 3 mm."""
    labels, to_ras = head(scale)
    colours = np.random.default_rng(0).uniform(40, 200, labels.max() + 1)
    colours[0] = 0
    noise = np.random.default_rng(seed).normal(0, 1.5, labels.shape)
    image = np.where(labels > 0, colours[labels] + noise, np.abs(noise)).astype(np.float32)
    return sitk.SmoothingRecursiveGaussian(image_of(image, to_ras), 2.0), image_of(labels.astype(np.int16), to_ras)


def truth() -> np.ndarray:
    """(4, 4) matrix from fixed to moving points; diagonal, hence the same in LPS and RAS."""
    return np.diag([*SCALE, 1.0])


def case(**extra) -> Case:
    """The right answer as a case."""
    fixed, fixed_labels = person()
    moving, moving_labels = person(SCALE, seed=1)
    there, back = (transforms.affine_transform(matrix) for matrix in (truth(), np.linalg.inv(truth())))
    return Case(there, back, moving, fixed, moving_labels, fixed_labels, **extra)


def without_pictures(page: str) -> str:
    """A page without what its pictures are made of, in which any four letters may turn up."""
    return re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
